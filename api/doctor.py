"""`saestream doctor`: whether a run can start with these settings, or how the one that runs is; and what to do about what is wrong.

Every check looks and changes nothing (a file is written there and removed), with the server running and without. Checks
are in the order in which a start would meet them.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import re
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import httpx

from engine.corpus.segment_file import read_segment, read_segment_header, segment_path
from engine.errors import DamagedFile, SaestreamError
from engine.settings import Settings
from engine.supervisor import check_keys, check_port, check_redis
from engine.views.redis_server import find_server

DEMO = Path(__file__).parents[1] / "engine" / "demo"
LEAST_FREE = 256 << 20  # an upload, a segment and a checkpoint of the demo; below it a run ends in 507 soon
_SECONDS = 5.0


class Finding(NamedTuple):
    """What a check found: fine, worth a look, or in the way of a run; and what to do about it."""

    check: str
    state: Literal["ok", "warning", "wrong"]
    says: str
    do: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Every check, in order."""
    running = is_running(settings.data_dir)
    checks: list[tuple[str, Callable[[Settings, bool], Finding]]] = [
        ("Python and packages", versions),
        ("data directory", data_directory),
        ("disk", disk),
        ("model", model),
        ("SAEs", saes),
        ("device", device),
        ("Redis", redis_server),
        ("corpus log", corpus_log),
        ("checkpoint", checkpoint),
        ("API keys", api_keys),
        ("port", port),
        ("server", server),
    ]
    for name, check in checks:
        try:
            found = check(settings, running)
        except SaestreamError as error:
            found = Finding("", "wrong", f"{error.title}: {error.message}")
        except OSError as error:
            found = Finding(
                "", "wrong", f"{error.filename or name}: {error.strerror}", "see who owns it, and whether the disk works"
            )
        yield found._replace(check=name)


def is_running(data_dir: Path) -> bool:
    """Whether a server holds the data directory."""
    try:
        with (data_dir / "serve.lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def ok(says: str) -> Finding:
    return Finding("", "ok", says)


def wrong(says: str, do: str) -> Finding:
    return Finding("", "wrong", says, do)


def warning(says: str, do: str) -> Finding:
    return Finding("", "warning", says, do)


def versions(settings: Settings, running: bool) -> Finding:
    """Python, and every package that ours needs."""
    try:
        needed = [need for need in importlib.metadata.requires("saestream") or [] if "extra ==" not in need]
    except importlib.metadata.PackageNotFoundError:
        return wrong("saestream is not installed in this Python", "make install")
    missing = []
    for need in needed:
        name = re.match(r"[A-Za-z0-9._-]+", need)
        assert name is not None, need
        try:
            importlib.metadata.version(name[0])
        except importlib.metadata.PackageNotFoundError:
            missing.append(name[0])
    if missing:
        return wrong(f"packages are missing: {', '.join(missing)}", "make install")
    told = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "sae-lens", "transformer-lens", "litestar"))
    return ok(f"Python {sys.version.split()[0]}, {told}")


def data_directory(settings: Settings, running: bool) -> Finding:
    """Whether a file can be written, synced and removed there."""
    folder = _existing(settings.data_dir)
    if not folder.is_dir():
        return wrong(f"{folder} is no folder", "give another --data-dir")
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return wrong(f"{folder} can't be written: {error.strerror}", "make it writable, or give another --data-dir")
    there = "" if folder == settings.data_dir else ", to be made at the first start"
    return ok(f"{settings.data_dir.absolute()}{there}")


def disk(settings: Settings, running: bool) -> Finding:
    """Whether the disk has room for the next checkpoint beside the last two."""
    free = shutil.disk_usage(_existing(settings.data_dir)).free
    used = {name: _bytes_in(settings.data_dir / name) for name in ("inbox", "log", "checkpoints")}
    told = f"{_size(free)} free; " + ", ".join(f"{name} {_size(size)}" for name, size in used.items())
    need = max(LEAST_FREE, used["checkpoints"])
    if free < LEAST_FREE:
        return wrong(
            told, f"free at least {_size(LEAST_FREE)}: nothing stored is lost, but uploads are refused and nothing is saved"
        )
    if free < need:
        return warning(told, f"free {_size(need)}: the next checkpoint may not fit beside those that are kept")
    return ok(told)


def model(settings: Settings, running: bool) -> Finding:
    """Whether a local model has its files; a hub's is only seen when it is loaded."""
    if settings.dictionary is not None:
        return ok("none: activations are pushed (--dictionary)")
    folder = Path(settings.model or DEMO / "model")
    if not folder.is_dir():
        return _of_the_hub(settings.model or "", "model")
    missing = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    weights = sorted(folder.glob("*.safetensors"))
    if missing or not weights:
        lacks = ", ".join([*missing, *([] if weights else ["*.safetensors"])])
        return wrong(f"{folder} has no {lacks}", "give the folder that save_pretrained wrote, with its tokenizer, as safetensors")
    tensors = sum(len(_tensors(path)) for path in weights)
    return ok(f"{folder}: {json.loads((folder / 'config.json').read_text()).get('model_type', 'unknown')}, {tensors} tensors")


def saes(settings: Settings, running: bool) -> Finding:
    """Whether a local folder has SAEs, and each its settings and weights."""
    if settings.dictionary is not None:
        return ok(f"{len(settings.dictionary)} layers of {', '.join(map(str, settings.dictionary))} features are pushed")
    folder = Path(settings.saes or DEMO / "saes")
    if not folder.is_dir():
        return _of_the_hub(settings.saes or "", "SAEs")
    found = sorted(path for path in folder.iterdir() if path.is_dir())
    if not found:
        return wrong(f"{folder} has no SAE folder", "give a folder with one SAE folder per hook point, as save_model writes them")
    sizes = []
    for path in found:
        lacks = [name for name in ("cfg.json", "sae_weights.safetensors") if not (path / name).is_file()]
        if lacks:
            return wrong(f"{path} has no {', '.join(lacks)}", "save it anew with SAELens' save_model")
        sizes.append(json.loads((path / "cfg.json").read_text())["d_sae"])
        _tensors(path / "sae_weights.safetensors")
    return ok(f"{folder}: {len(found)} hook points, {sum(sizes):,} features")


def device(settings: Settings, running: bool) -> Finding:
    """The GPU, if it is asked for."""
    if settings.device != "cuda":
        return ok("cpu")
    import torch  # some seconds: only who asks for a GPU waits for it

    if not torch.cuda.is_available():
        built = f"PyTorch {torch.__version__} was built " + (
            f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        )
        return wrong(f"PyTorch finds no GPU ({built})", "install a driver and a build of PyTorch that fit, or use --device cpu")
    free, total = torch.cuda.mem_get_info()
    return ok(f"{torch.cuda.get_device_name()}, {_size(free)} of {_size(total)} free")


def redis_server(settings: Settings, running: bool) -> Finding:
    """The Redis that was given, or the program of a private one."""
    if settings.redis_url is not None:
        check_redis(settings.redis_url)
        return ok("the one that --redis-url names answers")
    if running and (figures := _get(settings, "/metrics")) is not None and "saestream_redis_up 0" in figures.text:
        return warning("the private one does not answer", "nothing is lost, it is started again; if not, see the server's log")
    return ok(f"a private one is started: {find_server()}")


def corpus_log(settings: Settings, running: bool) -> Finding:
    """Whether the newest segment is whole, and none before it is missing."""
    folder = settings.data_dir / "log"
    numbers = sorted(int(path.stem) for path in folder.glob("*.seg") if path.stem.isdigit()) if folder.is_dir() else []
    if not numbers:
        return ok("empty: nothing was sent yet")
    gaps = [number for number in range(numbers[0], numbers[-1]) if number not in set(numbers)]
    if gaps:
        return wrong(
            f"{segment_path(folder, gaps[0])} is missing",
            "a start goes on without it where it is counted, and else makes it again from its uploads",
        )
    try:
        end = read_segment_header(folder, numbers[-1]).end_position
        read_segment(folder, numbers[-1])
    except (DamagedFile, FileNotFoundError) as error:
        if running and not segment_path(folder, numbers[-1]).exists():
            return ok("segments come and go: the server is at work")
        return wrong(str(error), "a start makes it again from its uploads, where it is not counted yet; its log says so")
    return ok(f"{len(numbers):,} segments, {end:,} tokens; the newest is whole")


def checkpoint(settings: Settings, running: bool) -> Finding:
    """Whether the newest checkpoint has its manifest and every file in its size, and how old it is."""
    from engine.counts.checkpoint import Checkpoints  # imports torch: some seconds, which only this command takes

    folder = settings.data_dir / "checkpoints"
    if not folder.is_dir() or not any(folder.glob("*.manifest")):
        return ok("none yet: a start counts the log from its first token")
    for left in (2, 1, 0):
        try:
            number, manifest = Checkpoints(folder).newest_manifest()
            break
        except FileNotFoundError:
            if not (running and left):  # a newer one may have taken its place
                raise
    age = time.time() - manifest.saved_at
    told = f"number {number} of {_ago(age)} ago, {manifest.tokens:,} tokens"
    late = 20 * max(60.0, settings.checkpoint_interval)
    if running and age > late and _tokens_counted(settings) not in (None, manifest.tokens):
        return warning(f"{told}: more was counted since", "see /v1/status (problem) and the server's log: saves may fail")
    return ok(told)


def api_keys(settings: Settings, running: bool) -> Finding:
    """Whether there is a key, where others than this machine can reach the port."""
    check_keys(settings)
    count = len(settings.api_keys.read()) + (settings.api_key is not None)
    return ok(f"{count}; {'needed' if settings.open_port else 'not needed on this machine alone'}")


def port(settings: Settings, running: bool) -> Finding:
    """Whether the port is ours, or free."""
    where = f"{settings.host}:{settings.port}"
    if running and _get(settings, "/livez") is not None:
        return ok(f"{where}: the server listens")
    if settings.port == 0:
        return ok("any free one (--port 0)")
    check_port(settings.host, settings.port)
    return (
        warning(f"{where} is free, and a server runs", "give the --port that it was started with")
        if running
        else ok(f"{where} is free")
    )


def server(settings: Settings, running: bool) -> Finding:
    """How the server is, if it runs."""
    if not running:
        return ok("not running")
    status = _get(settings, "/v1/status")
    if status is None:
        return wrong("it runs and does not answer", "see its log; it may be starting, or listen on another port")
    if status.status_code in (401, 403):
        return warning("it answers, and wants a key for its status", "ask /v1/status with one")
    found = status.json()
    if found.get("problem"):
        return wrong(found["problem"], "it goes on by itself when that is mended")
    ready = _get(settings, "/readyz")
    if ready is None or ready.status_code != 200:
        why = ready.json().get("detail", "") if ready is not None else "no answer"
        return warning(f"{found['state']}, not ready: {why}", "wait a little; if it stays so, see its log")
    return ok(f"{found['state']}, {found['tokens']:,} tokens, {found['lag_tokens']:,} not visible yet")


def _existing(folder: Path) -> Path:
    """It, or the nearest above it that there is."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _of_the_hub(name: str, what: str) -> Finding:
    if name.startswith((".", "/", "~")):
        return wrong(f"there is no folder {name}", f"give a folder that there is, or the hub's name of the {what}")
    return ok(f"{name}, from the hub: seen when it is loaded")


def _tensors(path: Path) -> list[str]:
    """Names in a safetensors file, read from its head alone.

    Raises:
        DamagedFile: the head can't be read, or the file is shorter than it says.
    """
    with path.open("rb") as file:
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            head = json.loads(file.read(min(length, 100 << 20)))
            end = max(tensor["data_offsets"][1] for name, tensor in head.items() if name != "__metadata__")
        except (struct.error, ValueError, KeyError, TypeError) as error:
            raise DamagedFile(f"{path} is no safetensors file: get it anew") from error
    if path.stat().st_size != 8 + length + end:
        raise DamagedFile(f"{path} has {path.stat().st_size:,} bytes, its head says {8 + length + end:,}: get it anew")
    return [name for name in head if name != "__metadata__"]


def _get(settings: Settings, path: str) -> httpx.Response | None:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    shown = f"[{host}]" if ":" in host else host
    try:
        return httpx.get(f"http://{shown}:{settings.port}{path}", timeout=_SECONDS)
    except httpx.HTTPError:
        return None


def _tokens_counted(settings: Settings) -> int | None:
    status = _get(settings, "/v1/status")
    return None if status is None or status.status_code != 200 else status.json()["tokens"]


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue  # the server removed it meanwhile
    return total


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _ago(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} seconds"
