"""Measures of pairs against what their definitions give on the activations themselves, and rankings against known values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import BadValue
from engine.measures import MEASURES, PairCounts, estimates, overlap, rbo, reason
from engine.measures.similarity import is_constant, mutual_information, pearson, phi

RANGES = {measure: (0.0, 1.0) for measure in MEASURES} | {
    "phi": (-1.0, 1.0),
    "pearson": (-1.0, 1.0),
    "decoder_cosine": (-1.0, 1.0),
    "lift": (0.0, math.inf),
    "mutual_information": (0.0, math.log(2)),
}
SYMMETRIC = [measure for measure in MEASURES if measure not in ("sufficiency", "necessity")]


def counts_of(a: np.ndarray, b: np.ndarray, threshold: float = 0.0, decoder_cosine: float = 0.25) -> PairCounts:
    """What the state keeps of two float32 activations `[N]`: exact counts, float64 sums."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    up, down = a > threshold, b > threshold
    return PairCounts(
        tokens=len(a),
        up=int(up.sum()),
        down=int(down.sum()),
        joint=int((up & down).sum()),
        up_sum=a.sum(),
        down_sum=b.sum(),
        up_sumsq=(a * a).sum(),
        down_sumsq=(b * b).sum(),
        product=(a * b).sum(),
        decoder_cosine=decoder_cosine,
    )


def by_definition(a: np.ndarray, b: np.ndarray, threshold: float = 0.0) -> dict[str, float]:
    """Every measure from the activations: sets of tokens, numpy's correlation, a 2 × 2 table."""
    up, down = set(np.flatnonzero(a > threshold).tolist()), set(np.flatnonzero(b > threshold).tolist())
    n, both, either = len(a), up & down, up | down
    fired = [np.isin(np.arange(n), list(tokens)).astype(np.float64) for tokens in (up, down)]
    a, b = a.astype(np.float64), b.astype(np.float64)
    information = 0.0
    for x in (0, 1) if n else ():
        for y in (0, 1):
            cell = float(np.mean((fired[0] == x) & (fired[1] == y)))
            if cell:
                information += cell * math.log(cell / (float(np.mean(fired[0] == x)) * float(np.mean(fired[1] == y))))
    return {
        "jaccard": len(both) / len(either) if either else math.nan,
        "sufficiency": len(both) / len(up) if up else math.nan,
        "necessity": len(both) / len(down) if down else math.nan,
        "phi": correlation(*fired),
        "lift": (len(both) / n) / (len(up) / n * len(down) / n) if up and down else math.nan,
        "mutual_information": information if n else math.nan,
        "pearson": correlation(a, b),
        "activation_cosine": float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))) if a.any() and b.any() else math.nan,
        "decoder_cosine": 0.25,
    }


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) == 0 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


def in_words(counts: PairCounts) -> dict[str, str | None]:
    return {measure: reason(measure, counts, "feature 3:17", "feature 4:99") for measure in MEASURES}


activations = st.integers(0, 40).flatmap(
    lambda n: st.tuples(*[st.lists(st.sampled_from([0.0, 0.0, 0.5, 1.25, 3.0, 7.5]), min_size=n, max_size=n)] * 2)
)


@given(both=activations, threshold=st.sampled_from([0.0, 0.5, 2.0]))
@settings(max_examples=300, deadline=None)
def test_every_measure_is_what_its_definition_gives_on_the_activations(
    both: tuple[list[float], list[float]], threshold: float
) -> None:
    a, b = (np.array(values, np.float32) for values in both)
    expected = by_definition(a, b, threshold)
    counts = counts_of(a, b, threshold)
    found = estimates(counts)
    assert tuple(found) == MEASURES
    for measure, value in found.items():
        assert value.dtype == np.float64 and value.shape == ()
        np.testing.assert_allclose(value, expected[measure], rtol=1e-9, atol=1e-9, err_msg=measure)
        low, high = RANGES[measure]
        assert np.isnan(value) or (low <= value <= high and np.isfinite(value))
        assert (reason(measure, counts) is None) == (not np.isnan(value)), "a reason where there is no value, and only there"


@given(both=activations)
@settings(max_examples=100, deadline=None)
def test_exchanging_the_two_features_exchanges_sufficiency_and_necessity_and_nothing_else(
    both: tuple[list[float], list[float]],
) -> None:
    a, b = (np.array(values, np.float32) for values in both)
    there, back = estimates(counts_of(a, b)), estimates(counts_of(b, a))
    for measure in SYMMETRIC:
        np.testing.assert_allclose(there[measure], back[measure], rtol=1e-12, atol=1e-15, err_msg=measure)
    np.testing.assert_array_equal(there["sufficiency"], back["necessity"])
    np.testing.assert_array_equal(there["necessity"], back["sufficiency"])


@given(both=activations, scale=st.sampled_from([0.25, 3.0, 1024.0]))
@settings(max_examples=100, deadline=None)
def test_rescaling_an_activation_changes_no_measure(both: tuple[list[float], list[float]], scale: float) -> None:
    a, b = (np.array(values, np.float32) for values in both)
    plain, scaled = estimates(counts_of(a, b)), estimates(counts_of(a * np.float32(scale), b))
    for measure in MEASURES:
        np.testing.assert_allclose(scaled[measure], plain[measure], rtol=1e-9, atol=1e-12, err_msg=measure)


FIRES = np.array([0, 2, 0, 1, 0, 0, 4, 0], np.float32)
SILENT = np.zeros(8, np.float32)
ALWAYS = np.array([1, 2, 1, 3, 1, 2, 4, 1], np.float32)
CONSTANT = np.full(8, 0.1, np.float32)
NEVER = "feature 3:17 never fired"


@pytest.mark.parametrize(
    ("a", "b", "values", "reasons"),
    [
        pytest.param(
            FIRES, FIRES, {"jaccard": 1, "sufficiency": 1, "necessity": 1, "phi": 1, "pearson": 1, "lift": 8 / 3}, {}, id="equal"
        ),
        pytest.param(
            SILENT,
            FIRES,
            {"jaccard": 0, "necessity": 0, "mutual_information": 0},
            dict.fromkeys(["sufficiency", "phi", "lift", "pearson", "activation_cosine"], NEVER),
            id="upstream never fires",
        ),
        pytest.param(
            FIRES,
            SILENT,
            {"jaccard": 0, "sufficiency": 0, "mutual_information": 0},
            dict.fromkeys(["necessity", "phi", "lift", "pearson", "activation_cosine"], "feature 4:99 never fired"),
            id="downstream never fires",
        ),
        pytest.param(
            SILENT,
            SILENT,
            {"mutual_information": 0},
            {"jaccard": "neither feature 3:17 nor feature 4:99 ever fired", "necessity": "feature 4:99 never fired"}
            | dict.fromkeys(["sufficiency", "phi", "lift", "pearson", "activation_cosine"], NEVER),
            id="neither fires",
        ),
        pytest.param(
            ALWAYS,
            FIRES,
            {"jaccard": 3 / 8, "necessity": 1, "lift": 1, "mutual_information": 0},
            {"phi": "feature 3:17 fired at every token"},
            id="upstream fires at all tokens",
        ),
        pytest.param(
            FIRES,
            CONSTANT,
            {"sufficiency": 1, "lift": 1},
            {"phi": "feature 4:99 fired at every token", "pearson": "feature 4:99 had the same activation at every token"},
            id="downstream is constant",
        ),
        pytest.param(
            CONSTANT,
            CONSTANT,
            {"jaccard": 1, "activation_cosine": 1},
            {"phi": "feature 3:17 fired at every token", "pearson": "feature 3:17 had the same activation at every token"},
            id="both are constant",
        ),
        pytest.param(
            FIRES[:0],
            FIRES[:0],
            {},
            dict.fromkeys(set(MEASURES) - {"decoder_cosine"}, "no tokens were counted yet"),
            id="no tokens",
        ),
    ],
)
def test_what_is_undefined_says_why_and_the_rest_has_its_value(
    a: np.ndarray, b: np.ndarray, values: dict[str, float], reasons: dict[str, str]
) -> None:
    counts = counts_of(a, b)
    assert in_words(counts) == {measure: reasons.get(measure) for measure in MEASURES}
    found = estimates(counts)
    for measure, value in values.items():
        assert found[measure] == pytest.approx(value, rel=1e-12, abs=1e-15), measure
    assert [measure for measure in MEASURES if np.isnan(found[measure])] == [measure for measure in MEASURES if measure in reasons]


def test_a_feature_above_no_threshold_still_has_sums() -> None:
    counts = counts_of(FIRES, FIRES, threshold=10.0)
    assert reason("sufficiency", counts, "feature 3:17") == NEVER
    assert estimates(counts)["activation_cosine"] == pytest.approx(1)
    assert estimates(counts)["pearson"] == pytest.approx(1)


def test_a_run_without_a_model_has_no_decoder_cosine_and_says_so() -> None:
    counts = counts_of(FIRES, FIRES, decoder_cosine=math.nan)
    assert np.isnan(estimates(counts)["decoder_cosine"])
    assert "no model" in (reason("decoder_cosine", counts) or "")


def test_arrays_give_what_their_elements_give() -> None:
    rng = np.random.default_rng(2)
    pairs = [(rng.poisson(0.4, 30).astype(np.float32), rng.poisson(0.7, 30).astype(np.float32)) for _ in range(20)]
    pairs += [(SILENT, FIRES), (ALWAYS, CONSTANT)]
    each = [counts_of(a, b) for a, b in pairs]
    together = estimates(PairCounts(*(np.array(column) for column in zip(*each, strict=True))))
    for measure in MEASURES:
        np.testing.assert_array_equal(together[measure], [estimates(counts)[measure] for counts in each], err_msg=measure)


def test_a_row_of_partners_broadcasts_against_its_feature() -> None:
    partners = np.arange(6)
    row = estimates(
        PairCounts(100, 10, partners * 5, partners, 20.0, partners * 7.0, 50.0, partners * 9.0, partners * 4.0, np.zeros(6))
    )
    assert {value.shape for measure, value in row.items() if measure != "sufficiency"} == {(6,)}
    assert row["sufficiency"].tolist() == [0, 0.1, 0.2, 0.3, 0.4, 0.5]


def test_only_the_measures_asked_for_are_computed() -> None:
    assert list(estimates(counts_of(FIRES, ALWAYS), ["pearson", "jaccard"])) == ["pearson", "jaccard"]


@pytest.mark.parametrize("ask", [lambda counts: estimates(counts, ["cosine"]), lambda counts: reason("cosine", counts)])
def test_an_unknown_measure_is_refused_with_those_there_are(ask: object) -> None:
    with pytest.raises(BadValue, match=r"'cosine' is not one of jaccard, sufficiency, .*decoder_cosine"):
        ask(counts_of(FIRES, FIRES))  # type: ignore[operator]  # a lambda


@pytest.mark.parametrize("n", [2**24 + 1, 2**31 + 11, 2**40], ids=["past float32", "past int32", "a trillion tokens"])
def test_large_counts_lose_nothing(n: int) -> None:
    n_up, n_down, joint = n // 3, n // 5, n // 7
    expected_phi = (n * joint - n_up * n_down) / math.sqrt(n_up * (n - n_up) * n_down * (n - n_down))  # exact integers in Python
    assert phi(n, n_up, n_down, joint) == pytest.approx(expected_phi, rel=1e-14)
    cells = [(joint, n_up, n_down), (n_up - joint, n_up, n - n_down), (n_down - joint, n - n_up, n_down)]
    cells += [(n - n_up - n_down + joint, n - n_up, n - n_down)]
    expected = math.fsum(cell / n * math.log(cell * n / (row * column)) for cell, row, column in cells)
    assert mutual_information(n, n_up, n_down, joint) == pytest.approx(expected, rel=1e-12)
    int32 = np.array([n_up, n_down, joint]) if n > 2**31 else np.array([n_up, n_down, joint], np.int32)
    assert phi(n, *int32) == pytest.approx(expected_phi, rel=1e-14)  # int32 products would wrap


def test_pearson_of_a_small_variance_on_a_large_mean_is_right() -> None:
    rng = np.random.default_rng(4)
    shared = rng.normal(size=20_000)
    a = (1000 + shared + rng.normal(size=20_000)).astype(np.float32)
    b = (500 + shared + rng.normal(size=20_000)).astype(np.float32)
    found = estimates(counts_of(a, b))["pearson"]
    assert found == pytest.approx(np.corrcoef(a.astype(np.float64), b.astype(np.float64))[0, 1], rel=1e-6)


@pytest.mark.parametrize("value", [0.1, 1.0, 3.3333333, 1e-20, 1e15])
def test_a_constant_activation_has_no_pearson_whatever_its_value_and_the_order_of_the_sums(value: float) -> None:
    constant = np.full(30_001, value, np.float32).astype(np.float64)
    varied = np.arange(30_001) % 7.0
    for total, squares in (
        (constant.sum(), (constant**2).sum()),
        (sum(constant.tolist()), sum((constant**2).tolist())),
        (math.fsum(constant), math.fsum(constant**2)),
    ):
        assert is_constant(len(constant), total, squares)
        assert np.isnan(pearson(len(constant), total, varied.sum(), squares, (varied**2).sum(), (constant * varied).sum()))


def test_rbo_of_equal_lists_is_one_and_of_disjoint_lists_zero() -> None:
    assert rbo(list("abcdefghij"), list("abcdefghij")) == pytest.approx(1.0, abs=1e-12)
    assert rbo([1], [1]) == pytest.approx(1.0)
    assert rbo(list("abc"), list("xyz")) == 0.0
    assert rbo([], []) == 1.0
    assert rbo([], [1, 2]) == rbo([1, 2], []) == 0.0


def test_rbo_is_the_sum_that_its_definition_prints() -> None:
    a, b, p = list("abcdefgh"), list("bacxeygh"), 0.9
    shared = [len(set(a[:depth]) & set(b[:depth])) for depth in range(1, 9)]
    assert shared == [0, 2, 3, 3, 4, 4, 5, 6]
    expected = shared[-1] / 8 * p**8 + (1 - p) / p * sum(x / depth * p**depth for depth, x in enumerate(shared, 1))
    assert rbo(a, b) == pytest.approx(expected, rel=1e-12) == rbo(b, a)


def test_rbo_weighs_the_top_more_than_the_tail() -> None:
    items = list(range(20))
    assert rbo(items, [1, 0, *items[2:]]) < rbo(items, [*items[:18], 19, 18])
    assert rbo(items, items[::-1]) < 0.5


def test_the_first_ten_ranks_carry_86_percent_of_the_weight_of_rbo() -> None:
    """Webber et al., eq. 21: the weight of the first d ranks is 1 − p^(d−1) + ((1−p)/p) d (ln(1/(1−p)) − Σ_{i<d} p^i / i)."""
    p, d = 0.9, 10
    weight = 1 - p ** (d - 1) + (1 - p) / p * d * (math.log(1 / (1 - p)) - sum(p**i / i for i in range(1, d)))
    assert weight == pytest.approx(0.86, abs=0.005)
    same_ten = rbo([*range(10), *range(100, 400)], [*range(10), *range(500, 800)], p)
    assert same_ten == pytest.approx(weight, abs=1e-9), "lists that share only their first ten"


def test_a_list_that_continues_the_other_extrapolates_to_one() -> None:
    """Webber et al., section 4.3: a prefix gives no ground to doubt that the lists agree."""
    assert rbo(list("abc"), list("abcdefgh")) == pytest.approx(1.0, abs=1e-12)


@given(st.permutations(list(range(8))), st.permutations(list(range(3, 11))), st.integers(0, 8), st.integers(0, 8))
@settings(deadline=None)
def test_rbo_is_symmetric_and_between_zero_and_one(a: list[int], b: list[int], short: int, other: int) -> None:
    value = rbo(a[:short], b[:other])
    assert 0.0 <= value <= 1.0
    assert value == pytest.approx(rbo(b[:other], a[:short]), abs=1e-12)


def test_rbo_refuses_lists_and_weights_that_are_none() -> None:
    with pytest.raises(ValueError, match="each item once"):
        rbo([1, 1], [2, 3])
    for p in (0.0, 1.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            rbo([1], [2], p)


def test_overlap_is_the_shared_part_of_the_longer_list() -> None:
    assert overlap([1, 2, 3, 4], [4, 9]) == 0.25
    assert overlap([], []) == 1.0
    assert overlap([], [1]) == 0.0
