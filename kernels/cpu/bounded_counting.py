"""What changes the rows of a shard (`kernels.cpu.bounded`): extents that grow and move, a batch or other rows merged into them."""

from __future__ import annotations

import numpy as np

from kernels.cpu.accumulate import HALF_B, HALF_BITS, MOST_TOKENS, ONE, TWO, prefetch_entries
from kernels.cpu.accumulate import TOKENS_AHEAD as AHEAD
from kernels.cpu.compiled import compiled
from kernels.cpu.native import add_to_cell, trailing_zeros

SHARDS = 32

_TOP, _LIVE, _OWED = range(3)  # of a shard: where its free end begins, slots in extents, slots that rows may still claim
_BINS = 256
_SIX, _LOW_SIX = np.uint64(6), np.uint64(63)

_compile = compiled()
_inline = compiled(inline="always")


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
def add(number, shard, arena, begins, slots, filled, bounds, weights, share, most, sums, words, summary, starts, columns, values,
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
def merge(number, shard, arena, begins, slots, filled, bounds, weights, share, most, theirs, their_begins, their_filled,
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
