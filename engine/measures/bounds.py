"""Bounds of pairs that are not watched, from their counts: a heuristic, tempered by design effects (`kernels.bounds`)."""

from __future__ import annotations

import numpy as np

import kernels
from engine.measures.at_once import estimates_at_once
from engine.measures.pair_counts import PairCounts
from engine.measures.similarity import Floats

RATIOS = ("jaccard", "sufficiency", "necessity")


def ratio_of(measure: str, counts: PairCounts) -> tuple[Floats, Floats]:
    """Successes and trials of one of `RATIOS`, float64 of the joint counts' shape: n_ij over n_i + n_j − n_ij, n_i or n_j."""
    joint = np.asarray(counts.joint, np.float64)
    trials = np.empty(joint.shape)
    if measure == "jaccard":
        trials[...] = np.asarray(counts.up, np.float64) + np.asarray(counts.down, np.float64) - joint
    else:
        trials[...] = counts.up if measure == "sufficiency" else counts.down
    return joint, trials


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
    missing = np.asarray(counts.joint_error)
    if measure == "pearson":
        r = estimates_at_once(counts, [measure])[measure]
        effective = np.broadcast_to(pearson_effective(counts, rate_effect), joint.shape)
        known = np.isfinite(r) & np.isfinite(effective) & (missing == 0)
        lower[known], upper[known] = kernels.pearson_bounds(r[known], effective[known], alpha)
        return lower, upper
    successes, trials = ratio_of(measure, counts)
    effects = np.asarray(effect, np.float64)
    known = np.isfinite(effects)
    if effects.shape == joint.shape and known.all():
        lower, upper = kernels.bounds(successes, trials, effects, alpha)
    else:
        effects = np.broadcast_to(effects, joint.shape)
        known = np.isfinite(effects)
        lower[known], upper[known] = kernels.bounds(successes[known], trials[known], effects[known], alpha)
    if missing.any():
        more = known & (missing > 0)
        successes, trials = ratio_of(measure, counts._replace(joint=joint + missing))
        effects = np.broadcast_to(effects, joint.shape)
        upper[more] = kernels.bounds(successes[more], trials[more], effects[more], alpha)[1]
    return lower, upper
