"""Top lists of rows by Jaccard, of all tokens and of either half, in one pass over their cells.

    joint counts [n, Dd, 2] ──▶ n_ij / (n_i + n_j − n_ij) of both halves, of A, of B ──▶ compare with the worst kept ──▶ insert

One row is in the works at a time, and its three lists stay in the first cache. Array operations write and read every cell ten times
on the way: three to four times as slow.
"""

from __future__ import annotations

import numpy as np

from kernels.cpu.best import insert
from kernels.cpu.compiled import compiled


def half_lists(counts: np.ndarray, up: np.ndarray, down: np.ndarray, k: int, support: int, half_support: int) -> np.ndarray:
    """The k best columns of every row, three times: from both halves together, from half A and from half B.

    Args:
        counts: int32 or int64 `[n, Dd, 2]`, joint counts by half.
        up, down: int64 `[n, 2]` and `[Dd, 2]`, active counts of the rows and columns by half.
        k: length of the lists.
        support: smallest joint count in both halves together; half_support: in the one half that a list is of; at least 1 each.

    Returns:
        int64 `[3, n, k]`: columns, best first, ties by column, −1 where there are fewer.

    Raises:
        ValueError: arrays of other types or shapes, or k or a support below 1.
    """
    if counts.ndim != 3 or counts.shape[2] != 2 or up.shape != (len(counts), 2) or down.shape != (counts.shape[1], 2):
        raise ValueError(f"counts must be [n, Dd, 2], up [n, 2] and down [Dd, 2], got {counts.shape}, {up.shape} and {down.shape}")
    if {array.dtype.kind for array in (counts, up, down)} != {"i"}:
        raise ValueError(f"counts, up and down must be integers, got {counts.dtype}, {up.dtype} and {down.dtype}")
    if min(k, support, half_support) < 1:
        raise ValueError(f"k, support and half_support must be at least 1, got {k}, {support} and {half_support}")
    ways = [np.stack([side.sum(axis=1), side[:, 0], side[:, 1]], axis=1).astype(np.float64) for side in (up, down)]
    lists = np.full((3, len(counts), k), -1, np.int64)
    _rank(np.ascontiguousarray(counts), *ways, np.array([support, half_support, half_support]), lists)
    return lists


_compile = compiled()


@_compile
def _rank(counts, up, down, supports, lists):
    last = lists.shape[2] - 1
    for i in range(counts.shape[0]):
        scores = np.full((3, last + 1), -np.inf)
        for j in range(counts.shape[1]):
            a, b = np.int64(counts[i, j, 0]), np.int64(counts[i, j, 1])
            for way in range(3):
                joint = a + b if way == 0 else (a if way == 1 else b)
                if joint >= supports[way]:
                    score = joint / (up[i, way] + down[j, way] - joint)
                    if score > scores[way, last]:
                        insert(lists[way, i], scores[way], j, score)
