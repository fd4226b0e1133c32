"""`GET /v1/gates…`: boolean gates of upstream features."""

from __future__ import annotations

import math
from typing import Annotated, Any

from litestar import Request, Response, get
from litestar.openapi.spec import Example
from litestar.params import Parameter

from api.corpora import MOST, PAGE, Cursor, Limit
from api.features import INDEX, LAYER
from api.freshness import MaxStaleness, refuse_stale
from api.negotiation import answer
from api.parameters import known_feature, parse_feature, within
from api.relations import answer_of, pairs_of
from api.run import Run
from engine.errors import BadValue
from engine.measures.gates import KINDS
from engine.views.answers import pair_names, snapshot_answer
from engine.views.gate_answers import (
    FILTERS,
    SORTS,
    FeatureGatesAnswer,
    GatesAnswer,
    PaperGatesAnswer,
    chosen,
    first_order,
    gate_answers,
)
from engine.views.gate_waiting import candidates, waiting
from engine.views.lists import Page
from engine.views.reader import Views
from engine.views.records import CONTEXTS
from engine.views.relations import GatesRequest, pair_of
from engine.views.requests import GateContextsAnswer, GateContextsRequest, PaperGatesRequest

_CONTEXT_SECONDS = 30.0
_PAPER_SECONDS = 60.0  # 4 M cells take some 30 ms: at 24,576 × 24,576 features 5 s, in which other live questions wait

Verdict = Annotated[
    str | None,
    Parameter(
        description="gate, joint (a common cause is not excluded), none (not shown so far) or any; gate and joint by default"
    ),
]
Cells = Annotated[bool, Parameter(description="with the truth table of each gate")]
Kind = Annotated[str | None, Parameter(description=f"{', '.join(KINDS)}; all by default")]


@get("/v1/features/{layer:int}/{index:int}/gates", summary="Gates that a feature computes", tags=["gates"])
async def feature_gates(
    request: Request[Any, Any, Any],
    views: Views,
    run: Run,
    layer: Annotated[int, LAYER],
    index: Annotated[int, INDEX],
    verdict: Verdict = None,
    cells: Cells = False,
    max_staleness_ms: MaxStaleness = None,
) -> Response[FeatureGatesAnswer]:
    """Boolean gates of which the feature is the child, with how well they predict it, what they gain over the best single parent,
    and the evidence for them; `waiting` says why there are none. Everything about a gate is from text after its nomination."""
    known_feature(run.description(), (layer, index))
    known_choice("verdict", verdict, FILTERS)
    await downstream(views, layer)
    snapshot, record, records = await views.gates(layer, index)
    await refuse_stale(views, snapshot, max_staleness_ms)
    items = []
    for one in records:
        rows = one.rows()
        rows = rows[(rows["child"] == index) & chosen(rows, verdict)]
        items += gate_answers((one.up, layer), rows[first_order(rows)], one.needed, cells)
    found = FeatureGatesAnswer(
        feature=f"{layer}:{index}",
        count=record.count,
        items=items,
        candidates=candidates((layer, index), records),
        waiting=None if items else waiting((layer, index), record.count, records, verdict),
        snapshot=snapshot_answer(snapshot),
    )
    return answer(request, found, version=snapshot.version)


@get("/v1/gates", summary="Gates of the run", tags=["gates"])
async def gates(
    request: Request[Any, Any, Any],
    views: Views,
    run: Run,
    kind: Kind = None,
    verdict: Verdict = None,
    min_f1: Annotated[float | None, Parameter(description="smallest F1, 0 to 1")] = None,
    min_gain: Annotated[float | None, Parameter(description="smallest gain over the best single parent, −1 to 1")] = None,
    layer: Annotated[int | None, Parameter(description="of children in this layer only")] = None,
    sort: Annotated[
        str, Parameter(description="f1, gain (by its lower bound), evidence, or support (tokens), largest first")
    ] = "f1",
    cells: Cells = False,
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> Response[GatesAnswer]:
    """Features of a later layer as boolean gates of features of an earlier one, of all layer pairs."""
    known_choice("kind", kind, KINDS)
    known_choice("verdict", verdict, FILTERS)
    known_choice("sort", sort, SORTS)
    _in_range("min_f1", min_f1, 0.0)
    _in_range("min_gain", min_gain, -1.0)
    if layer is not None:
        within("layer", layer, 0, len(run.description().layers) - 1)
        await downstream(views, layer)
    asked = GatesRequest(
        kind=kind,  # pyright: ignore[reportArgumentType]  (checked above)
        verdict=verdict,
        min_f1=min_f1,
        min_gain=min_gain,
        layer=layer,
        sort=sort,  # pyright: ignore[reportArgumentType]  (checked above)
        cells=cells,
    )
    return await answer_of(request, views, asked, limit, cursor)


@get("/v1/gates/paper", summary="Gates by the paper's rule", tags=["gates"])
async def paper_gates(
    request: Request[Any, Any, Any],
    views: Views,
    pair: Annotated[str, Parameter(description="the layer pair, up-down")],
    threshold: Annotated[float, Parameter(description="smallest necessity (and) or sufficiency (or) of the two parents")] = 0.999,
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> Response[PaperGatesAnswer]:
    """What Balcells et al. 2024 (arXiv 2410.08869) take for gates, for comparison: exactly two upstream features with a necessity
    (and) or a sufficiency (or) of at least the threshold. Whole pair counts, live from the engine. Rare features meet it by chance:
    what is shown to be a gate is under `/v1/gates`."""
    within("limit", limit, 1, MOST)
    if not 0.0 < threshold <= 1.0:
        raise BadValue(f"threshold = {threshold:g}: it must be above 0 and at most 1")
    asked = PaperGatesRequest(pair_of(pair, await pairs_of(views)), threshold, Page(limit, cursor))
    return answer(request, await views.live(asked, _PAPER_SECONDS))


@get("/v1/gates/contexts", summary="Text that shows a gate", tags=["gates"])
async def gate_contexts(
    request: Request[Any, Any, Any],
    views: Views,
    run: Run,
    child: Annotated[str, Parameter(description="the downstream feature, layer:index", examples=[Example(value="4:99")])],
    kind: Annotated[str, Parameter(description=", ".join(KINDS), examples=[Example(value="and_not")])],
    parents: Annotated[
        str,
        Parameter(
            description="two upstream features, or three for k_of_n, separated by commas; of and_not the second one is negated",
            examples=[Example(value="3:17,3:402")],
        ),
    ],
    k: Annotated[int, Parameter(description="contexts of each group, at most: 1 to 8, each from another document")] = 3,
) -> Response[GateContextsAnswer]:
    """Tokens at which all parents are active, some of them, or none while the child is, with the text around them and the
    activations of child and parents. Looked for in the windows around the strongest activations of each. The gate need not be a
    nominated one."""
    within("k", k, 1, CONTEXTS)
    known_choice("kind", kind, KINDS)
    features = [parse_feature(child, "child"), *(parse_feature(text, "parents") for text in parents.split(","))]
    for feature in features:
        known_feature(run.description(), feature)
    return answer(request, await views.live(GateContextsRequest(features[0], kind, features[1:], k), _CONTEXT_SECONDS))


def known_choice(name: str, value: str | None, known: tuple[str, ...]) -> None:
    """Refuse what is not one of these.

    Raises:
        BadValue: the message lists them.
    """
    if value is not None and value not in known:
        raise BadValue(f"{name} = {value!r}: it must be one of {', '.join(known)}")


async def downstream(views: Views, layer: int) -> None:
    """Refuse a layer whose features have no parents.

    Raises:
        BadValue: it is downstream in no layer pair. NotReady: the engine has not reported yet.
    """
    pairs = await pairs_of(views)
    if all(down != layer for _, down in pairs):
        raise BadValue(
            f"layer {layer} has no upstream layer in this run, so its features are no gates of any: the layer pairs are "
            f"{pair_names(pairs)}"
        )


def _in_range(name: str, value: float | None, least: float) -> None:
    if value is not None and not (math.isfinite(value) and least <= value <= 1.0):
        raise BadValue(f"{name} = {value:g}: it must be between {least:g} and 1")


ROUTES = [feature_gates, gates, paper_gates, gate_contexts]
