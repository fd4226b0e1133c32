"""How far two partitions of features agree, as wholes and community by community."""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln

LEAST_OVERLAP = 1 / 3
"""Of what two communities have in common over all that either holds, at least, to be the same one a moment later: below a third
either of them holds more that is new than what is left of the old."""


def adjusted_mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """Agreement of two partitions of the same n features, corrected for chance (Vinh, Epps & Bailey 2010, eq. 13 and 24).

        AMI = (I − E[I]) / ((H_a + H_b) / 2 − E[I])

    with E[I] over all ways to give the features the same sizes of groups at random: 1 for equal partitions, 0 for what chance
    gives.

    Args:
        a, b: int `[n]`, the group of each feature.

    Returns:
        NaN where nothing can agree or differ: for no feature, or when both have one group only, or both only single features.
    """
    if not len(a):
        return float("nan")
    n = float(len(a))
    a, b = (np.unique(labels, return_inverse=True)[1] for labels in (a, b))
    sizes_a, sizes_b = np.bincount(a), np.bincount(b)
    cells, joint = np.unique(a * len(sizes_b) + b, return_counts=True)
    expected = np.log(sizes_a[cells // len(sizes_b)]) + np.log(sizes_b[cells % len(sizes_b)])
    information = float((joint / n * (np.log(n) + np.log(joint) - expected)).sum())
    by_chance = expected_mutual_information(sizes_a, sizes_b)
    most = (_entropy(sizes_a) + _entropy(sizes_b)) / 2
    if most - by_chance < 1e-12 * max(most, 1.0):
        return float("nan")
    return (information - by_chance) / (most - by_chance)


def _entropy(sizes: np.ndarray) -> float:
    share = sizes / sizes.sum()
    return float(-(share * np.log(share)).sum())


def expected_mutual_information(sizes_a: np.ndarray, sizes_b: np.ndarray) -> float:
    """E[I] in nats of two random partitions with these sizes of groups, each int `[·]` with the same sum n.

    A group of x and one of y have k features in common with the hypergeometric probability, which is summed exactly. It depends on
    the sizes only, so that each pair of different sizes is looked at once: of n features there are at most √(2n) different ones.
    """
    n = int(sizes_a.sum())
    different_a, times_a = np.unique(sizes_a, return_counts=True)
    different_b, times_b = np.unique(sizes_b, return_counts=True)
    log_factorial = gammaln(np.arange(n + 1) + 1.0)
    total = 0.0
    for x, times in zip(different_a.tolist(), times_a.tolist(), strict=True):
        least = np.maximum(1, x + different_b - n)
        terms = np.maximum(0, np.minimum(x, different_b) - least + 1)
        y, times_y = np.repeat(different_b, terms), np.repeat(times_b, terms)
        k = np.arange(len(y)) - np.repeat(np.cumsum(terms) - terms, terms) + np.repeat(least, terms)
        ways = log_factorial[x] + log_factorial[y] + log_factorial[n - x] + log_factorial[n - y] - log_factorial[n]
        ways -= log_factorial[k] + log_factorial[x - k] + log_factorial[y - k] + log_factorial[n - x - y + k]
        total += times * float((times_y * (k / n) * np.log(n * k / (x * y)) * np.exp(ways)).sum())
    return total


def overlaps(a: np.ndarray, b: np.ndarray, group_a: np.ndarray, group_b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which groups of two partitions share features, and how much: |x ∩ y| / |x ∪ y|.

    Args:
        a, b: int64 `[n]`, `[m]`, ascending: the features of either partition. They need not be the same ones: a feature that the
            other does not have counts as one that it puts elsewhere.
        group_a, group_b: int64 `[n]`, `[m]`, their groups, from 0 up.

    Returns:
        Groups of a and of b int64 `[P]` each, and their Jaccard overlap float64 `[P]`; pairs that share nothing are left out.
    """
    _, in_a, in_b = np.intersect1d(a, b, assume_unique=True, return_indices=True)
    width = int(group_b.max(initial=0)) + 1
    cells, joint = np.unique(group_a[in_a] * width + group_b[in_b], return_counts=True)
    x, y = np.divmod(cells, width)
    return x, y, joint / (np.bincount(group_a)[x] + np.bincount(group_b)[y] - joint) if len(x) else np.empty(0)


def best_overlaps(a: np.ndarray, b: np.ndarray, group_a: np.ndarray, group_b: np.ndarray) -> np.ndarray:
    """float64 `[C]`: of each group of a the overlap with the group of b that is most like it; 0 where none shares a feature."""
    x, _, overlap = overlaps(a, b, group_a, group_b)
    best = np.zeros(int(group_a.max(initial=-1)) + 1)
    np.maximum.at(best, x, overlap)
    return best


def successors(a: np.ndarray, b: np.ndarray, group_a: np.ndarray, group_b: np.ndarray, least: float = LEAST_OVERLAP) -> np.ndarray:
    """Which group of an earlier partition each group goes on: the pairs are taken by overlap, highest first, each group once.

    Args:
        a, group_a: the new partition, as in `overlaps`; b, group_b: the earlier one.
        least: smallest overlap.

    Returns:
        int64 `[C]`: the earlier group; −1 for a new one. Of equal overlaps the lower earlier group goes first, then the lower new
        one.
    """
    x, y, overlap = overlaps(a, b, group_a, group_b)
    found = np.full(int(group_a.max(initial=-1)) + 1, -1, np.int64)
    taken: set[int] = set()
    for at in np.lexsort((x, y, -overlap)).tolist():
        if overlap[at] < least:
            break
        new, old = int(x[at]), int(y[at])
        if found[new] < 0 and old not in taken:
            found[new] = old
            taken.add(old)
    return found
