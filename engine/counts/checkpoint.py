"""Checkpoints: a state on disk together with the cursor up to which it has counted.

    00000007.manifest       written last: cursor, fingerprint, shape, thresholds, and size and seal of every file below
    00000007/pairs-3-4      a file per layer pair, block by block without the zeros (`engine.counts.table_file`)
    00000007/marginals-3    … and per part of the state

Saving number 8, and what is synced when: its folder's name; its files, each by itself, with their names (`engine.durable`); then
its manifest, and with that it exists; then all but 7 and 8 is removed, manifests first, and that they are gone is synced before
their files go. Killed, or cut from power, anywhere in between, every manifest that is there has all its files, and the newest is 7
or 8. The seal of a file is its last four bytes, which are a checksum of the rest: a file that got into the folder of another
checkpoint is noticed.

State and cursor are in one checkpoint, so a token is never in one without the other. Where a checkpoint is damaged the one before
is used, and what it lacks is counted again from the log.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import msgspec
import numpy as np
import torch

from engine import durable
from engine.counts.part import require
from engine.counts.shape import LayerPair, RowSlots, RunShape
from engine.counts.state import State, layout
from engine.errors import DamagedFile, OtherRun, UnknownVersion

log = logging.getLogger(__name__)

MAGIC = b"SAESCKPT"
VERSION = 2  # 1: one unnamed extra, the convergence series
_EXTRA = "extra-"
KEPT = 2
"""One to go on from, and the one before for the day that one is damaged."""
SHARE = 20
"""The next save comes after 20 times as long as the last one took: at most 5 % of the time goes into saving."""


class Cursor(msgspec.Struct, frozen=True, order=True):
    """What is in a state: all segments before `segment`, and of that one the first `units` units in its `unit_order`."""

    segment: int
    units: int


class Loaded(NamedTuple):
    """A checkpoint read back; `extras` are what the caller gave to `save`."""

    state: State
    cursor: Cursor
    extras: dict[str, bytes]


class Saved(NamedTuple):
    """The last checkpoint written (or read): its tokens and cursor, when it was saved (unix seconds), and how long that took."""

    tokens: int
    cursor: Cursor
    saved_at: float
    seconds: float


class FileRecord(msgspec.Struct, frozen=True):
    """A file of a checkpoint as its manifest knows it."""

    bytes: int
    seal: str


class Manifest(msgspec.Struct, frozen=True):
    """The header of a manifest file; thresholds and extras are its arrays."""

    cursor: Cursor
    fingerprint: dict[str, str]
    tokens: int
    saved_at: float
    dictionaries: list[int]
    pairs: list[tuple[int, int]]
    files: dict[str, FileRecord]
    gate_candidates: int


class Checkpoints:
    """The checkpoints in one folder, which nobody else writes to."""

    def __init__(self, root: Path, interval: float = 30.0) -> None:
        """`interval`: seconds between two saves, at least (a save of the demo takes 0.2 s, so `SHARE` alone would mean 4 s)."""
        durable.make_folders(root)
        self.root = root
        self.interval = interval
        self.last: Saved | None = None
        self._damaged: set[int] = set()
        self._ended = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to save: `interval` seconds and `SHARE` times the last save's duration after its end."""
        waited = time.monotonic() - self._ended
        return waited >= max(self.interval, SHARE * self.last.seconds if self.last else 0.0)

    def save(self, state: State, cursor: Cursor, fingerprint: Mapping[str, str], extras: Mapping[str, bytes] | None = None) -> None:
        """Write a checkpoint; it counts from the moment this returns, and the one before is kept beside it.

        Args:
            extras: by name, what else belongs to this moment.

        Raises:
            StorageFault: nothing was saved and the checkpoints from before are untouched, or only old ones could not be removed.
        """
        began = time.monotonic()
        number = max(self._numbers(), default=0) + 1
        folder = self._folder(number)
        try:
            self._tidy()
            durable.make_folders(folder)
            files = {part.name: _record(folder / part.name, part.save(folder / part.name)) for part in state.parts()}
            shape = state.shape
            manifest = Manifest(
                cursor,
                dict(fingerprint),
                state.tokens,
                time.time(),
                list(shape.dictionaries),
                list(shape.pairs),
                files,
                shape.gate_candidates,
            )
            packed = {f"{_EXTRA}{name}": np.frombuffer(extra, np.uint8) for name, extra in (extras or {}).items()}
            durable.write_framed(self._manifest(number), MAGIC, VERSION, manifest, {**packed, **_thresholds_out(shape)})
            self.last = Saved(state.tokens, cursor, manifest.saved_at, time.monotonic() - began)
            self._remove_old()
        except BaseException as error:
            if not self._manifest(number).exists():
                shutil.rmtree(folder, ignore_errors=True)  # room for what the disk was too full for
            if isinstance(error, OSError):
                raise durable.storage_error(error, folder) from error
            raise
        finally:
            self._ended = time.monotonic()  # a save that failed is tried again when the interval has passed, not at once

    def fingerprint(self) -> dict[str, str] | None:
        """Of the run that the newest readable manifest belongs to; None where there is none. Raises UnknownVersion."""
        for number in sorted(self._manifests(), reverse=True):
            try:
                return self._read_manifest(number)[0].fingerprint
            except UnknownVersion:
                raise
            except DamagedFile as error:
                log.warning("checkpoint %d: %s", number, error)
        return None

    def latest(
        self,
        fingerprint: Mapping[str, str],
        device: str | torch.device = "cpu",
        bounded: Mapping[LayerPair, RowSlots] = MappingProxyType({}),
        accept: Callable[[Cursor, Mapping[str, bytes]], None] | None = None,
    ) -> Loaded | None:
        """Read the newest checkpoint that is whole; None when there is none. A damaged one is passed over with a warning.

        Args:
            fingerprint: of this run: weights, tokenizer, hook points, thresholds …
            device: where the tables are to be (not part of the fingerprint).
            bounded: the room of bounded tables now; which layer pairs have one is part of the fingerprint.
            accept: called with cursor and extras of a checkpoint before its state is read; raises `DamagedFile` for one that is of
                no use.

        Raises:
            OtherRun: the checkpoint belongs to a run with another fingerprint; the message says what differs.
            UnknownVersion: a whole file of it has another format; nothing is removed.
            DoesNotFit: the tables need more memory than there is.
        """
        for number in sorted(self._manifests(), reverse=True):
            try:
                return self._load(number, fingerprint, torch.device(device), bounded, accept)
            except UnknownVersion:
                raise
            except DamagedFile as error:
                log.warning("checkpoint %d can't be used, trying the one before: %s", number, error)
                self._damaged.add(number)
        return None

    def needed_from(self) -> int:
        """The first segment of the log that could be counted again; 0 while there is but one checkpoint, or a damaged one."""
        kept = [self._manifest(number) for number in self._manifests() - self._damaged]
        if len(kept) < KEPT:
            return 0
        try:
            headers = [durable.read_framed_header(path, MAGIC, {1, VERSION}) for path in kept]
        except DamagedFile as error:
            log.warning("the log is kept whole: %s", error)
            return 0
        return min(msgspec.convert(header, Manifest).cursor.segment for header in headers)

    def newest_manifest(self) -> tuple[int, Manifest]:
        """Number and manifest of the newest checkpoint, all of whose files are there in their sizes; nothing else of them is read.

        Raises:
            DamagedFile: the manifest is damaged, or a file is missing or another. FileNotFoundError: there is none, or it went.
        """
        number = max(self._manifests(), default=0)
        manifest, _ = self._read_manifest(number)
        for name, record in manifest.files.items():
            file = self._folder(number) / name
            require(file, "size and seal", _record(file, file.stat().st_size), record)
        return number, manifest

    def _load(
        self,
        number: int,
        fingerprint: Mapping[str, str],
        device: torch.device,
        bounded: Mapping[LayerPair, RowSlots],
        accept: Callable[[Cursor, Mapping[str, bytes]], None] | None,
    ) -> Loaded:
        path = self._manifest(number)
        manifest, arrays = self._read_manifest(number)
        require_same_run(self.root, manifest.fingerprint, fingerprint)
        extras = {name.removeprefix(_EXTRA): array.tobytes() for name, array in arrays.items() if name.startswith(_EXTRA)}
        if "extra" in arrays:
            extras["convergence"] = arrays["extra"].tobytes()
        if accept is not None:
            accept(manifest.cursor, extras)
        thresholds = _thresholds_in(manifest.dictionaries, arrays)
        shape = RunShape.of(manifest.dictionaries, manifest.pairs, thresholds, device, gate_candidates=manifest.gate_candidates)
        shape = shape.with_bounded(bounded)
        parts = layout(shape)
        folder = self._folder(number)
        require(path, "list of parts", sorted(manifest.files), sorted(part.name_at(place) for _, part, place in parts))
        for name, record in manifest.files.items():
            if not (folder / name).is_file():
                raise DamagedFile(f"{folder / name} is missing")
            size = (folder / name).stat().st_size
            require(folder / name, "size and seal", _record(folder / name, size), record)
        State.require_memory(shape)
        state = State(shape, [part.load(shape, place, folder / part.name_at(place)) for _, part, place in parts])
        require(path, "number of tokens", manifest.tokens, state.tokens)
        self.last = Saved(state.tokens, manifest.cursor, manifest.saved_at, 0.0)
        return Loaded(state, manifest.cursor, extras)

    def _read_manifest(self, number: int) -> tuple[Manifest, dict[str, np.ndarray]]:
        """A manifest and its arrays. Raises DamagedFile."""
        path = self._manifest(number)
        header, arrays = durable.read_framed(path, MAGIC, {1, VERSION})
        try:
            return msgspec.convert(header, Manifest), arrays
        except msgspec.ValidationError as error:
            raise DamagedFile(f"{path} is not a manifest of this version: {error}") from error

    def _manifest(self, number: int) -> Path:
        return self.root / f"{number:08d}.manifest"

    def _folder(self, number: int) -> Path:
        return self.root / f"{number:08d}"

    def _manifests(self) -> set[int]:
        return {int(path.stem) for path in self.root.glob("*.manifest") if path.stem.isdigit()}

    def _folders(self) -> set[int]:
        return {int(path.name) for path in self.root.iterdir() if path.name.isdigit() and path.is_dir()}

    def _numbers(self) -> set[int]:
        return self._manifests() | self._folders()

    def _tidy(self) -> None:
        """Remove what a killed save left: half-written files, and folders that never got a manifest."""
        durable.remove_partial(self.root)
        for number in self._folders() - self._manifests():
            shutil.rmtree(self._folder(number))

    def _remove_old(self) -> None:
        """Keep the newest `KEPT` that are not known to be damaged. Manifests go first: no manifest ever lacks its files."""
        usable = sorted(self._manifests() - self._damaged)[-KEPT:]
        old = self._manifests() - set(usable)
        for number in old:
            durable.disk.remove(self._manifest(number))
        if old:
            durable.disk.sync_folder(self.root)
        for number in old:
            if self._folder(number).exists():
                durable.disk.remove_folder(self._folder(number))
        self._damaged -= old


def _record(path: Path, size: int) -> FileRecord:
    with durable.reading(path), open(path, "rb") as file:
        file.seek(max(0, size - 4))
        return FileRecord(size, file.read(4).hex())


def _thresholds_out(shape: RunShape) -> dict[str, np.ndarray]:
    return {f"threshold-{layer}": array.cpu().numpy() for layer, array in enumerate(shape.thresholds) if array is not None}


def _thresholds_in(dictionaries: list[int], arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return [arrays.get(f"threshold-{layer}", np.zeros(size, np.float32)) for layer, size in enumerate(dictionaries)]


def require_same_run(root: Path, theirs: Mapping[str, str], ours: Mapping[str, str]) -> None:
    """Raise `OtherRun`, naming what differs, unless the fingerprint found in `root` is that of this run."""
    differs = [
        f"{key}: {theirs.get(key, 'nothing')} / {ours.get(key, 'nothing')}"
        for key in sorted({*theirs, *ours})
        if theirs.get(key) != ours.get(key)
    ]
    if differs:
        raise OtherRun(
            f"{root} holds the counts of another run (theirs / ours): {'; '.join(differs)}. Give this run a data directory of its "
            "own, or start it with the settings of the other"
        )
