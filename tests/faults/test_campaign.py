"""Kills, damage, disks that fail and clocks that jump, on a run without a model: every acknowledged upload is counted once.

The tests share one server and go on from each other; all that was sent before is in every comparison.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.counts.state import State
from tests.faults.campaign import API_KILLS, ENGINE_KILLS, RANDOM_KILLS, Campaign, Fault, campaign, last_saved
from tests.faults.injection import Plan, set_clock
from tests.faults.streams import PushedStream
from tests.service import eventually, serving

SEED = 7
KILLS = [*ENGINE_KILLS, *API_KILLS, *RANDOM_KILLS]
STREAM = PushedStream(SEED)
CUTS = ("segment", "checkpoint", "both")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    with campaign(tmp_path_factory.mktemp("faults") / "data", STREAM, SEED) as running:
        running.feed(8)
        pairs = [{"up": "0:3", "down": "1:3"}, {"up": "1:0", "down": "2:8"}]
        assert running.service.http.post("/v1/watch", json={"pairs": pairs}).status_code == 200
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
    with serving(tmp_path, *STREAM.options) as straight:
        eventually("all is counted", lambda: straight.get("/v1/status")["tokens"] == expected.tokens, 120)
    found = last_saved(tmp_path)
    assert found is not None
    assert_same_parts(found.state, expected)


def assert_same_parts(found: State, expected: State) -> None:
    """All parts, those that hang on choices among them: integers bit for bit, float sums to 1e-9."""
    for part, wanted in zip(found.parts(), expected.parts(), strict=True):
        if not hasattr(part, "arrays"):
            np.testing.assert_array_equal(part.counts, wanted.counts, part.name)
            np.testing.assert_allclose(part.products, wanted.products, rtol=1e-9)
            continue
        (header, arrays), (wanted_header, wanted_arrays) = part.arrays(), wanted.arrays()
        assert header == wanted_header and arrays.keys() == wanted_arrays.keys(), part.name
        for name, array in arrays.items():
            compare = np.testing.assert_array_equal if array.dtype.kind in "biu" else np.testing.assert_allclose
            compare(array, wanted_arrays[name], err_msg=f"{part.name} {name}")


def cut_off(run: Campaign, path: Path) -> None:
    """Shorten a file to a random length."""
    os.truncate(path, int(run.rng.integers(path.stat().st_size)))


def flip_a_bit(run: Campaign, path: Path) -> None:
    """Flip a random bit of a file."""
    content = bytearray(path.read_bytes())
    content[run.rng.integers(len(content))] ^= 1 << int(run.rng.integers(8))
    path.write_bytes(content)


def newest_segment(run: Campaign) -> Path:
    return max((run.service.data_dir / "log").glob("*.seg"))


def a_file_of_the_newest_checkpoint(run: Campaign) -> Path:
    files = sorted(max((run.service.data_dir / "checkpoints").glob("*.manifest")).with_suffix("").iterdir())
    return files[run.rng.integers(len(files))]


@pytest.mark.parametrize("turn", range(10))
def test_whatever_is_cut_off_wherever_every_count_is_the_oracles(run: Campaign, turn: int) -> None:
    what = CUTS[turn % len(CUTS)]

    def cut() -> None:
        if what != "checkpoint":
            cut_off(run, newest_segment(run))
        if what != "segment":
            cut_off(run, a_file_of_the_newest_checkpoint(run))

    run.feed(4)
    run.while_engine_is_down(cut)
    run.feed(2)
    run.compare()


FLIPPED = ("newest segment", "old segment", "checkpoint", "manifest", "receipts", "pins", "run.json")


@pytest.mark.parametrize("what", FLIPPED)
def test_whatever_bit_is_flipped_every_count_is_the_oracles(run: Campaign, what: str) -> None:
    data_dir = run.service.data_dir

    def flip() -> None:
        match what:
            case "newest segment":
                flip_a_bit(run, newest_segment(run))
                flip_a_bit(run, a_file_of_the_newest_checkpoint(run))
            case "old segment":
                flip_a_bit(run, data_dir / "log" / "00000003.seg")
            case "checkpoint":
                flip_a_bit(run, a_file_of_the_newest_checkpoint(run))
            case "manifest":
                flip_a_bit(run, max((data_dir / "checkpoints").glob("*.manifest")))
            case "receipts":
                for path in (data_dir / "inbox" / "uploads").glob("*/manifest"):
                    flip_a_bit(run, path)
            case "pins":
                flip_a_bit(run, data_dir / "watch")
            case "run.json":
                flip_a_bit(run, data_dir / "run.json")

    run.feed(4)
    run.while_engine_is_down(flip)
    run.feed(2)
    run.compare()
    assert run.service.get("/v1/watch")["pinned"] == 2


def test_all_is_counted_again_where_no_checkpoint_can_be_used(run: Campaign) -> None:
    def flip() -> None:
        for path in (run.service.data_dir / "checkpoints").glob("*.manifest"):
            flip_a_bit(run, path)
        flip_a_bit(run, run.service.data_dir / "log" / "00000004.seg")

    run.while_engine_is_down(flip)
    run.compare()


def test_an_upload_whose_body_was_damaged_before_it_was_counted_is_failed_and_nothing_of_it_counts(run: Campaign) -> None:
    taken: dict[str, str] = {}

    def damage() -> None:
        upload = STREAM.upload(10**6)
        taken.update(run.service.push(upload.body, "damaged", key=upload.key))
        flip_a_bit(run, run.service.data_dir / "inbox" / "uploads" / taken["id"] / "body")

    run.failed.add("damaged")
    run.while_engine_is_down(damage)
    failed = eventually(
        "it is failed", lambda: (found := run.service.get(f"/v1/uploads/{taken['id']}"))["state"] == "failed" and found
    )
    assert failed["tokens_counted"] == 0 and "is damaged: sha256" in failed["error"]
    run.feed(2)
    run.compare()


@pytest.mark.parametrize("fault", ["ENOSPC", "EIO"])
def test_a_disk_that_fails_is_told_refuses_uploads_and_loses_nothing(run: Campaign, fault: str) -> None:
    said = os.strerror(getattr(errno, fault))
    broken = Plan("*", fault=fault, lasting=True)
    broken.put(run.control, "api")
    upload = STREAM.upload(10**6 + 1)
    refused = run.service.http.post(
        upload.path, params={"name": "x"}, content=upload.body, headers={"Content-Type": upload.media_type}
    )
    assert refused.status_code == 507 and "retry-after" in refused.headers and said in refused.json()["detail"]
    (run.control / "api").unlink()
    broken.put(run.control, "engine")
    run.feed(3)
    eventually("the status tells it", lambda: said in (run.service.get("/v1/status")["problem"] or ""))
    (run.control / "engine").unlink()
    eventually("it is over", lambda: run.service.get("/v1/status")["problem"] is None)
    run.compare()


def test_clocks_that_jump_change_nothing(run: Campaign) -> None:
    for ahead in (3_600.0, -86_400.0):
        set_clock(run.control, ahead)
        run.feed(3)
        run.compare()
        run.while_engine_is_down(lambda: run.feed(2))
        run.compare()
    set_clock(run.control, 0.0)
    run.feed(2)
    run.compare()


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
