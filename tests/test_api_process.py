"""The API as a process: what it imports, how it ends, and its interface document."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from api_rig import Api, api_process, problem, settings_for

from api import answers, health
from api.examples import PROBLEM
from api.problems import Problem
from api.schema import ANSWERS
from api.server import bind
from engine.views import community_answers as communities
from engine.views import edge_answers as edges
from engine.views import gate_answers as gates
from engine.views import relation_answers as relations
from engine.views.answers import NeighborsAnswer, SimilarityAnswer
from engine.views.corpus_answers import CompareAnswer, CompareEdgesAnswer, PinAnswer, PinnedAnswer
from engine.views.graph_answers import GraphAnswer
from engine.views.requests import ContextsAnswer, GateContextsAnswer
from engine.views.search_answers import SearchAnswer

HEAVY = ("torch", "sae_lens", "transformer_lens", "transformers", "datasets", "tokenizers", "triton", "scipy.sparse", "pandas")

TYPES = {
    ("get", "/v1/status"): answers.StatusAnswer,
    ("post", "/v1/corpora"): answers.UploadAnswer,
    ("get", "/v1/corpora"): answers.CorpusList,
    ("get", "/v1/corpora/{corpus}"): answers.CorpusDetail,
    ("get", "/v1/uploads/{upload}"): answers.UploadAnswer,
    ("post", "/v1/activations"): answers.UploadAnswer,
    ("get", "/v1/features/{layer}/{index}"): answers.FeatureAnswer,
    ("get", "/v1/features/{layer}/{index}/contexts"): ContextsAnswer,
    ("get", "/v1/features/{layer}/{index}/neighbors"): NeighborsAnswer,
    ("get", "/v1/features/{layer}/{index}/gates"): gates.FeatureGatesAnswer,
    ("get", "/v1/gates"): gates.GatesAnswer,
    ("get", "/v1/gates/paper"): gates.PaperGatesAnswer,
    ("get", "/v1/gates/contexts"): GateContextsAnswer,
    ("get", "/v1/similarity"): SimilarityAnswer,
    ("post", "/v1/graph"): GraphAnswer,
    ("get", "/v1/search"): SearchAnswer,
    ("get", "/v1/compare"): CompareAnswer,
    ("get", "/v1/compare/edges"): CompareEdgesAnswer,
    ("post", "/v1/watch"): PinAnswer,
    ("get", "/v1/watch"): PinnedAnswer,
    ("get", "/v1/flow"): relations.FlowAnswer,
    ("get", "/v1/lineages"): relations.LineagesAnswer,
    ("get", "/v1/specializations"): relations.SpecializationsAnswer,
    ("get", "/v1/matching"): relations.MatchingAnswer,
    ("get", "/v1/histograms"): edges.HistogramsAnswer,
    ("get", "/v1/edges"): edges.EdgesAnswer,
    ("get", "/v1/communities"): communities.CommunitiesAnswer,
    ("get", "/v1/communities/of"): communities.CommunityOfAnswer,
    ("get", "/v1/communities/{community}"): communities.CommunityAnswer,
    ("get", "/v1/convergence"): answers.ConvergenceAnswer,
    ("get", "/livez"): health.Alive,
    ("get", "/readyz"): health.Ready,
}
WITHOUT_EXAMPLE = {("get", "/v1/events"), ("get", "/metrics")}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with api_process(tmp_path_factory.mktemp("process")) as (api, _):
        yield api


@pytest.fixture(scope="module")
def document(api: Api) -> dict[str, Any]:
    return api.http.get("/schema/openapi.json").json()


def test_the_api_process_imports_nothing_heavy() -> None:
    code = f"import sys, api.server; print([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_taken_port_ends_it_with_status_3_and_the_ports_name(api: Api, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = settings_for(tmp_path, "unix:///nowhere").model_copy(update={"port": port})
        ended = start(settings.model_dump_json())
    assert ended.returncode == 3
    assert f"127.0.0.1:{port}" in ended.stderr and "Traceback" not in ended.stderr


def test_an_answer_on_a_kept_connection_does_not_wait_for_the_acknowledgement_of_its_head() -> None:
    with bind("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("text", [None, "{}}", '{"port": -1}'], ids=["missing", "not-json", "bad-value"])
def test_settings_that_can_not_be_read_end_it_with_status_3(text: str | None) -> None:
    ended = start(text)
    assert ended.returncode == 3 and "SAESTREAM_RUN_SETTINGS" in ended.stderr and "Traceback" not in ended.stderr


def start(settings: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "SAESTREAM_RUN_SETTINGS"}
    if settings is not None:
        environment["SAESTREAM_RUN_SETTINGS"] = settings
    return subprocess.run([sys.executable, "-m", "api.server"], env=environment, capture_output=True, text=True, timeout=60)


def test_a_defect_is_logged_and_tells_the_client_nothing(tmp_path: Path) -> None:
    with api_process(tmp_path) as (api, _):
        (tmp_path / "run.json").write_text("secret nonsense")
        answer = api.http.get("/v1/features/0/0")
        assert "secret" not in answer.text and "run.json" not in answer.text
        assert problem(answer, 500) == "the server failed on this request; its log says why"
        assert "run.json" in api.log()


def test_every_operation_has_a_summary_an_example_of_its_type_msgpack_and_problems(document: dict[str, Any]) -> None:
    operations = {(method, path): op for path, item in document["paths"].items() for method, op in item.items()}
    assert set(operations) == set(TYPES) | WITHOUT_EXAMPLE
    for key, operation in operations.items():
        assert operation["summary"] and operation["description"], key
        assert "application/problem+json" in operation["responses"]["default"]["content"], key
        if key in TYPES:
            content = next(response for status, response in operation["responses"].items() if status.startswith("2"))["content"]
            assert set(content) == {"application/json", "application/x-msgpack"}, key
            assert content["application/json"]["examples"]["example"]["value"] == without_nulls(ANSWERS[key])


def without_nulls(value: Any) -> Any:
    """As Litestar writes examples into the document."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("key", TYPES, ids=" ".join)
def test_every_example_is_an_answer_of_its_route(key: tuple[str, str]) -> None:
    answer = msgspec.convert(ANSWERS[key], TYPES[key])
    assert msgspec.json.decode(msgspec.json.encode(answer)) == ANSWERS[key]


def test_the_example_problem_is_a_problem() -> None:
    assert msgspec.to_builtins(msgspec.convert(PROBLEM, Problem)) == PROBLEM


def test_the_interface_document_is_valid_openapi(document: dict[str, Any]) -> None:
    """What breaks clients otherwise: references resolve, ids are unique, path parameters are declared and required."""
    assert document["openapi"].startswith("3.1")
    ids = []
    for path, item in document["paths"].items():
        for operation in item.values():
            ids.append(operation["operationId"])
            parameters = operation.get("parameters", [])
            in_path = {parameter["name"] for parameter in parameters if parameter["in"] == "path"}
            assert in_path == {part[1:-1] for part in path.split("/") if part.startswith("{")}
            assert all(parameter["required"] and parameter["schema"] for parameter in parameters if parameter["in"] == "path")
            assert len({(parameter["in"], parameter["name"]) for parameter in parameters}) == len(parameters)
            assert all(response["description"] for response in operation["responses"].values())
    assert len(ids) == len(set(ids))
    for reference in references(document):
        target: Any = document
        for step in reference.removeprefix("#/").split("/"):
            target = target[step.replace("~1", "/").replace("~0", "~")]
        assert isinstance(target, dict)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_the_document_lists_the_content_types_of_uploads(document: dict[str, Any]) -> None:
    text = document["paths"]["/v1/corpora"]["post"]["requestBody"]["content"]
    assert set(text) == {"text/plain", "application/x-ndjson", "application/vnd.apache.parquet"}
    assert set(document["paths"]["/v1/activations"]["post"]["requestBody"]["content"]) == {"application/x-msgpack"}


@pytest.mark.parametrize("damage", [b'{"layers": [', b'{"layers": "\xff"}'], ids=["cut off", "no UTF-8"])
def test_a_description_that_was_damaged_since_it_was_read_still_holds(tmp_path: Path, damage: bytes) -> None:
    with api_process(tmp_path) as (api, _):
        upload = {"content": b'{"text": "some text"}\n', "headers": {"Content-Type": "application/x-ndjson"}}
        assert api.http.post("/v1/corpora", params={"name": "c"}, **upload).status_code == 202
        (tmp_path / "run.json").write_bytes(damage)
        for _ in range(2):
            assert api.http.post("/v1/corpora", params={"name": "c"}, **upload).status_code == 202
        assert api.log().count("run.json was damaged") == 1
