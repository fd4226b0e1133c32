"""`python -m api.server`: the API process of a run, started and restarted by the supervisor.

1. Settings from the environment variable that the supervisor set.
2. The socket is bound here, before anything else, so that a taken port ends the process with status 3 and a sentence.
3. The app is put behind its gate (`api.gate`), and every connection under its clocks (`api.connection`).
4. Serve until SIGTERM or SIGINT: event streams end at once, other requests get a few seconds to finish.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import sys
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from pydantic import ValidationError

from api.app import create_app
from api.connection import Connection
from api.gate import Gate
from api.kept_answers import KeptAnswers
from api.observed import Observed
from api.rate_limit import RateLimit
from engine import logs
from engine.errors import AlreadyRunning, BadInput
from engine.settings import Settings

log = logging.getLogger(__name__)

SETTINGS_VARIABLE = "SAESTREAM_RUN_SETTINGS"
REFUSED = 3
"""Exit status that tells the supervisor not to start this process again: its settings can't work."""

_GRACE_SECONDS = 5  # longer than any answer but a waiting upload, which is durable by then and can be asked for again


class Server(uvicorn.Server):
    """Tells the app about SIGTERM before it waits for open connections: an event stream would keep one open for ever."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; the signal is not raised again at the end, so that a graceful stop ends with status 0."""
        self.should_exit = True
        asyncio.get_running_loop().call_soon_threadsafe(self._stopping.set)


def read_settings() -> Settings:
    """The settings that the supervisor handed down.

    Raises:
        BadInput: the variable is missing or is not a run's settings.
    """
    text = os.environ.get(SETTINGS_VARIABLE)
    if text is None:
        raise BadInput(f"{SETTINGS_VARIABLE} is not set: api.server is started by `saestream serve`")
    try:
        return Settings.model_validate_json(text)
    except ValidationError as error:
        raise BadInput(f"{SETTINGS_VARIABLE} does not hold a run's settings: {error}") from error


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        AlreadyRunning: the address can't be bound; the message names it and the reason.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit it. asyncio sets it on sockets of its own only, and without it the body of every answer on a kept
    # connection waits for the acknowledgement of its head: 44 ms instead of 1.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        bound.bind((host, port))
        bound.listen(2048)
    except OSError as error:
        bound.close()
        raise AlreadyRunning(f"can't listen on {host}:{port}: {error.strerror}; free it or give another --port") from error
    return bound


def main() -> int:
    """Serve one run; the exit status."""
    logs.setup("API", "human", log_requests=False)  # until the settings say how
    try:
        settings = read_settings()
        logs.setup("API", settings.log_format, settings.log_requests)
        app = create_app(settings)
        bound = bind(settings.host, settings.port)
    except (BadInput, AlreadyRunning) as error:
        log.error("%s", error.message)
        return REFUSED
    state = app.state
    answers = KeptAnswers(app, state.views, state.strongest_texts)
    gated: Any = Gate(answers, settings, RateLimit(state.redis, settings))
    observed: Any = Observed(gated, state.metrics)  # uvicorn spells the types of ASGI in another way
    config = uvicorn.Config(
        observed,
        http=partial(Connection, settings.slow_seconds),  # pyright: ignore[reportArgumentType]  (called, never subclassed)
        ws="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
    )
    # Many systems begin with 1,024, which some hundred event streams use up.
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    log.info("listening on http://%s:%d", shown, bound.getsockname()[1])
    asyncio.run(Server(config, app.state.stopping).serve(sockets=[bound]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
