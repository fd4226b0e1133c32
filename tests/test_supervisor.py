"""`saestream serve` owns its children: it restarts them, refuses what can't work, and takes all with it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.service import Service, eventually, serving

DICTIONARY = ("--dictionary", "16,16")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("served"), *DICTIONARY) as running:
        yield running


@pytest.mark.parametrize("part", ["engine.main", "api.server", "redis"])
def test_a_child_that_is_killed_is_started_again_and_the_service_recovers(service: Service, part: str) -> None:
    killed = service.child(part)
    assert killed is not None
    killed.kill()
    eventually(f"{part} is gone", lambda: not killed.is_running() or killed.status() == psutil.STATUS_ZOMBIE)
    eventually(f"another {part} runs", lambda: (child := service.child(part)) and child.pid != killed.pid)
    eventually("the service is ready again", service.is_ready)
    eventually("the engine's status is back", lambda: service.http.get("/v1/status").status_code == 200)


def test_a_second_server_on_the_same_data_directory_is_refused_and_the_first_goes_on(service: Service) -> None:
    second = Service(service.data_dir, *DICTIONARY)
    command = [sys.executable, "-m", "api.cli", "serve", "--data-dir", str(service.data_dir), "--port", str(second.port)]
    refused = subprocess.run([*command, *DICTIONARY], capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert "already running" in refused.stderr and str(service.process and service.process.pid) in refused.stderr
    assert service.is_ready()


def test_a_port_in_use_is_refused_by_its_number(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "api.cli", "serve", *DICTIONARY, "--data-dir", str(tmp_path), "--port", str(port)]
        refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert f"127.0.0.1:{port}" in refused.stderr and "--port" in refused.stderr


def test_a_redis_that_does_not_answer_is_refused_by_its_address_without_its_password(tmp_path: Path) -> None:
    url = "redis://user:secret@127.0.0.1:1/0"
    command = [
        sys.executable,
        "-m",
        "api.cli",
        "serve",
        *DICTIONARY,
        "--data-dir",
        str(tmp_path),
        "--port",
        "0",
        "--redis-url",
        url,
    ]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert "127.0.0.1:1" in refused.stderr and "secret" not in refused.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_when_the_supervisor_ends_no_child_is_left(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path, *DICTIONARY) as service:
        assert service.process is not None
        children = psutil.Process(service.process.pid).children(recursive=True)
        assert len(children) >= 3  # engine, API, Redis
        status = service.stop(number)
    assert status == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def test_a_data_directory_of_other_settings_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    with serving(tmp_path, *DICTIONARY):
        pass
    other = Service(tmp_path, *DICTIONARY, "--threshold", "0.5")
    process = other.launch()
    assert process.wait(60) == 3
    log = " ".join(other.log().split())
    assert "threshold" in log and "0.5" in log
    other.http.close()
    with serving(tmp_path, *DICTIONARY) as same:
        assert same.get("/v1/status")["tokens"] == 0


def test_a_model_folder_that_is_not_there_ends_the_run_and_is_named(tmp_path: Path) -> None:
    missing = Service(tmp_path, "--model", str(tmp_path / "absent"), "--saes", str(tmp_path / "absent"))
    process = missing.launch()
    assert process.wait(90) == 3
    assert "absent" in missing.log()
    missing.http.close()
