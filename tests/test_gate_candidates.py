"""Candidate parents against going through the features one by one, and the paper's rule against its words."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from engine.errors import BadValue
from engine.measures.convergence import DesignEffects, design_effect_of, design_effects
from engine.measures.gate_candidates import (
    BY_NECESSITY,
    BY_SUFFICIENCY,
    INHIBITORS,
    SIGNIFICANT,
    choose_parents,
    paper_rule,
    rank_candidates,
    significant_pairs,
    suppression,
    wilson_lower,
)
from engine.measures.gates import KINDS
from kernels import CandidateLists, Ranked

UP, DOWN, TOKENS = 12, 5, 5_000


def counts(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pair counts of features some of which depend on each other; upstream feature 0 and child 0 never fire."""
    rng = np.random.default_rng(seed)
    topic = rng.random(TOKENS) < 0.3
    up = rng.random((TOKENS, UP)) < rng.uniform(0.01, 0.4, UP) * np.where(topic[:, None], 2.0, 0.6)
    down = rng.random((TOKENS, DOWN)) < rng.uniform(0.01, 0.2, DOWN) * np.where(topic[:, None], 2.0, 0.6)
    down[:, 1] |= up[:, 1] & up[:, 2]
    down[:, 2] &= ~up[:, 3]
    up[:, 0], down[:, 0] = False, False
    return up.T.astype(int) @ down.astype(int), up.sum(axis=0), down.sum(axis=0)


def never(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.zeros(len(first), bool)


@given(st.integers(0, 10_000), st.sampled_from([1.0, 4.0, math.nan]))
@settings(max_examples=20, deadline=None)
def test_pairs_far_from_independence_are_significant_and_no_others(seed: int, deff: float) -> None:
    joint, up, down = counts(seed)
    found = significant_pairs(joint, up, down, TOKENS, deff)
    expected = []
    for child in range(DOWN):
        for i in range(UP):
            chance = up[i] * down[child] / TOKENS
            z = (joint[i, child] - chance) / math.sqrt((1.0 if math.isnan(deff) else deff) * max(chance, 1.0))
            if abs(z) > 3.5:
                expected.append((child, i, joint[i, child], pytest.approx(z)))
    assert list(zip(found.child.tolist(), found.up.tolist(), found.joint.tolist(), found.z.tolist(), strict=True)) == expected


def test_a_pair_seen_once_is_not_significant_however_rare_its_features() -> None:
    joint = np.array([[1], [6]])
    found = significant_pairs(joint, np.array([1, 6]), np.array([6]), 10**9, 1.0)
    assert found.up.tolist() == [1]


def test_design_effects_are_looked_up_at_the_expected_count() -> None:
    rng = np.random.default_rng(0)
    half = rng.poisson(rng.gamma(1.0, 30.0, 400)[:, None] * rng.gamma(4.0, 0.25, (400, 2)))
    effects = design_effects(half[:, 0], half[:, 1], 2_500, 2_500)
    joint, up, down = counts(1)
    found = significant_pairs(joint, up, down, TOKENS, effects)
    expected = np.maximum(up[found.up] * down[found.child] / TOKENS, 1.0)
    np.testing.assert_array_equal(found.deff, design_effect_of(effects, expected.astype(int)))
    assert len(found.up) and found.deff.max() > 2


@given(st.integers(0, 10_000), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_lists_of_a_child_are_its_significant_features_in_order(seed: int, keep: int) -> None:
    joint, up, down = counts(seed)
    pairs = significant_pairs(joint, up, down, TOKENS, 2.0)
    found = rank_candidates(pairs, up, down, TOKENS, keep)
    for child in range(DOWN):
        mine = [(int(i), float(z)) for c, i, z in zip(pairs.child, pairs.up, pairs.z, strict=True) if c == child]
        scores = {
            "necessity": [(-(joint[i, child] / down[child] - up[i] / TOKENS), i) for i, z in mine if z > 0],
            "sufficiency": [
                (-(float(wilson_lower(joint[i, child] / 2, up[i] / 2)) - down[child] / TOKENS), i) for i, z in mine if z > 0
            ],
            "inhibition": [(z, i) for i, z in mine if z < 0],
            "significance": [(-abs(z), i) for i, z in mine],
        }
        for name, ranked in scores.items():
            wanted = [i for _, i in sorted(ranked)][:keep]
            assert getattr(found, name)[child].tolist() == wanted + [-1] * (keep - len(wanted))


def test_slots_are_filled_list_by_list_without_near_duplicates() -> None:
    ranked = Ranked(
        np.array([[1, 2, 3, 4], [1, -1, -1, -1], [-1] * 4]),
        np.array([[1, 5, 6, 7], [1, -1, -1, -1], [-1] * 4]),
        np.array([[8, 9, -1, -1], [-1] * 4, [-1] * 4]),
        np.array([[8, 1, 2, 3, 4, 5, 6], [3, 1, 2, -1, -1, -1, -1], [-1] * 7]),
    )
    assert (BY_NECESSITY, BY_SUFFICIENCY, INHIBITORS) == (3, 2, 1)
    assert choose_parents(ranked, 8, never).tolist() == [
        [1, 2, 3, 5, 6, 8, 4, -1],
        [1, 3, 2, -1, -1, -1, -1, -1],
        [-1] * 8,
    ]
    assert choose_parents(ranked, 4, never)[0].tolist() == [1, 2, 3, 5]

    def twins(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return ((first == 2) & (second == 1)) | ((first == 8) & (second == 5))

    assert choose_parents(ranked, 6, twins)[0].tolist() == [1, 3, 4, 5, 6, 9]


@pytest.mark.parametrize("m", [1, 9])
def test_slots_out_of_range_are_refused(m: int) -> None:
    with pytest.raises(BadValue, match=f"not {m}"):
        choose_parents(Ranked(*(np.zeros((1, 1), int),) * 4), m, never)


def test_suppression_finds_what_silences_a_child_and_not_what_never_meets_its_parent() -> None:
    # A parent at 1,000 tokens, 100 of them silent: the silencer at 95 of these, a companion at a tenth of all, a stranger at none.
    z = suppression([95, 10, 0], [0, 90, 0], 100, 900)
    assert z[0] == pytest.approx((95 - 9.5) / math.sqrt(9.5 * 0.9)) and abs(z[1]) < 0.5 and z[2] == 0.0
    assert suppression(1, 0, 1, 10**6) < 3.5 < suppression(4, 0, 10, 10**6)
    assert suppression(95, 0, 100, 900, 4.0) == pytest.approx(z[0] / 2)


@pytest.mark.parametrize(("successes", "trials"), [(0, 5), (5, 5), (30, 100), (2.5, 7.5), (0, 0)])
def test_wilson_bound_is_where_the_score_test_gives_up(successes: float, trials: float) -> None:
    low = float(wilson_lower(successes, trials))
    if successes == 0:
        assert low == pytest.approx(0.0, abs=1e-12)
        return
    z = (successes / trials - low) / math.sqrt(low * (1 - low) / trials)
    assert z == pytest.approx(1.959963984540054)


@given(st.integers(0, 10_000), st.sampled_from([0.5, 0.9, 0.999, 1.0]))
@settings(max_examples=40, deadline=None)
def test_the_papers_rule_is_its_words(seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    up, down = rng.random((20, 6)) < 0.3, rng.random((20, 8)) < 0.15
    down[:, :3] = up[:, :3] & up[:, 1:4]
    down[:, 3] = up[:, 4] | up[:, 5]
    found = paper_rule(up.T.astype(int) @ down.astype(int), up.sum(axis=0), down.sum(axis=0), threshold)
    expected = []
    for child in range(8):
        joint = [(up[:, i] & down[:, child]).sum() for i in range(6)]
        necessary = [i for i in range(6) if joint[i] and joint[i] / down[:, child].sum() >= threshold]
        sufficient = [i for i in range(6) if joint[i] and joint[i] / up[:, i].sum() >= threshold]
        expected += [(child, name, two) for name, two in (("and", necessary), ("or", sufficient)) if len(two) == 2]
    names = [KINDS[kind] for kind in found.kind]
    assert list(zip(found.child.tolist(), names, found.parents.tolist(), strict=True)) == expected


def test_the_papers_rule_refuses_a_threshold_out_of_range() -> None:
    with pytest.raises(BadValue, match=r"paper's rule is 0\.0"):
        paper_rule(np.ones((2, 2)), np.ones(2), np.ones(2), 0.0)


@given(st.integers(0, 10_000), st.sampled_from([(), (1.0,), (1.5, math.nan, 4.0)]), st.integers(1, 6), st.sampled_from([1, 5, 12]))
@settings(max_examples=30, deadline=None)
def test_the_compiled_lists_are_the_plain_ones(seed: int, effects: tuple[float, ...], keep: int, rows: int) -> None:
    joint, up, down = counts(seed)
    rng = np.random.default_rng(seed)
    first = rng.binomial(joint, 0.5)
    halves = np.stack([first, joint - first], axis=2).astype(rng.choice([np.int32, np.int64]))
    children = np.flatnonzero(rng.random(DOWN) < 0.7)
    lists = CandidateLists(up, down, children, TOKENS, np.array(effects), SIGNIFICANT, keep)
    for start in range(0, UP, rows):
        lists.offer(start, halves[start : start + rows])
    known = DesignEffects(np.ones(len(effects), np.int64), np.array(effects))
    pairs = significant_pairs(joint[:, children], up, down[children], TOKENS, known)
    for found, wanted in zip(lists.ranked, rank_candidates(pairs, up, down[children], TOKENS, keep), strict=True):
        assert np.array_equal(found, wanted)


def test_the_compiled_lists_go_through_more_children_than_are_looked_at_at_once() -> None:
    rng = np.random.default_rng(3)
    up = (rng.random((TOKENS, 40)) < 0.05).astype(int)
    down = np.concatenate([up[:, rng.integers(0, 40, 130)] * (rng.random((TOKENS, 130)) < 0.6), np.zeros((TOKENS, 3), int)], axis=1)
    joint, n_i, n_j = up.T @ down, up.sum(axis=0), down.sum(axis=0)
    children = np.array([0, 1, 63, 64, 127, 129, 132])
    lists = CandidateLists(n_i, n_j, children, TOKENS, np.array([2.0]), SIGNIFICANT, 5)
    lists.offer(0, np.stack([joint, np.zeros_like(joint)], axis=2))
    wanted = rank_candidates(significant_pairs(joint[:, children], n_i, n_j[children], TOKENS, 2.0), n_i, n_j[children], TOKENS, 5)
    assert all(np.array_equal(a, b) for a, b in zip(lists.ranked, wanted, strict=True))
    assert (wanted.necessity[:-1, 0] >= 0).all() and (wanted.necessity[-1] == -1).all()


def test_rows_that_do_not_fit_are_refused_by_name() -> None:
    lists = CandidateLists(np.ones(3, int), np.ones(2, int), np.arange(2), 10, np.ones(1), SIGNIFICANT, 4)
    with pytest.raises(ValueError, match="rows 2 to 3, there are rows 0 to 2"):
        lists.offer(2, np.zeros((2, 2, 2), np.int32))
    with pytest.raises(ValueError, match="counts"):
        lists.offer(0, np.zeros((2, 3, 2), np.int32))
    with pytest.raises(ValueError, match="counts"):
        lists.offer(0, np.zeros((2, 2, 2)))
