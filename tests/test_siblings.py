"""Siblings: truth tables of a parent and its children against brute force over dense activations, and which groups are counted."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from counts_stream import sparse
from views_rig import Rig, private_redis, publish

from engine.analysis.snapshot import SnapshotReader
from engine.corpus.segment import Piece
from engine.counts import pairs
from engine.counts.siblings import IDLE_CHOICES, Siblings
from engine.counts.state import State
from engine.encoder.batch import SparseBatch
from engine.measures.siblings import SiblingGroup, SiblingGroups, told_of
from engine.measures.specialization import Bounds, specializations
from engine.views import siblings as choice
from engine.views.connection import connect
from engine.views.keys import Keys
from engine.views.siblings import choose_siblings
from kernels import CELLS, SIBLINGS, Runs, likely_children, make_runs, reference, sibling_cells
from tests.relation_graphs import graph_from

THRESHOLD = 0.4


def family(seed: int, tokens: int = 700) -> list[np.ndarray]:
    """Activations float32 `[T, 30]` of two layers. Parents 0:0 to 0:9 share their tokens out among 1:3p to 1:3p + 2, with gaps,
    overlaps and strays that grow with p; the other parents fire at random."""
    rng = np.random.default_rng(seed)
    up, down = (np.where(rng.random((tokens, 30)) < 0.1, rng.random((tokens, 30)), 0) for _ in range(2))
    for parent in range(10):
        up[:, parent] = np.where(rng.random(tokens) < 0.3, 0.5 + rng.random(tokens), 0)
        on = np.flatnonzero(up[:, parent] > THRESHOLD)
        which = rng.choice(4, len(on), p=[0.5, 0.25, 0.2, 0.05])
        for child in range(3):
            down[:, 3 * parent + child] = 0
            twice = rng.random(len(on)) < 0.03 * parent
            down[on[(which == child) | twice], 3 * parent + child] = 0.9
            stray = rng.choice(tokens, parent, replace=False)
            down[stray, 3 * parent + child] = 0.8
    return [up.astype(np.float32), down.astype(np.float32)]


def runs_of(dense: np.ndarray, threshold: float | None) -> Runs:
    rows, features = np.nonzero(dense)
    offsets = np.searchsorted(rows, np.arange(len(dense) + 1))
    limits = None if threshold is None else np.full(dense.shape[1], threshold, np.float32)
    order, clusters = np.arange(len(dense)), (np.arange(len(dense)) // 50).astype(np.int32)
    return make_runs(order, clusters, offsets, features.astype(np.int32), dense[rows, features], limits, dense.shape[1])


def slots(*children: int) -> list[int]:
    return [*children, *[-1] * (SIBLINGS - len(children))]


@pytest.mark.parametrize("threshold", [None, THRESHOLD], ids=["threshold 0", "a threshold"])
@pytest.mark.parametrize("tokens", [0, 1, 300], ids=["no token", "one token", "many"])
def test_the_cells_of_every_group_are_those_of_the_reference(tokens: int, threshold: float | None) -> None:
    layers = [dense[:tokens] for dense in family(1)]
    parents = np.array([0, 3, 3, 11, 29], np.int32)
    children = np.array([slots(0, 1, 2), slots(9, 10, 11), slots(11, 2, 9), list(range(8)), slots()], np.int32)
    cells = np.zeros((len(parents), CELLS), np.int64)
    up, down = (runs_of(dense, threshold) for dense in layers)
    for times in (1, 2):
        sibling_cells(up, down, parents, children, tokens, cells)
        expected = reference.sibling_cells(*(dense > (threshold or 0) for dense in layers), parents, children)
        assert np.array_equal(cells, times * expected)
    assert (cells.sum(axis=1) == 2 * tokens).all()


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("rows", [0, 1, 700], ids=["no row", "one row", "more cells than there is room for at first"])
def test_likely_children_are_those_of_the_reference(rows: int, dtype: type) -> None:
    rng = np.random.default_rng(rows)
    counts = rng.integers(0, 40, (rows, 23, 2)).astype(dtype)
    least, most = rng.integers(5, 30, rows), rng.integers(40, 90, rows)
    needed, covered = rng.integers(0, 50, 23), rng.integers(0, 900, rows)
    found = likely_children(counts, least, most, needed, covered)
    expected = reference.likely_children(counts, least, most, needed, covered)
    on_device = pairs.on_device(torch.from_numpy(counts), [slice(0, 7), slice(7, rows)], least, most, needed, covered)
    for parts in zip(found, on_device, expected, strict=True):
        assert np.array_equal(parts[0], parts[2]) and np.array_equal(parts[1], parts[2])
    if rows == 700:
        assert len(found[0]) > 4096 and len(set(found[0])) < rows


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param({"parents": np.array([30], np.int32)}, r"parents holds 30 to 30, every one must be in \[0, 30\)", id="parent"),
        pytest.param({"children": np.full((1, 8), 31, np.int32)}, r"children holds 31 to 31", id="child"),
        pytest.param(
            {"children": np.full((1, 7), -1, np.int32)}, r"children is int32 \[1, 7\], it must be int32 \[1, 8\]", id="slots"
        ),
        pytest.param({"cells": np.zeros((1, 512))}, r"cells is float64 \[1, 512\], it must be int64", id="cells-of-floats"),
    ],
)
def test_arrays_that_no_group_has_are_refused_by_name(change: dict[str, np.ndarray], says: str) -> None:
    runs = runs_of(family(1)[0], None)
    given = {"parents": np.zeros(1, np.int32), "children": np.array([slots(1)], np.int32), "cells": np.zeros((1, CELLS), np.int64)}
    given |= change
    with pytest.raises(ValueError, match=says):
        sibling_cells(runs, runs, given["parents"], given["children"], 700, given["cells"])


def segments(layers: list[np.ndarray], chance: random.Random) -> list[tuple[list[SparseBatch], list[Piece], list[int]]]:
    """The tokens as documents of 70, one to three of them a segment, in micro-batches of any size and order."""
    documents = [slice(start, start + 70) for start in range(0, len(layers[0]), 70)]
    made, number = [], 0
    while number < len(documents):
        here = documents[number : number + 1 + number % 3]
        pieces = [
            Piece("upload", f"corpus {at % 2}", at, None, at % 2, 0, part.stop - part.start, True)
            for at, part in enumerate(here, number)
        ]
        rows = list(range(here[0].start, here[-1].stop))
        chance.shuffle(rows)
        size = chance.randint(9, 60)
        batches = []
        for start in range(0, len(rows), size):
            at = np.array(sorted(rows[start : start + size]))
            batches.append(
                SparseBatch(tuple(sparse(dense[at]) for dense in layers), at, (at // 70 - number).astype(np.int32), tuple(pieces))
            )
        made.append((batches, pieces, [part.start for part in here]))
        number += len(here)
    return made


def counted(layers: list[np.ndarray], seed: int, choose_at: int, folder: Path | None = None) -> State:
    """The state of all segments; groups are chosen after the segment `choose_at`, and everything is saved and loaded on the way."""
    chance = random.Random(seed)
    state = State.zero([30, 30], threshold=THRESHOLD)
    for at, (batches, pieces, positions) in enumerate(segments(layers, chance)):
        for batch in batches:
            state.add(batch)
        state.end_segment(batches, pieces, positions)
        if at == choose_at:
            choose_siblings(state)
        if folder is not None and chance.random() < 0.5:
            for part in state.parts():
                part.save(folder / part.name)
            parts = [type(part).load(state.shape, part.place, folder / part.name) for part in state.parts()]
            state = State(state.shape, parts)
    return state


def test_the_same_log_gives_the_same_bits_in_any_micro_batches_and_over_any_restart(tmp_path: Path) -> None:
    layers = family(2)
    one, other = counted(layers, 1, 2), counted(layers, 2, 2, tmp_path)
    mine, theirs = one.siblings[0, 1].arrays()[1], other.siblings[0, 1].arrays()[1]
    assert len(one.siblings[0, 1]) > 3 and mine.keys() == theirs.keys()
    assert all(np.array_equal(array, theirs[name]) for name, array in mine.items())


@pytest.mark.parametrize("seed", range(4))
def test_every_number_of_every_group_is_that_of_the_dense_activations_after_the_choice(seed: int) -> None:
    layers = family(seed)
    part = counted(layers, seed, 1).siblings[0, 1]
    on_up, on_down = (dense > THRESHOLD for dense in layers)
    assert len(part) > 3
    for group, start in zip(groups_of(part), part.counted_from.tolist(), strict=True):
        parent, down = on_up[start:, group.parent], on_down[start:]
        assert start == group.counted_from == 210 and group.tokens == len(layers[0]) - start
        assert group.parent_count == parent.sum()
        for child in group.children:
            assert (group.count(child), group.joint(child)) == (down[:, child].sum(), (down[:, child] & parent).sum())
        for a, b in itertools.combinations(group.children, 2):
            both = down[:, a] & down[:, b]
            assert (group.both(a, b), group.both_within(a, b)) == (both.sum(), (both & parent).sum())
        for some in (group.children, group.children[:2]):
            active = down[:, some].sum(1)
            assert (group.union(some), group.union_within(some)) == ((active > 0).sum(), ((active > 0) & parent).sum())
            assert group.overlap(some) == np.maximum(active - 1, 0)[parent].sum()


def groups_of(part: Siblings) -> list[SiblingGroup]:
    group, cell = np.nonzero(part.cells)
    cells = (group, cell, part.cells[group, cell])
    found = SiblingGroups.of(part.parent, part.children, part.counted_from, cells).of_parent
    return [group for parent in sorted(found) for group in found[parent]]


def test_groups_are_the_parents_that_children_cover_with_their_largest_children() -> None:
    layers = family(3)
    state = counted(layers, 3, choose_at=10_000)
    choose_siblings(state)
    on_up, on_down = (dense > THRESHOLD for dense in layers)
    joint, n_up, n_down = on_up.T.astype(int) @ on_down, on_up.sum(0), on_down.sum(0)
    expected = []
    for parent in range(30):
        children = [
            child
            for child in range(30)
            if joint[parent, child] >= max(10, choice.SHARE * n_up[parent], choice.NECESSITY * n_down[child])
            and joint[parent, child] < choice.MOST_SHARE * n_up[parent]
        ]
        if len(children) >= 2 and joint[parent, children].sum() >= choice.COVERAGE * n_up[parent]:
            expected.append((parent, *children))
    part = state.siblings[0, 1]
    assert part.groups() == expected and len(expected) > 3
    assert part.counted_from.tolist() == [700] * len(part) and not part.cells.any()


def test_of_more_children_than_slots_the_largest_are_counted() -> None:
    tokens = 2_100  # 30 documents
    up, down = np.zeros((tokens, 30), np.float32), np.zeros((tokens, 30), np.float32)
    up[:1_000, 4] = 1
    starts = np.cumsum([0, *range(140, 40, -10)])  # ten children of 140, 130 … 50 tokens
    for child, (start, end) in enumerate(itertools.pairwise(starts)):
        down[start:end, 20 - child] = 1
    state = counted([up, down], 0, choose_at=10_000)
    choose_siblings(state)
    assert state.siblings[0, 1].groups() == [(4, *range(13, 21))]


def test_a_group_goes_on_while_it_holds_what_it_is_about_and_is_dropped_when_it_was_not_chosen_for_long() -> None:
    part = Siblings.zero(State.zero([30, 30]).shape, (0, 1))

    def choose(*groups: tuple[int, ...], tokens: int, needed: int = 8, limit: int = 9) -> list[tuple[tuple[int, ...], int]]:
        part.choose(groups, [frozenset(group[1 : 1 + needed]) for group in groups], tokens=tokens, limit=limit)
        return list(zip(part.groups(), part.counted_from.tolist(), strict=True))

    assert choose((5, 1, 2, 3), (2, 7, 8), tokens=10) == [((2, 7, 8), 10), ((5, 1, 2, 3), 10)]
    part.cells[:, 1] = 77
    assert choose((5, 1, 2), (2, 7, 8, 9), tokens=20, needed=2) == [((2, 7, 8), 10), ((5, 1, 2, 3), 10)]
    assert choose((5, 1, 4), (2, 7, 8), tokens=30) == [((2, 7, 8), 10), ((5, 1, 2, 3), 10), ((5, 1, 4), 30)]
    assert part.cells[:, 1].tolist() == [77, 77, 0]
    for choices in range(2, IDLE_CHOICES):
        choose((5, 1, 4), tokens=30 + choices)
        assert part.groups() == [(2, 7, 8), (5, 1, 2, 3), (5, 1, 4)]
    assert choose((5, 1, 4), tokens=50) == [((2, 7, 8), 10), ((5, 1, 4), 30)]
    assert choose((9, 1, 2), (5, 1, 4), (8, 1, 2), tokens=60, limit=2) == [((5, 1, 4), 30), ((9, 1, 2), 60)]


def test_a_parent_is_judged_by_the_group_that_tells_of_the_most_children_from_the_most_tokens() -> None:
    cells = np.array([1, 2, 257, 258, 260])
    older, newer, wider = (
        SiblingGroup(1, children, start, cells, np.array([3, 3, n, n, n]))
        for children, start, n in (((2, 5), 0, 40), ((2, 5), 50, 20), ((2, 5, 9), 80, 9))
    )
    groups = SiblingGroups({1: [newer, older, wider]})
    assert groups.best(1, [2, 5], 10) is older and groups.best(1, [5, 2, 9], 5) is wider
    assert groups.best(1, [2, 9], 10) is None and groups.best(3, [2, 5], 10) is None
    assert told_of(wider, [9, 4, 2], 5) == [9, 2] and told_of(wider, [9, 2], 10) == []


@pytest.mark.parametrize("max_overlap", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_where_children_are_counted_a_specialisation_is_one_by_brute_force_and_only_then(seed: int, max_overlap: float) -> None:
    layers = family(seed, tokens=1_400)
    state = counted(layers, seed, choose_at=1)
    on = [dense > THRESHOLD for dense in layers]
    active = [rows.astype(np.float32) for rows in on]
    graph = graph_from(active, [(0, 1)], k=20, min_support=10)
    groups = groups_of(state.siblings[0, 1])
    start = 210
    found = specializations(
        graph, coverage=0.7, max_overlap=max_overlap, siblings={(0, 1): SiblingGroups({one.parent: [one] for one in groups})}
    )
    exact = {item.parent: item for item in found.items if item.counted is not None}
    expected, judged = {}, set()
    joint, n_up, n_down = on[0].T.astype(int) @ on[1], on[0].sum(0), on[1].sum(0)
    for group in groups:
        parent = on[0][start:, group.parent]
        ok = (joint[group.parent] >= np.maximum(10, 0.8 * n_down)) & (joint[group.parent] >= 0.05 * n_up[group.parent])
        candidates = np.flatnonzero(ok & (joint[group.parent] < 0.7 * n_up[group.parent]))
        children = np.array([child for child in candidates if child in group.children], int)
        judged.update([group.parent] if len(children) == len(candidates) else [])
        within = on[1][start:] & parent[:, None]
        taken: list[int] = []
        for child in children[np.lexsort((children, -joint[group.parent, children]))].tolist():
            most = max((np.sum(within[:, child] & within[:, c]) / within[:, [child, c]].sum(0).min() for c in taken), default=0)
            if most <= max_overlap and np.maximum(within[:, [*taken, child]].sum(1) - 1, 0).sum() <= max_overlap * parent.sum():
                taken.append(child)
        if len(taken) >= 2 and within[:, taken].any(1).sum() >= 0.7 * parent.sum():
            expected[group.parent] = taken
    children = {parent: graph.edges[0, 1].down[item.edges].tolist() for parent, item in exact.items()}
    assert children == expected and (expected or max_overlap < 0.1)
    for item in exact.values():
        assert item.shared.lower == item.shared.upper <= max_overlap
        assert item.coverage.lower == item.coverage.upper >= 0.7
    assert {item.parent for item in found.items} & judged == set(expected) & judged and len(judged) > 3


def test_a_group_that_does_not_tell_of_every_child_denies_the_children_that_it_knows_to_share() -> None:
    up, down = np.zeros((1_000, 30), np.float32), np.zeros((1_000, 30), np.float32)
    up[:400, 0] = 1
    for child, tokens in enumerate((np.arange(200), np.arange(190), np.arange(200, 390))):
        down[tokens, child] = 1
    graph = graph_from([up, down], [(0, 1)], k=20, min_support=10)
    assert [item.counted for item in specializations(graph).items] == [None]
    assert graph.edges[0, 1].down[specializations(graph).items[0].edges].tolist() == [0, 1]  # nothing tells that they are one
    cells = np.array([256 + 3, 256 + 1, 256])
    twins = SiblingGroup(0, (0, 1), 0, cells, np.array([190, 10, 200]))
    (item,) = specializations(graph, siblings={(0, 1): SiblingGroups({0: [twins]})}).items
    assert graph.edges[0, 1].down[item.edges].tolist() == [0, 2]
    assert item.counted is None and item.shared == Bounds(0.0, 1.0)


def test_groups_are_read_from_redis_as_they_were_at_the_snapshot(tmp_path: Path) -> None:
    state = counted(family(5), 5, choose_at=2)
    with private_redis(tmp_path) as server:
        rig = Rig(server, (30, 30))
        reader = SnapshotReader(connect(rig.settings.redis_url), Keys(rig.settings.redis_prefix), 3, 2)
        publisher = rig.publisher()
        publish(publisher, state)
        part = state.siblings[0, 1]
        found = reader.read().siblings[0, 1].of_parent
        assert len(part) == sum(map(len, found.values())) > 3
        for mine, theirs in zip(groups_of(part), (group for parent in sorted(found) for group in found[parent]), strict=True):
            assert (mine.parent, mine.children, mine.counted_from) == (theirs.parent, theirs.children, theirs.counted_from)
            assert mine.tokens == theirs.tokens and mine.overlap(mine.children) == theirs.overlap(mine.children)
        batches, pieces, positions = segments(family(6), random.Random(0))[0]
        for batch in batches:
            state.add(batch)
        publish(publisher, state)  # the segment has not ended: the groups are as they were
        before = reader.read()
        assert before.siblings[0, 1].of_parent[0][0].tokens == found[0][0].tokens
        state.end_segment(batches, pieces, positions)
        state.add(segments(family(7), random.Random(0))[1][0][0])
        publish(publisher, state)
        assert reader.read().siblings[0, 1].of_parent[0][0].tokens == found[0][0].tokens + 70
