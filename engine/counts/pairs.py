"""Pair table: for every pair of features of one layer pair, how often both are active, and the sum of their products."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from engine.counts import memory
from engine.counts.joint_table import JointTable, PairCells
from engine.counts.part import Place, StatePart
from engine.counts.shape import RunShape
from kernels import CandidateLists, accumulate, likely_children, reserve
from kernels.tables import together, zero_tables

if TYPE_CHECKING:
    from engine.encoder.batch import SparseBatch
    from engine.encoder.encoded import SetAside

BYTES_PER_CELL = 2 * 4 + 8
BLOCK_CELLS = 1 << 22
"""Cells that are touched at a time where a whole table is gone through: 64 MiB beside the table, whatever its size."""

_RANKED_CELLS = 1 << 18  # gone through at a time for a ranking: what is made of them stays in the cache


class PairTable(StatePart, JointTable):
    """Over all tokens so far, for upstream feature i (row) and downstream feature j (column):

    Attributes:
        counts: int32 or int64 `[Du, Dd, 2]`, tokens of either half of the documents with both activations above their thresholds.
        products: float64 `[Du, Dd]`, Σa·b over all activations, whatever the thresholds.
    """

    kind = "pairs"

    def __init__(self, shape: RunShape, place: Place, counts: Tensor, products: Tensor) -> None:
        self.shape, self.place = shape, place
        self.counts, self.products = counts, products
        self._bound = 0  # no cell is larger than this

    @classmethod
    def places(cls, shape: RunShape) -> Sequence[Place]:
        return [pair for pair in shape.pairs if pair not in shape.bounded]

    @classmethod
    def bytes_at(cls, shape: RunShape, place: Place) -> int:
        up, down = place
        return shape.dictionaries[up] * shape.dictionaries[down] * BYTES_PER_CELL

    @classmethod
    def zero(cls, shape: RunShape, place: Place) -> Self:
        up, down = place
        return cls(shape, place, *zero_tables(shape.dictionaries[up], shape.dictionaries[down], shape.device))

    def make_room(self, batch: SparseBatch) -> None:
        self._make_room(batch.tokens)
        up, down = self.place
        reserve(batch.layers[up], batch.layers[down], self.products)

    def add(self, batch: SparseBatch, set_aside: Sequence[SetAside] = ()) -> None:
        up, down = self.place
        thresholds = self.shape.thresholds
        self._make_room(batch.tokens)
        halves = torch.from_numpy(batch.halves).to(self.counts.device)
        accumulate(batch.layers[up], batch.layers[down], halves, thresholds[up], thresholds[down], self.counts, self.products)
        self._bound += batch.tokens

    @property
    def size(self) -> tuple[int, int]:
        return self.products.shape[0], self.products.shape[1]

    @property
    def exact(self) -> bool:
        return True

    def at(self, up: np.ndarray, down: np.ndarray) -> PairCells:
        counts = self._halves((up, down)).astype(np.int64)
        if self.products.device.type == "cpu":
            products = self.products.numpy()[up, down]
        else:
            products = self.products[torch.from_numpy(up), torch.from_numpy(down)].cpu().numpy()
        return PairCells(up, down, counts, np.zeros(len(counts), np.int64), products)

    def line(self, feature: int, *, downstream: bool, min_support: int) -> PairCells:
        line = (feature, slice(None)) if downstream else (slice(None), feature)
        halves, products = self._halves(line), self.products[line].cpu().numpy()
        chosen = np.flatnonzero(halves.sum(axis=1, dtype=np.int64) >= min_support).astype(np.int32)
        own = np.full(len(chosen), feature, np.int32)
        up, down = (own, chosen) if downstream else (chosen, own)
        return PairCells(up, down, halves[chosen].astype(np.int64), np.zeros(len(chosen), np.int64), products[chosen])

    def supported(self, min_support: int) -> Iterator[PairCells]:
        width = self.size[1]
        for block in self.blocks_of(max(1, _RANKED_CELLS // width)):
            by_half, products = self.counts[block].reshape(-1, 2), self.products[block].reshape(-1)
            if by_half.device.type == "cpu":
                halves = by_half.numpy()
                at = np.flatnonzero(halves[:, 0] + halves[:, 1] >= min_support)
                counts, kept = halves[at].astype(np.int64), products.numpy()[at]
            else:
                chosen = (by_half.sum(dim=1) >= min_support).nonzero().squeeze(1)
                at, counts, kept = (part.cpu().numpy() for part in (chosen, by_half[chosen].long(), products[chosen]))
            row, column = np.divmod(at.astype(np.uint32), np.uint32(width))  # 32-bit division: three times as fast
            up, down = row.astype(np.int32) + np.int32(block.start), column.astype(np.int32)
            yield PairCells(up, down, counts, np.zeros(len(at), np.int64), kept)

    def block(self, ups: np.ndarray, downs: np.ndarray) -> np.ndarray:
        return self._halves(np.ix_(ups, downs)).sum(axis=-1, dtype=np.int64)

    def rows_by_half(self, first: int, step: int, rows: int) -> np.ndarray:
        return self.counts[first::step][:rows].cpu().numpy()

    def sample(self, cells: int) -> np.ndarray:
        return self._halves((slice(None, None, max(1, math.prod(self.size) // cells)),)).reshape(-1, 2)

    def offer_candidates(self, lists: CandidateLists) -> None:
        for block in self.blocks_of(max(1, _RANKED_CELLS // self.size[1])):
            lists.offer(block.start, together(self._halves(block)))

    def likely_children(
        self, least: np.ndarray, most: np.ndarray, needed: np.ndarray, covered: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self.counts.device.type == "cpu":
            return likely_children(self.counts.numpy(), least, most, needed, covered)
        return on_device(self.counts, self.blocks(), least, most, needed, covered)

    def unlisted(self, downstream: bool) -> np.ndarray:
        return np.zeros(self.size[0 if downstream else 1], np.int64)

    def _halves(self, cells: Any) -> np.ndarray:
        """Counts by half `[…, 2]` of anything that indexes `[Du, Dd]`. On the CPU by numpy: torch shares an index out over threads,
        and waits for a core that another process holds."""
        if self.counts.device.type == "cpu":
            return self.counts.numpy()[cells]
        return self.counts[cells].cpu().numpy()

    def merge(self, other: Self) -> None:
        if self._bound + other._bound > self.shape.count_limit:
            other._bound = other.largest()
        self._make_room(other._bound)
        for mine, theirs in zip(self.blocks(), other.blocks(), strict=True):
            self.counts[mine] += other.counts[theirs].to(self.counts.device)
            self.products[mine] += other.products[theirs].to(self.products.device)
        self._bound += other._bound

    def _make_room(self, more: int) -> None:
        """Promote int32 counts to int64 when a cell could pass the limit by `more` tokens.

        A cell grows by at most one per token, so tokens bound it without a look at the table. When that bound is spent the true
        maximum replaces it; the table is promoted once that is past half the limit (or `more` alone is), so that it is looked at
        once in 2^30 tokens at most and never too late.
        """
        if self.counts.dtype == torch.int32 and self._bound + more > self.shape.count_limit:
            self._bound = self.largest()
            if self._bound > self.shape.count_limit // 2 or self._bound + more > self.shape.count_limit:
                self.promote()

    def promote(self) -> None:
        """Make the counts int64; `DoesNotFit` when the machine has no room for that."""
        needed = self.counts.numel() * 8
        memory.require(needed, self.counts.device, f"layer pair {self.place}: int64 counts, needed before a count passes int32")
        self.counts = self.counts.to(torch.int64)

    def largest(self) -> int:
        """The largest count in the table."""
        if self.counts.device.type == "cpu":
            return max(int(together(self._halves(block)).max()) for block in self.blocks())
        return int(self.counts.max())

    def blocks(self) -> Sequence[slice]:
        """The table's rows in slices of about `BLOCK_CELLS` cells."""
        return self.blocks_of(max(1, BLOCK_CELLS // self.counts.shape[1]))

    def blocks_of(self, step: int) -> Sequence[slice]:
        """The table's rows in slices of `step` rows, the last one shorter."""
        rows = self.counts.shape[0]
        return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]

    def save(self, path: Path) -> int:
        from engine.counts.table_file import write_table

        return write_table(path, self)

    @classmethod
    def load(cls, shape: RunShape, place: Place, path: Path) -> Self:
        from engine.counts.table_file import read_table

        part = cls.zero(shape, place)
        read_table(path, part)
        part._bound = part.largest()
        return part


def on_device(
    counts: Tensor, blocks: Sequence[slice], least: np.ndarray, most: np.ndarray, needed: np.ndarray, covered: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`kernels.likely_children` of a table wherever it is, block by block: only what is found comes over to the host."""
    found = [np.empty((3, 0), np.int64)]
    for block in blocks:
        joint = counts[block].sum(dim=2)
        limits = (torch.from_numpy(array).to(joint.device) for array in (least[block, None], most[block, None], needed))
        low, high, of_child = limits
        kept = (joint >= low) & (joint < high) & (joint >= of_child)
        kept &= ((kept.sum(dim=1) >= 2) & ((joint * kept).sum(dim=1) >= torch.from_numpy(covered[block]).to(joint.device)))[:, None]
        rows, columns = kept.nonzero(as_tuple=True)
        found.append(torch.stack([rows + block.start, columns, joint[rows, columns]]).cpu().numpy())
    parent, child, joint = np.concatenate(found, axis=1)
    return parent, child, joint
