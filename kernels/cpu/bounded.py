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
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numba
import numpy as np

from kernels.cpu.accumulate import HALF_B, HALF_BITS, MOST_TOKENS, ONE, TWO, check_offsets, pack, prefetch_entries, turn
from kernels.cpu.accumulate import TOKENS_AHEAD as AHEAD
from kernels.cpu.native import add_to_cell, trailing_zeros
from kernels.cpu.threads import run_split, threads_for

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.csr import Csr

SHARDS = 32
LEAST_PER_THREAD = 20_000  # updates

NARROW = np.dtype([("partner", "<u4"), ("error", "<u4"), ("count_a", "<u4"), ("count_b", "<u4"), ("product", "<f8")])
"""One slot (24 bytes): the partner, what may have been missed of it, counts by half, Σab."""

WIDE = np.dtype(
    [("partner", "<u4"), ("unused", "<u4"), ("error", "<u8"), ("count_a", "<u8"), ("count_b", "<u8"), ("product", "<f8")]
)
"""The same where counts may pass uint32 (40 bytes)."""

NARROW_LIMIT = 2**32 - 1

ROW_BYTES = 8 + 4 + 4 + 8 + 8  # beside its slots: begin, slots, filled, bound, weight

_TOP, _LIVE, _OWED = range(3)  # of a shard: where its free end begins, slots in extents, slots that rows may still claim
_BINS = 256
_SIX, _LOW_SIX = np.uint64(6), np.uint64(63)

_compile = cast("Callable[[Callable[..., Any]], Callable[..., Any]]", numba.njit(nogil=True, cache=True))
_inline = cast("Callable[[Callable[..., Any]], Callable[..., Any]]", numba.njit(nogil=True, cache=True, inline="always"))


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
        self._each_shard(lambda shard, sums: _add(shard, *self._of_shard(shard), *sums, *batch), int(updates.sum()))

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
        self._each_shard(lambda shard, _: _merge(shard, *self._of_shard(shard), other.arenas[shard], *theirs), work)

    def find(self, rows: np.ndarray, partners: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Counts int64 `[n, 2]`, errors int64 `[n]` and Σab float64 `[n]` of some cells; of one that is not kept 0, the row's
        bound, and 0."""
        rows, partners = np.ascontiguousarray(rows, np.int64), np.ascontiguousarray(partners, np.int64)
        counts, errors, products = np.zeros((len(rows), 2), np.int64), np.zeros(len(rows), np.int64), np.zeros(len(rows))
        shards = rows % SHARDS
        for shard, arena in enumerate(self.arenas):
            which = np.flatnonzero(shards == shard)
            if len(which):
                _find(which, rows, partners, arena, self.begins, self.filled, self.bounds, counts, errors, products)
        return counts, errors, products

    def has(self, rows: np.ndarray, partners: np.ndarray, least: int = 0) -> np.ndarray:
        """bool `[n]`: whether a row holds a partner, with a count of at least so many."""
        rows, partners = np.ascontiguousarray(rows, np.int64), np.ascontiguousarray(partners, np.int64)
        there, shards = np.zeros(len(rows), bool), rows % SHARDS
        for shard, arena in enumerate(self.arenas):
            which = np.flatnonzero(shards == shard)
            if len(which):
                _has(which, rows, partners, arena, self.begins, self.filled, least, there)
        return there

    def rows(self, chosen: np.ndarray, least: int = 0) -> Rows:
        """The partners of some rows, int64 `[R]`, in their order; those with a count of at least so many."""
        chosen = np.ascontiguousarray(chosen, np.int64)
        lengths, shards = np.zeros(len(chosen), np.int64), chosen % SHARDS
        of_shards = [(np.flatnonzero(shards == shard), arena) for shard, arena in enumerate(self.arenas)]
        for which, arena in of_shards:
            if len(which):
                _lengths(which, chosen, arena, self.begins, self.filled, least, lengths)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        total = int(offsets[-1])
        found = Rows(offsets, np.empty(total, np.int32), np.empty((total, 2), np.int64), np.empty(total, np.int64), np.empty(total))
        for which, arena in of_shards:
            if len(which):
                _gather(which, chosen, arena, self.begins, self.filled, least, *found)
        return found

    def packed(self, shard: int, first: int, last: int) -> np.ndarray:
        """The entries of a shard's rows first to last − 1, by their number in it, one row behind the other."""
        arena = self.arenas[shard]
        found = np.empty(int(self.filled[shard::SHARDS][first:last].sum()), arena.dtype)
        _pack(first, last, shard, arena, self.begins, self.filled, found)
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
        _unpack(first, last, shard, self.arenas[shard], self.begins, self.filled, packed)

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


@_compile
def _slide(number, shard, arena, begins, slots):
    """Slide the extents of a shard together, so that what rows have left behind is free at its end."""
    rows = np.arange(number, len(slots), SHARDS)
    rows = rows[slots[rows] > 0]
    top = np.int64(0)
    for row in rows[np.argsort(begins[rows])]:
        begin, size = begins[row], np.int64(slots[row])
        if begin != top:
            for at in range(size):
                arena[top + at] = arena[begin + at]
            begins[row] = top
        top += size
    shard[_TOP] = top


@_compile
def _claim(number, shard, arena, begins, slots, filled, share, most, row, needed):
    """Move a row to as many slots as it needs and may have, with a quarter more to grow into; what it holds comes along."""
    old = np.int64(slots[row])
    owed = max(0, share - old)
    free = len(arena) - most - shard[_LIVE] - (shard[_OWED] - owed)  # that no other row is owed; `most` so that any can move
    size = min(needed + needed // 4, most, old + free)
    if size <= old:
        return
    if shard[_TOP] + size > len(arena):
        if size > share and shard[_TOP] - shard[_LIVE] < len(arena) // 16:
            return  # sliding all of them for so little would cost more than it gives
        _slide(number, shard, arena, begins, slots)
    begin = shard[_TOP]
    for at in range(filled[row]):
        arena[begin + at] = arena[begins[row] + at]
    begins[row], slots[row] = begin, size
    shard[_TOP] += size
    shard[_LIVE] += size - old
    shard[_OWED] -= owed - max(0, share - size)


@_compile
def _largest(values, rank):
    """The value at a rank, 0 being the largest; the values are reordered (Hoare's quickselect)."""
    low, high = 0, len(values) - 1
    while low < high:
        pivot = values[(low + high) >> 1]
        left, right = low, high
        while left <= right:
            while values[left] > pivot:
                left += 1
            while values[right] < pivot:
                right -= 1
            if left <= right:
                values[left], values[right] = values[right], values[left]
                left += 1
                right -= 1
        if rank <= right:
            high = right
        elif rank >= left:
            low = left
        else:
            return values[rank]
    return values[low]


@_inline
def _most(entry):
    """The most that a partner can have been counted."""
    return np.int64(entry.error) + np.int64(entry.count_a) + np.int64(entry.count_b)


@_compile
def _new_bound(merged, count, bound, rank):
    """The value at a rank among the most that any of some partners can have been counted.

    Nearly all are a little above the row's bound: they are counted by how much, and only where that does not tell sorted.
    """
    tally = np.zeros(_BINS, np.int64)
    for at in range(count):
        tally[min(_BINS - 1, _most(merged[at]) - bound)] += 1
    above, place = np.int64(0), _BINS
    while above <= rank:
        place -= 1
        above += tally[place]
    if place < _BINS - 1:
        return bound + place
    values, filled = np.empty(above, np.int64), 0
    for at in range(count):
        if _most(merged[at]) - bound >= _BINS - 1:
            values[filled] = _most(merged[at])
            filled += 1
    return _largest(values, rank)


@_compile
def _put(number, shard, arena, begins, slots, filled, bounds, share, most, row, merged, count):
    """Make some partners, by rising index, the row: all of them if there is room, and else those above its new bound."""
    if count > slots[row]:
        _claim(number, shard, arena, begins, slots, filled, share, most, row, count)
    begin, size = begins[row], np.int64(slots[row])
    if count <= size:
        arena[begin : begin + count] = merged[:count]
        filled[row] = count
        return
    bound = _new_bound(merged, count, bounds[row], size)
    left = 0
    for at in range(count):
        if _most(merged[at]) > bound:
            arena[begin + left] = merged[at]
            left += 1
    filled[row], bounds[row] = left, bound


@_compile
def _add(number, shard, arena, begins, slots, filled, bounds, weights, share, most, sums, words, summary, starts, columns, values,
         updates, offsets, indices, packed, halves, signs):  # fmt: skip
    """Adds a batch to the rows of one shard; the batch as in `kernels.cpu.accumulate.add_rows`.

    sums float64 [2 Dd], words uint64 (a bit per partner), summary uint64 (a bit per word): all zero, and left so.
    """
    merged = np.empty(1024, arena.dtype)
    for row in range(number, len(slots), SHARDS):
        first, last = np.uint64(starts[row]), np.uint64(starts[row + 1])
        if first == last or updates[row] == 0:
            continue
        for column in range(first, last):
            prefetch_entries(column + AHEAD, last, columns, offsets, indices)
            token, a = columns[TWO * column], np.float64(values[TWO * column + ONE])
            one = HALF_B if halves[token] else 1.0
            for entry in range(np.uint64(offsets[token]), np.uint64(offsets[token + ONE])):
                partner, b = np.uint64(indices[TWO * entry]), np.float64(packed[TWO * entry + ONE])
                if signs is None:
                    add_to_cell(sums, partner, a * b, one)
                else:
                    add_to_cell(sums, partner, abs(a * b), one * ((a > 0) & (b > 0)))
                _mark(words, summary, partner)
        begin, held = begins[row], np.int64(filled[row])
        for at in range(begin, begin + held):
            _mark(words, summary, np.uint64(arena[at].partner))
        most_partners = held + min(updates[row], len(sums) // 2)
        if most_partners >= len(merged):
            merged = np.empty(2 * most_partners, arena.dtype)
        count, at, weight = 0, np.int64(0), np.int64(0)
        for place in range(len(summary)):
            groups = summary[place]
            while groups != 0:
                group = np.uint64(place) << _SIX | np.uint64(trailing_zeros(groups))
                groups &= groups - ONE
                word = words[group]
                words[group] = 0
                while word != 0:
                    partner = group << _SIX | np.uint64(trailing_zeros(word))
                    word &= word - ONE
                    both = np.int64(sums[TWO * partner + ONE])
                    in_a, in_b = both & (MOST_TOKENS - 1), both >> HALF_BITS
                    weight += in_a + in_b
                    if at < held and arena[begin + at].partner == partner:
                        merged[count] = arena[begin + at]
                        merged[count].count_a += in_a
                        merged[count].count_b += in_b
                        merged[count].product += sums[TWO * partner]
                        at += 1
                    else:
                        merged[count].partner, merged[count].error = partner, bounds[row]
                        merged[count].count_a, merged[count].count_b = in_a, in_b
                        merged[count].product = sums[TWO * partner]
                    sums[TWO * partner] = 0.0
                    sums[TWO * partner + ONE] = 0.0
                    count += 1
            summary[place] = 0
        weights[row] += weight
        _put(number, shard, arena, begins, slots, filled, bounds, share, most, row, merged, count)


@_inline
def _mark(words, summary, partner):
    group = partner >> _SIX
    words[group] |= ONE << (partner & _LOW_SIX)
    summary[group >> _SIX] |= ONE << (group & _LOW_SIX)


@_compile
def _merge(number, shard, arena, begins, slots, filled, bounds, weights, share, most, theirs, their_begins, their_filled,
           their_bounds, their_weights):  # fmt: skip
    """Adds the rows of one shard of another table."""
    for row in range(number, len(slots), SHARDS):
        weights[row] += their_weights[row]
        mine, its = np.int64(filled[row]), np.int64(their_filled[row])
        bound, their_bound = bounds[row], their_bounds[row]
        if its == 0 and their_bound == 0:
            continue
        merged = np.empty(mine + its, arena.dtype)
        count, at, other = 0, begins[row], their_begins[row]
        end, other_end = at + mine, other + its
        while at < end or other < other_end:
            # What one of them does not have may have been up to its bound there.
            if other == other_end or (at < end and arena[at].partner < theirs[other].partner):
                merged[count] = arena[at]
                merged[count].error += their_bound
                at += 1
            else:
                entry = theirs[other]
                known = at < end and arena[at].partner == entry.partner
                merged[count].partner = entry.partner
                merged[count].error = entry.error + (arena[at].error if known else bound)
                merged[count].count_a = entry.count_a + (arena[at].count_a if known else 0)
                merged[count].count_b = entry.count_b + (arena[at].count_b if known else 0)
                merged[count].product = entry.product + (arena[at].product if known else 0.0)
                other += 1
                if known:
                    at += 1
            count += 1
        bounds[row] = bound + their_bound
        _put(number, shard, arena, begins, slots, filled, bounds, share, most, row, merged, count)


@_inline
def _place(arena, begin, end, partner):
    """Where a partner is or would be in a row."""
    while begin < end:
        middle = (begin + end) >> 1
        if arena[middle].partner < partner:
            begin = middle + 1
        else:
            end = middle
    return begin


@_inline
def _count(entry):
    return np.int64(entry.count_a) + np.int64(entry.count_b)


@_compile
def _find(which, rows, partners, arena, begins, filled, bounds, counts, errors, products):
    for at in which:
        row, partner = rows[at], partners[at]
        end = begins[row] + filled[row]
        place = _place(arena, begins[row], end, partner)
        errors[at] = bounds[row]
        if place < end and arena[place].partner == partner:
            entry = arena[place]
            counts[at, 0], counts[at, 1] = entry.count_a, entry.count_b
            errors[at], products[at] = entry.error, entry.product


@_compile
def _has(which, rows, partners, arena, begins, filled, least, there):
    for at in which:
        end = begins[rows[at]] + filled[rows[at]]
        place = _place(arena, begins[rows[at]], end, partners[at])
        there[at] = place < end and arena[place].partner == partners[at] and _count(arena[place]) >= least


@_compile
def _lengths(which, rows, arena, begins, filled, least, lengths):
    for place in which:
        begin = begins[rows[place]]
        for at in range(begin, begin + filled[rows[place]]):
            lengths[place] += _count(arena[at]) >= least


@_compile
def _gather(which, rows, arena, begins, filled, least, offsets, partners, counts, errors, products):
    for place in which:
        begin, cell = begins[rows[place]], offsets[place]
        for at in range(begin, begin + filled[rows[place]]):
            if _count(arena[at]) >= least:
                entry = arena[at]
                partners[cell] = entry.partner
                counts[cell, 0], counts[cell, 1] = entry.count_a, entry.count_b
                errors[cell], products[cell] = entry.error, entry.product
                cell += 1


@_compile
def _pack(first, last, number, arena, begins, filled, packed):
    """Rows first to last − 1 of a shard, by their number in it, one behind the other."""
    count = 0
    for place in range(first, last):
        row = number + place * SHARDS
        packed[count : count + filled[row]] = arena[begins[row] : begins[row] + filled[row]]
        count += filled[row]


@_compile
def _unpack(first, last, number, arena, begins, filled, packed):
    count = 0
    for place in range(first, last):
        row = number + place * SHARDS
        arena[begins[row] : begins[row] + filled[row]] = packed[count : count + filled[row]]
        count += filled[row]
