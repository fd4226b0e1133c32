"""For those who watch the server: `/livez`, `/readyz`, `/metrics`.

`/livez` says that this process answers, whatever else is broken: an orchestrator that restarts it for a missing Redis helps nobody.
`/readyz` says that queries get current answers. A full queue is neither: a healthy server with much to do stays ready.
"""

from __future__ import annotations

import logging
import shutil
import time
from typing import Any

import msgspec
from litestar import Request, Response, get
from redis.exceptions import RedisError

from api.freshness import age_seconds, up_to_date
from api.metrics import CONTENT_TYPE, EngineMetrics, RequestMetrics, exposition
from api.negotiation import answer
from engine.errors import NotReady
from engine.settings import Settings
from engine.views.reader import Views

log = logging.getLogger(__name__)

_SILENT_SECONDS = 30.0  # an engine reports at least every few seconds; one micro-batch takes at most half a second
_STALE_SECONDS = 10.0  # a segment's end and its choices take some seconds, in which there is nothing newer to show


class Alive(msgspec.Struct, frozen=True):
    """The process answers."""

    status: str = "alive"


class Ready(msgspec.Struct, frozen=True):
    """Queries get current answers."""

    status: str = "ready"


@get("/livez", summary="The process answers", tags=["health"])
async def livez(request: Request[Any, Any, Any]) -> Response[Alive]:
    """200 as long as this process runs, with or without Redis and engine."""
    return answer(request, Alive())


@get("/readyz", summary="Answers are current", tags=["health"])
async def readyz(request: Request[Any, Any, Any], views: Views, settings: Settings) -> Response[Ready]:
    """200 when the engine has recovered and its snapshot is younger than three publish intervals or than 10 s, or there is nothing
    to count.

    A run that calibrates has nothing to count yet and is ready: what it waits for is text, which must be able to reach it.
    """
    status = await views.status()
    if status is None:
        raise NotReady("the engine has not reported yet")
    if status.state in ("starting", "recovering", "stopping"):
        raise NotReady(f"the engine is {status.state}")
    if (silent := time.time() - status.updated_at) > _SILENT_SECONDS:
        raise NotReady(f"the engine has not reported for {silent:.0f} s")
    if status.state == "calibrating":
        return answer(request, Ready())
    snapshot = await views.snapshot()
    if snapshot is None:
        raise NotReady("no snapshot has been published yet")
    allowed = max(_STALE_SECONDS, 3 * settings.publish_interval, 3 * status.publish_interval)
    if not up_to_date(snapshot, status, allowed):
        raise NotReady(f"the snapshot is {age_seconds(snapshot):.1f} s old, older than {allowed:g} s")
    return answer(request, Ready())


@get("/metrics", summary="Prometheus", tags=["health"], media_type="text/plain")
async def metrics(views: Views, metrics: RequestMetrics, settings: Settings) -> Response[bytes]:
    """Requests, and the engine's figures where it is within reach."""
    engine = EngineMetrics()
    try:
        status, snapshot, waiting = await views.status(), await views.snapshot(), await views.waiting()
        engine.gauge("saestream_redis_up", "1 when Redis answers.", 1)
        engine.add(status, snapshot, waiting)
    except RedisError as error:
        log.warning("no figures of the engine for /metrics: %s", error)
        engine.gauge("saestream_redis_up", "1 when Redis answers.", 0)
    try:
        free = shutil.disk_usage(settings.data_dir).free
        engine.gauge("saestream_disk_free_bytes", "Free on the disk of the data directory.", free)
    except OSError as error:
        log.warning("no figures of the disk for /metrics: %s", error.strerror)
    return Response(exposition(metrics, engine), headers={"Content-Type": CONTENT_TYPE})


ROUTES = [livez, readyz, metrics]
