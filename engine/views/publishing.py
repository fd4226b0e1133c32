"""Publishing beside the counting: one thread that writes what the loop has taken, one moment after the other.

The loop takes a moment when one is due and hands it over. Before something that takes long it takes one ahead, which may have to
wait for the one before; no more than one does. Taking holds up the counting, writing takes a core from the forward pass where there
is none to spare: both are given a share of the time, and the pause between two snapshots follows from what the last few cost.
"""

from __future__ import annotations

import logging
import os
import statistics
import threading
import time
from collections import deque
from typing import NamedTuple

from engine.views.moment import Moment
from engine.views.publisher import Publisher, Told
from engine.views.records import StatusRecord

log = logging.getLogger(__name__)

TAKING_SHARE = 1 / 13
"""Of the loop's time, that it takes moments in: below the 10 % that publishing may cost."""

BUSY_SHARE, FREE_SHARE = 0.07, 0.7
"""Of each core that the forward pass uses, and of each that it leaves free, for writing. Redis works a fifth as long beside it."""

_REDIS = 1.2
_COSTS = 5  # snapshots whose median cost counts: one in which a segment ends costs twice as much, and is no reason to pause


class _Cost(NamedTuple):
    """Seconds of one snapshot: taking it, CPU seconds of writing it, and seconds of that."""

    taking: float
    working: float
    writing: float


class _Work(NamedTuple):
    moment: Moment | None
    told: Told


class Publishing(threading.Thread):
    """Writes moments and heartbeats.

    Attributes:
        interval: seconds from one snapshot to the next while text is being counted, after what the last few cost.
    """

    def __init__(self, publisher: Publisher, least: float, threads: int) -> None:
        """
        Args:
            publisher: used by this thread alone once it runs, but for `take` and `has`.
            least: seconds from one snapshot to the next, at least.
            threads: of the forward pass.
        """
        super().__init__(name="publishing", daemon=True)
        self.publisher = publisher
        self.interval = self._least = least
        cores = len(os.sched_getaffinity(0))
        self._cores = BUSY_SHARE * min(threads, cores) + FREE_SHARE * max(0, cores - threads)
        self._condition = threading.Condition()
        self._waiting: _Work | None = None
        self._busy = self._ending = False
        self._error: BaseException | None = None
        self._taken_at = 0.0
        self._intact = True
        self._newer: StatusRecord | None = None
        self._costs: deque[_Cost] = deque(maxlen=_COSTS)

    @property
    def free(self) -> bool:
        """Whether nothing is being written, nor waits for it."""
        with self._condition:
            return self._waiting is None and not self._busy

    def due(self, *, idle: bool = False, step: float = 0.0, ahead: float = 0.0) -> bool:
        """Whether the next moment is to be taken: the last one is written, and the interval has passed since it was taken.

        Args:
            idle: the engine has nothing to do, so nothing is held up by what the last ones cost.
            step: seconds until it is asked again: it is due where that would be further from the interval's end than now.
            ahead: seconds in which nothing else can be taken. It is due if it will be within them, and need not wait until the last
                one is written.
        """
        pause = self._least if idle or not self._intact else self.interval
        with self._condition:
            room = self._waiting is None and (ahead > 0.0 or not self._busy)
        return room and time.monotonic() + max(ahead, step / 2) >= self._taken_at + pause

    def put(self, moment: Moment, told: Told) -> None:
        """Write a moment; it was taken just now, when that was due."""
        self._put(_Work(moment, told))
        self._taken_at = time.monotonic()

    def beat(self, told: Told) -> None:
        """Write a heartbeat: alone, or between what is being written already, without uploads and series then."""
        if self.free:
            self._put(_Work(None, told))
        else:
            self._newer = told.status

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Wait until all that was handed over is written."""
        with self._condition:
            self._condition.wait_for(lambda: (self._waiting is None and not self._busy) or not self.is_alive())
        self.check()

    def end(self) -> None:
        """Have the thread end soon; a snapshot that is being written is left unfinished, which no reader sees."""
        with self._condition:
            self._ending = True
            self._waiting = None
            self._condition.notify_all()
        self.publisher.abandon.set()

    def stop(self) -> None:
        """End the thread, and wait until it has ended."""
        self.end()
        if self.is_alive():
            self.join()
        self.publisher.abandon.clear()

    def run(self) -> None:
        """Write until stopped."""
        try:
            while (work := self._next()) is not None:
                self._do(work)
        except BaseException as error:  # the loop raises it: an engine that publishes nothing any more must not look healthy
            log.exception("publishing ended")
            self._error = error
        with self._condition:
            self._busy = False
            self._condition.notify_all()

    def _put(self, work: _Work) -> None:
        with self._condition:
            if self._waiting is not None:
                raise RuntimeError("a moment waits to be written already")
            self._waiting = work
            self._condition.notify_all()

    def _next(self) -> _Work | None:
        with self._condition:
            self._busy = False
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._ending or self._waiting is not None)
            if self._ending:
                return None
            work, self._waiting, self._busy = self._waiting, None, True
            return work

    def _taken_newer(self) -> StatusRecord | None:
        newer, self._newer = self._newer, None
        return newer

    def _do(self, work: _Work) -> None:
        if work.moment is None:
            self._intact = self.publisher.beat(*work.told)
            return
        began, worked = time.monotonic(), time.thread_time()
        self._newer = None
        done = self.publisher.write(work.moment, work.told, self._taken_newer)
        self._intact = done.version is not None
        cost = _Cost(work.moment.seconds, _REDIS * (time.thread_time() - worked), time.monotonic() - began)
        self._costs.append(cost)
        taking, working, writing = map(statistics.median, zip(*self._costs, strict=True))
        self.interval = max(self._least, taking / TAKING_SHARE, working / self._cores, writing)
