"""The corpus log: sealed segments on disk, numbered from 0, in the one order in which everything is counted.

    log/00000000.seg, 00000001.seg, …

A segment is durable before `append` returns and never changes again, so the same cursor always gives the same segment, and a run
that was killed is replayed exactly. Nothing but the log says how far an upload has been taken: ingest resumes from its headers.
"""

from __future__ import annotations

import bisect
import re
import threading
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from engine import durable
from engine.corpus.segment import Segment
from engine.corpus.segment_file import (
    SegmentHeader,
    UploadInSegment,
    drop_content,
    read_segment,
    read_segment_header,
    segment_path,
    write_segment,
)
from engine.errors import DamagedFile, Unknown

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

    def __init__(self, root: Path) -> None:
        """Open or begin it; what a crash left half-written is removed.

        Raises:
            DamagedFile: a segment is missing, or its header is damaged or of an unknown version.
        """
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        durable.remove_partial(root)
        self._lock = threading.Lock()
        self._appended = threading.Condition(self._lock)
        self._ends: list[int] = []  # position after each segment
        self._progress: dict[str, UploadProgress] = {}
        self._headers: OrderedDict[int, SegmentHeader] = OrderedDict()
        self._segments: OrderedDict[int, Segment] = OrderedDict()
        numbers = sorted(int(match[1]) for path in root.iterdir() if (match := _NAME.fullmatch(path.name)))
        for expected, number in enumerate(numbers):
            if number != expected:
                raise DamagedFile(f"{root} has segment {number} but not segment {expected}: the log has a hole")
            header = read_segment_header(root, number)
            if header.first_position != self.sealed_tokens:
                raise DamagedFile(
                    f"{root} segment {number} begins at token {header.first_position}, the one before ends at {self.sealed_tokens}"
                )
            self._take(header)

    @property
    def last(self) -> int:
        """Number of the newest segment, -1 for an empty log."""
        return len(self._ends) - 1

    @property
    def sealed_tokens(self) -> int:
        """Tokens in all segments: the position of the next one."""
        return self._ends[-1] if self._ends else 0

    def end_position(self, number: int) -> int:
        """Tokens in all segments up to and with this one; 0 for -1."""
        return self._ends[number] if number >= 0 else 0

    def append(self, builder: Builder) -> int:
        """Seal what `builder` holds as the next segment; it is durable when its number is returned.

        Raises:
            StorageFull, OSError: it could not be written; the log is as before, and the same builder can be tried again.
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
            Unknown: not sealed yet. StorageFull, OSError: the disk's fault, and the segment is as before.
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
            number = bisect.bisect_right(self._ends, position)
        segment = self.read(number)
        index = position - segment.first_position
        bounds = segment.unit_bounds()
        unit = int(np.searchsorted(bounds, index, side="right")) - 1
        return Place(number, unit, index - int(bounds[unit]))

    def progress(self, upload: str) -> UploadProgress:
        """How far an upload is sealed; zeros for one of which nothing is."""
        return self._progress.get(upload, UploadProgress())

    def _check(self, number: int) -> None:
        if not 0 <= number <= self.last:
            raise Unknown(f"segment {number} of the corpus log: it holds the segments 0 to {self.last}")

    def _take(self, header: SegmentHeader) -> None:
        for upload in header.uploads:
            self._progress[upload.id] = _advanced(self.progress(upload.id), upload)
        self._hold(self._headers, header.number, header, _HEADERS_HELD)
        self._ends.append(header.end_position)

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
