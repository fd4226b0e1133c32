"""Bounded pair table: of every feature of a layer pair the partners that it fires with most often, in a fixed amount of memory.

    batches ──▶ gathered, up to a segment's ──▶ rows of the upstream features (`kernels.BoundedRows`), rows of the downstream ones

A pair may be in either direction's row, in both or in none. What is known of it is what both say: its joint count is at least the
larger of the two counts and at most the smaller of the two counts plus errors. Errors come from pruning alone, and a row is pruned
when a batch of many tokens does not fit into it, so batches are gathered first: whoever reads sees all of them counted.

A table in which no row was ever pruned is a dense one without its zeros. One that was depends on the order of the batches; what it
promises does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from engine.counts import bounded_file, memory
from engine.counts.joint_table import JointTable, PairCells
from engine.counts.part import Place, StatePart
from engine.counts.shape import RowSlots, RunShape
from engine.errors import DoesNotFit
from kernels import CandidateLists, Csr
from kernels.cpu.bounded import BoundedRows, Rows

if TYPE_CHECKING:
    from engine.counts.clusters import SegmentClusters
    from engine.encoder.batch import SparseBatch
    from engine.encoder.encoded import SetAside

GATHERED_TOKENS = 65_536
"""A row with 1,024 partners costs some 10 µs whenever a batch touches it: at GPT-2's size 63, 33 and 18 µs a token with batches of
4,096, 16,384 and 65,536 tokens (one core, one direction)."""

_BLOCK_ROWS = 4_096
_LEAST_SAMPLED = 16  # rows
_WIDE_BYTES = 40 - 24


class BoundedTable(StatePart, JointTable):
    """Over all tokens so far:

    Attributes:
        downstream: the rows of the upstream features, holding downstream partners.
        upstream: the rows of the downstream features.
    """

    kind = "bounded_pairs"

    def __init__(self, shape: RunShape, place: Place, downstream: BoundedRows, upstream: BoundedRows) -> None:
        self.shape, self.place = shape, place
        self.downstream, self.upstream = downstream, upstream
        self._gathered: list[tuple[Csr, Csr, Tensor]] = []
        self._tokens = 0  # of those
        self._bound = 0  # no row weighs more than this, once they are counted

    @classmethod
    def places(cls, shape: RunShape) -> Sequence[Place]:
        return [pair for pair in shape.pairs if pair in shape.bounded]

    @classmethod
    def bytes_at(cls, shape: RunShape, place: Place) -> int:
        up, down = place
        return bytes_for(shape.dictionaries[up], shape.dictionaries[down], shape.bounded[up, down])

    @classmethod
    def zero(cls, shape: RunShape, place: Place) -> Self:
        (up, down), (average, most) = place, shape.bounded[place[0], place[1]]
        sizes = shape.dictionaries[up], shape.dictionaries[down]
        rows = (BoundedRows(size, width, *_fitting(width, average, most)) for size, width in (sizes, sizes[::-1]))
        return cls(shape, place, *rows)

    @property
    def size(self) -> tuple[int, int]:
        return self.upstream.width, self.downstream.width

    @property
    def exact(self) -> bool:
        self.count_gathered()
        return not self.downstream.bounds.any() and not self.upstream.bounds.any()

    def make_room(self, batch: SparseBatch) -> None:
        """Widen the counts before one could pass uint32: a row grows by at most the entries of a batch in the other layer."""
        limit = 2 * self.shape.count_limit + 1  # of the signed 32 bits of a dense table: unsigned here
        more = max(len(batch.layers[layer].features) for layer in self.place)
        if not self.downstream.wide and self._bound + more > limit:
            self.count_gathered()
            self._bound = self._heaviest()
            if self._bound > limit // 2 or self._bound + more > limit:
                slots = sum(len(arena) for rows in (self.downstream, self.upstream) for arena in rows.arenas)
                what = f"layer pair {self.place}: 64-bit counts, needed before a count passes 32 bits"
                memory.require(slots * _WIDE_BYTES, "cpu", what)
                self.downstream.widen()
                self.upstream.widen()

    def add(self, batch: SparseBatch, set_aside: Sequence[SetAside] = ()) -> None:
        up, down = (Csr(*(part.cpu() for part in batch.layers[layer])) for layer in self.place)
        self._gathered.append((up, down, torch.from_numpy(batch.halves)))
        self._tokens += batch.tokens
        self._bound += max(len(up.features), len(down.features))
        if self._tokens >= GATHERED_TOKENS:
            self.count_gathered()

    def end_segment(self, segment: Sequence[SegmentClusters]) -> None:
        self.count_gathered()  # so that no batch is of two segments, and what the next one finds is a function of the log

    def count_gathered(self) -> None:
        """Count what was gathered."""
        if not self._gathered:
            return
        ups, downs, halves = zip(*self._gathered, strict=True)
        up, down, half = _joined(ups), _joined(downs), torch.cat(halves)
        limits = [None if limit is None else limit.cpu() for limit in (self.shape.thresholds[layer] for layer in self.place)]
        self.downstream.add(up, down, half, limits[0], limits[1])
        self.upstream.add(down, up, half, limits[1], limits[0])
        self._gathered, self._tokens = [], 0

    def merge(self, other: Self) -> None:
        self.count_gathered()
        other.count_gathered()
        for mine, theirs in ((self.downstream, other.downstream), (self.upstream, other.upstream)):
            mine.merge(theirs)
        self._bound += other._bound

    def save(self, path: Path) -> int:
        self.count_gathered()
        return bounded_file.write(path, self.name, (self.downstream, self.upstream))

    @classmethod
    def load(cls, shape: RunShape, place: Place, path: Path) -> Self:
        part = cls.zero(shape, place)
        bounded_file.read(path, part.name, (part.downstream, part.upstream))
        part._bound = part._heaviest()
        return part

    def settle(self) -> None:
        self.count_gathered()

    def at(self, up: np.ndarray, down: np.ndarray) -> PairCells:
        self.count_gathered()
        ours, theirs = self.downstream.find(up, down), self.upstream.find(down, up)
        return _both(np.asarray(up, np.int32), np.asarray(down, np.int32), ours, theirs)

    def line(self, feature: int, *, downstream: bool, min_support: int) -> PairCells:
        self.count_gathered()
        rows, others = (self.downstream, self.upstream) if downstream else (self.upstream, self.downstream)
        everyone = np.arange(len(others.filled))
        # Those that its own row holds, and those whose row holds it.
        kept = np.flatnonzero(others.has(everyone, np.full(len(everyone), feature)))
        partners = np.union1d(rows.rows(np.array([feature])).partners, kept).astype(np.int32)
        mine = np.full(len(partners), feature, np.int32)
        cells = self.at(*((mine, partners) if downstream else (partners, mine)))
        return cells.take(_supported(cells, min_support))

    def supported(self, min_support: int) -> Iterator[PairCells]:
        self.count_gathered()
        for downstream, rows in ((True, self.downstream), (False, self.upstream)):
            for first in range(0, len(rows.filled), _BLOCK_ROWS):
                chosen = np.arange(first, min(first + _BLOCK_ROWS, len(rows.filled)))
                cells = self._cells(rows.rows(chosen, min_support), chosen, downstream)
                kept = _supported(cells, min_support)
                if not downstream:  # what the other direction holds with the support was given before
                    kept = kept[~self.downstream.has(cells.up[kept], cells.down[kept], min_support)]
                yield cells.take(kept)

    def block(self, ups: np.ndarray, downs: np.ndarray) -> np.ndarray:
        up, down = (axis.reshape(-1) for axis in np.meshgrid(ups, downs, indexing="ij"))
        return self.at(up, down).joint.reshape(len(ups), len(downs))

    def rows_by_half(self, first: int, step: int, rows: int) -> np.ndarray:
        self.count_gathered()
        chosen = np.arange(first, self.size[0], step)[:rows]
        found = self.downstream.rows(chosen)
        dense = np.zeros((len(chosen), self.size[1], 2), np.int64)
        dense[np.repeat(np.arange(len(chosen)), np.diff(found.offsets)), found.partners] = found.counts
        return dense

    def sample(self, cells: int) -> np.ndarray:
        self.count_gathered()
        step = max(1, min(int(self.downstream.filled.sum()) // cells, self.size[0] // _LEAST_SAMPLED))
        return self.downstream.rows(np.arange(0, self.size[0], step)).counts

    def offer_candidates(self, lists: CandidateLists) -> None:
        for cells in self.supported(1):
            lists.offer_cells(cells.up, cells.down, cells.joint, cells.errors)

    def likely_children(
        self, least: np.ndarray, most: np.ndarray, needed: np.ndarray, covered: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found = [np.empty((3, 0), np.int64)]
        for cells in self.supported(1):
            joint, up, down = cells.joint, cells.up, cells.down
            kept = (joint >= least[up]) & (joint < most[up]) & (joint >= needed[down])
            found.append(np.stack([up[kept], down[kept], joint[kept]]).astype(np.int64))
        parent, child, joint = np.concatenate(found, axis=1)
        children = np.bincount(parent, minlength=self.size[0])
        sums = np.bincount(parent, weights=joint, minlength=self.size[0])
        kept = (children[parent] >= 2) & (sums[parent] >= covered[parent])
        order = np.lexsort((child[kept], parent[kept]))
        return parent[kept][order], child[kept][order], joint[kept][order]

    def unlisted(self, downstream: bool) -> np.ndarray:
        self.count_gathered()
        return (self.downstream if downstream else self.upstream).bounds.copy()

    def _cells(self, found: Rows, chosen: np.ndarray, downstream: bool) -> PairCells:
        """What both directions know of the cells of some rows."""
        rows, partners = np.repeat(chosen, np.diff(found.offsets)).astype(np.int32), found.partners
        others = (self.upstream if downstream else self.downstream).find(partners, rows)
        ours = found.counts, found.errors, found.products
        return _both(*((rows, partners) if downstream else (partners, rows)), ours, others)

    def _heaviest(self) -> int:
        return max(int(self.downstream.weights.max()), int(self.upstream.weights.max()))


def bytes_for(up: int, down: int, slots: RowSlots) -> int:
    """Bytes of memory that the table of Du × Dd features may take."""
    sizes = ((up, down), (down, up))
    return sum(BoundedRows.bytes_for(rows, *_fitting(width, *slots)) for rows, width in sizes)


def _fitting(width: int, average: int, most: int) -> tuple[int, int]:
    """No row needs more slots than there are partners."""
    return min(average, width), min(most, width)


def _joined(parts: Sequence[Csr]) -> Csr:
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([0, *(len(part.features) for part in parts)])
    if ends[-1] > 2**31 - 1:
        raise DoesNotFit(f"{ends[-1]:,} activations of one layer in a batch: at most 2^31 − 1 are counted at a time")
    offsets = [part.offsets[:-1] + int(start) for part, start in zip(parts, ends[:-1], strict=True)]
    last = torch.tensor([int(ends[-1])], dtype=torch.int32)
    return Csr(
        torch.cat([*offsets, last]), torch.cat([part.features for part in parts]), torch.cat([part.values for part in parts])
    )


def _both(up: np.ndarray, down: np.ndarray, *ways: tuple[np.ndarray, np.ndarray, np.ndarray]) -> PairCells:
    """What two rows say of the same pairs: the larger count, which was taken in earlier, and the smaller most."""
    (counts, errors, products), (other_counts, other_errors, other_products) = ways
    joint, other_joint = counts.sum(axis=1), other_counts.sum(axis=1)
    other = other_joint > joint
    most = np.minimum(joint + errors, other_joint + other_errors)
    kept = np.where(other[:, None], other_counts, counts)
    return PairCells(up, down, kept, most - np.maximum(joint, other_joint), np.where(other, other_products, products))


def _supported(cells: PairCells, min_support: int) -> np.ndarray:
    """Which cells have the support, and at least as much of it as may be missing: what may be twice its count is not ranked."""
    joint = cells.joint
    return np.flatnonzero((joint >= min_support) & (joint >= cells.errors))
