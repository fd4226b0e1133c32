"""The token windows of a corpus log that another process writes: for readers of text that count nothing.

Sealed segments never change, and appear under their names whole, so nothing has to be locked. Only where a damaged one was sealed
anew (`CorpusLog`) do others take their names. No torch here.
"""

from __future__ import annotations

import bisect
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.corpus.segment_file import read_framed_segment, read_segment_header, segment_path
from engine.errors import DamagedFile


class TokenWindows(NamedTuple):
    """Position in the log of a segment's first token, int32 `[n]` token ids, and int32 `[W + 1]` offsets of its windows."""

    first_position: int
    tokens: np.ndarray
    offsets: np.ndarray


class SealedWindows:
    """Reads the log under `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._ends: list[int] = []  # position after each segment that is known

    def segment_of(self, position: int) -> int | None:
        """The number of the segment that holds a position; None when it is not sealed, or its header is gone.

        Raises:
            DamagedFile: a header before it can't be read.
        """
        while not self._ends or self._ends[-1] <= position:
            try:
                self._ends.append(read_segment_header(self._root, len(self._ends)).end_position)
            except FileNotFoundError:
                return None
        return bisect.bisect_right(self._ends, position)

    def end(self, number: int) -> int:
        """Position after a segment that `segment_of` has named."""
        return self._ends[number]

    def read(self, number: int) -> TokenWindows | None:
        """The windows of a segment, without its documents; None where it holds pushed activations.

        Raises:
            FileNotFoundError: it is gone. DroppedSegment: its text was dropped.
            DamagedFile: it is not what it must be, or not the one that `segment_of` has named.
        """
        header, arrays = read_framed_segment(self._root, number)
        if header.end_position != self._ends[number]:
            self._ends.clear()
            raise DamagedFile(f"{segment_path(self._root, number)} was sealed anew since it was last read")
        return TokenWindows(header.first_position, arrays["tokens"], arrays["window_offsets"]) if header.kind == "tokens" else None
