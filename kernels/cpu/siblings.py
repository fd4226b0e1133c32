"""Sibling groups: a parent in one layer and up to eight children in another. Which there may be, and how they fire together.

    table of two layers ──▶ per row the cells that may be children ──▶ rows that their children cover
    runs of two layers, groups ──▶ per token a mask of the group's features that are active ──▶ tokens by mask

A group costs the tokens on which its features fire, once for the parent and twice for a child; the masks of the tokens in between
stay 0 and are never looked at.
"""

import numpy as np

from kernels.cpu.compiled import compiled
from kernels.cpu.moments import Runs

SIBLINGS = 8
"""Children of a group, at most."""

CELLS = 1 << (SIBLINGS + 1)
PARENT = 1 << SIBLINGS
"""The bit of the parent in a cell's number; that of the child in slot c is 1 << c."""

ONE = np.uint64(1)

_compile = compiled()


@_compile
def _entries(starts, entries, feature):
    """The entries of a feature, from and to; unsigned, since a signed index could count from the end and costs a look."""
    at = np.uint64(feature)
    return np.uint64(entries[np.uint64(starts[at])]), np.uint64(entries[np.uint64(starts[at + ONE])])


@_compile
def _count(up_runs, down_runs, parents, children, tokens, cells):
    up_starts, _, up_entries, up_tokens, up_values, _ = up_runs
    starts, _, entries, token_of, values, _ = down_runs
    masks = np.zeros(tokens, np.uint16)
    for group in range(len(parents)):
        found = cells[group]
        counted = 0
        for slot in range(children.shape[1]):
            if children[group, slot] >= 0:
                bit = np.uint16(1 << slot)
                first, last = _entries(starts, entries, children[group, slot])
                for entry in range(first, last):
                    if values[entry] > 0:
                        masks[np.uint64(token_of[entry])] |= bit
        # The parent's tokens first: what is counted has mask 0 again, and what children still find marked is without the parent.
        first, last = _entries(up_starts, up_entries, parents[group])
        for entry in range(first, last):
            if up_values[entry] > 0:
                at = np.uint64(up_tokens[entry])
                found[np.uint64(PARENT + masks[at])] += 1
                masks[at] = 0
                counted += 1
        for slot in range(children.shape[1]):
            if children[group, slot] >= 0:
                first, last = _entries(starts, entries, children[group, slot])
                for entry in range(first, last):
                    at = np.uint64(token_of[entry])
                    if masks[at] != 0:
                        found[np.uint64(masks[at])] += 1
                        masks[at] = 0
                        counted += 1
        found[0] += tokens - counted


def sibling_cells(up: Runs, down: Runs, parents: np.ndarray, children: np.ndarray, tokens: int, cells: np.ndarray) -> None:
    """Add a segment to the truth tables of G groups, in place.

    Args:
        up, down: runs of the parents' and of the children's layer over the same tokens.
        parents: int32 [G].
        children: int32 [G, 8], −1 for an empty slot, no child twice in a group.
        tokens: how many the segment has.
        cells: int64 [G, 512], tokens by the features that are active: bit c for the child in slot c, bit 8 for the parent. Each
            row grows by `tokens`.

    Raises:
        ValueError: arrays of other shapes or types, or a feature that the layer does not have.
    """
    groups = len(parents)
    wanted = {
        "parents": (parents, (groups,), np.int32),
        "children": (children, (groups, SIBLINGS), np.int32),
        "cells": (cells, (groups, CELLS), np.int64),
    }
    for name, (array, shape, kind) in wanted.items():
        if array.shape != shape or array.dtype != kind:
            raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, it must be {np.dtype(kind)} {list(shape)}")
    for name, array, least, runs in (("parents", parents, 0, up), ("children", children, -1, down)):
        width = len(runs.starts) - 1
        if groups and (array.min() < least or array.max() >= width):
            raise ValueError(f"{name} holds {array.min()} to {array.max()}, every one must be in [{least}, {width})")
    _count(tuple(up), tuple(down), parents, np.ascontiguousarray(children), tokens, cells)


@_compile
def _find(counts, least, most, needed, covered, rows, columns, joints):
    """Writes as many cells as there is room for; how many there are."""
    found = 0
    row_columns, row_joints = np.empty(counts.shape[1], np.int64), np.empty(counts.shape[1], np.int64)
    for row in range(counts.shape[0]):
        low, high = least[row], most[row]
        many, total = 0, 0
        for column in range(counts.shape[1]):
            joint = np.int64(counts[row, column, 0]) + np.int64(counts[row, column, 1])
            if joint >= low and joint < high and joint >= needed[column]:
                row_columns[many], row_joints[many] = column, joint
                many += 1
                total += joint
        if many >= 2 and total >= covered[row]:
            for at in range(min(many, len(rows) - found)):
                rows[found + at], columns[found + at], joints[found + at] = row, row_columns[at], row_joints[at]
            found += many
    return found


def likely_children(
    counts: np.ndarray, least: np.ndarray, most: np.ndarray, needed: np.ndarray, covered: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cells of a table that may be a parent's children, of rows that have two or more which cover them.

    Args:
        counts: int32 or int64 [n, Dd, 2], joint counts by half.
        least, most: int64 [n], a child's joint count is at least the one and below the other.
        needed: int64 [Dd], and at least this, which depends on the child.
        covered: int64 [n], the smallest sum of the joint counts of a row's children.

    Returns:
        Row, column and joint count int64 [k] each, in the order of the table.

    Raises:
        ValueError: arrays of other shapes or types.
    """
    if counts.ndim != 3 or counts.shape[2] != 2 or counts.dtype.kind != "i":
        raise ValueError(f"counts is {counts.dtype} {list(counts.shape)}, it must be integers [n, Dd, 2]")
    for name, array, size in (("least", least, 0), ("most", most, 0), ("needed", needed, 1), ("covered", covered, 0)):
        if array.shape != (counts.shape[size],) or array.dtype != np.int64:
            raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, it must be int64 [{counts.shape[size]}]")
    room = 4096
    while True:
        cells = [np.empty(room, np.int64) for _ in range(3)]
        found = _find(counts, least, most, needed, covered, *cells)
        if found <= room:
            row, column, joint = (part[:found] for part in cells)
            return row, column, joint
        room = found
