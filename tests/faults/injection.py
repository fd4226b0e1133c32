"""What goes wrong inside the processes of a server under test, as the files of a control folder say.

Nothing of it is in the product: `site/sitecustomize.py` installs it, and the seams are `engine.durable.disk` and Python's `time`.

    engine, api       a `Plan` for that process: at which step what happens. It is renamed to engine.fired, api.fired as it does
    clock             float64: seconds by which `time.time` is ahead
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import signal
import struct
import sys
import time
from pathlib import Path
from typing import IO, Literal

import msgspec

from engine import durable

FOLDER = "SAESTREAM_FAULTS"
"""Environment variable that names the control folder."""

PROCESSES = {"engine.main": "engine", "api.server": "api"}
_CLOCK = struct.Struct("<d")

Step = str
"""An operation of `durable.Disk` and what it is done to: "segment rename", "table write"; "*": any."""


class Plan(msgspec.Struct, frozen=True):
    """One fault.

    Attributes:
        step: where.
        when: before the operation, after it, or with half of a write written.
        skip: how often the step is let pass first.
        fault: SIGKILL to the process itself, or an error of the disk.
        lasting: every such step fails until the plan is removed (an error only).
    """

    step: Step
    when: Literal["before", "middle", "after"] = "before"
    skip: int = 0
    fault: Literal["kill", "ENOSPC", "EIO"] = "kill"
    lasting: bool = False

    def put(self, folder: Path, process: str) -> None:
        """Let it happen in this process (of `PROCESSES`)."""
        (folder / f"{process}.fired").unlink(missing_ok=True)
        waiting = folder / f"{process}.new"
        waiting.write_bytes(msgspec.json.encode(self))
        waiting.rename(folder / process)


def set_clock(folder: Path, ahead: float) -> None:
    """Let the clocks of all processes be ahead, or behind."""
    with open(folder / "clock", "r+b" if (folder / "clock").exists() else "w+b") as file:
        file.write(_CLOCK.pack(ahead))


def what_is_written(path: Path) -> str:
    """The kind of a file or folder of the data directory, by its path."""
    name = re.sub(r"^\.(.+)\.[0-9a-f]{8}\.partial$", r"\1", path.name)
    match path.parts[-3:-1], name:
        case (*_, "log"), _:
            return "segment"
        case (*_, "checkpoints"), _:
            return "manifest" if name.endswith(".manifest") else "checkpoint"
        case ("checkpoints", _), _:
            return "table" if name.startswith("pairs-") else "part"
        case ("incoming", _), "body":
            return "body"
        case ("incoming", _), "manifest":
            return "receipt"
        case (*_, "incoming"), _:
            return "arrival"
        case (*_, "uploads"), _:
            return "upload"
    return name


class FaultyDisk(durable.Disk):
    """Does what the plan of its process says."""

    def __init__(self, plan: Path) -> None:
        self._path = plan
        self._plan: Plan | None = None
        self._seen: tuple[int, int] | None = None
        self._passed = 0

    def _reach(self, operation: str, path: Path, when: Literal["before", "middle", "after"]) -> None:
        try:
            stat = os.stat(self._path)
        except FileNotFoundError:
            return
        if self._seen != (stat.st_ino, stat.st_mtime_ns):
            self._plan, self._passed = msgspec.json.decode(self._path.read_bytes(), type=Plan), 0
            self._seen = stat.st_ino, stat.st_mtime_ns
        plan = self._plan
        if plan is None or plan.when != when or plan.step not in ("*", f"{what_is_written(path)} {operation}"):
            return
        self._passed += 1
        if self._passed <= plan.skip:
            return
        if not plan.lasting:
            self._path.rename(self._path.with_suffix(".fired"))
        if plan.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        code = errno.ENOSPC if plan.fault == "ENOSPC" else errno.EIO
        raise OSError(code, os.strerror(code))

    def create(self, path: Path) -> IO[bytes]:
        self._reach("create", path, "before")
        file = super().create(path)
        self._reach("create", path, "after")
        return file

    def write(self, file: IO[bytes], data: bytes | memoryview) -> None:
        path, half = Path(file.name), len(data) // 2
        self._reach("write", path, "before")
        super().write(file, data[:half])
        self._reach("write", path, "middle")
        super().write(file, data[half:])
        self._reach("write", path, "after")

    def sync(self, file: IO[bytes]) -> None:
        self._reach("sync", Path(file.name), "before")
        super().sync(file)
        self._reach("sync", Path(file.name), "after")

    def rename(self, source: Path, target: Path) -> None:
        self._reach("rename", target, "before")
        super().rename(source, target)
        self._reach("rename", target, "after")

    def sync_folder(self, folder: Path) -> None:
        self._reach("sync_folder", folder, "before")
        super().sync_folder(folder)
        self._reach("sync_folder", folder, "after")

    def make_folder(self, path: Path) -> None:
        self._reach("make_folder", path, "before")
        super().make_folder(path)
        self._reach("make_folder", path, "after")

    def remove(self, path: Path) -> None:
        self._reach("remove", path, "before")
        super().remove(path)
        self._reach("remove", path, "after")

    def remove_folder(self, path: Path) -> None:
        self._reach("remove_folder", path, "before")
        super().remove_folder(path)
        self._reach("remove_folder", path, "after")


def install() -> None:
    """Put the seams into this process."""
    folder = Path(os.environ[FOLDER])
    _shift_the_clock(folder)
    words = set(sys.orig_argv)
    for module, process in PROCESSES.items():
        if module in words:
            durable.disk = FaultyDisk(folder / process)
    if "engine.main" in words:
        from engine.counts import checkpoint

        checkpoint.SHARE = 1  # saves are what is tested here: as often as counting leaves time for
    if "api.cli" in words:
        from engine import supervisor

        supervisor._LONGEST_PAUSE = 0.0  # a child that dies ten times a minute is wanted here


def _shift_the_clock(folder: Path) -> None:
    with open(folder / "clock", "r+b") as file:
        ahead = mmap.mmap(file.fileno(), _CLOCK.size)
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + _CLOCK.unpack_from(ahead)[0]
    time.time_ns = lambda: now_ns() + round(1e9 * _CLOCK.unpack_from(ahead)[0])
