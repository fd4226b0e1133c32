"""Every relation of the bundled model on a few thousand tokens: the worker answers as brute force on dense activations does."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.brute_force import Pair, Question, Tables
from benchmarks.relation_check import (
    Disagreement,
    check_flow,
    check_lineages,
    check_matching,
    check_specializations,
    demo_sae,
    dense_tables,
    same,
)
from benchmarks.relation_examples import both_fire, estimate, fires
from benchmarks.relation_run import Run, counted
from engine.demo.text import sample_documents
from engine.measures.relations import FeatureGraph

DOCUMENTS = 40
SEGMENT_TOKENS = 1_024
"""Three segments, so that siblings are chosen in the first ones and counted in the last."""


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with counted("sample", [row.text for row in sample_documents()[:DOCUMENTS]], SEGMENT_TOKENS) as running:
        yield running


@pytest.fixture(scope="module")
def dense(run: Run) -> dict[Pair, Tables]:
    return dense_tables(run)


def test_the_activations_that_brute_force_lays_out_are_all_that_was_counted(run: Run) -> None:
    assert run.activations.tokens == run.tokens > 2_000
    for layer, counts in enumerate(run.whole.graph.layers):
        rows = run.activations.dense(layer, 0, run.tokens)
        assert np.array_equal((rows > 0).sum(0), counts.count)
        assert np.array_equal(run.activations.active(layer, range(5), 700), rows[700:, :5] > 0)


@pytest.mark.parametrize("measure", ["pearson", "jaccard", "necessity"])
def test_flow_in_both_directions_among_live_features_and_all(run: Run, dense: dict[Pair, Tables], measure: str) -> None:
    found = check_flow(run, dense, measure, 0.4)
    assert all(pair.passed.live.count > 50 and pair.appeared.all.count > pair.appeared.live.count for pair in found.answer.pairs)


@pytest.mark.parametrize("measure", ["pearson", "jaccard"])
def test_lineages_with_their_lengths_and_weakest_links(run: Run, dense: dict[Pair, Tables], measure: str) -> None:
    _, items = check_lineages(run, dense, measure, 0.4)
    assert len(items) > 100 and items[0].length >= 5


@pytest.mark.parametrize(
    ("question", "exact"),
    [
        pytest.param(Question(0.8, 0.8, 0.1, 10), 1, id="defaults"),
        pytest.param(Question(0.7, 0.6, 0.2, 10), 5, id="as-wide-as-groups-are-chosen"),
        pytest.param(Question(0.5, 0.5, 0.3, 10), 20, id="wider"),
    ],
)
def test_specialisations_exact_where_siblings_are_counted_and_within_bounds_elsewhere(
    run: Run, dense: dict[Pair, Tables], question: Question, exact: int
) -> None:
    found = check_specializations(run, dense, question)
    assert sum(item.conditions.exclusive == "exact" for item in found.items) >= exact
    assert found.counted > 100 and any(item.conditions.exclusive == "bounded" for item in found.items)


def test_matching_by_a_measure_and_by_decoders_and_how_far_they_agree(run: Run, dense: dict[Pair, Tables]) -> None:
    hooks = [layer.hook for layer in run.whole.run.layers]
    found = check_matching(run, dense, "pearson", 0.4, demo_sae(hooks))
    assert all(len(items) > 50 for _, items in found.values())


def test_an_answer_that_is_off_by_one_count_is_noticed(run: Run, dense: dict[Pair, Tables]) -> None:
    """The check can fail: by a joint count, by a feature that fired, by a token of a sibling group."""
    graph = run.whole.graph
    edges = graph.edges[2, 3]
    strong = int(np.argmax(edges.joint))
    fewer = edges._replace(joint=edges.joint - (np.arange(len(edges.joint)) == strong))
    with pytest.raises(Disagreement, match=r"layers 2 → 3, best partner of [23]:\d+, counts: the engine says"):
        check_flow(
            _with(run, FeatureGraph(graph.tokens, graph.layers, {**graph.edges, (2, 3): fewer}, graph.k, 10)), dense, "jaccard", 0.4
        )
    dead = int(np.flatnonzero(graph.layers[6].count == 0)[0])
    layers = [*graph.layers[:6], graph.layers[6]._replace(count=graph.layers[6].count + (np.arange(1024) == dead))]
    with pytest.raises(Disagreement, match=r"layers 5 → 6, .* among live: the engine says"):
        check_flow(_with(run, FeatureGraph(graph.tokens, layers, graph.edges, graph.k, 10)), dense, "pearson", 0.4)
    siblings = copy.deepcopy(dict(run.whole.siblings))
    for groups in siblings.values():
        for group in itertools.chain(*groups.of_parent.values()):
            group._counts[-1:] += 1
    off = dataclasses.replace(run, whole=dataclasses.replace(run.whole, siblings=siblings))
    with pytest.raises(Disagreement, match=r"specialisations with .*: the engine says"):
        check_specializations(off, dense, Question(0.7, 0.6, 0.2, 10))
    with pytest.raises(Disagreement, match=r"chains: the engine says \[3\], brute force \[4\]"):
        same("chains", {1, 3}, {1, 4})


def _with(run: Run, graph: FeatureGraph) -> Run:
    return dataclasses.replace(run, whole=dataclasses.replace(run.whole, graph=graph))


def test_examples_are_in_the_words_of_the_text_with_the_intervals_of_the_api(run: Run) -> None:
    link = max(range(1024), key=lambda index: int(run.whole.graph.layers[3].count[index]))
    words = fires(run, f"3:{link}")
    assert words.startswith("`…") and "⟦" in words and words.endswith(")")
    number = estimate(run, f"3:{link}", f"4:{link}", "pearson")
    assert number.estimate is not None and number.status in ("ok", "insufficient", "heuristic")
    assert both_fire(run, f"3:{link}", f"3:{link}").count("⟦") == 1
