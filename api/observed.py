"""Around everything that answers: every request gets an id, is counted and timed by its route, and is logged.

The id comes from the client (`X-Request-Id`, where it is one that can be taken into a log) or is made here. It is in the answer, in
the lines that the API logs meanwhile, and in those of the engine and the analysis worker that answer for it.
"""

from __future__ import annotations

import re
import secrets
import time

from litestar.types import ASGIApp, Message, Receive, Scope, Send

from api.metrics import RequestMetrics
from engine.logs import about, request_took

HEADER = "X-Request-Id"
_ACCEPTED = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Observed:
    """An ASGI app around another one."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request = _id_of(scope)

        async def seen(message: Message) -> None:
            if message["type"] == "http.response.start":
                # An event stream has no end, so a request is timed to the first byte of its answer. Labels are of what there is a
                # limited number of: never the address, nor a method that a client made up.
                route, status = str(scope.get("path_template") or "unknown"), message["status"]
                method = scope["method"] if scope["method"] in _METHODS else "other"
                seconds = time.perf_counter() - began
                self._metrics.answered(method, route, status, seconds)
                request_took(seconds, "%s %s %d", method, route, status)
                message["headers"] = [*message["headers"], (HEADER.lower().encode(), request)]
            await send(message)

        with about(request=request.decode()), self._metrics.open.track_inprogress():
            await self._app(scope, receive, seen)


def _id_of(scope: Scope) -> bytes:
    given = next((value for name, value in scope["headers"] if name == HEADER.lower().encode()), b"")
    return given if _ACCEPTED.fullmatch(given) else secrets.token_hex(8).encode()
