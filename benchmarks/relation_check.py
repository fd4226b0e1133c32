"""The answers of the analysis worker against brute force, relation by relation. The first difference is an error that names it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import engine.demo
from benchmarks.brute_force import (
    Family,
    Pair,
    Question,
    Tables,
    candidates,
    decoder_products,
    family,
    lineages,
    matching,
    scores,
    shared_parts,
    tables,
)
from benchmarks.relation_run import Run
from engine.analysis import answers, flow
from engine.measures.siblings import told_of
from engine.views.relation_answers import (
    FlowAnswer,
    FlowItemAnswer,
    Kind,
    LineageAnswer,
    LineagesAnswer,
    MatchAnswer,
    MatchingAnswer,
    SpecializationAnswer,
)
from engine.views.relations import FlowRequest, LineagesRequest, MatchingRequest, SpecializationsRequest

_SIDES: tuple[tuple[int, Kind, Kind], ...] = ((1, "passed", "disappeared"), (0, "passed_into", "appeared"))
"""Upstream and downstream features: the axis of their partners, and the kinds of features with a partner and without."""

SAES = Path(engine.demo.__file__).parent / "saes"


class Disagreement(Exception):
    """The engine and brute force say different things."""


def same(what: str, found: Any, expected: Any) -> None:
    """Raise unless two values are equal; numbers that are no integers to a relative 1e-6."""
    if isinstance(found, float) and isinstance(expected, float):
        equal = bool(np.isclose(found, expected, rtol=1e-6, atol=1e-9))
    else:
        equal = found == expected
    if not equal:
        if isinstance(found, set) and isinstance(expected, set):
            found, expected = sorted(found - expected)[:3], sorted(expected - found)[:3]
        raise Disagreement(f"{what}: the engine says {found}, brute force {expected}")


def dense_tables(run: Run) -> dict[Pair, Tables]:
    """All pairs of every layer pair, from the dense activations."""
    return {pair: tables(run.activations, pair) for pair in run.whole.graph.edges}


class Flow(NamedTuple):
    """The worker's answer, and the features of each kind of each layer pair."""

    answer: FlowAnswer
    items: dict[tuple[Pair, Kind], list[FlowItemAnswer]]


def check_flow(run: Run, dense: dict[Pair, Tables], measure: str, threshold: float) -> Flow:
    """What passes, disappears and appears: every count, every feature, every best partner."""
    support = run.whole.graph.min_support
    request = FlowRequest(measure=measure, threshold=threshold, min_support=support)
    answer, _ = flow.flow(run.whole, request)
    items: dict[tuple[Pair, Kind], list[FlowItemAnswer]] = {}
    for found, (pair, table) in zip(answer.pairs, dense.items(), strict=True):
        score = scores(table, measure, threshold, support)
        for axis, with_partner, without in _SIDES:
            kinds: tuple[Kind, Kind] = (with_partner, without)
            counts = table.up if axis else table.down
            what = f"{run.corpus}, {measure} ≥ {threshold:g}, layers {pair[0]} → {pair[1]}"
            partnered, live = (score > -np.inf).any(axis=axis), counts > 0
            for kind, chosen in zip(kinds, (partnered, ~partnered), strict=True):
                group = getattr(found, kind)
                for among, mask in (("live", live), ("all", np.ones(len(live), bool))):
                    told = getattr(group, among)
                    same(f"{what}, {kind} among {among}", told.count, int((chosen & mask).sum()))
                    same(f"{what}, share {kind} among {among}", told.share, float((chosen & mask).sum() / mask.sum()))
                asked = FlowRequest(measure=measure, threshold=threshold, min_support=support, pair=pair, kind=kind)
                listed = items[pair, kind] = flow.flow(run.whole, asked)[1]
                layer = pair[1 - axis]
                expected = {f"{layer}:{index}" for index in np.flatnonzero(chosen & live)}
                same(f"{what}, features {kind}", {item.feature for item in listed}, expected)
            best = (score if axis else score.T).argmax(axis=1)
            for item in items[pair, with_partner]:
                index = int(item.feature.split(":")[1])
                link = item.best
                assert link is not None
                up, down = (index, int(best[index])) if axis else (int(best[index]), index)
                what_link = f"{what}, best partner of {item.feature}"
                same(what_link, (link.up, link.down), (f"{pair[0]}:{up}", f"{pair[1]}:{down}"))
                numbers = (int(table.up[up]), int(table.down[down]), int(table.joint[up, down]))
                same(f"{what_link}, counts", (link.counts.up, link.counts.down, link.counts.joint), numbers)
                same(f"{what_link}, {measure}", link.estimate, float(table.measures[measure][up, down]))
    return Flow(answer, items)


def check_lineages(
    run: Run, dense: dict[Pair, Tables], measure: str, threshold: float
) -> tuple[LineagesAnswer, list[LineageAnswer]]:
    """Chains of mutual best partners: every chain of two layers and more, how many there are of each length, the weakest links."""
    support = run.whole.graph.min_support
    answer, found = answers.lineages(run.whole, LineagesRequest(measure=measure, threshold=threshold, min_support=support))
    chains = lineages(list(dense.values()), measure, threshold, support)
    what = f"{run.corpus}, lineages by {measure} ≥ {threshold:g}"
    named = {tuple(f"{layer}:{index}" for layer, index in chain) for chain in chains}
    same(what, {tuple(one.feature for one in item.features) for item in found}, {chain for chain in named if len(chain) > 1})
    same(f"{what}, by length", {row.length: row.count for row in answer.lengths}, dict(Counter(map(len, chains))))
    for item in found:
        steps = itertools.pairwise(tuple(map(int, one.feature.split(":"))) for one in item.features)
        values = [float(dense[a[0], b[0]].measures[measure][a[1], b[1]]) for a, b in steps]
        same(f"{what}, weakest link of {item.features[0].feature}", item.weakest.estimate, min(values))
    return answer, found


class Specialized(NamedTuple):
    """Specialisations as the worker lists them; how many parents have children that are counted at all; and those that all four
    conditions hold for over all tokens, by brute force."""

    items: list[SpecializationAnswer]
    counted: int
    everywhere: list[tuple[Pair, int, Family]]


def check_specializations(run: Run, dense: dict[Pair, Tables], question: Question) -> Specialized:
    """Children that exclude each other.

    1. Where a group tells of every candidate, the parent is listed exactly when brute force finds the children on the dense
       activations since the group was chosen, and with these children.
    2. Every exact item has the counts and shares of these activations.
    3. The bounds of any other item hold for the activations of all tokens.
    """
    necessity, coverage, max_overlap, support = question
    request = SpecializationsRequest(threshold=necessity, coverage=coverage, max_overlap=max_overlap, min_support=support)
    _, items = answers.specialized(run.whole, request)
    what = f"{run.corpus}, specialisations with necessity ≥ {necessity:g}, coverage ≥ {coverage:g}, shared ≤ {max_overlap:g}"
    listed = {item.parent: item for item in items}
    counted, everywhere = 0, []
    for pair, table in dense.items():
        for parent, children in candidates(table, question).items():
            name = f"{pair[0]}:{parent}"
            item = listed.get(name)
            group = run.whole.siblings[pair].best(parent, children, support)
            told = [] if group is None else told_of(group, children, support)
            if group is not None:
                counted += 1
                truth = family(run.activations, pair, parent, told, max_overlap, group.counted_from)
                if truth is not None and truth.coverage < coverage:
                    truth = None
                if truth is not None or len(told) == len(children):
                    expected = None if truth is None else [f"{pair[1]}:{child}" for child in truth.children]
                    exact = item is not None and item.conditions.exclusive == "exact"
                    same(
                        f"{what}, children of {name}", [one.feature for one in item.children] if item and exact else None, expected
                    )
                    same(f"{what}, {name} listed", item is not None, truth is not None)
                if item is not None and item.conditions.exclusive == "exact" and truth is not None:
                    _same_counts(run, f"{what}, {name}", pair, item, truth)
            if item is not None and item.conditions.exclusive != "exact":
                _within_bounds(run, f"{what}, {name}", pair, item)
            over_all = family(run.activations, pair, parent, children, max_overlap)
            if over_all is not None and over_all.coverage >= coverage:
                everywhere.append((pair, parent, over_all))
    known = {f"{pair[0]}:{parent}" for pair, table in dense.items() for parent in candidates(table, question)}
    same(f"{what}, parents without candidates", set(listed) - known, set())
    return Specialized(items, counted, everywhere)


def _same_counts(run: Run, what: str, pair: Pair, item: SpecializationAnswer, truth: Family) -> None:
    """An exact item against the activations since its group was chosen."""
    told = item.conditions.counted
    assert told is not None
    parent = int(item.parent.split(":")[1])
    on = run.activations.active(pair[0], [parent], told.counted_from)[:, 0]
    active = run.activations.active(pair[1], truth.children, told.counted_from)
    within = active & on[:, None]
    same(f"{what}, tokens and parent", (told.tokens, told.parent), (len(on), int(on.sum())))
    counts = [(int(active[:, at].sum()), int(within[:, at].sum())) for at in range(len(truth.children))]
    same(f"{what}, counts of the children", [(one.count, one.joint) for one in told.children], counts)
    both = [
        (int((active[:, a] & active[:, b]).sum()), int((within[:, a] & within[:, b]).sum()))
        for a, b in itertools.combinations(range(len(truth.children)), 2)
    ]
    same(f"{what}, joint counts of the children", [(one.joint, one.within) for one in told.pairs], both)
    unions = (int(active.any(axis=1).sum()), int(within.any(axis=1).sum()))
    same(f"{what}, union", (told.union, told.union_within), unions)
    for name in ("shared", "overlap", "coverage"):
        bounds = getattr(item.conditions, name)
        for end in (bounds.lower, bounds.upper):
            same(f"{what}, {name}", end, float(getattr(truth, name)))


def _within_bounds(run: Run, what: str, pair: Pair, item: SpecializationAnswer) -> None:
    """An item that is bounded against the activations of all tokens."""
    parent, children = int(item.parent.split(":")[1]), [int(one.feature.split(":")[1]) for one in item.children]
    within = run.activations.active(pair[1], children)[run.activations.active(pair[0], [parent])[:, 0]]
    truth = {
        "shared": max(shared_parts(within)),
        "overlap": np.maximum(within.sum(axis=1) - 1, 0).sum() / len(within),
        "coverage": within.any(axis=1).mean(),
    }
    for name, value in truth.items():
        bounds = getattr(item.conditions, name)
        if not bounds.lower - 1e-9 <= value <= bounds.upper + 1e-9:
            raise Disagreement(f"{what}: {name} is {value:.4f}, the engine bounds it by {bounds.lower:.4f} and {bounds.upper:.4f}")


def check_matching(
    run: Run, dense: dict[Pair, Tables], measure: str, threshold: float, saes: Callable[[int], Path]
) -> dict[Pair, tuple[MatchingAnswer, list[MatchAnswer]]]:
    """The one-to-one matching of every layer pair by a measure and by decoders, and how far the two agree.

    `saes`: layer → the folder of its SAE.
    """
    support = run.whole.graph.min_support
    found = {}
    for pair, table in dense.items():
        request = MatchingRequest(pair=pair, measure=measure, threshold=threshold, min_support=support)
        answer, items = found[pair] = answers.matching(run.whole, request, run.decoders)
        what = f"{run.corpus}, matching of layers {pair[0]} → {pair[1]}"
        weight = scores(table, measure, threshold, support)
        partner = matching(weight)
        paired = np.flatnonzero(partner >= 0)
        same(f"{what} by {measure}, total", answer.by_measure.total, float(weight[paired, partner[paired]].sum()))
        same(f"{what} by {measure}", {(item.up, item.down) for item in items}, _named(pair, partner))
        products = decoder_products([saes(layer) for layer in pair])
        data_free = matching(products)
        both = (partner >= 0) & (data_free >= 0)
        assert answer.data_free is not None and answer.agreement is not None
        kept = np.flatnonzero(data_free >= 0)
        same(f"{what} by decoders, total", answer.data_free.total, float(products[kept, data_free[kept]].sum()))
        agreed = (int(both.sum()), int((both & (partner == data_free)).sum()))
        same(f"{what}, agreement", (answer.agreement.both, answer.agreement.same), agreed)
        for item in items:
            expected = data_free[int(item.up.split(":")[1])]
            same(f"{what} by decoders, partner of {item.up}", item.data_free, f"{pair[1]}:{expected}" if expected >= 0 else None)
    return found


def _named(pair: Pair, partner: np.ndarray) -> set[tuple[str, str]]:
    return {(f"{pair[0]}:{up}", f"{pair[1]}:{down}") for up, down in enumerate(partner.tolist()) if down >= 0}


def demo_sae(hooks: Sequence[str]) -> Callable[[int], Path]:
    """Layer → the folder of the bundled SAE, by the hook points of the layers."""
    return lambda layer: SAES / hooks[layer]
