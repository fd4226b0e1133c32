"""A real `saestream serve` for the tests: its own data directory, a free port, real Redis, real HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgpack
import numpy as np
import psutil

T = TypeVar("T")
START_SECONDS = 120.0
THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2
"""Of torch: two in all, and `make test` has two of us."""


def free_port() -> int:
    """A port that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def eventually(what: str, look: Callable[[], T | None], seconds: float = 60.0) -> T:
    """Look until the answer is neither None nor False; fail with `what` when it never is."""
    deadline = time.monotonic() + seconds
    while not (answer := look()):
        assert time.monotonic() < deadline, f"never happened within {seconds:.0f} s: {what}"
        time.sleep(0.05)
    return answer


class Service:
    """One running server; `http` talks to it."""

    def __init__(self, data_dir: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self.data_dir = data_dir
        self.options = options
        self.environment = environment or {}
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30.0)

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the process without waiting for it."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "api.cli", "serve", "--data-dir", str(self.data_dir), "--port", str(self.port)]
        with (self.data_dir / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *self.options],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "SAESTREAM_THREADS": str(THREADS), **self.environment},
            )
        return self.process

    def start(self) -> Service:
        process = self.launch()
        eventually("the server is ready", lambda: self.is_ready() or process.poll() is not None, START_SECONDS)
        assert process.poll() is None, f"the server ended with status {process.returncode}:\n{self.log()}"
        return self

    def is_ready(self) -> bool:
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal to the supervisor and wait until it is gone."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(90)

    def log(self) -> str:
        return (self.data_dir / "serve.log").read_text(errors="replace")

    def child(self, part: str) -> psutil.Process | None:
        """The supervisor's child whose command line holds `part`, e.g. `engine.main`."""
        assert self.process is not None
        for child in psutil.Process(self.process.pid).children():
            try:
                if any(part in word for word in child.cmdline()):
                    return child
            except psutil.NoSuchProcess:
                continue
        return None

    def get(self, path: str, **query: Any) -> Any:
        answer = self.http.get(path, params=query)
        assert answer.status_code == 200, f"{path} {query}: {answer.status_code} {answer.text}"
        return answer.json()

    def feed(self, documents: Iterable[str], corpus: str = "text", wait: str = "durable", key: str | None = None) -> Any:
        body = "".join(json.dumps({"text": text}) + "\n" for text in documents).encode()
        return self.post("/v1/corpora", body, "application/x-ndjson", corpus, wait, key)

    def push(self, frames: bytes, corpus: str = "pushed", wait: str = "durable", key: str | None = None) -> Any:
        return self.post("/v1/activations", frames, "application/x-msgpack", corpus, wait, key)

    def post(self, path: str, body: bytes, media_type: str, corpus: str, wait: str = "durable", key: str | None = None) -> Any:
        headers = {"Content-Type": media_type} | ({"Idempotency-Key": key} if key else {})
        answer = self.http.post(path, content=body, headers=headers, params={"name": corpus, "wait": wait}, timeout=120.0)
        assert answer.status_code in (200, 202), f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def until_counted(self, *uploads: Any, seconds: float = 120.0) -> None:
        for upload in uploads:
            eventually(
                f"upload {upload['id']} is counted",
                lambda upload=upload: self.get(f"/v1/uploads/{upload['id']}")["state"] == "counted",
                seconds,
            )


@contextmanager
def serving(data_dir: Path, *options: str, environment: dict[str, str] | None = None) -> Iterator[Service]:
    """A server that is ready, and gone afterwards whatever happened."""
    service = Service(data_dir, *options, environment=environment)
    try:
        yield service.start()
    finally:
        service.http.close()
        if service.process is not None:
            service.stop()


def pack_frame(document: str, layers: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> bytes:
    """One map of `POST /v1/activations`; per layer offsets int32 `[T + 1]`, features int32, values float32."""
    packed = [
        {"offsets": o.astype("<i4").tobytes(), "features": f.astype("<i4").tobytes(), "values": v.astype("<f4").tobytes()}
        for o, f, v in layers
    ]
    return msgpack.packb({"document": document, "tokens": len(layers[0][0]) - 1, "layers": packed})


def sparse(dense: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The CSR arrays (offsets, features, values) of a dense `[T, D]`."""
    rows, features = np.nonzero(dense)
    offsets = np.searchsorted(rows, np.arange(len(dense) + 1)).astype(np.int32)
    return offsets, features.astype(np.int32), dense[rows, features].astype(np.float32)
