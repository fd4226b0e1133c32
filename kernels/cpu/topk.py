"""segmented_topk on the CPU: the k best of every group, one group at a time, without sorting the group.

    scores float64 [nnz], cut by offsets [G + 1] ──▶ per group: a list of at most k positions, kept in order ──▶ int64 [G, k]

A score is compared with the worst that was kept; in a long group nearly all fail and cost one compare. Those that pass are put in
place by insertion, which for k = 20 moves less memory than a heap.
"""

import numba
import numpy as np
import torch
from torch import Tensor


@numba.njit(nogil=True, cache=True)
def select(offsets: np.ndarray, scores: np.ndarray, best: np.ndarray) -> None:
    """offsets int64 [G + 1], scores float64 [nnz]; best int64 [G, k] comes filled with -1 and is written group by group."""
    groups, k = best.shape
    for group in range(groups):
        row = best[group]
        filled = 0
        for position in range(offsets[group], offsets[group + 1]):
            score = scores[position]
            if np.isnan(score) or (filled == k and not (score > scores[row[k - 1]])):
                continue  # an equal score stays behind the smaller position that is there already
            slot = filled if filled < k else k - 1
            while slot > 0 and score > scores[row[slot - 1]]:
                row[slot] = row[slot - 1]
                slot -= 1
            row[slot] = position
            filled = min(filled + 1, k)


def segmented_topk(offsets: Tensor | np.ndarray, scores: Tensor | np.ndarray, k: int) -> Tensor | np.ndarray:
    """int64 [G, k]: positions (into scores) of each group's k best scores.

    Best first, ties to the smaller position, NaN never chosen, -1 where a group has fewer than k. offsets int64 [G + 1], scores
    float64 [nnz]; a tensor in gives a tensor out, an array an array. ValueError for other dtypes, k < 1, or offsets that fall or
    leave the scores.
    """
    bounds, values = np.ascontiguousarray(offsets), np.ascontiguousarray(scores)
    for name, array, dtype in (("offsets", bounds, np.int64), ("scores", values, np.float64)):
        if array.dtype != dtype or array.ndim != 1:
            raise ValueError(f"{name} is {array.dtype} with {array.ndim} dimensions, it must be {np.dtype(dtype).name} with 1")
    if k < 1:
        raise ValueError(f"k is {k}, it must be at least 1")
    if len(bounds) == 0 or bounds[0] < 0 or bounds[-1] > len(values) or (np.diff(bounds) < 0).any():
        raise ValueError(f"offsets must rise from 0 or more to at most {len(values)}, the number of scores")
    best = np.full((len(bounds) - 1, k), -1, dtype=np.int64)
    select(bounds, values, best)
    return torch.from_numpy(best) if isinstance(scores, Tensor) else best
