"""Activations computed elsewhere: pushed to a run without a model, counted like any others."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.measures import MEASURES
from tests.service import Service, eventually, pack_frame, serving, sparse

SIZES = (12, 16, 9)
DOCUMENTS = 24


def activations(seed: int, tokens: int) -> list[np.ndarray]:
    """Dense activations float32 `[tokens, D]` per layer; one feature never fires, one always does."""
    rng = np.random.default_rng(seed)
    layers = []
    shared = rng.random((tokens, 1)) < 0.3
    for size in SIZES:
        dense = rng.exponential(1.0, (tokens, size)) * (rng.random((tokens, size)) < 0.2)
        dense[:, 1] = rng.exponential(1.0, tokens) * shared[:, 0]
        dense[:, 2] = 0.0
        dense[:, 3] = 0.5 + rng.random(tokens)
        layers.append(dense.astype(np.float32))
    return layers


CORPUS = [activations(seed, tokens) for seed, tokens in enumerate([1, 7, 40, 0, 5_000, 3] * (DOCUMENTS // 6))]


def frames(documents: list[int]) -> bytes:
    return b"".join(pack_frame(f"document {number}", [sparse(layer) for layer in CORPUS[number]]) for number in documents)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("pushed"), "--dictionary", ",".join(map(str, SIZES))) as running:
        halves = list(range(0, DOCUMENTS, 2)), list(range(1, DOCUMENTS, 2))
        running.until_counted(*[running.push(frames(half), corpus=f"half-{at}") for at, half in enumerate(halves)])
        yield running


@pytest.fixture(scope="module")
def dense() -> list[np.ndarray]:
    return [np.concatenate([document[layer] for document in CORPUS]).astype(np.float64) for layer in range(len(SIZES))]


def test_every_count_and_measure_of_every_pair_equals_brute_force_over_the_dense_activations(
    service: Service, dense: list[np.ndarray]
) -> None:
    tokens = len(dense[0])
    for layer in range(len(SIZES) - 1):
        up_all, down_all = dense[layer], dense[layer + 1]
        for i, j in itertools.product(range(0, SIZES[layer], 2), range(SIZES[layer + 1])):
            a, b = up_all[:, i], down_all[:, j]
            answer = service.get("/v1/similarity", up=f"{layer}:{i}", down=f"{layer + 1}:{j}")
            on_a, on_b = a > 0, b > 0
            n_a, n_b, n_ab = int(on_a.sum()), int(on_b.sum()), int((on_a & on_b).sum())
            assert answer["tokens"] == tokens
            assert answer["counts"] == {"up": n_a, "down": n_b, "joint": n_ab, "count_error": 0}
            expected = brute_force(a, b)
            for measure in MEASURES:
                estimate = answer["measures"][measure]["estimate"]
                if np.isfinite(expected[measure]):
                    assert estimate == pytest.approx(expected[measure], rel=1e-6, abs=1e-9), (measure, i, j)
                else:
                    assert estimate is None and answer["measures"][measure]["reason"], (measure, i, j)


def brute_force(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """The measures as one would compute them from the dense activations of two features, float64 `[N]` each."""
    with np.errstate(all="ignore"):
        on_a, on_b = (a > 0).astype(float), (b > 0).astype(float)
        both = (on_a * on_b).sum()
        cells = np.array([[np.mean((on_a == x) * (on_b == y)) for y in (0, 1)] for x in (0, 1)])
        independent = cells.sum(1, keepdims=True) * cells.sum(0, keepdims=True)
        terms = np.where(cells > 0, cells * np.log(np.where(cells > 0, cells, 1) / np.where(independent > 0, independent, 1)), 0)
        return {
            "jaccard": both / np.maximum(on_a, on_b).sum(),
            "sufficiency": both / on_a.sum(),
            "necessity": both / on_b.sum(),
            "phi": np.corrcoef(on_a, on_b)[0, 1],
            "lift": on_a.size * both / (on_a.sum() * on_b.sum()),
            "mutual_information": float(terms.sum()),
            "pearson": np.corrcoef(a, b)[0, 1],
            "activation_cosine": a @ b / np.sqrt((a @ a) * (b @ b)),
            "decoder_cosine": np.nan,
        }


def test_published_neighbours_agree_with_the_live_counts(service: Service) -> None:
    def published() -> bool:
        status = service.get("/v1/status")
        return status["snapshot"]["tokens"] == status["tokens"] == sum(len(document[0]) for document in CORPUS)

    eventually("the last snapshot holds everything", published)
    for measure in MEASURES[:-1]:
        answer = service.get("/v1/features/0/1/neighbors", direction="downstream", measure=measure, k=5)
        assert answer["neighbors"], measure
        for row in answer["neighbors"]:
            live = service.get("/v1/similarity", up="0:1", down=row["feature"])
            assert live["counts"] == row["counts"]
            assert live["measures"][measure]["estimate"] == pytest.approx(row["estimate"], rel=1e-12)


def test_text_sent_to_a_run_without_a_model_is_refused_and_says_what_it_takes(service: Service) -> None:
    answer = service.http.post("/v1/corpora", params={"name": "x"}, content=b"hello", headers={"Content-Type": "text/plain"})
    assert 400 <= answer.status_code < 500
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert "/v1/activations" in answer.json()["detail"]
    http = service.http
    for answer in (http.post("/v1/graph", json={"prompt": "hello"}), http.get("/v1/search", params={"q": "hello"})):
        assert answer.status_code == 409 and "no model" in answer.json()["detail"]


def test_an_upload_with_a_nan_is_set_aside_and_reported_and_the_counts_stay_clean(service: Service) -> None:
    before = service.get("/v1/status")["tokens"]
    bad, good = activations(900, 6), activations(901, 5)
    bad[1][2, 3] = np.nan
    packed = pack_frame("bad", [sparse(layer) for layer in bad]) + pack_frame("good", [sparse(layer) for layer in good])
    upload = service.push(packed, corpus="with-nan")
    service.until_counted(upload)
    record = service.get(f"/v1/uploads/{upload['id']}")
    assert record["tokens_counted"] == 5
    assert record["set_aside"]["documents"] == 1 and record["set_aside"]["tokens"] == 6
    assert any("nan" in reason.lower() for reason in record["set_aside"]["reasons"])
    assert service.get("/v1/status")["tokens"] == before + 5
    pair = service.get("/v1/similarity", up="0:3", down="1:3")
    assert all(value["estimate"] is None or np.isfinite(value["estimate"]) for value in pair["measures"].values())


def test_the_counts_are_the_same_after_a_restart_and_in_any_split_of_the_corpus(tmp_path: Path) -> None:
    with serving(tmp_path, "--dictionary", ",".join(map(str, SIZES))) as other:
        order = list(reversed(range(DOCUMENTS)))
        first = [other.push(frames(order[at : at + 5]), corpus="a") for at in range(0, 10, 5)]
        other.until_counted(*first)
        other.stop()
        other.start()
        rest = [other.push(frames(order[at : at + 3]), corpus="b") for at in range(10, DOCUMENTS, 3)]
        other.until_counted(*rest)
        for i, j in itertools.product((0, 1, 3, 5), (0, 1, 3, 7)):
            dense_a = np.concatenate([document[1][:, i] for document in CORPUS])
            dense_b = np.concatenate([document[2][:, j] for document in CORPUS])
            counts = other.get("/v1/similarity", up=f"1:{i}", down=f"2:{j}")["counts"]
            expected = (dense_a > 0).sum(), (dense_b > 0).sum(), ((dense_a > 0) & (dense_b > 0)).sum()
            assert counts == dict(zip(("up", "down", "joint", "count_error"), map(int, (*expected, 0)), strict=True))
        for feature in (1, 2, 3, 5):
            contexts = other.get(f"/v1/features/1/{feature}/contexts", k=8)["contexts"]
            peaks = {number: float(document[1][:, feature].max(initial=0)) for number, document in enumerate(CORPUS)}
            best = sorted(((value, f"document {number}") for number, value in peaks.items() if value > 0), reverse=True)[:8]
            assert [(context["activation"], context["document"]["name"]) for context in contexts] == best
