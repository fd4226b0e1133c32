"""From a snapshot's graph to the answers about relations, one function per question.

Each returns the answer without items, and all its items (at most `MOST_ITEMS`), which `engine.views.lists` cuts into pages.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable

import numpy as np

from engine.analysis.decoders import Decoders
from engine.analysis.snapshot import Whole
from engine.errors import BadValue
from engine.measures import estimates
from engine.measures import relations as measured
from engine.measures.matching import agreement, assign
from engine.measures.relations import FeatureGraph, Lineage, Pair
from engine.measures.siblings import SiblingGroup
from engine.measures.specialization import MIN_SHARE, Specialization, specializations
from engine.views.answers import CountsAnswer, name, snapshot_answer
from engine.views.records import DENSE_CELLS
from engine.views.relation_answers import (
    AgreementAnswer,
    BoundsAnswer,
    ChildAnswer,
    ConditionsAnswer,
    CountedAnswer,
    CountedChildAnswer,
    DataFreeAnswer,
    LengthAnswer,
    LineageAnswer,
    LineagesAnswer,
    LinkAnswer,
    ListsAnswer,
    MassAnswer,
    MatchAnswer,
    MatchedAnswer,
    MatchingAnswer,
    SiblingPairAnswer,
    SpanAnswer,
    SpecializationAnswer,
    SpecializationsAnswer,
    WeakestAnswer,
)
from engine.views.relations import MOST_ITEMS, LineagesRequest, MatchingRequest, SpecializationsRequest

MOST_ASSIGNMENT_WORK = 4_000_000_000
"""Edges × features of the larger side. The assignment takes some 5 ns of each (measured: 163,000 edges of 4,096 features in 2.0 s,
123,000 of 24,576 in 15 s), so this is about 20 s."""


def lineages(whole: Whole, request: LineagesRequest) -> tuple[LineagesAnswer, list[LineageAnswer]]:
    """Every lineage counted, those that were asked for listed."""
    graph = whole.graph
    known_cosines(whole, request.measure)
    found = measured.lineages(graph, request.measure, request.threshold, request.min_support)
    chains = [chain for chain in found.chains if len(chain.layers) >= request.min_length]
    if request.feature is not None:
        chains = [chain for chain in chains if request.feature in zip(chain.layers, chain.features, strict=True)]
    lengths: Counter[int] = Counter()
    for chain in found.chains:
        lengths[len(chain.layers)] += 1
    lengths[1] = sum(count for (birth, death), count in found.spans.items() if birth == death)
    path = measured.consecutive(graph.edges)
    answer = LineagesAnswer(
        measure=request.measure,
        threshold=request.threshold,
        min_support=request.min_support,
        lists=lists_of(graph, request.measure, path, found.undecided),
        path=path,
        lengths=[LengthAnswer(length=length, count=count) for length, count in sorted(lengths.items()) if count],
        spans=[SpanAnswer(birth=birth, death=death, count=count) for (birth, death), count in sorted(found.spans.items())],
        total=len(chains),
        items=[],
        next=None,
        snapshot=snapshot_answer(whole.snapshot),
    )
    return answer, [_lineage(graph, chain, request.measure) for chain in chains[:MOST_ITEMS]]


def _lineage(graph: FeatureGraph, chain: Lineage, measure: str) -> LineageAnswer:
    links = [link for step in chain.links for link in links_of(graph, step.pair, np.array([step.edge]), measure)]
    weakest = links[chain.weakest]
    assert weakest.estimate is not None
    sums, squares = measured.mass(graph, chain)
    features = [
        MassAnswer(
            feature=name((layer, index)),
            count=int(graph.layers[layer].count[index]),
            sum=float(sums[at]),
            sum_of_squares=float(squares[at]),
            share_of_sum=number_or_none(sums[at] / sums.sum()) if sums.sum() > 0 else None,
            share_of_squares=number_or_none(squares[at] / squares.sum()) if squares.sum() > 0 else None,
        )
        for at, (layer, index) in enumerate(zip(chain.layers, chain.features, strict=True))
    ]
    return LineageAnswer(
        birth=chain.layers[0],
        death=chain.layers[-1],
        length=len(chain.layers),
        features=features,
        links=links,
        weakest=WeakestAnswer(up=weakest.up, down=weakest.down, estimate=weakest.estimate),
    )


def specialized(whole: Whole, request: SpecializationsRequest) -> tuple[SpecializationsAnswer, list[SpecializationAnswer]]:
    """Every parent that is shared out among children."""
    graph = whole.graph
    found = specializations(
        graph,
        necessity=request.threshold,
        coverage=request.coverage,
        max_overlap=request.max_overlap,
        min_support=request.min_support,
        siblings=whole.siblings,
    )
    answer = SpecializationsAnswer(
        measure="necessity",
        threshold=request.threshold,
        coverage=request.coverage,
        max_overlap=request.max_overlap,
        min_share=MIN_SHARE,
        min_support=request.min_support,
        lists=lists_of(graph, "necessity", graph.edges, found.undecided),
        total=len(found.items),
        shown=sum(item.shared.upper <= request.max_overlap for item in found.items),
        items=[],
        next=None,
        snapshot=snapshot_answer(whole.snapshot),
    )
    return answer, [_specialization(graph, item, request.max_overlap) for item in found.items[:MOST_ITEMS]]


def _specialization(graph: FeatureGraph, item: Specialization, max_overlap: float) -> SpecializationAnswer:
    up, down = item.pair
    of_children, errors = graph.edges[item.pair].down[item.edges], graph.edges[item.pair].error[item.edges]
    children = [
        ChildAnswer(
            feature=name((down, child)),
            counts=CountsAnswer(up=item.count, down=int(graph.layers[down].count[child]), joint=joint, count_error=error),
            necessity=necessity,
            share=joint / item.count,
        )
        for child, joint, error, necessity in zip(
            *(column.tolist() for column in (of_children, item.joint, errors, item.necessity)), strict=True
        )
    ]
    conditions = ConditionsAnswer(
        children=len(children),
        necessity=float(item.necessity.min()),
        shared=BoundsAnswer(lower=item.shared.lower, upper=item.shared.upper),
        exclusive="exact" if item.counted else "shown" if item.shared.upper <= max_overlap else "bounded",
        overlap=BoundsAnswer(lower=item.overlap.lower, upper=item.overlap.upper),
        coverage=BoundsAnswer(lower=item.coverage.lower, upper=item.coverage.upper),
        counted=item.counted and _counted(item.counted, down, of_children.tolist()),
    )
    return SpecializationAnswer(
        parent=name((up, item.parent)),
        count=item.count,
        layer=up,
        children_layer=down,
        children=children,
        conditions=conditions,
    )


def _counted(group: SiblingGroup, layer: int, children: list[int]) -> CountedAnswer:
    return CountedAnswer(
        counted_from=group.counted_from,
        tokens=group.tokens,
        parent=group.parent_count,
        children=[
            CountedChildAnswer(feature=name((layer, child)), count=group.count(child), joint=group.joint(child))
            for child in children
        ],
        pairs=[
            SiblingPairAnswer(a=name((layer, a)), b=name((layer, b)), joint=group.both(a, b), within=group.both_within(a, b))
            for a, b in itertools.combinations(children, 2)
        ],
        union=group.union(children),
        union_within=group.union_within(children),
    )


def matching(whole: Whole, request: MatchingRequest, decoders: Decoders) -> tuple[MatchingAnswer, list[MatchAnswer]]:
    """The one-to-one matching of a layer pair by a measure, and how far the decoders alone agree.

    Raises:
        BadValue: more pairs at or above the threshold than can be assigned in reasonable time.
    """
    graph, pair = whole.graph, request.pair
    known_cosines(whole, request.measure)
    edges, scores = graph.edges[pair], graph.scores(pair, request.measure)
    sizes = len(graph.layers[pair[0]].count), len(graph.layers[pair[1]].count)
    candidates = np.flatnonzero((scores >= request.threshold) & (edges.joint >= request.min_support))
    most = MOST_ASSIGNMENT_WORK // max(sizes)
    if len(candidates) > most:
        raise BadValue(
            f"threshold = {request.threshold:g}: {len(candidates):,} pairs reach it; at most {most:,} can be assigned in layers of "
            f"{max(sizes):,} features; give a higher threshold"
        )
    chosen = candidates[assign(edges.up[candidates], edges.down[candidates], scores[candidates], sizes)]
    chosen = chosen[np.lexsort((edges.up[chosen], -scores[chosen]))]
    by_decoders, reason = decoders.matching(whole.run, pair)
    by_measure = np.full(sizes[0], -1, np.int64)
    by_measure[edges.up[chosen]] = edges.down[chosen]
    agreed = None if by_decoders is None else agreement(by_measure, by_decoders.partner)
    answer = MatchingAnswer(
        pair=pair,
        measure=request.measure,
        threshold=request.threshold,
        min_support=request.min_support,
        published_k=graph.k,
        published_min_support=graph.min_support,
        by_measure=MatchedAnswer(matched=len(chosen), total=float(scores[chosen].sum()), candidates=len(candidates)),
        data_free=by_decoders
        and DataFreeAnswer(
            vectors=by_decoders.kind,
            matched=int((by_decoders.partner >= 0).sum()),
            total=by_decoders.total,
            candidates=by_decoders.candidates,
        ),
        data_free_reason=reason,
        agreement=agreed and AgreementAnswer(both=agreed.both, same=agreed.same, share=agreed.share),
        total=len(chosen),
        items=[],
        next=None,
        snapshot=snapshot_answer(whole.snapshot),
    )
    kept = chosen[:MOST_ITEMS]
    partners = [-1] * len(kept) if by_decoders is None else by_decoders.partner[edges.up[kept]].tolist()
    items = [
        MatchAnswer(
            up=link.up,
            down=link.down,
            counts=link.counts,
            estimate=link.estimate,
            measures=link.measures,
            data_free=None if partner < 0 else name((pair[1], partner)),
        )
        for link, partner in zip(links_of(graph, pair, kept, request.measure), partners, strict=True)
    ]
    return answer, items


def links_of(graph: FeatureGraph, pair: Pair, which: np.ndarray, measure: str) -> list[LinkAnswer]:
    """Edges of a pair, by their indices int64 `[n]`, with their counts and every measure."""
    edges, counts = graph.edges[pair], graph.counts(pair, which)
    columns = {key: np.broadcast_to(value, which.shape).tolist() for key, value in estimates(counts).items()} if len(which) else {}
    numbers = (np.asarray(column).tolist() for column in (counts.up, counts.down, counts.joint, counts.joint_error))
    features = zip(edges.up[which].tolist(), edges.down[which].tolist(), *numbers, strict=True)
    return [
        LinkAnswer(
            up=name((pair[0], i)),
            down=name((pair[1], j)),
            counts=CountsAnswer(up=n_i, down=n_j, joint=joint, count_error=error),
            estimate=number_or_none(columns[measure][at]),
            measures={key: number_or_none(column[at]) for key, column in columns.items()},
        )
        for at, (i, j, n_i, n_j, joint, error) in enumerate(features)
    ]


def lists_of(graph: FeatureGraph, measure: str, pairs: Iterable[Pair], undecided: int) -> ListsAnswer:
    """What was read. Layer pairs too large to be ranked by decoder cosine list what others rank: nothing is known of the rest."""
    sizes = [len(layer.count) for layer in graph.layers]
    ranked = measure != "decoder_cosine" or all(sizes[up] * sizes[down] <= DENSE_CELLS for up, down in pairs)
    return ListsAnswer(published_k=graph.k, min_support=graph.min_support, undecided=undecided if ranked else None)


def known_cosines(whole: Whole, measure: str) -> None:
    if measure == "decoder_cosine" and not whole.run.model:
        raise BadValue("measure = 'decoder_cosine': this run has no model, so decoder directions are not known")


def number_or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
