"""The interface document against the real server: schemathesis sends what it allows and what it does not, over HTTP, to the demo.

No answer is a 5xx, and every one, problems included, is as the document says: status, content type, and form, in JSON and in
MessagePack. A 503 with `Retry-After` is taken at its word: the same request is sent again until it is answered.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np
import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from engine.demo.text import CORPORA, sample_documents
from engine.measures import MEASURES
from engine.views.communities import OBJECTIVES, SORTS
from tests.service import Service, eventually, pack_frame, serving, sparse

EXAMPLES = 8
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
]
DOCUMENTS = 40  # of each corpus
FORMS = ("application/json", "application/x-msgpack")
STREAM = "/v1/events"  # has no end: tested in test_api_events


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The demo with some text counted."""
    with serving(tmp_path_factory.mktemp("contract")) as service:
        for corpus in CORPORA:
            texts = [row.text for row in sample_documents() if row.package == corpus][:DOCUMENTS]
            service.until_counted(service.feed(texts, corpus))
        yield service


def known_values(service: Service) -> dict[str, list[Any]]:
    """Parameter → values that this run has; "path parameter" where they depend on the route."""
    tokens = service.get("/v1/status")["tokens"]
    eventually("relations are of everything", lambda: service.get("/v1/flow")["snapshot"]["tokens"] == tokens)
    gate = service.get("/v1/gates/paper", pair="3-4", threshold=0.9, limit=1)["items"][0]
    parents = [parent["feature"] for parent in gate["parents"]]
    lists: dict[str, dict[str, Any]] = {"flow": {"pair": "3-4", "kind": "passed"}, "lineages": {}, "corpora": {}, "communities": {}}
    cursors = [service.get(f"/v1/{name}", limit=1, **more)["next"] for name, more in lists.items()]
    of: dict[str, list[Any]] = {
        "a name corpus": list(CORPORA),
        "b": [CORPORA[1], CORPORA[0]],
        "feature up": ["3:17", "0:3", *parents],
        "down": ["4:99", "1:3", gate["child"]],
        "with": [["0:3"], ["3:17", "4:99"]],
        "child": [gate["child"]],
        "parents": [",".join(parents)],
        "layer": [3, 0, 6],
        "index": [17, 0, 1023],
        "pair": ["3-4", "0-1"],
        "community": [service.get("/v1/communities", limit=1)["items"][0]["id"]],
        "upload": [service.get(f"/v1/corpora/{CORPORA[0]}")["items"][0]["id"]],
        "measure": list(MEASURES),
        "rank": ["lower", "estimate"],
        "direction": ["downstream", "upstream"],
        "kind": ["and", "or"],
        "verdict": ["any", "none", "gate"],
        "sort": ["f1", "support"],
        "objective": list(OBJECTIVES),
        "threshold min_value coverage resolution min_f1 min_gain max_overlap hidden_share": [0.1, 0.6, 0.9],
        "k last min_size min_length min_span hidden_windows limit": [1, 2, 3],
        "max_size": [50],
        "min_support": [1, 10, 20],
        "max_staleness_ms": [3_600_000],
        "hidden_factor": [1.5],
        "q": ["the", "array"],
        "cursor": cursors,
        "wait": ["durable"],
    }
    of_route = {
        "/v1/compare/edges up": [0, 3],
        "/v1/compare/edges down": [1, 4],
        "/v1/flow kind": ["passed", "appeared"],
        "/v1/communities sort": list(SORTS),
    }
    return of_route | {name: values for names, values in of.items() for name in names.split()}


@pytest.fixture(scope="module")
def tally(service: Service, tmp_path_factory: pytest.TempPathFactory) -> list[Answer]:
    """Every answer of a run of schemathesis, which has found nothing wrong with any of them."""
    folder = tmp_path_factory.mktemp("schemathesis")
    dictionaries = [layer["features"] for layer in service.get("/v1/status")["layers"]]
    run = {"known": known_values(service), "dictionaries": dictionaries, "tally": str(folder / "tally")}
    (folder / "run.json").write_text(json.dumps(run))
    document = f"{service.http.base_url}/schema/openapi.json"
    options = ["--phases=coverage,fuzzing", f"--max-examples={EXAMPLES}", "--generation-deterministic", f"--exclude-path={STREAM}"]
    options += [f"--checks={','.join(CHECKS)}", "--continue-on-failure", "--request-timeout=90", "--no-color", "--warnings=off"]
    found = subprocess.run(
        [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run", document, *options],
        cwd=folder,
        env={
            **os.environ,
            "CONTRACT_RUN": str(folder / "run.json"),
            "SCHEMATHESIS_HOOKS": "contract_hooks",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])]),
        },
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return [Answer(*line.split("\t")) for line in (folder / "tally").read_text().splitlines()]


class Answer(NamedTuple):
    operation: str
    status: str
    content_type: str
    seconds: str


def test_every_answer_is_as_the_document_says_and_none_is_a_defect(tally: list[Answer]) -> None:
    statuses = Counter(answer.status for answer in tally)
    assert statuses["200"] > 300 and statuses["400"] > 300 and statuses["405"] > 30, statuses
    assert not {status for status in statuses if status >= "500"} - {"503"}, statuses


def test_every_operation_was_reached(tally: list[Answer], operations: list[schemathesis.APIOperation]) -> None:
    """Past its checks: with an answer, or the refusal of something that is well-formed."""
    seen = {answer.operation for answer in tally if answer.status.startswith("2") or answer.status == "404"}
    assert {operation.label for operation in operations} - seen == set()


@schemathesis.deserializer(FORMS[1])
def unpacked(context: schemathesis.DeserializationContext, response: schemathesis.Response) -> Any:
    return msgpack.unpackb(response.content)


@pytest.fixture(scope="module")
def operations(service: Service) -> list[schemathesis.APIOperation]:
    document = schemathesis.openapi.from_url(f"{service.http.base_url}/schema/openapi.json")
    return [found for result in document.get_all_operations() if (found := result.ok()).path != STREAM]


@pytest.fixture(scope="module")
def good(service: Service, operations: list[schemathesis.APIOperation]) -> list[schemathesis.Case]:
    """A request to every operation that it answers 2xx."""
    known = known_values(service)
    schemathesis.openapi.media_type(FORMS[1], st.binary())  # bodies of it are sent as they are
    frame = pack_frame("one", [sparse(np.eye(3, layer["features"])) for layer in service.get("/v1/status")["layers"]])
    bodies: dict[str, tuple[str, Any]] = {
        "/v1/corpora": ("text/plain", "Some text."),
        "/v1/activations": ("application/x-msgpack", frame),
        "/v1/graph": ("application/json", {"prompt": "Return a tuple of ints."}),
        "/v1/watch": ("application/json", {"pairs": [{"up": "3:17", "down": "4:99"}]}),
    }

    def first(operation: schemathesis.APIOperation, name: str) -> Any:
        return (known.get(f"{operation.path} {name}") or known[name])[0]

    cases = []
    for operation in operations:
        path = {parameter.name: first(operation, parameter.name) for parameter in operation.path_parameters}
        query = {parameter.name: first(operation, parameter.name) for parameter in operation.query if parameter.is_required}
        media_type, body = bodies.get(operation.path, (None, None)) if operation.method == "post" else (None, None)
        more = {} if body is None else {"media_type": media_type, "body": body}
        cases.append(operation.Case(path_parameters=path, query=query, **more))
    return cases


@pytest.mark.parametrize("form", FORMS)
def test_every_operation_answers_as_the_document_says_in(form: str, good: list[schemathesis.Case]) -> None:
    for case in good:
        response = case.call(headers={"Accept": form})
        label = f"{case.operation.label}: {response.status_code} {response.content[:500]!r}"
        assert response.status_code in (200, 202), label
        case.validate_response(response, checks=[content_type_conformance, response_schema_conformance])
        if case.operation.path != "/metrics":
            assert response.headers["content-type"] == [form] and response.headers["vary"] == ["Accept"], label


def test_an_answer_from_a_snapshot_is_not_sent_again_to_who_has_it(good: list[schemathesis.Case]) -> None:
    tagged = set()
    for case in good:
        if case.operation.method == "post" or "etag" not in case.call().headers:
            continue
        assert "304" in case.operation.definition.raw["responses"], case.operation.label
        again = eventually("two answers are from one snapshot", lambda case=case: same_again(case))
        assert again.content == b"" and again.headers["vary"] == ["Accept"], case.operation.label
        other = case.call(headers={"If-None-Match": 'W/"other"'})
        assert other.status_code == 200 and other.headers["vary"] == ["Accept"], case.operation.label
        tagged.add(case.operation.label)
    assert {"GET /v1/flow", "GET /v1/convergence", "GET /v1/features/{layer}/{index}/neighbors", "GET /v1/search"} <= tagged


def same_again(case: schemathesis.Case) -> schemathesis.Response | None:
    """The answer to who names, among others, the version that was just answered from; None where there is a newer one."""
    (etag,) = case.call().headers["etag"]
    again = case.call(headers={"If-None-Match": f'W/"other", {etag}', "Accept": FORMS[1]})
    assert again.status_code == 304 or again.headers["etag"] != [etag], case.operation.label
    return again if again.headers["etag"] == [etag] else None
