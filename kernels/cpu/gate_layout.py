"""Where the features of a layer that gates name are active, so that two of them are intersected by words and looked up by rank.

BlockMasks of a layer ──▶ a bit per block and feature, and where each word's first mask lies: the mask of a block that is active
                          is as many places behind as there are set bits below it; the same for clusters and numbers of tokens
"""

from typing import NamedTuple

import numpy as np

from kernels.cpu.compiled import compiled
from kernels.cpu.native import ones, trailing_zeros

ZERO, ONE, WORD_BITS, LAST_BIT = np.uint64(0), np.uint64(1), np.uint64(6), np.uint64(63)


class Layout(NamedTuple):
    """The F features of a layer that gates name, over W and V words of 64 blocks and clusters."""

    block_bits: np.ndarray
    """uint64 [F, W]."""
    block_first: np.ndarray
    """int64 [F, W]: index in masks of the first block of each word."""
    masks: np.ndarray
    """uint32 [R]."""
    cluster_bits: np.ndarray
    """uint64 [F, V]."""
    cluster_first: np.ndarray
    """int64 [F, V]: index in numbers."""
    numbers: np.ndarray
    """int64: active tokens of a feature in a cluster."""
    active: np.ndarray
    """int64 [F]: active tokens."""
    own: np.ndarray
    """float64 [F, 4], over clusters that are not special: Σ n of half A and of half B, Σ n², clusters with n > 0."""


def lay_out(
    starts: np.ndarray,
    blocks: np.ndarray,
    masks: np.ndarray,
    rows: np.ndarray,
    block_cluster: np.ndarray,
    cluster_half: np.ndarray,
    cluster_special: np.ndarray,
) -> Layout:
    """The layout of the features `rows` (int64 [F], ascending)."""
    count, words, cluster_words = len(rows), -(-len(block_cluster) // 64), -(-len(cluster_half) // 64)
    runs = int((starts[rows + 1] - starts[rows]).sum())
    layout = Layout(
        np.zeros((count, words), np.uint64),
        np.zeros((count, words), np.int64),
        masks if len(masks) else np.zeros(1, np.uint32),
        np.zeros((count, cluster_words), np.uint64),
        np.zeros((count, cluster_words), np.int64),
        np.zeros(max(runs, 1), np.int64),
        np.zeros(count, np.int64),
        np.zeros((count, 4)),
    )
    _lay_out(starts, blocks, masks, rows, block_cluster, cluster_half, cluster_special, *layout[:2], *layout[3:])
    return layout


@compiled()
def _lay_out(
    starts,
    blocks,
    masks,
    rows,
    block_cluster,
    halves,
    special,
    block_bits,
    block_first,
    cluster_bits,
    cluster_first,
    numbers,
    active,
    own,
):
    filled = -1
    for row in range(len(rows)):
        first, last = starts[rows[row]], starts[rows[row] + 1]
        begun, current = filled + 1, -1
        for run in range(first, last):
            block = np.uint64(blocks[run])
            word = block >> WORD_BITS
            if block_bits[row, word] == ZERO:
                block_first[row, word] = run
            block_bits[row, word] |= ONE << (block & LAST_BIT)
            cluster = block_cluster[block]
            if cluster != current:
                current = cluster
                filled += 1
                at = np.uint64(cluster)
                if cluster_bits[row, at >> WORD_BITS] == ZERO:
                    cluster_first[row, at >> WORD_BITS] = filled
                cluster_bits[row, at >> WORD_BITS] |= ONE << (at & LAST_BIT)
            numbers[filled] += np.int64(ones(np.uint64(masks[run])))
        at = begun
        for word in range(cluster_bits.shape[1]):
            left = cluster_bits[row, word]
            while left != ZERO:
                cluster = 64 * word + trailing_zeros(left)
                left &= left - ONE
                number = numbers[at]
                at += 1
                active[row] += number
                if special[cluster] < 0:
                    own[row, halves[cluster]] += number
                    own[row, 2] += number * number
                    own[row, 3] += 1
