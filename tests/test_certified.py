"""Certified leaders against lists whose truth is known, with tokens that depend on each other, read again and again."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.measures.convergence import DesignEffects, certified_k, design_effect_of, design_effects

K = 10
CANDIDATES = 40
ALPHA = 0.05
READINGS = 10
DOCUMENTS_A_READING = 100
ICC = 0.2  # correlation between two uses of a feature in a document
DESIGN_EFFECT = 4.6  # 1 + 18 · ICC: 10 uses a document, geometric, so that a use has 18 others beside it on average

_log_gamma = np.vectorize(math.lgamma, otypes=[float])


def bounds(successes: np.ndarray, failures: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends of {p: ln B(½+s, ½+f) − ln B(½, ½) − s ln p − f ln(1−p) ≤ ln(1/alpha)}, by bisection on either side of s/(s+f)."""
    log_b = _log_gamma(successes + 0.5) + _log_gamma(failures + 0.5) - _log_gamma(successes + failures + 1.0) - math.log(math.pi)

    def outside(p: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            used = np.where(successes > 0, successes * np.log(p), 0.0) + np.where(failures > 0, failures * np.log1p(-p), 0.0)
        return log_b - used > math.log(1 / alpha)

    middle = np.where(successes + failures > 0, successes / np.maximum(successes + failures, 1e-300), 0.5)
    ends = []
    for end in (0.0, 1.0):
        inner, outer = middle.copy(), np.full(middle.shape, end)
        for _ in range(40):
            half = (inner + outer) / 2
            out = outside(half)
            inner, outer = np.where(out, inner, half), np.where(out, half, outer)
        ends.append(outer)
    return ends[0], ends[1]


def well_separated(rng: np.random.Generator, lists: int) -> np.ndarray:
    """Ratios [lists, CANDIDATES]: ten leaders 0.9, 0.72, 0.576 …, all others below 0.06."""
    truth = rng.uniform(0.005, 0.06, (lists, CANDIDATES))
    truth[:, :K] = 0.9 * 0.8 ** np.arange(K)
    return rng.permuted(truth, axis=1)


def cut_between_twins(rng: np.random.Generator, lists: int) -> np.ndarray:
    """Nine leaders 0.9 … 0.4, then twins that differ by 0.001, one in the list and one out, all others below 0.06.

    A wrong order of twins inside the list would be hidden by the larger set that they both belong to.
    """
    truth = rng.uniform(0.005, 0.06, (lists, CANDIDATES))
    truth[:, : K - 1] = np.linspace(0.9, 0.4, K - 1)
    truth[:, K - 1 : K + 1] = rng.choice([0.1, 0.2, 0.3], (lists, 1)) + np.array([0.001, 0.0])
    return rng.permuted(truth, axis=1)


def all_tied(rng: np.random.Generator, lists: int) -> np.ndarray:
    """Forty ratios that differ by 0.0005."""
    truth = rng.choice([0.1, 0.3, 0.6], (lists, 1)) + 0.0005 * np.arange(CANDIDATES)
    return rng.permuted(truth, axis=1)


def bursty_joint_counts(rng: np.random.Generator, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One reading's worth of documents: uses of the feature [lists, 1, 2] and joint counts [lists, CANDIDATES, 2], by half."""
    uses = rng.geometric(0.1, (DOCUMENTS_A_READING, len(truth), 1))
    spread = 1 / ICC - 1
    in_document = rng.beta(truth * spread, (1 - truth) * spread, (DOCUMENTS_A_READING, *truth.shape))
    joint = rng.binomial(uses, in_document)
    half = rng.integers(0, 2, DOCUMENTS_A_READING)
    by_half = [[counts[half == side].sum(axis=0) for side in (0, 1)] for counts in (uses, joint)]
    return np.stack(by_half[0], axis=-1), np.stack(by_half[1], axis=-1)


def test_certified_leaders_are_the_true_ones_however_often_they_are_read() -> None:
    rng = np.random.default_rng(11)
    truth = np.concatenate([well_separated(rng, 100), cut_between_twins(rng, 100), all_tied(rng, 20)])
    separated, cut, tied = np.split(np.arange(len(truth)), [100, 200])
    true_order = np.argsort(-truth, axis=1)
    uses, joint = np.zeros((len(truth), 1, 2), np.int64), np.zeros((*truth.shape, 2), np.int64)
    wrong = {"tempered": np.zeros(len(truth), bool), "by tokens": np.zeros(len(truth), bool)}
    certified = np.zeros(len(truth), np.int64)
    effects = DesignEffects(np.zeros(0, np.int64), np.zeros(0))
    for _ in range(READINGS):
        more_uses, more_joint = bursty_joint_counts(rng, truth)
        uses, joint = uses + more_uses, joint + more_joint
        n, n_joint = uses.sum(axis=-1), joint.sum(axis=-1)
        halves = [x.reshape(-1) for x in (*np.moveaxis(joint, -1, 0), *np.moveaxis(np.broadcast_to(uses, joint.shape), -1, 0))]
        effects = design_effects(*halves)
        tempered = design_effect_of(effects, n_joint)
        p = n_joint / n
        wald = 1.96 * np.sqrt(p * (1 - p) / n)
        for name, (lower, upper) in {
            "tempered": bounds(n_joint / tempered, (n - n_joint) / tempered, ALPHA / CANDIDATES),
            "by tokens": (p - wald, p + wald),
        }.items():
            order = np.argsort(-p, axis=1, kind="stable")
            low, high = (np.take_along_axis(bound, order, axis=1) for bound in (lower, upper))
            k = certified_k(low[:, :K], high[:, :K], high[:, K:].max(axis=1))
            for at, leaders in enumerate(k):
                wrong[name][at] |= set(order[at, :leaders]) != set(true_order[at, :leaders])
            if name == "tempered":
                certified = k
    assert effects.effect[-1] == pytest.approx(DESIGN_EFFECT, rel=0.2)
    assert wrong["tempered"].mean() <= 0.05
    assert certified[separated].mean() >= 5
    assert certified[cut].mean() >= 3
    assert certified[tied].max() == 0
    assert wrong["by tokens"][cut].mean() > 0.2, "bounds that count tokens as independent and the reader as looking once do not do"


def test_the_bounds_of_the_simulation_hold_together_over_a_row_and_over_all_readings() -> None:
    """The sequence itself, on independent tokens: P bounds at alpha/P, read many times, together miss in at most alpha of rows."""
    rng = np.random.default_rng(12)
    truth = rng.choice([0.01, 0.1, 0.5, 0.9], (400, CANDIDATES))
    successes, n, missed = np.zeros(truth.shape), 0, np.zeros(len(truth), bool)
    for more in (5, 5, 10, 20, 40, 80, 160, 320, 640):
        successes, n = successes + rng.binomial(more, truth), n + more
        lower, upper = bounds(successes, n - successes, ALPHA / CANDIDATES)
        missed |= np.any((truth < lower) | (truth > upper), axis=1)
    assert missed.mean() <= ALPHA
