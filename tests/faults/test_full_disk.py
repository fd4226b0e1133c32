"""A disk that is really full: a small tmpfs under the data directory."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.campaign import campaign
from tests.faults.streams import PushedStream
from tests.service import eventually

SEED = 5
LEFT = 96 << 10  # bytes: room for an upload or two


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Append to a file until the disk takes no more."""
    with path.open("ab", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
        while True:
            filler.write(bytes(4096))


def test_a_full_disk_refuses_uploads_is_told_and_when_there_is_room_again_all_is_counted_once(disk: Path) -> None:
    with campaign(disk / "data", PushedStream(SEED), SEED, SAESTREAM_MIN_FREE_BYTES="0") as run:  # else 256 MiB are kept free
        run.feed(2)
        run.compare()
        fill(disk / "filler")
        os.truncate(disk / "filler", (disk / "filler").stat().st_size - LEFT)
        while (answer := run.offer()).status_code == 202:
            pass
        assert answer.status_code == 507 and answer.headers["retry-after"] == "30", answer.text
        assert answer.json()["title"] == "Storage full" and "what is stored already is safe" in answer.json()["detail"]
        fill(disk / "filler")  # before what was just taken is saved
        eventually("the status tells it", lambda: "No space left" in (run.service.get("/v1/status")["problem"] or ""))
        assert run.service.is_ready(), "a full disk is no reason to restart a server that answers"
        (disk / "filler").unlink()
        run.feed(2)
        run.compare()
        eventually("it is over", lambda: run.service.get("/v1/status")["problem"] is None)
