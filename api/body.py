"""A request body on its way into the inbox: streamed, checked while it arrives, taken whole or refused whole.

1. Content type, name and key are checked before the first byte is read: `Expect: 100-continue` saves a refused body its way.
2. Chunks are gathered to 1 MiB and written in a thread: check, hash and disk never hold the event loop.
3. A client that goes away in the middle leaves nothing behind.
4. When a body is refused half-way, some of its rest is read and thrown away: a connection closed on unread bytes is reset, and the
   client would see that instead of the reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from anyio import to_thread
from litestar import Request

from engine.corpus.documents import BodyCheck, body_check
from engine.corpus.inbox import Manifest, Receiving, Route
from engine.encoder.description import RunDescription
from engine.errors import BadInput, SaestreamError, UnsupportedMedia
from engine.settings import Settings

log = logging.getLogger(__name__)

_GATHER = 1 << 20  # a hop to a thread costs about 0.1 ms: 1 % of the time to check 1 MiB
_REST_BYTES = 64 << 20  # what is read of a refused body, at most
_REST_SECONDS = 5.0


class ClientGone(BadInput):
    """The connection ended before the body did. Nobody reads the answer; the log does."""

    title = "Body cut off"


class Body:
    """The chunks of a request's body, in the order in which they arrive; can be iterated again for what is left."""

    def __init__(self, request: Request[Any, Any, Any]) -> None:
        self._request = request
        self._finished = False
        self.begun = False
        """Something was read, and with it "100 Continue" sent to a client that had asked."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.begun = True
        while not self._finished:
            event = await self._request.receive()
            if event["type"] != "http.request":
                self._finished = True
                raise ClientGone("the connection ended before the body did: nothing of the upload was taken")
            self._finished = not event["more_body"]
            yield event["body"]

    async def into(self, receiving: Receiving) -> Manifest:
        """Read everything into the inbox; durable when this returns.

        Raises:
            BadInput, TooLarge, Conflict, StorageFault: the body is refused; nothing of it is left.
            ClientGone: the connection ended first; nothing is left.
        """
        with receiving:
            gathered = bytearray()
            async for chunk in self:
                gathered += chunk
                if len(gathered) >= _GATHER:
                    await to_thread.run_sync(receiving.write, bytes(gathered))
                    gathered.clear()
            if gathered:
                await to_thread.run_sync(receiving.write, bytes(gathered))
            return await to_thread.run_sync(receiving.commit)

    async def throw_away(self) -> None:
        """Read what is left, up to a limit in bytes and time."""
        rest = 0
        try:
            async with asyncio.timeout(_REST_SECONDS):
                async for chunk in self:
                    rest += len(chunk)
                    if rest > _REST_BYTES:
                        return
        except (TimeoutError, ClientGone):
            log.debug("the rest of a refused body did not come")


@asynccontextmanager
async def body_of(request: Request[Any, Any, Any]) -> AsyncIterator[Body]:
    """The body, around everything that can refuse it: what the client still sends is then thrown away."""
    body = Body(request)
    try:
        yield body
    except ClientGone as error:
        log.info("%s %s: %s", request.method, request.url.path, error.message)
        raise
    except SaestreamError:
        if body.begun or "expect" not in request.headers:  # who asked first gets the refusal at once, and sends nothing
            await body.throw_away()
        raise


def check_of(request: Request[Any, Any, Any], route: Route, run: RunDescription, settings: Settings) -> BodyCheck:
    """The check for the body of this request, by its content type.

    Raises:
        UnsupportedMedia: a content type that the route does not read, another charset than UTF-8, or a compressed body.
        BadInput: text for a run without a model.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise UnsupportedMedia(f"Content-Encoding {encoding!r}: bodies are read as they are, without compression")
    return body_check(
        route,
        request.headers.get("content-type", ""),
        max_document_bytes=settings.max_document_bytes,
        vocab_size=run.vocab_size,
        dictionaries=run.dictionaries,
    )
