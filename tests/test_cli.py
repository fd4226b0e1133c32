"""The command line as a client of a running server, and on a Redis of the user's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.views.redis_server import PrivateRedis
from tests.service import Service, pack_frame, serving, sparse


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("commanded")
    redis = PrivateRedis(folder / "theirs")
    try:
        with serving(folder / "data", "--dictionary", "4,6", "--redis-url", redis.start()) as running:
            yield running
    finally:
        redis.stop()


def saestream(*words: str, url: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "120", **({"SAESTREAM_URL": url} if url else {})}
    return subprocess.run([sys.executable, "-m", "api.cli", *words], capture_output=True, text=True, timeout=120, env=environment)


def activations(path: Path, tokens: int) -> Path:
    dense = [np.ones((tokens, size), np.float32) for size in (4, 6)]
    path.write_bytes(pack_frame("all on", [sparse(layer) for layer in dense]))
    return path


def test_what_is_fed_is_counted_and_shown_by_status_and_neighbors(service: Service, tmp_path: Path) -> None:
    url = str(service.http.base_url)
    assert service.child("redis-server") is None  # the one that was given is used, none of its own is started
    fed = saestream("feed", str(activations(tmp_path / "a.msgpack", 25)), "--corpus", "mine", "--wait", "visible", url=url)
    assert fed.returncode == 0, fed.stderr
    assert "mine counted" in fed.stdout and "1 documents, 25 tokens counted" in fed.stdout
    shown = saestream("status", url=url)
    assert "25 tokens counted" in shown.stdout and "mine" in shown.stdout
    assert "split-half RBO" in shown.stdout and "0→1" in shown.stdout and "0.00%" in shown.stdout
    near = saestream("neighbors", "0:1", url=url)
    assert near.returncode == 0, near.stderr
    assert "1:0" in near.stdout and "1.000" in near.stdout and "upstream" in near.stdout


def test_the_same_key_feeds_once_and_no_key_feeds_again(service: Service, tmp_path: Path) -> None:
    url, path = str(service.http.base_url), str(activations(tmp_path / "b.msgpack", 10))
    before = service.get("/v1/status")["tokens"]
    for key in (["--key", "k"], ["--key", "k"], [], []):
        assert saestream("feed", path, "--wait", "visible", *key, url=url).returncode == 0
    assert service.get("/v1/status")["tokens"] == before + 30


@pytest.mark.parametrize(
    ("words", "named"),
    [
        pytest.param(["neighbors", "3"], ["'3'", "layer:index"], id="no index"),
        pytest.param(["neighbors", "7:1"], ["layer 7", "0 to 1"], id="unknown layer"),
        pytest.param(
            ["neighbors", "0:1", "--measure", "cosine", "--direction", "downstream"], ["cosine", "jaccard"], id="unknown measure"
        ),
        pytest.param(["feed", "absent.jsonl"], ["absent.jsonl", "no such file"], id="no such file"),
        pytest.param(["feed", "pyproject.toml"], ["pyproject.toml", ".jsonl"], id="unknown suffix"),
        pytest.param(["feed", "a.txt", "--wait", "seen"], ["seen", "visible"], id="unknown wait"),
        pytest.param(["status", "--url", "http://127.0.0.1:1"], ["127.0.0.1:1", "saestream serve"], id="no server"),
        pytest.param(["serve", "--dictionary", "4;5"], ["4;5", "1024"], id="dictionary that is no list"),
        pytest.param(["serve", "--pairs", "0:1"], ["0:1", "0-1"], id="pair of another form"),
    ],
)
def test_a_wrong_command_is_one_sentence_that_names_what_is_wrong(service: Service, words: list[str], named: list[str]) -> None:
    refused = saestream(*words, url=str(service.http.base_url))
    assert refused.returncode == 1
    assert len(refused.stderr.strip().splitlines()) == 1
    for word in named:
        assert word in refused.stderr
