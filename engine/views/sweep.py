"""A sweep: what a publish would write of every feature, and which features have changed since the last one.

1. Marginals of every layer, and the ranking of every layer pair (`engine.views.ranking`), two pairs at a time.
2. A feature is dirty when its own numbers changed, when those of a listed partner did, or when its lists hold other features. A
   joint count or product can't change without the numbers of both features.
3. Records of the dirty ones: their cells are gathered once per table into `NEIGHBOR` rows, of which every record takes a slice. Per
   record and column it would be 100,000 small arrays at the demo's size.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from engine.views.intervals import PairIntervals
from engine.views.ranking import Lists, Ranking, Side, rank_pair
from engine.views.records import CONTEXT, NEIGHBOR, Direction, FeatureRecord, NeighborTable

if TYPE_CHECKING:
    from engine.counts.state import State
    from engine.views.decoder import DecoderCosines
    from engine.views.effects import Effects, PairEffects

_THREADS = 2  # numpy and numba let go of the interpreter's lock; more threads would need more scores in memory at once


class Strongest(NamedTuple):
    """The strongest activations of each feature: value float32 `[D, 8]`, position int64 `[D, 8]`."""

    value: np.ndarray
    position: np.ndarray

    def moved(self, since: Strongest) -> np.ndarray:
        """bool `[D]`: features whose list is not what it was."""
        return ((self.value != since.value) | (self.position != since.position)).any(axis=1)

    def packed(self, chosen: np.ndarray) -> tuple[memoryview, list[int]]:
        """The `CONTEXT` rows of some features' lists as bytes, and where each list begins in them."""
        value, position = self.value[chosen], self.position[chosen]
        filled = position >= 0
        rows = np.empty(np.count_nonzero(filled), CONTEXT)
        rows["position"], rows["value"] = position[filled], value[filled]
        ends = np.zeros(len(chosen) + 1, np.int64)
        np.cumsum(filled.sum(axis=1) * CONTEXT.itemsize, out=ends[1:])
        return rows.view(np.uint8).data, ends.tolist()


class Slices(NamedTuple):
    """Rows of many lists as bytes, and where each list begins in them."""

    data: memoryview
    ends: list[int]

    @classmethod
    def of(cls, rows: np.ndarray, lengths: np.ndarray) -> Slices:
        """Rows list by list, and how many each list has."""
        ends = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths * rows.itemsize, out=ends[1:])
        return cls(rows.view(np.uint8).data, ends.tolist())

    def of_list(self, at: int) -> memoryview:
        """The bytes of one list."""
        return self.data[self.ends[at] : self.ends[at + 1]]


class Table(NamedTuple):
    """The lists of a layer's features towards one other layer."""

    layer: int  # the neighbours'
    direction: Direction
    lists: Lists
    index: np.ndarray  # int32 [n], the neighbours

    def signatures(self) -> np.ndarray:
        """uint64 `[D]`: a sum of hashes of each list's indices. Two different lists agree by chance once in 2^64."""
        with np.errstate(over="ignore"):
            hashes = self.index.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
            hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)  # splitmix64, Steele et al. 2014
            hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            sums = np.zeros(len(hashes) + 1, np.uint64)
            np.cumsum(hashes ^ (hashes >> np.uint64(31)), out=sums[1:])
            return sums[self.lists.offsets[1:]] - sums[self.lists.offsets[:-1]]

    def any_of(self, flags: np.ndarray) -> np.ndarray:
        """bool `[D]`: whether a flag is set for any neighbour in the list."""
        counts = np.zeros(len(self.index) + 1, np.int64)
        np.cumsum(flags[self.index], out=counts[1:])
        return counts[self.lists.offsets[1:]] > counts[self.lists.offsets[:-1]]


@dataclass(frozen=True)
class Sweep:
    """One state, ranked.

    Attributes:
        tokens: N.
        sides, strongest: per layer.
        histograms: per layer int64 `[D, STRENGTH_BINS]`.
        thresholds: per layer float32 `[D]`; the same for the life of a run.
        tables: per layer, in the order of the layer pairs.
        signatures: per layer uint64 `[tables, D]`.
        effects, rates: the design effects that the bounds are tempered by, per layer pair and per layer.
        intervals: per layer pair those of its watched pairs.
        revision: what intervals and design effects are from; where it differs, every record does.
    """

    tokens: int
    sides: tuple[Side, ...]
    strongest: tuple[Strongest, ...]
    histograms: tuple[np.ndarray, ...]
    thresholds: tuple[np.ndarray, ...]
    tables: tuple[tuple[Table, ...], ...]
    signatures: tuple[np.ndarray, ...]
    effects: dict[tuple[int, int], PairEffects]
    rates: tuple[np.ndarray, ...]
    intervals: dict[tuple[int, int], PairIntervals]
    revision: tuple[int, int]

    @classmethod
    def of(
        cls, state: State, cosines: DecoderCosines, effects: Effects, since: Sweep | None = None, *, k: int, min_support: int
    ) -> Sweep:
        """Rank a state: the best `k` by each measure with a joint count of at least `min_support`. Nothing may count meanwhile.

        `since`: an earlier sweep of the same state, whose intervals stand until a segment ends.
        """
        sides = tuple(Side.of(layer) for layer in state.marginals)
        strongest = tuple(
            Strongest(part.value.cpu().numpy().copy(), part.position.cpu().numpy().copy()) for part in state.strongest
        )
        histograms = tuple(part.counts.cpu().numpy().copy() for part in state.histograms)
        tokens = state.tokens

        def rank(pair: tuple[int, int]) -> Ranking:
            up, down = pair
            dense = cosines.dense(up, down)
            tempered = effects.of_pair(pair) if effects.revision else None
            table, ends = state.pairs[pair], (sides[up], sides[down])
            found = rank_pair(table, *ends, tokens, k=k, min_support=min_support, cosines=dense, effects=tempered)
            if dense is not None:
                return found
            return Ranking(*(_with_cosines(lists, cosines, pair) for lists in found))

        with ThreadPoolExecutor(_THREADS, "rank") as pool:
            rankings = dict(zip(state.pairs, pool.map(rank, state.pairs), strict=True))
        tables: list[list[Table]] = [[] for _ in sides]
        for (up, down), ranking in rankings.items():
            tables[up].append(Table(down, "downstream", ranking.downstream, ranking.downstream.cells.down))
            tables[down].append(Table(up, "upstream", ranking.upstream, ranking.upstream.cells.up))
        signatures = tuple(
            np.stack([table.signatures() for table in of_layer] or [np.zeros(len(side.count), np.uint64)])
            for of_layer, side in zip(tables, sides, strict=True)
        )
        thresholds = tuple(
            np.zeros(size, np.float32) if limit is None else limit.cpu().numpy()
            for size, limit in zip(state.shape.dictionaries, state.shape.thresholds, strict=True)
        )
        of_pairs = {pair: effects.of_pair(pair) for pair in state.pairs}
        revision = _revision(state, effects)
        if since is not None and since.revision == revision:
            intervals = since.intervals
        else:
            intervals = {pair: PairIntervals.of(watched) for pair, watched in state.watched.items()}
        tables_of = tuple(map(tuple, tables))
        return cls(
            tokens, sides, strongest, histograms, thresholds, tables_of, signatures, of_pairs, effects.rates, intervals, revision
        )

    def is_of(self, state: State, effects: Effects) -> bool:
        """Whether a sweep of this state would be the same: a segment that ends adds no token, but intervals, gates and effects."""
        return (self.tokens, self.revision) == (state.tokens, _revision(state, effects))

    def dirty(self, since: Sweep | None) -> tuple[np.ndarray, ...]:
        """Per layer bool `[D]`: features whose record is not what it was in an earlier sweep; all of them without one."""
        if since is None or since.revision != self.revision:
            return tuple(np.ones(len(side.count), bool) for side in self.sides)
        moved = [
            np.logical_or.reduce([*(now != then for now, then in zip(side, old_side, strict=True)), top.moved(old_top)])
            for side, top, old_side, old_top in zip(self.sides, self.strongest, since.sides, since.strongest, strict=True)
        ]
        dirty = []
        for layer, tables in enumerate(self.tables):
            changed = moved[layer] | (self.signatures[layer] != since.signatures[layer]).any(axis=0)
            for table in tables:
                changed |= table.any_of(moved[table.layer])
            dirty.append(changed)
        return tuple(dirty)

    def records(self, layer: int, dirty: np.ndarray) -> Iterator[tuple[int, bytes]]:
        """(index, packed `FeatureRecord`) of each dirty feature of a layer, in order."""
        chosen = np.flatnonzero(dirty)
        tables = [(table, *self._rows(layer, table, dirty)) for table in self.tables[layer]]
        unlisted = [table.lists.unlisted[chosen].tolist() for table in self.tables[layer]]
        strongest = self.strongest[layer]
        contexts, begins = strongest.packed(chosen)
        side = self.sides[layer]
        own = (side.count, side.sum, side.sum_of_squares, strongest.value[:, 0], strongest.position[:, 0])
        more = (self.thresholds[layer], side.count_a, self.rates[layer])
        columns = [column[chosen].tolist() for column in (*own, *more)]
        encode = msgspec.msgpack.Encoder().encode
        for at, (index, count, total, squares, value, position, threshold, count_a, effect) in enumerate(
            zip(chosen.tolist(), *columns, strict=True)
        ):
            packed = [
                NeighborTable(table.layer, table.direction, rows.of_list(at), intervals.of_list(at), errors.of_list(at), most[at])
                for (table, rows, intervals, errors), most in zip(tables, unlisted, strict=True)
            ]
            found = contexts[begins[at] : begins[at + 1]]
            own = (layer, index, self.tokens, count, total, squares, value, position)
            strengths = self.histograms[layer][index].data
            yield index, encode(FeatureRecord(*own, packed, threshold, count_a, effect, found, strengths))

    def _rows(self, layer: int, table: Table, dirty: np.ndarray) -> tuple[Slices, Slices, Slices]:
        """The `NEIGHBOR` and the `INTERVAL` rows of the dirty features' lists, and what may be missing of the joint counts if
        anything is."""
        lengths = np.diff(table.lists.offsets)
        keep = np.repeat(dirty, lengths)
        cells, index = table.lists.cells, table.index[keep]
        rows = np.empty(len(index), NEIGHBOR)
        side = self.sides[table.layer]
        rows["index"] = index
        for name in ("count", "count_a", "sum", "sum_of_squares"):
            rows[name] = getattr(side, name)[index]
        for name in ("joint", "joint_a", "product", "decoder_cosine"):
            rows[name] = getattr(cells, name)[keep]
        pair = (layer, table.layer) if table.direction == "downstream" else (table.layer, layer)
        rows["effect"] = self.effects[pair].ratios(rows["joint"])
        rows["rate_effect"] = self.rates[table.layer][index]
        of_list = np.repeat(np.arange(np.count_nonzero(dirty)), lengths[dirty])
        watched = self.intervals[pair].find(cells.up[keep], cells.down[keep])
        found = self.intervals[pair].rows[watched[watched >= 0]]
        found["index"] = index[watched >= 0]
        counts = np.bincount(of_list[watched >= 0], minlength=np.count_nonzero(dirty))
        missing = cells.error[keep]
        errors = Slices.of(missing, lengths[dirty] if missing.any() else np.zeros_like(lengths[dirty]))
        return Slices.of(rows, lengths[dirty]), Slices.of(found, counts), errors


def _revision(state: State, effects: Effects) -> tuple[int, int]:
    return (state.segments_ended, effects.revision)


def _with_cosines(lists: Lists, cosines: DecoderCosines, pair: tuple[int, int]) -> Lists:
    cells = lists.cells
    return lists._replace(cells=cells._replace(decoder_cosine=cosines.of_pairs(*pair, cells.up, cells.down)))
