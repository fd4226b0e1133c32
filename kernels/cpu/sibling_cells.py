"""Truth tables of sibling groups: a parent in one layer and up to eight children in another, over the tokens of a segment.

    runs of two layers, groups ──▶ per token a mask of the group's features that are active ──▶ tokens by mask

A group costs the tokens on which its features fire, three times for the parent and twice for a child; the masks of the tokens in
between stay 0 and are never looked at.
"""

from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np

from kernels.cpu.moments import Runs

SIBLINGS = 8
"""Children of a group, at most."""

CELLS = 1 << (SIBLINGS + 1)
PARENT = np.uint16(1 << SIBLINGS)
"""The bit of the parent in a cell's number; that of the child in slot c is 1 << c."""

# numba's decorator is untyped; `cache` keeps the compiled code beside the source.
_compile = cast("Callable[[Callable[..., Any]], Callable[..., Any]]", numba.njit(nogil=True, cache=True))


@_compile
def _count(up_runs, down_runs, parents, children, tokens, cells):
    up_starts, _, up_entries, up_tokens, up_values, _ = up_runs
    starts, _, entries, token_of, values, _ = down_runs
    masks = np.zeros(tokens, np.uint16)
    for group in range(len(parents)):
        found = cells[group]
        filled = 0
        for slot in range(children.shape[1]):
            child = children[group, slot]
            if child < 0:
                continue
            bit = np.uint16(1 << slot)
            for entry in range(entries[starts[child]], entries[starts[child + 1]]):
                if values[entry] > 0:
                    masks[token_of[entry]] |= bit
        first, last = up_entries[up_starts[parents[group]]], up_entries[up_starts[parents[group] + 1]]
        for entry in range(first, last):
            if up_values[entry] > 0:
                masks[up_tokens[entry]] |= PARENT
        # Every token that is marked is counted once, where it is met first, and its mask is 0 again.
        for entry in range(first, last):
            mask = masks[up_tokens[entry]]
            if mask:
                found[mask] += 1
                filled += 1
                masks[up_tokens[entry]] = 0
        for slot in range(children.shape[1]):
            child = children[group, slot]
            if child < 0:
                continue
            for entry in range(entries[starts[child]], entries[starts[child + 1]]):
                mask = masks[token_of[entry]]
                if mask:
                    found[mask] += 1
                    filled += 1
                    masks[token_of[entry]] = 0
        found[0] += tokens - filled


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
