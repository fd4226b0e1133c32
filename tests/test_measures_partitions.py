"""Agreement of partitions against brute force: every permutation for what chance gives, sets for overlaps."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from engine.measures.partitions import (
    adjusted_mutual_information,
    best_overlaps,
    expected_mutual_information,
    overlaps,
    successors,
)


def information(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """Mutual information from the joint distribution, in nats."""
    n, both = len(a), Counter(zip(a, b, strict=True))
    one, other = Counter(a), Counter(b)
    return sum(count / n * math.log(n * count / (one[x] * other[y])) for (x, y), count in both.items())


def entropy(a: tuple[int, ...]) -> float:
    return -sum(count / len(a) * math.log(count / len(a)) for count in Counter(a).values())


PARTITIONS = [
    pytest.param((0, 0, 0, 1, 1, 1), (0, 0, 1, 1, 2, 2), id="crossing"),
    pytest.param((0, 0, 0, 0, 1, 2), (0, 1, 0, 1, 0, 1), id="unequal-sizes"),
    pytest.param((0, 1, 2, 3, 3, 3, 3), (0, 0, 1, 1, 2, 2, 2), id="single-features"),
    pytest.param((0, 0, 1, 1, 2, 2, 2), (2, 2, 0, 0, 1, 1, 1), id="the-same-by-other-names"),
    pytest.param((0, 0, 0, 0, 0), (0, 0, 1, 1, 2), id="one-group-against-three"),
]


@pytest.mark.parametrize(("a", "b"), PARTITIONS)
def test_chance_is_the_mean_over_every_permutation_and_the_agreement_is_what_is_above_it(
    a: tuple[int, ...], b: tuple[int, ...]
) -> None:
    every = [information(a, shuffled) for shuffled in itertools.permutations(b)]
    chance = sum(every) / len(every)
    sizes = [np.array(list(Counter(labels).values())) for labels in (a, b)]
    assert expected_mutual_information(*sizes) == pytest.approx(chance, abs=1e-12)
    agreed = (information(a, b) - chance) / ((entropy(a) + entropy(b)) / 2 - chance)
    assert adjusted_mutual_information(np.array(a), np.array(b)) == pytest.approx(agreed, abs=1e-12)


def test_the_same_partition_agrees_fully_and_a_shuffled_one_by_chance() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 40, 2_000)
    renamed = rng.permutation(40)[labels] * 7
    assert adjusted_mutual_information(labels, renamed) == pytest.approx(1, abs=1e-12)
    shuffled = [adjusted_mutual_information(labels, rng.permutation(labels)) for _ in range(20)]
    assert abs(np.mean(shuffled)) < 0.005
    half = np.where(rng.random(2_000) < 0.5, labels, rng.permutation(labels))
    assert 0.2 < adjusted_mutual_information(labels, half) < 0.6


@pytest.mark.parametrize(
    ("a", "b"),
    [
        pytest.param([], [], id="no-feature"),
        pytest.param([5], [0], id="one-feature"),
        pytest.param([1, 1, 1], [0, 0, 0], id="one-group-each"),
        pytest.param([0, 1, 2], [2, 0, 1], id="single-features-each"),
    ],
)
def test_where_nothing_can_agree_or_differ_there_is_no_agreement(a: list[int], b: list[int]) -> None:
    assert math.isnan(adjusted_mutual_information(np.array(a, int), np.array(b, int)))


def test_overlaps_are_those_of_sets_also_where_features_are_missing_on_either_side() -> None:
    rng = np.random.default_rng(1)
    features = [np.sort(rng.choice(60, size, replace=False)) for size in (40, 50)]
    groups = [np.unique(rng.integers(0, 9, len(one)), return_inverse=True)[1] for one in features]
    sets = [[set(one[group == at].tolist()) for at in range(group.max() + 1)] for one, group in zip(features, groups, strict=True)]
    expected = {
        (x, y): len(one & other) / len(one | other)
        for (x, one), (y, other) in itertools.product(enumerate(sets[0]), enumerate(sets[1]))
        if one & other
    }
    found = overlaps(*features, *groups)
    assert {(x, y): z for x, y, z in zip(*(column.tolist() for column in found), strict=True)} == pytest.approx(expected)
    best = best_overlaps(*features, *groups)
    assert best == pytest.approx([max((z for (x, _), z in expected.items() if x == at), default=0) for at in range(len(sets[0]))])


NOTHING = np.empty(0, np.int64)


def test_nothing_overlaps_with_nothing() -> None:
    some = np.arange(4), np.array([0, 0, 1, 1])
    assert best_overlaps(some[0], NOTHING, some[1], NOTHING).tolist() == [0, 0]
    assert best_overlaps(NOTHING, some[0], NOTHING, some[1]).tolist() == []
    assert successors(some[0], NOTHING, some[1], NOTHING).tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("earlier", "now", "goes_on"),
    [
        pytest.param("aaaabbb", "aaaabbb", {"a": "a", "b": "b"}, id="nothing-changed"),
        pytest.param("aaaabbb", "bbbbaaa", {"b": "a", "a": "b"}, id="other-labels"),
        pytest.param("aaaaaaa", "aaaaabb", {"a": "a", "b": None}, id="a-split-leaves-the-id-to-the-larger-part"),
        pytest.param("aaaaabb", "aaaaaaa", {"a": "a"}, id="a-merger-takes-the-id-of-the-larger-part"),
        pytest.param("aaabbbccc", "aaabbcbcc", {"a": "a", "b": "b", "c": "c"}, id="one-feature-changes-sides"),
        pytest.param("aa.......", "aaaaaaaaa", {"a": None}, id="grown-beyond-recognition"),
        pytest.param("aaa......", "aaaaaaaaa", {"a": "a"}, id="grown-threefold"),
        pytest.param("aaaa......", "......aaaa", {"a": None}, id="no-feature-in-common"),
        pytest.param("aabb", "aaaa", {"a": "a"}, id="of-equal-overlaps-the-earlier-group-goes-first"),
    ],
)
def test_a_community_goes_on_as_the_one_that_it_overlaps_most(earlier: str, now: str, goes_on: dict[str, str | None]) -> None:
    """A letter per feature; a dot for one without an edge."""
    sides = []
    for text in (now, earlier):
        features = np.array([at for at, letter in enumerate(text) if letter != "."])
        letters = sorted(set(text) - {"."})
        sides.append((features, np.array([letters.index(text[at]) for at in features]), letters))
    (a, group_a, new), (b, group_b, old) = sides
    found = successors(a, b, group_a, group_b)
    assert {new[at]: None if group < 0 else old[group] for at, group in enumerate(found.tolist())} == goes_on


def test_no_two_communities_go_on_as_one() -> None:
    rng = np.random.default_rng(2)
    features = np.arange(500)
    before = np.unique(rng.integers(0, 30, 500), return_inverse=True)[1]
    after = np.unique(np.where(rng.random(500) < 0.7, before // 2, rng.integers(0, 30, 500)), return_inverse=True)[1]
    found = successors(features, features, after, before, least=0.01)
    taken = found[found >= 0].tolist()
    assert len(taken) > 10 and len(taken) == len(set(taken))
