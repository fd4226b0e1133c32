"""A request body on its way into the inbox: streamed, checked while it arrives, taken whole or refused whole.

1. Content type, name, key and length are checked before the first byte is read: `Expect: 100-continue` saves a refused body its
   way. A body that does not say how long it is ends where it becomes too long.
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
from litestar.types import Receive

from engine.corpus.apart import CheckedApart
from engine.corpus.documents import BodyCheck, body_check
from engine.corpus.inbox import Manifest, Receiving, Route
from engine.corpus.parquet import ParquetCheck
from engine.encoder.description import RunDescription
from engine.errors import BadInput, SaestreamError, TooLarge, TooSlow, UnsupportedMedia
from engine.settings import Settings

log = logging.getLogger(__name__)

_GATHER = 1 << 20  # a hop to a thread costs about 0.1 ms: 1 % of the time to check 1 MiB
_REST_BYTES = 64 << 20  # what is read of a refused body, at most
_REST_SECONDS = 5.0


class ClientGone(BadInput):
    """The connection ended before the body did. Nobody reads the answer; the log does."""

    title = "Body cut off"


class Body:
    """The chunks of a request's body, in the order in which they arrive."""

    def __init__(self, request: Request[Any, Any, Any], most_bytes: int, advice: str) -> None:
        """It may have `most_bytes`; `advice` says what to do about a larger one."""
        self._request = request
        self._most_bytes = most_bytes
        self._advice = advice
        self._left = chunks(request.receive)
        self.begun = False
        """Something was read, and with it "100 Continue" sent to a client that had asked."""

    def check(self) -> None:
        """What the head of the request says of the body.

        Raises:
            UnsupportedMedia: it is compressed. TooLarge.
        """
        encoding = self._request.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise UnsupportedMedia(f"Content-Encoding {encoding!r}: bodies are read as they are, without compression")
        self._limit(int(self._request.headers.get("content-length", 0)))

    def _limit(self, size: int) -> None:
        if size > self._most_bytes:
            raise TooLarge(f"the body has {size:,} bytes or more, and may have {self._most_bytes:,}: {self._advice}")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.begun, size = True, 0
        async for chunk in self._left:
            size += len(chunk)
            self._limit(size)
            yield chunk

    async def throw_away(self) -> None:
        """Read what is left, up to a limit in bytes and time."""
        await throw_away(self._left, _REST_BYTES, _REST_SECONDS)

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


async def chunks(receive: Receive) -> AsyncIterator[bytes]:
    """What arrives of a body. Raises ClientGone."""
    more = True
    while more:
        event = await receive()
        if event["type"] != "http.request":
            raise ClientGone("the connection ended before the body did: nothing of the upload was taken")
        more = event["more_body"]
        yield event["body"]


async def throw_away(chunks: AsyncIterator[bytes], most_bytes: int, seconds: float) -> None:
    """Read what is left of a body, up to a limit in bytes and time."""
    rest = 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in chunks:
                rest += len(chunk)
                if rest > most_bytes:
                    return
    except (TimeoutError, ClientGone, TooSlow):
        log.debug("the rest of a refused body did not come")


@asynccontextmanager
async def body_of(request: Request[Any, Any, Any], most_bytes: int, advice: str) -> AsyncIterator[Body]:
    """The body, around everything that can refuse it: what the client still sends is then thrown away.

    Raises:
        UnsupportedMedia, TooLarge: it is compressed, or larger than `most_bytes`.
    """
    body = Body(request, most_bytes, advice)
    try:
        body.check()
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
        UnsupportedMedia: a content type that the route does not read, or another charset than UTF-8.
        BadInput: text for a run without a model.
    """
    check = body_check(
        route,
        request.headers.get("content-type", ""),
        max_document_bytes=settings.max_document_bytes,
        max_bytes=settings.max_upload_bytes,
        vocab_size=run.vocab_size,
        dictionaries=run.dictionaries,
    )
    return CheckedApart(check) if isinstance(check, ParquetCheck) else check
