"""A whole snapshot out of Redis, as the graph that relations are computed on.

1. Take pointer and run description in one read: they belong together.
2. Read every record *at that version*, a few a call, while the engine goes on publishing. Redis keeps two versions of a record, so
   a version can be read until the next but one is being written; a record that is gone by then says so, and the read begins again
   at the newest version. Nothing is unpacked before all of it is here, which keeps that window short.
3. Unpack into arrays: a layer's counts, and per layer pair the union of both directions' lists, each pair of features once,
   with the intervals of those that are watched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
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
from engine.views.blocks import STRENGTHS, LayerRecord, blocks, effects_of, open_block
from engine.views.gate_records import BLOCK as GATES_BLOCK
from engine.views.gate_records import GATE_ROW, GatesRecord, Needed
from engine.views.hidden import BLOCK, HIDDEN, HiddenRecord
from engine.views.keys import Keys
from engine.views.records import INTERVAL, ORDER_DIGITS, Snapshot
from engine.views.sibling_record import unpack_siblings

log = logging.getLogger(__name__)

_CHUNK = 8  # records of one call, of up to 0.5 MB: more would hold up other readers for longer than 5 ms
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
            sizes = run.dictionaries
            layers = self._layers(sizes, order)
            pairs = None if layers is None else pairs_of(layers)
            lists = None if layers is None else self._lists(layers, order)
            strengths = None if lists is None else self._strengths(sizes, order)
            hidden = None if pairs is None or strengths is None else self._hidden(pairs, sizes, order)
            siblings = None if pairs is None or hidden is None else self._siblings(pairs, order)
            gates = None if pairs is None or siblings is None else self._gates(pairs, sizes, order)
            if layers and lists is not None and strengths and hidden is not None and siblings is not None and gates is not None:
                found = graph_of(layers, lists, snapshot.tokens, self._k, self._min_support)
                return Whole(snapshot, run, *found, hidden, *gates, dict(map(unpack_siblings, siblings)), contexts_of(strengths))
            log.info("snapshot %s was replaced while it was read", snapshot.version)
        raise NotReady(f"{_ATTEMPTS} snapshots in a row were replaced while they were read: the machine is busy", retry_after=5)

    def _layers(self, dictionaries: Sequence[int], order: str) -> list[LayerRecord] | None:
        """The records of all layers; None when one is not there at this version any more, as in all that follow."""
        packed = self._read([self._keys.layer(layer) for layer in range(len(dictionaries))], order)
        return None if packed is None else [msgspec.msgpack.decode(one, type=LayerRecord) for one in packed]

    def _lists(self, layers: Sequence[LayerRecord], order: str) -> dict[Pair, Sides] | None:
        """The lists and the intervals of each layer pair, of its upstream and of its downstream features."""
        found: dict[tuple[int, int], Rows] = {}
        for one in layers:
            size = len(one.column("count"))
            for table in one.tables:
                place = (one.layer, table.layer)
                listed = self._blocks(self._keys.lists, place, size, table.row, order)
                watched = self._blocks(self._keys.intervals, place, size, INTERVAL, order)
                if listed is None or watched is None:
                    return None
                found[place] = Rows(*listed, *watched, table.unlisted())
        return {(up, down): Sides(found[up, down], found[down, up]) for up, down in pairs_of(layers)}

    def _strengths(self, dictionaries: Sequence[int], order: str) -> list[np.ndarray] | None:
        """Per layer `STRENGTHS [D]`."""
        found = [self._blocks(self._keys.strengths, (layer,), size, STRENGTHS, order) for layer, size in enumerate(dictionaries)]
        there = [one[0] for one in found if one is not None]
        return there if len(there) == len(found) else None

    def _blocks(
        self, key: Callable[..., str], place: tuple[int, ...], size: int, kind: np.dtype, order: str
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """The rows of all blocks of a layer of `size` features, and how many each feature has, int64 `[size]`."""
        of_layer = list(blocks(size))
        packed = self._read([key(*place, number) for number, _ in of_layer], order)
        if packed is None:
            return None
        opened = [open_block(one, which.stop - which.start, kind) for one, (_, which) in zip(packed, of_layer, strict=True)]
        rows, lengths = zip(*opened, strict=True)
        return np.concatenate(rows), np.concatenate(lengths)

    def _hidden(self, pairs: Sequence[Pair], dictionaries: Sequence[int], order: str) -> dict[Pair, np.ndarray] | None:
        """What is hidden in each layer pair."""
        found = {up_down: np.zeros(dictionaries[up_down[0]], HIDDEN) for up_down in pairs}
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
        """The gates of each layer pair, what one more needs, and children of all layer pairs."""
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
            there = [record[ORDER_DIGITS:] for record in found if record is not None]
            if len(there) < len(found):
                return None
            records += there
        return records

    def _siblings(self, pairs: Sequence[Pair], order: str) -> list[bytes] | None:
        """The packed sibling groups of all layer pairs."""
        return self._read([self._keys.siblings(*pair) for pair in pairs], order)


def pairs_of(layers: Sequence[LayerRecord]) -> list[Pair]:
    """The layer pairs."""
    return sorted((one.layer, table.layer) for one in layers for table in one.tables if table.direction == "downstream")


class Rows(NamedTuple):
    """The lists of a layer's features towards another one: `LISTED [n]` (or with errors) and how many each feature has, int64
    `[D]`; the same of the intervals of its watched pairs; and what its table does not hold, see `TableRecord`."""

    listed: np.ndarray
    lengths: np.ndarray
    intervals: np.ndarray
    watched: np.ndarray
    unlisted: np.ndarray | None

    @property
    def errors(self) -> np.ndarray:
        """int64 `[n]`, what may be missing of each joint count."""
        return np.zeros(len(self.listed), np.int64) if self.unlisted is None else self.listed["error"]


class Sides(NamedTuple):
    """Both directions of a layer pair: of its upstream features, and of its downstream ones."""

    downstream: Rows
    upstream: Rows

    def ids(self, width: int, *, watched: bool) -> np.ndarray:
        """int64, up · Dd + down of every row of both directions, or of every interval."""
        found = []
        for rows in self:
            lengths, index = (rows.watched, rows.intervals["index"]) if watched else (rows.lengths, rows.listed["index"])
            owner = np.repeat(np.arange(len(lengths)), lengths)
            up, down = (owner, index) if rows is self.downstream else (index, owner)
            found.append(up.astype(np.int64) * width + down)
        return np.concatenate(found)


def graph_of(
    layers: Sequence[LayerRecord], lists: Mapping[Pair, Sides], tokens: int, k: int, min_support: int
) -> tuple[FeatureGraph, Certainty, dict[Pair, WatchedEdges]]:
    """The graph of a snapshot, how certain its numbers are, and which of its edges are watched.

    Args:
        layers: their records.
        lists: those of each layer pair.
        tokens: N of the snapshot.
        k, min_support: what the lists were published with.
    """
    counts = [LayerCounts(*(one.column(name) for name in ("count", "sum", "sum_of_squares"))) for one in layers]
    effects = {(one.layer, table.layer): table.effects() for one in layers for table in one.tables}
    edges, joint_a, effect, watched, unlisted = {}, {}, {}, {}, {}
    for pair, sides in sorted(lists.items()):
        width = len(counts[pair[1]].count)
        if any(rows.unlisted is not None and rows.unlisted.any() for rows in sides):
            unlisted[pair] = tuple(
                np.zeros(len(rows.lengths), np.int64) if rows.unlisted is None else rows.unlisted for rows in sides
            )
        edges[pair], joint_a[pair] = _union(sides, width)
        effect[pair] = effects_of(effects[pair], edges[pair].joint)
        watched[pair] = _watched(edges[pair], sides, width)
    certainty = Certainty([one.column("count_a") for one in layers], [one.column("rate_effect") for one in layers], joint_a, effect)
    return FeatureGraph(tokens, counts, edges, k, min_support, unlisted), certainty, watched


def _union(sides: Sides, width: int) -> tuple[Edges, np.ndarray]:
    """Each pair of features that either list holds, once, with its joint count in half A; both lists are from one state, so they
    say the same of it."""
    ids, first = np.unique(sides.ids(width, watched=False), return_index=True)
    joint, product, cosine, joint_a = (
        np.concatenate([rows.listed[name] for rows in sides])[first] for name in ("joint", "product", "decoder_cosine", "joint_a")
    )
    error = np.concatenate([rows.errors for rows in sides])[first]
    up, down = np.divmod(ids, width)
    return Edges(up.astype(np.int32), down.astype(np.int32), joint, product, cosine, error), joint_a


def _watched(edges: Edges, sides: Sides, width: int) -> WatchedEdges:
    """The intervals of the watched pairs that are listed, each pair's once, at the edges that they belong to."""
    own, first = np.unique(sides.ids(width, watched=True), return_index=True)
    ids = edges.up.astype(np.int64) * width + edges.down
    at = np.searchsorted(ids, own)
    listed = np.append(ids, -1)[at] == own
    return WatchedEdges(at[listed], np.concatenate([rows.intervals for rows in sides])[first[listed]])
