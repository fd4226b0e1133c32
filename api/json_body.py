"""A small JSON body, read into a struct."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from litestar import Request

from api.body import body_of
from engine.errors import BadInput, UnsupportedMedia

T = TypeVar("T")


async def json_body(request: Request[Any, Any, Any], kind: type[T], *, most_bytes: int, example: str, too_large: str) -> T:
    """Read a body of `application/json`.

    Args:
        kind: the struct that it must fit.
        most_bytes: how large it may be.
        example: what it looks like, and too_large: what to do about a larger one, both for messages.

    Raises:
        UnsupportedMedia: another content type, or compressed. TooLarge.
        BadInput: no JSON, or not of that form; the message says where.
    """
    async with body_of(request, most_bytes, too_large) as body:
        media_type = request.headers.get("content-type", "").split(";")[0].strip()
        if media_type != "application/json":
            raise UnsupportedMedia(f"Content-Type {media_type!r}: this route reads application/json")
        read = bytearray()
        async for chunk in body:
            read += chunk
        try:
            return msgspec.json.decode(read, type=kind)
        except RecursionError as error:
            raise BadInput(f"the body is nested too deeply; it must be {example}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadInput(f"the body must be {example}: {error}") from error
