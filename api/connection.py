"""One connection: closed when the other side sends, or takes, next to nothing.

uvicorn waits without end for the head of a request that comes byte by byte, and for a client that does not read its answer: so many
of them would be all that it has. (What is slow between the two, the body, is `gate`'s, which can still answer.)
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 2_000
"""Open at once. Twice what is answered at once (`gate.MOST_REQUESTS`), so that who is one too many can read why."""

_MOST_HELD = 1 << 16


class OneWrite:
    """A transport that sends head and body of an answer together: a system call less of each, and a wake-up less of who reads it.

    What is written is sent when the loop comes round, or at once where it is `_MOST_HELD`, so that `pause_writing` is heard before
    more is made.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send it, with what is written before the loop comes round."""
        if not data:
            return
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)
        self._bytes += len(data)
        if self._bytes >= _MOST_HELD:
            self._flush()

    def close(self) -> None:
        """Close the connection when all is sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        held, self._held, self._bytes = self._held, [], 0
        if held:
            self._transport.write(b"".join(held))


class Connection(H11Protocol):
    """uvicorn's, with two clocks."""

    def __init__(self, seconds: float, **given: Any) -> None:
        """`seconds`: for the head of a request from its first byte on (or from the connection on), and for an answer to be read."""
        super().__init__(**given)
        self._seconds = seconds
        self._head: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(OneWrite(transport, self.loop))  # type: ignore[arg-type]
        if len(self.connections) > MOST_CONNECTIONS:
            log.warning("a connection is closed: %d are open already", MOST_CONNECTIONS)
            transport.abort()
            return
        self._watch_head()

    def handle_events(self) -> None:
        super().handle_events()
        self._watch_head()

    def _watch_head(self) -> None:
        """The clock runs while the next thing to come is the head of a request."""
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._head is None and not self.transport.is_closing():
            self._head = self._after("no request came")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self._after("its answer was not read")

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)  # resumes writing
        self.resume_writing()

    def _stop(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _after(self, what: str) -> asyncio.TimerHandle:
        return self.loop.call_later(self._seconds, self._abort, what)

    def _abort(self, what: str) -> None:
        log.info("a connection from %s is closed: %s within %g s", self.client and self.client[0], what, self._seconds)
        self.transport.abort()
