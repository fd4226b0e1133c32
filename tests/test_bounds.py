"""Bounds from counts alone, against their definition solved by bisection."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numba
import numpy as np
import pytest
from hypothesis import example, given, settings

from kernels import bounds, pearson_bounds
from kernels.cpu.bounds import lower_bound, pearson_effective, pearson_lower_bound, pearson_upper_bound, upper_bound


def by_bisection(successes: float, trials: float, deff: float, alpha: float) -> tuple[float, float]:
    """The smallest and the largest p that the beta-binomial sequence holds, with lgamma and 100 halvings each."""
    s, f = successes / deff, (trials - successes) / deff

    def log_beta(x: float, y: float) -> float:
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    def holds(p: float) -> bool:
        if (s > 0 and p == 0.0) or (f > 0 and p == 1.0):
            return False
        evidence = log_beta(0.5 + s, 0.5 + f) - log_beta(0.5, 0.5)
        evidence -= (s * math.log(p) if s > 0 else 0.0) + (f * math.log1p(-p) if f > 0 else 0.0)
        return evidence <= math.log(1 / alpha)

    ends = []
    for out in (0.0, 1.0):
        inside = s / (s + f)
        if holds(out):
            inside = out
        for _ in range(100):
            middle = 0.5 * (out + inside)
            if holds(middle):
                inside = middle
            else:
                out = middle
        ends.append(inside)
    return ends[0], ends[1]


counts = st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.one_of(st.integers(0, n), st.integers(0, min(n, 5))), st.just(n)))


@given(counts, st.floats(1.0, 200.0), st.sampled_from([0.05, 0.001, 0.5]))
@example((0, 1), 1.0, 0.05)
@example((1, 1), 1.0, 0.05)
@example((0, 10**6), 1.0, 0.05)
@example((10**6, 10**6), 1.0, 0.05)
@example((10**6 - 1, 10**6), 1.0, 0.05)
@example((10, 20), 1.0, 0.05)  # both counts at the change from lgamma to the series
@settings(max_examples=200, deadline=None)
def test_bounds_are_the_ends_of_what_the_sequence_holds(count: tuple[int, int], deff: float, alpha: float) -> None:
    successes, trials = count
    for value, other in ((successes, trials - successes), (trials - successes, successes)):  # bounds of p, and of 1 − p
        lower, upper = bounds(np.array([value]), np.array([value + other]), deff, alpha)
        expected = by_bisection(value, value + other, deff, alpha)
        # lgamma of 1e6 is good to 1e-9 of the evidence, and near p̂ the evidence is flat.
        np.testing.assert_allclose([lower[0], upper[0]], expected, rtol=1e-7, atol=1e-12)
        assert 0.0 <= lower[0] <= value / trials <= upper[0] <= 1.0
        assert (value > 0 or lower[0] == 0.0) and (other > 0 or upper[0] == 1.0)


def test_scalar_functions_are_the_array_function_and_can_be_called_from_compiled_code() -> None:
    rng = np.random.default_rng(0)
    trials = rng.integers(1, 5_000, 200)
    successes = rng.binomial(trials, rng.random(200))
    deff = 1 + rng.exponential(3.0, 200)

    @numba.njit
    def ends(successes, trials, deff, alpha):
        return lower_bound(successes, trials, deff, alpha), upper_bound(successes, trials, deff, alpha)

    expected = np.stack(bounds(successes, trials, deff, 0.05), axis=1)
    found = [ends(*row, 0.05) for row in zip(successes.tolist(), trials.tolist(), deff.tolist(), strict=True)]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        bounds(successes.reshape(2, 100), trials.reshape(2, 100), deff.reshape(2, 100))[0].shape, (2, 100)
    )


def test_without_trials_there_is_no_bound_and_a_design_effect_below_one_is_none() -> None:
    lower, upper = bounds(np.array([0, 3]), np.array([0, 7]), 2.0)
    assert math.isnan(lower[0]) and math.isnan(upper[0]) and lower[1] < 3 / 7 < upper[1]
    assert math.isnan(lower_bound(0, 0, 1.0, 0.05)) and math.isnan(upper_bound(0.0, math.nan, 1.0, 0.05))
    assert lower_bound(3, 7, 0.01, 0.05) == lower_bound(3, 7, 1.0, 0.05)


@pytest.mark.parametrize("trials", [1e9, 1e12, 1e15, 2.0**62], ids=["9", "12", "15", "int64"])
@pytest.mark.parametrize("ratio", [1e-8, 0.3, 1 - 1e-8])
def test_huge_counts_give_what_the_normal_approximation_gives(trials: float, ratio: float) -> None:
    successes = round(ratio * trials)
    lower, upper = (end[0] for end in bounds(np.array([successes]), np.array([trials]), 1.0))
    p = successes / trials
    # n KL ≈ n (p̂ − p)²/(2 p̂ q̂) ≤ L = ln(1/α) + ½ ln(πn/2); rare counts of 10 are Poisson, not normal
    half = math.sqrt(2 * p * (1 - p) * (math.log(20) + 0.5 * math.log(math.pi * trials / 2)) / trials)
    assert lower <= p <= upper
    if min(p, 1 - p) * trials > 1e4:
        np.testing.assert_allclose([p - lower, upper - p], half, rtol=0.15, atol=4e-16)


def test_more_dependence_widens_and_more_data_narrows() -> None:
    successes, trials = np.full(5, 40), np.full(5, 100)
    lower, upper = bounds(successes, trials, np.array([1.0, 2.0, 5.0, 20.0, 90.0]))
    assert np.all(np.diff(lower) < 0) and np.all(np.diff(upper) > 0)
    more = 10 ** np.arange(5)
    lower, upper = bounds(4 * more, 10 * more, 1.0)
    assert np.all(np.diff(lower) > 0) and np.all(np.diff(upper) < 0)


def test_a_pair_seen_once_never_leads_one_seen_often() -> None:
    lower, _ = bounds(np.array([1, 3, 80]), np.array([1, 3, 100]), 1.0)
    assert lower[0] < lower[1] < lower[2]


@given(st.floats(-1.0, 1.0), st.floats(1e-3, 1e9))
@example(1.0, 100.0)
@example(-1.0, 100.0)
@example(0.0, 1e-3)
@settings(max_examples=200, deadline=None)
def test_pearson_bounds_are_fisher_s_with_the_width_of_the_sequence(r: float, effective: float) -> None:
    lower, upper = (end[0] for end in pearson_bounds(np.array([r]), np.array([effective])))
    rho2 = (2 * math.log(20) + math.log(1 + 2 * math.log(20))) / 1000
    scale = effective * rho2
    half = math.sqrt(2 * (scale + 1) / scale * math.log(math.sqrt(scale + 1) / 0.05) / effective)
    towards_zero = r * effective / (effective + 1)
    with np.errstate(divide="ignore"):
        below, above = (np.arctanh(towards_zero if sign * r > 0 else r) - sign * half for sign in (1, -1))
    np.testing.assert_allclose([lower, upper], np.tanh([below, above]), rtol=1e-6, atol=1e-9)
    assert -1.0 <= lower <= r <= upper <= 1.0
    mirrored = pearson_bounds(np.array([-r]), np.array([effective]))
    assert (mirrored[0][0], mirrored[1][0]) == (-upper, -lower)


def test_a_correlation_without_data_or_value_has_no_bounds() -> None:
    lower, upper = pearson_bounds(np.array([0.5, np.nan]), np.array([0.0, 10.0]))
    assert np.isnan(lower).all() and np.isnan(upper).all()
    assert pearson_effective(900, 300, 30.0) == 10.0 and pearson_effective(900, 300, 1.0) == 50.0
    assert pearson_lower_bound(0.5, 50.0, 0.05) < 0.5 < pearson_upper_bound(0.5, 50.0, 0.05)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: bounds(np.array([3]), np.array([2]), 1.0), r"successes holds 3.0, every one must be in \[0, trials\]"),
        (lambda: bounds(np.array([-1]), np.array([2]), 1.0), "successes holds -1.0"),
        (lambda: bounds(np.array([1]), np.array([math.inf]), 1.0), "trials holds inf"),
        (lambda: bounds(np.array([1, 2]), np.array([2]), 1.0), r"trials has shape \(1,\), it must be \(2,\)"),
        (lambda: bounds(np.array([1]), np.array([2]), 0.5), "deff holds 0.5, every one must be at least 1"),
        (lambda: bounds(np.array([1]), np.array([2]), np.ones(3)), r"deff has shape \(3,\)"),
        (lambda: bounds(np.array([1]), np.array([2]), 1.0, 0.0), "alpha is 0.0"),
        (lambda: pearson_bounds(np.array([1.5]), np.array([2.0])), r"r holds 1.5, every one must be in \[-1, 1\]"),
        (lambda: pearson_bounds(np.array([0.5]), np.array([-2.0])), "n_effective holds -2.0"),
        (lambda: pearson_bounds(np.array([0.5]), np.ones(2)), r"n_effective has shape \(2,\)"),
    ],
)
def test_what_is_wrong_is_named(call, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        call()
