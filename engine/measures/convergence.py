"""How far a run has come: what two halves of the documents say of each other, what has not been seen yet, and what is decided.

Every document belongs to half A or half B by a hash, so the halves are two independent samples of the same text; whatever differs
between them differs by chance. Now against earlier would always look converged: most of the data is the same.

- `design_effects`: how much less a token is worth than an independent one, by frequency.
- `reliability`, `split_half_rbo`: how well one half reproduces the other's values, and its top lists.
- `count_of_counts`, `unseen_mass`, `chao1`: how much there is that never occurred.
- `certified_k`, `list_status`: how much of a list no further data will change, at the level of its bounds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from engine.errors import BadValue
from engine.measures import similarity
from engine.measures.ranking import Integers, list_offsets, rbo, rbos, top_of_lists
from engine.measures.similarity import Floats

HALF_MEASURES = ("jaccard", "sufficiency", "necessity")
"""The measures that the counts of one half give: the sums that the others need are not kept by half."""

FEWEST_FEATURES = 20
"""Features that one design effect rests on: the mean of 20 squares of normal deviates is good to a factor of 1.4."""

_POWERS_OF_4 = 4 ** np.arange(32, dtype=np.int64)
_BLOCK_CELLS = 1 << 18  # worked on at a time: temporaries of 2 MiB stay in the cache


class DesignEffects(NamedTuple):
    """Design effects of B bins of frequency, bin b for total counts in [4^b, 4^(b+1)).

    Attributes:
        features: int64 [B], features in the bin that the halves say something about.
        effect: float64 [B], at least 1; NaN in all bins where they are too few in all.
    """

    features: Integers
    effect: Floats


class HalfCounts(NamedTuple):
    """Counts of C pairs in the documents of half A and of half B: joint, upstream and downstream active counts, integers [C]."""

    joint_a: ArrayLike
    up_a: ArrayLike
    down_a: ArrayLike
    joint_b: ArrayLike
    up_b: ArrayLike
    down_b: ArrayLike


def design_effects(
    count_a: ArrayLike, count_b: ArrayLike, tokens_a: ArrayLike, tokens_b: ArrayLike, *, fewest: int = FEWEST_FEATURES
) -> DesignEffects:
    """The design effect by frequency, from the difference between the two halves.

        deff of a bin = mean of (p_A − p_B)² / ( p (1 − p) (1/n_A + 1/n_B) ),  at least 1,

    with p_A = c_A/n_A, p_B = c_B/n_B, p = (c_A + c_B)/(n_A + n_B). The denominator is the variance of the difference if tokens were
    independent (Kish 1965, "Survey Sampling": the variance there is over that of a simple random sample). Given the total
    c_A + c_B, which bins go by, the mean is exactly n/(n − 1) for independent tokens, however rare the feature.

    A bin with fewer than `fewest` features takes in its neighbours, one more on each side at a time, until it has them; each
    feature then counts alike.

    Args:
        count_a, count_b: active counts [D] in the two halves.
        tokens_a, tokens_b: tokens of the halves; or, for the design effect of ratios (joint over up), their denominators [D].
        fewest: features that an effect must rest on.

    Returns:
        A bin for each power of 4 up to the largest total; none without any count. A feature says nothing, and is not among
        `features`, when its total is 0 or all of its tokens, or when a half has no tokens. With fewer than `fewest` in all, every
        effect is NaN: not known.

    Raises:
        BadValue: a negative count, a count above its tokens, or `fewest` below 1.
    """
    if fewest < 1:
        raise BadValue(f"fewest must be at least 1, got {fewest}")
    c_a, c_b, n_a, n_b = (np.asarray(x, np.float64) for x in np.broadcast_arrays(count_a, count_b, tokens_a, tokens_b))
    for half, c, n in (("A", c_a, n_a), ("B", c_b, n_b)):
        if np.any(wrong := (c < 0) | (c > n)):
            raise BadValue(f"half {half}: a count must lie in 0 to its {n[wrong][0]:.0f} tokens, got {c[wrong][0]:.0f}")
    total = c_a + c_b
    says = (n_a > 0) & (n_b > 0) & (total > 0) & (total < n_a + n_b)
    c_a, c_b, n_a, n_b = c_a[says], c_b[says], n_a[says], n_b[says]
    p = (c_a + c_b) / (n_a + n_b)
    square = (c_a / n_a - c_b / n_b) ** 2 / (p * (1 - p) * (1 / n_a + 1 / n_b))
    size = int(_bins(total[total > 0]).max(initial=-1)) + 1
    bins = _bins(total[says])
    features, sums = np.bincount(bins, minlength=size), np.bincount(bins, square, minlength=size)
    effect = np.full(size, np.nan)
    for b in range(size if features.sum() >= fewest else 0):
        width = 0
        while features[max(0, b - width) : b + width + 1].sum() < fewest:
            width += 1
        near = slice(max(0, b - width), b + width + 1)
        effect[b] = max(1.0, sums[near].sum() / features[near].sum())
    return DesignEffects(features, effect)


def design_effect_of(effects: DesignEffects, counts: ArrayLike) -> Floats:
    """The design effect for each total count, of the shape of `counts`: that of its bin.

    A count of 0 gets that of the first bin, one above all bins that of the last; NaN where it is not known.
    """
    counts = np.asarray(counts)
    if not len(effects.effect):
        return np.full(counts.shape, np.nan)
    return effects.effect[np.clip(_bins(counts), 0, len(effects.effect) - 1)]


def half_estimates(measure: str, joint: ArrayLike, up: ArrayLike, down: ArrayLike) -> Floats:
    """A measure from the counts of one half: float64, NaN where undefined (`engine.measures.similarity`).

    Raises:
        BadValue: a measure that is not one of `HALF_MEASURES`.
    """
    if measure == "jaccard":
        return similarity.jaccard(up, down, joint)
    if measure == "sufficiency":
        return similarity.sufficiency(up, joint)
    if measure == "necessity":
        return similarity.necessity(down, joint)
    raise BadValue(f"measure {measure!r} is not known by half: one of {', '.join(HALF_MEASURES)} is")


def reliability(x_a: ArrayLike, x_b: ArrayLike) -> float | None:
    """Reliability of a measure over the pairs of a layer pair: 2r/(1 + r), r the correlation of the halves' values.

    r is Pearson's over the pairs that have a value in both halves, 2r/(1 + r) what it would be between two samples as large as
    all the data (Spearman 1910, Brown 1910), on classical test theory's assumption of two halves alike.

    Args:
        x_a, x_b: the measure [P] in the two halves; NaN where undefined.

    Returns:
        A number in [0, 1], 0 for r ≤ 0: the halves have nothing in common. None with fewer than three pairs, or when a half's
        values are all equal: no correlation is defined.

    Raises:
        BadValue: two different numbers of pairs.
    """
    a, b = np.asarray(x_a, np.float64).reshape(-1), np.asarray(x_b, np.float64).reshape(-1)
    if len(a) != len(b):
        raise BadValue(f"the halves must hold the same pairs, got {len(a)} and {len(b)}")
    known = ~(np.isnan(a) | np.isnan(b))
    if np.count_nonzero(known) < 3:
        return None
    if not known.all():
        a, b = a[known], b[known]
    # By min and max, not by the variance: the mean of equal numbers can be off by a rounding, and leave a variance of 1e-33.
    if a.min() == a.max() or b.min() == b.max():
        return None
    a, b = a - a.mean(), b - b.mean()
    r = min(1.0, float(a @ b / (np.sqrt(a @ a) * np.sqrt(b @ b))))
    return 2 * r / (1 + r) if r > 0 else 0.0


def split_half_rbo(
    joint_a: ArrayLike,
    up_a: ArrayLike,
    down_a: ArrayLike,
    joint_b: ArrayLike,
    up_b: ArrayLike,
    down_b: ArrayLike,
    measure: str,
    k: int,
    *,
    min_support: int = 1,
) -> float | None:
    """How well the two halves agree on one feature's top k: RBO (p = 0.9) of the candidates ranked in each half.

    Args:
        joint_a … down_b: counts [n] of the candidates in the halves (numbers broadcast), as `HalfCounts`.
        measure, k, min_support: as in `split_half_rbos`, which says more.

    Returns:
        A number in [0, 1]; 0 when one half has a list and the other none; None when neither has: there is nothing to compare.

    Raises:
        BadValue: as `split_half_rbos`.
    """
    _require_list(k, min_support)
    tops = []
    for half in ((joint_a, up_a, down_a), (joint_b, up_b, down_b)):
        scores = np.atleast_1d(_supported(measure, *half, min_support))
        best = np.argsort(-scores, kind="stable")[:k]  # NaN last
        tops.append(best[~np.isnan(scores[best])].tolist())
    return rbo(*tops) if any(tops) else None


def split_half_rbos(offsets: ArrayLike, counts: HalfCounts, measure: str, k: int, *, min_support: int = 1) -> Floats:
    """How well the two halves agree on each of L top lists.

    In each half, the candidates of a list that have a joint count of at least `min_support` there are ranked by the measure, ties
    by their place among the candidates, and the first k compared by rank-biased overlap (`rbos`, p = 0.9).

    The candidates must go well beyond what is published: two halves that may only choose among the k best of both together agree
    on all of them by construction, and only their order is tested.

    Args:
        offsets: integers [L + 1]: list l has the candidates `offsets[l]` to `offsets[l + 1]`.
        counts: of all C candidates by half.
        measure: one of `HALF_MEASURES`.
        k: length of the lists.
        min_support: smallest joint count in a half.

    Returns:
        float64 [L] in [0, 1]; 0 where only one half has a list; NaN where neither has: there is nothing to compare.

    Raises:
        BadValue: another measure, k or min_support below 1, or offsets that do not divide the candidates into lists.
    """
    _require_list(k, min_support)
    ends = list_offsets(offsets, np.size(counts.joint_a))
    top_a = top_of_lists(ends, _supported(measure, *counts[:3], min_support), k)
    top_b = top_of_lists(ends, _supported(measure, *counts[3:], min_support), k)
    agreement = rbos(top_a, top_b)
    agreement[(top_a[:, 0] < 0) & (top_b[:, 0] < 0)] = np.nan
    return agreement


def count_of_counts(blocks: Iterable[np.ndarray]) -> tuple[int, int, int, int]:
    """What `unseen_mass` and `chao1` need of a table of joint counts, block by block.

    Args:
        blocks: integer arrays of any shape that together are the table, each cell once, both halves added.

    Returns:
        Cells with a count of 1, cells with 2, cells with any, and the sum of all counts.

    Raises:
        BadValue: an array that does not hold integers.
    """
    once = twice = seen = total = 0
    for block in blocks:
        if block.dtype.kind not in "iu":
            raise BadValue(f"joint counts must be integers, got {block.dtype}")
        cells = block.reshape(-1)
        for start in range(0, len(cells), _BLOCK_CELLS):  # four passes over what stays in the cache
            part = cells[start : start + _BLOCK_CELLS]
            once += int(np.count_nonzero(part == 1))
            twice += int(np.count_nonzero(part == 2))
            seen += int(np.count_nonzero(part))
            total += int(part.sum(dtype=np.int64))
    return once, twice, seen, total


def unseen_mass(n1: ArrayLike, total: ArrayLike) -> Floats:
    """N₁/N: the chance that the next joint activation is of a pair that was never seen (Good 1953, Turing's estimate).

    Bursty features repeat a pair inside the document that brought it, so tokens understate this: it is a lower figure.

    Args:
        n1: pairs seen exactly once.
        total: joint activations of all pairs.

    Returns:
        float64 in [0, 1] of the broadcast shape; NaN where nothing was counted yet.
    """
    once, all_of_them = np.asarray(n1, np.float64), np.asarray(total, np.float64)
    mass = np.full(np.broadcast_shapes(once.shape, all_of_them.shape), np.nan)
    return np.divide(once, all_of_them, out=mass, where=all_of_them > 0)


def chao1(n1: ArrayLike, n2: ArrayLike, seen: ArrayLike) -> Floats:
    """How many pairs there are at least, seen or not: seen + N₁²/(2 N₂), and seen + N₁(N₁ − 1)/2 without any seen twice.

    A lower bound on the number of pairs that can occur at all (Chao 1984; the second form is its bias-corrected one at N₂ = 0). It
    knows nothing of how many cells the table has: cut it there.

    Args:
        n1, n2: pairs seen once and twice.
        seen: pairs seen at all.

    Returns:
        float64 of the broadcast shape, at least `seen`; 0 before anything was seen.
    """
    once, twice, known = (np.asarray(x, np.float64) for x in np.broadcast_arrays(n1, n2, seen))
    hidden = np.asarray(once * (once - 1) / 2)
    np.divide(once * once, 2 * twice, out=hidden, where=twice > 0)
    return known + hidden


def certified_k(lower: ArrayLike, upper: ArrayLike, rest_upper: ArrayLike, lengths: ArrayLike | None = None) -> Integers:
    """How many leaders of each list no other feature can overtake, at the level at which all bounds of the list hold together.

    The largest k' for which min lower of the first k' > max upper of all others, listed below k' or not. It speaks of the set of
    the first k', not of their order; k' can be certified where k' − 1 is not.

    Args:
        lower, upper: bounds [..., k] of the listed neighbours, in the order of the list; NaN where there is none (insufficient).
        rest_upper: [...], the largest upper bound among all that are not listed; −inf where there are no others, NaN where it is
            not known.
        lengths: integers [...], how many a list has; what stands behind is not looked at. All have k by default.

    Returns:
        int64 [...], 0 to k. A NaN certifies nothing: neither a set that its neighbour is in, nor one that it could get into.

    Raises:
        BadValue: shapes that don't match.
    """
    low, high = np.asarray(lower, np.float64), np.asarray(upper, np.float64)
    rest = np.asarray(rest_upper, np.float64)
    if low.shape != high.shape or not low.ndim or rest.shape != low.shape[:-1]:
        raise BadValue(
            f"lower and upper must have one shape [..., k] and rest_upper [...], got {low.shape}, {high.shape} and {rest.shape}"
        )
    k = low.shape[-1]
    there = np.arange(k) < np.broadcast_to(k if lengths is None else np.asarray(lengths)[..., None], low.shape)
    weakest = np.minimum.accumulate(low, axis=-1)  # minimum and maximum pass NaN on, and no comparison with NaN holds
    challengers = np.concatenate([np.where(there, high, -np.inf), rest[..., None]], axis=-1)
    strongest = np.maximum.accumulate(challengers[..., ::-1], axis=-1)[..., ::-1][..., 1:]
    certified = (weakest > strongest) & there
    return np.max(np.where(certified, np.arange(1, k + 1), 0), axis=-1, initial=0)


def list_status(certified_k: int, k: int, any_sufficient: bool) -> Literal["insufficient", "converging", "certified"]:
    """What to call a list of k neighbours of which the first `certified_k` are decided.

    Returns:
        "insufficient" when none of its neighbours has an interval (or it is empty), "certified" when all k are decided,
        "converging" in between.

    Raises:
        BadValue: certified_k not in 0 to k.
    """
    if not 0 <= certified_k <= k:
        raise BadValue(f"certified_k must be 0 to the list's {k}, got {certified_k}")
    if not any_sufficient or k == 0:
        return "insufficient"
    return "certified" if certified_k == k else "converging"


def _bins(counts: np.ndarray) -> Integers:
    """⌊log₄ count⌋, exactly; −1 for 0."""
    return np.searchsorted(_POWERS_OF_4, counts, side="right") - 1


def _require_list(k: int, min_support: int) -> None:
    for name, value in (("k", k), ("min_support", min_support)):
        if value < 1:
            raise BadValue(f"{name} must be at least 1, got {value}")


def _supported(measure: str, joint: ArrayLike, up: ArrayLike, down: ArrayLike, min_support: int) -> Floats:
    """The measure where the joint count has the support, NaN elsewhere."""
    return np.where(np.asarray(joint) >= min_support, half_estimates(measure, joint, up, down), np.nan)
