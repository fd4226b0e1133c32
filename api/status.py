"""`GET /v1/status`: the run and how it goes."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get

from api.answers import LayerAnswer, StatusAnswer
from api.negotiation import answer
from api.run import Run
from engine.encoder.description import RunDescription
from engine.errors import NotReady
from engine.settings import Settings
from engine.views.answers import snapshot_answer
from engine.views.reader import Views
from engine.views.records import Snapshot, StatusRecord


@get("/v1/status", summary="The run and how it goes", tags=["run"])
async def status(request: Request[Any, Any, Any], views: Views, run: Run, settings: Settings) -> Response[StatusAnswer]:
    """Model, SAEs, layers, tokens counted, speed, queue, snapshot and checkpoint.

    `tokens` are those in the counts; `lag_tokens` of them are not in the published snapshot yet; `queue_tokens` (an estimate) have
    arrived and wait. While the engine still loads the model the state is `starting` and there are no layers. While a run with
    relative thresholds is `calibrating`, `calibration` says how far that is, and nothing is counted.
    """
    try:
        description = run.description()
    except NotReady:
        description = RunDescription(model=settings.model or "", saes=settings.saes or "", layers=[], threshold=settings.threshold)
    return answer(request, status_answer(description, await views.status(), await views.snapshot(), settings))


def status_answer(run: RunDescription, record: StatusRecord | None, snapshot: Snapshot | None, settings: Settings) -> StatusAnswer:
    """From what the engine wrote; before its first report the state is `starting`."""
    dead = {layer.layer: layer.dead for layer in record.layers} if record else {}
    tokens = record.tokens if record else 0
    return StatusAnswer(
        state=record.state if record else "starting",
        model=run.model,
        saes=run.saes,
        layers=[
            LayerAnswer(layer=layer.layer, hook=layer.hook, features=layer.features, dead=dead.get(layer.layer))
            for layer in run.layers
        ],
        pairs=record.pairs if record else [],
        tables=record.tables if record else [],
        threshold=run.threshold,
        calibration=record.calibration if record else None,
        tokens=tokens,
        tokens_per_second=record.tokens_per_second if record else 0.0,
        queue_tokens=record.queue_tokens if record else 0,
        snapshot=snapshot_answer(snapshot) if snapshot else None,
        lag_tokens=max(0, tokens - (snapshot.tokens if snapshot else 0)),
        checkpoint=record.checkpoint if record else None,
        memory_bytes=record.memory_bytes if record else 0,
        publish_interval=max(settings.publish_interval, record.publish_interval if record else 0.0),
        published_k=settings.published_k,
        min_support=settings.min_support,
        problem=record.problem if record else None,
    )


ROUTES = [status]
