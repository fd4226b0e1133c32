"""Bounded rows: of every feature the partners that it fires with most often, in the memory there is.

    up Csr ──▶ columns (as in `kernels.cpu.accumulate`) ┐   sums of the batch, one cell   ┐
    down Csr ──▶ packed entries                         ┴─▶ per partner; a bit for each   ┴─▶ merged with the row, by rising partner
    no room for all? the (slots + 1)-th largest count + error becomes the row's bound, and what is not above it is dropped

What is kept of a partner is exact since it was taken in; `error` is the row's bound at that moment, the most that it can have had
before. So the true count lies in [count, count + error], that of a partner outside of the row in [0, bound], and bound is at most
weight / (slots + 1) (`kernels.bounded_reference`, where all of this is written the plain way).

The rows of a layer lie in a few shards, row r in shard r % SHARDS: an arena of entries (24 bytes; 40 once a count may pass uint32)
in which each row has one extent. A row that needs more moves to the end of the arena; when that has no end left, all extents are
slid together. A row may take what is left of the arena as long as every other row can still have its share. Shards are independent,
so the same batches give the same table whatever the number of threads.

What decided the design (one core, D = 24,576, L0 = 60, 1,024 partners a row): hash tables as rows took 32 ns an update, most of
them for a partner that is not there and for pruning; sorted rows that are merged with the sums of a batch hold 1.4 times as much
in the same memory, and cost some 7 ns for each partner that the row or the batch has. So batches must be large:
`engine.counts.bounded` gathers them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kernels.cpu import bounded_counting as counting
from kernels.cpu import bounded_reading as reading
from kernels.cpu.accumulate import MOST_TOKENS, check_offsets, pack, turn
from kernels.cpu.bounded_counting import SHARDS
from kernels.cpu.threads import run_split, threads_for

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.csr import Csr

LEAST_PER_THREAD = 20_000  # updates

NARROW = np.dtype([("partner", "<u4"), ("error", "<u4"), ("count_a", "<u4"), ("count_b", "<u4"), ("product", "<f8")])
"""One slot (24 bytes): the partner, what may have been missed of it, counts by half, Σab."""

WIDE = np.dtype(
    [("partner", "<u4"), ("unused", "<u4"), ("error", "<u8"), ("count_a", "<u8"), ("count_b", "<u8"), ("product", "<f8")]
)
"""The same where counts may pass uint32 (40 bytes)."""

NARROW_LIMIT = 2**32 - 1

ROW_BYTES = 8 + 4 + 4 + 8 + 8  # beside its slots: begin, slots, filled, bound, weight


class Rows(NamedTuple):
    """Some rows' partners, row by row, by rising index.

    Attributes:
        offsets: int64 `[R + 1]`, row r has the cells `offsets[r]` to `offsets[r + 1]`.
        partners: int32 `[n]`.
        counts: int64 `[n, 2]`, by half.
        errors: int64 `[n]`.
        products: float64 `[n]`.
    """

    offsets: np.ndarray
    partners: np.ndarray
    counts: np.ndarray
    errors: np.ndarray
    products: np.ndarray


class BoundedRows:
    """The rows of one direction of a layer pair.

    Attributes:
        width: features of the other layer.
        most: slots that a row may have; share: slots that every row can have, whatever the others take.
        begins: int64 `[D]`, where a row's extent begins in its shard; slots: int32 `[D]`, its size, 0 for none yet.
        filled: int32 `[D]`, partners in it.
        bounds: int64 `[D]`, the most that a partner outside of the row can have been counted.
        weights: int64 `[D]`, W: all that was counted in the row.
        arenas: per shard `NARROW` or `WIDE` `[slots]`.
    """

    def __init__(self, rows: int, width: int, average: int, most: int) -> None:
        """
        Args:
            rows: features of this layer.
            width: of the other one.
            average: slots per row; half of them are every row's own.
            most: slots that a row may have.

        Raises:
            ValueError: sizes that no rows can have.
        """
        if min(rows, width, average) < 1 or most < average:
            raise ValueError(f"{rows} rows of {width} partners with {average} of at most {most} slots: all must be at least 1")
        self.width, self.average, self.most = width, average, most
        self.share = max(1, average // 2)
        self.begins, self.slots = np.zeros(rows, np.int64), np.zeros(rows, np.int32)
        self.filled = np.zeros(rows, np.int32)
        self.bounds, self.weights = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        sizes = [len(range(shard, rows, SHARDS)) for shard in range(min(SHARDS, rows))]
        # Room for one row to move, too. np.zeros takes no memory before it is written to: a state grows with what is counted.
        self.arenas = [np.zeros(size * average + most, NARROW) for size in sizes]
        self.shards = np.array([[0, 0, size * self.share] for size in sizes], np.int64)

    @staticmethod
    def bytes_for(rows: int, average: int, most: int) -> int:
        """Bytes of memory that such rows may take."""
        return (rows * average + min(SHARDS, rows) * most) * NARROW.itemsize + rows * ROW_BYTES

    @property
    def wide(self) -> bool:
        """Whether counts are uint64."""
        return self.arenas[0].dtype == WIDE

    def widen(self) -> None:
        """Make room for counts above uint32."""
        for shard, arena in enumerate(self.arenas):
            wide = np.zeros(len(arena), WIDE)
            for name in NARROW.names or ():
                wide[name] = arena[name]
            self.arenas[shard] = wide

    def add(self, up: Csr, down: Csr, halves: Tensor, up_thresholds: Tensor | None, down_thresholds: Tensor | None) -> None:
        """Add a batch of T tokens, up being this layer and down the other one.

        A count grows where both activations are above their thresholds, Σab by every token, as in `kernels.accumulate`.

        Raises:
            ValueError: what does not fit, named.
        """
        up_offsets, up_features, up_values = (array.numpy() for array in up)
        down_offsets, down_features, down_values = (array.numpy() for array in down)
        up_limits, down_limits = (None if limits is None else limits.numpy() for limits in (up_thresholds, down_thresholds))
        rows = len(self.slots)
        if up.tokens >= MOST_TOKENS:
            raise ValueError(f"a batch of {up.tokens} tokens: at most {MOST_TOKENS - 1} are counted at a time")
        check_offsets("up", up_offsets, len(up_features))
        check_offsets("down", down_offsets, len(down_features))
        starts, updates = np.zeros(rows + 1, np.int64), np.zeros(rows, np.int64)
        columns = np.empty(2 * len(up_features), np.uint32)
        values = columns.view(np.float32)
        if not turn(up_offsets, up_features, up_values, down_offsets, up_limits, starts, columns, values, updates):
            raise ValueError(f"up.features has values from {up_features.min()} to {up_features.max()}, they must be in [0, {rows})")
        indices = np.empty(2 * len(down_features), np.uint32)
        packed = indices.view(np.float32)
        if not pack(down_features, down_values, down_limits, self.width, indices, packed):
            raise ValueError(
                f"down.features has values from {down_features.min()} to {down_features.max()}, they must be in [0, {self.width})"
            )
        signs = None if up_limits is None and down_limits is None else True
        batch = (starts, columns, values, updates, down_offsets, indices, packed, halves.numpy(), signs)
        self._each_shard(lambda shard, sums: counting.add(shard, *self._of_shard(shard), *sums, *batch), int(updates.sum()))

    def merge(self, other: BoundedRows) -> None:
        """Add what other rows of the same layers have counted; they stay as they are."""
        if (len(self.slots), self.width) != (len(other.slots), other.width):
            raise ValueError(
                f"{len(other.slots)} rows of {other.width} partners can't be merged into {len(self.slots)} of {self.width}"
            )
        if other.wide and not self.wide:
            self.widen()
        theirs = (other.begins, other.filled, other.bounds, other.weights)
        work = int(self.filled.sum()) + int(other.filled.sum())
        self._each_shard(lambda shard, _: counting.merge(shard, *self._of_shard(shard), other.arenas[shard], *theirs), work)

    def find(self, rows: np.ndarray, partners: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Counts int64 `[n, 2]`, errors int64 `[n]` and Σab float64 `[n]` of some cells; of one that is not kept 0, the row's
        bound, and 0."""
        rows, partners = np.ascontiguousarray(rows, np.int64), np.ascontiguousarray(partners, np.int64)
        counts, errors, products = np.zeros((len(rows), 2), np.int64), np.zeros(len(rows), np.int64), np.zeros(len(rows))
        shards = rows % SHARDS
        for shard, arena in enumerate(self.arenas):
            which = np.flatnonzero(shards == shard)
            if len(which):
                reading.find(which, rows, partners, arena, self.begins, self.filled, self.bounds, counts, errors, products)
        return counts, errors, products

    def has(self, rows: np.ndarray, partners: np.ndarray, least: int = 0) -> np.ndarray:
        """bool `[n]`: whether a row holds a partner, with a count of at least so many."""
        rows, partners = np.ascontiguousarray(rows, np.int64), np.ascontiguousarray(partners, np.int64)
        there, shards = np.zeros(len(rows), bool), rows % SHARDS
        for shard, arena in enumerate(self.arenas):
            which = np.flatnonzero(shards == shard)
            if len(which):
                reading.has(which, rows, partners, arena, self.begins, self.filled, least, there)
        return there

    def rows(self, chosen: np.ndarray, least: int = 0) -> Rows:
        """The partners of some rows, int64 `[R]`, in their order; those with a count of at least so many."""
        chosen = np.ascontiguousarray(chosen, np.int64)
        lengths, shards = np.zeros(len(chosen), np.int64), chosen % SHARDS
        of_shards = [(np.flatnonzero(shards == shard), arena) for shard, arena in enumerate(self.arenas)]
        for which, arena in of_shards:
            if len(which):
                reading.lengths(which, chosen, arena, self.begins, self.filled, least, lengths)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        total = int(offsets[-1])
        found = Rows(offsets, np.empty(total, np.int32), np.empty((total, 2), np.int64), np.empty(total, np.int64), np.empty(total))
        for which, arena in of_shards:
            if len(which):
                reading.gather(which, chosen, arena, self.begins, self.filled, least, *found)
        return found

    def packed(self, shard: int, first: int, last: int) -> np.ndarray:
        """The entries of a shard's rows first to last − 1, by their number in it, one row behind the other."""
        arena = self.arenas[shard]
        found = np.empty(int(self.filled[shard::SHARDS][first:last].sum()), arena.dtype)
        reading.pack_rows(first, last, shard, arena, self.begins, self.filled, found)
        return found

    def restore(self, slots: np.ndarray, filled: np.ndarray, bounds: np.ndarray, weights: np.ndarray) -> None:
        """Make rows that hold nothing these rows, whose entries `unpack` brings.

        Raises:
            ValueError: they do not fit into the arenas.
        """
        for shard, arena in enumerate(self.arenas):
            of_shard = slots[shard::SHARDS].astype(np.int64)
            if of_shard.sum() + self.most > len(arena):  # saved with more room: no row keeps more than it holds
                of_shard = filled[shard::SHARDS].astype(np.int64)
            live = int(of_shard.sum())
            if live + self.most > len(arena):
                raise ValueError(f"{live:,} partners in a shard that has room for {len(arena) - self.most:,}")
            self.begins[shard::SHARDS] = np.cumsum(of_shard) - of_shard
            self.slots[shard::SHARDS] = of_shard
            owed = int(np.maximum(0, self.share - of_shard).sum())
            self.shards[shard] = live, live, owed
        self.filled[:], self.bounds[:], self.weights[:] = filled, bounds, weights

    def unpack(self, shard: int, first: int, last: int, packed: np.ndarray) -> None:
        """Fill rows as `packed` gave them."""
        reading.unpack_rows(first, last, shard, self.arenas[shard], self.begins, self.filled, packed)

    def _of_shard(self, shard: int) -> tuple[Any, ...]:
        own = (self.begins, self.slots, self.filled, self.bounds, self.weights)
        return self.shards[shard], self.arenas[shard], *own, self.share, self.most

    def _each_shard(self, call: Callable[[int, tuple[np.ndarray, ...]], None], work: int) -> None:
        threads = threads_for(work, LEAST_PER_THREAD)
        run_split([partial(self._run, call, range(first, len(self.arenas), threads)) for first in range(threads)])

    def _run(self, call: Callable[[int, tuple[np.ndarray, ...]], None], shards: Sequence[int]) -> None:
        words = -(-self.width // 64)
        sums = (np.zeros(2 * self.width), np.zeros(words, np.uint64), np.zeros(-(-words // 64), np.uint64))
        for shard in shards:
            call(shard, sums)
