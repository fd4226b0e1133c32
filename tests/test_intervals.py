"""Intervals against their formulas written out cluster by cluster, and the properties that a reader relies on.

That they hold their level is proved in `test_coverage.py`.
"""

from __future__ import annotations

import math
import subprocess
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from engine.errors import BadValue
from engine.measures.intervals import (
    MEASURES,
    Intervals,
    design_effect,
    intervals,
    sequence_width,
    standard_error,
    tokens_needed,
    why_insufficient,
)
from engine.measures.moments import COLUMNS, PACKED, ROWS, SUMS, Moments, moments_of

RATIOS = ("jaccard", "sufficiency", "necessity")


def clusters_of(seed: int, documents: int, rate: float = 0.05, share: float = 0.5, length: int = 100) -> np.ndarray:
    """float64 `[documents, 9]`: sums over documents of two features that fire together in `share` of the tokens of either."""
    rng = np.random.default_rng(seed)
    out = np.zeros((documents, len(SUMS)))
    for row in out:
        tokens = int(rng.integers(length // 2, 2 * length))
        either = rng.random(tokens) < rng.beta(2.0, 2.0 / rate)
        kind = rng.choice(3, tokens, p=[share, 0.7 * (1 - share), 0.3 * (1 - share)])
        a = np.where(either & (kind != 2), rng.gamma(2.0, size=tokens), 0.0)
        b = np.where(either & (kind != 1), 0.5 * a + rng.gamma(2.0, size=tokens), 0.0)
        up, down = a > 0, b > 0
        row[:] = tokens, up.sum(), down.sum(), (up & down).sum(), a.sum(), b.sum(), a @ a, b @ b, a @ b
    return out


def one(found: Intervals) -> dict[str, float]:
    return {name: np.asarray(value).item() for name, value in found._asdict().items()}


def width_by_formula(n: int, alpha: float, n_star: float) -> float:
    rho2 = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / n_star
    return math.sqrt(2 * (n * rho2 + 1) / (n * rho2) * math.log(math.sqrt(n * rho2 + 1) / alpha))


def ratio_by_formula(clusters: np.ndarray, measure: str, alpha: float, n_star: float) -> tuple[float, float, float]:
    """The recipe with the two pseudo-documents as real rows: one in which all is joint, one in which nothing is."""
    s = dict(zip(SUMS, clusters.T, strict=True))
    of = {"jaccard": s["up"] + s["down"] - s["joint"], "sufficiency": s["up"], "necessity": s["down"]}[measure]
    n = int((of > 0).sum())
    z = (of**2).sum() / of.sum()
    joint, more = np.append(s["joint"], [z, 0.0]), np.append(of, [z, z])
    ratio = joint.sum() / more.sum()
    error = math.sqrt(((joint - ratio * more) ** 2).sum()) / more.sum()
    half = error * width_by_formula(n, alpha, n_star)
    plain = s["joint"].sum() / of.sum()
    return plain, min(max(ratio - half, 0.0), plain), max(min(ratio + half, 1.0), plain)


def pearson_by_formula(clusters: np.ndarray, alpha: float, n_star: float) -> tuple[float, float, float]:
    """The delta method with a numeric gradient, and one linearised term per document."""

    def value(sums: np.ndarray) -> float:
        tokens, _, _, _, a, b, aa, bb, ab = sums
        return (tokens * ab - a * b) / math.sqrt((tokens * aa - a * a) * (tokens * bb - b * b))

    aa, bb = clusters[:, 6], clusters[:, 7]
    n = int(((aa > 0) | (bb > 0)).sum())
    z_a, z_b = (aa**2).sum() / aa.sum(), (bb**2).sum() / bb.sum()
    more = np.zeros((2, len(SUMS)))
    more[0, 6:] = z_a, z_b, math.sqrt(z_a * z_b)
    more[1, 6:] = z_a, z_b, 0.0
    documents = np.vstack([clusters, more])
    total = documents.sum(axis=0)
    gradient = np.zeros(len(SUMS))
    for at, size in enumerate(total):
        step = np.zeros(len(SUMS))
        step[at] = 1e-6 * size or 1e-6  # Σab is 0 where they are never joint
        gradient[at] = (value(total + step) - value(total - step)) / (2 * step[at])
    half = math.sqrt(((documents @ gradient) ** 2).sum()) * width_by_formula(n, alpha, n_star)
    plain, centre = value(clusters.sum(axis=0)), value(total)
    return plain, min(max(centre - half, -1.0), plain), max(min(centre + half, 1.0), plain)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98, 1.0], ids=["never-joint", "rare", "half", "nearly-always", "always-joint"])
@pytest.mark.parametrize(("alpha", "n_star"), [(0.05, 1000.0), (0.001, 200.0)], ids=["as-published", "another-level"])
def test_intervals_of_ratios_are_those_of_the_pseudo_documents_as_real_documents(share: float, alpha: float, n_star: float) -> None:
    clusters = clusters_of(1, 400, share=share)
    found = intervals(moments_of(clusters), RATIOS, alpha, n_star)
    for measure in RATIOS:
        have = one(found[measure])
        expected = ratio_by_formula(clusters, measure, alpha, n_star)
        assert have["sufficient"]
        np.testing.assert_allclose([have["estimate"], have["lower"], have["upper"]], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0], ids=["never-joint", "rare", "half", "always-joint"])
def test_intervals_of_pearson_are_those_of_a_numeric_delta_method(share: float) -> None:
    clusters = clusters_of(2, 400, share=share)
    have = one(intervals(moments_of(clusters), ["pearson"])["pearson"])
    assert have["sufficient"]
    np.testing.assert_allclose(
        [have["estimate"], have["lower"], have["upper"]], pearson_by_formula(clusters, 0.05, 1000.0), rtol=1e-6, atol=1e-8
    )


def test_two_features_that_are_one_have_intervals_that_end_at_one_and_have_a_width() -> None:
    clusters = clusters_of(3, 300)
    clusters[:, [2, 3]] = clusters[:, [1]]
    clusters[:, 5], clusters[:, 7], clusters[:, 8] = clusters[:, 4], clusters[:, 6], clusters[:, 6]
    for measure, found in intervals(moments_of(clusters)).items():
        have = one(found)
        assert have["estimate"] == pytest.approx(1.0) and have["upper"] == pytest.approx(1.0), measure
        assert 0.8 < have["lower"] < 0.999, measure


def test_the_packed_triangle_goes_row_by_row() -> None:
    assert [(int(x), int(y)) for x, y in zip(ROWS, COLUMNS, strict=True)] == [(x, y) for x in range(9) for y in range(x, 9)]
    assert PACKED[0, 0] == 0 and PACKED[0, 8] == 8 and PACKED[1, 1] == 9 and PACKED[8, 8] == 44
    assert np.array_equal(PACKED, PACKED.T)
    clusters = clusters_of(4, 20)
    np.testing.assert_allclose(moments_of(clusters).squares[PACKED], clusters.T @ clusters)


def test_informative_clusters_are_counted_by_what_is_not_zero_in_them() -> None:
    rows = {
        "nothing": [10, 0, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0],
        "up": [10, 2, 0, 0, 1.0, 0.0, 1.0, 0.0, 0.0],
        "down": [10, 0, 3, 0, 0.0, 1.0, 0.0, 1.0, 0.0],
        "below-the-threshold": [10, 0, 0, 0, 0.1, 0.0, 0.01, 0.0, 0.0],
    }
    assert moments_of(rows.values()).documents.tolist() == [1, 1, 2, 3]


@given(cut=st.integers(0, 150), seed=st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_merging_is_counting_the_clusters_of_both(cut: int, seed: int) -> None:
    clusters = clusters_of(seed, 150, length=20)
    merged = moments_of(clusters[:cut]).merged(moments_of(clusters[cut:]))
    for have, want in zip(merged, moments_of(clusters), strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-12)


def test_many_pairs_at_once_are_each_pair_alone() -> None:
    each = [moments_of(clusters_of(seed, documents)) for seed, documents in enumerate([0, 3, 200, 400])]
    together = Moments(*(np.stack(columns) for columns in zip(*each, strict=True)))
    for measure, found in intervals(together).items():
        for at, alone in enumerate(each):
            for have, want in zip(found, intervals(alone, [measure])[measure], strict=True):
                np.testing.assert_allclose(have[at], want, rtol=1e-12)
        assert found.sufficient.tolist() == [False, False, True, True]


cells = st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4), st.sampled_from([0.0, 1e-20, 0.5, 3.0, 1e15]))


@given(kinds=st.lists(cells, min_size=1, max_size=6), repeats=st.integers(40, 200))
@settings(max_examples=300, deadline=None)
def test_an_interval_is_finite_in_range_and_around_its_estimate_or_there_is_none(
    kinds: list[tuple[int, int, int, float]], repeats: int
) -> None:
    clusters = []
    for both, up_only, down_only, value in kinds:
        up, down, joint = both + up_only, both + down_only, both
        a, b, ab = up * value, down * value, joint * value * value
        clusters.append([up + down + 1, up, down, joint, a, b, a * value, b * value, ab])
    once = moments_of(clusters)
    for measure, found in intervals(Moments(repeats * once.sums, repeats * once.squares, repeats * once.documents)).items():
        have = one(found)
        low = -1.0 if measure == "pearson" else 0.0
        assert math.isfinite(have["effective"])
        if have["sufficient"]:
            assert have["documents"] >= 100 and have["effective"] >= 50
            assert low <= have["lower"] <= have["estimate"] <= have["upper"] <= 1.0, measure
            assert why_insufficient(measure, found) is None
        else:
            assert math.isnan(have["estimate"]) and math.isnan(have["lower"]) and math.isnan(have["upper"])
            assert why_insufficient(measure, found), measure


def test_no_interval_below_100_documents_nor_where_a_few_heavy_documents_are_most_of_it() -> None:
    light = [100, 2, 2, 1, 2.0, 2.0, 2.0, 2.0, 1.0]
    heavy = [4096, 400, 400, 200, 400.0, 400.0, 400.0, 400.0, 200.0]
    for rows, sufficient in (([light] * 99, False), ([light] * 100, True), ([light] * 500 + [heavy] * 3, False)):
        for measure, found in intervals(moments_of(rows)).items():
            assert one(found)["sufficient"] == sufficient, measure
            sentence = why_insufficient(measure, found, "feature 3:17", "feature 4:99")
            if sufficient:
                assert sentence is None
            else:
                assert sentence is not None and f"{len(rows)} documents" in sentence and "needs" in sentence
                assert f"{float(found.effective):.1f}" in sentence and "feature" in sentence
    constant = why_insufficient("pearson", intervals(moments_of([[2, 2, 2, 2, 2.0, 2.0, 2.0, 2.0, 2.0]] * 200))["pearson"])
    assert constant is not None and "same activation at every token" in constant


@pytest.mark.parametrize(("n", "times"), [(100, 1.97), (1_000, 1.55), (50_000, 1.77)])
def test_the_sequence_costs_against_a_fixed_time_interval_what_was_promised(n: int, times: float) -> None:
    assert sequence_width(n, 0.05, 1000.0) / 1.959964 == pytest.approx(times, abs=0.006)
    assert sequence_width(n, 0.05, 1000.0) == pytest.approx(width_by_formula(n, 0.05, 1000.0), rel=1e-12)


def test_the_design_effect_is_the_clustered_variance_over_that_of_independent_tokens() -> None:
    alone = np.zeros((1000, len(SUMS)))
    alone[:, 0], alone[:, 1], alone[:, 2], alone[:300, 3] = 1, 1, 1, 1  # one firing a document: nothing to depend on
    alone[300:, 2] = 0
    assert design_effect(moments_of(alone), "sufficiency") == pytest.approx(1.0)
    whole = alone * 8  # eight firings a document, all alike: eight times the variance
    assert design_effect(moments_of(whole), "sufficiency") == pytest.approx(8.0)
    clusters = clusters_of(5, 200)
    for measure in RATIOS:
        moments = moments_of(clusters)
        ratio = one(intervals(moments, [measure])[measure])["estimate"]
        up, down, joint = moments.sums[1:4]
        of = {"jaccard": up + down - joint, "sufficiency": up, "necessity": down}[measure]
        expected = max(1.0, standard_error(moments, measure).item() ** 2 * of / (ratio * (1 - ratio)))
        assert design_effect(moments, measure) == pytest.approx(expected)
    assert math.isnan(design_effect(moments_of([]), "jaccard").item())
    with pytest.raises(BadValue, match="pearson"):
        design_effect(moments_of([]), "pearson")


def test_as_many_more_documents_as_were_said_to_be_needed_give_about_the_wanted_width() -> None:
    clusters = clusters_of(6, 5000, share=0.4)
    at, wanted = 600, 0.03
    moments = moments_of(clusters[:at])
    found = intervals(moments, ["jaccard"])["jaccard"]
    assert one(found)["upper"] - one(found)["lower"] > 1.5 * wanted, "nothing to extrapolate otherwise"
    needed = tokens_needed(moments, "jaccard", wanted)
    times = 1 + float(needed.documents) / one(found)["documents"]
    assert float(needed.tokens) / moments.sums[0] == pytest.approx(times - 1, rel=1e-2)
    later = one(intervals(moments_of(clusters[: round(times * at)]), ["jaccard"])["jaccard"])
    assert later["upper"] - later["lower"] == pytest.approx(wanted, rel=0.1)


def test_repeating_the_data_as_often_as_needed_gives_the_wanted_width_and_once_less_does_not() -> None:
    moments = moments_of(clusters_of(8, 80, share=0.02))
    for measure in MEASURES:
        assert not intervals(moments, [measure])[measure].sufficient, "too few documents at first"
        needed = tokens_needed(moments, measure, 0.02)
        for slack, narrow in ((1.001, True), (0.999, False)):
            times = slack * (1 + float(needed.tokens) / moments.sums[0])
            repeated = Moments(times * moments.sums, times * moments.squares, np.ceil(times * moments.documents).astype(np.int64))
            have = one(intervals(repeated, [measure])[measure])
            assert (have["upper"] - have["lower"] <= 0.02) == narrow, measure


def test_what_is_narrow_enough_needs_nothing_and_what_is_not_known_has_no_answer() -> None:
    enough, nothing = moments_of(clusters_of(7, 300)), Moments.zero()
    assert tuple(map(float, tokens_needed(enough, "jaccard", 1.0))) == (0.0, 0.0)
    assert all(math.isnan(value) for value in tokens_needed(nothing, "jaccard", 0.1))
    assert all(math.isnan(value) for value in tokens_needed(enough, "pearson", 1e-9))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: intervals(Moments.zero(), ["lift"]), "'lift'.*jaccard, sufficiency, necessity, pearson"),
        (lambda: intervals(Moments.zero(), alpha=1.0), "alpha is 1.0"),
        (lambda: intervals(Moments.zero(), n_star=0.0), "n_star is 0.0"),
        (lambda: tokens_needed(Moments.zero(), "jaccard", 0.0), "width is 0.0"),
        (lambda: why_insufficient("phi", intervals(Moments.zero())["jaccard"]), "'phi'"),
    ],
    ids=["unknown-measure", "level-of-one", "no-documents", "no-width", "unknown-measure-of-a-sentence"],
)
def test_what_is_wrong_is_named(call, named: str) -> None:
    with pytest.raises(BadValue, match=named):
        call()


def test_moments_of_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"squares has shape \(3, 45\), it must be \(2, 45\)"):
        intervals(Moments.zero(2)._replace(squares=np.zeros((3, 45))))


def test_intervals_need_numpy_and_nothing_heavy() -> None:
    code = "import sys, engine.measures.intervals; print([m for m in ('torch', 'sae_lens', 'redis', 'numba') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    assert set(MEASURES) == {*RATIOS, "pearson"}
