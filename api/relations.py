"""`/v1/flow`, `/v1/lineages`, `/v1/specializations`, `/v1/matching`: what becomes of features from layer to layer.

The analysis worker computes the answers from a whole published snapshot; here they are checked, asked for and encoded.
"""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, get
from litestar.params import Parameter

from api.corpora import MOST, PAGE, Cursor, Limit
from api.negotiation import answer
from api.parameters import known_feature, parse_feature, within
from api.run import Run
from engine.errors import BadInput, BadValue, NotReady
from engine.settings import Settings
from engine.views.reader import Views
from engine.views.relation_answers import KINDS, FlowAnswer, LineagesAnswer, MatchingAnswer, SpecializationsAnswer
from engine.views.relations import (
    FACTOR,
    SHARE,
    WINDOWS,
    FlowRequest,
    LineagesRequest,
    MatchingRequest,
    Page,
    RelationRequest,
    SpecializationsRequest,
    ask,
    check_hidden,
    pair_of,
    support_of,
    threshold_of,
)

Measure = Annotated[str, Parameter(description="the measure of a pair")]
Threshold = Annotated[
    float | None,
    Parameter(
        description="smallest value of it, above 0; 0.4 by default, as in the paper's figure (lift and mutual_information have no "
        "default)"
    ),
]
MinSupport = Annotated[
    int | None, Parameter(description="smallest joint count; what is published by default, and not less than that")
]


@get("/v1/flow", summary="What passes from layer to layer", tags=["relations"])
async def flow(
    request: Request[Any, Any, Any],
    views: Views,
    settings: Settings,
    measure: Measure = "pearson",
    threshold: Threshold = None,
    min_support: MinSupport = None,
    pair: Annotated[str | None, Parameter(description="one layer pair, up-down; all by default")] = None,
    hidden_share: Annotated[
        float, Parameter(description="a disappeared feature is hidden when this part of what it wrote is in the next SAE's error")
    ] = SHARE,
    hidden_factor: Annotated[
        float, Parameter(description="and that is so many times what it would be by chance, at least 1")
    ] = FACTOR,
    hidden_windows: Annotated[int, Parameter(description="in at least so many windows, of one in 16 that is looked at")] = WINDOWS,
    kind: Annotated[str | None, Parameter(description=f"list the features of `pair` that are {', '.join(KINDS)}")] = None,
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> Response[FlowAnswer]:
    """Per layer pair: upstream features that pass (have a downstream partner with at least the threshold) or disappear, downstream
    features that are passed into or appear. Among live features, and among all: dead features have no partner and would be counted
    as appearing and disappearing otherwise. Of the disappeared ones `hidden` counts those whose direction is still there, in the
    reconstruction error of the next layer's SAE (medians for all, as in the paper). Read from the published lists, which `lists`
    describes.
    """
    if kind is not None and kind not in KINDS:
        raise BadValue(f"kind = {kind!r}: it must be one of {', '.join(KINDS)}")
    if kind is not None and pair is None:
        raise BadInput(f"kind = {kind!r}: it lists features of one layer pair; give it as pair=up-down, for example pair=3-4")
    check_hidden(hidden_share, hidden_factor, hidden_windows)
    asked = FlowRequest(
        measure=measure,
        threshold=threshold_of(measure, threshold),
        min_support=support_of(min_support, settings.min_support),
        pair=None if pair is None else pair_of(pair, await pairs_of(views)),
        hidden_share=hidden_share,
        hidden_factor=hidden_factor,
        hidden_windows=hidden_windows,
        kind=kind,  # pyright: ignore[reportArgumentType]  (checked above)
    )
    return await answer_of(request, views, asked, limit, cursor)


@get("/v1/lineages", summary="Features that live on over layers", tags=["relations"])
async def lineages(
    request: Request[Any, Any, Any],
    views: Views,
    run: Run,
    settings: Settings,
    measure: Measure = "pearson",
    threshold: Threshold = None,
    min_support: MinSupport = None,
    min_length: Annotated[int, Parameter(description="layers of a lineage, at least; 2 or more")] = 2,
    feature: Annotated[str | None, Parameter(description="only the lineage of this feature, layer:index")] = None,
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> Response[LineagesAnswer]:
    """Chains of features that are each other's best partner over consecutive layers, longest first: birth and death layer, every
    link with its counts and measures, the weakest link, and how the activation is spread over the layers (activations grow with the
    norm of the residual stream, and so does the share of later layers). Chains neither merge nor split.
    """
    layers = run.description().layers
    wanted = None if feature is None else parse_feature(feature, "feature")
    if wanted is not None:
        known_feature(run.description(), wanted)
    asked = LineagesRequest(
        measure=measure,
        threshold=threshold_of(measure, threshold),
        min_support=support_of(min_support, settings.min_support),
        min_length=within("min_length", min_length, 2, len(layers)),
        feature=wanted,
    )
    return await answer_of(request, views, asked, limit, cursor)


@get("/v1/specializations", summary="Features that are shared out among others", tags=["relations"])
async def specializations(
    request: Request[Any, Any, Any],
    views: Views,
    settings: Settings,
    threshold: Annotated[float, Parameter(description="smallest necessity P(parent | child) of each child")] = 0.8,
    coverage: Annotated[float, Parameter(description="smallest share of the parent that the children cover together")] = 0.8,
    max_overlap: Annotated[float, Parameter(description="largest part of a child that another child shares")] = 0.1,
    min_support: MinSupport = None,
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> Response[SpecializationsAnswer]:
    """A parent and at least two children in a later layer that imply it, exclude each other and cover it together.

    How often two children fire together is counted for parents that look like this, from a choice on: there `exclusive` is "exact",
    and what children share, overlap and coverage are numbers over the tokens since (`counted`). Elsewhere they are bounds: "shown"
    where the upper bound of `shared` is within `max_overlap`, "bounded" where only the lower one is. Those that are certain come
    first; bounded ones are candidates, whose children may well overlap.
    """
    for name, value in (("threshold", threshold), ("coverage", coverage)):
        if not 0 < value <= 1:
            raise BadValue(f"{name} = {value:g}: it must be above 0 and no more than 1")
    if not 0 <= max_overlap < 1:
        raise BadValue(f"max_overlap = {max_overlap:g}: it must be at least 0 and below 1")
    asked = SpecializationsRequest(
        threshold=threshold,
        coverage=coverage,
        max_overlap=max_overlap,
        min_support=support_of(min_support, settings.min_support),
    )
    return await answer_of(request, views, asked, limit, cursor)


@get("/v1/matching", summary="One-to-one matching of two layers", tags=["relations"])
async def matching(
    request: Request[Any, Any, Any],
    views: Views,
    settings: Settings,
    pair: Annotated[str, Parameter(description="the layer pair, up-down")],
    measure: Measure = "pearson",
    threshold: Threshold = None,
    min_support: MinSupport = None,
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> Response[MatchingAnswer]:
    """Pairs that use every feature at most once and have the largest sum of the measure, of the published pairs with at least the
    threshold; best pair first. Beside it the matching of the decoders alone (SAE Match, arXiv 2410.07656: smallest squared distance
    of decoder vectors, folded by the SAE's thresholds where it has any), and the share of features on which the two agree.
    """
    asked = MatchingRequest(
        pair=pair_of(pair, await pairs_of(views)),
        measure=measure,
        threshold=threshold_of(measure, threshold),
        min_support=support_of(min_support, settings.min_support),
    )
    return await answer_of(request, views, asked, limit, cursor)


async def pairs_of(views: Views) -> list[tuple[int, int]]:
    """The layer pairs of the run.

    Raises:
        NotReady: the engine has not reported yet.
    """
    status = await views.status()
    if status is None:
        raise NotReady("the engine has not reported yet")
    return status.pairs


async def answer_of(request: Request[Any, Any, Any], views: Views, asked: RelationRequest, limit: int, cursor: str | None) -> Any:
    """Ask the worker; at once 503 while there is nothing that it could read."""
    page = Page(within("limit", limit, 1, MOST), cursor)
    if await views.snapshot() is None:
        raise NotReady("the engine has not published a snapshot yet")
    found = await ask(views.client, views.keys, asked, page)
    return answer(request, found, version=found.snapshot.version)


ROUTES = [flow, lineages, specializations, matching]
