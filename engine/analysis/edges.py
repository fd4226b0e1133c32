"""From a snapshot's edges to histograms of the best partners, and to the edges whose intervals say most."""

from __future__ import annotations

import math

import numpy as np

from engine.analysis.answers import known_cosines, links_of, lists_of
from engine.analysis.snapshot import Whole
from engine.measures import MEASURES
from engine.measures.histograms import BestPartners, best_partners
from engine.views.answers import EstimateAnswer, snapshot_answer, with_bounds
from engine.views.edge_answers import BestPartnersAnswer, EdgeAnswer, EdgesAnswer, HistogramAnswer, HistogramsAnswer
from engine.views.records import INTERVAL_MEASURES
from engine.views.relation_answers import LinkAnswer
from engine.views.relations import MOST_ITEMS, EdgesRequest, HistogramsRequest


def histograms(whole: Whole, request: HistogramsRequest) -> tuple[HistogramsAnswer, list[HistogramAnswer]]:
    """One histogram per measure (those that the run has, or the one that was asked for) and layer pair."""
    graph = whole.graph
    if request.measure is not None:
        known_cosines(whole, request.measure)
    measures = [measure for measure in MEASURES if measure != "decoder_cosine" or whole.run.model]
    items, undecided = [], 0
    for measure in [request.measure] if request.measure else measures:
        for pair in graph.edges:
            bins, up, down = best_partners(graph, pair, measure, request.min_support)
            ranked = lists_of(graph, measure, [pair], 0).undecided is not None
            sides = {"up": _side(up, ranked), "down": _side(down, ranked)}
            items.append(HistogramAnswer(measure=measure, pair=pair, bins=bins.tolist(), **sides))
            undecided += (up.undecided + down.undecided) if ranked else 0
    answer = HistogramsAnswer(
        measures=measures,
        min_support=request.min_support,
        lists=lists_of(graph, request.measure or MEASURES[0], graph.edges, undecided),
        total=len(items),
        items=[],
        next=None,
        snapshot=snapshot_answer(whole.snapshot),
    )
    return answer, items[:MOST_ITEMS]


def _side(side: BestPartners, ranked: bool) -> BestPartnersAnswer:
    return BestPartnersAnswer(
        layer=side.layer,
        live=side.live,
        counts=side.counts.tolist(),
        without=side.without,
        median=side.median if math.isfinite(side.median) else None,
        undecided=side.undecided if ranked else None,
    )


def edges(whole: Whole, request: EdgesRequest) -> tuple[EdgesAnswer, list[EdgeAnswer]]:
    """Watched edges by the lower bound of a measure, highest first; of equal ones that with the larger joint count."""
    graph, at = whole.graph, INTERVAL_MEASURES.index(request.measure)
    pairs = list(graph.edges) if request.pair is None else [request.pair]
    watched = [whole.watched[pair] for pair in pairs]
    owner = np.repeat(np.arange(len(pairs)), [len(found.edges) for found in watched])
    row = np.concatenate([np.arange(len(found.edges)) for found in watched])
    lower = np.concatenate([found.intervals["lower"][:, at] for found in watched])
    joint = np.concatenate([graph.edges[pair].joint[found.edges] for pair, found in zip(pairs, watched, strict=True)])
    order = np.lexsort((row, owner, -joint, -lower))  # NaN sorts last
    order = order[np.isfinite(lower[order])]
    items: dict[int, EdgeAnswer] = {}
    for number, (pair, found) in enumerate(zip(pairs, watched, strict=True)):
        kept = order[:MOST_ITEMS]
        of_pair = kept[owner[kept] == number]
        rows = found.intervals[row[of_pair]]
        links = links_of(graph, pair, found.edges[row[of_pair]], request.measure)
        for place, link, interval in zip(of_pair.tolist(), links, rows, strict=True):
            items[place] = _edge(link, interval, request.measure)
    answer = EdgesAnswer(
        measure=request.measure,
        pair=request.pair,
        watched=len(row),
        total=len(order),
        items=[],
        next=None,
        snapshot=snapshot_answer(whole.snapshot),
    )
    return answer, [items[place] for place in order[:MOST_ITEMS].tolist()]


def _edge(link: LinkAnswer, interval: np.ndarray, measure: str) -> EdgeAnswer:
    told = with_bounds(EstimateAnswer(estimate=link.estimate), measure, interval, math.nan, math.nan)
    fields = {field: getattr(link, field) for field in LinkAnswer.__struct_fields__}
    return EdgeAnswer(**fields, **{field: getattr(told, field) for field in EdgeAnswer.__struct_fields__ if field not in fields})
