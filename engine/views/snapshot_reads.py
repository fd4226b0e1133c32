"""Atomic reads of a snapshot: a pointer and what it points to, in one call, and features put together from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import redis.asyncio

from engine.views.blocks import LISTED, STRENGTHS, LayerRecord, TableRecord, effects_of, place_of
from engine.views.keys import Keys
from engine.views.read_calls import ReadCalls
from engine.views.records import INTERVAL, NEIGHBOR, ORDER_DIGITS, Direction, FeatureRecord, NeighborTable, Snapshot

Feature = tuple[int, int]


class FeatureRead(NamedTuple):
    """What is read of every feature: the lists in some directions, and how strongly it fires."""

    directions: Sequence[Direction]
    strengths: bool = True


class _Layer(NamedTuple):
    """The record of a layer as it was last read, and its `Version.order`."""

    order: str
    record: LayerRecord
    columns: dict[str, np.ndarray]

    @classmethod
    def of(cls, packed: bytes) -> _Layer:
        record = msgspec.msgpack.decode(packed[ORDER_DIGITS:], type=LayerRecord)
        return cls(packed[:ORDER_DIGITS].decode(), record, {name: record.column(name) for name in record.columns})


class SnapshotReads:
    """Reads from one run's Redis, and keeps the records of layers: they are sent again only when they have changed."""

    def __init__(self, client: redis.asyncio.Redis, keys: Keys) -> None:
        self._keys = keys
        self._calls = ReadCalls(client, keys)
        self._layers: dict[int, _Layer] = {}

    async def snapshot(self) -> Snapshot:
        """The newest snapshot.

        Raises:
            NotReady: nothing is published yet.
        """
        return (await self._calls.read({}, [])).snapshot

    async def layers_beside(self, layer: int) -> list[tuple[int, Direction]]:
        """The layers that a layer is paired with, and where they are, seen from it; none of a layer that there is not.

        Raises:
            NotReady: nothing is published yet.
        """
        known = self._layers.get(layer)
        if known is None:
            _, layers, _ = await self._read([layer], [])
            known = layers.get(layer)
        return _beside(known)

    async def features(
        self, features: Sequence[Feature], what: FeatureRead, more: Sequence[str] = ()
    ) -> tuple[Snapshot, list[FeatureRecord | None], list[bytes | None]]:
        """Features, None for those that the run does not have, and further records under their keys; all from one snapshot.

        A feature's `tokens` is the snapshot's: a publish compares every feature with the state and leaves alone only those that
        would be written the same, so an older record is also the record of this state.

        Raises:
            NotReady: nothing is published yet.
        """
        while True:
            beside = {layer: await self.layers_beside(layer) for layer in {layer for layer, _ in features}}
            needed = sorted({*beside, *(other for others in beside.values() for other, _ in others)})
            pieces = [piece for feature in features for piece in self._slices(feature, beside[feature[0]], what)]
            snapshot, layers, found = await self._read(needed, [*pieces, *((key, "") for key in more)])
            if all(_beside(layers.get(layer)) == others for layer, others in beside.items()):
                break  # else another run came in between
        slices = iter(found[: len(pieces)])
        records = [_put_together(feature, what, snapshot, layers, slices) for feature in features]
        return snapshot, records, [None if one is None else one[ORDER_DIGITS:] for one in found[len(pieces) :]]

    async def _read(
        self, layers: Sequence[int], pieces: Sequence[tuple[str, str]]
    ) -> tuple[Snapshot, dict[int, _Layer], list[bytes | None]]:
        """The snapshot, the records of layers as they are in it, and the pieces."""
        known = {layer: self._layers[layer] for layer in layers if layer in self._layers}
        keys = {layer: self._keys.layer(layer) for layer in layers}
        found = await self._calls.read({key: known[at].order if at in known else "" for at, key in keys.items()}, pieces)
        of_snapshot = {}
        for layer, key in keys.items():
            packed = found.known[key]
            if packed is None:
                self._layers.pop(layer, None)
            else:
                # Those that were known when it was asked: another read may have kept newer ones since.
                of_snapshot[layer] = known[layer] if packed == 1 else self._unpacked(layer, packed)
        self._layers |= of_snapshot
        return found.snapshot, of_snapshot, found.pieces

    def _unpacked(self, layer: int, packed: bytes) -> _Layer:
        """The record of a layer; the one that is kept where another read has brought it meanwhile."""
        kept = self._layers.get(layer)
        return kept if kept is not None and packed.startswith(kept.order.encode()) else _Layer.of(packed)

    def _slices(self, feature: Feature, beside: Sequence[tuple[int, Direction]], what: FeatureRead) -> Iterator[tuple[str, str]]:
        layer, (block, at) = feature[0], place_of(feature[1])
        for other, direction in beside:
            if direction in what.directions:
                yield self._keys.lists(layer, other, block), f"#{at}"
                yield self._keys.intervals(layer, other, block), f"#{at}"
        if what.strengths:
            yield self._keys.strengths(layer, block), f"#{at}"


def _beside(layer: _Layer | None) -> list[tuple[int, Direction]]:
    return [] if layer is None else [(table.layer, table.direction) for table in layer.record.tables]


def _put_together(
    feature: Feature, what: FeatureRead, snapshot: Snapshot, layers: dict[int, _Layer], slices: Iterator[bytes | None]
) -> FeatureRecord | None:
    """The record of a feature from its slices, which come in the order of `_slices`."""
    layer, index = feature
    known = layers.get(layer)
    tables, here = [], known is not None
    for table in known.record.tables if known is not None else ():
        if table.direction in what.directions:
            listed, watched = next(slices), next(slices)
            if listed is None or watched is None:
                here = False
            else:
                tables.append(_table(table, layers[table.layer].columns, index, listed, watched))
    strengths = next(slices) if what.strengths else b""
    if known is None or not here or strengths is None or not 0 <= index < len(known.columns["count"]):
        return None
    own = {name: column[index].item() for name, column in known.columns.items()}
    contexts, histogram = _strengths(strengths)
    return FeatureRecord(
        layer=layer,
        index=index,
        tokens=snapshot.tokens,
        max=float(contexts["value"][0]) if len(contexts) else 0.0,
        max_position=int(contexts["position"][0]) if len(contexts) else -1,
        tables=tables,
        packed_contexts=contexts.view(np.uint8).data,
        packed_histogram=histogram,
        **own,
    )


def _table(table: TableRecord, columns: dict[str, np.ndarray], feature: int, listed: bytes, watched: bytes) -> NeighborTable:
    """A feature's neighbours with their own numbers, from the columns of their layer, and the intervals of the watched ones."""
    found, unlisted = np.frombuffer(listed, table.row), table.unlisted()
    index = found["index"]
    rows = np.empty(len(found), NEIGHBOR)
    for name in LISTED.names or ():
        rows[name] = found[name]
    for name in ("count", "count_a", "sum", "sum_of_squares", "rate_effect"):
        rows[name] = columns[name][index]
    rows["effect"] = effects_of(table.effects(), found["joint"])
    intervals = np.frombuffer(watched, INTERVAL)
    at = np.searchsorted(index, intervals["index"])
    intervals = intervals[np.append(index, -1)[at] == intervals["index"]]
    return NeighborTable(
        layer=table.layer,
        features=len(columns["count"]),
        direction=table.direction,
        packed=rows.view(np.uint8).data,
        packed_intervals=intervals.view(np.uint8).data,
        packed_errors=memoryview(b"") if unlisted is None else np.ascontiguousarray(found["error"]).view(np.uint8).data,
        unlisted=0 if unlisted is None else int(unlisted[feature]),
    )


def _strengths(packed: bytes) -> tuple[np.ndarray, memoryview]:
    """The contexts that there are, and the histogram, of a feature whose strengths were read; nothing of one where they weren't."""
    if not packed:
        return np.empty(0, STRENGTHS["contexts"].base), memoryview(b"")
    (found,) = np.frombuffer(packed, STRENGTHS)
    contexts = found["contexts"]
    return contexts[contexts["position"] >= 0], found["histogram"].view(np.uint8).data
