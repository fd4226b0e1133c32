"""Logs: lines that say what they are about, whichever process writes them, and that no client can forge."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator

import pytest

from engine import logs
from engine.logs import Format, about, current

HOSTILE = 'name\nFAKE ERROR line \x1b[2J\x07 "quoted" \u2028 ünï'


@pytest.fixture
def root() -> Iterator[None]:
    """The root logger, as it was before."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


def logged(form: Format, log_requests: bool = False) -> io.StringIO:
    stream = io.StringIO()
    logs.setup("engine", form, log_requests, stream)
    return stream


def test_json_lines_hold_message_ids_and_traceback(root: None) -> None:
    stream = logged("json")
    with about(request="r1", upload=None, segment=0):
        logging.getLogger("a.b").info("hello %s", HOSTILE)
        try:
            raise ValueError("of a kind")
        except ValueError:
            logging.getLogger("a.b").exception("broken")
    logging.getLogger("a.b").debug("not shown")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first | {"time": ""} == {
        **{"time": "", "level": "info", "process": "engine", "logger": "a.b"},
        **{"message": f"hello {HOSTILE}", "request": "r1", "segment": 0},
    }
    assert second["message"] == "broken" and "ValueError: of a kind" in second["error"]
    assert first["time"].endswith("+00:00") and first["time"] <= second["time"]


def test_a_name_can_neither_begin_a_line_nor_speak_to_the_terminal(root: None) -> None:
    stream = logged("human")
    logging.getLogger("x").warning("corpus %s", HOSTILE)
    (line,) = stream.getvalue().split("\n")[:-1]
    assert line.isprintable() and line.endswith('engine WARNING corpus name\\nFAKE ERROR line \\x1b[2J\\x07 "quoted" \\x2028 ünï')


def test_ids_belong_to_the_thread_and_end_with_their_context(root: None) -> None:
    stream = logged("human")
    log = logging.getLogger("x")
    with about(request="r1"):
        with about(segment=7):
            log.info("both")
            other = threading.Thread(target=log.info, args=("another thread",))
            other.start()
            other.join()
        assert current("request") == "r1" and current("segment") == ""
    log.info("after")
    assert [line.partition("INFO ")[2] for line in stream.getvalue().splitlines()] == [
        "both [request r1, segment 7]",
        "another thread",
        "after",
    ]


@pytest.mark.parametrize(
    ("log_requests", "lines"), [(False, ["slow in 1500.0 ms"]), (True, ["quick in 0.5 ms", "slow in 1500.0 ms"])]
)
def test_requests_are_logged_when_slow_or_when_asked_for(root: None, log_requests: bool, lines: list[str]) -> None:
    stream = logged("json", log_requests)
    logs.request_took(0.0005, "%s", "quick")
    logs.request_took(1.5, "%s", "slow")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == lines
