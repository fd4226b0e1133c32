"""Pair table: for every pair of features of one layer pair, how often both are active, and the sum of their products."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from engine.counts import memory
from engine.counts.part import Place, StatePart
from engine.counts.shape import RunShape
from kernels import accumulate

if TYPE_CHECKING:
    from engine.encoder.batch import SparseBatch
    from engine.encoder.encoded import SetAside

BYTES_PER_CELL = 2 * 4 + 8
BLOCK_CELLS = 1 << 22
"""Cells that are touched at a time where a whole table is gone through: 64 MiB beside the table, whatever its size."""


class PairTable(StatePart):
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
        return shape.pairs

    @classmethod
    def bytes_at(cls, shape: RunShape, place: Place) -> int:
        up, down = place
        return shape.dictionaries[up] * shape.dictionaries[down] * BYTES_PER_CELL

    @classmethod
    def zero(cls, shape: RunShape, place: Place) -> Self:
        size = tuple(shape.dictionaries[layer] for layer in place)
        # numpy asks the kernel for huge pages and torch.zeros does not: 10 % of the time of a small batch at D = 24,576.
        counts, products = torch.from_numpy(np.zeros((*size, 2), np.int32)), torch.from_numpy(np.zeros(size))
        return cls(shape, place, counts.to(shape.device), products.to(shape.device))

    def make_room(self, batch: SparseBatch) -> None:
        self._make_room(batch.tokens)

    def add(self, batch: SparseBatch, set_aside: Sequence[SetAside] = ()) -> None:
        up, down = self.place
        thresholds = self.shape.thresholds
        self._make_room(batch.tokens)
        halves = torch.from_numpy(batch.halves).to(self.counts.device)
        accumulate(batch.layers[up], batch.layers[down], halves, thresholds[up], thresholds[down], self.counts, self.products)
        self._bound += batch.tokens

    def joint(self, cells: Any) -> np.ndarray:
        """int64, the joint counts of some cells: anything that indexes `[Du, Dd]`."""
        return self.halves(cells).sum(axis=-1, dtype=np.int64)

    def halves(self, cells: Any) -> np.ndarray:
        """The same per half, `[…, 2]`. On the CPU by numpy: torch shares an index out over threads, and waits for a core that
        another process holds."""
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
