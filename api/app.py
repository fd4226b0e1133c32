"""The HTTP interface: every route, and what all of them share.

A route parses, calls one function and returns a struct. What it needs comes from three objects that live as long as the app:
`views` (the published records in Redis), `inbox` (where uploads are laid down) and `run` (what is measured). No torch here.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide

from api import (
    activations,
    communities,
    compare,
    convergence,
    corpora,
    edges,
    events,
    features,
    gates,
    graph,
    health,
    relations,
    search,
    similarity,
    status,
    watch,
)
from api.calibration import RefuseWhileCalibrating
from api.explanations import Explanations
from api.metrics import RequestMetrics
from api.page import page, web_files
from api.parameters import only_known_parameters
from api.problems import HANDLERS
from api.run import Run
from api.schema import complete, openapi
from api.slots import Slots
from api.strongest_texts import StrongestTexts
from engine.corpus.inbox import Inbox
from engine.corpus.quota import Quota
from engine.errors import NoRedis
from engine.settings import Settings
from engine.views.connection import connect_async
from engine.views.reader import Views

log = logging.getLogger(__name__)

VERSION = "0.1.0"


VISIBLE_SECONDS = 60.0  # proxies in front of us give up at 60 s or later


def create_app(settings: Settings, visible_seconds: float = VISIBLE_SECONDS) -> Litestar:
    """The app of one run.

    Args:
        settings: of the run; `redis_url` is where the engine publishes, `data_dir` where the inbox lies.
        visible_seconds: how long an upload with `wait=visible` waits at most.

    Raises:
        NoRedis: the settings name no Redis.
        BadInput: their file of explanations can't be read.
    """
    if settings.redis_url is None:
        raise NoRedis("the settings of the API process name no redis_url: `saestream serve` starts a Redis and fills it in")
    redis = connect_async(settings.redis_url)
    views = Views(redis, settings.redis_prefix)
    state = State(
        {
            "settings": settings,
            "redis": redis,
            "views": views,
            "strongest_texts": StrongestTexts(views),
            "explanations": Explanations(settings.explanations),
            "inbox": Inbox(settings.data_dir / "inbox", Quota.of(settings)),
            "arriving": Slots(settings.max_uploads, "uploads arrive"),
            "subscribers": Slots(settings.max_subscribers, "event streams are open"),
            "run": Run(settings.data_dir),
            "metrics": RequestMetrics(),
            "stopping": asyncio.Event(),
            "visible_seconds": visible_seconds,
        }
    )
    names = ("settings", "views", "inbox", "run", "metrics", "explanations", "strongest_texts")
    app = Litestar(
        route_handlers=[
            *(status.ROUTES + corpora.ROUTES + activations.ROUTES + features.ROUTES + similarity.ROUTES),
            *(
                relations.ROUTES
                + communities.ROUTES
                + gates.ROUTES
                + graph.ROUTES
                + search.ROUTES
                + edges.ROUTES
                + compare.ROUTES
                + watch.ROUTES
                + convergence.ROUTES
                + events.ROUTES
                + health.ROUTES
            ),
            page,
            web_files(),
        ],
        dependencies={
            name: Provide(_give(state[name], before), sync_to_thread=False)
            for name, before in zip(names, (None, *names[:-1]), strict=True)
        },
        state=state,
        exception_handlers=dict(HANDLERS),
        before_request=only_known_parameters,
        guards=[RefuseWhileCalibrating(state.views, settings)],
        openapi_config=openapi(VERSION),
        lifespan=[_until_closed],
        logging_config=None,
        request_max_body_size=None,  # bodies are streamed, each with its limit (`api.body`)
    )
    complete(app)
    return app


def _give(value: object, before: str | None) -> Callable[..., object]:
    """A dependency, resolved after the one before: Litestar runs those that do not depend on each other as tasks of a group, which
    costs 0.07 ms a request."""

    def given(**_: object) -> object:
        return value

    parameters = [] if before is None else [inspect.Parameter(before, inspect.Parameter.KEYWORD_ONLY, annotation=object)]
    given.__signature__ = inspect.Signature(parameters, return_annotation=object)  # pyright: ignore[reportFunctionMemberAccess]
    given.__annotations__ = {**{one.name: object for one in parameters}, "return": object}
    return given


@asynccontextmanager
async def _until_closed(app: Litestar) -> AsyncIterator[None]:
    try:
        yield
    finally:
        app.state.stopping.set()
        app.state.inbox.close()
        await app.state.redis.aclose()
