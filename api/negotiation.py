"""Answers in the form that the client asked for: JSON, or MessagePack by `Accept`; and the weak ETag of a snapshot.

Litestar does not negotiate by itself. A weak ETag, because the body holds the snapshot's age: two bodies of one version tell the
same statistics and differ in that number.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from litestar import Request, Response
from litestar.enums import MediaType

MSGPACK = "application/x-msgpack"
_OFFERED = [str(MediaType.JSON.value), MSGPACK]

Body = TypeVar("Body")


def wants_msgpack(request: Request[Any, Any, Any]) -> bool:
    """Whether MessagePack comes before JSON in `Accept` (`*/*`, nothing, or neither of the two: JSON)."""
    return request.accept.best_match(_OFFERED, _OFFERED[0]) == MSGPACK


def answer(
    request: Request[Any, Any, Any],
    body: Body,
    *,
    status: int = 200,
    version: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response[Body]:
    """Encode a struct as the client wants it.

    Args:
        body: a `msgspec.Struct`.
        version: of the snapshot that the whole answer comes from. It becomes the ETag, and `If-None-Match` of it is answered 304
            without a body. None where the answer is not from one snapshot (live queries, uploads).
        headers: further headers.
    """
    sent = {"Vary": "Accept", "Cache-Control": "no-cache", **(headers or {})}
    if version is not None:
        sent["ETag"] = etag = f'W/"{version}"'
        if status == 200 and matches(request.headers.get("if-none-match"), etag):
            return Response(None, status_code=304, headers=sent)  # pyright: ignore[reportReturnType]  (304 has no body)
    if wants_msgpack(request):
        return Response(msgspec.msgpack.encode(body), status_code=status, headers=sent, media_type=MSGPACK)  # pyright: ignore
    return Response(msgspec.json.encode(body), status_code=status, headers=sent, media_type=MediaType.JSON)  # pyright: ignore


def matches(header: str | None, etag: str) -> bool:
    """Whether `If-None-Match` names this ETag. RFC 9110, section 13.1.2: weak comparison, a list, or `*`."""
    if header is None:
        return False
    opaque = etag.removeprefix("W/")
    return any(tag.strip() == "*" or tag.strip().removeprefix("W/") == opaque for tag in header.split(","))
