"""`GET /v1/events`: Server-Sent Events, one for every published snapshot.

1. The first connection gets the current snapshot at once, a reconnection the first event after its `Last-Event-ID`.
2. When that event is no longer kept, or is of an earlier engine, it gets `reset` first: read everything anew.
3. A comment every 15 seconds keeps proxies from closing a quiet stream.
4. So many streams may be open (`max_subscribers`): one more is 429.
5. The stream ends when the server stops or loses Redis; browsers come back by themselves, with the last id they saw.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Annotated

import msgspec
from litestar import get
from litestar.datastructures import State
from litestar.params import Parameter
from litestar.response import Stream
from litestar.types import ASGIApp, Receive, Scope, Send
from redis.exceptions import RedisError

from api.answers import ConvergenceSummary, EventAnswer
from engine.views.answers import snapshot_answer
from engine.views.reader import Views
from engine.views.records import ConvergencePoint, Event

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 15.0  # common proxies close a connection after 30 to 60 seconds without a byte
RETRY_MS = 1_000

_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def _counted(app: ASGIApp) -> ASGIApp:
    """Hold a place from before the answer begins until it has ended, however that comes about."""

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        with scope["litestar_app"].state.subscribers.hold():
            await app(scope, receive, send)

    return counted


@get("/v1/events", media_type="text/event-stream", summary="Live events", tags=["live"], middleware=[_counted])
async def events(
    views: Views,
    state: State,
    last_event_id: Annotated[
        str | None, Parameter(header="Last-Event-ID", description="resume after this event; browsers send it by themselves")
    ] = None,
) -> Stream:
    """A `snapshot` event for each published snapshot, with its version as id, and `reset` when the resume point is gone.

    The data is the snapshot, and in `convergence` the newest point of the convergence series by layer pair: agreement of the
    halves, mass of unseen pairs, share of watched pairs with intervals.
    """
    await views.snapshot()  # a Redis that is away is a 503 here, not a stream that ends at once
    return Stream(_frames(views, last_event_id, state.stopping), media_type="text/event-stream", headers=_HEADERS)


async def _frames(views: Views, after: str | None, stopping: asyncio.Event) -> AsyncGenerator[bytes, None]:
    """The stream as bytes."""
    yield f"retry: {RETRY_MS}\n\n".encode()
    stop = asyncio.ensure_future(stopping.wait())
    source = views.events(after, HEARTBEAT_SECONDS)
    following: asyncio.Future[Event | None] | None = None
    try:
        while not stop.done():
            following = following or asyncio.ensure_future(anext(source))
            await asyncio.wait({following, stop}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                event = following.result()
                yield _frame(event, await views.newest_point() if event else None)
                following = None
    except RedisError as error:
        log.warning("an event stream ends: Redis: %s", error)
    finally:
        stop.cancel()
        while following is not None and not following.done():
            following.cancel()  # again until it ends: a cancellation that meets a timeout of the Redis client is lost in it
            await asyncio.wait({following}, timeout=0.1)
        await source.aclose()  # pyright: ignore[reportAttributeAccessIssue]  (an async generator, typed as what it iterates)


def _frame(event: Event | None, newest: tuple[list[tuple[int, int]], ConvergencePoint] | None) -> bytes:
    if event is None:
        return b": still here\n\n"
    snapshot = msgspec.structs.asdict(snapshot_answer(event.snapshot))
    data = msgspec.json.encode(EventAnswer(**snapshot, convergence=_summary(*newest) if newest else None)).decode()
    return f"id: {event.id}\nevent: {event.kind}\ndata: {data}\n\n".encode()


def _summary(pairs: list[tuple[int, int]], point: ConvergencePoint) -> ConvergenceSummary:
    return ConvergenceSummary(
        tokens=point.tokens,
        pairs=pairs,
        split_half_rbo=point.split_half_rbo,
        unseen_mass=point.unseen_mass,
        interval_share=point.interval_share,
    )


ROUTES = [events]
