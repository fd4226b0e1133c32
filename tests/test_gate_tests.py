"""Scores of gates against counting the tokens of a block, e-values against their promise, and what is accepted."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from engine.errors import BadValue
from engine.measures.gate_nominations import MOST_NOMINATIONS
from engine.measures.gate_tests import (
    CELLS,
    GATE,
    JOINT,
    NONE,
    TESTS,
    Evidence,
    add_block,
    block_scores,
    block_tokens,
    e_bh,
    gate_evidence,
    verdicts,
)
from engine.measures.gates import AND, AND_NOT, KINDS, OR, PARENTS, TWO_OF_THREE, holds

Token = tuple[int, int, int, int]  # p0, p1, p2, child

# Each test in words: (stratum, x, y, sign) of the tokens (a, b, c, child); parts are summed.
IN_WORDS = {
    AND: [
        [(lambda a, b, c, y: b, lambda a, b, c, y: a, lambda a, b, c, y: y, 1)],
        [(lambda a, b, c, y: a, lambda a, b, c, y: b, lambda a, b, c, y: y, 1)],
        [(lambda a, b, c, y: not y, lambda a, b, c, y: a, lambda a, b, c, y: b, -1)],
    ],
    OR: [
        [(lambda a, b, c, y: not b, lambda a, b, c, y: a, lambda a, b, c, y: y, 1)],
        [(lambda a, b, c, y: not a, lambda a, b, c, y: b, lambda a, b, c, y: y, 1)],
        [(lambda a, b, c, y: y, lambda a, b, c, y: a, lambda a, b, c, y: b, -1)],
    ],
    AND_NOT: [
        [(lambda a, b, c, y: not b, lambda a, b, c, y: a, lambda a, b, c, y: y, 1)],
        [(lambda a, b, c, y: a, lambda a, b, c, y: b, lambda a, b, c, y: y, -1)],
        [(lambda a, b, c, y: not y, lambda a, b, c, y: a, lambda a, b, c, y: b, 1)],
    ],
    TWO_OF_THREE: [
        [(lambda a, b, c, y: b + c == 1, lambda a, b, c, y: a, lambda a, b, c, y: y, 1)],
        [(lambda a, b, c, y: a + c == 1, lambda a, b, c, y: b, lambda a, b, c, y: y, 1)],
        [(lambda a, b, c, y: a + b == 1, lambda a, b, c, y: c, lambda a, b, c, y: y, 1)],
        [
            (lambda a, b, c, y: not y, lambda a, b, c, y: a, lambda a, b, c, y: b, -1),
            (lambda a, b, c, y: not y, lambda a, b, c, y: a, lambda a, b, c, y: c, -1),
            (lambda a, b, c, y: not y, lambda a, b, c, y: b, lambda a, b, c, y: c, -1),
        ],
    ],
}


def score_in_words(tokens: list[Token], parts) -> tuple[float, float]:
    """s, and c as the worst that any pairing of the same x with the same y could have given."""
    s, worst = Fraction(0), Fraction(0)
    for stratum, x, y, sign in parts:
        inside = [token for token in tokens if stratum(*token)]
        if not inside:
            continue
        n, r, k = len(inside), sum(bool(x(*t)) for t in inside), sum(bool(y(*t)) for t in inside)
        joint = sum(bool(x(*t)) and bool(y(*t)) for t in inside)
        possible = [count for count in range(n + 1) if count <= min(r, k) and r + k - count <= n]
        s += sign * (joint - Fraction(r * k, n))
        worst += min(sign * (count - Fraction(r * k, n)) for count in possible)
    return float(s), float(-worst)


def cells_of(tokens: list[Token]) -> np.ndarray:
    return np.bincount([a + 2 * b + 4 * c + 8 * y for a, b, c, y in tokens], minlength=CELLS)


bit = st.integers(0, 1)
blocks = st.lists(st.tuples(bit, bit, bit, bit), max_size=32)


@pytest.mark.parametrize("kind", range(4), ids=KINDS)
@given(tokens=blocks)
@settings(max_examples=60, deadline=None)
def test_scores_of_a_block_are_those_of_its_tokens(kind: int, tokens: list[Token]) -> None:
    if PARENTS[kind] == 2:
        tokens = [(a, b, 0, y) for a, b, _, y in tokens]
    s, c = block_scores(kind, cells_of(tokens))
    for test, parts in enumerate(IN_WORDS[kind]):
        np.testing.assert_allclose([s[test], c[test]], score_in_words(tokens, parts), atol=1e-12)
    assert np.all(s[TESTS[kind] :] == 0) and np.all(c[TESTS[kind] :] == 0) and len(IN_WORDS[kind]) == TESTS[kind]


def test_many_blocks_at_once_are_each_and_an_unknown_kind_is_refused() -> None:
    cells = np.random.default_rng(0).integers(0, 4, (5, 7, CELLS))
    s, c = block_scores(OR, cells)
    for at in np.ndindex(5, 7):
        np.testing.assert_array_equal(block_scores(OR, cells[at]), (s[at], c[at]))
    with pytest.raises(BadValue, match="gate kind is -1"):
        block_scores(-1, cells)


@pytest.mark.parametrize(("length", "tokens"), [(1, 1), (4, 1), (5, 2), (100, 25), (128, 32), (4096, 32)])
def test_a_cluster_is_cut_into_four_blocks_or_into_blocks_of_32(length: int, tokens: int) -> None:
    assert block_tokens(length) == tokens


def test_e_values_grow_by_bets_that_know_the_past_alone() -> None:
    rng = np.random.default_rng(1)
    s, c = rng.uniform(-1, 1, (50, 3, 4)), rng.uniform(1, 3, (50, 3, 4))
    found = Evidence.zero(3)
    for one, loss in zip(s, c, strict=True):
        add_block(found, one, loss)
    for gate, test in np.ndindex(3, 4):
        log_e, past, squares = 0.0, 0.0, 0.0
        for score, loss in zip(s[:, gate, test], c[:, gate, test], strict=True):
            bet = min(max(0.0, (0.5 + past) / (0.25 + squares)), 0.9 / loss)
            log_e += math.log(1 + bet * score)
            past, squares = past + score, squares + score**2
        np.testing.assert_allclose([part[gate, test] for part in found], [log_e, past, squares])


def test_a_block_that_says_nothing_changes_nothing() -> None:
    found = Evidence(np.full((1, 4), 1.5), np.full((1, 4), 2.0), np.full((1, 4), 3.0))
    add_block(found, np.zeros((1, 4)), np.zeros((1, 4)))
    assert [part[0, 0] for part in found] == [1.5, 2.0, 3.0]


@given(
    st.sampled_from(range(4)),
    st.lists(st.lists(st.tuples(bit, bit, bit, bit), min_size=1, max_size=5), min_size=1, max_size=2),
)
@settings(max_examples=40, deadline=None)
def test_e_values_have_mean_one_at_most_when_the_child_is_permuted_within_blocks(kind: int, tokens: list[list[Token]]) -> None:
    """All permutations of y among the tokens of a block's stratum, exactly: what T1 takes the child to be under the null."""
    for parts in IN_WORDS[kind][: PARENTS[kind]]:
        stratum, x, _, sign = parts[0]
        inside = [[token for token in block if stratum(*token)] for block in tokens]
        columns = [[bool(x(*token)) for token in block] for block in inside]
        orders = [list(itertools.permutations([token[3] for token in block])) for block in inside]
        values = []
        for chosen in itertools.product(*orders):
            found = Evidence.zero(1)
            for block, y in zip(columns, chosen, strict=True):
                n, r, k = len(block), sum(block), sum(y)
                joint = sum(a and b for a, b in zip(block, y, strict=True))
                expected = r * k / n if n else 0.0
                loss = expected - max(0, r + k - n) if sign > 0 else min(r, k) - expected
                add_block(found, np.full((1, 4), sign * (joint - expected)), np.full((1, 4), loss))
            values.append(math.exp(found.log_e[0, 0]))
        assert np.mean(values) <= 1 + 1e-9


def evidence_of(kind: int, y: np.ndarray, parents: np.ndarray, size: int = 32) -> np.ndarray:
    """log E of the tests over a stream cut into blocks."""
    found = Evidence.zero(1)
    pattern = parents[0] + 2 * parents[1] + 4 * parents[2] + 8 * y
    for start in range(0, len(y), size):
        s, c = block_scores(kind, np.bincount(pattern[start : start + size], minlength=CELLS))
        add_block(found, s[None], c[None])
    return found.log_e[0]


@pytest.mark.parametrize("kind", range(4), ids=KINDS)
def test_a_gate_passes_all_tests_and_reports_of_a_common_cause_do_not_explain_each_other_away(kind: int) -> None:
    rng = np.random.default_rng(2)
    parents = (rng.random((3, 30_000)) < 0.15).astype(int)
    if PARENTS[kind] == 2:
        parents[2] = 0
    child = holds(kind, *parents)
    label = (child ^ (rng.random(30_000) < 0.002)).astype(int)
    assert gate_evidence([kind], evidence_of(kind, label, parents)[None])[0][0] > 20
    cause = rng.random(30_000) < 0.1
    reports = (cause & (rng.random((3, 30_000)) < 0.6)).astype(int)
    if PARENTS[kind] == 2:
        reports[2] = 0
    both, first = gate_evidence([kind], evidence_of(kind, cause.astype(int), reports)[None])
    assert both[0] < 3 and (kind != OR or first[0] > 20)


def test_evidence_of_a_gate_is_the_least_of_its_own_tests() -> None:
    log_e = np.array([[3.0, 2.0, 5.0, -9.0], [3.0, 6.0, 1.0, -9.0], [4.0, 5.0, 3.0, 2.0]])
    both, first = gate_evidence([AND, OR, TWO_OF_THREE], log_e)
    assert both.tolist() == [2.0, 1.0, 2.0] and first.tolist() == [2.0, 3.0, 3.0]
    assert [part.shape for part in gate_evidence([], np.zeros((0, 4)))] == [(0,), (0,)]


def accepted_by_definition(values: list[float], total: int, alpha: float) -> set[int]:
    order = sorted(range(len(values)), key=lambda at: -values[at])
    best = max((k for k in range(1, len(values) + 1) if values[order[k - 1]] >= total / (alpha * k)), default=0)
    return set(order[:best])


@given(st.lists(st.floats(0.0, 12.0), max_size=40), st.integers(0, 50), st.sampled_from([0.05, 0.2]))
@settings(max_examples=100, deadline=None)
def test_e_bh_is_its_definition(log_e: list[float], more: int, alpha: float) -> None:
    total = len(log_e) + more
    found = set(np.flatnonzero(e_bh(log_e, total, alpha)).tolist())
    near = any(abs(v - math.log(max(total, 1) / (alpha * k))) < 1e-9 for v in log_e for k in range(1, len(log_e) + 1))
    assert near or found == accepted_by_definition([math.exp(v) for v in log_e], total, alpha)


def test_e_bh_refuses_levels_and_totals_that_make_no_sense() -> None:
    with pytest.raises(BadValue, match=r"alpha is 1\.0"):
        e_bh([1.0], 1, 1.0)
    with pytest.raises(BadValue, match="2 hypotheses were put forward, their total can't be 1"):
        e_bh([1.0, 2.0], 1)


def test_verdicts_are_one_of_a_child_by_description_length_and_joint_without_explaining_away() -> None:
    strong, weak = 40.0, 0.0
    rows = [
        (AND, [strong, strong, strong, 0], 0, 0.2, NONE),  # passes, but the other explains more
        (TWO_OF_THREE, [strong] * 4, 0, 0.3, GATE),
        (OR, [strong, strong, weak, 0], 0, 0.9, NONE),  # its child has a gate
        (OR, [strong, strong, weak, 0], 1, 0.1, JOINT),
        (AND, [strong, weak, strong, 0], 2, 0.9, NONE),  # one parent does nothing
        (AND_NOT, [strong, strong, strong, 0], 2, 0.1, GATE),
    ]
    kinds, log_e, child, explained, expected = (list(column) for column in zip(*rows, strict=True))
    assert verdicts(kinds, log_e, child, explained, 3).tolist() == expected
    just = math.log(MOST_NOMINATIONS * 3 / (0.05 * 1)) + 0.01
    assert verdicts([AND], [[just] * 4], [0], [0.1], 3).tolist() == [GATE]
    assert verdicts([AND], [[just - 0.02] * 4], [0], [0.1], 3).tolist() == [NONE]
    assert verdicts([], np.zeros((0, 4)), [], [], 3).tolist() == []
