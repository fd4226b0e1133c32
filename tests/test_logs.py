"""Logs: lines that say what they are about, whichever process writes them, and that no client can forge."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from engine import logs
from engine.logs import Format, about, current
from tests.service import Service, eventually, pack_frame, serving, sparse

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


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    options = ("--dictionary", "6,6", "--log-format", "json")
    environment = {"SAESTREAM_LOG_REQUESTS": "true", "SAESTREAM_CHECKPOINT_INTERVAL": "0"}
    with serving(tmp_path_factory.mktemp("logs"), *options, environment=environment) as service:
        yield service


def lines(service: Service) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (service.data_dir / "serve.log").read_text().splitlines()]


def told(service: Service, **ids: object) -> list[tuple[str, str]]:
    """Process and message of the lines about these, once there are some of another process than the API."""

    def look() -> list[tuple[str, str]] | None:
        found = [line for line in lines(service) if ids.items() <= line.items()]
        return [(line["process"], line["message"]) for line in found] if {line["process"] for line in found} - {"API"} else None

    return eventually(f"lines about {ids}", look)


def test_an_upload_is_followed_from_the_request_to_the_counts(service: Service) -> None:
    frame = pack_frame("one", [sparse(np.eye(4, 6, dtype=np.float32))] * 2)
    answer = service.http.post(
        "/v1/activations?name=logged",
        content=frame,
        headers={"Content-Type": "application/x-msgpack", "X-Request-Id": "from.the-client_1"},
    )
    upload = answer.json()["id"]
    assert answer.headers["x-request-id"] == "from.the-client_1"
    service.until_counted({"id": upload})
    said = told(service, upload=upload)
    assert ("API", f"upload of corpus logged taken: 1 documents, {len(frame)} bytes") in said
    assert ("engine", "an upload is counted: 4 tokens, 0 set aside") in said
    (line,) = [one for one in lines(service) if one.get("upload") == upload and one["process"] == "API"]
    assert line["request"] == "from.the-client_1"
    (line,) = [one for one in lines(service) if one.get("upload") == upload and one["process"] == "engine"]
    assert next(message for _, message in told(service, segment=line["segment"])).startswith("counted: 4 tokens in ")
    eventually("a checkpoint", lambda: any(one["message"].startswith("checkpoint saved: 4 tokens") for one in lines(service)))


@pytest.mark.parametrize(
    ("path", "process", "question"),
    [
        ("/v1/similarity?up=0:1&down=1:1", "engine", "SimilarityRequest: answered"),
        ("/v1/similarity?up=0:1&down=1:1&corpus=logged", "engine", "SimilarityRequest: "),
        ("/v1/features/0/1/contexts", "engine", "ContextsRequest: answered"),
        ("/v1/flow", "analysis", "FlowRequest: answered"),
    ],
)
def test_a_live_query_has_one_id_in_its_answer_and_in_the_lines_of_both_processes(
    service: Service, path: str, process: str, question: str
) -> None:
    request = service.http.get(path).headers["x-request-id"]
    said = told(service, request=request)
    assert any(name == process and message.startswith(question) for name, message in said), said
    assert any(name == "API" and message.startswith("GET /v1/") for name, message in said), said


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "ünï", "a\tb"], ids=["none", "blank", "long", "not-ascii", "control"])
def test_every_answer_has_an_id_that_can_be_logged(service: Service, given: str) -> None:
    seen = set()
    for path in ("/livez", "/v1/nowhere", "/v1/features/9/9", "/", "/web/nothing.js", "/v1/corpora?limit=0"):
        answer = service.http.get(path, headers={"X-Request-Id": given.encode()} if given else {})
        assert len(answer.headers["x-request-id"]) == 16 and answer.headers["x-request-id"].isalnum()
        seen.add(answer.headers["x-request-id"])
    assert len(seen) == 6


def test_every_line_of_every_process_is_json(service: Service) -> None:
    assert {line["process"] for line in lines(service)} == {"supervisor", "engine", "API", "analysis"}
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines(service))
