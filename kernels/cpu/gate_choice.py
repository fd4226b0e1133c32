"""What the choice of a gate's candidate parents needs of the segment that has just ended, and no pair table holds.

masks of a layer, pairs of its features   ──▶ Jaccard index of each: near-duplicates
tokens of a parent, with and without child ──▶ the features that are there when the child is not: what may silence it
"""

from __future__ import annotations

import numpy as np

from kernels.cpu.best import insert
from kernels.cpu.compiled import compiled
from kernels.cpu.gates import BlockMasks
from kernels.cpu.moments import Runs
from kernels.cpu.native import ones

MOST_TOKENS = (512, 384)
"""Tokens of a parent that are looked at for each child, evenly spaced, without the child and with it. What silences a child is on
many of the tokens without it, however few these are, and on next to none of the others."""


def mask_jaccard(masks: BlockMasks, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float64 [n], the Jaccard index of n pairs of features (int64 [n] each) over a segment; 0 where neither is active."""
    return _jaccard(*masks, np.asarray(first, np.int64), np.asarray(second, np.int64))


@compiled()
def _jaccard(starts, blocks, masks, first, second):
    found = np.zeros(len(first))
    for pair in range(len(first)):
        i, i_end = starts[first[pair]], starts[first[pair] + 1]
        j, j_end = starts[second[pair]], starts[second[pair] + 1]
        both, either = 0, 0
        while i < i_end or j < j_end:
            if j == j_end or (i < i_end and blocks[i] < blocks[j]):
                either += ones(np.uint64(masks[i]))
                i += 1
            elif i == i_end or blocks[j] < blocks[i]:
                either += ones(np.uint64(masks[j]))
                j += 1
            else:
                both += ones(np.uint64(masks[i] & masks[j]))
                either += ones(np.uint64(masks[i] | masks[j]))
                i += 1
                j += 1
        if either:
            found[pair] = both / either
    return found


def silencers(
    order: np.ndarray,
    entries: tuple[np.ndarray, np.ndarray, np.ndarray],
    thresholds: np.ndarray | None,
    up: Runs,
    down: Runs,
    parents: np.ndarray,
    children: np.ndarray,
    least: float,
    most: int,
) -> np.ndarray:
    """Of each child the upstream features that are most more often active where its parent is without it than where it is with it.

    By z = (x₀ − E)/√max(E M₁/M, 1), E = (x₀ + x₁) M₀/M (`engine.measures.gate_candidates.suppression`), of a feature that is
    active at x₀ of the M₀ tokens of the parent without the child and at x₁ of the M₁ with it, M in all; of each, `MOST_TOKENS` at
    most are looked at.

    Args:
        order: int64 [n], rows of the entries in the order of the segment, which is that of the runs' tokens.
        entries: of the upstream layer: offsets int64 [T + 1], features int32 [nnz], values float32 [nnz].
        thresholds: float32 [Du]; None where every one is 0.
        up, down: runs of the two layers.
        parents: int64 [n], an upstream feature for each child, −1 for none; children: int64 [n].
        least: smallest z.
        most: how many.

    Returns:
        int64 [n, most], best first, then −1.
    """
    limits = np.zeros(len(up.starts) - 1, np.float32) if thresholds is None else thresholds
    return _silencers(order, *entries, limits, tuple(up), tuple(down), parents, children, least, most)


@compiled()
def _silencers(order, offsets, features, values, limits, up, down, parents, children, least, most):
    found, scores = np.full((len(children), most), -1, np.int64), np.full((len(children), most), -np.inf)
    active = np.zeros(len(order), np.bool_)
    counts = np.zeros((len(limits), 2), np.int32)
    up_starts, up_entries, up_tokens, up_values = up[0], up[2], up[3], up[4]
    down_starts, down_entries, down_tokens, down_values = down[0], down[2], down[3], down[4]
    for at in range(len(children)):
        parent, child = parents[at], children[at]
        if parent < 0:
            continue
        first, last = down_entries[down_starts[child]], down_entries[down_starts[child + 1]]
        for entry in range(first, last):
            active[down_tokens[entry]] = down_values[entry] > 0
        begin, end = up_entries[up_starts[parent]], up_entries[up_starts[parent + 1]]
        both, present = 0, 0
        for entry in range(begin, end):
            if up_values[entry] > 0:
                present += 1
                both += active[up_tokens[entry]]
        counts[:] = 0
        tokens = np.zeros(2, np.int64)
        seen = np.zeros(2, np.int64)
        step = (-(-(present - both) // MOST_TOKENS[0]), -(-both // MOST_TOKENS[1]))
        for entry in range(begin, end):
            if not up_values[entry] > 0:
                continue
            token = up_tokens[entry]
            side = np.int64(active[token])
            seen[side] += 1
            if (seen[side] - 1) % step[side]:
                continue
            tokens[side] += 1
            row = order[token]
            for other in range(offsets[row], offsets[row + 1]):
                feature = features[other]
                if values[other] > limits[feature]:
                    counts[feature, side] += 1
        for entry in range(first, last):
            active[down_tokens[entry]] = False
        silent, with_child = tokens
        for feature in range(len(limits)):
            x0, x1 = counts[feature, 0], counts[feature, 1]
            if not x0 > least or feature == parent:  # z is at most x0
                continue
            expected = (x0 + x1) * silent / (silent + with_child)
            z = (x0 - expected) / np.sqrt(max(expected * with_child / (silent + with_child), 1.0))
            if z > least and z > scores[at, -1]:
                insert(found[at], scores[at], feature, z)
    return found
