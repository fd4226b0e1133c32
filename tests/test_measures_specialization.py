"""Specialisation: the bounds hold on dense activations, planted ones are found, and what only looks like one is not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from engine.measures.specialization import MIN_SHARE, Overlaps, specializations
from tests.relation_graphs import correlated, graph_from

PAIRS = [(0, 1), (1, 2)]
TOKENS = 1_000


def planted(*children: np.ndarray, copies: bool) -> list[np.ndarray]:
    """Three layers: parent 0:0 fires on the first 400 tokens, child 1:c on `children[c]`; with `copies` each has a copy 2:c.

    The other features of each layer fire at random.
    """
    rng = np.random.default_rng(len(children))
    layers = [np.where(rng.random((TOKENS, 10)) < 0.15, 1.0, 0.0).astype(np.float32) for _ in range(3)]
    layers[0][:, 0] = 0
    layers[0][:400, 0] = 1
    for index, tokens in enumerate(children):
        layers[1][:, index] = 0
        layers[1][tokens, index] = 1
        if copies:
            layers[2][:, index] = layers[1][:, index]
    return layers


def graph(layers: list[np.ndarray], k: int = 4):
    return graph_from(layers, PAIRS, k=k, min_support=10)


@pytest.mark.parametrize("k", [1, 2, 5, 50])
@pytest.mark.parametrize("seed", range(3))
def test_the_bounds_on_the_overlap_of_two_features_hold_for_every_pair(seed: int, k: int) -> None:
    layers = correlated(seed)
    overlaps = Overlaps(graph_from(layers, PAIRS, k=k, min_support=5))
    sharp = 0
    for layer, dense in enumerate(layers):
        for a, b in itertools.combinations(range(dense.shape[1]), 2):
            true = int(((dense[:, a] > 0) & (dense[:, b] > 0)).sum())
            bounds = overlaps.bounds(layer, a, b)
            assert bounds.lower <= true <= bounds.upper, (layer, a, b)
            sharp += bounds.upper < min((dense[:, a] > 0).sum(), (dense[:, b] > 0).sum()) or bounds.lower > 0
    assert sharp > 10


@pytest.mark.parametrize("copies", [True, False], ids=["with-copies", "without"])
def test_a_parent_that_three_children_share_out_is_found_and_shown_where_each_has_a_copy(copies: bool) -> None:
    layers = planted(np.arange(0, 200), np.arange(200, 320), np.arange(320, 385), copies=copies)
    found = {(item.pair, item.parent): item for item in specializations(graph(layers), max_overlap=0.15).items}
    item = found[(0, 1), 0]
    assert graph(layers).edges[0, 1].down[item.edges].tolist() == [0, 1, 2]
    assert (item.count, item.joint.tolist(), item.necessity.tolist()) == (400, [200, 120, 65], [1, 1, 1])
    assert item.coverage.lower <= 385 / 400 <= item.coverage.upper
    assert item.overlap.lower == item.shared.lower == 0
    assert (item.shared.upper <= 0.15) == copies  # counts of the copies rule an overlap out; without them nothing does


@pytest.mark.parametrize(
    ("children", "why"),
    [
        pytest.param((np.arange(0, 390), np.arange(0, 60)), "one child covers the parent alone", id="pass-through"),
        pytest.param((np.arange(0, 200), np.arange(200, 250)), "the children leave 150 tokens out", id="not-covered"),
        pytest.param((np.arange(0, 250), np.arange(100, 390)), "150 tokens have both", id="overlap-by-pigeonhole"),
        pytest.param((np.arange(0, 200), np.arange(0, 200)), "both children are one", id="duplicates-with-copies"),
        pytest.param((np.arange(0, 310), np.arange(280, 340)), "half of the smaller child is shared", id="shared-by-a-small-child"),
        pytest.param((np.r_[0:200, 500:700], np.arange(200, 390)), "half of a child is elsewhere", id="not-implied"),
        pytest.param((np.arange(0, 390),), "one child", id="one-child"),
    ],
)
def test_what_lacks_one_of_the_four_conditions_is_not_one(children: tuple[np.ndarray, ...], why: str) -> None:
    found = specializations(graph(planted(*children, copies=True))).items
    assert not any((item.pair, item.parent) == ((0, 1), 0) for item in found), why


def test_duplicates_that_nothing_can_tell_apart_are_bounded_not_shown() -> None:
    layers = planted(np.arange(0, 200), np.arange(0, 200), copies=False)
    items = [item for item in specializations(graph(layers)).items if (item.pair, item.parent) == ((0, 1), 0)]
    assert items and all(item.shared.upper == 1 and item.overlap.upper >= 0.5 and item.coverage.lower <= 0.5 for item in items)


def pairs_of(count: int) -> list[tuple[int, int]]:
    return list(itertools.combinations(range(count), 2))


@pytest.mark.parametrize("k", [2, 6, 50])
@pytest.mark.parametrize("seed", range(6))
def test_every_condition_of_every_finding_holds_on_the_dense_activations(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    layers = correlated(seed, tokens=600)
    for parent in range(4, 10):  # parents that several children share out, with gaps and overlaps
        on = np.flatnonzero(layers[0][:, parent] > 0)
        for child in range(3):
            index = (parent * 3 + child) % 17
            layers[1][:, index] = 0
            layers[1][on[rng.random(len(on)) < 0.1], index] = 1
            layers[1][on[child::3], index] = 1
    listed = graph_from(layers, PAIRS, k=k, min_support=5)
    found = specializations(listed, necessity=0.7, coverage=0.7, max_overlap=0.3, min_support=5).items
    assert found
    for item in found:
        parent = layers[item.pair[0]][:, item.parent] > 0
        children = layers[item.pair[1]][:, listed.edges[item.pair].down[item.edges]] > 0
        active = (children & parent[:, None]).sum(1)
        overlap, covered = np.maximum(0, active - 1).sum() / parent.sum(), (active > 0).sum() / parent.sum()
        assert len(item.edges) >= 2 and item.count == parent.sum()
        np.testing.assert_array_equal(item.joint, (children & parent[:, None]).sum(0))
        np.testing.assert_allclose(item.necessity, item.joint / children.sum(0))
        assert (item.necessity >= 0.7).all() and (item.joint / item.count >= MIN_SHARE).all()
        assert item.overlap.lower - 1e-12 <= overlap <= item.overlap.upper + 1e-12
        assert item.coverage.lower - 1e-12 <= covered <= item.coverage.upper + 1e-12
        both = [(children[:, a] & children[:, b] & parent).sum() / min(item.joint[[a, b]]) for a, b in pairs_of(len(item.edges))]
        assert item.shared.lower - 1e-12 <= max(both) <= item.shared.upper + 1e-12
        assert item.overlap.lower <= 0.3 and item.shared.lower <= 0.3 and item.coverage.upper >= 0.7
