"""A running server as what a stream of `benchmarks.gates` goes through: pushed over HTTP, and its gates read over HTTP.

A segment of the stream is one upload, and the next follows when it is counted, so the segments of the log are those of the stream.
That the same is then counted, chosen and judged as by the engine's own state in this process is what a row says of it.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from api.client import Client
from benchmarks.gate_engine import Engine
from benchmarks.gate_recipe import Gates
from benchmarks.gate_streams import Segment
from engine.errors import NotReady
from engine.measures.gate_tests import VERDICTS
from engine.measures.gates import KINDS
from engine.supervisor import die_with_parent

SECONDS = 120.0
"""The longest wait for the server to start, to count a segment, or to show it."""


class Service:
    """`saestream serve --dictionary UP,DOWN` in a directory of its own, beside an `Engine` that says what the candidates are."""

    def __init__(self, up: int, down: int) -> None:
        """Starts it.

        Raises:
            NotReady: it ended, or is not ready in time.
        """
        self._beside = Engine(up, down)
        self._tokens = 0
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            log = stack.enter_context((folder / "log").open("wb"))
            port = _free_port()
            command = [sys.executable, "-m", "api.cli", "serve", "--data-dir", str(folder / "data")]
            command += ["--dictionary", f"{up},{down}", "--port", str(port)]
            self._server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, preexec_fn=die_with_parent)
            stack.callback(self._stop)
            self._client = stack.enter_context(Client(f"http://127.0.0.1:{port}"))
            self._until("the server is ready", lambda: self._client.get("/readyz"))
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Ends the server and removes its directory."""
        self._stack.close()

    def add(self, segment: Segment) -> None:
        """Push a segment, and wait until it is counted."""
        self._beside.add(segment)
        body = [bytes(msgpack.packb(frame) or b"") for frame in segment.frames()]
        upload = self._client.upload("/v1/activations", body, "application/x-msgpack", name="planted")
        self._tokens += int(segment.lengths.sum())
        self._until("a segment is counted", lambda: self._client.get(f"/v1/uploads/{upload['id']}")["state"] == "counted")

    def candidates(self) -> np.ndarray:
        """int32 `[Dd, m]`: of the engine in this process."""
        return self._beside.candidates()

    def gates(self) -> Gates:
        """All nominated gates as the server lists them."""
        self._until("gates are of all tokens", lambda: self._listed(limit=1)["snapshot"]["tokens"] == self._tokens)
        return _columns(self._client.every("/v1/gates", verdict="any")["items"])

    def differing(self) -> int:
        """How many gates, verdicts included, only one of the server and the engine in this process has."""
        return len(_named(self.gates()) ^ _named(self._beside.gates()))

    def _listed(self, **query: Any) -> Any:
        return self._client.get("/v1/gates", verdict="any", **query)

    def _until(self, what: str, look: Callable[[], Any]) -> None:
        deadline = time.monotonic() + SECONDS
        while self._server.poll() is None:
            try:
                if look():
                    return
            except NotReady:
                pass  # it has not come so far
            if time.monotonic() > deadline:
                raise NotReady(f"not within {SECONDS:.0f} s: {what}")
            time.sleep(0.1)
        raise NotReady(f"the server ended with status {self._server.returncode} before {what}")

    def _stop(self) -> None:
        self._server.terminate()
        self._server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _columns(items: list[dict[str, Any]]) -> Gates:
    parents = np.full((len(items), 3), -1, np.int32)
    for row, item in zip(parents, items, strict=True):
        named = [_index(parent["feature"]) for parent in item["parents"]]
        row[: len(named)] = named
    return Gates(
        np.array([_index(item["child"]) for item in items], np.int64),
        np.array([KINDS.index(item["kind"]) for item in items], np.uint8),
        parents,
        np.array([VERDICTS.index(item["verdict"]) for item in items], np.uint8),
    )


def _named(gates: Gates) -> set[tuple[int, ...]]:
    return {(int(c), int(k), *map(int, p), int(v)) for c, k, p, v in zip(*gates, strict=True)}


def _index(feature: str) -> int:
    return int(feature.partition(":")[2])
