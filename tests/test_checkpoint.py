"""Checkpoints: what is saved comes back; kills, damage, full disks and other runs never pass for a good one."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch
from counts_stream import DICTIONARIES, PAIRS, assert_equal, batch, documents, projections, set_aside

from engine import durable
from engine.counts.checkpoint import Checkpoints, Cursor
from engine.counts.state import State
from engine.errors import DamagedFile, OtherRun, StorageFull, UnknownVersion

FINGERPRINT = {"weights": "sha256:12", "context_size": "128"}
DOCUMENTS = documents(seed=9)


def state_of(count: int, threshold: float = 0.0) -> State:
    """The state after the first `count` documents."""
    state = State.zero(DICTIONARIES, PAIRS, threshold)
    state.add(batch(DOCUMENTS[:count]), set_aside(DOCUMENTS[:count]), projections(DOCUMENTS[:count]))
    return state


def assert_same(state: State, expected: State) -> None:
    for part, wanted in zip(state.parts(), expected.parts(), strict=True):
        assert_equal(part, wanted)


def saved(root: Path, *counts: int) -> Checkpoints:
    """Checkpoints after these numbers of documents, with the number as cursor and extra."""
    checkpoints = Checkpoints(root)
    for count in counts:
        checkpoints.save(state_of(count), Cursor(count, 0), FINGERPRINT, {"count": b"extra %d" % count})
    return checkpoints


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("threshold", [0.0, 0.75], ids=["threshold 0", "a threshold"])
def test_state_cursor_and_extra_come_back(tmp_path: Path, threshold: float) -> None:
    state = state_of(7, threshold)
    Checkpoints(tmp_path).save(state, Cursor(3, 17), FINGERPRINT, {"one": b"\0extra\xff", "two": b""})
    loaded = Checkpoints(tmp_path).latest(FINGERPRINT)
    assert loaded is not None
    assert (loaded.cursor, loaded.extras) == (Cursor(3, 17), {"one": b"\0extra\xff", "two": b""})
    assert loaded.state.shape.same_counts_as(state.shape)
    assert_same(loaded.state, state)
    for each in (loaded.state, state):
        each.add(batch(DOCUMENTS[7:]), set_aside(DOCUMENTS[7:]), projections(DOCUMENTS[7:]))
    assert_same(loaded.state, state_of(len(DOCUMENTS), threshold))


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "new" / "folder").latest(FINGERPRINT) is None


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2, 3, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000003", "00000003.manifest", "00000004", "00000004.manifest"]
    loaded = checkpoints.latest(FINGERPRINT)
    assert loaded is not None and loaded.cursor == Cursor(4, 0)
    assert checkpoints.last is not None and checkpoints.last.tokens == state_of(4).tokens


def test_a_checkpoint_has_a_file_per_layer_pair_and_part(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    assert {path.name for path in (tmp_path / "00000001").iterdir()} == {
        "ledger",
        *(f"corpora-{layer}" for layer in range(3)),
        *(f"{kind}-{up}-{down}" for kind in ("gate_tables", "gates", "hidden", "siblings") for up, down in PAIRS),
        *(f"marginals-{layer}" for layer in range(3)),
        *(f"{kind}-{layer}" for kind in ("strongest", "histograms") for layer in range(3)),
        *(f"pairs-{up}-{down}" for up, down in PAIRS),
        *(f"siblings-{up}-{down}" for up, down in PAIRS),
        *(f"watched-{up}-{down}" for up, down in PAIRS),
    }


def test_a_checkpoint_of_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    with pytest.raises(OtherRun, match=r"context_size: 128 / 64; threshold: nothing / 0\.5; weights: sha256:12 / sha256:99\."):
        Checkpoints(tmp_path).latest({"weights": "sha256:99", "context_size": "64", "threshold": "0.5"})


def flip(path: Path, at: int) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


def truncate(path: Path, at: int) -> None:
    os.truncate(path, at)


def remove(path: Path, at: int) -> None:
    path.unlink()


def lengthen(path: Path, at: int) -> None:
    with open(path, "ab") as file:
        file.write(b"\0" * 4)


def positions(size: int) -> list[int]:
    """Places spread over a file of `size` bytes, its first and last bytes among them."""
    return sorted({0, 7, 9, 13, 21, size // 3, size // 2, size - 13, size - 4, size - 1})


DAMAGES = {"bit-flipped": flip, "cut-off": truncate, "missing": remove, "longer": lengthen}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_whatever_file_is_damaged_wherever_the_one_before_is_used(
    tmp_path: Path, damage: Callable[[Path, int], None], caplog: pytest.LogCaptureFixture
) -> None:
    good = tmp_path / "good"
    saved(good, 3, 8)
    broken = [path for path in files(good) if path.relative_to(good).parts[0].startswith("00000002")]
    assert len(broken) == 1 + 1 + 3 * 10
    for path in broken:
        if path.suffix == ".manifest" and damage is remove:
            continue  # without its manifest a checkpoint was never finished
        size = path.stat().st_size
        for at in positions(size) if damage in (flip, truncate) else [0]:
            root = tmp_path / "broken"
            shutil.copytree(good, root)
            damage(root / path.relative_to(good), at)
            caplog.clear()
            loaded = Checkpoints(root).latest(FINGERPRINT)
            assert loaded is not None and loaded.cursor == Cursor(3, 0), f"{path.name} at {at} of {size}"
            assert str(root / path.relative_to(good)) in caplog.text
            shutil.rmtree(root)
    assert_same(saved(tmp_path / "again", 3, 8).latest(FINGERPRINT).state, state_of(8))  # type: ignore[union-attr]  # it is there


def test_when_all_are_damaged_there_is_none_and_the_files_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path, 3, 8)
    truncate(tmp_path / "00000001" / "pairs-0-1", 100)
    flip(tmp_path / "00000002.manifest", 30)
    assert Checkpoints(tmp_path).latest(FINGERPRINT) is None
    assert "00000002.manifest" in caplog.text and "00000001/pairs-0-1" in caplog.text


def test_a_file_of_an_unknown_version_is_no_damage_and_refused(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 3, 8)
    durable.write_framed(tmp_path / "00000002.manifest", b"SAESCKPT", 9, {}, {})
    for read in (checkpoints.latest, lambda run: checkpoints.fingerprint()):
        with pytest.raises(UnknownVersion, match=r"00000002\.manifest has format version 9; this saestream reads 1, 2"):
            read(FINGERPRINT)
    assert len(list(tmp_path.glob("*.manifest"))) == 2


def test_the_fingerprint_is_that_of_the_newest_manifest_that_can_be_read(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path).fingerprint() is None
    checkpoints = saved(tmp_path, 3, 8)
    assert checkpoints.fingerprint() == FINGERPRINT
    flip(tmp_path / "00000002.manifest", 30)
    assert checkpoints.fingerprint() == FINGERPRINT


def test_a_checkpoint_that_its_caller_can_not_go_on_from_is_passed_over_and_gives_way(tmp_path: Path) -> None:
    def accept(cursor: Cursor, extras: Mapping[str, bytes]) -> None:
        assert extras == {"count": b"extra %d" % cursor.segment}
        if cursor.segment > 3:
            raise DamagedFile("the log is gone")

    checkpoints = saved(tmp_path, 3, 8)
    loaded = checkpoints.latest(FINGERPRINT, accept=accept)
    assert loaded is not None and loaded.cursor == Cursor(3, 0)
    checkpoints.save(state_of(9), Cursor(9, 0), FINGERPRINT)
    assert sorted(path.name for path in tmp_path.glob("*.manifest")) == ["00000001.manifest", "00000003.manifest"]


def test_a_file_of_another_checkpoint_is_noticed(tmp_path: Path) -> None:
    saved(tmp_path, 3, 8)
    shutil.copy(tmp_path / "00000001" / "marginals-1", tmp_path / "00000002" / "marginals-1")
    loaded = Checkpoints(tmp_path).latest(FINGERPRINT)
    assert loaded is not None and loaded.cursor == Cursor(3, 0)


def test_a_damaged_checkpoint_does_not_push_out_the_good_one_before_it(tmp_path: Path) -> None:
    saved(tmp_path, 3, 8)
    flip(tmp_path / "00000002" / "ledger", 40)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest(FINGERPRINT) is not None
    checkpoints.save(state_of(9), Cursor(9, 0), FINGERPRINT)
    assert sorted(path.name for path in tmp_path.glob("*.manifest")) == ["00000001.manifest", "00000003.manifest"]
    truncate(tmp_path / "00000003.manifest", 5)
    loaded = Checkpoints(tmp_path).latest(FINGERPRINT)
    assert loaded is not None and loaded.cursor == Cursor(3, 0)


class FilmedDisk(durable.Disk):
    """Keeps a copy of the folder as a kill before or after each step, or in the middle of a write, would leave it."""

    def __init__(self, root: Path, film: Path) -> None:
        self.root, self.film, self.pictures = root, film, 0

    def picture(self) -> None:
        shutil.copytree(self.root, self.film / str(self.pictures))
        self.pictures += 1

    def create(self, path: Path) -> IO[bytes]:
        self.picture()
        return super().create(path)

    def write(self, file: IO[bytes], data: bytes | memoryview) -> None:
        half = len(data) // 2
        super().write(file, data[:half])
        if file.tell() % 5 == 0:  # not in each of a few hundred writes
            self.picture()
        super().write(file, data[half:])

    def sync(self, file: IO[bytes]) -> None:
        self.picture()
        super().sync(file)

    def rename(self, source: Path, target: Path) -> None:
        self.picture()
        super().rename(source, target)
        self.picture()

    def sync_folder(self, folder: Path) -> None:
        super().sync_folder(folder)
        self.picture()


def test_killed_between_any_two_steps_of_saving_the_old_or_the_new_checkpoint_is_there_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    checkpoints = saved(root, 2, 4)
    camera = FilmedDisk(root, tmp_path / "film")
    monkeypatch.setattr(durable, "disk", camera)
    for name in ("unlink", "rmdir"):  # what removes the old ones is not part of the disk that can fail
        real = getattr(os, name)

        def filmed(*arguments: object, real: Callable[..., None] = real, **options: object) -> None:
            camera.picture()
            real(*arguments, **options)

        monkeypatch.setattr(os, name, filmed)
    checkpoints.save(state_of(6), Cursor(6, 0), FINGERPRINT)
    monkeypatch.undo()
    expected = {count: state_of(count) for count in (4, 6)}
    cursors = []
    for number in range(camera.pictures):
        left = Checkpoints(tmp_path / "film" / str(number))
        loaded = left.latest(FINGERPRINT)
        assert loaded is not None
        assert_same(loaded.state, expected[loaded.cursor.segment])
        cursors.append(loaded.cursor.segment)
        if number % 7 == 0:  # and the next save clears away what the kill left
            left.save(state_of(7), Cursor(7, 0), FINGERPRINT)
            kept = {path.stem for path in left.root.glob("*.manifest")}
            assert {path.name for path in left.root.iterdir()} == kept | {f"{name}.manifest" for name in kept}
            assert len(kept) == 2
    assert camera.pictures > 50
    assert cursors == sorted(cursors) and set(cursors) == {4, 6}


class FullDisk(durable.Disk):
    """A disk that is full after `room` bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, file: IO[bytes], data: bytes | memoryview) -> None:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(file, data)


@pytest.mark.parametrize("room", [0, 1000, 7500], ids=["at once", "in the middle", "near the end"])
def test_a_full_disk_fails_the_save_and_leaves_the_old_checkpoints_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    checkpoints = saved(tmp_path, 2, 4)
    before = files(tmp_path)
    monkeypatch.setattr(durable, "disk", FullDisk(room))
    with pytest.raises(StorageFull):
        checkpoints.save(state_of(6), Cursor(6, 0), FINGERPRINT)
    monkeypatch.undo()
    assert files(tmp_path) == before
    assert not checkpoints.due(), "not tried again at once"
    checkpoints.save(state_of(6), Cursor(6, 0), FINGERPRINT)
    loaded = checkpoints.latest(FINGERPRINT)
    assert loaded is not None and loaded.cursor == Cursor(6, 0)


def test_saving_is_due_after_the_interval_and_after_twenty_times_what_the_last_save_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("engine.counts.checkpoint.time.monotonic", lambda: now[0])
    checkpoints = Checkpoints(tmp_path, interval=30.0)
    assert not checkpoints.due()
    now[0] += 30
    assert checkpoints.due()
    state = state_of(1)
    (table, *_) = state.pairs.values()
    save = type(table).save

    def slow_save(part: object, path: Path) -> int:
        now[0] += 2
        return save(part, path)  # type: ignore[arg-type]  # a PairTable

    monkeypatch.setattr(type(table), "save", slow_save)
    checkpoints.save(state, Cursor(1, 0), FINGERPRINT)
    assert checkpoints.last is not None and checkpoints.last.seconds == 2 * len(PAIRS)
    now[0] += 20 * 2 * len(PAIRS) - 1
    assert not checkpoints.due()
    now[0] += 1
    assert checkpoints.due()


def test_the_zeros_of_a_table_are_not_on_disk(tmp_path: Path) -> None:
    state = State.zero([2000, 2000])
    table = state.pairs[0, 1]
    rows, columns = torch.from_numpy(np.random.default_rng(0).integers(0, 2000, (2, 1000)))
    table.counts[rows, columns, rows % 2], table.products[rows, columns] = 3, 1.5
    Checkpoints(tmp_path).save(state, Cursor(0, 1), FINGERPRINT)
    size = (tmp_path / "00000001" / "pairs-0-1").stat().st_size
    assert size < 2000 * 2000 / 8 + 1000 * (2 + 8) + 1000, "a bit per cell, and 10 bytes for each that is not zero"
    loaded = Checkpoints(tmp_path).latest(FINGERPRINT)
    assert loaded is not None
    assert_same(loaded.state, state)
