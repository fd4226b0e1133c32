"""How much two ranked lists agree, and many lists at once."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.errors import BadValue

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

_BLOCK_CELLS = 1 << 18  # worked on at a time: temporaries of 2 MiB stay in the cache


def rbo(list_a: Sequence[Hashable], list_b: Sequence[Hashable], p: float = 0.9) -> float:
    """Rank-biased overlap, extrapolated (Webber, Moffat, Zobel 2010, "A similarity measure for indefinite rankings", eq. 32 for
    lists of different lengths, which for equal ones is eq. 30):

        RBO_ext = (X_k / k) p^k + ((1 − p)/p) Σ_{d=1..k} (X_d / d) p^d

    with X_d the number of items that the two first d have in common. p = 0.9: the first ten carry 86 % of the weight.

    Returns:
        A number in [0, 1]: 1 for equal lists (two empty ones are equal), 0 for lists with nothing in common.

    Raises:
        ValueError: p not in (0, 1), or an item that a list holds twice.
    """
    if not 0.0 < p < 1.0:
        raise ValueError(f"p must be between 0 and 1, both not included, got {p}")
    short, long = sorted((list_a, list_b), key=len)
    s, k = len(short), len(long)
    for ranked in (short, long):
        if len(set(ranked)) != len(ranked):
            raise ValueError(f"a ranked list must hold each item once, got {list(ranked)}")
    if not short:
        return 1.0 if not long else 0.0
    shared, overlaps = 0, [0]
    seen: set[Hashable] = set()
    for depth in range(k):
        for item in {long[depth], *short[depth : depth + 1]}:
            shared += item in seen
            seen.add(item)
        if depth < s and short[depth] == long[depth]:
            shared += 1
        overlaps.append(shared)
    x_s, x_k = overlaps[s], overlaps[k]
    total = sum(overlaps[d] / d * p**d for d in range(1, k + 1))
    total += sum(x_s * (d - s) / (s * d) * p**d for d in range(s + 1, k + 1))
    value = (1 - p) / p * total + ((x_k - x_s) / k + x_s / s) * p**k
    return min(1.0, max(0.0, value))


def overlap(list_a: Sequence[Hashable], list_b: Sequence[Hashable]) -> float:
    """Shared items over the length of the longer list, whatever the order; 1 for two empty lists."""
    longer = max(len(list_a), len(list_b))
    return len(set(list_a) & set(list_b)) / longer if longer else 1.0


def rbos(lists_a: ArrayLike, lists_b: ArrayLike, p: float = 0.9) -> Floats:
    """`rbo` of L pairs of lists at once (Webber, Moffat, Zobel 2010, eq. 32).

    With X_d the overlap at depth d, s and l the shorter and the longer length:

        ((1 − p)/p) ( Σ_{d=1..l} X_d p^d / d + Σ_{d=s+1..l} X_s (d − s) p^d / (s d) ) + ( (X_l − X_s)/l + X_s/s ) p^l

    An item enters the overlap at the larger of its two ranks, so one sort of each row of both lists together finds X.

    Args:
        lists_a, lists_b: integers [L, k], best first, then −1.
        p: weight of a rank against the one before.

    Returns:
        float64 [L] in [0, 1]: 1 for equal lists, two empty ones among them; 0 for lists with nothing in common.

    Raises:
        BadValue: p not in (0, 1), other shapes, an item after a −1, or an item twice in a list.
    """
    if not 0.0 < p < 1.0:
        raise BadValue(f"p must be between 0 and 1, both not included, got {p}")
    a, b = np.asarray(lists_a, np.int64), np.asarray(lists_b, np.int64)
    if a.ndim != 2 or a.shape != b.shape or not a.shape[1]:
        raise BadValue(f"two arrays of lists must have one shape [lists, k], got {list(a.shape)} and {list(b.shape)}")
    for lists in (a, b):
        if np.any((lists[:, 1:] >= 0) & (lists[:, :-1] < 0)):
            raise BadValue("a list must not go on after a −1")
    values = np.empty(len(a))
    step = max(1, _BLOCK_CELLS // (2 * a.shape[1]))
    for start in range(0, len(a), step):
        part = slice(start, start + step)
        values[part] = _rbos(a[part], b[part], p)
    return values


def top_of_lists(offsets: Integers, scores: Floats, k: int) -> Integers:
    """The k best candidates of each of L lists: int64 [L, k], places in `scores`, best first, −1 after the last.

    Candidates with a NaN are in no list; ties go to the smaller place.

    Raises:
        BadValue: k below 1.
    """
    if k < 1:
        raise BadValue(f"k must be at least 1, got {k}")
    lengths = np.diff(offsets)
    best = np.full((len(lengths), k), -1, np.int64)
    for rows in _rows_of_like_length(lengths):
        width = max(1, int(lengths[rows[-1]]))
        column = np.arange(width)
        there = column < lengths[rows, None]
        keys = np.full(there.shape, np.nan)
        keys[there] = -scores[(offsets[rows, None] + column)[there]]
        order = np.argsort(keys, axis=1, kind="stable")[:, :k]  # NaN last
        chosen = ~np.isnan(np.take_along_axis(keys, order, axis=1))
        best[rows, : order.shape[1]] = np.where(chosen, offsets[rows, None] + order, -1)
    return best


def list_offsets(offsets: ArrayLike, candidates: int) -> Integers:
    """Offsets of lists as int64 [L + 1].

    Raises:
        BadValue: they do not rise from 0 to the number of candidates.
    """
    ends = np.asarray(offsets, np.int64)
    if ends.ndim != 1 or not len(ends) or ends[0] != 0 or ends[-1] != candidates or np.any(np.diff(ends) < 0):
        raise BadValue(f"offsets of lists must rise from 0 to the {candidates} candidates, got {_shown(ends)}")
    return ends


def _rows_of_like_length(lengths: Integers) -> Iterator[Integers]:
    """Groups of lists, each in rising order of length, whose rectangle is a block and hardly padded."""
    order = np.argsort(lengths, kind="stable")
    rising = lengths[order]
    start = 0
    while start < len(order):
        # At most a quarter of padding (short lists aside) and a block of cells; one list is taken whatever its length.
        longest = max(8, int(rising[start]) * 4 // 3)
        end = int(np.searchsorted(rising, longest, side="right"))
        end = max(start + 1, min(end, start + _BLOCK_CELLS // longest))
        yield order[start:end]
        start = end


def _rbos(a: Integers, b: Integers, p: float) -> Floats:
    lists, k = a.shape
    rank_bits = max(1, (k - 1).bit_length())
    rank = np.arange(k)
    # Item, then list, then rank, in one number: sorting brings an item's two places together.
    keys = np.concatenate([a << (rank_bits + 1) | rank, b << (rank_bits + 1) | 1 << rank_bits | rank], axis=1)
    keys.sort(axis=1)
    item, place = keys >> (rank_bits + 1), keys & ((1 << rank_bits) - 1)
    same = (item[:, 1:] == item[:, :-1]) & (item[:, 1:] >= 0)
    row, at = np.nonzero(same)
    if np.any(keys[row, at] >> rank_bits & 1 == keys[row, at + 1] >> rank_bits & 1):
        raise BadValue("a ranked list must hold each item once")
    entered = np.maximum(place[row, at], place[row, at + 1])
    overlap = np.cumsum(np.bincount(row * k + entered, minlength=lists * k).reshape(lists, k), axis=1)  # X_1 … X_k
    length_a, length_b = np.count_nonzero(a >= 0, axis=1), np.count_nonzero(b >= 0, axis=1)
    s, long = np.minimum(length_a, length_b), np.maximum(length_a, length_b)
    depth = np.arange(1, k + 1)
    weight = p**depth
    # Σ p^d and Σ p^d / d up to each depth, 0 first.
    powers, harmonics = (np.concatenate([[0.0], np.cumsum(terms)]) for terms in (weight, weight / depth))
    some = s > 0
    x_s = np.where(some, overlap[np.arange(lists), np.maximum(s, 1) - 1], 0)
    x_l = overlap[:, -1]  # nothing enters after the last rank of the longer list
    s_or_1, l_or_1 = np.maximum(s, 1), np.maximum(long, 1)
    # Not overlap @ …: BLAS adds up in another order for other numbers of lists, and a list's value must not depend on its company.
    total = (overlap * (weight / depth)).sum(axis=1) - x_l * (harmonics[k] - harmonics[long])
    total += x_s * ((powers[long] - powers[s]) / s_or_1 - (harmonics[long] - harmonics[s]))
    values = (1 - p) / p * total + ((x_l - x_s) / l_or_1 + x_s / s_or_1) * p**long
    return np.where(some, np.clip(values, 0.0, 1.0), np.where(long > 0, 0.0, 1.0))


def _shown(values: np.ndarray) -> str:
    return np.array2string(values, threshold=8, edgeitems=3)
