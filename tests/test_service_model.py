"""The main job on the bundled model: text in over HTTP, exact counts out, whatever happens in between."""

from __future__ import annotations

import concurrent.futures
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
import redis
from safetensors.numpy import load_file
from scipy.optimize import linear_sum_assignment

from api.client import Client
from api.report import gather, render
from engine.counts.checkpoint import Checkpoints
from engine.counts.state import State
from engine.demo import text
from engine.demo.text import CORPORA, sample_documents
from engine.encoder.description import RunDescription
from tests.service import THREADS, Service, eventually, serving

DEMO = Path(text.__file__).parent
TEXT = {corpus: [row.text for row in sample_documents() if row.package == corpus] for corpus in CORPORA}
QUICK_CHECKPOINTS = {"SAESTREAM_CHECKPOINT_INTERVAL": "0"}


def counted(data_dir: Path) -> State:
    """The state in the newest checkpoint of a server that was stopped."""
    run = msgspec.json.decode((data_dir / "run.json").read_bytes(), type=RunDescription)
    loaded = Checkpoints(data_dir / "checkpoints").latest(run.fingerprint)
    assert loaded is not None
    return loaded.state


def assert_same_counts(left: State, right: State) -> None:
    assert left.tokens == right.tokens
    for a, b in zip(left.marginals, right.marginals, strict=True):
        assert np.array_equal(a.by_half, b.by_half)
        assert np.allclose(a.sum, b.sum, rtol=1e-6) and np.allclose(a.sum_of_squares, b.sum_of_squares, rtol=1e-6)
    for pair, table in left.pairs.items():
        assert np.array_equal(table.counts, right.pairs[pair].counts)
        assert np.allclose(table.products, right.pairs[pair].products, rtol=1e-6)
    for a, b in zip(left.strongest, right.strongest, strict=True):
        assert np.allclose(a.value, b.value, rtol=1e-4)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> State:
    """The sample, each corpus in one upload, counted without any stop."""
    data_dir = tmp_path_factory.mktemp("straight")
    with serving(data_dir) as service:
        service.until_counted(*[service.feed(TEXT[corpus], corpus) for corpus in CORPORA])
    return counted(data_dir)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("shared"), environment=QUICK_CHECKPOINTS) as running:
        running.until_counted(running.feed(TEXT[CORPORA[0]], CORPORA[0], wait="visible"))
        yield running


def test_a_second_corpus_fed_while_the_first_is_running_is_all_counted(service: Service, straight: State) -> None:
    more = service.feed(TEXT[CORPORA[0]] * 3, "again")
    eventually("the first is being counted", lambda: service.get(f"/v1/uploads/{more['id']}")["tokens_counted"])
    second = service.feed(TEXT[CORPORA[1]], CORPORA[1])
    service.until_counted(more, second)
    corpora = {item["name"]: item for item in service.get("/v1/corpora")["items"]}
    assert corpora["again"]["tokens_counted"] == 3 * corpora[CORPORA[0]]["tokens_counted"]
    assert corpora[CORPORA[0]]["tokens_counted"] + corpora[CORPORA[1]]["tokens_counted"] == straight.tokens
    assert service.get("/v1/status")["tokens"] == sum(item["tokens_counted"] for item in corpora.values())


def test_the_matching_by_decoders_is_the_dense_assignment_of_folded_decoder_rows(service: Service) -> None:
    layers = service.get("/v1/status")["layers"]
    answer = service.get("/v1/matching", pair="3-4", limit=1000)
    folded = []
    for layer in (3, 4):
        weights = load_file(DEMO / "saes" / layers[layer]["hook"] / "sae_weights.safetensors")
        folded.append(weights["W_dec"].astype(np.float64) * weights["threshold"].astype(np.float64)[:, None])
    products = np.maximum(folded[0] @ folded[1].T, 0)
    rows, columns = linear_sum_assignment(products, maximize=True)
    best = {f"3:{i}": f"4:{j}" for i, j in zip(rows, columns, strict=True) if products[i, j] > 0}
    found = answer["data_free"]
    assert (found["vectors"], answer["data_free_reason"]) == ("folded", None)
    assert found["total"] == pytest.approx(products[rows, columns].sum(), rel=1e-6)
    assert found["matched"] == len(best) and found["candidates"] == products.size
    assert len(answer["items"]) > 20
    assert all(item["data_free"] == best.get(item["up"]) for item in answer["items"])
    agreed = [item["data_free"] == item["down"] for item in answer["items"] if item["data_free"]]
    assert answer["agreement"] == {"both": len(agreed), "same": sum(agreed), "share": pytest.approx(np.mean(agreed))}


def test_the_counting_gives_way_to_what_readers_wait_for(service: Service) -> None:
    engine = service.child("engine.main")
    assert engine is not None and service.process is not None
    own = psutil.Process(service.process.pid).nice()
    # Behind the name, which may hold anything: state is the first field, niceness the 17th (proc(5)).
    nice = {
        int(task.name): int((task / "stat").read_text().rsplit(")", 1)[1].split()[16])
        for task in Path(f"/proc/{engine.pid}/task").iterdir()
    }
    assert nice[engine.pid] > own
    assert list(nice.values()).count(nice[engine.pid]) >= THREADS, "those of the forward pass"
    assert list(nice.values()).count(own) >= 3, "publishing, live questions, ingest"


def test_wiping_redis_under_the_running_engine_brings_every_view_back(service: Service) -> None:
    paths = ["/v1/status", "/v1/corpora", "/v1/convergence", "/v1/features/2/5", "/v1/features/2/5/neighbors"]
    before = {path: without_time(service.get(path)) for path in paths}
    sockets = list(service.data_dir.rglob("*.sock"))
    child = service.child("redis")
    assert child is not None
    address = str(sockets[0]) if sockets else next(c.laddr for c in child.net_connections("unix") if c.laddr)
    with redis.Redis(unix_socket_path=address) as client:
        client.flushall()

    def differing() -> dict[str, Any]:
        answers = {path: service.http.get(path) for path in paths}
        seen = {path: without_time(a.json()) if a.status_code == 200 else a.text for path, a in answers.items()}
        return {path: (before[path], seen[path]) for path in paths if seen[path] != before[path]}

    left = differing()
    deadline = time.monotonic() + 60
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = differing()
    assert not left


def without_time(answer: Any) -> Any:
    """An answer without what changes from moment to moment: versions, ages, rates, memory."""
    changing = {"snapshot", "tokens_per_second", "updated_at", "memory_bytes", "checkpoint", "lag_ms", "state", "publish_interval"}
    if isinstance(answer, dict):
        return {key: without_time(value) for key, value in answer.items() if key not in changing}
    return [without_time(item) for item in answer] if isinstance(answer, list) else answer


def test_the_strongest_contexts_of_a_feature_are_texts_of_different_documents(service: Service) -> None:
    texts = [text for corpus in CORPORA for text in TEXT[corpus]]
    shown = 0
    for index in range(0, 1024, 128):
        record = service.get(f"/v1/features/3/{index}")
        answer = service.get(f"/v1/features/3/{index}/contexts", k=8)
        assert answer["missing"] == []
        assert [context["log_position"] for context in answer["contexts"]] == [one["log_position"] for one in record["contexts"]]
        assert len({(context["upload"], context["document"]["number"]) for context in answer["contexts"]}) == len(
            record["contexts"]
        )
        for context, one in zip(answer["contexts"], record["contexts"], strict=True):
            values = context["values"][f"3:{index}"]
            assert values[context["position"]] == context["activation"] == pytest.approx(one["activation"], rel=1e-4)
            assert len(values) == len(context["tokens"])
            text = "".join(context["tokens"])
            assert "\ufffd" in text or any(text in document for document in texts)
            shown += 1
    assert shown > 40


def test_the_report_has_every_section_and_its_texts_are_of_the_corpora(service: Service) -> None:
    texts = [text for corpus in CORPORA for text in TEXT[corpus]]
    with Client(str(service.http.base_url), timeout=75.0) as client:
        sections = {section.name: section for section in gather(client).sections}
        html = render(gather(client))
    assert list(sections) == ["flow", "dead", "convergence", "histograms", "pass_through", "specializations", "gates"]
    assert "decoder_cosine" in sections["histograms"].charts
    examples = sections["pass_through"].shown["examples"] + sections["specializations"].shown["examples"]
    shown = [one for example in examples for one in example["texts"].shown]
    assert len(shown) > 6
    for one in shown:
        assert one.tokens is not None and sum(token.peak for token in one.tokens) == 1
        text = "".join(token.text for token in one.tokens).replace("⏎\n", "\n")
        assert "\ufffd" in text or any(text in document for document in texts)
    assert html.count("<section") == len(sections) + 1


def test_concurrent_readers_while_text_is_counted_see_numbers_that_belong_together(service: Service) -> None:
    upload = service.feed(TEXT[CORPORA[1]] * 2, "read-while-counting")
    versions = set()

    def read(index: int) -> None:
        answer = service.get(f"/v1/features/3/{index}/neighbors", direction="downstream", measure="necessity", k=20)
        versions.add(answer["snapshot"]["version"])
        for row in answer["neighbors"]:
            counts = row["counts"]
            assert counts["joint"] <= min(counts["up"], counts["down"]) <= answer["tokens"]
            assert counts["up"] == answer["count"]
            assert row["estimate"] == counts["joint"] / counts["down"]

    with concurrent.futures.ThreadPoolExecutor(4) as readers:
        while service.get(f"/v1/uploads/{upload['id']}")["state"] != "counted":
            list(readers.map(read, range(0, 1024, 16)))
    assert len(versions) > 1


def test_stopping_and_starting_again_in_the_middle_gives_the_same_counts_in_another_split(tmp_path: Path, straight: State) -> None:
    parts = [
        (corpus, TEXT[corpus][at : at + 40], hashlib.sha256(f"{corpus}{at}".encode()).hexdigest())
        for corpus in reversed(CORPORA)
        for at in range(0, len(TEXT[corpus]), 40)
    ]
    with serving(tmp_path, environment=QUICK_CHECKPOINTS) as service:
        for corpus, documents, key in parts:
            service.feed(documents, corpus, key=key)
        eventually("some of it is counted", lambda: service.get("/v1/status")["tokens"] > 0)
        service.stop()
        stopped_at = counted(tmp_path).tokens
        assert 0 < stopped_at < straight.tokens
        service.start()
        service.until_counted(*[service.feed(documents, corpus, key=key) for corpus, documents, key in parts])
        assert service.get("/v1/status")["tokens"] == straight.tokens
    assert_same_counts(counted(tmp_path), straight)


def test_killing_the_engine_in_the_middle_loses_and_doubles_no_count(tmp_path: Path, straight: State) -> None:
    with serving(tmp_path, environment=QUICK_CHECKPOINTS) as service:
        uploads = [service.feed(TEXT[corpus], corpus) for corpus in CORPORA]
        eventually("some of it is counted", lambda: service.get("/v1/status")["tokens"] > 0)
        engine = service.child("engine.main")
        assert engine is not None
        engine.kill()
        service.until_counted(*uploads)
    assert_same_counts(counted(tmp_path), straight)
