"""Head and body of an answer leave together, in order and whole."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from api.connection import OneWrite


class _Reader(asyncio.Protocol):
    """What a client is sent: every piece as it came, and when it was closed."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.closed = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set_result(exc)


class _Writer(asyncio.Protocol):
    """A server that writes once it is connected."""

    def __init__(self, write: Callable[[OneWrite], None]) -> None:
        self.paused = 0
        self._write = write

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._write(OneWrite(transport, asyncio.get_running_loop()))

    def pause_writing(self) -> None:
        self.paused += 1


def sent(write: Callable[[OneWrite], None], *, read: bool = True) -> tuple[list[bytes], int]:
    """The pieces that a client received, and how often the server was asked to wait; `read`: until the server closes."""

    async def exchange() -> tuple[list[bytes], int]:
        loop, writers = asyncio.get_running_loop(), []

        def serve() -> _Writer:
            writers.append(_Writer(write))
            return writers[-1]

        server = await loop.create_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            transport, reader = await loop.create_connection(_Reader, "127.0.0.1", port)
            if read:
                await asyncio.wait_for(reader.closed, 10.0)
            else:
                transport.pause_reading()
                while not writers:
                    await asyncio.sleep(0.01)
            transport.abort()
        return reader.pieces, writers[0].paused

    return asyncio.run(exchange())


def test_what_is_written_before_the_loop_comes_round_is_one_piece() -> None:
    def write(transport: OneWrite) -> None:
        transport.write(b"head ")
        transport.write(b"body")
        transport.write(b"")
        asyncio.get_running_loop().call_later(0.2, later, transport)

    def later(transport: OneWrite) -> None:
        transport.write(b"more")
        transport.close()

    assert sent(write) == ([b"head body", b"more"], 0)


def test_closing_loses_nothing() -> None:
    def write(transport: OneWrite) -> None:
        transport.write(b"all of ")
        transport.write(b"it")
        transport.close()
        assert transport.is_closing()

    assert sent(write)[0] == [b"all of it"]


@pytest.mark.parametrize("size", [1 << 10, 1 << 22])
def test_who_writes_more_than_is_read_is_asked_to_wait_at_once(size: int) -> None:
    heard = []

    def write(transport: OneWrite) -> None:
        for at in range((1 << 26) // size):
            transport.write(b"x" * size)
            if transport.get_write_buffer_size() > transport.get_write_buffer_limits()[1]:
                heard.append(at)
                break
        transport.abort()

    _, paused = sent(write, read=False)
    assert heard and paused == 1
