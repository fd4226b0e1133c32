"""Fits of gates against counting tokens one by one, and which of them are nominated."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from engine.errors import BadValue
from engine.measures.gate_nominations import MOST_LIVE, MOST_NOMINATIONS, nominate
from engine.measures.gates import (
    AND,
    AND_NOT,
    KINDS,
    OR,
    PARENTS,
    TWO_OF_THREE,
    description_cost,
    explained_bits,
    fits,
    gate_counts,
    holds,
    hypotheses,
    quality,
)


def by_hand(kind: int, parents: tuple[bool, ...]) -> bool:
    """A gate in words."""
    return {
        AND: all(parents[:2]),
        OR: any(parents[:2]),
        AND_NOT: parents[0] and not parents[1],
        TWO_OF_THREE: sum(parents) >= 2,
    }[kind]


def tokens_of(seed: int, m: int, tokens: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """bool `[tokens, m]` candidates and bool `[tokens]` child, dependent on the first two."""
    rng = np.random.default_rng(seed)
    active = rng.random((tokens, m)) < rng.uniform(0.05, 0.5, m)
    child = (active[:, 0] & active[:, 1]) ^ (rng.random(tokens) < 0.1)
    return active, child


def table(active: np.ndarray, child: np.ndarray) -> np.ndarray:
    """int64 `[1, 2^(m+1)]`, with nonsense in the cell that is derived."""
    m = active.shape[1]
    cells = np.bincount((active << np.arange(m)).sum(axis=1) + (child << m), minlength=1 << (m + 1))
    cells[0] = 7
    return cells[None, :]


def entropy(predictor: np.ndarray, child: np.ndarray) -> float:
    """N·H(child | predictor) in bits, token by token: minus the log of each token's empirical probability."""
    pairs, of = Counter(zip(predictor.tolist(), child.tolist(), strict=True)), Counter(predictor.tolist())
    return -sum(math.log2(pairs[x, y] / of[x]) for x, y in zip(predictor.tolist(), child.tolist(), strict=True))


@pytest.mark.parametrize("m", range(2, 9))
def test_every_gate_of_the_slots_is_a_hypothesis_once_and_holds_where_it_should(m: int) -> None:
    found = hypotheses(m)
    names = set()
    for kind, slots, indicator in zip(*found, strict=True):
        mine = [int(slot) for slot in slots[: PARENTS[kind]]]
        names.add((int(kind), tuple(mine) if kind == AND_NOT else frozenset(mine)))
        for pattern in range(1 << m):
            active = [bool(pattern >> slot & 1) for slot in mine]
            assert indicator[pattern] == by_hand(int(kind), (*active, False)[:3])
    two, three = math.comb(m, 2), math.comb(m, 3)
    assert len(names) == len(found.kind) == 4 * two + three
    assert all(slots[2] == -1 for kind, slots in zip(found.kind, found.slots, strict=True) if PARENTS[kind] == 2)


@pytest.mark.parametrize("m", [1, 9])
def test_tables_of_too_few_or_many_candidates_are_refused(m: int) -> None:
    with pytest.raises(BadValue, match=f"2 to 8 candidate parents, not {m}"):
        hypotheses(m)


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(BadValue, match=r"gate kind is 4, it must be one of 0 \(and\)"):
        holds(4, True, True)


@given(st.integers(0, 10_000), st.integers(2, 6), st.floats(0.05, 1.0))
@settings(max_examples=25, deadline=None)
def test_fits_are_what_counting_token_by_token_gives(seed: int, m: int, effective: float) -> None:
    active, child = tokens_of(seed, m)
    found = fits(table(active, child), [len(child)], [m], effective)
    single = [entropy(active[:, slot], child) for slot in range(m)]
    f1_single = [2 * (active[:, slot] & child).sum() / (active[:, slot].sum() + child.sum()) for slot in range(m)]
    assert found.best[0] == int(np.argmax(f1_single)) and found.best_f1[0] == pytest.approx(max(f1_single))
    assert found.child[0] == child.sum()
    for at, (kind, slots, _) in enumerate(zip(*hypotheses(m), strict=True)):
        gate = np.array([by_hand(int(kind), (*row[slots[: PARENTS[kind]]].tolist(), False)[:3]) for row in active])
        assert found.both[0, at] == (gate & child).sum() and found.predicted[0, at] == gate.sum()
        total = gate.sum() + child.sum()
        assert found.f1[0, at] == pytest.approx(2 * (gate & child).sum() / total if total else 0.0)
        if (gate & child).sum() * len(child) <= gate.sum() * child.sum():
            assert found.bits[0, at] == -math.inf
            continue
        ways = math.log2(math.comb(m, 3)) + math.log2(3) if kind == TWO_OF_THREE else math.log2(math.comb(m, 2))
        cost = ways + math.log2(10) - math.log2(m)
        assert found.bits[0, at] == pytest.approx(effective * (min(single) - entropy(gate, child)) - cost, abs=1e-6)
        nothing = entropy(np.zeros(len(child), bool), child)
        assert found.explained[0, at] == pytest.approx((nothing - entropy(gate, child) - cost / effective) / len(child), abs=1e-9)


def test_empty_slots_take_part_in_no_gate_and_children_without_candidates_in_none() -> None:
    active, child = tokens_of(3, 4)
    active[:, 2:] = False
    found = fits(np.repeat(table(active, child), 3, axis=0), [400] * 3, [4, 2, 0])
    in_two = hypotheses(4).slots.max(axis=1) < 2
    assert np.all(found.bits[1][~in_two] == -math.inf) and found.bits[1].max() > 0
    assert np.all(found.bits[2] == -math.inf) and found.best[2] == -1 and found.best_f1[2] == 0.0


def test_tables_that_hold_more_tokens_than_were_counted_are_refused() -> None:
    active, child = tokens_of(3, 3)
    with pytest.raises(BadValue, match="table of child 0 holds"):
        fits(table(active, child), [20], [3])
    with pytest.raises(BadValue, match="not 12"):
        fits(np.zeros((1, 12), int), [20], [3])


@pytest.mark.parametrize("candidates", [0, 1, 2])
def test_a_gate_of_more_parents_than_there_are_costs_everything(candidates: int) -> None:
    assert description_cost(TWO_OF_THREE, candidates) == math.inf
    assert (description_cost(AND, candidates) == math.inf) == (candidates < 2)


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_quality_is_that_of_the_tokens(gate: list[bool], random) -> None:
    x, y = np.array(gate), np.array([random.random() < 0.5 for _ in gate])
    tp, fp, fn, tn = (int(part.sum()) for part in (x & y, x & ~y, ~x & y, ~x & ~y))
    found = quality(tp, tp + fp, tp + fn, len(gate))
    for value, top, under in ((found.precision, tp, tp + fp), (found.recall, tp, tp + fn), (found.f1, 2 * tp, 2 * tp + fp + fn)):
        assert (math.isnan(value) and not under) or value == pytest.approx(top / under)
    spread = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    assert (math.isnan(found.mcc) and not spread) or found.mcc == pytest.approx((tp * tn - fp * fn) / math.sqrt(spread))
    if tp:
        assert found.quasi == pytest.approx(max(1 - found.precision, 1 - found.recall))


def test_counts_and_bits_of_a_nominated_gate_are_those_of_the_table_that_it_came_from() -> None:
    active, child = tokens_of(5, 3)
    whole = fits(table(active, child), [400], [3], 0.5)
    kinds, cells, columns = [], [], []
    for at, (kind, slots, _) in enumerate(zip(*hypotheses(3), strict=True)):
        parents = [active[:, slot] if slot >= 0 else np.zeros(400, bool) for slot in slots]
        cells.append(np.bincount(sum(part << bit for bit, part in enumerate([*parents, child])), minlength=16))
        kinds.append(kind)
        columns.append(at)
    counts = gate_counts(kinds, np.array(cells))
    np.testing.assert_array_equal(counts.both, whole.both[0, columns])
    np.testing.assert_array_equal(counts.predicted, whole.predicted[0, columns])
    bits, expected = explained_bits(kinds, counts, np.full(len(kinds), 400), 3, 2.0), whole.explained[0, columns]
    np.testing.assert_allclose(bits[expected > -math.inf], expected[expected > -math.inf])


class Child:
    """One child, its gates by place, and how often it was nominated for."""

    def __init__(self, active: np.ndarray, child: np.ndarray, names: list[int]) -> None:
        self.fit = fits(table(active, child), [len(child)], [active.shape[1]])
        self.names = np.array([names], np.int32)
        self.kind, self.parents = np.full((1, MOST_LIVE), -1), np.full((1, MOST_LIVE, 3), -1)
        self.promising, self.used = np.zeros((1, MOST_LIVE), bool), np.zeros(1, int)

    def nominate(self):
        new = nominate(self.fit, self.names, self.kind, self.parents, self.promising, self.used)
        self.kind[new.child, new.place], self.parents[new.child, new.place] = new.kind, new.parents
        self.used += len(new.child)
        return new


def test_the_four_with_most_bits_are_nominated_once_and_name_upstream_features() -> None:
    active, _ = tokens_of(1, 4, 2000)
    child = active[:, :3].sum(axis=1) >= 2
    one = Child(active, child, [40, 30, 20, 10])
    first = one.nominate()
    order = np.argsort(-one.fit.bits[0], kind="stable")[:MOST_LIVE]
    wanted = [int(at) for at in order if one.fit.bits[0, at] > 0]
    assert first.hypothesis.tolist() == wanted and len(wanted) == MOST_LIVE
    assert KINDS[first.kind[0]] == "k_of_n" and first.parents[0].tolist() == [40, 30, 20]
    slots = hypotheses(4).slots[wanted].tolist()
    assert first.parents.tolist() == [[-1 if slot < 0 else [40, 30, 20, 10][slot] for slot in row] for row in slots]
    assert first.best.tolist() == [[40, 30, 20, 10][one.fit.best[0]]] * len(wanted)
    assert len(one.nominate().child) == 0


def test_the_same_gate_from_other_slots_is_not_nominated_again_but_and_not_the_other_way_round_is() -> None:
    active, child = tokens_of(1, 2, 2000)
    one = Child(active, child, [40, 30])
    assert one.nominate().kind.tolist() == [AND]
    again = Child(active[:, ::-1], child, [30, 40])
    again.kind, again.parents = one.kind, one.parents
    assert len(again.nominate().child) == 0
    inhibited = active[:, 0] & ~active[:, 1]
    other = Child(active, inhibited, [40, 30])
    other.kind[0, 0], other.parents[0, 0] = AND_NOT, (30, 40, -1)
    new = other.nominate()
    assert (AND_NOT, [40, 30, -1]) in list(zip(new.kind.tolist(), new.parents.tolist(), strict=True))


def test_gates_that_lead_no_more_make_room_unless_they_are_promising_and_never_beyond_the_budget() -> None:
    active, child = tokens_of(1, 2, 2000)
    one = Child(active, child, [40, 30])
    one.kind[:], one.parents[:] = OR, [[[1, 2, -1], [3, 4, -1], [5, 6, -1], [7, 8, -1]]]
    one.promising[:] = True
    assert len(one.nominate().child) == 0
    one.promising[0, 2] = False
    one.used[:] = MOST_NOMINATIONS
    assert len(one.nominate().child) == 0
    one.used[:] = MOST_NOMINATIONS - 1
    assert one.nominate().place.tolist() == [2]
    assert one.parents[0].tolist() == [[1, 2, -1], [3, 4, -1], [40, 30, -1], [7, 8, -1]]


def test_nominating_many_children_at_once_is_nominating_each() -> None:
    rng = np.random.default_rng(0)
    children = [Child(*tokens_of(seed, 3, 500), names=rng.permutation(9)[:3].tolist()) for seed in range(40)]
    alone = list(itertools.chain.from_iterable(_listed(one.nominate(), at) for at, one in enumerate(children)))
    cells = np.concatenate([table(*tokens_of(seed, 3, 500)) for seed in range(40)])
    fit = fits(cells, [500] * 40, [3] * 40)
    names = np.concatenate([one.names for one in children])
    shape = (40, MOST_LIVE)
    together = nominate(fit, names, np.full(shape, -1), np.full((*shape, 3), -1), np.zeros(shape, bool), np.zeros(40, int))
    assert _listed(together) == alone and len(alone) > 40


def _listed(new, child: int | None = None) -> list:
    children = new.child.tolist() if child is None else [child] * len(new.child)
    return list(zip(children, new.place.tolist(), new.kind.tolist(), new.parents.tolist(), new.best.tolist(), strict=True))
