"""Telling the k largest of a line's scores from the others by a number between them, which is kept from one time to the next.

    scores, the number of last time ──▶ k of them above it? ──▶ yes: these are the k largest, and nothing is sorted
                                             │ no
                                             └─▶ find the few around it, or move it by halves until k are above ──▶ the new number

For tables that are ranked again and again while they grow: by most measures every second list has the same members after 3 % more
tokens, and from most others one or two have gone.
"""

from __future__ import annotations

import math

import numpy as np

from kernels.cpu.bounds import ALPHA, evidence, lower_bound
from kernels.cpu.compiled import compiled

_compile = compiled(error_model="numpy")

_SAME = 1e-7  # of the evidence: two sums of logarithms that are so near can't be told apart
_HALVINGS = 60
_LOG_STEP = 0.5 * math.log(2.0) / 2.0**52  # ½ ln x is at least (bits of x) times this, less that of 1: linear between powers of 2
_FLOOR = (1.0 - 1e-9) * -math.log(ALPHA)
_FLOOR_AT_1 = (1.0 - 1e-9) * (0.5 * math.log(2.0 * math.pi) - math.log(2.0 * ALPHA)) - 1023.0 * 2.0**52 * _LOG_STEP
_NEAR = 8  # so many scores on the wrong side are found one by one


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
    if len(scores) <= k:
        _mark_from(scores, -np.inf, marks)
        return -np.inf
    above = count_from(scores, separator)
    if above == k:
        _mark_from(scores, separator, marks)
        return separator
    if k < above <= k + _NEAR:
        _smallest_from(scores, separator, above - k + 1, space)
        following, last = space[above - k - 1], space[above - k]
    elif k - _NEAR <= above < k:
        if _largest_below(scores, separator, k - above + 1, space) <= k - above:
            _mark_from(scores, -np.inf, marks)
            return -np.inf
        last, following = space[k - above - 1], space[k - above]
    else:
        size = _collect_from(scores, separator if above > k else -np.inf, space)
        if size <= k:
            _mark_from(scores, -np.inf, marks)
            return -np.inf
        parted = np.partition(space[:size], size - k - 1)
        following, last = parted[size - k - 1], np.min(parted[size - k :])
    if last > following:
        _mark_from(scores, last, marks)
        middle = 0.5 * (last + following)
        return middle if middle > following else last
    left = k
    for at in range(len(scores)):
        left -= 1 if scores[at] > last else 0
    for at in range(len(scores)):
        if scores[at] > last:
            marks[at] = True
        elif scores[at] == last and left > 0:
            marks[at] = True
            left -= 1
    return last


@_compile
def _collect_from(scores, least, space):
    """Gathers the scores that are at least `least`; how many these are."""
    size = 0
    for at in range(len(scores)):
        space[size] = scores[at]
        size += 1 if scores[at] >= least else 0
    return size


@_compile
def _smallest_from(scores, least, size, space):
    """The `size` smallest of the scores that are at least `least`, ascending; there are as many."""
    space[:size] = np.inf
    for at in range(len(scores)):
        score = scores[at]
        if score >= least and score < space[size - 1]:
            slot = size - 1
            while slot > 0 and score < space[slot - 1]:
                space[slot] = space[slot - 1]
                slot -= 1
            space[slot] = score


@_compile
def _largest_below(scores, most, size, space):
    """The `size` largest of the scores below `most`, descending; how many there are, at most `size`."""
    space[:size] = -np.inf
    found = 0
    for at in range(len(scores)):
        score = scores[at]
        if score < most and score > space[size - 1]:
            slot = size - 1
            while slot > 0 and score > space[slot - 1]:
                space[slot] = space[slot - 1]
                slot -= 1
            space[slot] = score
            found += 1
    return min(found, size)


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
    """Tempered counts and `evidence` of the cells whose bound is perhaps above `least`; how many these are.

    Of tempered counts s of n the bound is above p only where n·KL(s/n ‖ p) > L (`kernels.cpu.bounds`). The left side is at most
    (s − np)²/(np(1 − p)), for KL ≤ χ²; L is at least ln(1/α), and at least ln(1/(2α)) + ½ ln(2πn). That takes no logarithm, and
    leaves a fifth of the cells.
    """
    tempered, beyond = space[0, : len(deff)], space[1, : len(deff)]
    for at in range(len(deff)):
        tempered[at] = trials[at] / deff[at]
    bits, rest = tempered.view(np.int64), least * (1.0 - least)
    for at in range(len(deff)):
        over = max(0.0, successes[at] - least * trials[at])
        beyond[at] = over * over - max(_FLOOR, _FLOOR_AT_1 + bits[at] * _LOG_STEP) * deff[at] * trials[at] * rest
    size = 0
    for at in range(len(deff)):
        which[size] = at
        size += 1 if beyond[at] > 0.0 else 0
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
