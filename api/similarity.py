"""`GET /v1/similarity`: any pair of features, every measure, live from the running counts."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, get
from litestar.params import Parameter

from api.negotiation import answer
from api.parameters import known_feature, parse_feature
from api.run import Run
from engine.views.answers import SimilarityAnswer
from engine.views.reader import Views


@get("/v1/similarity", summary="Every measure of one pair", tags=["statistics"])
async def similarity(
    request: Request[Any, Any, Any],
    views: Views,
    run: Run,
    up: Annotated[str, Parameter(description="the feature of the earlier layer, layer:index")],
    down: Annotated[str, Parameter(description="the feature of the later layer, layer:index")],
    corpus: Annotated[str | None, Parameter(description="one corpus only, for a pair that is watched")] = None,
) -> Response[SimilarityAnswer]:
    """Counts and all measures of a pair after the last whole micro-batch (version `live-…`, no ETag).

    An estimate that is not defined (a feature that never fired) is null, with the reason.
    """
    pair = parse_feature(up, "up"), parse_feature(down, "down")
    for feature in pair:
        known_feature(run.description(), feature)
    return answer(request, await views.similarity(*pair, corpus))


ROUTES = [similarity]
