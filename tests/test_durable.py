"""Files that must survive a crash: whole or not at all, and damage is named."""

from __future__ import annotations

import errno
from pathlib import Path
from unittest.mock import Mock

import msgspec
import numpy as np
import pytest
from corpus_rig import FailingDisk, no_space

from engine import durable
from engine.errors import DamagedFile, StorageFault, StorageFull, UnknownVersion

MAGIC = b"SAETEST\0"
STEPS = {"create": 0, "first write": 1, "second write": 2, "sync": 3, "rename": 4}
ARRAYS = {
    "empty": np.empty((0, 3)),
    "one-entry": np.array([7], dtype=np.int32),
    "scalar": np.array(2.5),
    "big-endian": np.array([[1.5, -2.0]], dtype=">f4"),
    "strided": np.arange(10, dtype=np.int64)[::3],
    "bool": np.array([True, False, True]),
}


def framed(tmp_path: Path) -> Path:
    path = tmp_path / "table.bin"
    durable.write_framed(path, MAGIC, 3, {"tokens": 5}, ARRAYS)
    return path


def test_a_written_file_has_all_chunks_and_leaves_no_partial_file(tmp_path: Path) -> None:
    assert durable.write_file(tmp_path / "a", [b"one ", memoryview(b"two"), b""]) == 7
    assert (tmp_path / "a").read_bytes() == b"one two"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_a_full_disk_at_any_step_leaves_the_older_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    path = tmp_path / "a"
    durable.write_file(path, [b"older"])
    monkeypatch.setattr(durable, "disk", FailingDisk(step, no_space))
    with pytest.raises(StorageFull, match=r"cannot write .*a: No space left on device"):
        durable.write_file(path, [b"new", b"er"])
    assert path.read_bytes() == b"older"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_another_fault_of_the_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(durable, "disk", FailingDisk(1, broken))
    with pytest.raises(StorageFault, match=r"cannot write .*a: Input/output error; look after the disk") as caught:
        durable.write_file(tmp_path / "a", [b"new"])
    assert not isinstance(caught.value, StorageFull) and not list(tmp_path.iterdir())


def test_what_the_disk_can_not_give_back_is_damage() -> None:
    unreadable = Path("/proc/self/mem")  # its first bytes are a real EIO
    for read in (durable.read_framed_header, durable.read_record):
        with pytest.raises(DamagedFile, match="/proc/self/mem can't be read: Input/output error"):
            read(unreadable, MAGIC, {3})


def test_a_record_survives_any_flipped_byte_and_the_loss_of_its_second_half(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record"
    durable.write_record(path, MAGIC, 3, {"key": "k"})
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1 :])
        assert durable.read_record(path, MAGIC, {3}) == {"key": "k"}
        assert path.read_bytes() == whole, "and is written anew"
        path.write_bytes(whole[:position])
        if position >= len(whole) // 2 - 4:  # without the last checksum, which is that of arrays
            assert durable.read_record(path, MAGIC, {3}) == {"key": "k"}
            assert path.read_bytes() == whole
        else:
            with pytest.raises(DamagedFile, match="record is cut off"):
                durable.read_record(path, MAGIC, {3})
    assert "one of the two copies in it is whole: it is written anew" in caplog.text
    damaged = bytes([whole[0] ^ 1]) + whole[1:]
    path.write_bytes(damaged)
    monkeypatch.setattr(durable.disk, "create", Mock(side_effect=OSError(errno.EROFS, "Read-only file system")))
    assert durable.read_record(path, MAGIC, {3}) == {"key": "k"} and path.read_bytes() == damaged
    assert "it stays as it is" in caplog.text
    path.write_bytes(whole)
    with pytest.raises(UnknownVersion, match="version 3; this saestream reads 1, 2"):
        durable.read_record(path, MAGIC, {1, 2})


def test_folders_are_made_with_their_names_synced_from_the_top_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []

    class Watched(durable.Disk):
        def make_folder(self, path: Path) -> None:
            steps.append(f"make {path.name}")
            super().make_folder(path)

        def sync_folder(self, folder: Path) -> None:
            steps.append(f"sync {folder.name}")
            super().sync_folder(folder)

    monkeypatch.setattr(durable, "disk", Watched())
    durable.make_folders(tmp_path / "a" / "b")
    durable.make_folders(tmp_path / "a" / "b")
    assert steps == ["make a", "make b", "sync a", f"sync {tmp_path.name}", "sync a"]


def test_chunks_that_fail_on_the_way_leave_nothing(tmp_path: Path) -> None:
    def chunks():
        yield b"some"
        raise KeyError("no more")

    with pytest.raises(KeyError):
        durable.write_file(tmp_path / "a", chunks())
    assert not list(tmp_path.iterdir())


def test_what_a_crash_left_half_written_is_removed_and_other_files_are_not(tmp_path: Path) -> None:
    durable.PendingFile(tmp_path / "a").write(b"half")
    (tmp_path / "b.partial").write_bytes(b"somebody's")
    assert durable.remove_partial(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["b.partial"]


def test_a_framed_file_gives_back_header_and_arrays(tmp_path: Path) -> None:
    path = framed(tmp_path)
    header, arrays = durable.read_framed(path, MAGIC, {3})
    assert header == {"tokens": 5} == durable.read_framed_header(path, MAGIC, {2, 3})
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].shape == array.shape and arrays[name].dtype == array.dtype.newbyteorder("<")
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].flags.aligned and arrays[name].flags.writeable


def test_a_header_may_be_a_struct_and_there_may_be_no_arrays(tmp_path: Path) -> None:
    class Header(msgspec.Struct):
        name: str

    durable.write_framed(tmp_path / "a", MAGIC, 0, Header("x"), {})
    assert durable.read_framed(tmp_path / "a", MAGIC, {0}) == ({"name": "x"}, {})


def test_every_flipped_byte_and_a_framed_file_cut_anywhere_are_found(tmp_path: Path) -> None:
    path = framed(tmp_path)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1 :])
        with pytest.raises(DamagedFile, match=str(path)):
            durable.read_framed(path, MAGIC, {3})
    for position in range(0, len(whole), 5):
        path.write_bytes(whole[:position])
        with pytest.raises(DamagedFile, match=str(path)):
            durable.read_framed(path, MAGIC, {3})


def test_a_damaged_header_is_found_when_the_header_is_read_alone(tmp_path: Path) -> None:
    path = framed(tmp_path)
    whole = bytearray(path.read_bytes())
    whole[25] ^= 1
    path.write_bytes(whole)
    with pytest.raises(DamagedFile, match="damaged header"):
        durable.read_framed_header(path, MAGIC, {3})


def test_a_file_of_another_kind_or_version_says_what_was_found_and_what_was_expected(tmp_path: Path) -> None:
    path = framed(tmp_path)
    with pytest.raises(DamagedFile, match=r"not a OTHER file: it starts with b'SAETEST\\x00', expected b'OTHER"):
        durable.read_framed(path, b"OTHER\0\0\0", {3})
    with pytest.raises(UnknownVersion, match="format version 3; this saestream reads 1, 2"):
        durable.read_framed(path, MAGIC, {1, 2})
    content = bytearray(path.read_bytes())
    content[8] ^= 1  # a version that nobody wrote
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match="damaged header") as caught:
        durable.read_framed(path, MAGIC, {1, 2})
    assert not isinstance(caught.value, UnknownVersion)


def test_objects_are_not_stored(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="array 'names' has dtype object"):
        durable.write_framed(tmp_path / "a", MAGIC, 1, {}, {"names": np.array(["a", None])})
    assert not list(tmp_path.iterdir())
