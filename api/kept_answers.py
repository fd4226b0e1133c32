"""Answers of the newest snapshot, kept as they were sent: a snapshot does not change, so neither does what is said of it.

What a route that is marked `KEPT` gives with the ETag of a snapshot is kept under its address until there is a newer one, or
something is written, and is sent again without asking the route; only the snapshot's age is put in anew. That there is no newer one
is asked of Redis for every request (in one call for all that wait), so nobody who has seen a snapshot is shown an older one.

Around the app and inside of the gate: who may not ask does not get this far.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send
from redis.exceptions import RedisError

from api.access import READING, READING_BY_POST
from api.negotiation import matches
from api.strongest_texts import StrongestTexts
from engine.errors import NotReady
from engine.views.reader import Views
from engine.views.records import Snapshot, Version

KEPT = "kept"
"""Key of a route's `opt`: its answers follow from snapshot and address alone."""

MOST_BYTES = 64 << 20
"""Of the answers to all addresses: some 10,000 lists of neighbours."""
MOST_OF_ONE = 1 << 20

_AGE = b'"age_ms":'
_STALENESS = b"max_staleness_ms"  # such an answer depends on when it is asked for
_LONGEST_KEY = 500

_Key = tuple[str, bytes, bytes]


class _Kept(NamedTuple):
    """Headers but for the length, the body around the digits of the age, and the route."""

    headers: list[tuple[bytes, bytes]]
    etag: str
    before: bytes
    behind: bytes
    route: str


class KeptAnswers:
    """An ASGI app around the one that answers."""

    def __init__(self, app: ASGIApp, views: Views, texts: StrongestTexts) -> None:
        self._app = app
        self._views = views
        self._texts = texts
        self._kept: dict[_Key, _Kept] = {}
        self._version = Version(0, 0)  # of all that is kept
        self._newest_text = ""  # that version as a snapshot says it
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            if scope["type"] == "http" and scope["method"] not in READING and scope["path"] not in READING_BY_POST:
                self._kept, self._bytes = {}, 0
                self._texts.forget()
            return
        key = _key_of(scope)
        if key is None:
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if key in self._kept and (snapshot := await self._newest()) is not None and (kept := self._kept.get(key)) is not None:
            scope["path_template"] = kept.route  # for who counts requests by their routes
            await _send(kept, snapshot, headers.get(b"if-none-match"), send)
            return
        collected = _Collected(send)
        await self._app(scope, receive, collected)
        if (handler := scope.get("route_handler")) is not None and handler.opt.get(KEPT):
            self._keep(key, collected, scope["path_template"])

    async def _newest(self) -> Snapshot | None:
        """The snapshot that all that is kept is of; None where it is not the newest one, or that can't be known."""
        try:
            snapshot = await self._views.snapshot()
        except (RedisError, NotReady):
            return None  # the route says it as it should be said
        if snapshot is None or snapshot.version != self._newest_text:
            return None
        return snapshot

    def _keep(self, key: _Key, answer: _Collected, route: str) -> None:
        found = answer.found()
        if found is None:
            return
        headers, version, body = found
        if version > self._version:
            self._kept, self._version, self._newest_text, self._bytes = {}, version, str(version), 0
        before, there, behind = body.partition(_AGE)
        size = len(body) + sum(map(len, key)) + sum(len(name) + len(value) for name, value in headers)
        known = key in self._kept  # of two that asked for it at the same time
        if version < self._version or known or not there or _AGE in behind or self._bytes + size > MOST_BYTES:
            return
        behind = behind.lstrip(b"0123456789")
        self._bytes += size
        kept = [(name, value) for name, value in headers if name != b"content-length"]
        self._kept[key] = _Kept(kept, f'W/"{version}"', before + _AGE, behind, route)


def _key_of(scope: HTTPScope) -> _Key | None:
    """What tells a request from others that may be answered otherwise; None where that can't be seen here."""
    query, accepted = scope["query_string"], [value for name, value in scope["headers"] if name == b"accept"]
    if len(accepted) > 1 or b"%" in query or _STALENESS in query:  # a name of a parameter may be spelt with %
        return None
    key = scope["path"], query, accepted[0] if accepted else b""
    return key if sum(map(len, key)) <= _LONGEST_KEY else None


class _Collected:
    """Passes an answer on, and keeps a copy of one that may be sent again."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._headers: list[tuple[bytes, bytes]] | None = None
        self._body: list[bytes] = []
        self._size = 0
        self._ended = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers: Any = list(message["headers"])
            names = dict(headers)
            if message["status"] == 200 and b"etag" in names and names.get(b"content-type", b"").startswith(b"application/json"):
                self._headers = headers
        elif message["type"] == "http.response.body" and self._headers is not None:
            self._body.append(message["body"])
            self._size += len(message["body"])
            self._ended = not message.get("more_body", False)
            if self._size > MOST_OF_ONE:
                self._headers, self._body = None, []
        await self._send(message)

    def found(self) -> tuple[list[tuple[bytes, bytes]], Version, bytes] | None:
        """Headers, the version that the ETag names, and the body; None of an answer that is not to be kept."""
        if self._headers is None or not self._ended:
            return None
        etag = dict(self._headers)[b"etag"].decode().removeprefix('W/"').removesuffix('"')
        try:
            return self._headers, Version.parse(etag), b"".join(self._body)
        except ValueError:
            return None  # of something else than a snapshot


async def _send(kept: _Kept, snapshot: Snapshot, if_none_match: bytes | None, send: Send) -> None:
    if if_none_match is not None and matches(if_none_match.decode("latin-1"), kept.etag):
        headers = [(name, value) for name, value in kept.headers if name != b"content-type"]
        await send({"type": "http.response.start", "status": 304, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return
    age = max(0, round((time.time() - snapshot.published_at) * 1000))
    body = b"%b%d%b" % (kept.before, age, kept.behind)
    await send({"type": "http.response.start", "status": 200, "headers": [*kept.headers, (b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body, "more_body": False})
