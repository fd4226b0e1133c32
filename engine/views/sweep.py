"""A sweep: what a publish would write of one moment, and what of that is not what was written last.

1. The lists of every layer pair are made (`engine.views.ranking`) from what was taken of its table.
2. A feature's own numbers change when it fires, and then those of all its listed pairs may have. The lists of a block of features
   are written anew when one of them fired, or when they hold others than before.
3. Rows of a table lie in memory as they are sent: a record is a piece of them, and nothing is packed row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from engine.views.blocks import LISTED, LISTED_WITH_ERRORS, LayerRecord, Packed, TableRecord, blocks, ends_of, pack_block
from engine.views.decoder import DecoderCosines
from engine.views.intervals import PairIntervals
from engine.views.keys import Keys
from engine.views.moment import Moment, Pair
from engine.views.ranking import Bounded, Cells, Lists, Ranking, rank_bounded, rank_cells
from engine.views.records import DIRECTIONS, Direction
from kernels import Listed, Separators, Supported


class Table(NamedTuple):
    """The lists of a layer's features towards one other layer."""

    layer: int  # the neighbours'
    direction: Direction
    offsets: np.ndarray  # int64 [D + 1]
    rows: np.ndarray  # LISTED [n], or LISTED_WITH_ERRORS
    effects: np.ndarray  # float32 [EFFECT_BINS]
    unlisted: np.ndarray  # int64 [D], or empty

    @classmethod
    def of(cls, layer: int, direction: Direction, lists: Lists, effects: np.ndarray) -> Table:
        """From the lists of a ranking."""
        cells = lists.cells
        exact = not (lists.unlisted.any() or cells.error.any())
        rows = np.empty(len(cells.joint), LISTED if exact else LISTED_WITH_ERRORS)
        rows["index"] = cells.down if direction == "downstream" else cells.up
        for name in (rows.dtype.names or ())[1:]:
            rows[name] = getattr(cells, name)
        unlisted = lists.unlisted[:0] if exact else lists.unlisted
        return cls(layer, direction, lists.offsets, rows, effects.astype(np.float32), unlisted)

    @classmethod
    def of_taken(cls, layer: int, direction: Direction, cells: Supported, listed: Listed, effects: np.ndarray) -> Table:
        """From the listed ones among cells that were taken: of a dense table, which holds all."""
        rows = np.empty(len(listed.cells), LISTED)
        listed.fill(cells, rows)
        return cls(layer, direction, listed.offsets, rows, effects.astype(np.float32), np.empty(0, np.int64))

    def lists_as(self, since: Table, block: slice) -> bool:
        """Whether the lists of a block of features, none of which has fired, are the same in both. A joint count needs both
        features to fire, but what may be missing of it does not."""
        if self.rows.dtype != since.rows.dtype:
            return False
        ends, before = (table.offsets[block.start : block.stop + 1] for table in (self, since))
        if not np.array_equal(ends - ends[0], before - before[0]):
            return False
        mine, theirs = self.rows[ends[0] : ends[-1]], since.rows[before[0] : before[-1]]
        return all(np.array_equal(mine[name], theirs[name]) for name in ("index", "error") if name in (mine.dtype.names or ()))

    def record(self) -> TableRecord:
        """What is published of it beside its rows."""
        unlisted = np.ascontiguousarray(self.unlisted, "<i8").view(np.uint8).data
        return TableRecord(self.layer, self.direction, self.effects.view(np.uint8).data, unlisted)


@dataclass(frozen=True)
class Sweep:
    """One moment, ranked.

    Attributes:
        moment: what it is of.
        tables: per layer, in the order of the layer pairs.
    """

    moment: Moment
    tables: tuple[tuple[Table, ...], ...]

    @classmethod
    def of(
        cls,
        moment: Moment,
        cosines: DecoderCosines,
        separators: Mapping[Pair, Separators],
        k: int,
        between: Callable[[], None] = lambda: None,
    ) -> Sweep:
        """Rank what was taken: the best `k` by each measure. `separators`: of each layer pair, kept from the last sweep; `between`
        is called between two layer pairs, of which a large one takes seconds."""
        tables: list[list[Table]] = [[] for _ in moment.sides]
        for (up, down), taken in moment.tables.items():
            between()
            effects = moment.effects[up, down]
            dense = cosines.dense(up, down)
            by_cosine = dense is not None
            sides = moment.sides[up], moment.sides[down]
            tempered, kept = effects if moment.by_bound else None, separators[up, down]
            if isinstance(taken, Bounded):
                taken = rank_bounded(taken, *sides, moment.tokens, k=k, cosines=dense, effects=tempered, separators=kept)
            if isinstance(taken, Ranking):
                lists = taken if by_cosine else Ranking(*(_with_cosines(lists, cosines, (up, down)) for lists in taken))
                tables[up].append(Table.of(down, "downstream", lists.downstream, effects.by_bin))
                tables[down].append(Table.of(up, "upstream", lists.upstream, effects.by_bin))
                continue
            found = rank_cells(taken, *sides, moment.tokens, k=k, by_cosine=by_cosine, effects=tempered, separators=kept)
            for layer, other, direction, listed in zip((up, down), (down, up), DIRECTIONS, found, strict=True):
                table = Table.of_taken(other, direction, taken, listed, effects.by_bin)
                if not by_cosine:
                    own = np.repeat(np.arange(len(table.offsets) - 1), np.diff(table.offsets))
                    ends = (own, listed.partner) if direction == "downstream" else (listed.partner, own)
                    table.rows["decoder_cosine"] = cosines.of_pairs(up, down, *ends)
                tables[layer].append(table)
        return cls(moment, tuple(map(tuple, tables)))

    def remembered(self) -> Sweep:
        """What the next one is compared with, and no more: the rest may be gigabytes."""
        return replace(self, moment=replace(self.moment, strengths=(), tables={}, hidden=[], ends=None))

    def records(self, keys: Keys, since: Sweep | None) -> Iterator[tuple[str, Packed, int]]:
        """Every record that is not what it was in an earlier sweep: key, packed record, and of how many features more it tells than
        those before."""
        for layer, side in enumerate(self.moment.sides):
            fired = self._fired(layer, since)
            if fired.any() or since is None or since.moment.revision != self.moment.revision:
                yield keys.layer(layer), [self._layer(layer)], 0
            for number, block in blocks(len(side.count)):
                told = len(fired[block])
                for at, table in enumerate(self.tables[layer]):
                    if fired[block].any() or since is None or not table.lists_as(since.tables[layer][at], block):
                        packed = pack_block(table.offsets[block.start : block.stop + 1], table.rows)
                        yield keys.lists(layer, table.layer, number), packed, told
                        told = 0
                if fired[block].any():
                    rows = self.moment.strengths[layer][block]
                    yield keys.strengths(layer, number), pack_block(np.arange(len(rows) + 1), rows), told

    def _fired(self, layer: int, since: Sweep | None) -> np.ndarray:
        """bool `[D]`: whose own numbers are not what they were."""
        now = self.moment
        if since is None:
            return np.ones(len(now.sides[layer].count), bool)
        then = since.moment
        columns = zip((*now.sides[layer], now.positions[layer]), (*then.sides[layer], then.positions[layer]), strict=True)
        return np.logical_or.reduce([(mine != before).reshape(len(mine), -1).any(axis=1) for mine, before in columns])

    def _layer(self, layer: int) -> bytes:
        moment = self.moment
        side = moment.sides[layer]
        columns = {**side._asdict(), "rate_effect": moment.rates[layer], "threshold": moment.thresholds[layer]}
        return LayerRecord.pack(layer, [table.record() for table in self.tables[layer]], columns)


def interval_records(keys: Keys, pair: Pair, intervals: PairIntervals, sizes: tuple[int, int]) -> Iterator[tuple[str, Packed]]:
    """Key and packed record of every block of features of either layer: the intervals of their watched pairs, by the partner."""
    up, down = np.divmod(intervals.ids, intervals.width)
    for (layer, other), owner, partner, size in ((pair, up, down, sizes[0]), (pair[::-1], down, up, sizes[1])):
        order = np.argsort(owner, kind="stable")
        rows = intervals.rows[order]
        rows["index"] = partner[order]
        ends = ends_of(np.bincount(owner, minlength=size))
        for number, block in blocks(size):
            yield keys.intervals(layer, other, number), pack_block(ends[block.start : block.stop + 1], rows)


def _with_cosines(lists: Lists, cosines: DecoderCosines, pair: Pair) -> Lists:
    cells: Cells = lists.cells
    return lists._replace(cells=cells._replace(decoder_cosine=cosines.of_pairs(*pair, cells.up, cells.down)))
