"""Communities of cross-layer graphs: what is planted comes back, numbers are those of brute force, the same edges give the same."""

from __future__ import annotations

import itertools
import math

import igraph
import leidenalg
import numpy as np
import pytest

from engine.measures.communities import CrossLayerGraph, PairEdges, by_size, communities, cross_layer_graph, quality, shape
from engine.measures.partitions import adjusted_mutual_information

SIZES, PAIRS = (40, 30, 50), [(0, 1), (1, 2)]


def planted(seed: int, noise: float = 0.0, groups: int = 5) -> tuple[CrossLayerGraph, np.ndarray]:
    """Features of three layers in groups, and the group of each node: within one 70 % of the pairs are edges, between two `noise`
    of them. The last feature of each layer has no edge."""
    rng = np.random.default_rng(seed)
    group = [rng.permutation(np.arange(size) % groups) for size in SIZES]
    edges = {}
    for up, down in PAIRS:
        chance = np.where(group[up][:, None] == group[down][None], 0.7, noise)
        chance[-1], chance[:, -1] = 0, 0
        i, j = np.nonzero(rng.random(chance.shape) < chance)
        edges[up, down] = PairEdges(i.astype(np.int32), j.astype(np.int32), rng.uniform(0.2, 1.0, len(i)))
    graph = cross_layer_graph(edges, SIZES)
    return graph, np.concatenate(group)[graph.number]


@pytest.mark.parametrize(("objective", "resolution"), [("modularity", 1.0), ("modularity", 1.5), ("cpm", 0.01)])
@pytest.mark.parametrize("noise", [0.0, 0.02], ids=["clean", "noisy"])
def test_planted_groups_come_back(objective: str, resolution: float, noise: float) -> None:
    graph, truth = planted(3, noise)
    found = communities(graph, objective, resolution)
    agreed = adjusted_mutual_information(found, truth)
    assert agreed == pytest.approx(1) if noise == 0 else agreed > 0.9


def test_nodes_are_the_features_with_an_edge_in_order_and_edges_join_the_right_ones() -> None:
    edges = {(0, 1): PairEdges(np.array([2, 0]), np.array([1, 1]), np.array([0.5, 0.25]))}
    edges[1, 2] = PairEdges(np.array([1]), np.array([3]), np.array([1.0]))
    graph = cross_layer_graph(edges, [4, 2, 5])
    names = list(zip(graph.layer.tolist(), graph.index.tolist(), strict=True))
    assert names == [(0, 0), (0, 2), (1, 1), (2, 3)] and graph.number.tolist() == [0, 2, 5, 9]
    assert [(names[i], names[j], w) for i, j, w in zip(graph.up, graph.down, graph.weight.tolist(), strict=True)] == [
        ((0, 2), (1, 1), 0.5),
        ((0, 0), (1, 1), 0.25),
        ((1, 1), (2, 3), 1.0),
    ]


def test_the_same_edges_give_the_same_communities() -> None:
    graph, _ = planted(5, 0.2)
    first = communities(graph, "modularity", 2.0)
    igraph.Graph.Barabasi(200)  # what else draws random numbers in the process changes nothing
    np.random.default_rng().random(3)
    assert all((communities(graph, "modularity", 2.0) == first).all() for _ in range(3))
    assert (np.diff(np.bincount(first)) <= 0).all()


def test_a_higher_resolution_gives_more_communities_and_cpm_above_every_weight_leaves_each_feature_alone() -> None:
    graph, _ = planted(6, 0.1)
    counts = [communities(graph, "cpm", resolution).max() + 1 for resolution in (0.001, 0.05, 0.3)]
    assert counts == sorted(counts) and counts[0] < counts[-1]
    assert communities(graph, "cpm", 1.01).max() + 1 == len(graph.number)


def test_communities_are_numbered_by_size_and_then_by_their_first_node() -> None:
    assert by_size(np.array([7, 7, 3, 9, 9, 9, 4, 4])).tolist() == [1, 1, 3, 0, 0, 0, 2, 2]


@pytest.mark.parametrize("resolution", [0.5, 1.0, 3.0])
def test_the_quality_is_the_sum_over_all_pairs_of_nodes_and_the_one_that_was_maximised(resolution: float) -> None:
    graph, _ = planted(7, 0.1)
    rng = np.random.default_rng(0)
    n = len(graph.number)
    weights = np.zeros((n, n))
    weights[graph.up, graph.down] = weights[graph.down, graph.up] = graph.weight
    strength, twice = weights.sum(0), weights.sum()
    network = igraph.Graph(n=n, edges=np.stack([graph.up, graph.down], axis=1))
    for labels in (communities(graph, "modularity", resolution), rng.integers(0, 9, n), np.arange(n), np.zeros(n, int)):
        together = labels[:, None] == labels[None]
        q = ((weights - resolution * np.outer(strength, strength) / twice) * together).sum() / twice
        assert quality(graph, labels, "modularity", resolution) == pytest.approx(q, abs=1e-12)
        own = leidenalg.RBConfigurationVertexPartition(network, labels.tolist(), graph.weight, resolution_parameter=resolution)
        assert own.quality() / twice == pytest.approx(q, abs=1e-9)
        potts = sum(weights[i, j] - resolution for i, j in itertools.combinations(range(n), 2) if together[i, j])
        assert quality(graph, labels, "cpm", resolution) == pytest.approx(potts, abs=1e-9)
        own = leidenalg.CPMVertexPartition(network, labels.tolist(), graph.weight, resolution_parameter=resolution)
        assert own.quality() / 2 == pytest.approx(potts, abs=1e-9)  # leidenalg counts each pair from both ends


def test_sizes_spans_densities_and_weights_are_those_of_counting() -> None:
    graph, _ = planted(8, 0.05)
    labels = communities(graph, "modularity", 4.0)
    pairs = [*PAIRS, (0, 2)]  # a layer pair without an edge still makes pairs possible
    found = shape(graph, labels, len(SIZES), pairs)
    for one in range(labels.max() + 1):
        nodes = np.flatnonzero(labels == one)
        layers = graph.layer[nodes].tolist()
        assert found.size[one] == len(nodes) and found.layers[one].tolist() == [layers.count(layer) for layer in range(3)]
        assert (found.first[one], found.last[one]) == (min(layers), max(layers))
        within = [at for at in range(len(graph.up)) if labels[graph.up[at]] == one == labels[graph.down[at]]]
        possible = sum(layers.count(up) * layers.count(down) for up, down in pairs)
        assert (found.edges[one], found.possible[one]) == (len(within), possible)
        if possible:
            assert found.density[one] == len(within) / possible
        else:
            assert math.isnan(found.density[one])
        assert found.weight[one] == pytest.approx(graph.weight[within].sum())
        for node in nodes:
            own = [at for at in within if node in (graph.up[at], graph.down[at])]
            assert found.node_weight[node] == pytest.approx(graph.weight[own].sum())


def test_no_edges_make_no_communities() -> None:
    graph = cross_layer_graph({pair: PairEdges(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0)) for pair in PAIRS}, SIZES)
    labels = communities(graph, "modularity", 1.0)
    assert len(labels) == len(graph.number) == len(shape(graph, labels, 3, PAIRS).size) == 0
    assert math.isnan(quality(graph, labels, "modularity", 1.0)) and quality(graph, labels, "cpm", 1.0) == 0
