"""Telling the k largest of a line's scores from the others by a number between them, which is kept from one time to the next.

    scores, the number of last time ──▶ k of them above it? ──▶ yes: these are the k largest, and nothing is sorted
                                             │ no
                                             └─▶ sort those around it, or move it by halves until k are above ──▶ the new number

For tables that are ranked again and again while they grow: some 80 % of all lists have the same members as a second ago.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np

from kernels.cpu.bounds import ALPHA, evidence, lower_bound

# numba's decorator is untyped; `cache` keeps the compiled code beside the source.
_compile = cast("Callable[[Callable[..., Any]], Callable[..., Any]]", numba.njit(nogil=True, cache=True, error_model="numpy"))

_SAME = 1e-7  # of the evidence: two sums of logarithms that are so near can't be told apart
_HALVINGS = 60


@_compile
def count_from(scores, least):
    """How many scores are at least `least`; NaN is not."""
    found = 0
    for at in range(len(scores)):
        found += 1 if scores[at] >= least else 0
    return found


@_compile
def part(scores, k, separator, marks, space):
    """Marks the k largest scores; of equal ones the first, and of NaN none.

    Args:
        scores: float64 [n].
        separator: what this returned for the scores of last time; −inf the first time.
        marks: bool [n], where a mark is set and none taken away.
        space: float64 [n], overwritten.

    Returns:
        A number that no other score reaches; −inf where all are marked.
    """
    above = count_from(scores, separator)
    if above == k:
        _mark_from(scores, separator, marks)
        return separator
    least, step = separator, 0.02 * abs(separator) + 1e-9
    for _ in range(10):
        if above > k or least == -np.inf:
            break
        least -= step
        step *= 2.0
        above = count_from(scores, least)
    if above <= k:
        least = -np.inf
    size = 0
    for at in range(len(scores)):
        if scores[at] >= least:
            space[size] = scores[at]
            size += 1
    if size <= k:
        _mark_from(scores, least, marks)
        return -np.inf
    parted = np.partition(space[:size], size - k - 1)
    following, last = parted[size - k - 1], np.min(parted[size - k :])
    if last > following:
        _mark_from(scores, last, marks)
        middle = 0.5 * (last + following)
        return middle if middle > following else last
    left = k
    for score in parted[size - k :]:
        left -= 1 if score > last else 0
    for at in range(len(scores)):
        if scores[at] > last:
            marks[at] = True
        elif scores[at] == last and left > 0:
            marks[at] = True
            left -= 1
    return last


@_compile
def part_by_bound(successes, trials, deff, half, k, separator, likely, marks, space, which):
    """Marks the k cells with the largest `lower_bound` of successes/trials; else as `part`. Hardly a bound is computed.

    Args:
        likely: a ratio that the bounds of k cells are probably above, for the first time; −inf where none is known.
        successes, trials: float64 [n], 1 ≤ successes ≤ trials.
        deff: float64 [n], at least 1; NaN: not known, such a cell is left out.
        half: float64 [n], `log_half` of successes/deff.
        space: float64 [4, n], which: int64 [n]; overwritten.
    """
    known = count_from(deff, 1.0)
    if known <= k:
        _mark_from(deff, 1.0, marks)
        return -np.inf
    least = 0.95 * separator if separator > 0.0 else max(likely, 0.0)
    size = _weigh(successes, trials, deff, half, least, space, which)
    while least > 0.0 and _count_beyond(space, size, least)[0] < k:
        least = 0.5 * least if least > 1e-6 else 0.0
        size = _weigh(successes, trials, deff, half, least, space, which)
    low, high = least, 1.0
    probe = separator if separator > low else (1.5 * low if 0.0 < low < 0.5 else 0.5)
    for _ in range(_HALVINGS):
        found, near = _count_beyond(space, size, probe)
        if found == k and near == 0:
            _mark_beyond(space, size, probe, which, marks)
            return probe
        if found >= k:
            low = probe
        else:
            high = probe
        probe = 0.5 * (low + high)
        if separator > 0.0 and low > 0.0:
            probe = min(probe, 1.05 * low)  # it has not moved far
    scores = np.full(len(deff), np.nan)  # bounds that are equal
    for at in which[:size]:
        scores[at] = lower_bound(successes[at], trials[at], deff[at], ALPHA)
    return part(scores, k, -np.inf, marks, space[0])


@_compile
def _mark_from(scores, least, marks):
    for at in range(len(scores)):
        marks[at] |= scores[at] >= least


@_compile
def _weigh(successes, trials, deff, half, least, space, which):
    """Tempered counts and `evidence` of the cells whose ratio, and so perhaps its bound, is above `least`; how many these are."""
    size = 0
    for at in range(len(deff)):
        which[size] = at
        size += 1 if successes[at] > least * trials[at] and deff[at] >= 1.0 else 0
    for at in range(size):
        cell = which[at]
        s, n = successes[cell] / deff[cell], trials[cell] / deff[cell]
        f = (trials[cell] - successes[cell]) / deff[cell]
        space[0, at], space[1, at], space[2, at] = s, f, evidence(half[cell], f, n, ALPHA)
        space[3, at] = _SAME * (1.0 + abs(space[2, at]))
    return size


@_compile
def _count_beyond(space, size, p):
    """How many of the weighed cells have a bound above p, and of how many it can't be told."""
    if p <= 0.0:
        return size, 0
    log_p, log_rest = math.log(p), math.log1p(-p)
    found, near = 0, 0
    for at in range(size):
        s, f = space[0, at], space[1, at]
        more = space[2, at] - (s * log_p + f * log_rest)
        beyond = (more > 0.0) & (s > p * (s + f))
        found += 1 if beyond else 0
        near += 1 if abs(more) < space[3, at] else 0
    return found, near


@_compile
def _mark_beyond(space, size, p, which, marks):
    log_p, log_rest = math.log(p), math.log1p(-p)
    for at in range(size):
        s, f = space[0, at], space[1, at]
        marks[which[at]] |= (space[2, at] > s * log_p + f * log_rest) & (s > p * (s + f))
