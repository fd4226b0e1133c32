"""Power cuts: at every step of writing, a disk that has kept nothing but what was synced, and one that has kept all names and no
bytes but what was synced. From each a run goes on, with every upload that was acknowledged, and counts each once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from engine import durable
from engine.corpus.inbox import Inbox
from tests.corpus_rig import UnsyncedDisk
from tests.faults.hand_run import THE_END, HandRun, assert_counts_to_the_end, send

Tree = dict[str, "bytes | Tree"]


class Killed(BaseException):
    """The process is gone."""


class CuttableDisk(durable.Disk):
    """Knows what is safe of a folder: of each file its bytes as of its last sync, of each folder its names as of its own.

    Attributes:
        steps: operation and name of all so far.
        cuts: after each of them, what a cut would leave: of names that were synced, and of all names.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.steps: list[str] = []
        self.cuts: list[tuple[Tree, Tree]] = []
        self._bytes: dict[int, bytes] = {}  # inode → content
        self._names: dict[int, dict[str, int]] = {}  # inode of a folder → inode by name
        self._folders: set[int] = set()
        self._kept: list[int] = []  # descriptors: no inode is used again while one is open
        self.killed_before: str | None = None
        """A step that is not reached any more."""

    def _done(self, operation: str, path: Path) -> None:
        self.steps.append(f"{operation} {path.name}")
        self.cuts.append((self._synced(os.stat(self.root).st_ino), self._named(self.root)))

    def _begin(self, operation: str, path: Path) -> None:
        if f"{operation} {path.name}" == self.killed_before:
            raise Killed

    def _keep(self, path: Path) -> None:
        self._kept.append(os.open(path, os.O_RDONLY))

    def _synced(self, folder: int) -> Tree:
        names = self._names.get(folder, {})
        return {name: self._synced(at) if at in self._folders else self._bytes.get(at, b"") for name, at in names.items()}

    def _named(self, folder: Path) -> Tree:
        tree: Tree = {}
        for entry in os.scandir(folder):
            tree[entry.name] = self._named(Path(entry.path)) if entry.is_dir() else self._bytes.get(entry.inode(), b"")
        return tree

    def create(self, path: Path) -> IO[bytes]:
        file = super().create(path)
        self._keep(path)
        self._done("create", path)
        return file

    def sync(self, file: IO[bytes]) -> None:
        path = Path(file.name)
        self._bytes[os.fstat(file.fileno()).st_ino] = path.read_bytes()
        self._done("sync", path)

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self._done("rename", target)

    def sync_folder(self, folder: Path) -> None:
        self._begin("sync_folder", folder)
        self._names[os.stat(folder).st_ino] = {entry.name: entry.inode() for entry in os.scandir(folder)}
        self._done("sync_folder", folder)

    def make_folder(self, path: Path) -> None:
        super().make_folder(path)
        self._keep(path)
        self._folders.add(os.stat(path).st_ino)
        self._done("make_folder", path)

    def remove(self, path: Path) -> None:
        super().remove(path)
        self._done("remove", path)

    def remove_folder(self, path: Path) -> None:
        super().remove_folder(path)
        self._done("remove_folder", path)

    def close(self) -> None:
        for kept in self._kept:
            os.close(kept)


def lay_out(tree: Tree, folder: Path) -> Path:
    """Write a tree to a new folder."""
    folder.mkdir()
    for name, found in tree.items():
        if isinstance(found, bytes):
            (folder / name).write_bytes(found)
        else:
            lay_out(found, folder / name)
    return folder


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CuttableDisk]:
    root = tmp_path / "data"
    root.mkdir()
    made = CuttableDisk(root)
    monkeypatch.setattr(durable, "disk", made)
    yield made
    made.close()


def test_from_a_cut_at_any_step_a_run_goes_on_with_all_that_was_acknowledged(
    disk: CuttableDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, acknowledged = HandRun(disk.root), {}
    for number in (1, 4, 11):
        send(run.inbox, number)
        acknowledged[str(number)] = len(disk.cuts)
        run.seal()
        run.count(THE_END)
        run.save()
    assert {"rename 00000000.seg", "rename 00000003.manifest", "remove 00000001.manifest", "remove_folder 00000001"} <= set(
        disk.steps
    )
    monkeypatch.setattr(durable, "disk", UnsyncedDisk())
    seen: list[Tree] = []
    for at, cuts in enumerate(disk.cuts, start=1):
        for kind, tree in enumerate(cuts):
            if tree in seen[-4:]:
                continue
            seen.append(tree)
            left = lay_out(tree, tmp_path / f"{at} {kind}")
            found = {manifest.key for manifest in Inbox(left / "inbox").manifests()}
            safe = {key for key, since in acknowledged.items() if since <= at}
            assert safe <= found, f"{disk.steps[at - 1]}: {safe - found} is lost"
            assert_counts_to_the_end(left)
    assert len(seen) > 100


def test_an_upload_whose_writer_was_killed_before_its_last_sync_is_safe_before_a_segment_of_it_is(disk: CuttableDisk) -> None:
    disk.killed_before = "sync_folder uploads"
    with pytest.raises(Killed):
        send(Inbox(disk.root / "inbox"), 11)
    disk.killed_before = None
    at = len(disk.cuts)
    run = HandRun(disk.root)
    run.seal()
    sealed = [names_in(tree, "log") for tree, _ in disk.cuts[at:]]
    found = [len(names_in(tree, "inbox", "uploads")) for tree, _ in disk.cuts[at:]]
    assert found[0] == 0 and "00000000.seg" in sealed[-1]
    assert all(uploads == 1 for names, uploads in zip(sealed, found, strict=True) if "00000000.seg" in names)


def test_a_repeated_key_is_acknowledged_only_when_the_first_upload_is_safe(disk: CuttableDisk) -> None:
    disk.killed_before = "sync_folder uploads"
    with pytest.raises(Killed):
        send(Inbox(disk.root / "inbox"), 11)
    disk.killed_before = None
    assert not names_in(disk.cuts[-1][0], "inbox", "uploads")
    send(Inbox(disk.root / "inbox"), 11)
    assert len(names_in(disk.cuts[-1][0], "inbox", "uploads")) == 1


def test_a_segment_whose_writer_was_killed_before_its_last_sync_is_safe_before_it_is_counted(disk: CuttableDisk) -> None:
    run = HandRun(disk.root)
    send(run.inbox, 11)
    disk.killed_before = "sync_folder log"
    with pytest.raises(Killed):
        run.seal()
    disk.killed_before = None
    assert not names_in(disk.cuts[-1][0], "log")
    assert HandRun(disk.root).corpus.last == 0
    assert names_in(disk.cuts[-1][0], "log") == {"00000000.seg"}


def names_in(tree: Tree, *path: str) -> set[str]:
    """The names in a folder of a tree; none where it is not there."""
    for name in path:
        found = tree.get(name, {})
        assert isinstance(found, dict)
        tree = found
    return set(tree)


UPLOAD = """make_folder F, create .body, sync .body, rename body, sync_folder F, create .manifest, sync .manifest, rename manifest,
sync_folder F, rename U, sync_folder uploads"""
SEGMENT = "create .00000000.seg, sync .00000000.seg, rename 00000000.seg, sync_folder log"
MANIFEST = """create .00000003.manifest, sync .00000003.manifest, rename 00000003.manifest, sync_folder checkpoints,
remove 00000001.manifest, sync_folder checkpoints, remove_folder 00000001"""


def test_the_steps_of_an_upload_a_segment_and_a_checkpoint_come_in_the_order_that_the_texts_say(disk: CuttableDisk) -> None:
    run = HandRun(disk.root)
    disk.steps.clear()
    manifest = send(run.inbox, 11)
    (folder,) = {step.split()[1] for step in disk.steps if step.startswith("make_folder")}
    assert plain(disk.steps, {folder: "F", manifest.id: "U"}) == UPLOAD.replace("\n", " ").split(", ")
    disk.steps.clear()
    run.seal()
    assert plain(disk.steps) == ["sync_folder uploads", *SEGMENT.split(", ")]
    run.count(THE_END)
    for _ in range(2):
        run.save()
    disk.steps.clear()
    run.save()
    steps = plain(disk.steps)
    assert steps[:2] == ["make_folder 00000003", "sync_folder checkpoints"]
    assert steps[-7:] == MANIFEST.replace("\n", " ").split(", ")
    parts = [steps[at : at + 4] for at in range(2, len(steps) - 7, 4)]
    assert [part[0] for part in parts] == [f"create .{part.name}" for part in run.state.parts()]
    for part in parts:
        name = part[0].removeprefix("create .")
        assert part == [f"create .{name}", f"sync .{name}", f"rename {name}", "sync_folder 00000003"]


def plain(steps: list[str], names: dict[str, str] | None = None) -> list[str]:
    """Steps without the chance in the names of temporary files and folders."""
    found = [re.sub(r"\.[0-9a-f]{8}\.partial$", "", step) for step in steps]
    return [" ".join((names or {}).get(word, word) for word in step.split()) for step in found]
