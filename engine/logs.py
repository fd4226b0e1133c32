"""What the processes log: a line for a person or, with `log_format = "json"`, one JSON object a line.

A line says what it is about by ids that come from its context (`about`), so that code far below says them without being told:

    request    of an HTTP request: in its answer's `X-Request-Id`, in the API's lines, and in the engine's on its behalf
    upload     id of the upload
    segment    number of the batch in the corpus log

Control characters in a message are escaped, in both forms: a name that a client chose can neither begin a line of its own nor
speak to the terminal.
"""

from __future__ import annotations

import datetime
import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import IO, Literal

Format = Literal["human", "json"]

SLOW_SECONDS = 1.0
"""A request that took longer is logged also where requests are not."""

requests = logging.getLogger("saestream.requests")
"""A line for each request, at INFO, or at WARNING for a slow one."""

_about: ContextVar[dict[str, str | int]] = ContextVar("about", default={})  # noqa: B039  (never changed in place)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


@contextmanager
def about(**ids: str | int | None) -> Iterator[None]:
    """What is logged in here, by this thread or task, is about these; None and empty ones say nothing."""
    token = _about.set({**_about.get(), **{name: value for name, value in ids.items() if value not in (None, "")}})
    try:
        yield
    finally:
        _about.reset(token)


def current(name: str) -> str:
    """The id of this name here, or ""."""
    return str(_about.get().get(name, ""))


def request_took(seconds: float, text: str, *values: object) -> None:
    """Log a request that was answered."""
    requests.log(logging.WARNING if seconds >= SLOW_SECONDS else logging.INFO, f"{text} in %.1f ms", *values, 1e3 * seconds)


def setup(process: str, form: Format, log_requests: bool, stream: IO[str] | None = None) -> None:
    """Send what this process logs, from INFO on, to `stream` (standard error)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter((_JsonLines if form == "json" else _Human)(process))
    handler.addFilter(_with_ids)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    requests.setLevel(logging.INFO if log_requests else logging.WARNING)


def _with_ids(record: logging.LogRecord) -> bool:
    record.ids = _about.get()
    return True


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


class _Human(logging.Formatter):
    """`2026-01-31 12:00:00,000 API INFO message [request 3f…]`, and a traceback below it."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        ids: dict[str, str | int] = record.__dict__.get("ids", {})
        told = f" [{', '.join(f'{name} {value}' for name, value in ids.items())}]" if ids else ""
        message = _escaped(record.getMessage()).replace("\n", "\\n")
        line = f"{self.formatTime(record)} {self._process} {record.levelname} {message}{told}"
        return f"{line}\n{_escaped(self.formatException(record.exc_info))}" if record.exc_info else line


class _JsonLines(logging.Formatter):
    """time (UTC), level, process, logger, message, the ids, and `error` with the traceback of an exception."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
            **record.__dict__.get("ids", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)
