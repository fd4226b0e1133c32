"""The corpus log: sealed segments on disk, numbered from 0, in the one order in which everything is counted.

    log/00000000.seg, 00000001.seg, …

A segment is durable before `append` returns and never changes again, so the same cursor always gives the same segment, and a run
that was killed is replayed exactly. Nothing but the log says how far an upload has been taken: ingest resumes from what the
headers of the segments say (`LogIndex`). A checkpoint keeps that of the segments that it has counted: they are not needed again,
and not looked at, but for the texts in them.

A segment of which nothing is counted yet is not needed either, as long as its uploads are there. So where one is damaged the log
ends: it and all behind it are renamed to `*.damaged` (numbers and positions of those behind hang on it), and ingest takes the same
tokens from the inbox again. They may be cut into other segments then, which changes no count.

What is synced: the bytes of a segment, its name, then `append` returns and it is counted (`engine.durable`). One that is found at
the start may have been renamed by a process that was killed before it synced the folder, so the folder is synced before anything is
counted: a checkpoint never outlives a segment that it has counted a part of.
"""

from __future__ import annotations

import bisect
import logging
import re
import threading
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import msgspec
import numpy as np

from engine import durable
from engine.corpus.segment import Segment
from engine.corpus.segment_file import (
    SegmentHeader,
    UploadInSegment,
    drop_content,
    read_segment,
    read_segment_header,
    read_whole_header,
    segment_path,
    write_segment,
)
from engine.errors import DamagedFile, DroppedSegment, Unknown, UnknownVersion

log = logging.getLogger(__name__)

DAMAGED = ".damaged"
_NAME = re.compile(r"(\d{8,})\.seg")
_SEGMENTS_HELD = 4  # two ahead, the one being counted, one for look-ups
_HEADERS_HELD = 256


class UploadProgress(NamedTuple):
    """How much of an upload is sealed in the log."""

    documents: int = 0  # whole ones
    tokens: int = 0
    next: tuple[int, int] = (0, 0)  # first token that is not in: (document number, offset)
    finished: bool = False  # all of it is in
    failed: str | None = None  # it was given up, with this reason

    @property
    def ended(self) -> bool:
        """Nothing more of it will come."""
        return self.finished or self.failed is not None


class LogIndex(msgspec.Struct):
    """What the headers of the first segments say: the position after each, and how far each upload is taken by them."""

    ends: list[int] = []
    uploads: dict[str, UploadProgress] = {}

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """Raises DamagedFile for bytes that `pack` did not make."""
        try:
            return msgspec.msgpack.decode(packed, type=cls)
        except ValueError as error:  # msgspec's own, or of text that is no UTF-8
            raise DamagedFile(f"the checkpoint holds no index of the corpus log: {error}") from error

    def pack(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @classmethod
    def of(cls, root: Path, until: int) -> Self:
        """That of the segments before number `until` of a log, from their headers. Raises DamagedFile."""
        index = cls()
        for number in range(until):
            try:
                index.take(read_segment_header(root, number))
            except FileNotFoundError as error:
                raise DamagedFile(f"{root} has no segment {number}") from error
        return index

    def copy(self) -> Self:
        return type(self)(list(self.ends), dict(self.uploads))

    @property
    def tokens(self) -> int:
        """In these segments: the position of the next one."""
        return self.ends[-1] if self.ends else 0

    def progress(self, upload: str) -> UploadProgress:
        """How far an upload is taken; zeros for one of which nothing is."""
        return self.uploads.get(upload, UploadProgress())

    def take(self, header: SegmentHeader) -> None:
        """The next segment has this header."""
        for upload in header.uploads:
            self.uploads[upload.id] = _advanced(self.progress(upload.id), upload)
        self.ends.append(header.end_position)


class Place(NamedTuple):
    """Where a position of the log lies."""

    segment: int
    unit: int
    offset: int  # of the token within the unit


class Builder(Protocol):
    """What `append` seals (engine/corpus/builder.py)."""

    def seal(self, number: int, first_position: int) -> Segment: ...


class CorpusLog:
    """The log under `root`. One process writes; appending and reading from several threads is fine."""

    def __init__(self, root: Path, start: LogIndex | None = None) -> None:
        """Open or begin it; what a crash left half-written is removed.

        Args:
            start: of the segments that are counted already. Those behind are read whole, and the log ends at the first that is
                damaged or missing (see the module's text).

        Raises:
            UnknownVersion: a whole segment of another format. DroppedSegment: one whose text is gone. Nothing is changed then.
            StorageFault: the folder can't be made or synced.
        """
        self.root = root
        durable.make_folders(root)
        durable.remove_partial(root)
        self._lock = threading.Lock()
        self._appended = threading.Condition(self._lock)
        self._index = start.copy() if start is not None else LogIndex()
        self._headers: OrderedDict[int, SegmentHeader] = OrderedDict()
        self._segments: OrderedDict[int, Segment] = OrderedDict()
        uncounted = [number for number in self._numbers(root) if number > self.last]
        try:
            while self.last + 1 <= max(uncounted, default=-1):
                self._take(self._whole(self.last + 1))
        except (UnknownVersion, DroppedSegment):
            raise
        except DamagedFile as error:
            log.warning("%s: the log ends before it, and its uploads are taken from the inbox again", error.message)
            for number in uncounted:
                if number > self.last:
                    path = segment_path(root, number)
                    durable.disk.rename(path, path.with_name(path.name + DAMAGED))
        durable.disk.sync_folder(root)

    @staticmethod
    def _numbers(root: Path) -> list[int]:
        return sorted(int(match[1]) for path in root.iterdir() if (match := _NAME.fullmatch(path.name)))

    @classmethod
    def first(cls, root: Path) -> int:
        """Number of the first segment under `root`; 0 where there is none."""
        return min(cls._numbers(root), default=0) if root.is_dir() else 0

    def _whole(self, number: int) -> SegmentHeader:
        """The header of a segment that is not damaged anywhere and follows on what is taken. Raises DamagedFile."""
        try:
            header = read_whole_header(self.root, number)
        except FileNotFoundError as error:
            raise DamagedFile(f"{self.root} has no segment {number}, though it has later ones") from error
        if header.first_position != self.sealed_tokens:
            raise DamagedFile(
                f"{self.root} segment {number} begins at token {header.first_position}, the one before ends at {self.sealed_tokens}"
            )
        return header

    @property
    def last(self) -> int:
        """Number of the newest segment, -1 for an empty log."""
        return len(self._index.ends) - 1

    @property
    def sealed_tokens(self) -> int:
        """Tokens in all segments: the position of the next one."""
        return self._index.tokens

    def end_position(self, number: int) -> int:
        """Tokens in all segments up to and with this one; 0 for -1."""
        return self._index.ends[number] if number >= 0 else 0

    def append(self, builder: Builder) -> int:
        """Seal what `builder` holds as the next segment; it is durable when its number is returned.

        Raises:
            StorageFault: it could not be written; the log is as before, and the same builder can be tried again.
        """
        with self._lock:
            number, first_position = self.last + 1, self.sealed_tokens
        segment = builder.seal(number, first_position)
        header = write_segment(self.root, segment)
        with self._lock:
            self._hold(self._segments, number, segment, _SEGMENTS_HELD)
            self._take(header)
            self._appended.notify_all()
        return number

    def next_segment(self, number: int, wait: float = 0.0) -> Segment | None:
        """Segment `number`, or None if it is not sealed within `wait` seconds."""
        with self._lock:
            if not self._appended.wait_for(lambda: self.last >= number, wait):
                return None
        return self.read(number)

    def read(self, number: int) -> Segment:
        """Raises Unknown (not sealed yet), DamagedFile or DroppedSegment."""
        self._check(number)
        with self._lock:
            held = self._segments.get(number)
            if held is not None:
                self._segments.move_to_end(number)
                return held
        segment = read_segment(self.root, number)
        with self._lock:
            self._hold(self._segments, number, segment, _SEGMENTS_HELD)
        return segment

    def drop(self, number: int) -> int:
        """Forget the content of a segment that nobody will count again; its header stays, and with it its place in the log.

        Returns:
            How many bytes went.

        Raises:
            Unknown: not sealed yet. StorageFault: the disk's fault, and the segment is as before.
        """
        whole = self.header(number)
        if whole.dropped:
            return 0
        size = segment_path(self.root, number).stat().st_size
        header = drop_content(self.root, whole)
        with self._lock:
            self._segments.pop(number, None)
            self._hold(self._headers, number, header, _HEADERS_HELD)
        return size

    def header(self, number: int) -> SegmentHeader:
        """What a segment holds, without reading it. Raises as `read`."""
        self._check(number)
        with self._lock:
            held = self._headers.get(number)
        if held is None:
            held = read_segment_header(self.root, number)
            with self._lock:
                self._hold(self._headers, number, held, _HEADERS_HELD)
        return held

    def locate(self, position: int) -> Place:
        """Where a token lies. Raises Unknown for a position that is not sealed."""
        with self._lock:
            if not 0 <= position < self.sealed_tokens:
                raise Unknown(f"position {position} of the corpus log: it holds the positions 0 to {self.sealed_tokens - 1}")
            number = bisect.bisect_right(self._index.ends, position)
        segment = self.read(number)
        index = position - segment.first_position
        bounds = segment.unit_bounds()
        unit = int(np.searchsorted(bounds, index, side="right")) - 1
        return Place(number, unit, index - int(bounds[unit]))

    def progress(self, upload: str) -> UploadProgress:
        """How far an upload is sealed; zeros for one of which nothing is."""
        return self._index.progress(upload)

    def _check(self, number: int) -> None:
        if not 0 <= number <= self.last:
            raise Unknown(f"segment {number} of the corpus log: it holds the segments 0 to {self.last}")

    def _take(self, header: SegmentHeader) -> None:
        self._index.take(header)
        self._hold(self._headers, header.number, header, _HEADERS_HELD)

    @staticmethod
    def _hold(held: OrderedDict, number: int, value: object, most: int) -> None:
        held[number] = value
        held.move_to_end(number)
        while len(held) > most:
            held.popitem(last=False)


def _advanced(before: UploadProgress, here: UploadInSegment) -> UploadProgress:
    return UploadProgress(
        documents=before.documents + here.documents,
        tokens=before.tokens + here.tokens,
        next=(here.next_number, here.next_start) if here.next_number >= 0 else before.next,
        finished=here.finished,
        failed=here.failed,
    )
