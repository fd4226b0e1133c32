"""Bounds of pairs that are not watched, from their counts: a heuristic, tempered by design effects (`kernels.bounds`)."""

from __future__ import annotations

import numpy as np

import kernels
from engine.measures.pair_counts import PairCounts, estimates
from engine.measures.similarity import Floats

RATIOS = ("jaccard", "sufficiency", "necessity")


def ratios_of(counts: PairCounts) -> list[tuple[Floats, Floats]]:
    """Successes and trials of each of `RATIOS`, float64 of the joint counts' shape: n_ij over n_i + n_j − n_ij, n_i and n_j."""
    joint = np.asarray(counts.joint, np.float64)
    up, down = (np.broadcast_to(np.asarray(n, np.float64), joint.shape) for n in (counts.up, counts.down))
    return [(joint, np.ascontiguousarray(trials)) for trials in (up + down - joint, up, down)]


def pearson_effective(counts: PairCounts, rate_effect: np.ndarray) -> Floats:
    """Tokens that the bounds of a correlation may count on: the smaller active count over the larger of the design effect and 6;
    NaN where the design effect is unknown."""
    least = np.minimum(counts.up, counts.down).astype(np.float64)
    return least / np.maximum(np.asarray(rate_effect, np.float64), kernels.PEARSON_LEAST_EFFECT)


def tempered_bounds(
    measure: str, counts: PairCounts, effect: np.ndarray, rate_effect: np.ndarray, alpha: float = 0.05
) -> tuple[Floats, Floats]:
    """Lower and upper bound of one of the ratios or of Pearson's correlation, of P pairs.

    Args:
        measure: one of `RATIOS`, or "pearson".
        counts: arrays `[P]`, or numbers that broadcast to the joint counts.
        effect: `[P]`, design effects of the ratios.
        rate_effect: `[P]`, the larger of the design effects of the two rates.
        alpha: the level.

    Returns:
        float64 `[P]` each; NaN where the design effect is unknown or the measure undefined. Where some of the joint counts may be
        missing, the lower bound is of what is sure and the upper one of all that there can be; a correlation has none then, as of
        the products nothing is known that was not counted.
    """
    joint = np.asarray(counts.joint)
    lower, upper = np.full(joint.shape, np.nan), np.full(joint.shape, np.nan)
    missing = np.broadcast_to(np.asarray(counts.joint_error), joint.shape)
    if measure == "pearson":
        r = np.broadcast_to(estimates(counts, [measure])[measure], joint.shape)
        effective = np.broadcast_to(pearson_effective(counts, rate_effect), joint.shape)
        known = np.isfinite(r) & np.isfinite(effective) & (missing == 0)
        lower[known], upper[known] = kernels.pearson_bounds(r[known], effective[known], alpha)
        return lower, upper
    successes, trials = ratios_of(counts)[RATIOS.index(measure)]
    effects = np.broadcast_to(np.asarray(effect, np.float64), joint.shape)
    known = np.isfinite(effects)
    lower[known], upper[known] = kernels.bounds(successes[known], trials[known], effects[known], alpha)
    if (more := known & (missing > 0)).any():
        successes, trials = ratios_of(counts._replace(joint=joint + missing))[RATIOS.index(measure)]
        upper[more] = kernels.bounds(successes[more], trials[more], effects[more], alpha)[1]
    return lower, upper
