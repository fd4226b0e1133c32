"""What every request passes before a route sees it, and every answer before it leaves; around the whole app.

In this order: the server's name, a preflight, too many at once, a page from elsewhere, the key, its rate, its scope. Only probes
pass without (`access.PROBES`). Then:

- a body must keep coming: 1 KiB per second, averaged over `slow_seconds` of waiting for it (`connection` closes what is as slow
  before and after);
- an answer that begins before its request's body has ended closes the connection: what still comes is nobody's;
- every answer, problems too, carries the headers that keep a browser from doing anything with it but show it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from litestar.datastructures import Headers
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from api.access import CHALLENGES, PROBES, Access, address_of
from api.body import chunks, throw_away
from api.page import SECURITY_HEADERS
from api.problems import sendable
from api.rate_limit import RateLimit
from api.slots import Slots
from engine.api_keys import ApiKey
from engine.errors import Forbidden, SaestreamError, TooSlow
from engine.settings import Settings

LEAST_BYTES = 1024
"""Per second of a body."""
MOST_REQUESTS = 1_000
"""That are answered at the same time: event streams, uploads, and what waits for the engine. Each may hold two open files."""

_REST = 1 << 20, 2.0  # bytes and seconds of a body that are read after its refusal: a reset connection would lose the reason
_CORS_READABLE = "ETag, Location, Retry-After"
_CORS_SENDABLE = "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID"


class Gate:
    """An ASGI app around the one that answers."""

    def __init__(self, app: ASGIApp, settings: Settings, limit: RateLimit) -> None:
        self._app = app
        self._access = Access(settings)
        self._limit = limit
        self._requests = Slots(MOST_REQUESTS, "requests are being answered")
        self._slow_seconds = settings.slow_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers.from_scope(scope)
        body = Arriving(receive, headers, self._slow_seconds)
        origin = headers.get("origin")
        answer = _Leaving(send, body, origin if self._access.allows(origin) else None)
        if scope["path"] in PROBES:
            await self._app(scope, body, answer)
            return
        try:
            self._access.check_host(headers)
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await self._preflight(origin, answer)
                return
            with self._requests.hold():
                await self._admit(scope, headers)
                await self._app(scope, body, answer)
        except SaestreamError as error:  # of the gate: those of a route are answered in the app
            if not body.ended and "expect" not in headers:
                await throw_away(chunks(body), *_REST)
            await _answer(answer, *sendable(error, scope["path"]), CHALLENGES if error.status == 401 else ())

    async def _admit(self, scope: Scope, headers: Headers) -> None:
        """Raises Forbidden, NeedsKey, TooMany."""
        method: str = scope["method"]  # type: ignore[typeddict-item]  # every HTTP scope has one
        self._access.check_origin(method, headers)
        try:
            key = self._access.key_of(headers)
        except SaestreamError:
            await self._take(None, scope)
            raise
        await self._take(key, scope)
        self._access.check_scope(key, method, scope["path"])

    async def _take(self, key: ApiKey | None, scope: Scope) -> None:
        if rate := self._limit.rate(self._access.needs_key):
            await self._limit.take(f"key {key.name}" if key else address_of(scope["client"]), rate)

    async def _preflight(self, origin: str | None, answer: Send) -> None:
        """Whether a page from elsewhere may ask at all; it brings no key yet."""
        if not self._access.allows(origin):
            raise Forbidden(f"pages from {origin} may not ask here, unless the settings allow it (cors_origins)")
        allowed = {"Access-Control-Allow-Methods": "GET, POST", "Access-Control-Allow-Headers": _CORS_SENDABLE}
        await _answer(answer, 204, allowed | {"Access-Control-Max-Age": "600"}, b"")


class Arriving:
    """The body of a request, that must keep coming. Waits for whatever comes after it, such as the end of the connection, without
    end."""

    def __init__(self, receive: Receive, headers: Headers, seconds: float) -> None:
        self.ended = int(headers.get("content-length", 0)) == 0 and "transfer-encoding" not in headers
        self._receive = receive
        self._seconds = self._left = seconds
        self._bytes = 0
        self._cut = False

    async def __call__(self) -> Any:
        """The next message. Raises TooSlow, once: after that the body is cut off."""
        if self.ended or self._cut:
            return {"type": "http.disconnect"} if self._cut else await self._receive()
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(self._left):
                message = await self._receive()
        except TimeoutError:
            self._cut = True
            raise TooSlow(
                f"{self._bytes:,} bytes of the body came in {self._seconds:g} s; it must keep coming at {LEAST_BYTES:,} a second"
            ) from None
        self._left -= clock() - began
        if message["type"] == "http.request":
            self.ended = not message["more_body"]
            self._bytes += len(message["body"])
            if self._bytes >= LEAST_BYTES * self._seconds:
                self._bytes, self._left = 0, self._seconds
        return message


class _Leaving:
    """An answer on its way out, with the headers that every answer has."""

    def __init__(self, send: Send, body: Arriving, origin: str | None) -> None:
        """`origin`: of a page from elsewhere that may read the answer."""
        self._send, self._body, self._origin = send, body, origin

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", []))
            given = {name.lower() for name, _ in headers}
            headers += [(name, value) for name, value in SECURITY_HEADERS if name not in given]
            if not self._body.ended:
                headers.append((b"connection", b"close"))
            if self._origin is not None:
                headers += [
                    (b"access-control-allow-origin", self._origin.encode()),
                    (b"access-control-expose-headers", _CORS_READABLE.encode()),
                    (b"vary", b"Origin"),
                ]
            message["headers"] = headers
        await self._send(message)


async def _answer(send: Send, status: int, headers: dict[str, str], body: bytes, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
    length = {"Content-Length": str(len(body))} if body else {}
    packed = [(name.lower().encode(), value.encode()) for name, value in (headers | length).items()]
    await send({"type": "http.response.start", "status": status, "headers": [*packed, *more]})
    await send({"type": "http.response.body", "body": body, "more_body": False})
