"""Convergence and drift against slow, obvious references, on edge cases, and on data whose truth is known."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import BadValue
from engine.measures import rbo
from engine.measures.convergence import (
    HALF_MEASURES,
    DesignEffects,
    HalfCounts,
    certified_k,
    chao1,
    count_of_counts,
    design_effect_of,
    design_effects,
    list_status,
    reliability,
    split_half_rbo,
    split_half_rbos,
    unseen_mass,
)
from engine.measures.drift import (
    RatioIntervals,
    RatioMoments,
    compare,
    compare_densities,
    density_intervals,
    list_drift,
    most_changed,
    most_different,
    ratio_interval,
)
from engine.measures.ranking import rbos, top_of_lists

NAN = math.nan
ROOT = Path(__file__).parents[1]


def test_these_measures_need_nothing_but_numpy() -> None:
    absent = "import sys; sys.modules.update(dict.fromkeys(['torch', 'sae_lens', 'redis', 'scipy', 'numba']));"
    subprocess.run(
        [sys.executable, "-c", absent + "import engine.measures.convergence, engine.measures.drift"], check=True, cwd=ROOT
    )


# Design effects ----------------------------------------------------------------------------------------------------------------


def slow_design_effects(count_a: list[int], count_b: list[int], n_a: int, n_b: int, fewest: int) -> list[float]:
    by_bin: dict[int, list[float]] = {}
    size = 0
    for a, b in zip(count_a, count_b, strict=True):
        if a + b == 0:
            continue
        at = 0
        while 4 ** (at + 1) <= a + b:
            at += 1
        size = max(size, at + 1)
        p = (a + b) / (n_a + n_b) if n_a + n_b else 0
        if n_a and n_b and p < 1:
            by_bin.setdefault(at, []).append((a / n_a - b / n_b) ** 2 / (p * (1 - p) * (1 / n_a + 1 / n_b)))
    if sum(map(len, by_bin.values())) < fewest:
        return [NAN] * size
    effects = []
    for at in range(size):
        for width in range(size):
            near = [x for other in range(at - width, at + width + 1) for x in by_bin.get(other, [])]
            if len(near) >= fewest:
                effects.append(max(1.0, sum(near) / len(near)))
                break
    return effects


def halves_of_bursts(rng: np.random.Generator, rates: np.ndarray, burst: int) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Counts by half of features that fire in documents of 50 tokens, `burst` tokens at a time, and the tokens of the halves."""
    in_a = rng.random(1000) < 0.5
    fires = rng.random((len(rates), 1000)) < rates[:, None]
    count_a, count_b = (burst * fires[:, half].sum(axis=1) for half in (in_a, ~in_a))
    return count_a, count_b, 50 * int(in_a.sum()), 50 * int((~in_a).sum())


@pytest.mark.parametrize("fewest", [1, 20, 200])
def test_design_effects_are_the_means_over_bins_that_borrow_from_their_neighbours(fewest: int) -> None:
    rng = np.random.default_rng(fewest)
    count_a = np.minimum(rng.pareto(0.5, 300), 4000).astype(int)
    count_b = np.minimum(rng.pareto(0.5, 300), 6000).astype(int)
    found = design_effects(count_a, count_b, 4000, 6000, fewest=fewest)
    total = count_a + count_b
    assert found.features.tolist() == [np.count_nonzero((total >= 4**b) & (total < 4 ** (b + 1))) for b in range(7)]
    np.testing.assert_allclose(
        found.effect, slow_design_effects(count_a.tolist(), count_b.tolist(), 4000, 6000, fewest), rtol=1e-12
    )


def test_a_known_design_effect_is_recovered_at_every_frequency() -> None:
    rng = np.random.default_rng(1)
    rates = 10 ** rng.uniform(-3, -1, 3000)
    for burst in (1, 5):
        found = design_effects(*halves_of_bursts(rng, rates, burst))
        assert found.features.sum() > 2000
        enough = found.features >= 300
        assert np.count_nonzero(enough) >= 2
        np.testing.assert_allclose(found.effect[enough], burst, rtol=0.15)


def test_rare_features_keep_their_own_design_effect_beside_frequent_bursty_ones() -> None:
    rng = np.random.default_rng(2)
    halves = halves_of_bursts(rng, np.full(1000, 0.002), 1)
    bursty = halves_of_bursts(rng, np.full(1000, 0.05), 5)
    counts = [np.concatenate([rare, frequent]) for rare, frequent in zip(halves[:2], bursty[:2], strict=True)]
    tokens = [np.repeat([rare, frequent], 1000) for rare, frequent in zip(halves[2:], bursty[2:], strict=True)]
    found = design_effects(*counts, *tokens)
    np.testing.assert_allclose(design_effect_of(found, [2, 250]), [1, 5], rtol=0.15)


def test_the_design_effect_of_ratios_takes_their_denominators_for_tokens() -> None:
    rng = np.random.default_rng(3)
    uses = 4 * rng.integers(20, 200, (2, 3000))
    joint = 4 * rng.binomial(uses // 4, 0.2)  # four joint activations come together, or none
    assert design_effects(*joint, *uses).effect[-2:] == pytest.approx([4, 4], rel=0.15)


def test_each_count_finds_its_bin_exactly() -> None:
    effects = DesignEffects(np.ones(31, np.int64), np.arange(31.0) + 1)
    for b in range(31):
        assert design_effect_of(effects, [4**b, 4**b * 3, 4 ** (b + 1) - 1]).tolist() == [b + 1] * 3
    assert design_effect_of(effects, [[0], [2**63 - 1]]).tolist() == [[1], [31]], "the nearest bin, for none and for more than all"


@pytest.mark.parametrize(
    ("counts", "features"),
    [
        pytest.param(([0] * 30, [0] * 30, 100, 100), [], id="no feature fired"),
        pytest.param(([], [], 0, 0), [], id="no features"),
        pytest.param(([3], [5], 100, 100), [0, 1], id="one feature"),
        pytest.param(([3] * 30, [0] * 30, 100, 0), [0], id="one half without tokens"),
        pytest.param(([10] * 30, [10] * 30, 10, 10), [0, 0, 0], id="every feature fires at every token"),
    ],
)
def test_a_design_effect_without_enough_features_is_not_known(counts: tuple, features: list[int]) -> None:
    found = design_effects(*counts)
    assert found.features.tolist() == features
    assert np.isnan(found.effect).all() and len(found.effect) == len(features)
    assert np.isnan(design_effect_of(found, [0, 1, 1000])).all()


def test_halves_that_agree_too_well_have_the_design_effect_one() -> None:
    found = design_effects([10] * 30, [10] * 30, 1000, 1000)
    assert found.effect.tolist() == [1, 1, 1]
    assert design_effects([10] * 30 + [1000], [10] * 30 + [1000], 1000, 1000).features.tolist() == [0, 0, 30, 0, 0, 0]


def test_counts_that_no_half_can_have_are_refused() -> None:
    with pytest.raises(BadValue, match="half B: a count must lie in 0 to its 8 tokens, got 9"):
        design_effects([1, 2], [1, 9], 8, 8)
    with pytest.raises(BadValue, match=r"half A: .* got -1"):
        design_effects([-1], [1], 8, 8)
    with pytest.raises(BadValue, match="fewest must be at least 1, got 0"):
        design_effects([1], [1], 8, 8, fewest=0)


# Reliability -------------------------------------------------------------------------------------------------------------------


def test_reliability_is_the_share_of_the_variance_that_is_not_noise() -> None:
    """Truth of variance 1, noise of variance 1 in each half: 1/(1 + ½) of what both halves together say is truth."""
    rng = np.random.default_rng(4)
    truth = rng.normal(size=40_000)
    a, b = (truth + rng.normal(size=40_000) for _ in range(2))
    assert reliability(a, b) == pytest.approx(2 / 3, abs=0.01)
    r = np.corrcoef(a, b)[0, 1]
    assert reliability(a, b) == pytest.approx(2 * r / (1 + r), rel=1e-12)
    a[:100], b[50:200] = NAN, NAN
    r = np.corrcoef(a[200:], b[200:])[0, 1]
    assert reliability(a, b) == pytest.approx(2 * r / (1 + r), rel=1e-12), "pairs that have no value in a half are left out"


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [
        pytest.param([], [], None, id="no pairs"),
        pytest.param([0.5], [0.4], None, id="one pair"),
        pytest.param([0.5, 0.7, NAN], [0.5, 0.7, 0.9], None, id="two pairs with both values"),
        pytest.param([0.1] * 7, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], None, id="one half all equal"),
        pytest.param([NAN] * 5, [NAN] * 5, None, id="nothing defined"),
        pytest.param([0.1, 0.2, 0.7], [0.1, 0.2, 0.7], 1.0, id="the halves are equal"),
        pytest.param([0.1, 0.2, 0.3], [0.3, 0.2, 0.1], 0.0, id="opposite"),
    ],
)
def test_reliability_is_none_where_no_correlation_is_defined_and_never_infinite(a: list, b: list, value: float | None) -> None:
    found = reliability(a, b)
    assert found is None if value is None else found == pytest.approx(value, abs=1e-12)


def test_halves_of_different_pairs_are_refused() -> None:
    with pytest.raises(BadValue, match="same pairs, got 3 and 4"):
        reliability([1, 2, 3], [1, 2, 3, 4])


# Split-half agreement of lists -------------------------------------------------------------------------------------------------

MEASURE_OF_COUNTS: dict[str, Callable[[int, int, int], float]] = {
    "jaccard": lambda joint, up, down: joint / (up + down - joint),
    "sufficiency": lambda joint, up, down: joint / up,
    "necessity": lambda joint, up, down: joint / down,
}


def slow_list(joint: list[int], up: list[int], down: list[int], *, measure: str, k: int, min_support: int) -> list[int]:
    scores = [
        (-MEASURE_OF_COUNTS[measure](*x), at) for at, x in enumerate(zip(joint, up, down, strict=True)) if x[0] >= min_support
    ]
    return [at for _, at in sorted(scores)[:k]]


def random_halves(rng: np.random.Generator, lengths: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """CSR offsets of lists of these lengths, and small counts by half, full of ties and zeros."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    halves = []
    for _ in range(2):
        joint = rng.integers(0, 5, offsets[-1])
        halves += [joint, joint + rng.integers(0, 4, offsets[-1]), joint + rng.integers(0, 4, offsets[-1])]
    return offsets, halves


def all_halves(counts: list[int]) -> HalfCounts:
    return HalfCounts(counts, counts, counts, counts, counts, counts)


@pytest.mark.parametrize("measure", HALF_MEASURES)
@pytest.mark.parametrize(("k", "min_support"), [(1, 1), (5, 1), (20, 3)])
def test_split_half_rbo_of_many_lists_is_that_of_lists_ranked_one_by_one(measure: str, k: int, min_support: int) -> None:
    rng = np.random.default_rng(k)
    offsets, counts = random_halves(rng, rng.permutation([0] * 20 + [1] * 20 + [3, 8, 9, 40, 41, 300] * 10))
    found = split_half_rbos(offsets, HalfCounts(*counts), measure, k, min_support=min_support)
    for at, value in enumerate(found):
        one = [x[offsets[at] : offsets[at + 1]].tolist() for x in counts]
        a, b = (slow_list(*half, measure=measure, k=k, min_support=min_support) for half in (one[:3], one[3:]))
        expected = rbo(a, b) if a or b else None
        (alone,) = split_half_rbos([0, len(one[0])], HalfCounts(*one), measure, k, min_support=min_support)
        assert alone == value or (np.isnan(alone) and np.isnan(value)), "bit for bit: the others don't matter"
        single = split_half_rbo(*one, measure=measure, k=k, min_support=min_support)
        assert single == (None if np.isnan(value) else pytest.approx(value, rel=1e-12, abs=1e-15))
        assert expected is None if np.isnan(value) else value == pytest.approx(expected, abs=1e-12)
    assert np.isnan(found).sum() >= 20, "the empty lists"


def test_a_half_without_support_has_no_list_and_agrees_with_none() -> None:
    seen, none = [3, 2, 0], [0, 0, 0]
    assert split_half_rbo(seen, 5, [9, 9, 9], none, 0, [4, 0, 0], "jaccard", 10) == 0.0
    assert split_half_rbo(none, 5, [9, 9, 9], none, 0, [4, 0, 0], "sufficiency", 10) is None
    assert split_half_rbo([], [], [], [], [], [], "necessity", 10) is None
    assert split_half_rbo(2, 5, 9, 3, 3, 3, "jaccard", 10) == pytest.approx(1.0), "one candidate, in both"


def test_candidates_cut_to_the_published_ones_overstate_the_agreement() -> None:
    rng = np.random.default_rng(5)
    halves = [rng.binomial(200, 0.3, (300, 60)) for _ in range(2)]
    whole = np.argsort(-(halves[0] + halves[1]), axis=1)[:, :10]
    cut = [np.take_along_axis(half, whole, axis=1) for half in halves]

    def agreement(joint_a: np.ndarray, joint_b: np.ndarray) -> float:
        offsets = np.arange(301) * joint_a.shape[1]
        uses = np.full(joint_a.size, 200)
        counts = HalfCounts(joint_a.reshape(-1), uses, uses, joint_b.reshape(-1), uses, uses)
        return float(split_half_rbos(offsets, counts, "sufficiency", 10).mean())

    assert agreement(*halves) < 0.2, "lists of nothing but chance"
    assert agreement(*cut) > 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measure": "pearson"}, r"'pearson' is not known by half: one of jaccard, sufficiency, necessity is"),
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"min_support": 0}, "min_support must be at least 1, got 0"),
        ({"offsets": [0, 2]}, r"must rise from 0 to the 3 candidates, got \[0 2\]"),
        ({"offsets": [0, 2, 1, 3]}, "must rise from 0"),
        ({"offsets": []}, "must rise from 0"),
    ],
)
def test_lists_that_cannot_be_compared_are_refused(change: dict, message: str) -> None:
    arguments = {"offsets": [0, 3], "counts": all_halves([1, 2, 3]), "measure": "jaccard", "k": 2} | change
    with pytest.raises(BadValue, match=message):
        split_half_rbos(**arguments)


def test_the_best_of_many_lists_are_those_of_sorting_each() -> None:
    rng = np.random.default_rng(6)
    lengths = np.concatenate([rng.integers(0, 100, 400), [5000]])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    scores = rng.integers(0, 30, offsets[-1]) / 30
    scores[rng.random(len(scores)) < 0.3] = NAN
    for found, start, end in zip(top_of_lists(offsets, scores, 7), offsets[:-1], offsets[1:], strict=True):
        there = [at for at in range(start, end) if not np.isnan(scores[at])]
        expected = sorted(there, key=lambda at: (-scores[at], at))[:7]
        assert found.tolist() == expected + [-1] * (7 - len(expected))


@given(st.lists(st.tuples(st.permutations(range(9)), st.permutations(range(9)), st.integers(0, 7), st.integers(0, 7)), max_size=6))
@settings(max_examples=60, deadline=None)
def test_rbo_of_many_lists_is_rbo_of_each(pairs: list[tuple[list[int], list[int], int, int]]) -> None:
    a, b = np.full((len(pairs), 7), -1), np.full((len(pairs), 7), -1)
    for at, (first, second, length_a, length_b) in enumerate(pairs):
        a[at, :length_a], b[at, :length_b] = first[:length_a], second[:length_b]
    for p in (0.9, 0.5):
        expected = [rbo(first[:m], second[:n], p) for first, second, m, n in pairs]
        np.testing.assert_allclose(rbos(a, b, p), expected, atol=1e-12)


def test_rbo_of_many_lists_takes_large_ids_and_any_number_of_lists() -> None:
    rng = np.random.default_rng(7)
    items = np.array([rng.permutation(60)[:33] for _ in range(9000)]) + 2**40
    other = np.array([rng.permutation(60)[:33] for _ in range(9000)]) + 2**40
    found = rbos(items, other)
    for at in (0, 3970, 3971, 8999):  # blocks end at 3,971
        assert found[at] == pytest.approx(rbo(items[at].tolist(), other[at].tolist()), abs=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "p", "message"),
    [
        ([[1, 2]], [[1, 2, 3]], 0.9, r"one shape \[lists, k\], got \[1, 2\] and \[1, 3\]"),
        ([1, 2], [1, 2], 0.9, "one shape"),
        ([[1, -1, 2]], [[1, 2, 3]], 0.9, "must not go on after"),
        ([[1, 2, 3]], [[2, 1, 2]], 0.9, "each item once"),
        ([[1]], [[1]], 1.0, "p must be between 0 and 1"),
    ],
)
def test_what_is_no_ranked_list_is_refused(a: list, b: list, p: float, message: str) -> None:
    with pytest.raises(BadValue, match=message):
        rbos(a, b, p)


# What was not seen -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16])
def test_counts_of_counts_are_those_of_the_whole_table(dtype: type) -> None:
    table = np.random.default_rng(8).poisson(0.7, (700, 900)).astype(dtype)
    expected = Counter(table.reshape(-1).tolist())
    total = sum(count * cells for count, cells in expected.items())
    whole = (expected[1], expected[2], table.size - expected[0], total)
    assert count_of_counts([table]) == whole
    assert count_of_counts(table[start : start + 11] for start in range(0, 700, 11)) == whole


def test_counts_of_counts_do_not_wrap_and_take_integers_only() -> None:
    assert count_of_counts([np.full((3, 2), 2**31 - 1, np.int32)]) == (0, 0, 6, 6 * (2**31 - 1))
    assert count_of_counts([]) == count_of_counts([np.zeros((0, 4), np.int32)]) == (0, 0, 0, 0)
    with pytest.raises(BadValue, match="must be integers, got float32"):
        count_of_counts([np.ones(3, np.float32)])


def test_unseen_mass_foretells_how_often_something_new_comes() -> None:
    rng = np.random.default_rng(9)
    weights = rng.pareto(1.0, 20_000)
    drawn = rng.choice(20_000, 60_000, p=weights / weights.sum())
    n1, n2, seen, total = count_of_counts([np.bincount(drawn[:30_000], minlength=20_000)])
    new = np.isin(drawn[30_000:32_000], drawn[:30_000], invert=True).mean()
    assert unseen_mass(n1, total) == pytest.approx(new, abs=0.02)
    assert seen < chao1(n1, n2, seen) <= 20_000


def test_chao1_finds_how_many_there_are_when_all_are_alike() -> None:
    n1, n2, seen, _ = count_of_counts([np.random.default_rng(10).poisson(1.0, 50_000)])
    assert chao1(n1, n2, seen) == pytest.approx(50_000, rel=0.02)


def test_what_was_not_seen_is_never_infinite() -> None:
    assert np.isnan(unseen_mass(0, 0))
    assert unseen_mass([0, 5, 5], [10, 5, 10]).tolist() == [0, 1, 0.5]
    assert chao1([0, 1, 4, 4], [0, 0, 0, 2], [0, 1, 4, 9]).tolist() == [0, 1, 10, 13]


# Certified leaders -------------------------------------------------------------------------------------------------------------


def slow_certified_k(lower: list[float], upper: list[float], rest: float) -> int:
    best = 0
    for k in range(1, len(lower) + 1):
        others = [*upper[k:], rest]
        if all(low > other for low in lower[:k] for other in others):
            best = k
    return best


def test_certified_k_is_the_largest_set_that_nothing_else_can_get_into() -> None:
    rng = np.random.default_rng(13)
    middle = -np.sort(-rng.random((2000, 6)), axis=1)
    lower, upper = middle - rng.exponential(0.03, middle.shape), middle + rng.exponential(0.03, middle.shape)
    rest = rng.random(2000) * 0.3
    for bound in (lower, upper, rest):
        bound[rng.random(bound.shape) < 0.05] = NAN
    lengths = rng.integers(0, 7, 2000)
    found = certified_k(lower, upper, rest, lengths)
    expected = [
        slow_certified_k(low[:n], high[:n], r)
        for low, high, r, n in zip(lower.tolist(), upper.tolist(), rest.tolist(), lengths, strict=True)
    ]
    assert found.tolist() == expected
    assert len(set(expected)) == 7
    np.testing.assert_array_equal(
        certified_k(lower.reshape(4, 500, 6), upper.reshape(4, 500, 6), rest.reshape(4, 500)).shape, (4, 500)
    )


@pytest.mark.parametrize(
    ("lower", "upper", "rest", "value"),
    [
        pytest.param([0.8, 0.5, 0.2], [0.9, 0.6, 0.3], 0.1, 3, id="all apart"),
        pytest.param([0.8, 0.5, 0.2], [0.9, 0.6, 0.3], 0.2, 2, id="one outside reaches the last"),
        pytest.param([0.5, 0.55, 0.2], [0.6, 0.65, 0.3], 0.1, 3, id="an order that is open inside the set"),
        pytest.param([0.8, NAN, 0.2], [0.9, 0.6, 0.3], 0.1, 1, id="no lower end behind the first"),
        pytest.param([0.8, 0.5, 0.2], [0.9, 0.6, NAN], 0.1, 3, id="no upper end inside the set"),
        pytest.param([0.8, 0.5, NAN], [0.9, 0.6, NAN], 0.1, 0, id="a neighbour of which nothing is known"),
        pytest.param([0.8, 0.5, 0.2], [0.9, 0.6, 0.3], NAN, 0, id="the rest is not known"),
        pytest.param([0.8, 0.5, 0.2], [0.9, 0.6, 0.3], -math.inf, 3, id="nothing else there is"),
        pytest.param([0.3] * 3, [0.3] * 3, 0.1, 3, id="all equal, and apart from the rest"),
        pytest.param([0.3] * 3, [0.3] * 3, 0.3, 0, id="all equal"),
        pytest.param([0.3], [0.4], 0.1, 1, id="one neighbour"),
        pytest.param([], [], 0.1, 0, id="no neighbours"),
    ],
)
def test_certified_k_of_one_list(lower: list[float], upper: list[float], rest: float, value: int) -> None:
    assert certified_k(lower, upper, rest) == value


def test_bounds_of_different_lists_are_refused() -> None:
    with pytest.raises(BadValue, match=r"one shape \[\.\.\., k\]"):
        certified_k([[0.1, 0.2]], [[0.1, 0.2]], 0.3)


def test_the_status_of_a_list() -> None:
    assert list_status(0, 10, any_sufficient=False) == "insufficient"
    assert list_status(0, 0, any_sufficient=True) == "insufficient"
    assert list_status(0, 10, any_sufficient=True) == list_status(9, 10, any_sufficient=True) == "converging"
    assert list_status(10, 10, any_sufficient=True) == "certified"
    with pytest.raises(BadValue, match="certified_k must be 0 to the list's 10, got 11"):
        list_status(11, 10, any_sufficient=True)


# Drift of lists ----------------------------------------------------------------------------------------------------------------

LISTS, PARTNERS, DOCUMENTS = 600, 15, 300


def corpora(
    rng: np.random.Generator, old_share: float, drifted: int
) -> tuple[np.ndarray, HalfCounts, HalfCounts, tuple[int, int], tuple[int, int]]:
    """Counts before and in a newest corpus, in which the first lists are upside down; every document has ratios of its own."""
    offsets = np.arange(LISTS + 1) * PARTNERS
    ratio = rng.uniform(0.02, 0.7, (LISTS, PARTNERS))
    other = ratio.copy()
    other[:drifted] = 0.72 - ratio[:drifted]
    cells = {}
    for name, truth, documents in (("old", ratio, int(old_share * DOCUMENTS)), ("new", other, round((1 - old_share) * DOCUMENTS))):
        in_a = rng.random(documents) < 0.5
        for half, size in (("a", np.count_nonzero(in_a)), ("b", np.count_nonzero(~in_a))):
            uses = rng.geometric(0.2, (size, LISTS, 1)) * (rng.random((size, LISTS, 1)) < 0.3)
            joint = rng.binomial(uses, rng.beta(3 * truth, 3 * (1 - truth), (size, LISTS, PARTNERS))).sum(axis=0).reshape(-1)
            up = np.repeat(uses.sum(axis=(0, 2)), PARTNERS)
            cells[name, half] = (joint, up, joint + rng.poisson(0.2 * up), 100 * int(size))
    before, newest = (HalfCounts(*cells[name, "a"][:3], *cells[name, "b"][:3]) for name in ("old", "new"))
    tokens = [(cells[name, "a"][3], cells[name, "b"][3]) for name in ("old", "new")]
    return offsets, before, newest, tokens[0], tokens[1]


@pytest.mark.parametrize("old_share", [0.25, 0.5, 0.9])
def test_a_newest_corpus_of_the_same_text_changes_lists_as_much_as_chance_would(old_share: float) -> None:
    drift = list_drift(*corpora(np.random.default_rng(14), old_share, drifted=0), "jaccard", 10)
    assert drift.change.mean() == pytest.approx(drift.expected.mean(), rel=0.15)
    assert drift.changed_share is not None and drift.changed_share <= 0.08


@pytest.mark.parametrize("measure", HALF_MEASURES)
def test_the_lists_that_another_text_changes_are_found(measure: str) -> None:
    drift = list_drift(*corpora(np.random.default_rng(15), 0.5, drifted=30), measure, 10)
    assert np.count_nonzero(most_changed(drift)[:30] < 30) >= 24
    assert np.mean(drift.change[:30] > drift.limit[:30]) >= 0.8
    assert np.mean(drift.change[30:] > drift.limit[30:]) <= 0.08
    assert drift.expected[:30].mean() < 0.7 * drift.change[:30].mean(), (
        "what differs is in both halves, and hardly counts as chance"
    )


def test_the_change_of_a_list_is_that_of_ranking_it_before_and_now() -> None:
    rng = np.random.default_rng(16)
    offsets, before = random_halves(rng, rng.integers(0, 12, 60))
    newest = [x // 2 for x in random_halves(rng, np.diff(offsets))[1]]
    newest[1], newest[2], newest[4], newest[5] = (newest[at - at % 3] + newest[at] for at in (1, 2, 4, 5))
    drift = list_drift(offsets, HalfCounts(*before), HalfCounts(*newest), (50, 60), (20, 30), "jaccard", 4, min_support=2)
    for at in range(60):
        old, new = ([x[offsets[at] : offsets[at + 1]] for x in counts] for counts in (before, newest))
        first = [a + b for a, b in zip(old[:3], old[3:], strict=True)]
        last = [x + a + b for x, a, b in zip(first, new[:3], new[3:], strict=True)]
        a, b = (slow_list(*(x.tolist() for x in counts), measure="jaccard", k=4, min_support=2) for counts in (first, last))
        assert np.isnan(drift.change[at]) if not a and not b else drift.change[at] == pytest.approx(1 - rbo(a, b), abs=1e-12)


def test_at_two_equal_parts_chance_is_the_disagreement_of_a_half_with_both() -> None:
    rng = np.random.default_rng(17)
    offsets, counts = random_halves(rng, np.full(40, 9))
    half_a, half_b = counts[:3], counts[3:]
    zero = [np.zeros_like(half_a[0])] * 3
    drift = list_drift(offsets, HalfCounts(*half_a, *zero), HalfCounts(*zero, *half_b), (100, 0), (0, 100), "sufficiency", 5)
    whole = [a + b for a, b in zip(half_a, half_b, strict=True)]
    for at in range(40):
        here = slice(offsets[at], offsets[at + 1])
        lists = [
            slow_list(*(x[here].tolist() for x in counts), measure="sufficiency", k=5, min_support=1)
            for counts in (half_a, half_b, whole)
        ]
        expected = (1 - rbo(lists[0], lists[2]) + 1 - rbo(lists[1], lists[2])) / 2
        assert drift.expected[at] == pytest.approx(expected, abs=1e-12)


def test_drift_without_text_before_or_in_a_half_is_not_known() -> None:
    some, none = all_halves([3, 2]), all_halves([0, 0])
    first = list_drift([0, 2], none, some, (0, 0), (10, 10), "jaccard", 5)
    assert first.change.tolist() == [1] and np.isnan(first.expected).all() and first.changed_share is None
    assert most_changed(first).tolist() == [0]
    same = list_drift([0, 2, 2], some, none, (10, 10), (0, 0), "jaccard", 5)
    assert same.change[0] == same.expected[0] == same.limit[0] == 0 and same.changed_share == 0
    assert np.isnan(same.change[1]) and np.isnan(same.limit[1])
    assert np.isnan(list_drift([0, 2], some, some, (10, 0), (10, 0), "jaccard", 5).expected).all()
    empty = list_drift([0], all_halves([]), all_halves([]), (1, 1), (1, 1), "jaccard", 5)
    assert len(empty.change) == len(most_changed(empty)) == 0 and empty.changed_share is None


# Intervals and comparison of corpora -------------------------------------------------------------------------------------------


def moments(active: np.ndarray, tokens: np.ndarray, axis: int = -1) -> RatioMoments:
    a, u = np.asarray(active, float), np.asarray(tokens, float)
    return RatioMoments(*(x.sum(axis=axis) for x in (a, u, a * a, a * u, u * u, u > 0)))


def slow_interval(a: list[float], u: list[float], alpha: float, n_star: float, burst: float | None = None) -> tuple[float, float]:
    """The recipe on the documents themselves, two pseudo-documents appended."""
    z = sum(x * x for x in u) / sum(u)
    more_a, more_u = [*a, z if burst is None else burst, 0.0], [*u, z, z]
    ratio = sum(more_a) / sum(more_u)
    variance = sum((x - ratio * y) ** 2 for x, y in zip(more_a, more_u, strict=True)) / sum(more_u) ** 2
    n = sum(x > 0 for x in u)
    rho2 = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / n_star
    reach = math.sqrt(variance) * math.sqrt(2 * (n * rho2 + 1) / (n * rho2) * math.log(math.sqrt(n * rho2 + 1) / alpha))
    estimate = sum(a) / sum(u)
    return min(max(0.0, ratio - reach), estimate), max(min(1.0, ratio + reach), estimate)


def test_intervals_from_moments_are_those_of_the_documents() -> None:
    rng = np.random.default_rng(18)
    tokens = rng.integers(0, 60, (8, 400))
    active = rng.binomial(tokens, np.array([0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.995, 1])[:, None])
    for alpha, n_star in ((0.05, 1000.0), (1e-6, 50.0)):
        found = ratio_interval(*moments(active, tokens), alpha, n_star)
        expected = [slow_interval(a, u, alpha, n_star) for a, u in zip(active.tolist(), tokens.tolist(), strict=True)]
        np.testing.assert_allclose(np.stack([found.lower, found.upper], axis=1), expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found.effective_documents, tokens.sum(axis=1) ** 2 / (tokens**2).sum(axis=1))
        np.testing.assert_allclose(found.estimate, active.sum(axis=1) / tokens.sum(axis=1))


def test_a_density_of_many_bursts_has_a_pseudo_document_of_three_of_them() -> None:
    rng = np.random.default_rng(19)
    tokens = rng.integers(20, 500, 600)
    often, seldom = (rng.binomial(tokens, 0.01) * (rng.random(600) < share) for share in (0.9, 0.05))
    found = density_intervals(moments(np.stack([often, seldom]), np.stack([tokens, tokens])), 0.05, 1000)
    burst = 3 * (often**2).sum() / often.sum()
    expected = [slow_interval(often.tolist(), tokens.tolist(), 0.05, 1000, burst)]
    expected += [slow_interval(seldom.tolist(), tokens.tolist(), 0.05, 1000)]
    np.testing.assert_allclose(np.stack([found.lower, found.upper], axis=1), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("active", "tokens", "estimate", "has_interval"),
    [
        pytest.param([0] * 200, [10] * 200, 0, True, id="never fired"),
        pytest.param([10] * 200, [10] * 200, 1, True, id="fires at every token"),
        pytest.param([1] * 99, [10] * 99, 0.1, False, id="too few documents"),
        pytest.param([1] * 200, [10] * 199 + [10_000], 200 / 11_990, False, id="one document holds nearly all tokens"),
        pytest.param([0] * 200, [0] * 200, NAN, False, id="no tokens"),
        pytest.param([], [], NAN, False, id="no documents"),
        pytest.param([1], [10], 0.1, False, id="one document"),
    ],
)
def test_densities_at_the_edges_have_finite_intervals_or_none(
    active: list[int], tokens: list[int], estimate: float, has_interval: bool
) -> None:
    found = density_intervals(moments(np.array(active), np.array(tokens)), 0.05, 1000)
    assert found.estimate == pytest.approx(estimate, nan_ok=True)
    assert bool(np.isfinite(found.lower) and np.isfinite(found.upper)) == has_interval
    assert np.isnan(found.lower) != has_interval
    if has_interval:
        assert 0 <= found.lower <= found.estimate <= found.upper <= 1 and found.lower < found.upper


def bursty_documents(
    rng: np.random.Generator, streams: int, documents: int, density: float, burst: str = "exponential"
) -> tuple[np.ndarray, np.ndarray]:
    """Active counts and tokens [streams, documents]: 30 % of documents have the feature, at a rate of their own with the mean 1."""
    tokens = np.minimum(rng.lognormal(5.5, 1.0, (streams, documents)).astype(int) + 5, 4096)
    if burst == "constant":
        rate = np.ones(tokens.shape)
    elif burst == "exponential":
        rate = rng.exponential(1.0, tokens.shape)
    else:  # heavy-tailed: a variance of 8.5
        rate = rng.lognormal(-(1.5**2) / 2, 1.5, tokens.shape)
    return rng.binomial(tokens, np.minimum(density / 0.3 * rate * (rng.random(tokens.shape) < 0.3), 1.0)), tokens


def read_again_and_again(active: np.ndarray, tokens: np.ndarray) -> RatioMoments:
    """Moments [streams, readings] after every 50 documents."""
    a, u = active.astype(float), tokens.astype(float)
    return RatioMoments(*(np.cumsum(x, axis=1)[:, 49::50] for x in (a, u, a * a, a * u, u * u, u > 0)))


def test_density_intervals_hold_at_all_readings_where_wald_intervals_fail_and_are_not_much_wider() -> None:
    rng = np.random.default_rng(20)
    ever_missed, ever_missed_by_wald, widths = [], [], []
    for density in (1e-4, 1e-3, 1e-2):
        for burst in ("constant", "exponential", "heavy-tailed"):
            seen = read_again_and_again(*bursty_documents(rng, 150, 4000, density, burst))
            found = density_intervals(seen, 0.05, 1000)
            missed = (found.lower > density) | (found.upper < density)  # no comparison with NaN holds
            ever_missed.append(np.any(missed, axis=1).mean())
            p = found.estimate
            _, u, aa, au, uu, documents = (np.asarray(x) for x in seen)
            missed_by_wald = (np.abs(p - density) > 1.96 * np.sqrt(p * (1 - p) / u)) & (documents >= 100)
            ever_missed_by_wald.append(np.any(missed_by_wald, axis=1).mean())
            clustered = 2 * 1.96 * np.sqrt(aa - 2 * p * au + p * p * uu) / u
            widths.append(np.median((found.upper - found.lower)[:, -1] / clustered[:, -1]))
    assert np.mean(ever_missed) <= 0.05 and max(ever_missed) <= 0.1
    assert min(ever_missed_by_wald) > 0.1 and np.mean(ever_missed_by_wald) > 0.5
    assert np.median(widths) < 1.9, "in most of these settings there are bursts enough"


def test_the_interval_of_a_difference_holds_and_finds_the_features_that_differ() -> None:
    rng = np.random.default_rng(21)
    density = np.full(200, 1e-3)
    density[:20] = 4e-3
    first = read_again_and_again(*bursty_documents(rng, 200, 6000, 1e-3))
    # The second corpus has half as many documents: one of its readings goes with two of the first.
    active, tokens = bursty_documents(rng, 200, 3000, 1e-3)
    active[:20], tokens[:20] = bursty_documents(rng, 20, 3000, 4e-3)
    second = RatioMoments(*(np.repeat(x, 2, axis=1) for x in read_again_and_again(active, tokens)))
    ends_1, ends_2, found = compare_densities(first, second, 0.05, 1000)
    truth = (1e-3 - density)[:, None]
    assert np.any((found.lower > truth) | (found.upper < truth), axis=1).mean() <= 0.05
    np.testing.assert_array_equal(found.lower, ends_1.lower - ends_2.upper)
    at_the_end = [RatioMoments(*(np.asarray(x)[:, -1] for x in corpus)) for corpus in (first, second)]
    *ends, family = compare_densities(at_the_end[0], at_the_end[1], 0.05, 1000, family=200)
    for end, corpus in zip(ends, at_the_end, strict=True):
        np.testing.assert_array_equal(
            end.upper, density_intervals(corpus, 0.05 / 400, 1000).upper, err_msg="half of 0.05 / 200 each"
        )
    named = most_different(family)[: np.count_nonzero(family.distance > 0)]
    assert len(named) >= 15 and set(named) <= set(range(20)), "with all features as the family, those named do differ"


def test_the_order_of_differences_is_by_what_is_sure_then_by_the_estimate() -> None:
    estimate, lower, upper = np.array(
        [(0.5, 0.4, 0.6), (0.3, 0.29, 0.31), (0.2, 0.1, 0.9), (0.9, NAN, NAN), (0.05, 0, 0.4), (NAN, NAN, NAN), (0.11, 0.1, 0.12)]
    ).T
    corpus = RatioIntervals(estimate, lower, upper, np.ones(7))
    other = RatioIntervals(*(np.full(7, x) for x in (0.12, 0.11, 0.13, 1.0)))
    found = compare(corpus, other)
    np.testing.assert_allclose(found.distance, [0.27, 0.16, 0, NAN, 0, NAN, 0], atol=1e-12)
    assert most_different(found).tolist() == [0, 1, 2, 4, 6, 3, 5]
    flipped = compare(other, corpus)
    np.testing.assert_allclose(flipped.lower, -found.upper)
    assert most_different(flipped).tolist() == [0, 1, 2, 4, 6, 3, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 0.0}, "alpha must be between 0 and 1, both not included, got 0.0"),
        ({"alpha": 1.5}, "alpha must be between 0 and 1"),
        ({"n_star": 0}, "n_star must be above 0, got 0"),
        ({"family": 0}, "family must be at least 1, got 0"),
    ],
)
def test_levels_that_are_none_are_refused(change: dict, message: str) -> None:
    one = moments(np.ones(200), np.full(200, 10))
    with pytest.raises(BadValue, match=message):
        compare_densities(one, one, **({"alpha": 0.05, "n_star": 1000} | change))
