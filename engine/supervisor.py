"""`saestream serve`: a small process that owns the others and imports nothing heavy.

1. Take the lock on the data directory, see that the port is free.
2. Start the private Redis (or reach the one that was given), then the engine, the API and the analysis
   worker as children.
3. Restart what dies, later each time; stop everything when a child says that its configuration can't work.
4. SIGTERM or SIGINT: the engine first (it saves a checkpoint), then the others, then Redis.

When this process is killed, even with SIGKILL, its children are killed by the kernel (`PR_SET_PDEATHSIG`, which fires when the
*thread* that forked ends: children are started from the main thread only).
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

from engine.errors import AlreadyRunning, BadInput, NoRedis
from engine.settings import Settings
from engine.views.redis_server import PrivateRedis

log = logging.getLogger(__name__)

SETTINGS_VARIABLE = "SAESTREAM_RUN_SETTINGS"
KEY_VARIABLE = "SAESTREAM_API_KEY"
REFUSED = 3
"""Exit status of a child that can't work with these settings: the run ends instead of restarting it for ever."""

# glibc gives large blocks back to the kernel after each use and pays for it in page faults: 3-5 k tokens/s of forward and encode
# with its defaults, 9-10 k with these (demo model, 2 cores).
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592", "MALLOC_TOP_PAD_": "268435456"}
# OpenMP's threads spin while they wait for each other. Beside any other load that takes the core from the thread they wait for: 80
# tokens/s beside two busy processes on 2 cores, 2,300 with threads that sleep.
_OPENMP = {"OMP_WAIT_POLICY": "PASSIVE"}
ENGINE_ENVIRONMENT = {**_MALLOC, **_OPENMP, "TOKENIZERS_PARALLELISM": "false"}

# The analysis worker takes what is left of one core, not of all.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

_STOP_SECONDS = 60.0  # a checkpoint at GPT-2 size takes tens of seconds
_LONGEST_PAUSE = 30.0  # seconds between restarts, at most
_STEADY_SECONDS = 60.0  # a child that ran this long starts again without a pause


def lock(path: Path, what: str, wait_seconds: float = 0.0) -> IO[str]:
    """Take an exclusive lock on a file, and write our process id into it.

    Raises:
        AlreadyRunning: another process holds it (also one that is stopped); the message names its process id.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                file.close()
                message = f"{what} of {path.parent} is already running (process {holder}); stop it or give another --data-dir"
                raise AlreadyRunning(message) from error
            time.sleep(0.05)
    file.seek(0)
    file.truncate()
    file.write(str(os.getpid()))
    file.flush()
    return file


def check_port(host: str, port: int) -> None:
    """See that `host:port` can be bound.

    Raises:
        AlreadyRunning: it can't; the message names address and reason.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise AlreadyRunning(f"can't listen on {host}:{port}: {error.strerror}; free it or give another --port") from error


def check_keys(settings: Settings) -> None:
    """See that nobody opens the port to others without a key.

    Raises:
        BadInput: somebody does; the message says what to do. DamagedFile: the file of keys can't be read.
    """
    file = settings.api_keys
    if not file.read() and settings.api_key is None and settings.open_port:
        raise BadInput(
            f"--host {settings.host} lets others in, and there is no API key ({file.path} has none): make one with "
            f"`saestream keys add NAME --scope write --data-dir {settings.data_dir}`, or leave --host out and stay on 127.0.0.1"
        )


def check_redis(url: str) -> None:
    """See that the Redis that was given answers.

    Raises:
        NoRedis: it does not; the message names the address (without its password) and the reason.
    """
    import redis

    try:
        with redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5) as client:
            client.ping()
    except (redis.RedisError, ValueError, OSError) as error:
        shown = url.rpartition("@")[2] if "@" in url else url
        raise NoRedis(
            f"--redis-url {shown}: no Redis answers there ({error.__class__.__name__}); start one or leave the option out"
        ) from error


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent's main thread ends; run in the child between fork and exec."""
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)


@dataclass
class Child:
    """One supervised process: how to start it, and how often it has died."""

    name: str
    module: str
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    start_at: float = 0.0
    deaths: int = field(default=0)

    def start(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-m", self.module], env=self.environment, preexec_fn=die_with_parent)
        self.started = time.monotonic()
        log.info("%s started (process %d)", self.name, self.process.pid)

    def died(self) -> int | None:
        """The exit status of a process that ended since the last call, once; else None."""
        if self.process is None or (status := self.process.poll()) is None:
            return None
        self.process = None
        self.deaths = 1 if time.monotonic() - self.started > _STEADY_SECONDS else self.deaths + 1
        pause = min(_LONGEST_PAUSE, 0.25 * 2 ** (self.deaths - 1)) if self.deaths > 1 else 0.0
        self.start_at = time.monotonic() + pause
        return status

    def stop(self, seconds: float) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            log.error("%s did not end within %.0f s of SIGTERM: killed", self.name, seconds)
            self.process.kill()
            self.process.wait()
        self.process = None


class Supervisor:
    """Owns Redis, engine, API and analysis worker of one data directory."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._stop = False
        self._redis: PrivateRedis | None = None

    def run(self, on_start: Callable[[], None] | None = None) -> int:
        """Serve until SIGTERM or SIGINT; the exit status is 0 then, and the child's where one refused its configuration.

        Raises:
            AlreadyRunning: data directory locked or port taken. NoRedis: none found or none answers. BadInput: an open port without
            an API key.
        """
        settings = self.settings
        check_keys(settings)
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)  # texts are their owner's
        holder = lock(settings.data_dir / "serve.lock", "a server")
        try:
            check_port(settings.host, settings.port)
            if settings.redis_url is None:
                self._redis = PrivateRedis(settings.data_dir / "redis")
                settings = settings.model_copy(update={"redis_url": self._redis.start()})
            else:
                check_redis(settings.redis_url)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_signal)
            environment = {**os.environ, SETTINGS_VARIABLE: settings.model_dump_json()}
            environment.pop(KEY_VARIABLE, None)  # the settings hold its hash
            children = [
                Child("engine", "engine.main", {**ENGINE_ENVIRONMENT, **environment}),
                Child("API", "api.server", environment),
                Child("analysis", "engine.analysis.main", {**environment, **_ONE_THREAD}),
            ]
            if on_start:
                on_start()
            return self._watch(children)
        finally:
            if self._redis:
                self._redis.stop()
            holder.close()

    def _watch(self, children: list[Child]) -> int:
        status = 0
        while not self._stop and status != REFUSED:
            for child in children:
                if child.process is None and time.monotonic() >= child.start_at:
                    child.start()
                elif (ended := child.died()) is not None and not self._stop:
                    if ended == REFUSED:
                        status = REFUSED
                        break
                    log.error("%s ended with status %d: it is started again", child.name, ended)
            if self._redis and not self._redis.alive():
                log.error("Redis ended: it is started again, and the engine publishes everything anew")
                self._redis.start()
            time.sleep(0.1)
        for child in children:
            child.stop(_STOP_SECONDS)
        return status

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop = True
