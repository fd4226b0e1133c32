"""Publishing: from the state to the records in Redis, never torn, and never in the way of counting.

1. `take` what is to be published, while nothing counts (`engine.views.moment`); the rest is done beside the counting, by the thread
   of `engine.views.publishing`.
2. Take over: see that the run marker is ours. It is missing in a new or wiped Redis; then everything is published.
3. Sweep the moment, and write the records of what changed (`engine.views.sweep`), some MiB a call, into the versions that readers
   are not shown.
4. Commit: move the pointer, with status, uploads, convergence and the event of the new snapshot.

Whatever goes wrong with Redis ends the publish, is logged, and leaves `problem` set: the next one publishes everything. A version
is never used twice, so nothing that a broken publish left behind can be taken for a later one's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec
import redis

from engine.views import scripts
from engine.views.blocks import Packed
from engine.views.connection import connect
from engine.views.decoder import DecoderCosines
from engine.views.effects import Effects
from engine.views.keys import Keys
from engine.views.moment import Moment, Moments, Pair
from engine.views.records import ORDER_DIGITS, ConvergenceRecord, Snapshot, StatusRecord, UploadRecord, Version
from engine.views.sweep import Sweep, interval_records
from kernels import Separators

if TYPE_CHECKING:
    from engine.counts.state import State
    from engine.encoder.description import RunDescription
    from engine.settings import Settings

log = logging.getLogger(__name__)

_CHUNK_BYTES = 4 << 20  # a call of 4 MiB holds up readers for some 5 ms


class Told(NamedTuple):
    """What is told beside the statistics: how the engine is, what became of every upload, and the convergence series; a heartbeat
    may leave out the last two."""

    status: StatusRecord
    uploads: Sequence[UploadRecord] = ()
    convergence: ConvergenceRecord | None = None


@dataclass(frozen=True)
class Published:
    """What a publish did.

    Attributes:
        version: of the new snapshot; None when none was made (nothing new, or Redis is away).
        tokens: N of the state.
        features: how many the run has; written: of how many records were rewritten; bytes: of all records that were.
        seconds: by step: "take" (nothing counts meanwhile), "sweep", "write" (packing included), "commit".
    """

    version: str | None
    tokens: int
    features: int = 0
    written: int = 0
    bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


class NotOurs(Exception):
    """The run marker in Redis is missing, or another engine's."""


class Abandoned(Exception):
    """The engine stops: the publish is not to be finished."""


class Publisher:
    """Publishes the snapshots of one engine.

    Attributes:
        tokens: N of the newest snapshot; −1 before the first, and when it must be published again.
        problem: a sentence for the user when the last attempt failed, else None.
        last: what the last attempt did.
        abandon: set it to have a publish that goes on end early, and the next one publish everything.
    """

    def __init__(
        self,
        settings: Settings,
        description: RunDescription,
        epoch: int,
        cosines: DecoderCosines | None = None,
        effects: Effects | None = None,
    ) -> None:
        """Connects when it first publishes.

        Args:
            settings: `redis_url`, `redis_prefix`, `published_k`, `min_support`, `publish_interval`, `memory_budget`.
            description: of the run.
            epoch: milliseconds since 1970 at which this engine started; raised when Redis knows a later one (a clock set back).
            cosines: of the decoder directions; None in a run without a model.
            effects: design effects, kept up to date by the loop; None leaves them unknown.

        Raises:
            NoRedis: the settings name no Redis.
        """
        client = connect(settings.redis_url)
        cosines = cosines or DecoderCosines(None, ())
        self.keys = Keys(settings.redis_prefix)
        self.problem: str | None = None
        self.last = Published(None, 0)
        self.abandon = threading.Event()
        self._client = client
        self._description = description
        self._run = description.to_bytes()
        self._epoch = epoch
        self._number = 0
        self._k = settings.published_k
        self._cosines = cosines
        effects = effects or Effects(description.dictionaries)
        self._moments = Moments(self.keys, cosines, effects, settings.published_k, settings.min_support, settings.memory_budget)
        self._separators: dict[Pair, Separators] = {}
        self._published: Sweep | None = None  # what Redis holds; None: publish everything
        self._version: str | None = None
        self._uploads: dict[str, UploadRecord] = {}
        self._ours = False
        self._ever_ours = False
        self._take_over, self._write, self._commit, self._beat = (
            client.register_script(script) for script in (scripts.TAKE_OVER, scripts.WRITE, scripts.COMMIT, scripts.BEAT)
        )

    @property
    def tokens(self) -> int:
        published = self._published  # which another thread may set
        return -1 if published is None else published.moment.tokens

    def standing_tokens(self) -> int:
        """N of the snapshot that Redis shows of this run before our first publish, left by an engine that was killed; 0 for none.
        Published counts only grow: they must reach it again first."""
        try:
            run, pointer = cast("list[bytes | None]", self._client.mget(self.keys.run, self.keys.snapshot))
        except (redis.RedisError, OSError) as error:
            log.warning("the snapshot in Redis can't be read: %s", error)
            return 0
        if pointer is None or run != self._run:
            return 0
        return msgspec.msgpack.decode(pointer[ORDER_DIGITS:], type=Snapshot).tokens

    def has(self, state: State) -> bool:
        """Whether Redis holds all there is to say of a state. A segment that ends adds no token, but intervals, gates, effects."""
        published = self._published
        if published is None:
            return False
        moment = published.moment
        return (moment.tokens, moment.revision) == (state.tokens, self._moments.revision(state))

    def has_taken(self, state: State) -> bool:
        """Whether the last moment that was taken is of this state, written or not."""
        return self._moments.last == (state.tokens, self._moments.revision(state))

    def take(self, state: State) -> Moment:
        """What there is to publish of a state. Nothing may count into it meanwhile; a moment that was taken must be written before
        the next one is, since it holds what has changed since the one before."""
        return self._moments.take(state, whole=self._published is None)

    def write(self, moment: Moment, told: Told, newer: Callable[[], StatusRecord | None] = lambda: None) -> Published:
        """Publish a moment.

        Never raises for Redis' sake: see `problem`. Nothing is done with a moment that is not whole where all is to be published.

        Args:
            moment, told: what was taken, and what is told with it.
            newer: asked between two calls: how the engine is by now, if it has told since. A large moment takes minutes.
        """
        if self._published is None and not moment.whole:
            self.last = Published(None, moment.tokens)
            return self.last
        try:
            self.last = self._publish(moment, told, newer)
            self.problem = None
        except (redis.RedisError, OSError, NotOurs) as error:
            self._failed(error, moment.tokens)
        except Abandoned:
            self._ours, self._published = False, None
            self.last = Published(None, moment.tokens)
        return self.last

    def publish(
        self, state: State, status: StatusRecord, uploads: Sequence[UploadRecord], convergence: ConvergenceRecord
    ) -> Published:
        """Publish a state; only a heartbeat when Redis has it already. Nothing may count into it meanwhile. Else as `write`."""
        told = Told(status, uploads, convergence)
        if self.has(state) and self.beat(*told):
            self.last = Published(self._version, state.tokens)
            return self.last
        return self.write(self.take(state), told)

    def beat(
        self, status: StatusRecord, uploads: Sequence[UploadRecord] = (), convergence: ConvergenceRecord | None = None
    ) -> bool:
        """Write status, changed uploads and the series alone. False when Redis does not hold our snapshot any more, or does not
        answer: everything is to be published then."""
        try:
            intact = self._heartbeat(status, uploads, convergence)
            self.problem = None
        except (redis.RedisError, OSError, NotOurs) as error:
            self._failed(error, max(0, self.tokens))
            return False
        return intact

    def _publish(self, moment: Moment, told: Told, newer: Callable[[], StatusRecord | None]) -> Published:
        if not self._ours:
            self._claim()
        everything, keys = self._published is None, self.keys
        self._number += 1
        version = Version(self._epoch, self._number)
        began = time.perf_counter()
        for up, down in moment.tables:
            if (up, down) not in self._separators:
                self._separators[up, down] = Separators.none(*(len(moment.sides[layer].count) for layer in (up, down)))
        status = told.status

        def beat() -> None:
            nonlocal status
            self._go_on()
            if (newest := newer()) is not None:
                status = newest
                names = [keys.marker, keys.status, keys.convergence, keys.uploads]
                self._require(self._beat(keys=names, args=[str(self._epoch), msgspec.msgpack.encode(status), b""]))

        sweep = Sweep.of(moment, self._cosines, self._separators, self._k, beat)
        swept = time.perf_counter()
        written, size = self._write_records(self._changed_records(sweep), version, beat)
        status = newer() or status
        wrote = time.perf_counter()
        snapshot = Snapshot(
            version=str(version),
            tokens=moment.tokens,
            published_at=time.time(),
            previous=None if everything else self._version,
        )
        changed = list(told.uploads) if everything else self._changed(told.uploads)
        self._require(
            self._commit(
                keys=[keys.marker, keys.snapshot, keys.events, keys.status, keys.convergence, keys.uploads],
                args=[
                    *(str(self._epoch), version.order, snapshot.version),
                    *(msgspec.msgpack.encode(record) for record in (snapshot, status, told.convergence)),
                    *("1" if everything else "0", *_fields(changed)),
                ],
            )
        )
        self._published, self._version = sweep.remembered(), snapshot.version
        self._sent(changed, anew=everything)
        done = time.perf_counter()
        seconds = {"take": moment.seconds, "sweep": swept - began, "write": wrote - swept, "commit": done - wrote}
        features = sum(len(side.count) for side in moment.sides)
        log.debug("snapshot %s: %d tokens, %d of %d features in %.3f s", version, moment.tokens, written, features, done - began)
        return Published(snapshot.version, moment.tokens, features, written, size, seconds)

    def _changed_records(self, sweep: Sweep) -> Iterator[tuple[str, Packed, int]]:
        moment = sweep.moment
        yield from sweep.records(self.keys, self._published)
        for key, packed in moment.hidden:
            yield key, [packed], 0
        if moment.ends is not None:
            for pair, intervals in moment.ends.intervals.items():
                sizes = len(moment.sides[pair[0]].count), len(moment.sides[pair[1]].count)
                for key, packed in interval_records(self.keys, pair, intervals, sizes):
                    yield key, packed, 0
            for key, packed in moment.ends.records:
                yield key, [packed], 0

    def _write_records(
        self, records: Iterator[tuple[str, Packed, int]], version: Version, between: Callable[[], None]
    ) -> tuple[int, int]:
        """Write records under their keys, `between` two calls; of how many features they were, and how many bytes."""
        order, told, written = version.order.encode(), 0, 0
        keys: list[str] = []
        values: list[bytes] = []
        for key, packed, features in records:
            keys.append(key)
            values.append(b"".join((order, *packed)))
            told += features
            if sum(map(len, values)) >= _CHUNK_BYTES:
                written += self._write_chunk(keys, values)
                keys, values = [], []
                between()
        if keys:
            written += self._write_chunk(keys, values)
        return told, written

    def _go_on(self) -> None:
        if self.abandon.is_set():
            raise Abandoned

    def _write_chunk(self, keys: list[str], values: list[bytes]) -> int:
        self._go_on()
        self._require(self._write(keys=[self.keys.marker, self.keys.snapshot, *keys], args=[str(self._epoch), *values]))
        return sum(map(len, values))

    def _heartbeat(
        self, status: StatusRecord, uploads: Sequence[UploadRecord], convergence: ConvergenceRecord | None = None
    ) -> bool:
        """Status, uploads and series; False when Redis does not hold our snapshot any more."""
        intact = self._ours
        if not intact:
            self._claim()
        changed = self._changed(uploads)
        keys = [self.keys.marker, self.keys.status, self.keys.convergence, self.keys.uploads]
        series = b"" if convergence is None else msgspec.msgpack.encode(convergence)
        answer = self._beat(keys=keys, args=[str(self._epoch), msgspec.msgpack.encode(status), series, *_fields(changed)])
        if intact and answer != 1:
            self._ours, self._published = False, None
            return self._heartbeat(status, uploads, convergence)
        self._require(answer)
        self._sent(changed, anew=False)
        return intact

    def _claim(self) -> None:
        """Make the marker ours, and whatever was here before not ours.

        Raises:
            NotOurs: a later engine publishes under this prefix.
        """
        self._published, self._uploads = None, {}
        keys = self.keys
        names = [keys.marker, keys.snapshot, keys.run, keys.uploads, keys.convergence]
        later, run = cast("tuple[bytes, bytes | None]", self._take_over(keys=names, args=[str(self._epoch), self._run]))
        if later and not self._ever_ours:
            # Left by an earlier engine whose clock was ahead of ours: our versions must come after its own.
            self._epoch = int(later) + 1
            later, run = cast("tuple[bytes, bytes | None]", self._take_over(keys=names, args=[str(self._epoch), self._run]))
        if later:
            raise NotOurs(
                f"another engine, started later, publishes in this Redis under the prefix {keys.prefix!r}; stop it, or give one "
                "of them another redis_prefix"
            )
        self._ours = self._ever_ours = True
        if run is not None and run != self._run:
            self._remove_records()

    def _remove_records(self) -> None:
        """Remove the records of another run: ours will not overwrite all of them."""
        for name in list(self._client.scan_iter(match=f"{self.keys.records}*", count=1_000)):
            self._client.unlink(name)

    def _require(self, answer: Any) -> None:
        if answer != 1:
            raise NotOurs("Redis was wiped or restarted while a snapshot was being published")

    def _failed(self, error: Exception, tokens: int) -> None:
        self._ours, self._published = False, None
        self.last = Published(None, tokens)
        problem = str(error) if isinstance(error, NotOurs) else "the views can't be published: Redis does not answer"
        if problem != self.problem:  # once, not once a second; a library's own text is for the log, the problem for clients
            log.warning("%s (%s); counting goes on, and everything is published again at the next tick", problem, error)
        self.problem = problem

    def _changed(self, uploads: Sequence[UploadRecord]) -> list[UploadRecord]:
        return [upload for upload in uploads if self._uploads.get(upload.id) != upload]

    def _sent(self, uploads: Sequence[UploadRecord], *, anew: bool) -> None:
        if anew:
            self._uploads = {}
        self._uploads.update((upload.id, upload) for upload in uploads)


def _fields(uploads: Sequence[UploadRecord]) -> list[str | bytes]:
    """Field and value of each in the hash of uploads."""
    return [part for upload in uploads for part in (upload.id, msgspec.msgpack.encode(upload))]
