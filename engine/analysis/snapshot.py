"""A whole snapshot out of Redis, as the graph that relations are computed on.

1. Take pointer and run description in one read: they belong together.
2. Read every feature's record *at that version*, and every layer pair's siblings, 100 a call, while the engine goes on publishing.
   Redis keeps two versions of a record, so a version can be read until the next but one is being written; a record that is gone by
   then says so, and the read begins again at the newest version. Nothing is unpacked before all of it is here, which keeps that
   window short.
3. Unpack into arrays: a layer's counts, and per layer pair the union of both directions' lists, each pair of features once,
   with the intervals of those that are watched.
"""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import msgspec
import numpy as np
import redis

from engine.analysis.context_lists import ContextLists, contexts_of
from engine.encoder.description import RunDescription
from engine.errors import NotReady
from engine.measures.relations import Edges, FeatureGraph, LayerCounts, Pair
from engine.measures.siblings import SiblingGroups
from engine.views import scripts
from engine.views.gate_records import BLOCK as GATES_BLOCK
from engine.views.gate_records import GATE_ROW, GatesRecord, Needed
from engine.views.hidden import BLOCK, HIDDEN, HiddenRecord
from engine.views.keys import Keys
from engine.views.records import INTERVAL, NEIGHBOR, ORDER_DIGITS, FeatureRecord, NeighborTable, Snapshot
from engine.views.sibling_record import unpack_siblings

log = logging.getLogger(__name__)

_CHUNK = 100  # records of one call: more would hold up other readers for longer than 5 ms
_ATTEMPTS = 3


class WatchedEdges(NamedTuple):
    """The edges of a layer pair that are watched: int64 `[W]`, ascending, by their index among its edges, and `INTERVAL [W]`."""

    edges: np.ndarray
    intervals: np.ndarray


class Certainty(NamedTuple):
    """What tells how far the numbers of a graph can be trusted: the part of half A in them, and design effects.

    Attributes:
        count_a: per layer int64 `[D]`, active counts in half A of the documents; rate_effect: float32 `[D]`, of these rates.
        joint_a: layer pair → int64 `[E]`, joint counts in half A; effect: → float32 `[E]`, of the ratios. Effects are NaN where
            unknown.
    """

    count_a: list[np.ndarray]
    rate_effect: list[np.ndarray]
    joint_a: dict[Pair, np.ndarray]
    effect: dict[Pair, np.ndarray]


@dataclass(frozen=True)
class Whole:
    """A snapshot that was read whole; `certainty` is of the graph's numbers; `hidden`: layer pair → `HIDDEN [Du]`; `gates`: layer
    pair → `GATE_ROW [G]`; `needed`: the evidence that one more of them needs; `children`: of all layer pairs."""

    snapshot: Snapshot
    run: RunDescription
    graph: FeatureGraph
    certainty: Certainty
    watched: Mapping[Pair, WatchedEdges]
    hidden: dict[Pair, np.ndarray]
    gates: dict[Pair, np.ndarray]
    needed: Needed
    children: int
    siblings: Mapping[Pair, SiblingGroups] = field(default_factory=dict)
    contexts: Sequence[ContextLists] = ()
    """Per layer."""


class SnapshotReader:
    """Reads snapshots of one run's Redis."""

    def __init__(self, client: redis.Redis, keys: Keys, published_k: int, min_support: int) -> None:
        """Client and keys of the run, and what its lists are published with."""
        self._client = client
        self._keys = keys
        self._k = published_k
        self._min_support = min_support
        self._read_at = client.register_script(scripts.READ_AT)

    def newest(self) -> tuple[Snapshot, str, bytes]:
        """The newest snapshot, its order, and the packed description of its run.

        Raises:
            NotReady: nothing is published yet. redis.RedisError: Redis is away.
        """
        pointer, run = cast("list[bytes | None]", self._client.mget(self._keys.snapshot, self._keys.run))
        if pointer is None or run is None:
            raise NotReady("the engine has not published a snapshot yet")
        return msgspec.msgpack.decode(pointer[ORDER_DIGITS:], type=Snapshot), pointer[:ORDER_DIGITS].decode(), run

    def read(self) -> Whole:
        """The newest snapshot, whole.

        Raises:
            NotReady: nothing is published yet, or each of three versions was replaced while it was read. redis.RedisError: Redis is
                away.
        """
        for _ in range(_ATTEMPTS):
            snapshot, order, packed = self.newest()
            run = RunDescription.from_bytes(packed)
            records = self._records(run.dictionaries, order)
            hidden = None if records is None else self._hidden(records, run.dictionaries, order)
            siblings = None if records is None else self._siblings(_pairs(records, run.dictionaries), order)
            gates = None if records is None or hidden is None else self._gates(list(hidden), run.dictionaries, order)
            if records is not None and hidden is not None and siblings is not None and gates is not None:
                contexts = contexts_of(records, run.dictionaries)
                found = graph_of(records, run.dictionaries, snapshot.tokens, self._k, self._min_support)
                return Whole(snapshot, run, *found, hidden, *gates, dict(map(unpack_siblings, siblings)), contexts)
            log.info("snapshot %s was replaced while it was read", snapshot.version)
        raise NotReady(f"{_ATTEMPTS} snapshots in a row were replaced while they were read: the machine is busy", retry_after=5)

    def _records(self, dictionaries: Sequence[int], order: str) -> list[bytes] | None:
        """The packed records of all features, layer by layer; None when one is not there at this version any more."""
        return self._read(
            [self._keys.feature(layer, index) for layer, size in enumerate(dictionaries) for index in range(size)], order
        )

    def _hidden(self, records: Sequence[bytes], dictionaries: Sequence[int], order: str) -> dict[Pair, np.ndarray] | None:
        """What is hidden in each layer pair; None when a record of it is not there at this version any more."""
        firsts = [msgspec.msgpack.decode(records[at], type=FeatureRecord) for at in np.cumsum([0, *dictionaries[:-1]]).tolist()]
        pairs = [(one.layer, table.layer) for one in firsts for table in one.tables if table.direction == "downstream"]
        found = {up_down: np.zeros(dictionaries[up_down[0]], HIDDEN) for up_down in sorted(pairs)}
        names = [self._keys.hidden(*pair, block) for pair, rows in found.items() for block in range(-(-len(rows) // BLOCK))]
        packed = self._read(names, order)
        for one in packed or ():
            record = msgspec.msgpack.decode(one, type=HiddenRecord)
            rows = record.rows()
            found[record.up, record.down][record.first : record.first + len(rows)] = rows
        return None if packed is None else found

    def _gates(
        self, pairs: Sequence[Pair], dictionaries: Sequence[int], order: str
    ) -> tuple[dict[Pair, np.ndarray], Needed, int] | None:
        """The gates of each layer pair, what one more needs, and children of all layer pairs; None as `_hidden`."""
        names = [self._keys.gates(*pair, block) for pair in pairs for block in range(-(-dictionaries[pair[1]] // GATES_BLOCK))]
        packed = self._read(names, order)
        if packed is None:
            return None
        found: dict[Pair, list[np.ndarray]] = {pair: [] for pair in pairs}
        needed, children = Needed(0.0, 0.0), 0
        for one in packed:
            record = msgspec.msgpack.decode(one, type=GatesRecord)
            found[record.up, record.down].append(record.rows())
            needed, children = record.needed, record.children
        return {pair: np.concatenate([np.empty(0, GATE_ROW), *rows]) for pair, rows in found.items()}, needed, children

    def _read(self, names: Sequence[str], order: str) -> list[bytes] | None:
        """Records at this version; None when one is not there at it any more."""
        records: list[bytes] = []
        for start in range(0, len(names), _CHUNK):
            found = cast("list[bytes | None]", self._read_at(keys=names[start : start + _CHUNK], args=[order]))
            there = [record for record in found if record is not None]
            if len(there) < len(found):
                return None
            records += there
        return records

    def _siblings(self, pairs: Sequence[Pair], order: str) -> list[bytes] | None:
        """The packed sibling groups of all layer pairs; None when one is not there at this version any more."""
        if not pairs:
            return []
        found = cast("list[bytes | None]", self._read_at(keys=[self._keys.siblings(*pair) for pair in pairs], args=[order]))
        there = [record for record in found if record is not None]
        return there if len(there) == len(found) else None


def _pairs(records: Sequence[bytes], dictionaries: Sequence[int]) -> list[Pair]:
    """The layer pairs: the first feature of each layer has a table for every one that its layer is in."""
    firsts = itertools.accumulate(dictionaries[:-1], initial=0)
    tables = [(layer, msgspec.msgpack.decode(records[at], type=FeatureRecord).tables) for layer, at in enumerate(firsts)]
    return sorted((layer, table.layer) for layer, of_layer in tables for table in of_layer if table.direction == "downstream")


@dataclass
class _Rows:
    """The rows of one layer pair and direction while they are gathered: whose they are, how many each has, and their bytes; and
    the same of the intervals."""

    owners: list[int]
    lengths: list[int]
    packed: list[memoryview]
    watched: list[int]
    intervals: list[memoryview]
    errors: list[np.ndarray]
    unlisted: list[int]


def graph_of(
    records: list[bytes], dictionaries: Sequence[int], tokens: int, k: int, min_support: int
) -> tuple[FeatureGraph, Certainty, dict[Pair, WatchedEdges]]:
    """The graph of a snapshot, how certain its numbers are, and which of its edges are watched.

    Args:
        records: packed `FeatureRecord`s of all features, layer by layer; the list is emptied on the way, to save memory.
        dictionaries: size of each layer.
        tokens: N of the snapshot.
        k, min_support: what the lists were published with.
    """
    layers = [LayerCounts(np.zeros(size, np.int64), np.zeros(size), np.zeros(size)) for size in dictionaries]
    count_a = [np.zeros(size, np.int64) for size in dictionaries]
    rate_effect = [np.full(size, np.nan, np.float32) for size in dictionaries]
    downstream: dict[Pair, _Rows] = defaultdict(lambda: _Rows([], [], [], [], [], [], []))
    upstream: dict[Pair, _Rows] = defaultdict(lambda: _Rows([], [], [], [], [], [], []))
    for record in _unpacked(records):
        counts, at = layers[record.layer], record.index
        counts.count[at], counts.sum[at], counts.sum_of_squares[at] = record.count, record.sum, record.sum_of_squares
        count_a[record.layer][at], rate_effect[record.layer][at] = record.count_a, record.rate_effect
        for table in record.tables:
            down = table.direction == "downstream"
            pair = (record.layer, table.layer) if down else (table.layer, record.layer)
            _gather((downstream if down else upstream)[pair], at, table)
    edges, joint_a, effect, watched, unlisted = {}, {}, {}, {}, {}
    for pair in sorted(downstream):
        sides, width = (downstream.pop(pair), upstream.pop(pair)), dictionaries[pair[1]]
        if any(any(side.unlisted) for side in sides):
            unlisted[pair] = tuple(_by_owner(side, dictionaries[layer]) for side, layer in zip(sides, pair, strict=True))
        edges[pair], joint_a[pair], effect[pair] = _union(*sides, width)
        watched[pair] = _watched(edges[pair], *sides, width)
    certainty = Certainty(count_a, rate_effect, joint_a, effect)
    return FeatureGraph(tokens, layers, edges, k, min_support, unlisted), certainty, watched


def _unpacked(records: list[bytes]) -> Iterator[FeatureRecord]:
    decode = msgspec.msgpack.Decoder(FeatureRecord).decode
    records.reverse()
    while records:
        yield decode(records.pop())


def _gather(rows: _Rows, owner: int, table: NeighborTable) -> None:
    rows.owners.append(owner)
    rows.lengths.append(len(table.packed) // NEIGHBOR.itemsize)
    rows.packed.append(table.packed)
    rows.watched.append(len(table.packed_intervals) // INTERVAL.itemsize)
    rows.intervals.append(table.packed_intervals)
    rows.errors.append(table.errors())
    rows.unlisted.append(table.unlisted)


def _by_owner(rows: _Rows, size: int) -> np.ndarray:
    unlisted = np.zeros(size, np.int64)
    unlisted[rows.owners] = rows.unlisted
    return unlisted


def _union(downstream: _Rows, upstream: _Rows, width: int) -> tuple[Edges, np.ndarray, np.ndarray]:
    """Each pair of features that either list holds, once, with its joint count in half A and its design effect; both lists are from
    one state, so they say the same of it."""
    sides = []
    for rows in (downstream, upstream):
        table = np.frombuffer(b"".join(rows.packed), NEIGHBOR)
        rows.packed.clear()
        owner = np.repeat(np.array(rows.owners, np.int64), rows.lengths)
        up, down = (owner, table["index"]) if rows is downstream else (table["index"], owner)
        ids = up.astype(np.int64) * width + down
        errors = np.concatenate([np.empty(0, np.int64), *rows.errors])
        sides.append((ids, *(table[column] for column in ("joint", "product", "decoder_cosine", "joint_a", "effect")), errors))
    ids, *columns = (np.concatenate(column) for column in zip(*sides, strict=True))
    ids, first = np.unique(ids, return_index=True)
    up, down = np.divmod(ids, width)
    joint, product, cosine, joint_a, effect, error = (column[first] for column in columns)
    return Edges(up.astype(np.int32), down.astype(np.int32), joint, product, cosine, error), joint_a, effect


def _watched(edges: Edges, downstream: _Rows, upstream: _Rows, width: int) -> WatchedEdges:
    """The intervals that either list holds, each pair's once, at the edges that they belong to."""
    ids, intervals = [], []
    for rows in (downstream, upstream):
        found = np.frombuffer(b"".join(rows.intervals), INTERVAL)
        owner = np.repeat(np.array(rows.owners, np.int64), rows.watched)
        up, down = (owner, found["index"]) if rows is downstream else (found["index"], owner)
        ids.append(up.astype(np.int64) * width + down)
        intervals.append(found)
    own, first = np.unique(np.concatenate(ids), return_index=True)
    at = np.searchsorted(edges.up.astype(np.int64) * width + edges.down, own)
    return WatchedEdges(at, np.concatenate(intervals)[first])
