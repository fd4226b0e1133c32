"""Files cut off or flipped at every byte, against the functions that read them: found, and the counts come out the same."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from engine import durable
from engine.corpus.log import CorpusLog, LogIndex
from engine.counts.checkpoint import Checkpoints, Cursor
from engine.counts.state import layout
from engine.encoder.description import RunDescription
from engine.errors import DamagedFile, OtherRun, UnknownVersion
from engine.main import describe_run
from engine.recovery import recover
from tests.corpus_rig import UnsyncedDisk
from tests.faults.hand_run import RUN, HandRun, assert_counts_to_the_end, send

UPLOADS = (0, 1, 2, 3, 4, 11)  # each makes a segment, the last one of several units
STRIDE = 61  # every so many bytes all is counted to the end


@pytest.fixture(autouse=True, scope="module")
def _unsynced() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "disk", UnsyncedDisk())
        yield


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six uploads in a log of several segments; checkpoints at the start of its second last, and in the middle of its last."""
    root = tmp_path_factory.mktemp("built")
    run = HandRun(root)
    for number in UPLOADS:
        send(run.inbox, number)
    run.seal()
    last = run.corpus.last
    assert last >= 3 and run.corpus.read(last).units >= 2
    for cursor in (Cursor(last - 1, 0), Cursor(last, 1)):
        run.count(cursor)
        assert run.cursor == cursor
        run.save()
    return root


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(built, tmp_path / "run")


def newest(root: Path, pattern: str) -> Path:
    return max(root.glob(pattern))


def cut_off(path: Path) -> Iterator[int]:
    """The file shortened to every length, then whole again."""
    whole = path.read_bytes()
    for length in range(len(whole) - 1, -1, -1):  # in place: a file that is emptied and written anew is written out by ext4
        os.truncate(path, length)
        yield length
    path.write_bytes(whole)


def flipped(path: Path) -> Iterator[int]:
    """The file with a bit flipped in every byte, then whole again."""
    whole, rng = path.read_bytes(), np.random.default_rng(5)
    for at in range(len(whole)):
        with path.open("r+b") as file:
            file.seek(max(at - 1, 0))
            file.write(whole[max(at - 1, 0) : at] + bytes([whole[at] ^ 1 << int(rng.integers(8))]))
        yield at
    path.write_bytes(whole)


def test_undamaged_it_goes_on_in_the_middle_of_the_last_segment(root: Path) -> None:
    run = HandRun(root)
    assert run.cursor == Cursor(run.corpus.last, 1)
    assert_counts_to_the_end(root)


@pytest.mark.parametrize("damage", [cut_off, flipped], ids=["cut off", "flipped"])
def test_damaged_at_any_byte_the_newest_segment_is_given_up_with_the_checkpoint_that_has_counted_in_it(
    root: Path, tmp_path: Path, damage: Callable[[Path], Iterator[int]]
) -> None:
    segment = newest(root / "log", "*.seg")
    number, aside = int(segment.stem), segment.with_name(segment.name + ".damaged")
    index = LogIndex()
    for before in range(number):
        index.take(CorpusLog(root / "log").header(before))
    for at in damage(segment):
        assert CorpusLog(root / "log", index).last == number - 1
        if at % STRIDE == 0:
            aside.rename(segment)
            found = recover(Checkpoints(root / "checkpoints"), root / "log", RUN)
            assert (found.cursor, found.corpus.last) == (Cursor(number - 1, 0), number - 1)
            assert_counts_to_the_end(shutil.copytree(root, tmp_path / f"at {at}"))
        aside.rename(segment)


def refused(checkpoints: Checkpoints) -> list[Cursor]:
    """The checkpoints that are come to when none is accepted: which manifests are whole."""
    seen = []

    def accept(cursor: Cursor, extras: Mapping[str, bytes]) -> None:
        seen.append(cursor)
        if len(seen) == 2 or cursor.units == 0:
            raise DamagedFile("not this one")

    assert checkpoints.latest(RUN, accept=accept) is None
    return seen


@pytest.mark.parametrize("damage", [cut_off, flipped], ids=["cut off", "flipped"])
def test_damaged_at_any_byte_of_any_file_the_newest_checkpoint_gives_way_to_the_one_before(
    root: Path, tmp_path: Path, damage: Callable[[Path], Iterator[int]]
) -> None:
    manifest = newest(root / "checkpoints", "*.manifest")
    last, before = Cursor(CorpusLog(root / "log").last, 1), Cursor(CorpusLog(root / "log").last - 1, 0)
    checkpoints = Checkpoints(root / "checkpoints")
    for _ in damage(manifest):
        assert refused(checkpoints) == [before]
    loaded = checkpoints.latest(RUN)
    assert loaded is not None
    shape = loaded.state.shape
    for _, part, place in layout(shape):
        path = manifest.with_suffix("") / part.name_at(place)
        for at in damage(path):
            if damage is cut_off:
                assert refused(checkpoints) == [last, before], path.name
            else:  # the whole of a checkpoint is read in 10 ms, a part in 0.1
                with pytest.raises(DamagedFile, match=path.name) as caught:
                    part.load(shape, place, path)
                assert not isinstance(caught.value, UnknownVersion)
            if at % (STRIDE * 20) == 0:
                assert_counts_to_the_end(shutil.copytree(root, tmp_path / f"{path.name} {at}"))


def test_old_segments_are_not_needed_and_not_touched(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in sorted((root / "log").glob("*.seg"))[:-2]:
        path.write_bytes(b"?")
    assert_counts_to_the_end(root)
    assert not list((root / "log").glob("*.damaged")) and not caplog.records


def test_without_a_checkpoint_that_can_be_used_all_is_counted_again_from_whatever_is_whole(root: Path, tmp_path: Path) -> None:
    for path in (root / "checkpoints").glob("*.manifest"):
        path.write_bytes(b"?")
    assert_counts_to_the_end(shutil.copytree(root, tmp_path / "log whole"))
    dropped = CorpusLog(shutil.copytree(root, tmp_path / "text dropped") / "log")
    dropped.drop(0)
    with pytest.raises(DamagedFile, match=r"no checkpoint in .* can be used, and the text of .*00000000\.seg was dropped"):
        HandRun(tmp_path / "text dropped")
    (root / "log" / "00000001.seg").write_bytes(b"?")
    assert_counts_to_the_end(shutil.copytree(root, tmp_path / "log damaged"))
    (root / "log" / "00000000.seg").unlink()
    with pytest.raises(DamagedFile, match=r"no checkpoint in .* can be used, and the log in .* begins at segment 1 only"):
        HandRun(root)
    assert (root / "log" / "00000001.seg").exists()


def test_a_checkpoint_of_version_1_goes_on_from_the_headers_of_the_log(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = HandRun(root)
    shutil.rmtree(root / "checkpoints")
    monkeypatch.setattr("engine.counts.checkpoint.VERSION", 1)
    Checkpoints(root / "checkpoints").save(run.state, run.cursor, RUN)
    monkeypatch.undo()
    again = HandRun(root)
    assert (again.cursor, again.uploads.counted) == (run.cursor, run.uploads.counted)
    assert_counts_to_the_end(root)


def test_the_description_of_a_run_is_written_anew_where_a_checkpoint_says_whose_folder_it_is(tmp_path: Path) -> None:
    path, mine, other = tmp_path / "run.json", {"model": "this"}, {"model": "another"}
    described = RunDescription(model="", saes="", layers=[], fingerprint=mine)
    describe_run(path, described, mine, None)
    whole = path.read_bytes()
    value = whole.index(b"this")
    for damaged in (*(whole[:at] for at in range(0, len(whole), 7)), whole[:value] + b"\xff" + whole[value + 1 :]):
        path.write_bytes(damaged)
        with pytest.raises(DamagedFile, match="does not describe a run"):
            describe_run(path, described, mine, None)
        assert path.read_bytes() == damaged
        describe_run(path, described, mine, mine)
        assert path.read_bytes() == whole
    with pytest.raises(OtherRun, match="another"):
        describe_run(path, described, mine, other)
