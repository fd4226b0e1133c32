"""`/v1/histograms` and `/v1/edges`: the listed pairs of a whole snapshot, how they are distributed and which are most certain."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, get
from litestar.params import Parameter

from api.corpora import PAGE, Cursor, Limit
from api.relations import MinSupport, answer_of, pairs_of
from engine.errors import BadValue
from engine.measures import MEASURES
from engine.settings import Settings
from engine.views.edge_answers import EdgesAnswer, HistogramsAnswer
from engine.views.reader import Views
from engine.views.records import INTERVAL_MEASURES
from engine.views.relations import EdgesRequest, HistogramsRequest, pair_of, support_of


@get("/v1/histograms", summary="How similar the best partners are", tags=["relations"])
async def histograms(
    request: Request[Any, Any, Any],
    views: Views,
    settings: Settings,
    measure: Annotated[str | None, Parameter(description="one measure; every one that the run has by default")] = None,
    min_support: MinSupport = None,
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> Response[HistogramsAnswer]:
    """Per measure and layer pair: live upstream features by the value of their best downstream partner, and live downstream ones by
    that of their best upstream partner. The bins of a measure are the same for all layer pairs: steps of 0.05, and for lift and
    mutual_information, which span orders of magnitude, doubling. Read from the published lists, which `lists` describes.
    """
    if measure is not None and measure not in MEASURES:
        raise BadValue(f"measure = {measure!r}: it must be one of {', '.join(MEASURES)}")
    asked = HistogramsRequest(measure=measure, min_support=support_of(min_support, settings.min_support))
    return await answer_of(request, views, asked, limit, cursor)


@get("/v1/edges", summary="The most certain pairs", tags=["relations"])
async def edges(
    request: Request[Any, Any, Any],
    views: Views,
    measure: Annotated[str, Parameter(description=f"the measure of a pair: {', '.join(INTERVAL_MEASURES)}")] = "jaccard",
    pair: Annotated[str | None, Parameter(description="one layer pair, up-down; all by default")] = None,
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> Response[EdgesAnswer]:
    """Watched pairs of features by the lower bound of a measure, highest first, with their intervals. A pair without an interval
    yet is not listed, however high its estimate is."""
    if measure not in INTERVAL_MEASURES:
        raise BadValue(f"measure = {measure!r}: it must be one of those with intervals, {', '.join(INTERVAL_MEASURES)}")
    asked = EdgesRequest(measure=measure, pair=None if pair is None else pair_of(pair, await pairs_of(views)))
    return await answer_of(request, views, asked, limit, cursor)


ROUTES = [histograms, edges]
