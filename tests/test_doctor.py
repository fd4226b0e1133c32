"""`saestream doctor`: every fault is found under its name, with what to do; and a run that could start has none."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from corpus_rig import DICTIONARIES, frame, start_ingest, take_all, upload

from api import doctor
from api.doctor import Finding, examine
from engine.corpus.inbox import Inbox
from engine.corpus.log import CorpusLog
from engine.counts.checkpoint import Checkpoints, Cursor
from engine.counts.state import State
from engine.demo import text
from engine.settings import Settings
from engine.views.redis_server import PrivateRedis

DEMO = Path(text.__file__).parent


def found(settings: Settings, check: str) -> Finding:
    (one,) = [finding for finding in examine(settings) if finding.check == check]
    return one


def wrong(settings: Settings) -> list[str]:
    return [finding.check for finding in examine(settings) if finding.state != "ok"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a run without a model that has never started."""
    return Settings(data_dir=tmp_path / "data", dictionary=list(DICTIONARIES), port=0)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a run that was stopped: a log of several segments, and two checkpoints."""
    root = tmp_path_factory.mktemp("stopped")
    inbox, log = Inbox(root / "inbox"), CorpusLog(root / "log")
    for at in range(4):
        upload(inbox, frame(f"document {at}", 100), "application/x-msgpack")
    take_all(start_ingest(inbox, log, None, quiet_ms=0), inbox, log)
    checkpoints = Checkpoints(root / "checkpoints")
    for segment in (1, 2):
        checkpoints.save(State.zero(DICTIONARIES), Cursor(segment, 0), {})
    return root


@pytest.fixture
def used(settings: Settings, stopped: Path) -> Settings:
    shutil.copytree(stopped, settings.data_dir)
    return settings


def test_the_demo_in_an_empty_folder_can_start(tmp_path: Path) -> None:
    words = ["doctor", "--data-dir", str(tmp_path / "new" / "data"), "--port", "0"]
    environment = {**os.environ, "COLUMNS": "250"}
    ended = subprocess.run([sys.executable, "-m", "api.cli", *words], capture_output=True, text=True, timeout=120, env=environment)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "7 hook points, 7,168 features" in ended.stdout and "gpt2, " in ended.stdout and "✗" not in ended.stdout
    assert list(tmp_path.iterdir()) == [], "it changes nothing"


def test_a_run_that_was_stopped_is_whole(used: Settings) -> None:
    before = sorted(used.data_dir.rglob("*"))
    assert wrong(used) == []
    assert "segments, 400 tokens; the newest is whole" in found(used, "corpus log").says
    assert found(used, "checkpoint").says.startswith("number 2 of ")
    assert sorted(used.data_dir.rglob("*")) == before


@pytest.mark.parametrize("damage", ["missing", "cut off", "flipped", "newest missing its end"])
def test_a_damaged_log_is_named(used: Settings, damage: str) -> None:
    segments = sorted((used.data_dir / "log").glob("*.seg"))
    assert len(segments) > 2
    if damage == "missing":
        segments[1].unlink()
        named = segments[1]
    else:
        named = segments[-1]
        raw = bytearray(named.read_bytes())
        if damage == "flipped":
            raw[len(raw) // 2] ^= 1
        named.write_bytes(raw[: -1 if damage == "newest missing its end" else len(raw) if damage == "flipped" else 20])
    one = found(used, "corpus log")
    assert one.state == "wrong" and str(named) in one.says and one.do
    assert wrong(used) == ["corpus log"]


@pytest.mark.parametrize("damage", ["manifest", "file missing", "file cut off"])
def test_a_damaged_checkpoint_is_named(used: Settings, damage: str) -> None:
    root = used.data_dir / "checkpoints"
    newest = sorted(root.glob("*.manifest"))[-1]
    part = next(path for path in sorted((root / newest.stem).iterdir()) if path.stat().st_size > 100)
    if damage == "manifest":
        raw = bytearray(newest.read_bytes())
        raw[40] ^= 1
        newest.write_bytes(raw)
    elif damage == "file missing":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[:-9])
    one = found(used, "checkpoint")
    assert one.state == "wrong" and str(newest if damage == "manifest" else part) in one.says
    assert wrong(used) == ["checkpoint"]


def test_a_data_directory_that_can_not_be_made_is_named(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    one = found(settings.model_copy(update={"data_dir": tmp_path / "file" / "data"}), "data directory")
    assert one.state == "wrong" and str(tmp_path / "file") in one.says and "--data-dir" in one.do


def test_a_disk_without_room_is_told_with_what_is_needed(used: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage(used.data_dir).free
    monkeypatch.setattr(doctor, "LEAST_FREE", free + (1 << 40))
    one = found(used, "disk")
    assert one.state == "wrong" and "free at least" in one.do and "log " in one.says


def test_a_model_and_saes_that_lack_a_file_are_named(settings: Settings, tmp_path: Path) -> None:
    model, saes = tmp_path / "model", tmp_path / "saes"
    shutil.copytree(DEMO / "model", model)
    shutil.copytree(DEMO / "saes", saes)
    asked = settings.model_copy(update={"dictionary": None, "model": str(model), "saes": str(saes)})
    assert wrong(asked) == []
    (model / "tokenizer.json").unlink()
    assert "has no tokenizer.json" in found(asked, "model").says
    weights = next(saes.glob("*/sae_weights.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-5])
    assert str(weights) in found(asked, "SAEs").says and "its head says" in found(asked, "SAEs").says
    (weights.parent / "cfg.json").unlink()
    assert "has no cfg.json" in found(asked, "SAEs").says
    for name in ("./nowhere", str(tmp_path / "nowhere")):
        assert "there is no folder" in found(asked.model_copy(update={"model": name, "saes": name}), "model").says
    assert found(asked.model_copy(update={"model": "gpt2", "saes": "gpt2-small-res-jb"}), "SAEs").state == "ok"


def test_a_gpu_is_looked_for_when_it_is_asked_for(settings: Settings) -> None:
    one = found(settings.model_copy(update={"device": "cuda"}), "device")
    if torch.cuda.is_available():
        assert one.state == "ok" and "GiB free" in one.says
    else:
        assert one.state == "wrong" and "--device cpu" in one.do


def test_a_redis_that_does_not_answer_is_told_without_its_password(settings: Settings, tmp_path: Path) -> None:
    one = found(settings.model_copy(update={"redis_url": "redis://:secret@127.0.0.1:1/0"}), "Redis")
    assert one.state == "wrong" and "127.0.0.1:1" in one.says and "secret" not in str(one)
    redis = PrivateRedis(tmp_path / "redis")
    try:
        assert found(settings.model_copy(update={"redis_url": redis.start()}), "Redis").state == "ok"
    finally:
        redis.stop()


def test_a_port_that_something_else_has_is_told(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        one = found(settings.model_copy(update={"port": port}), "port")
    assert one.state == "wrong" and str(port) in one.says


def test_a_wrong_finding_is_exit_status_1(tmp_path: Path) -> None:
    words = ["doctor", "--data-dir", str(tmp_path), "--port", "0", "--redis-url", "redis://127.0.0.1:1"]
    ended = subprocess.run([sys.executable, "-m", "api.cli", *words], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1 and "✗ Redis" in ended.stdout
