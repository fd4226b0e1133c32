"""A whole server with keys, as an administrator runs it: its commands, and that no secret is anywhere it should not be."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import redis

from engine.api_keys import KeyFile, hashed
from engine.errors import BadInput
from engine.settings import Settings, load
from engine.supervisor import check_keys
from engine.views.redis_server import PrivateRedis
from tests.service import Service, pack_frame, serving, sparse

OWN, PASSWORD = "the-administrators-own-key", "the-password-of-redis"
DICTIONARY = ("--dictionary", "4,6")


def saestream(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SAESTREAM")}
    command = [sys.executable, "-m", "api.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**inherited, "COLUMNS": "120", **environment})


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """With a key in the environment, two in its file, and a Redis that has a password."""
    folder = tmp_path_factory.mktemp("keyed")
    server = PrivateRedis(folder / "redis")
    path = server.start().removeprefix("unix://")
    redis.Redis(unix_socket_path=path).config_set("requirepass", PASSWORD)
    try:
        environment = {"SAESTREAM_API_KEY": OWN, "SAESTREAM_REDIS_URL": f"unix://:{PASSWORD}@{path}"}
        with serving(folder / "data", *DICTIONARY, environment=environment) as running:
            running.http.headers["Authorization"] = f"Bearer {OWN}"
            yield running
    finally:
        server.stop()


@pytest.fixture(scope="module")
def keys(service: Service) -> dict[str, str]:
    """Made by the command, while the server runs."""
    made = {
        scope: saestream("keys", "add", scope, "--scope", scope, "--data-dir", str(service.data_dir)) for scope in ("read", "write")
    }
    assert all(command.returncode == 0 for command in made.values()), made
    return {scope: command.stdout.strip() for scope, command in made.items()}


def activations(path: Path) -> str:
    path.write_bytes(pack_frame("all on", [sparse(np.ones((25, size), np.float32)) for size in (4, 6)]))
    return str(path)


def test_a_port_for_others_is_not_opened_without_a_key_and_says_how_to_make_one(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::"):
        refused = saestream("serve", *DICTIONARY, "--data-dir", str(tmp_path), "--port", "0", "--host", host)
        said = " ".join(refused.stderr.split())
        assert refused.returncode == 1 and f"--host {host} lets others in" in said
        assert f"saestream keys add NAME --scope write --data-dir {tmp_path}" in said
    assert not (tmp_path / "run.json").exists() and not (tmp_path / "redis").exists()


def test_a_port_for_others_is_opened_with_a_key_of_the_file_or_of_the_settings(tmp_path: Path) -> None:
    open_port = Settings(data_dir=tmp_path, host="0.0.0.0")
    with pytest.raises(BadInput):
        check_keys(open_port)
    check_keys(load(data_dir=tmp_path, host="0.0.0.0", api_key=OWN))
    KeyFile(tmp_path / "api-keys.json").add("me", "read")
    check_keys(open_port)
    with pytest.raises(BadInput):
        check_keys(open_port.model_copy(update={"key_file": tmp_path / "elsewhere.json"}))


def test_keys_are_made_listed_and_removed_by_name(tmp_path: Path) -> None:
    where = ("--data-dir", str(tmp_path))
    assert "has no key" in saestream("keys", "list", *where).stdout
    made = saestream("keys", "add", "ci", "--scope", "write", *where)
    assert re.fullmatch(r"sae_[\w-]{43}\n", made.stdout) and "ci may write" in made.stderr
    path = tmp_path / "api-keys.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and made.stdout.strip() not in path.read_text()
    listed = saestream("keys", "list", *where).stdout
    assert "ci" in listed and "write" in listed and hashed(made.stdout.strip())[7:19] in listed
    for words, says in (
        (["add", "ci"], "has a key ci already"),
        (["add", "a b"], "letters, digits"),
        (["remove", "bob"], "it has ci"),
    ):
        refused = saestream("keys", *words, *where)
        assert refused.returncode == 1 and says in " ".join(refused.stderr.split())
    assert saestream("keys", "remove", "ci", *where).returncode == 0
    assert "has no key" in saestream("keys", "list", *where).stdout


def test_commands_bring_a_key_from_their_option_or_the_environment(service: Service, keys: dict[str, str], tmp_path: Path) -> None:
    url, path = str(service.http.base_url), activations(tmp_path / "a.msgpack")
    for words in (["status"], ["feed", path]):
        refused = saestream(*words, "--url", url)
        assert refused.returncode == 1 and "this server needs an API key" in " ".join(refused.stderr.split())
    reading = saestream("feed", path, "--url", url, SAESTREAM_API_KEY=keys["read"])
    assert reading.returncode == 1 and "the API key read may read" in " ".join(reading.stderr.split())
    fed = saestream("feed", path, "--wait", "visible", "--url", url, "--api-key", keys["write"])
    assert fed.returncode == 0 and "25 tokens counted" in fed.stdout
    assert "25 tokens counted" in saestream("status", "--url", url, SAESTREAM_API_KEY=keys["read"]).stdout
    assert saestream("neighbors", "0:1", "--url", url, "--api-key", keys["read"]).returncode == 0
    watched = saestream("watch", "0:1", "1:1", "--url", url, "--api-key", keys["write"])
    assert watched.returncode == 0, watched.stderr


def test_no_secret_is_in_what_the_server_writes_says_or_shows(service: Service, keys: dict[str, str]) -> None:
    """After a run with every key, right and wrong: logs, files, answers, Redis, and the command lines of all processes."""
    secrets = [OWN, PASSWORD, *keys.values(), "sae_a-key-that-nobody-has"]
    said = []
    for secret in secrets:
        for path in (
            "/v1/status",
            "/metrics",
            "/schema/openapi.json",
            "/v1/corpora",
            "/v1/features/9/9",
            "/nothing",
            "/v1/convergence",
        ):
            said.append(service.http.get(path, headers={"Authorization": f"Bearer {secret}"}))
        said.append(service.http.post("/v1/corpora?name=a", content=b"x", headers={"Authorization": f"Bearer {secret}"}))
    files = [path for path in service.data_dir.rglob("*") if path.is_file()]
    assert {"serve.log", "api-keys.json", "run.json"} <= {path.name for path in files}
    client = redis.Redis.from_url(service.environment["SAESTREAM_REDIS_URL"])
    kept = [key + (client.dump(key) or b"") for key in client.scan_iter()]
    assert service.process is not None
    processes = [psutil.Process(service.process.pid), *psutil.Process(service.process.pid).children(recursive=True)]
    assert len(processes) >= 4
    lines = [" ".join(process.cmdline()) for process in processes]
    inherited = ["\0".join(f"{name}={value}" for name, value in process.environ().items()) for process in processes[1:]]
    for secret in secrets:
        for answer in said:
            assert secret not in answer.text and secret not in str(answer.headers), answer.request.url
        assert not [path for path in files if secret.encode() in path.read_bytes()]
        assert not [one for one in kept if secret.encode() in one]
        assert not [line for line in lines if secret in line]
        assert secret == PASSWORD or not [environment for environment in inherited if secret in environment]


def test_a_wrong_setting_of_a_secret_is_told_without_its_value(tmp_path: Path) -> None:
    where = ("--data-dir", str(tmp_path), "--port", "0")
    short = saestream("serve", *DICTIONARY, *where, "--api-key", "hunter2")
    assert short.returncode == 1 and "at least 20 characters" in short.stderr and "hunter2" not in short.stderr + short.stdout
    config = tmp_path / "c.toml"
    config.write_text('api_kye = "hunter2-hunter2-hunter2"\nredis_ulr = "redis://:hunter2@h"\n')
    misspelt = saestream("serve", *where, "--config", str(config))
    assert misspelt.returncode == 1 and "redis_ulr" in misspelt.stderr and "hunter2" not in misspelt.stderr
