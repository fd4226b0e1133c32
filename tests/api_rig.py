"""What the API's tests run against: a real private Redis, a real `python -m api.server`, and the engine's half in this process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec

from engine.corpus.inbox import Inbox
from engine.encoder.description import LayerDescription, RunDescription
from engine.settings import Settings
from engine.views.redis_server import PrivateRedis

T = TypeVar("T")

DICTIONARIES = (6, 8, 5)  # three sizes, so that an index of one layer is out of range in another
RUN = RunDescription(
    model="tiny-model",
    saes="tiny-saes",
    layers=[
        LayerDescription(
            layer=layer, hook=f"blocks.{layer}.hook_resid_pre", features=size, neuronpedia=f"tiny/{layer}-res" if layer else None
        )
        for layer, size in enumerate(DICTIONARIES)
    ],
    context_size=16,
    prepend_bos=True,
    vocab_size=100,
)


def eventually(what: str, look: Callable[[], T | None], seconds: float = 30.0) -> T:
    """Look until the answer is neither None nor False; fail with `what` when it never is."""
    deadline = time.monotonic() + seconds
    while not (answer := look()):
        assert time.monotonic() < deadline, f"never happened within {seconds:.0f} s: {what}"
        time.sleep(0.02)
    return answer


class Api:
    """One API process. `http` talks to it; `inbox` is the one it writes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.inbox = Inbox(settings.data_dir / "inbox")
        self._log = settings.data_dir / "api.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "api.server"],
                env={**os.environ, "SAESTREAM_RUN_SETTINGS": settings.model_dump_json()},
                stderr=log,
            )
        self.url = eventually("the API listens", self._listening)
        self.http = httpx.Client(base_url=self.url, timeout=30.0)
        eventually("the API answers", self._alive)

    def _listening(self) -> str | None:
        assert self.process.poll() is None, self.log()
        found = re.search(r"listening on (http://\S+)", self.log())
        return found and found[1]

    def _alive(self) -> bool:
        try:
            return self.http.get("/livez").status_code == 200
        except httpx.TransportError:
            return False

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def post(self, path: str, body: object, media_type: str, key: str | None = None, **query: str) -> httpx.Response:
        headers = {"Content-Type": media_type} | ({"Idempotency-Key": key} if key else {})
        return self.http.post(path, content=body, headers=headers, params={"name": "mine", **query})  # type: ignore[arg-type]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.http.close()
        self.process.send_signal(number)
        return self.process.wait(15)


def settings_for(data_dir: Path, redis_url: str, **more: Any) -> Settings:
    """A run with port 0 and small limits, so that what is too large is small too, and the explanations that lie beside its data."""
    explanations = data_dir / "explanations.jsonl"
    given = {
        "data_dir": data_dir,
        "redis_url": redis_url,
        "port": 0,
        "published_k": 3,
        "min_support": 2,
        "publish_interval": 0.2,
        "max_document_bytes": 100_000,
        "explanations": explanations if explanations.exists() else None,
    }
    return Settings(**(given | more))


@contextmanager
def api_process(data_dir: Path, run: RunDescription | None = RUN, **more: Any) -> Iterator[tuple[Api, PrivateRedis]]:
    """Redis and the API over a data directory, and both gone afterwards; `more` are settings."""
    redis = PrivateRedis(data_dir / "redis")
    url = redis.start()
    if run is not None:
        (data_dir / "run.json").write_bytes(msgspec.json.encode(run))
    api = Api(settings_for(data_dir, url, **more))
    try:
        yield api, redis
    finally:
        api.stop()
        redis.stop()


def problem(response: httpx.Response, status: int) -> str:
    """The detail of a problem, after everything that every problem must be."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["type"].startswith("urn:saestream:problem:")
    assert body["title"] and body["instance"] == response.request.url.path
    assert "Traceback" not in response.text and "Error:" not in response.text
    return body["detail"]
