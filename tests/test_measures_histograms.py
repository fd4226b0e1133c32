"""Bins hold every value that a measure can have, and each feature once."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.errors import BadValue
from engine.measures import MEASURES, PairCounts, estimates
from engine.measures.histograms import best_partners, bin_edges
from engine.measures.relations import HIGHEST
from tests.relation_graphs import graph_from

LARGEST = 10_000


@pytest.mark.parametrize("measure", MEASURES)
def test_the_bins_of_a_measure_ascend_and_reach_from_its_lowest_to_its_highest_value(measure: str) -> None:
    edges = bin_edges(measure, LARGEST, 10)
    assert (np.diff(edges) > 0).all()
    assert edges[0] == (-1 if measure in ("phi", "pearson", "decoder_cosine") else 0)
    if measure != "lift":
        assert edges[-1] == HIGHEST[measure]


@pytest.mark.parametrize("joint", [10, 11, 5_000, LARGEST])
def test_the_largest_lift_is_inside_whatever_the_support(joint: int) -> None:
    """Two features that always fire together have the largest lift that there is with this joint count: N / n."""
    lift = estimates(PairCounts(LARGEST, joint, joint, joint, 0, 0, 0, 0, 0), ["lift"])["lift"]
    assert lift <= bin_edges("lift", LARGEST, 10)[-1]


@pytest.mark.parametrize(
    ("tokens", "support"),
    [pytest.param(0, 10, id="no-tokens"), pytest.param(5, 10, id="fewer-than-the-support"), pytest.param(1 << 50, 1, id="many")],
)
def test_bins_of_lift_exist_for_any_number_of_tokens(tokens: int, support: int) -> None:
    edges = bin_edges("lift", tokens, support)
    assert len(edges) >= 3 and edges[-1] >= tokens / support


def test_an_unknown_measure_is_named_with_the_known_ones() -> None:
    with pytest.raises(BadValue, match="measure = 'cosine': it must be one of jaccard"):
        bin_edges("cosine", 10, 1)


def test_a_layer_that_never_fired_has_empty_bins_and_no_median() -> None:
    graph = graph_from([np.zeros((20, 3), np.float32), np.ones((20, 2), np.float32)], [(0, 1)], k=3, min_support=2)
    _, up, down = best_partners(graph, (0, 1), "jaccard", 2)
    assert (up.live, up.without, up.counts.sum(), math.isnan(up.median)) == (0, 0, 0, True)
    assert (down.live, down.without, down.counts.sum()) == (2, 2, 0)
