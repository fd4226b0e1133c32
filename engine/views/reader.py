"""Reading views: what the API knows of statistics comes from here, and each answer from one snapshot.

Where Redis is away, every method raises `redis.RedisError` (its connection and timeout errors); the API turns them into 503.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import msgspec
import numpy as np
import redis.asyncio
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from engine.encoder.description import RunDescription
from engine.errors import BadValue, NotReady
from engine.views.answers import NeighborsAnswer, SimilarityAnswer, check_ranking, no_table, record_neighbors, unknown
from engine.views.gate_records import BLOCK as GATES_BLOCK
from engine.views.gate_records import GatesRecord
from engine.views.hidden import BLOCK, HiddenRecord
from engine.views.keys import Keys
from engine.views.records import (
    DIRECTIONS,
    ConvergencePoint,
    ConvergenceRecord,
    Direction,
    Event,
    FeatureRecord,
    Snapshot,
    StatusRecord,
    UploadRecord,
    Version,
)
from engine.views.requests import ContextsAnswer, ContextsRequest, LiveRequest, NeighborsRequest, SimilarityRequest, ask
from engine.views.snapshot_reads import FeatureRead, SnapshotReads

MOST_FEATURES = 100
"""Features of one atomic read: Redis cuts out some 500 pieces for them, in which time it answers nobody else."""

_SLICE_MS = 1_000  # a blocking read must end before the client's socket timeout, 5 s by default

Feature = tuple[int, int]


class _PackedSeries(msgspec.Struct, frozen=True):
    """A `ConvergenceRecord` whose points are left as they are."""

    pairs: list[tuple[int, int]]
    points: list[msgspec.Raw]


class Views:
    """The published views of one run."""

    def __init__(self, client: redis.asyncio.Redis, prefix: str) -> None:
        """A client (see `engine.views.connection.connect_async`) and the prefix of the run's keys."""
        self.client = client
        self.keys = Keys(prefix)
        self._reads = SnapshotReads(client, self.keys)
        self._snapshot = msgspec.msgpack.Decoder(Snapshot)

    async def snapshot(self) -> Snapshot | None:
        """The newest published snapshot; None before the first one."""
        try:
            return await self._reads.snapshot()
        except NotReady:
            return None

    async def features(
        self, features: Sequence[Feature], directions: Sequence[Direction] = DIRECTIONS
    ) -> tuple[Snapshot, list[FeatureRecord | None]]:
        """At most 100 records with their neighbours in some directions, all from one snapshot: a single atomic read. None for
        features that the run does not have.

        Raises:
            BadValue: more than 100. NotReady: nothing is published yet.
        """
        if len(features) > MOST_FEATURES:
            raise BadValue(f"{len(features)} features in one read: at most {MOST_FEATURES}")
        snapshot, records, _ = await self._reads.features(features, FeatureRead(directions))
        return snapshot, records

    async def feature(
        self, layer: int, index: int, directions: Sequence[Direction] = DIRECTIONS, *, strengths: bool = True
    ) -> tuple[Snapshot, FeatureRecord]:
        """One record with its snapshot; without `strengths` it has no contexts and no histogram.

        Raises:
            Unknown: the run has no such feature. NotReady: nothing is published yet.
        """
        snapshot, (record,), _ = await self._reads.features([(layer, index)], FeatureRead(directions, strengths))
        return snapshot, await self._there(layer, index, record)

    async def layers_beside(self, layer: int) -> list[tuple[int, Direction]]:
        """The layers that a layer is paired with, and where they are, seen from it.

        Raises:
            NotReady: nothing is published yet.
        """
        return await self._reads.layers_beside(layer)

    async def feature_with_hidden(self, layer: int, index: int) -> tuple[Snapshot, FeatureRecord, dict[int, np.void]]:
        """One record without neighbours, and per downstream layer the feature's `HIDDEN` row; all from one snapshot.

        Raises:
            Unknown: the run has no such feature. NotReady: nothing is published yet.
        """
        keys = [self.keys.hidden(layer, down, index // BLOCK) for down in await self._layers(layer, "downstream")]
        snapshot, (record,), blocks = await self._reads.features([(layer, index)], FeatureRead(()), keys)
        record = await self._there(layer, index, record)
        found = [msgspec.msgpack.decode(block, type=HiddenRecord) for block in self._all(blocks, layer, index)]
        return snapshot, record, {one.down: one.rows()[index - one.first] for one in found}

    async def gates(self, layer: int, index: int) -> tuple[Snapshot, FeatureRecord, list[GatesRecord]]:
        """One record without neighbours, and of each layer pair in which it is downstream the record of gates that holds it; all of
        one snapshot.

        Raises:
            Unknown: the run has no such feature. NotReady: nothing is published yet.
        """
        keys = [self.keys.gates(up, layer, index // GATES_BLOCK) for up in await self._layers(layer, "upstream")]
        snapshot, (record,), blocks = await self._reads.features([(layer, index)], FeatureRead((), strengths=False), keys)
        record = await self._there(layer, index, record)
        return snapshot, record, [msgspec.msgpack.decode(one, type=GatesRecord) for one in self._all(blocks, layer, index)]

    async def neighbors(
        self,
        layer: int,
        index: int,
        *,
        direction: Direction = "downstream",
        measure: str = "jaccard",
        k: int = 20,
        min_support: int = 10,
        rank: str | None = None,
        published_k: int,
        published_support: int,
        timeout: float = 10.0,
    ) -> NeighborsAnswer:
        """The best neighbours: from the published record where it holds them, else live from the engine.

        Args:
            layer, index: the feature.
            direction, measure, k, min_support, rank: the ranking.
            published_k, published_support: `published_k` and `min_support` of the run's settings.
            timeout: seconds to wait for a live answer.

        Raises:
            BadValue: a ranking that can't be. Unknown: no such feature. NotReady: nothing published, or the engine does not answer.
        """
        ranked = check_ranking(direction, measure, k, min_support, rank)
        snapshot, record = await self.feature(layer, index, (direction,), strengths=False)
        if not record.tables:
            status = await self.status()
            raise no_table((layer, index), direction, status.pairs if status else [])
        if k <= published_k and min_support == published_support:
            return record_neighbors(
                record,
                snapshot,
                direction=direction,
                measure=measure,
                k=k,
                min_support=min_support,
                rank=ranked,
                published_k=published_k,
            )
        request = NeighborsRequest((layer, index), direction, measure, k, min_support, ranked)
        return await ask(self.client, self.keys, request, timeout)

    async def similarity(self, up: Feature, down: Feature, corpus: str | None = None, timeout: float = 10.0) -> SimilarityAnswer:
        """Every measure of one pair, live from the engine; of one corpus where the pair is watched.

        Raises:
            Unknown: a feature, layer pair or corpus that the run does not have. BadValue: a corpus, and the pair is not watched.
            NotReady: the engine does not answer.
        """
        return await ask(self.client, self.keys, SimilarityRequest(up, down, corpus), timeout)

    async def contexts(self, features: Sequence[Feature], k: int = 1, timeout: float = 30.0) -> ContextsAnswer:
        """Text around the k strongest activations of each feature, live from the engine, which encodes those windows again.

        Raises:
            BadValue: too many features, or a k that is not in 1 … 8. Unknown: a feature that the run does not have. NotReady: the
                engine does not answer.
        """
        return await ask(self.client, self.keys, ContextsRequest(list(features), k), timeout)

    async def live(self, request: LiveRequest, timeout: float = 10.0) -> Any:
        """Any other answer from the running engine; errors as the engine has them, and `NotReady` when it does not answer."""
        return await ask(self.client, self.keys, request, timeout)

    async def run(self) -> RunDescription:
        """What is measured.

        Raises:
            NotReady: the engine has not said so yet.
        """
        packed = cast("bytes | None", await self.client.get(self.keys.run))
        if packed is None:
            raise NotReady("the engine has not described the run yet")
        return RunDescription.from_bytes(packed)

    async def status(self) -> StatusRecord | None:
        """The last heartbeat; None before the first."""
        packed = cast("bytes | None", await self.client.get(self.keys.status))
        return None if packed is None else msgspec.msgpack.decode(packed, type=StatusRecord)

    async def waiting(self) -> dict[str, int]:
        """Requests that neither the engine nor the analysis worker has looked at yet, by process."""
        queues = {"engine": self.keys.requests, "analysis": self.keys.analysis}
        return {process: cast(int, await self.client.llen(queue)) for process, queue in queues.items()}  # type: ignore[misc]

    async def uploads(self, ids: Sequence[str] | None = None) -> dict[str, UploadRecord]:
        """What the engine did with these uploads (None: with all); those it has not met yet are missing."""
        if ids is None:
            packed = list(cast("dict[bytes, bytes]", await self.client.hgetall(self.keys.uploads)).values())  # type: ignore[misc]  # redis-py types it as sync or async
        else:
            packed = cast("list[bytes | None]", await self.client.hmget(self.keys.uploads, list(ids))) if ids else []  # type: ignore[misc]
        records = [msgspec.msgpack.decode(one, type=UploadRecord) for one in packed if one is not None]
        return {record.id: record for record in records}

    async def convergence(self) -> ConvergenceRecord | None:
        """The convergence series; None before the first snapshot."""
        packed = cast("bytes | None", await self.client.get(self.keys.convergence))
        return None if packed is None else msgspec.msgpack.decode(packed, type=ConvergenceRecord)

    async def newest_point(self) -> tuple[list[tuple[int, int]], ConvergencePoint] | None:
        """The layer pairs and the newest point of the convergence series, without decoding the others; None before the first."""
        packed = cast("bytes | None", await self.client.get(self.keys.convergence))
        series = None if packed is None else msgspec.msgpack.decode(packed, type=_PackedSeries)
        return (
            (series.pairs, msgspec.msgpack.decode(series.points[-1], type=ConvergencePoint)) if series and series.points else None
        )

    async def events(self, after: str | None = None, heartbeat: float = 15.0) -> AsyncIterator[Event | None]:
        """Snapshots as they are published; None whenever nothing was for `heartbeat` seconds.

        Every snapshot names the one before it, so a loss shows whatever its cause (trimmed, wiped, an earlier engine). Then a
        `reset` with the newest snapshot comes, which says: what was between is gone, read everything anew.

        Args:
            after: the id of the last event that was seen: the first one after it comes next. None: begin with the newest snapshot.
            heartbeat: seconds.
        """
        last = after
        if after is None:
            newest = await self._newest_event()
            if newest is not None:
                last = newest.version
                yield Event(kind="snapshot", snapshot=newest)
        elif not _is_version(after):
            last = "0-0"
        quiet_since = time.monotonic()
        while True:
            found = await self._next_events(last or "0-0")
            if not found and last is not None:
                newest = await self._newest_event()
                if newest is not None and newest.version != last:
                    # It came since we looked; or the stream was begun anew below our id, the clock set back and Redis wiped.
                    found = await self._next_events(last) or [newest]
            lost = bool(found) and last is not None and found[0].previous != last
            if lost:
                found = [await self._newest_event() or found[-1]]
            for snapshot in found:
                last = snapshot.version
                yield Event(kind="reset" if lost else "snapshot", snapshot=snapshot)
                quiet_since = time.monotonic()
            if time.monotonic() - quiet_since >= heartbeat:
                yield None
                quiet_since = time.monotonic()

    async def _next_events(self, last: str) -> list[Snapshot]:
        try:
            found = cast("list[Any]", await self.client.xread({self.keys.events: last}, count=100, block=_SLICE_MS))
        except RedisTimeout:
            return []
        except ResponseError:  # the stream went away while we waited (DEL, FLUSHALL): as good as nothing new
            return []
        return [self._snapshot.decode(fields[b"snapshot"]) for _, fields in found[0][1]] if found else []

    async def _newest_event(self) -> Snapshot | None:
        found = cast("list[Any]", await self.client.xrevrange(self.keys.events, count=1))
        return self._snapshot.decode(found[0][1][b"snapshot"]) if found else None

    async def _there(self, layer: int, index: int, record: FeatureRecord | None) -> FeatureRecord:
        """The record, or the reason why there is none."""
        if record is None:
            raise unknown(await self.run(), (layer, index)) or NotReady(f"feature {layer}:{index} is not published yet")
        return record

    async def _layers(self, layer: int, direction: Direction) -> list[int]:
        return [other for other, where in await self.layers_beside(layer) if where == direction]

    @staticmethod
    def _all(blocks: Sequence[bytes | None], layer: int, index: int) -> list[bytes]:
        found = [block for block in blocks if block is not None]
        if len(found) < len(blocks):
            raise NotReady(f"feature {layer}:{index} is not published yet")
        return found


def _is_version(text: str) -> bool:
    try:
        version = Version.parse(text)
    except ValueError:
        return False
    return version.epoch >= 0 and version.number >= 0
