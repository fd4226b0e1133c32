"""Publishing: from the state to the records in Redis, never torn, and never in the way of counting.

1. Take over: see that the run marker is ours. It is missing in a new or wiped Redis; then everything is published.
2. Sweep the state and pack the records of what changed (`engine.views.sweep`).
3. Write them, at most 256 a call, into the slots that readers are not shown.
4. Commit: move the pointer, with status, uploads, convergence and the event of the new snapshot.

Whatever goes wrong with Redis ends the publish, is logged, and leaves `problem` set: the next tick publishes everything. A version
is never used twice, so nothing that a broken publish left behind can be taken for a later one's.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import msgspec
import redis

from engine.views import scripts
from engine.views.connection import connect
from engine.views.decoder import DecoderCosines
from engine.views.effects import Effects
from engine.views.gate_records import GateRecords
from engine.views.hidden import HiddenRecords
from engine.views.keys import Keys
from engine.views.records import ORDER_DIGITS, ConvergenceRecord, Snapshot, StatusRecord, UploadRecord, Version
from engine.views.sibling_record import pack_siblings
from engine.views.sweep import Sweep

if TYPE_CHECKING:
    from engine.counts.state import State
    from engine.encoder.description import RunDescription
    from engine.settings import Settings

log = logging.getLogger(__name__)

PAUSE_FACTOR = 12
"""Pause after a publish, in durations of it: publishing takes at most 1/13 of the engine's time, below the 10 % that it may."""

_CHUNK_RECORDS = 256
_CHUNK_BYTES = 4 << 20  # a call of 4 MiB holds up readers for some 5 ms


@dataclass(frozen=True)
class Published:
    """What a publish did.

    Attributes:
        version: of the new snapshot; None when none was made (nothing new, or Redis is away).
        tokens: N of the state.
        features: how many the run has; written: how many records of them were rewritten; bytes: of those records.
        seconds: by step: "sweep", "write" (packing included), "commit".
    """

    version: str | None
    tokens: int
    features: int = 0
    written: int = 0
    bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


class NotOurs(Exception):
    """The run marker in Redis is missing, or another engine's."""


class Publisher:
    """Publishes the snapshots of one engine.

    Attributes:
        tokens: N of the newest snapshot; −1 before the first, and when it must be published again.
        problem: a sentence for the user when the last attempt failed, else None.
        last: what the last attempt did.
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
            settings: `redis_url`, `redis_prefix`, `published_k`, `min_support`, `publish_interval`.
            description: of the run.
            epoch: milliseconds since 1970 at which this engine started; raised when Redis knows a later one (a clock set back).
            cosines: of the decoder directions; None in a run without a model.
            effects: design effects, kept up to date by the loop; None leaves them unknown.

        Raises:
            NoRedis: the settings name no Redis.
        """
        client = connect(settings.redis_url)
        self.keys = Keys(settings.redis_prefix)
        self.problem: str | None = None
        self.last = Published(None, 0)
        self._client = client
        self._description = description
        self._run = description.to_bytes()
        self._settings = settings
        self._epoch = epoch
        self._number = 0
        self._cosines = cosines or DecoderCosines(None, ())
        self._effects = effects or Effects(description.dictionaries)
        self._hidden = HiddenRecords(self.keys)
        self._gates = GateRecords(self.keys, self._effects)
        self._published: Sweep | None = None  # what Redis holds; None: publish everything
        self._version: str | None = None
        self._uploads: dict[str, UploadRecord] = {}
        self._ours = False
        self._ever_ours = False
        self._due_at = self._due_idle_at = 0.0
        self._took = 0.0
        self._take_over, self._write, self._commit, self._beat = (
            client.register_script(script) for script in (scripts.TAKE_OVER, scripts.WRITE, scripts.COMMIT, scripts.BEAT)
        )

    @property
    def tokens(self) -> int:
        return -1 if self._published is None else self._published.tokens

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

    @property
    def interval(self) -> float:
        """Seconds from one snapshot to the next while text is being counted, after how long the last publish took."""
        return max(self._settings.publish_interval, (PAUSE_FACTOR + 1) * self._took)

    def due(self, idle: bool = False) -> bool:
        """Whether the interval since the last attempt has passed, and (unless idle) 12 times what that attempt took."""
        return time.monotonic() >= (self._due_idle_at if idle else self._due_at)

    def publish(
        self, state: State, status: StatusRecord, uploads: Sequence[UploadRecord], convergence: ConvergenceRecord
    ) -> Published:
        """Publish a state; only a heartbeat when Redis has it already. Nothing may count into it meanwhile.

        Never raises for Redis' sake: see `problem`.
        """
        began = time.monotonic()
        try:
            published = self._published
            if published is not None and published.is_of(state, self._effects) and self._heartbeat(status, uploads, convergence):
                self.last = Published(self._version, state.tokens)
            else:
                self.last = self._publish(state, status, uploads, convergence)
            self.problem = None
        except (redis.RedisError, OSError, NotOurs) as error:
            self._failed(error, state.tokens)
        now = time.monotonic()
        self._due_idle_at = now + self._settings.publish_interval
        self._took = now - began
        self._due_at = max(self._due_idle_at, now + PAUSE_FACTOR * self._took)
        return self.last

    def beat(self, status: StatusRecord, uploads: Sequence[UploadRecord] = ()) -> None:
        """Write status and changed uploads alone. Finds out that Redis was wiped, too: then the next `publish` is due at once."""
        try:
            if not self._heartbeat(status, uploads):
                self._due_at = self._due_idle_at = 0.0
            self.problem = None
        except (redis.RedisError, OSError, NotOurs) as error:
            self._failed(error, max(0, self.tokens))

    def _publish(
        self, state: State, status: StatusRecord, uploads: Sequence[UploadRecord], convergence: ConvergenceRecord
    ) -> Published:
        if not self._ours:
            self._claim()
        self._number += 1
        version = Version(self._epoch, self._number)
        began = time.perf_counter()
        sweep = Sweep.of(
            state,
            self._cosines,
            self._effects,
            self._published,
            k=self._settings.published_k,
            min_support=self._settings.min_support,
        )
        swept = time.perf_counter()
        everything = self._published is None
        written, size = self._write_records(self._changed_records(sweep), version)
        self._write_records(self._hidden.changed(state, everything), version)
        if everything or (self._published is not None and self._published.revision != sweep.revision):
            self._write_records(
                ((self.keys.siblings(*pair), pack_siblings(part)) for pair, part in state.siblings.items()), version
            )
        self._write_records(self._gates.changed(state, everything), version)
        wrote = time.perf_counter()
        snapshot = Snapshot(
            version=str(version),
            tokens=sweep.tokens,
            published_at=time.time(),
            previous=None if everything else self._version,
        )
        changed = list(uploads) if everything else self._changed(uploads)
        keys = self.keys
        self._require(
            self._commit(
                keys=[keys.marker, keys.snapshot, keys.events, keys.status, keys.convergence, keys.uploads],
                args=[
                    *(str(self._epoch), version.order, snapshot.version),
                    *(msgspec.msgpack.encode(record) for record in (snapshot, status, convergence)),
                    *("1" if everything else "0", *_fields(changed)),
                ],
            )
        )
        self._published, self._version = sweep, snapshot.version
        self._sent(changed, anew=everything)
        done = time.perf_counter()
        seconds = {"sweep": swept - began, "write": wrote - swept, "commit": done - wrote}
        features = sum(len(side.count) for side in sweep.sides)
        log.debug("snapshot %s: %d tokens, %d of %d records in %.3f s", version, sweep.tokens, written, features, done - began)
        return Published(snapshot.version, sweep.tokens, features, written, size, seconds)

    def _write_records(self, records: Iterator[tuple[str, bytes]], version: Version) -> tuple[int, int]:
        """Write records under their keys; how many and how many bytes that was."""
        written, size = 0, 0
        for chunk in _chunks(records):
            keys = [self.keys.marker, self.keys.snapshot, *(key for key, _ in chunk)]
            self._require(self._write(keys=keys, args=[str(self._epoch), version.order, *(packed for _, packed in chunk)]))
            written += len(chunk)
            size += sum(len(packed) for _, packed in chunk)
        return written, size

    def _changed_records(self, sweep: Sweep) -> Iterator[tuple[str, bytes]]:
        for layer, dirty in enumerate(sweep.dirty(self._published)):
            if dirty.any():
                for index, packed in sweep.records(layer, dirty):
                    yield self.keys.feature(layer, index), packed

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
            self._remove_features_of(run)

    def _remove_features_of(self, run: bytes) -> None:
        """Remove the records of another run that ours will not overwrite."""
        try:
            sizes = type(self._description).from_bytes(run).dictionaries
        except msgspec.DecodeError:
            return  # not written by this program: nothing of ours to remove
        if names := [self.keys.siblings(*pair) for pair in itertools.combinations(range(len(sizes)), 2)]:
            self._client.unlink(*names)
        ours = self._description.dictionaries
        for layer, size in enumerate(sizes):
            first = ours[layer] if layer < len(ours) else 0
            for start in range(first, size, _CHUNK_RECORDS):
                self._client.unlink(*(self.keys.feature(layer, at) for at in range(start, min(start + _CHUNK_RECORDS, size))))

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


def _chunks(records: Iterator[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    """At most 256 records or 4 MiB each."""
    chunk: list[tuple[str, bytes]] = []
    size = 0
    for record in records:
        chunk.append(record)
        size += len(record[1])
        if len(chunk) == _CHUNK_RECORDS or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
