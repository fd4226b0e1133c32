"""`GET /v1/convergence`: how the statistics settle."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get

from api.answers import ConvergenceAnswer
from api.freshness import MaxStaleness, refuse_stale
from api.negotiation import answer
from engine.errors import NotReady
from engine.views.answers import snapshot_answer
from engine.views.reader import Views


@get("/v1/convergence", summary="How the statistics settle", tags=["statistics"])
async def convergence(
    request: Request[Any, Any, Any], views: Views, max_staleness_ms: MaxStaleness = None
) -> Response[ConvergenceAnswer]:
    """Dead features and the change of the top lists over the tokens counted."""
    snapshot, record = await views.snapshot(), await views.convergence()
    if snapshot is None or record is None:
        raise NotReady("the engine has not published a snapshot yet")
    await refuse_stale(views, snapshot, max_staleness_ms)
    body = ConvergenceAnswer(pairs=record.pairs, points=record.points, snapshot=snapshot_answer(snapshot))
    return answer(request, body, version=snapshot.version)


ROUTES = [convergence]
