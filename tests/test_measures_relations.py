"""Flow and lineages against brute force over dense activations."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from engine.errors import BadValue
from engine.measures import MEASURES
from engine.measures.relations import check_threshold, consecutive, flow, lineages, mass, partners
from tests.relation_graphs import correlated, graph_from, pair_counts, values

PAIRS = [(0, 1), (1, 2)]
SUPPORT = 5
THRESHOLDS = {"lift": (1.5, 3.0), "mutual_information": (0.01, 0.1), **dict.fromkeys(MEASURES[:4], (0.2, 0.6))}
MEASURED = [measure for measure in MEASURES if measure != "decoder_cosine"]
CASES = [(measure, threshold) for measure in MEASURED for threshold in THRESHOLDS.get(measure, (0.15, 0.5))]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("measure", "threshold"), CASES)
def test_flow_from_the_published_lists_is_that_of_all_pairs(seed: int, measure: str, threshold: float) -> None:
    layers = correlated(seed)
    graph = graph_from(layers, PAIRS, k=2, min_support=SUPPORT)
    for pair in PAIRS:
        with np.errstate(invalid="ignore"):
            passing = (values(layers, pair, measure) >= threshold) & (pair_counts(layers, pair)[0] >= SUPPORT)
        for layer, side, expected in zip(
            pair, flow(graph, pair, measure, threshold, SUPPORT), (passing.any(1), passing.any(0)), strict=True
        ):
            assert side.layer == layer
            assert (side.partnered == expected).all()
            fired = (layers[layer] > 0).sum(0)
            assert (side.live == (fired > 0)).all() and (side.rare == ((fired > 0) & (fired < SUPPORT))).all()
            assert not side.undecided.any()
            assert ((side.best >= 0) == side.partnered).all()
    assert passing.any() and not passing.all()


def test_with_a_larger_support_every_feature_that_the_lists_get_wrong_is_undecided() -> None:
    support, wrong, decided = 25, 0, 0
    cases = itertools.product(range(20), PAIRS, ("lift", "necessity", "sufficiency", "jaccard"))
    for seed, pair, measure in cases:
        layers = correlated(seed)
        graph = graph_from(layers, PAIRS, k=1, min_support=2)
        threshold = 1.2 if measure == "lift" else 0.1
        with np.errstate(invalid="ignore"):
            passing = (values(layers, pair, measure) >= threshold) & (pair_counts(layers, pair)[0] >= support)
        for side, expected in zip(flow(graph, pair, measure, threshold, support), (passing.any(1), passing.any(0)), strict=True):
            assert not (side.partnered & ~expected).any()
            missed = expected & ~side.partnered
            assert side.undecided[missed].all()
            wrong += int(missed.sum())
            decided += int((~side.partnered & ~side.undecided).sum())
    assert wrong > 5 and decided > 5  # else this shows nothing


def test_dead_features_are_neither_passed_nor_live_and_rare_ones_are_live() -> None:
    graph = graph_from(correlated(0), PAIRS, k=3, min_support=SUPPORT)
    for side in flow(graph, (0, 1), "jaccard", 0.01, SUPPORT):
        assert not side.live[1] and not side.partnered[1] and not side.rare[1]
        assert side.live[3] and side.rare[3] and not side.partnered[3]


def test_the_best_partner_is_the_best_and_of_equal_ones_the_first() -> None:
    layers = correlated(1)
    layers[1][:, 9] = layers[1][:, 8] = layers[0][:, 4]  # two exact copies
    graph = graph_from(layers, PAIRS, k=3, min_support=SUPPORT)
    ups, downs = partners(graph, (0, 1), "jaccard", 0.3, SUPPORT)
    score = np.where(pair_counts(layers, (0, 1))[0] >= SUPPORT, values(layers, (0, 1), "jaccard"), -1)
    for i in np.flatnonzero(ups.best >= 0):
        assert graph.edges[0, 1].down[ups.best[i]] == score[i].argmax()
    for j in np.flatnonzero(downs.best >= 0):
        assert graph.edges[0, 1].up[downs.best[j]] == score[:, j].argmax()
    assert graph.edges[0, 1].down[ups.best[4]] == 8


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("measure", "threshold"), [("pearson", 0.3), ("jaccard", 0.2), ("necessity", 0.5)])
def test_lineages_are_the_chains_of_mutual_best_partners_over_all_pairs(seed: int, measure: str, threshold: float) -> None:
    layers = correlated(seed)
    found = lineages(graph_from(layers, PAIRS, k=2, min_support=SUPPORT), measure, threshold, SUPPORT)
    expected, alone = chains_by_brute_force(layers, measure, threshold)
    assert {tuple(zip(chain.layers, chain.features, strict=True)) for chain in found.chains} == expected
    assert found.spans == Counter([(chain[0][0], chain[-1][0]) for chain in expected] + [(layer, layer) for layer, _ in alone])
    assert found.undecided == 0
    everywhere = [feature for chain in found.chains for feature in zip(chain.layers, chain.features, strict=True)]
    assert len(everywhere) == len(set(everywhere))  # chains neither merge nor split
    assert [len(chain.layers) for chain in found.chains] == sorted((len(chain.layers) for chain in found.chains), reverse=True)
    for chain in found.chains:
        for (pair, _), i, j, score in zip(chain.links, chain.features[:-1], chain.features[1:], chain.scores, strict=True):
            assert score == pytest.approx(values(layers, pair, measure)[i, j])
        assert chain.scores[chain.weakest] == min(chain.scores)


def chains_by_brute_force(
    layers: list[np.ndarray], measure: str, threshold: float
) -> tuple[set[tuple[tuple[int, int], ...]], set[tuple[int, int]]]:
    """Chains of two features or more, and the live features that are in none."""
    after: dict[tuple[int, int], tuple[int, int]] = {}
    for up, down in PAIRS:
        score = values(layers, (up, down), measure)
        usable = (pair_counts(layers, (up, down))[0] >= SUPPORT) & (np.nan_to_num(score, nan=-9) >= threshold)
        score = np.where(usable, score, -9)
        for i, j in zip(*np.nonzero(usable), strict=True):
            if score[i].argmax() == j and score[:, j].argmax() == i:
                after[up, int(i)] = down, int(j)
    live = {(layer, int(index)) for layer, dense in enumerate(layers) for index in np.flatnonzero((dense > 0).any(0))}
    chains = set()
    for start in live - set(after.values()):
        chain = [start]
        while chain[-1] in after:
            chain.append(after[chain[-1]])
        chains.add(tuple(chain))
    return {chain for chain in chains if len(chain) > 1}, {chain[0] for chain in chains if len(chain) == 1}


def test_a_feature_with_two_children_leads_to_the_closer_one_and_the_other_is_born() -> None:
    layers = correlated(2)
    layers[1][:, 8] = layers[0][:, 4]
    layers[1][:, 10] = np.where(np.arange(400) % 5, layers[0][:, 4], 0)
    found = lineages(graph_from(layers, PAIRS, k=3, min_support=SUPPORT), "jaccard", 0.2, SUPPORT)
    chain = next(chain for chain in found.chains if (chain.layers[0], chain.features[0]) == (0, 4))
    assert chain.features[1] == 8
    assert not any(chain.layers[0] == 0 and chain.features[1] == 10 for chain in found.chains)


def test_the_mass_of_a_lineage_is_that_of_its_features() -> None:
    layers = correlated(0)
    graph = graph_from(layers, PAIRS, k=3, min_support=SUPPORT)
    chain = lineages(graph, "pearson", 0.3, SUPPORT).chains[0]
    sums, squares = mass(graph, chain)
    columns = [layers[layer][:, index].astype(np.float64) for layer, index in zip(chain.layers, chain.features, strict=True)]
    np.testing.assert_allclose(sums, [column.sum() for column in columns])
    np.testing.assert_allclose(squares, [(column**2).sum() for column in columns])


@pytest.mark.parametrize(
    ("pairs", "followed"),
    [
        pytest.param([(0, 1), (1, 2), (0, 2)], [(0, 1), (1, 2)], id="a pair that skips a layer"),
        pytest.param([(0, 2), (2, 4)], [(0, 2), (2, 4)], id="every second layer"),
        pytest.param([(0, 3), (1, 3), (2, 3)], [(2, 3)], id="several into one"),
        pytest.param([(0, 5)], [(0, 5)], id="one"),
        pytest.param([], [], id="none"),
    ],
)
def test_lineages_follow_the_nearest_layers_that_are_paired(pairs: list[tuple[int, int]], followed: list[tuple[int, int]]) -> None:
    assert consecutive(pairs) == followed


@pytest.mark.parametrize(
    ("measure", "threshold", "says"),
    [
        pytest.param("cosine", 0.5, "jaccard, sufficiency, necessity", id="unknown-measure"),
        pytest.param("pearson", 0.0, "above 0 and no more than 1", id="zero"),
        pytest.param("pearson", -0.2, "above 0", id="negative"),
        pytest.param("jaccard", 1.01, "no more than 1", id="above-one"),
        pytest.param("mutual_information", 0.7, "0.6931", id="above-ln-2"),
        pytest.param("lift", math.inf, "above 0 for lift", id="infinite-lift"),
        pytest.param("phi", math.nan, "threshold = nan", id="not-a-number"),
    ],
)
def test_a_threshold_that_nothing_can_be_asked_by_is_refused_with_its_range(measure: str, threshold: float, says: str) -> None:
    with pytest.raises(BadValue, match=says):
        check_threshold(measure, threshold)


def test_thresholds_at_the_ends_of_their_range_are_taken() -> None:
    check_threshold("pearson", 1.0)
    check_threshold("mutual_information", math.log(2))
    check_threshold("lift", 250.0)
