"""What a ranking of neighbours is made from, published or read from the running tables, and how far a list is settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from engine.measures import PairCounts
from engine.measures.bounds import tempered_bounds
from engine.measures.convergence import HALF_MEASURES, certified_k, list_status, split_half_rbo
from engine.views.records import Direction
from kernels import ALPHA, bounds


class NeighborRows(NamedTuple):
    """Neighbours of a feature in one layer: `NEIGHBOR [n]`, `INTERVAL [m]` of those that are watched, that layer's size, what may
    be missing of the joint counts, int64 `[n]`, and the most that one can be with a feature that the table does not hold."""

    layer: int
    rows: np.ndarray
    intervals: np.ndarray
    features: int
    errors: np.ndarray
    unlisted: int = 0


class OneSide(NamedTuple):
    """Counts of a feature, or arrays of many: active count, Σa, Σa², the active count of half A, and the rate's design effect."""

    count: int | np.ndarray
    sum: float | np.ndarray
    sum_of_squares: float | np.ndarray
    count_a: int | np.ndarray = 0
    rate_effect: float | np.ndarray = np.nan


def pair_counts(
    own: OneSide,
    rows: np.ndarray | Mapping[str, np.ndarray],
    tokens: int,
    direction: Direction,
    errors: np.ndarray | int = 0,
) -> PairCounts:
    """The counts of a feature with each of its rows, of which `errors` may be missing, turned so that upstream is upstream."""
    other = OneSide(rows["count"], rows["sum"], rows["sum_of_squares"])
    up, down = (own, other) if direction == "downstream" else (other, own)
    return PairCounts(
        tokens=tokens,
        up=up.count,
        down=down.count,
        joint=rows["joint"],
        up_sum=up.sum,
        down_sum=down.sum,
        up_sumsq=up.sum_of_squares,
        down_sumsq=down.sum_of_squares,
        product=rows["product"],
        decoder_cosine=rows["decoder_cosine"],
        joint_error=errors,
    )


class Standing(NamedTuple):
    """How far a list is settled."""

    status: Literal["insufficient", "converging", "certified"]
    certified_k: int | None
    reason: str | None


def certify(
    own: OneSide,
    tables: Sequence[NeighborRows],
    counts: PairCounts,
    scores: np.ndarray,
    effects: np.ndarray,
    best: np.ndarray,
    *,
    direction: Direction,
    measure: str,
    min_support: int,
    depth: int | None,
) -> Standing:
    """How many leaders of a list no other feature can overtake (`engine.measures.certified_k`).

    All bounds are tempered ones at 5 % over the number of features that could be listed. What is no candidate has a ratio of at
    most that of the last one by the measure, or less than the support, and a denominator of at least the feature's own count.

    A bounded table may lack e of a joint count, for any feature at most E (`unlisted`). With s of what is sure, ratio r = s/d: the
    true one is at most (s + e)/(d − e) for Jaccard, whose denominator falls as the joint count grows, and that with d − e of at
    least the own count n is at most r + (1 + r) e/n. A feature that is not held has at most E; one that is held but not listed for
    its want of support less than the larger of support and e, and e more.

    Args:
        own: counts of the feature.
        tables: the layers in that direction.
        counts, scores, effects: `[n]` of the candidates with the support: counts, the measure, and design effects of their ratios.
        best: int `[k]`, the list: indices of candidates in the order of the ranking.
        direction, measure, min_support: of the ranking.
        depth: the candidates hold so many best ones by the measure; None: all that have the support.
    """
    own_denominator = {"downstream": "sufficiency", "upstream": "necessity"}[direction]
    if measure not in ("jaccard", own_denominator):
        why = (
            f"{direction}, only the denominators of jaccard and {own_denominator} are at least the feature's own count, and that "
            "is what bounds the features that are not listed"
        )
        return Standing("insufficient", None, why)
    if not len(best):
        return Standing("insufficient", 0, "nothing is listed")
    alpha = ALPHA / max(1, sum(table.features for table in tables))
    lower, upper = tempered_bounds(measure, counts, effects, np.full(len(scores), np.nan), alpha)
    if not np.isfinite(lower[best]).all():
        return Standing("insufficient", 0, "design effects are not known yet")
    effect = float(np.nanmax(effects))
    missing = float(max((table.unlisted for table in tables), default=0))
    most = max(float(min_support - 1), missing) + missing
    if depth is not None and len(scores) >= depth:
        last = float(np.sort(scores)[-depth])
        most = max(most, last * float(own.count) + (1.0 + last) * missing)
    trials = np.array([float(own.count)])
    rest_upper = float(bounds(np.minimum(most, trials), trials, effect, alpha)[1][0])
    others = np.ones(len(scores), bool)
    others[best] = False
    rest_upper = max(rest_upper, float(upper[others].max(initial=-np.inf)))
    settled = int(certified_k(lower[best][None], upper[best][None], np.array([rest_upper]))[0])
    return Standing(list_status(settled, len(best), any_sufficient=True), settled, None)


def halves_agree(own: OneSide, rows: np.ndarray, direction: Direction, measure: str, k: int) -> float | None:
    """RBO (p = 0.9) of the k best candidates by half A and by half B; None where that is not known."""
    if measure not in HALF_MEASURES or not len(rows):
        return None
    mine_a, mine_b = int(own.count_a), int(own.count) - int(own.count_a)
    others_a, others_b = rows["count_a"], rows["count"] - rows["count_a"]
    joint_a, joint_b = rows["joint_a"], rows["joint"] - rows["joint_a"]
    a, b = np.full(len(rows), mine_a), np.full(len(rows), mine_b)
    if direction == "downstream":
        return split_half_rbo(joint_a, a, others_a, joint_b, b, others_b, measure, k)
    return split_half_rbo(joint_a, others_a, a, joint_b, others_b, b, measure, k)
