"""Relative thresholds through the real server: calibration, what is answered meanwhile, and exact counts afterwards."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.corpus.log import CorpusLog
from tests.service import Service, eventually, pack_frame, serving, sparse

SIZES = (9, 12, 7)
DICTIONARY = ("--dictionary", ",".join(map(str, SIZES)))
RATIO = 0.2
NEW = 4  # a feature of every layer that does not fire in the first upload
STATISTICS = (
    "/v1/features/0/1",
    "/v1/features/0/1/neighbors",
    "/v1/features/0/1/neighbors?k=100",  # a live one
    "/v1/features/0/1/contexts",
    "/v1/similarity?up=0:1&down=1:1",
    "/v1/convergence",
)
Document = list[np.ndarray]
"""Dense activations float32 `[T, D]` per layer."""


def document(seed: int, tokens: int, *, scale: float = 1.0, new: bool = False) -> Document:
    """Feature 2 never fires, feature 3 always does; the others have scales of their own."""
    rng = np.random.default_rng(seed)
    shared = rng.random((tokens, 1)) < 0.4
    layers = []
    for size in SIZES:
        fires = np.where(np.arange(size) % 2, shared, rng.random((tokens, size)) < 0.3)
        dense = scale * rng.exponential(1.0, (tokens, size)) * fires * 2.0 ** np.arange(size)
        dense[:, 2], dense[:, 3] = 0, scale * (0.1 + rng.random(tokens))
        if not new:
            dense[:, NEW] = 0
        layers.append(dense.astype(np.float32))
    return layers


def with_nan(seed: int, tokens: int) -> Document:
    """Larger than all others and set aside: it must not raise a maximum."""
    layers = document(seed, tokens, scale=1_000.0, new=True)
    layers[1][0, 3] = np.nan
    return layers


def frames(documents: list[Document]) -> bytes:
    return b"".join(pack_frame(f"document {at}", [sparse(layer) for layer in layers]) for at, layers in enumerate(documents))


def joined(documents: list[Document]) -> Document:
    return [np.concatenate([layers[layer] for layers in documents]) for layer in range(len(SIZES))]


def thresholds_of(maxima_from: Document) -> list[np.ndarray]:
    """As the README defines them."""
    return [(RATIO * layer.max(0).astype(np.float64)).astype(np.float32) for layer in maxima_from]


def assert_counts(service: Service, counted: Document, thresholds: list[np.ndarray]) -> None:
    """Every pair of adjacent layers is counted as brute force counts it, and every feature says its threshold."""
    active = [dense > limit for dense, limit in zip(counted, thresholds, strict=True)]
    assert service.get("/v1/status")["tokens"] == len(counted[0])
    for up, down in itertools.pairwise(range(len(SIZES))):
        for i in range(SIZES[up]):
            answer = service.get(f"/v1/features/{up}/{i}/neighbors", direction="downstream", k=100, min_support=1)
            found = {row["feature"]: row["counts"] for row in answer["neighbors"]}
            expected = {}
            for j in range(SIZES[down]):
                a, b = active[up][:, i], active[down][:, j]
                if joint := int((a & b).sum()):
                    expected[f"{down}:{j}"] = {"up": int(a.sum()), "down": int(b.sum()), "joint": joint, "count_error": 0}
            assert found == expected, (up, i)
    for layer, limits in enumerate(thresholds):
        for index, limit in enumerate(limits.tolist()):
            feature = service.get(f"/v1/features/{layer}/{index}")
            assert feature["threshold"] == pytest.approx(limit, rel=1e-6)
            assert feature["count"] == active[layer][:, index].sum()
            assert (feature["mean_active"] is not None) == (limit == 0 and feature["count"] > 0)


def until_published(service: Service, tokens: int) -> Any:
    def published() -> Any:
        status = service.get("/v1/status")
        return status if status["snapshot"] and status["snapshot"]["tokens"] == tokens else None

    return eventually(f"a snapshot of {tokens} tokens", published)


def refusals(service: Service) -> dict[str, str]:
    """What each statistics route answers while the run calibrates."""
    details = {}
    for path in STATISTICS:
        answer = service.http.get(path)
        assert answer.status_code == 409, f"{path}: {answer.status_code} {answer.text}"
        assert answer.headers["content-type"] == "application/problem+json"
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert answer.json()["type"] == "urn:saestream:problem:calibrating"
        details[path] = answer.json()["detail"]
    return details


def printed_status(service: Service) -> str:
    command = [sys.executable, "-m", "api.cli", "status", "--url", str(service.http.base_url)]
    return " ".join(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split())


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("relative"), *DICTIONARY, "--threshold", "0.2max") as running:
        yield running


FIRST = [document(seed, tokens) for seed, tokens in enumerate([40, 1, 90, 0, 300])]
LATER = [document(seed, tokens, scale=3.0, new=True) for seed, tokens in enumerate([200, 7, 60], start=50)]


def test_until_there_is_a_first_upload_the_run_is_ready_calibrates_and_has_no_statistics(service: Service) -> None:
    assert service.is_ready()
    status = service.get("/v1/status")
    assert status["state"] == "calibrating" and status["tokens"] == 0 and status["snapshot"] is None
    assert status["threshold"] == {"kind": "relative", "value": RATIO}
    assert status["calibration"] == {"tokens": 0, "calibration_tokens": 1_000_000, "done": False, "never_fired": list(SIZES)}
    for detail in refusals(service).values():
        assert "0 were seen" in detail and "1,000,000 are still needed" in detail
    shown = printed_status(service)
    assert "calibrating 0 of 1,000,000 tokens seen (0%)" in shown and "0.2 of each feature's maximum" in shown


def test_what_is_set_aside_and_an_upload_without_a_token_calibrate_nothing(service: Service) -> None:
    upload = service.push(frames([with_nan(900, 30), document(0, 0)]), corpus="aside")
    eventually("it is in the log", lambda: service.get(f"/v1/uploads/{upload['id']}")["tokens_received"] == 30)
    record = service.get(f"/v1/uploads/{upload['id']}")
    assert record["state"] == "queued" and record["tokens_counted"] == 0
    assert service.get("/v1/status")["queue_tokens"] == 30
    assert "0 were seen" in refusals(service)["/v1/convergence"]


def test_a_run_that_is_stopped_while_it_calibrates_ends_in_order_and_goes_on_calibrating(service: Service) -> None:
    assert service.stop() == 0
    assert "Traceback" not in service.log() and not (service.data_dir / "thresholds").exists()
    service.start()
    status = service.get("/v1/status")
    assert (status["state"], status["tokens"], status["queue_tokens"]) == ("calibrating", 0, 30)
    refusals(service)


def test_a_small_first_upload_calibrates_the_run_and_everything_is_counted_with_its_thresholds(service: Service) -> None:
    first = service.push(frames([*FIRST[:3], with_nan(901, 5), *FIRST[3:]]), corpus="first", wait="visible")
    assert first["state"] == "counted" and first["set_aside"]["tokens"] == 5
    second = service.push(frames(LATER), corpus="later", wait="visible")
    assert second["state"] == "counted"
    counted = joined([*FIRST, *LATER])
    status = until_published(service, len(counted[0]))
    assert status["state"] in ("counting", "idle")
    calibrated = len(joined(FIRST)[0])
    assert status["calibration"] == {"tokens": calibrated, "calibration_tokens": 1_000_000, "done": True, "never_fired": [2, 2, 2]}
    assert (counted[0].max(0) > joined(FIRST)[0].max(0)).sum() > 4, "later activations are stronger, and the thresholds stay"
    assert_counts(service, counted, thresholds_of(joined(FIRST)))
    assert f"thresholds: 0.2 of each feature's maximum in the first {calibrated} tokens; 6 features" in printed_status(service)


def test_after_calibration_the_thresholds_are_kept_over_kills_and_another_ratio_is_refused(service: Service) -> None:
    frozen = service.data_dir / "thresholds"
    before, written = frozen.read_bytes(), frozen.stat().st_mtime_ns
    counted = joined([*FIRST, *LATER])
    killed = service.child("engine.main")
    assert killed is not None
    killed.kill()
    eventually("another engine runs", lambda: (child := service.child("engine.main")) and child.pid != killed.pid)
    more = service.push(frames(LATER), corpus="after-the-kill", wait="visible")
    assert more["state"] == "counted"
    counted = joined([*FIRST, *LATER, *LATER])
    until_published(service, len(counted[0]))
    assert_counts(service, counted, thresholds_of(joined(FIRST)))
    assert (frozen.read_bytes(), frozen.stat().st_mtime_ns) == (before, written)
    service.stop()
    other = Service(service.data_dir, *DICTIONARY, "--threshold", "0.3max")
    assert other.launch().wait(60) == 3
    assert "threshold: 0.2max / 0.3max" in " ".join(other.log().split())
    other.http.close()


def test_an_engine_killed_while_it_calibrates_begins_again_and_ends_at_the_same_segment(tmp_path: Path) -> None:
    documents = [document(seed, 64, scale=1 + seed / 500) for seed in range(700)]
    everything = joined(documents)
    tokens, wanted = len(everything[0]), 40_000
    options = (*DICTIONARY, "--threshold", "0.2max", "--calibration-tokens", str(wanted))
    with serving(tmp_path, *options, environment={"SAESTREAM_SEGMENT_TOKENS": "128"}) as service:
        service.push(frames(documents))

        def halfway() -> bool:
            calibration = service.get("/v1/status")["calibration"]
            assert not calibration["done"], "it was over before anybody looked"
            return calibration["tokens"] > 0

        eventually("it is in the middle of calibration", halfway)
        killed = service.child("engine.main")
        assert killed is not None
        killed.kill()
        killed.wait(10)
        assert not (tmp_path / "thresholds").exists()
        assert "still needed" in refusals(service)["/v1/convergence"]
        until_published(service, tokens)
        corpus = CorpusLog(tmp_path / "log")
        ends = [corpus.end_position(number) for number in range(corpus.last + 1)]
        end = next(end for end in ends if end >= wanted)
        assert service.get("/v1/status")["calibration"]["tokens"] == end < tokens
        assert_counts(service, everything, thresholds_of([layer[:end] for layer in everything]))
