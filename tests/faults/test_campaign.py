"""Kills, damage, disks that fail and clocks that jump, on a run without a model: every acknowledged upload is counted once.

The tests share one server and go on from each other; all that was sent before is in every comparison.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from engine.corpus.ingest import AHEAD
from engine.corpus.log import CorpusLog
from engine.counts.pairs import PairTable
from engine.counts.part import FramedPart
from engine.counts.state import State
from tests.faults.campaign import API_KILLS, ENGINE_KILLS, RANDOM_KILLS, Campaign, Fault, campaign, last_saved
from tests.faults.damage import CUTS, EVERYTHING, FLIPS, flip
from tests.faults.injection import set_clock
from tests.faults.streams import PushedStream
from tests.service import eventually, serving

SEED = 7
KILLS = [*ENGINE_KILLS, *API_KILLS, *RANDOM_KILLS]
STREAM = PushedStream(SEED)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    with campaign(tmp_path_factory.mktemp("faults") / "data", STREAM, SEED) as running:
        running.feed(8)
        running.pin(((0, 3), (1, 3)), ((1, 0), (2, 8)))
        running.compare()
        yield running


@pytest.mark.parametrize(
    "fault", [KILLS[at] for at in np.random.default_rng(SEED).permutation(len(KILLS))], ids=lambda fault: fault.name
)
def test_after_a_kill_every_count_is_the_oracles(run: Campaign, fault: Fault) -> None:
    run.strike(fault)


def test_what_was_killed_at_every_step_is_bit_for_bit_what_its_log_gives_in_one_go(run: Campaign, tmp_path: Path) -> None:
    assert sum(fault.kills for fault in KILLS) >= 34
    expected = run.saved()
    for name in ("log", "inbox", "watch"):
        source = run.service.data_dir / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    corpus = CorpusLog(tmp_path / "log")
    with serving(tmp_path, *STREAM.options) as straight:
        # It is ready: of its log only what ingest may be ahead with can be left.
        assert straight.get("/v1/status")["tokens"] >= corpus.end_position(corpus.last - AHEAD)
        assert "Not ready: the engine is recovering" in straight.log()
        eventually("all is counted", lambda: straight.get("/v1/status")["tokens"] == expected.tokens, 120)
    found = last_saved(tmp_path)
    assert found is not None
    assert_same_parts(found.state, expected)


def assert_same_parts(found: State, expected: State) -> None:
    """All parts, those that hang on choices among them: integers bit for bit, float sums to 1e-9."""
    for part, wanted in zip(found.parts(), expected.parts(), strict=True):
        if isinstance(part, PairTable) and isinstance(wanted, PairTable):
            np.testing.assert_array_equal(part.counts, wanted.counts, part.name)
            np.testing.assert_allclose(part.products, wanted.products, rtol=1e-9)
            continue
        assert isinstance(part, FramedPart) and isinstance(wanted, FramedPart), part.name
        (header, arrays), (wanted_header, wanted_arrays) = part.arrays(), wanted.arrays()
        assert header == wanted_header and arrays.keys() == wanted_arrays.keys(), part.name
        for name, array in arrays.items():
            compare = np.testing.assert_array_equal if array.dtype.kind in "biu" else np.testing.assert_allclose
            compare(array, wanted_arrays[name], err_msg=f"{part.name} {name}")


@pytest.mark.parametrize("turn", range(10))
def test_whatever_is_cut_off_wherever_every_count_is_the_oracles(run: Campaign, turn: int) -> None:
    run.damage(*list(CUTS.items())[turn % len(CUTS)])


@pytest.mark.parametrize("name", FLIPS)
def test_whatever_bit_is_flipped_every_count_is_the_oracles(run: Campaign, name: str) -> None:
    run.damage(name, FLIPS[name])
    assert run.service.get("/v1/watch")["pinned"] == 2


@pytest.mark.parametrize("name", EVERYTHING)
def test_all_is_counted_again_where_no_checkpoint_can_be_used(run: Campaign, name: str) -> None:
    tokens = run.service.get("/v1/status")["tokens"]
    outcome = run.damage(name, EVERYTHING[name])
    assert outcome.replayed is not None and outcome.replayed >= tokens


def test_an_upload_whose_body_was_damaged_before_it_was_counted_is_failed_and_nothing_of_it_counts(run: Campaign) -> None:
    taken: dict[str, str] = {}

    def damage() -> None:
        upload = STREAM.upload(10**6)
        taken.update(run.service.push(upload.body, "damaged", key=upload.key))
        flip(run, run.service.data_dir / "inbox" / "uploads" / taken["id"] / "body")

    run.failed.add("damaged")
    run.until_ready(run.while_engine_is_down(damage)[0])
    failed = eventually(
        "it is failed", lambda: (found := run.service.get(f"/v1/uploads/{taken['id']}"))["state"] == "failed" and found
    )
    assert failed["tokens_counted"] == 0 and "is damaged: sha256" in failed["error"]
    run.feed(2)
    run.compare()


@pytest.mark.parametrize("fault", ["ENOSPC", "EIO"])
def test_a_disk_that_fails_is_told_refuses_uploads_and_loses_nothing(run: Campaign, fault: Literal["ENOSPC", "EIO"]) -> None:
    run.fail_the_disk(fault)


@pytest.mark.parametrize("ahead", [3_600.0, -86_400.0], ids=["an hour ahead", "a day back"])
def test_a_clock_that_jumps_changes_nothing(run: Campaign, ahead: float) -> None:
    run.jump(ahead)


def test_who_waits_for_an_answer_while_the_clock_jumps_gets_it(run: Campaign) -> None:
    engine = run.service.child("engine.main")
    assert engine is not None
    pair = {"up": "0:1", "down": "1:1"}
    with ThreadPoolExecutor(1) as asking:
        engine.suspend()
        try:
            answer = asking.submit(run.service.http.get, "/v1/similarity", params=pair)
            time.sleep(0.5)  # it waits in Redis by now
            set_clock(run.control, 3_600.0)
        finally:
            engine.resume()
        assert answer.result().status_code == 200
    set_clock(run.control, 0.0)


SECOND_ENGINE = "import sys, engine.main as main; main._PREDECESSOR_SECONDS = 0.2; sys.exit(main.main())"


def test_a_second_server_and_a_second_engine_are_refused_also_while_the_first_is_stopped(run: Campaign) -> None:
    engine = run.service.child("engine.main")
    assert engine is not None and run.service.process is not None
    serve = [sys.executable, "-m", "api.cli", "serve", *STREAM.options, "--port", "0", "--data-dir", str(run.service.data_dir)]
    engine.suspend()
    try:
        second = subprocess.run(
            [sys.executable, "-c", SECOND_ENGINE], capture_output=True, text=True, env=engine.environ(), timeout=120
        )
        assert second.returncode == 3 and f"already running (process {engine.pid})" in second.stderr
        server = subprocess.run(serve, capture_output=True, text=True, timeout=120)
        assert server.returncode == 1 and f"already running (process {run.service.process.pid})" in " ".join(server.stderr.split())
    finally:
        engine.resume()
    run.feed(2)
    run.compare()
