"""A load of HTTP requests: so many connections, each of which asks again as soon as it is answered.

In one thread over plain sockets, because a client must not be what is measured: 15 µs a request, of which most is the kernel's.
Nothing of an answer is looked at but its status and its length.
"""

from __future__ import annotations

import random
import selectors
import socket
import time
from collections.abc import Sequence
from typing import NamedTuple

_READ = 1 << 18


class Load(NamedTuple):
    """What a load has measured: requests answered, in how many seconds, the seconds of each, sorted, and bytes of the answers."""

    requests: int
    seconds: float
    latencies: list[float]
    bytes: int

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    def quantile(self, share: float) -> float:
        """Seconds within which this share of the requests was answered."""
        return self.latencies[min(len(self.latencies) - 1, int(share * len(self.latencies)))]

    def __add__(self, other: Load) -> Load:  # type: ignore[override]  # of two rounds, not of two tuples
        latencies = sorted([*self.latencies, *other.latencies])
        return Load(self.requests + other.requests, self.seconds + other.seconds, latencies, self.bytes + other.bytes)


class _Connection:
    """One kept connection with a request on its way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.began = 0.0
        self._head = b""
        self._left = 0

    def ask(self, request: bytes) -> None:
        """Send a request; it is small enough for an empty socket."""
        self.began = time.perf_counter()
        self._head, self._left = b"", 0
        self.socket.send(request)

    def read(self) -> int:
        """What has come: bytes of the answer, with head, when it is whole; else 0.

        Raises:
            RuntimeError: a status other than 200.
        """
        data = self.socket.recv(_READ)
        if not data:
            raise RuntimeError("the server has closed a connection")
        if self._left:
            self._left -= len(data)
            return len(data) if not self._left else 0
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            return 0
        if not self._head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"an answer is {self._head[:200]!r}")
        head = self._head[:end].lower()
        at = head.index(b"content-length: ") + 16
        self._left = int(head[at : head.find(b"\r", at) if b"\r" in head[at:] else None]) + end + 4 - len(self._head)
        return len(self._head) if not self._left else 0


def load(port: int, paths: Sequence[str], seconds: float, connections: int, seed: int = 0) -> Load:
    """Ask for paths of a server at random for so long.

    Args:
        port: on this machine.
        paths: each as likely as the others.
        seconds: after the first answer of each connection, which does not count.
        connections: asking at the same time.
    """
    chance = random.Random(seed)
    requests = [f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n\r\n".encode() for path in paths]
    latencies, received = [], 0
    with selectors.DefaultSelector() as selector:
        opened = [_Connection(port) for _ in range(connections)]
        for one in opened:
            selector.register(one.socket, selectors.EVENT_READ, one)
            one.ask(chance.choice(requests))
        warm = set()
        began = until = 0.0
        while not until or time.perf_counter() < until:
            for key, _ in selector.select(1.0):
                one: _Connection = key.data
                if answered := one.read():
                    if until:
                        latencies.append(time.perf_counter() - one.began)
                        received += answered
                    else:
                        warm.add(one)
                    one.ask(chance.choice(requests))
            if not until and len(warm) == connections:
                began = time.perf_counter()
                until = began + seconds
        took = time.perf_counter() - began
        for one in opened:
            one.socket.close()
    return Load(len(latencies), took, sorted(latencies), received)
