"""The answer about flow: which features pass from layer to layer, appear and disappear, and how much of what is lost is hidden."""

from __future__ import annotations

import numpy as np

from engine.analysis.answers import known_cosines, links_of, lists_of, number_or_none
from engine.analysis.snapshot import Whole
from engine.measures import relations as measured
from engine.measures.hidden import is_hidden
from engine.measures.relations import FlowSide, Pair
from engine.views.answers import name, snapshot_answer
from engine.views.hidden import why_not
from engine.views.relation_answers import (
    FlowAnswer,
    FlowGroupAnswer,
    FlowHiddenAnswer,
    FlowItemAnswer,
    FlowLayerAnswer,
    FlowPairAnswer,
    GroupAnswer,
    HiddenMediansAnswer,
)
from engine.views.relations import MOST_ITEMS, FlowRequest


def flow(whole: Whole, request: FlowRequest) -> tuple[FlowAnswer, list[FlowItemAnswer]]:
    """Counts of each layer pair, and the features of one kind of one pair."""
    graph = whole.graph
    known_cosines(whole, request.measure)
    sides = {
        pair: measured.flow(graph, pair, request.measure, request.threshold, request.min_support)
        for pair in ([request.pair] if request.pair else graph.edges)
    }
    items, total = [], None
    if request.kind is not None and request.pair is not None:
        up, down = sides[request.pair]
        upstream = request.kind in ("passed", "disappeared", "hidden")
        items, total = _flow_items(whole, request, up if upstream else down, upstream)
    answer = FlowAnswer(
        measure=request.measure,
        threshold=request.threshold,
        min_support=request.min_support,
        hidden_share=request.hidden_share,
        hidden_factor=request.hidden_factor,
        hidden_windows=request.hidden_windows,
        lists=lists_of(graph, request.measure, sides, sum(int(side.undecided.sum()) for pair in sides.values() for side in pair)),
        pairs=[_flow_pair(up, down, _flow_hidden(whole, request, pair, up)) for pair, (up, down) in sides.items()],
        kind=request.kind,
        items=None if request.kind is None else [],
        total=total,
        next=None,
        snapshot=snapshot_answer(whole.snapshot),
    )
    return answer, items


def _flow_pair(up: FlowSide, down: FlowSide, hidden: FlowHiddenAnswer) -> FlowPairAnswer:
    return FlowPairAnswer(
        up=_flow_layer(up),
        down=_flow_layer(down),
        passed=_group(up, up.partnered),
        disappeared=_group(up, ~up.partnered),
        passed_into=_group(down, down.partnered),
        appeared=_group(down, ~down.partnered),
        hidden=hidden,
    )


def _flow_hidden(whole: Whole, request: FlowRequest, pair: Pair, up: FlowSide) -> FlowHiddenAnswer:
    """What of a layer pair's upstream features lies in the error of the downstream SAE."""
    why = why_not(whole.run, *pair)
    if why is not None:
        return FlowHiddenAnswer(all=None, disappeared=None, hidden=None, reason=why)
    rows = whole.hidden[pair]
    enough = up.live & (rows["windows"] >= request.hidden_windows)
    disappeared = enough & ~up.partnered
    hidden = disappeared & _is_hidden(rows, request)
    return FlowHiddenAnswer(
        all=_medians(rows[enough]),
        disappeared=_medians(rows[disappeared]),
        hidden=_share(int(hidden.sum()), int(disappeared.sum())),
        reason=None,
    )


def _is_hidden(rows: np.ndarray, request: FlowRequest) -> np.ndarray:
    baseline = np.maximum(rows["random"], rows["decoder"])
    limits = (request.hidden_share, request.hidden_factor, request.hidden_windows)
    return is_hidden(rows["error_share"], baseline, rows["windows"], *limits)


def _medians(rows: np.ndarray) -> HiddenMediansAnswer:
    columns = ("error_share", "stream_share", "random", "decoder")
    medians = {column: float(np.median(rows[column].astype(np.float64))) if len(rows) else None for column in columns}
    return HiddenMediansAnswer(features=len(rows), **medians)


def _flow_layer(side: FlowSide) -> FlowLayerAnswer:
    features, live = len(side.live), int(side.live.sum())
    return FlowLayerAnswer(
        layer=side.layer,
        features=features,
        live=live,
        dead=features - live,
        rare=int(side.rare.sum()),
        undecided=int(side.undecided.sum()),
    )


def _group(side: FlowSide, chosen: np.ndarray) -> FlowGroupAnswer:
    live, every = int((chosen & side.live).sum()), int(chosen.sum())
    return FlowGroupAnswer(live=_share(live, int(side.live.sum())), all=_share(every, len(side.live)))


def _share(count: int, among: int) -> GroupAnswer:
    return GroupAnswer(count=count, share=count / among if among else None)


def _flow_items(whole: Whole, request: FlowRequest, side: FlowSide, upstream: bool) -> tuple[list[FlowItemAnswer], int]:
    """Live features of a kind: those with a partner by its measure, hidden ones by their error share, others without a partner by
    how often they fired; most first."""
    assert request.pair is not None
    graph, rows = whole.graph, whole.hidden[request.pair]
    counts = graph.layers[side.layer].count
    if request.kind in ("passed", "passed_into"):
        chosen = np.flatnonzero(side.partnered)
        score = graph.scores(request.pair, request.measure)[side.best[chosen]]
        chosen = chosen[np.lexsort((chosen, -score))]
    elif request.kind == "hidden":
        chosen = np.flatnonzero(side.live & ~side.partnered & _is_hidden(rows, request))
        chosen = chosen[np.lexsort((chosen, -rows["error_share"][chosen]))]
    else:
        chosen = np.flatnonzero(side.live & ~side.partnered)
        chosen = chosen[np.lexsort((chosen, -counts[chosen]))]
    kept = chosen[:MOST_ITEMS]
    best = side.best[kept]
    links = iter(links_of(graph, request.pair, best[best >= 0], request.measure))
    shares: list[float | None] = [None] * len(kept)
    if upstream:
        enough = rows["windows"][kept] >= request.hidden_windows
        shares = [number_or_none(share) for share in np.where(enough, rows["error_share"][kept], np.nan).tolist()]
    items = [
        FlowItemAnswer(
            feature=name((side.layer, index)),
            count=int(counts[index]),
            best=next(links) if edge >= 0 else None,
            error_share=share,
        )
        for index, edge, share in zip(kept.tolist(), best.tolist(), shares, strict=True)
    ]
    return items, len(chosen)
