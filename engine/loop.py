"""The long-running engine: sealed segments in, exact counts and live views out.

1. Take the next sealed segment of the log, from where the checkpoint's cursor says.
2. In micro-batches of at most half a second: model and SAEs → sparse batch → every statistic of every layer pair.
3. Between micro-batches: answer what needs the encoder, hand over a snapshot, save a checkpoint, whichever is due.

What a segment holds and the order of its units are fixed by the log; the size of a micro-batch is this machine's business and
changes no count. Only `State.add` runs under the lock that the query thread shares, so a look-up waits milliseconds, not for a
forward pass. Of a snapshot only the taking is done here, the rest beside the counting (`engine.views.publishing`).
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import psutil

from engine.corpus.ingest import Ingest
from engine.corpus.log import CorpusLog
from engine.corpus.retention import Retention
from engine.corpus.segment import Segment
from engine.counts.budget import layouts
from engine.counts.checkpoint import Checkpoints, Cursor
from engine.counts.clusters import SegmentClusters
from engine.counts.state import State
from engine.encoder.batch import SparseBatch
from engine.encoder.description import RunDescription
from engine.encoder.encoded import Encoded
from engine.errors import NotReady, StorageFault
from engine.figures import Gauges
from engine.logs import about
from engine.pace import MicroBatchSize, Rate
from engine.recovery import CONVERGENCE, LOG, Replay
from engine.uploads import Uploads
from engine.views.contexts import Found, encode_windows
from engine.views.convergence import Convergence
from engine.views.effects import Effects
from engine.views.gate_choices import choose_gates
from engine.views.live import LiveQueries
from engine.views.pins import NextSegment, PinQueries
from engine.views.publisher import Told
from engine.views.publishing import Publishing
from engine.views.records import CalibrationStatus, CheckpointStatus, EngineState, LayerStatus, StatusRecord, TableStatus
from engine.views.siblings import choose_siblings
from engine.views.watch import Watch

log = logging.getLogger(__name__)

_IDLE_SECONDS = 0.05  # how long an idle loop sleeps before it looks at the log again: a fraction of `quiet_ms`
_UNKNOWN_SECONDS = 1.0  # that something takes which was not done yet
_NICENESS = 5  # of the counting: what readers wait for gets three times its share of a core
_BEAT_SECONDS = 1.0  # between status records while no snapshot is due


class Encoder(Protocol):
    """What turns units of a segment into a sparse batch: a model with its SAEs, or the reader of pushed activations."""

    def encode(self, segment: Segment, units: np.ndarray) -> Encoded: ...


@dataclass
class Loop:
    """Everything the engine owns, wired together by `engine.main`."""

    encoder: Encoder
    description: RunDescription
    fingerprint: dict[str, str]
    corpus: CorpusLog
    ingest: Ingest
    uploads: Uploads
    state: State
    cursor: Cursor
    checkpoints: Checkpoints
    retention: Retention
    publishing: Publishing
    live: LiveQueries
    convergence: Convergence
    watch: Watch
    effects: Effects
    lock: threading.Lock
    micro_batch: MicroBatchSize
    stop: threading.Event
    calibration: CalibrationStatus | None = None
    rate: Rate = field(default_factory=Rate)
    storage_problem: str | None = None
    replay: Replay | None = None
    batches: list[SparseBatch] = field(default_factory=list)
    """What is counted of the segment so far: sums over documents are made where it ends."""
    gauges: Gauges = field(init=False)
    _end_seconds: float = _UNKNOWN_SECONDS  # of the last segment's end
    _beat_at: float = 0.0
    _caught_up_at: float = 0.0
    _began: float = 0.0  # the segment being counted

    def __post_init__(self) -> None:
        self.gauges = Gauges(self.corpus, self.ingest, self.live, self.state)

    def run(self) -> None:
        """Count until `stop` is set, then save what was counted.

        Raises:
            Whatever ended the ingest thread: an engine that gets no text any more must not look healthy.
        """
        self.replay = Replay(self.state.tokens, self.publishing.publisher.standing_tokens(), self.corpus.last + 1)
        self.live.pins = PinQueries(self.description, self.state, self.lock, self.watch, self.next_segment)
        self.ingest.start()
        self.live.start()
        self.publishing.start()
        _give_way_to(self.ingest, self.live, self.publishing)
        try:
            while not self.stop.is_set():
                self.ingest.check()
                self.publishing.check()
                segment = self.corpus.next_segment(self.cursor.segment)
                if segment is None:
                    self.idle()
                elif self.count(segment):
                    self.finish(segment)
            self.publishing.end()
            self.save()  # which need not wait for a Redis that hangs
            self.publishing.stop()
            self.publishing.publisher.beat(self.status("stopping"))
        finally:
            self.publishing.stop()
            self.ingest.stop()
            self.live.stop()

    def count(self, segment: Segment) -> bool:
        """Count what is left of a segment; False when `stop` came first."""
        self._began = time.monotonic()
        self.recall(segment)
        rest = slice(self.cursor.units, None)
        for units, encoded in self.micro_batch.encode(self.encoder.encode, segment, rest, self.make_room):
            with self.lock:  # a pin that is made now must see that the segment has begun
                self.state.add(encoded.batch, encoded.set_aside, encoded.projections)
                self.cursor = Cursor(segment.number, self.cursor.units + len(units))
            self.batches.append(encoded.batch)
            self.rate.add(encoded.batch.tokens)
            with self.micro_batch.elsewhere():
                self.between()
            if self.stop.is_set():
                return False
        return True

    def make_room(self, batch: SparseBatch) -> None:
        """All memory that counting a batch needs: what fails after this has counted a part of it, and ends the engine."""
        with self.lock:
            self.state.make_room(batch)

    def recall(self, segment: Segment) -> None:
        """Encode again what a checkpoint has counted of this segment: it holds the counts, not the activations."""
        if self.batches or not self.cursor.units:
            return
        for _, encoded in self.micro_batch.encode(self.encoder.encode, segment, slice(self.cursor.units)):
            self.batches.append(encoded.batch)
            if self.stop.is_set():
                self.batches = []
                return
            with self.micro_batch.elsewhere():
                self.answer()

    def finish(self, segment: Segment) -> None:
        """A segment is counted whole: its documents are done, and the choices that belong to its end are made."""
        began = time.monotonic()
        self.publish_ahead(self._end_seconds)
        before = self.state.tokens - sum(batch.tokens for batch in self.batches)
        with self.lock:
            self.watch.begin(self.state, segment.number, segment.first_position, before)
            clusters = self.state.end_segment(self.batches, segment.pieces, segment.piece_positions)
            self.cursor = Cursor(segment.number + 1, 0)
        self.batches = []
        self.uploads.passed(segment.number)
        self.ingest.consumed(segment.number)
        self.tell(segment)
        self.answer()
        if self.convergence.observe(self.state, [piece.corpus for piece in segment.pieces if piece.tokens]):
            self.choose(clusters, segment.first_position + segment.token_count)
        self._end_seconds = time.monotonic() - began

    def tell(self, segment: Segment) -> None:
        """Log a segment that is counted, and in lines of their own the uploads that ended in it."""
        with about(segment=segment.number):
            log.info("counted: %d tokens in %.2f s", segment.token_count, time.monotonic() - self._began)
            for upload in segment.finished:
                with about(upload=upload):
                    account = self.state.ledger.account(upload)
                    log.info("an upload is counted: %d tokens, %d set aside", account.tokens_counted, account.set_aside_tokens)

    def choose(self, clusters: Sequence[SegmentClusters], position: int) -> None:
        """Make the choices that belong to a segment's end; each may take a second, and a prompt waits for no more than one."""
        for choice in (
            partial(self.watch.choose, self.state, position),
            partial(choose_gates, self.state, clusters, position),
            partial(choose_siblings, self.state),
            partial(self.effects.update, self.state),
        ):
            with self.lock:
                choice()
            self.answer()

    def next_segment(self) -> NextSegment:
        """The first segment of which nothing is counted, for a pin; call it under the lock.

        Raises:
            NotReady: readers have seen more than is counted again by now, and may have chosen their pairs by it.
        """
        if self.recovering():
            raise NotReady("the engine counts again what it had counted when it was stopped: ask again when it is past that")
        if self.cursor.units:
            return NextSegment(self.cursor.segment + 1, None)
        return NextSegment(self.cursor.segment, self.state.tokens)

    def recovering(self, *, idle: bool = False) -> bool:
        """Whether less is counted than was before the engine was stopped; `idle` where the log is counted whole."""
        return self.replay is not None and self.replay.goes_on(self.state.tokens, self.cursor, idle=idle)

    def between(self) -> None:
        """What happens between two micro-batches, when it is due."""
        self.answer()
        self.publishing.check()
        recovering = self.recovering()
        if self.publishing.due(step=self.micro_batch.seconds) and not recovering:
            self.publish("counting")
        elif time.monotonic() >= self._beat_at:
            self.beat("recovering" if recovering else "counting")
        if self.checkpoints.due():
            self.publish_ahead(self.checkpoints.last.seconds if self.checkpoints.last else _UNKNOWN_SECONDS)
            self.save()

    def idle(self) -> None:
        """Nothing to count: publish what was counted last, save it, and wait for text or a question."""
        if self.recovering(idle=True) and not self.uploads.all_sealed():  # a part of the log was lost and is not sealed again yet
            if time.monotonic() >= self._beat_at:
                self.beat("recovering")
        elif self.publishing.due(idle=True):
            if self.replay is not None:
                self.replay.end(self.state.tokens)
            self.publish("idle")
        if self.checkpoints.due():
            self.save()
        self.live.wait(_IDLE_SECONDS)
        self.answer()

    def answer(self) -> None:
        """Answer what waits for the encoder: contexts and prompts."""
        self.live.answer_pending(self.encode_windows)

    def publish(self, state: EngineState) -> None:
        """Hand over a snapshot; where nothing was counted since the last one this is a heartbeat, once a second."""
        publisher = self.publishing.publisher
        known = publisher.has(self.state)
        if known and time.monotonic() < self._beat_at:
            return
        told = Told(self.status(state), self.uploads.records(self.state.ledger), self.convergence.record())
        if known:
            self.publishing.beat(told)
        else:
            with self.lock:  # from a look-up that does the same
                for table in self.state.pairs.values():
                    table.settle()
            self.publishing.put(publisher.take(self.state), told)
        self._beat_at = time.monotonic() + _BEAT_SECONDS

    def publish_ahead(self, seconds: float) -> None:
        """Before something that takes about so long: hand over what is counted, so that it need not wait for the end of that."""
        if self.publishing.due(ahead=seconds) and not (self.recovering() or self.publishing.publisher.has_taken(self.state)):
            self.publish("counting")

    def beat(self, state: EngineState) -> None:
        """Tell how the engine is, without a snapshot."""
        self.publishing.beat(Told(self.status(state)))
        self._beat_at = time.monotonic() + _BEAT_SECONDS

    def save(self) -> None:
        """Save a checkpoint, unless the last one holds the same. A disk that fails is told and tried again: the log has it all.

        Where counted text is to be dropped, what both kept checkpoints have counted may go: then the same is saved once more.
        """
        checkpoints, last = self.checkpoints, self.checkpoints.last
        saved = last is not None and last.cursor == self.cursor
        try:
            if not saved or (self.retention.short() and checkpoints.needed_from() < self.cursor.segment):
                extras = {CONVERGENCE: self.convergence.save(), LOG: self.uploads.counted.pack()}
                checkpoints.save(self.state, self.cursor, self.fingerprint, extras)
            self.retention.make_room(checkpoints.needed_from())
            self.storage_problem = None
            if (last := self.checkpoints.last) is not None:
                log.info("checkpoint saved: %d tokens in %.2f s", last.tokens, last.seconds)
        except StorageFault as error:
            log.error("no checkpoint was saved: %s", error.message)
            self.storage_problem = error.message

    def encode_windows(self, positions: Sequence[int]) -> Iterator[Found]:
        """The units of the log that hold these positions, encoded again, for their activations and their text."""
        return encode_windows(self.corpus, partial(self.micro_batch.encode_first, self.encoder.encode), positions)

    def status(self, state: EngineState) -> StatusRecord:
        """How the engine is."""
        last = self.checkpoints.last
        dead = [int((part.count == 0).sum()) for part in self.state.marginals]
        queue, speed, now = self.ingest.queue_tokens, self.rate.per_second(), time.time()
        if queue == 0 and self.publishing.publisher.tokens == self.state.tokens:
            self._caught_up_at = now
        return StatusRecord(
            state=state,
            tokens=self.state.tokens,
            tokens_per_second=speed,
            queue_tokens=queue,
            layers=[
                LayerStatus(layer=layer.layer, hook=layer.hook, features=layer.features, dead=dead[layer.layer])
                for layer in self.description.layers
            ],
            pairs=list(self.state.pairs),
            tables=[TableStatus(**table._asdict()) for table in layouts(self.state.shape)],
            checkpoint=None if last is None else CheckpointStatus(tokens=last.tokens, saved_at=last.saved_at, seconds=last.seconds),
            memory_bytes=psutil.Process().memory_info().rss,
            problem=self.storage_problem or self.ingest.problem or self.publishing.publisher.problem,
            updated_at=now,
            caught_up_at=self._caught_up_at,
            figures=self.gauges.read(self.cursor, self.batches, queue, speed),
            calibration=self.calibration,
            publish_interval=self.publishing.interval,
        )


def _give_way_to(*threads: threading.Thread) -> None:
    """Where there are not enough cores, these threads come before all others of the process, those of the forward pass too."""
    if sys.platform != "linux":  # elsewhere a thread has no niceness of its own
        return
    niceness = os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS
    for thread in {int(name) for name in os.listdir("/proc/self/task")} - {thread.native_id for thread in threads}:
        try:
            os.setpriority(os.PRIO_PROCESS, thread, niceness)
        except ProcessLookupError:  # it has ended since
            continue
