"""What reads the rows of a shard (`kernels.cpu.bounded`), and packs and unpacks them for a file."""

from __future__ import annotations

import numpy as np

from kernels.cpu.bounded_counting import SHARDS
from kernels.cpu.compiled import compiled

_compile = compiled()
_inline = compiled(inline="always")


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
def find(which, rows, partners, arena, begins, filled, bounds, counts, errors, products):
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
def has(which, rows, partners, arena, begins, filled, least, there):
    for at in which:
        end = begins[rows[at]] + filled[rows[at]]
        place = _place(arena, begins[rows[at]], end, partners[at])
        there[at] = place < end and arena[place].partner == partners[at] and _count(arena[place]) >= least


@_compile
def lengths(which, rows, arena, begins, filled, least, lengths):
    for place in which:
        begin = begins[rows[place]]
        for at in range(begin, begin + filled[rows[place]]):
            lengths[place] += _count(arena[at]) >= least


@_compile
def gather(which, rows, arena, begins, filled, least, offsets, partners, counts, errors, products):
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
def pack_rows(first, last, number, arena, begins, filled, packed):
    """Rows first to last − 1 of a shard, by their number in it, one behind the other."""
    count = 0
    for place in range(first, last):
        row = number + place * SHARDS
        packed[count : count + filled[row]] = arena[begins[row] : begins[row] + filled[row]]
        count += filled[row]


@_compile
def unpack_rows(first, last, number, arena, begins, filled, packed):
    count = 0
    for place in range(first, last):
        row = number + place * SHARDS
        arena[begins[row] : begins[row] + filled[row]] = packed[count : count + filled[row]]
        count += filled[row]
