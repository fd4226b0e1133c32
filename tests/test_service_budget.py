"""A run under a memory budget through the real command: what it says of itself, and that the truth lies where its answers say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.counts import budget
from engine.counts.shape import RunShape
from engine.counts.state import bytes_needed
from tests.service import Service, pack_frame, serving, sparse

SIZES = (400, 300, 30)
BUDGET = 2_200_000
DOCUMENTS, TOKENS = 150, 40


def activations(number: int) -> list[np.ndarray]:
    """Dense activations float32 `[T, D]` of a document; features fire by rank, and the first five copy the layer before."""
    rng = np.random.default_rng(number)
    layers: list[np.ndarray] = []
    for size in SIZES:
        dense = rng.exponential(1.0, (TOKENS, size)) * (rng.random((TOKENS, size)) < np.geomspace(0.5, 0.03, size))
        if layers:
            dense[:, :5] = layers[-1][:, :5] * (rng.random((TOKENS, 5)) < 0.8)
        layers.append(dense.astype(np.float32))
    return layers


CORPUS = [activations(number) for number in range(DOCUMENTS)]


def push(service: Service, first: int, last: int) -> str:
    frames = [pack_frame(f"document {number}", [sparse(layer) for layer in CORPUS[number]]) for number in range(first, last)]
    return service.push(b"".join(frames), corpus="pushed")


OPTIONS = ("--dictionary", ",".join(map(str, SIZES)), "--memory-budget", f"{BUDGET / 1e6}MB")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("budget"), *OPTIONS) as running:
        for first in range(0, DOCUMENTS, 30):  # segment by segment, so that rows are pruned
            running.until_counted(push(running, first, first + 30))
        yield running


@pytest.fixture(scope="module")
def dense() -> list[np.ndarray]:
    return [np.concatenate([document[layer] for document in CORPUS]) > 0 for layer in range(len(SIZES))]


def test_the_status_and_the_log_say_what_is_kept(service: Service) -> None:
    large, small = service.get("/v1/status")["tables"]
    shape = budget.fit(RunShape.of(SIZES), BUDGET)
    assert (large["pair"], large["layout"], small["layout"]) == ([0, 1], "bounded", "dense")
    assert large["kept"] == shape.bounded[0, 1].average // 2 > 8 and large["bytes"] <= BUDGET and small["kept"] is None
    assert bytes_needed(shape) <= BUDGET < bytes_needed(RunShape.of(SIZES))
    sentence = f"1 of 2 pair tables are bounded (0.0 GB): every feature keeps at least the {large['kept']} partners"
    assert sentence in service.log()
    command = [sys.executable, "-m", "api.cli", "status", "--url", str(service.http.base_url)]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "1 of 2 pair tables are bounded" in printed


def test_the_true_joint_count_lies_where_every_answer_says(service: Service, dense: list[np.ndarray]) -> None:
    truth = dense[0].T.astype(int) @ dense[1].astype(int)
    missing = 0
    for up, down in [(0, 0), (1, 1), (4, 4), (0, 299), (399, 299), (200, 100), (399, 0), (30, 250)]:
        counts = service.get("/v1/similarity", up=f"0:{up}", down=f"1:{down}")["counts"]
        assert (counts["up"], counts["down"]) == (dense[0][:, up].sum(), dense[1][:, down].sum()), "of single features: exact"
        assert counts["joint"] <= truth[up, down] <= counts["joint"] + counts["count_error"]
        missing += counts["count_error"] > 0
    assert missing, "this budget is too large to test anything"
    for feature, direction, layer in [("0:3", "downstream", 1), ("1:2", "upstream", 0), ("1:250", "upstream", 0)]:
        for query in ({}, {"k": 30, "min_support": 3, "rank": "estimate"}):  # published, and from the running tables
            for measure in ("jaccard", "sufficiency"):
                path = f"/v1/features/{feature.replace(':', '/')}/neighbors"
                answer = service.get(path, direction=direction, measure=measure, **query)
                for neighbor in answer["neighbors"]:
                    own, other = (int(name.split(":")[1]) for name in (feature, neighbor["feature"]))
                    joint = truth[own, other] if layer else truth[other, own]
                    counts = neighbor["counts"]
                    assert counts["joint"] <= joint <= counts["joint"] + counts["count_error"]
                    assert counts["joint"] >= counts["count_error"], "what may be twice as much is not ranked"
                    true = {"jaccard": joint / (counts["up"] + counts["down"] - joint), "sufficiency": joint / counts["up"]}
                    if neighbor["status"] == "heuristic":
                        assert neighbor["lower"] <= true[measure] <= neighbor["upper"]


def test_copies_are_found_in_the_tables_that_there_are(service: Service) -> None:
    for copy in range(5):
        best = service.get(f"/v1/features/0/{copy}/neighbors", direction="downstream", measure="jaccard")["neighbors"][0]
        assert best["feature"] == f"1:{copy}"


def test_what_needs_every_pair_says_that_it_does_not_have_them(service: Service) -> None:
    answer = service.http.get("/v1/gates/paper", params={"pair": "0-1"})
    assert answer.status_code == 409 and "bounded table" in answer.json()["detail"]
    point = service.get("/v1/convergence")["points"][-1]
    assert point["unseen_mass"][0] is None and point["unseen_mass"][1] is not None


def test_a_kill_changes_nothing_of_what_it_promises(service: Service, dense: list[np.ndarray]) -> None:
    before = service.get("/v1/similarity", up="0:0", down="1:0")["counts"]
    service.stop()
    service.start()
    assert service.get("/v1/similarity", up="0:0", down="1:0")["counts"] == before
    tables = service.get("/v1/status")["tables"]
    assert [table["layout"] for table in tables] == ["bounded", "dense"]


def test_another_layout_is_another_run(service: Service) -> None:
    service.stop()
    other = Service(service.data_dir, "--dictionary", ",".join(map(str, SIZES)))
    assert other.launch().wait(60) != 0
    assert "bounded tables" in other.log()
    service.start()


@pytest.mark.parametrize(
    ("amount", "says"),
    [
        ("1MB", "--memory-budget of 1,000,000 bytes: the statistics of single features need"),
        ("eight", "memory_budget = 'eight'"),
        ("8 parsec", "memory_budget = '8 parsec'"),
    ],
)
def test_a_budget_that_nothing_fits_into_or_that_is_none_is_refused(tmp_path: Path, amount: str, says: str) -> None:
    service = Service(tmp_path, "--dictionary", "400,300", "--memory-budget", amount)
    assert service.launch().wait(60) != 0
    assert says in service.log()
