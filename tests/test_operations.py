"""Operating a real server: logs that follow an upload and a query, figures for Prometheus, the dashboard, and the doctor."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpus_rig import DICTIONARIES, frame, start_ingest, take_all, upload
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from views_rig import description

from api import doctor
from api.doctor import examine
from engine.corpus.inbox import Inbox
from engine.corpus.log import CorpusLog
from engine.counts.checkpoint import Cursor
from engine.counts.state import State
from engine.figures import Gauges
from engine.settings import Settings
from engine.views.live import LiveQueries
from tests.service import Service, eventually, pack_frame, serving, sparse

OURS = "saestream_"
UNSHOWN = {
    f"{OURS}api_process_{name}" for name in ("cpu_seconds", "max_fds", "open_fds", "start_time_seconds", "virtual_memory_bytes")
}
DASHBOARD = Path(__file__).parents[1] / "docs" / "grafana-dashboard.json"


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


def scraped(service: Service) -> dict[str, Metric]:
    """Name → family, as Prometheus' own parser reads them."""
    answer = service.http.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=")
    families = list(text_string_to_metric_families(answer.text))
    assert len({family.name for family in families}) == len(families)
    return {family.name: family for family in families}


def values(family: Metric) -> dict[str, float]:
    """The only label's value → value; "" without labels."""
    return {",".join(sample.labels.values()): sample.value for sample in family.samples}


def test_the_figures_tell_how_far_text_has_come(service: Service) -> None:
    good = pack_frame("good", [sparse(np.eye(5, 6, dtype=np.float32))] * 2)
    bad = pack_frame("bad", [sparse(np.full((3, 6), np.nan, dtype=np.float32))] * 2)
    before = scraped(service)
    upload = service.push(good + bad, "figures")
    service.until_counted(upload)
    status = eventually("all is published", lambda: (s := service.get("/v1/status"))["lag_tokens"] == 0 and s)
    families = eventually("it is reported", lambda: (f := scraped(service)) and values(f[f"{OURS}set_aside_tokens"])[""] and f)
    told = {name.removeprefix(OURS): values(family) for name, family in families.items()}
    assert told["tokens_counted"][""] == told["tokens_visible"][""] == status["tokens"]
    assert told["tokens_received"][""] == told["tokens_durable"][""] == status["tokens"] + 3
    assert (told["set_aside_documents"][""], told["set_aside_tokens"][""]) == (1, 3)
    assert told["lag_tokens"] == {"sealing": 0, "counting": 0, "publishing": 0}
    assert told["queue_requests"] == {"engine": 0, "analysis": 0}
    for name in ("queue_tokens", "queue_uploads", "queue_segments", "queue_questions", "replay_tokens_left", "problem"):
        assert told[name][""] == 0, name
    assert told["engine_state"]["idle"] + told["engine_state"]["counting"] == 1 and sum(told["engine_state"].values()) == 1
    eventually("a checkpoint of it", lambda: values(scraped(service)["saestream_checkpoint_tokens"])[""] == status["tokens"])
    assert told["checkpoint_seconds"][""] > 0 and told["checkpoint_age_seconds"][""] >= 0 and told["disk_free_bytes"][""] > 0
    taken = families["saestream_uploads_taken"].samples[0].value - before["saestream_uploads_taken"].samples[0].value
    assert taken == 1


def test_latencies_are_by_route_and_nothing_that_a_client_makes_up_becomes_a_label(service: Service) -> None:
    def counts() -> dict[tuple[str, str], float]:
        samples = scraped(service)[f"{OURS}http_request_seconds"].samples
        found = [sample for sample in samples if sample.name.endswith("_count")]
        return {(sample.labels["method"], sample.labels["route"]): sample.value for sample in found}

    def ask(numbers: range) -> None:
        for at in numbers:
            service.http.get(f"/v1/features/0/{at}")
            service.http.get(f"/v1/nowhere/{at}")
            service.http.get(f"/web/{at}.js")
            service.http.request(f"MADEUP{at}", "/v1/status")

    ask(range(5))
    before = counts()
    ask(range(5, 25))
    after = counts()
    assert after.keys() == before.keys()
    for label in (("GET", "/v1/features/{layer}/{index}"), ("GET", "unknown"), ("other", "unknown")):
        assert after[label] == before[label] + 20, label


def test_every_query_of_the_dashboard_names_metrics_and_labels_that_there_are(service: Service) -> None:
    service.http.get("/v1/flow")
    eventually("the engine has told that its snapshot holds all", lambda: "saestream_lag_seconds" in scraped(service))
    known: dict[str, set[str]] = {}
    for family in scraped(service).values():
        for sample in family.samples:
            known.setdefault(sample.name, set()).update(sample.labels)
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(queries) > 20
    for query in queries:
        named = re.findall(r"\b(?:saestream|process)_\w+", query)
        assert named and set(named) <= known.keys(), query
        labels = set(re.findall(r"(\w+)\s*=~?\s*\"", query))
        for grouped in re.findall(r"by \(([^)]*)\)", query):
            labels |= set(re.findall(r"\w+", grouped))
        assert labels - {"job", "instance"} <= set.union(*(known[name] for name in named)), query
    shown = {_family(name) for query in queries for name in re.findall(rf"{OURS}\w+", query)}
    assert {_family(name) for name in known if name.startswith(OURS)} - shown <= UNSHOWN


def _family(name: str) -> str:
    return re.sub(r"_(bucket|sum|count|total|created)$", "", name)


def test_the_doctor_examines_a_server_that_runs(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["doctor", "--dictionary", "6,6", "--data-dir", str(service.data_dir), "--port", str(service.port)]
    ended = subprocess.run(
        [sys.executable, "-m", "api.cli", *words], capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "250"}
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "the server listens" in ended.stdout and "tokens, 0 not visible yet" in ended.stdout and "is whole" in ended.stdout
    settings = Settings(dictionary=[6, 6], data_dir=service.data_dir, port=service.port)
    api = service.child("api.server")
    assert api is not None
    monkeypatch.setattr(doctor, "_SECONDS", 0.5)
    api.suspend()
    try:
        findings = {finding.check: finding for finding in examine(settings)}
    finally:
        api.resume()
    assert findings["server"].state == "wrong" and "does not answer" in findings["server"].says
    assert findings["corpus log"].state == findings["checkpoint"].state == "ok"


def test_what_a_restarted_engine_counts_again_is_told_as_replay(tmp_path: Path) -> None:
    inbox, log = Inbox(tmp_path / "inbox"), CorpusLog(tmp_path / "log")
    for at in range(3):
        upload(inbox, frame(f"document {at}", 100), "application/x-msgpack")
    take_all(start_ingest(inbox, log, None), inbox, log)
    again = start_ingest(inbox, log, None, consumed=-1)
    state, nowhere = State.zero(DICTIONARIES), Settings(redis_url="unix:///nowhere")
    gauges = Gauges(log, again, LiveQueries(nowhere, description(DICTIONARIES), state, threading.Lock()), state)
    first = log.end_position(0)
    start = gauges.read(Cursor(0, 0), [], again.queue_tokens, 50.0)
    assert (start.replay_left, start.replay_per_second, start.tokens_waiting, start.segments_waiting) == (
        300,
        50.0,
        300,
        log.last + 1,
    )
    assert (start.tokens_received, start.tokens_durable) == (300, 300)
    later = gauges.read(Cursor(1, 0), [], 300 - first, 50.0)
    assert (later.replay_left, later.replay_per_second, later.tokens_received) == (300 - first, 50.0, 300)
    done = gauges.read(Cursor(log.last + 1, 0), [], 0, 50.0)
    assert (done.replay_left, done.replay_per_second, done.tokens_waiting, done.segments_waiting) == (0, 0.0, 0, 0)
    again.consumed(log.last)
    upload(inbox, frame("new", 60), "application/x-msgpack")
    take_all(again, inbox, log)
    new = gauges.read(Cursor(log.last, 0), [], again.queue_tokens, 50.0)
    assert (new.replay_left, new.tokens_waiting, new.tokens_durable) == (0, 60, 360)
