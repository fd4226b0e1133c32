"""Where a run goes on after it was stopped, killed or damaged: the newest checkpoint that can be used, and the log behind it.

1. Newest checkpoint first: its cursor and its index of the log are read, then the log behind its cursor, whole. Where a segment is
   damaged the log ends (`CorpusLog`), and ingest takes the rest from the inbox again.
2. A checkpoint that has counted a part of a segment that is damaged is of no use, nor is one with a damaged file: then the one
   before, and more of the log is counted again.
3. Without any that can be used, all of the log is counted again.

What is counted again is the same tokens, so whatever was damaged, the counts come out as if nothing had been; which segments they
lie in may differ from there on. The service is ready when all is counted again that was counted before (`Replay`).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch

from engine.corpus.ingest import AHEAD
from engine.corpus.log import CorpusLog, LogIndex
from engine.counts.checkpoint import Checkpoints, Cursor
from engine.counts.shape import LayerPair, RowSlots
from engine.counts.state import State
from engine.errors import DamagedFile, DroppedSegment

log = logging.getLogger(__name__)

LOG = "log"
CONVERGENCE = "convergence"
"""Names of a checkpoint's extras."""


class Recovered(NamedTuple):
    """Where to go on.

    Attributes:
        state, cursor: of the checkpoint; None and the start of the log where there is none.
        counted: index of the segments before the cursor's.
        corpus: the log.
        convergence: the packed series, None without a checkpoint.
    """

    state: State | None
    cursor: Cursor
    counted: LogIndex
    corpus: CorpusLog
    convergence: bytes | None


def recover(
    checkpoints: Checkpoints,
    root: Path,
    fingerprint: Mapping[str, str],
    device: str | torch.device = "cpu",
    bounded: Mapping[LayerPair, RowSlots] = MappingProxyType({}),
) -> Recovered:
    """Find where to go on.

    Args:
        root: of the corpus log.
        fingerprint, device, bounded: as `Checkpoints.latest`.

    Raises:
        OtherRun, UnknownVersion, DoesNotFit: as `Checkpoints.latest`. StorageFault: as `CorpusLog`.
        DamagedFile: no checkpoint can be used, and the log does not hold all that was counted.
    """
    began = time.monotonic()
    opened: list[tuple[LogIndex, CorpusLog]] = []

    def accept(cursor: Cursor, extras: Mapping[str, bytes]) -> None:
        # Version 1 of the manifest held no index: the headers of the log say the same, if they can be read.
        counted = LogIndex.unpack(extras[LOG]) if LOG in extras else LogIndex.of(root, cursor.segment)
        corpus = CorpusLog(root, counted)
        reached = Cursor(corpus.last + 1, 0)
        if cursor > reached:
            raise DamagedFile(f"it goes on from {_words(cursor)}, and the log in {root} is whole up to {_words(reached)}")
        opened.append((counted, corpus))

    loaded = checkpoints.latest(fingerprint, device, bounded, accept)
    if loaded is not None:
        counted, corpus = opened[-1]
        found = Recovered(loaded.state, loaded.cursor, counted, corpus, loaded.extras.get(CONVERGENCE))
        log.info("checkpoint of %d tokens read in %.2f s", loaded.state.tokens, time.monotonic() - began)
    else:
        unusable = f"no checkpoint in {checkpoints.root} can be used, and"
        if (first := CorpusLog.first(root)) > 0:
            raise DamagedFile(f"{unusable} the log in {root} begins at segment {first} only")
        try:
            corpus = CorpusLog(root)
        except DroppedSegment as error:
            raise DamagedFile(f"{unusable} {error.message}") from error
        found = Recovered(None, Cursor(0, 0), LogIndex(), corpus, None)
    log.info("%d tokens of the log to count, from %s on", found.corpus.sealed_tokens - found.counted.tokens, _words(found.cursor))
    return found


class Replay:
    """What an engine counts that was counted before it was stopped, and readers may have seen: they are shown nothing older."""

    def __init__(self, tokens: int, standing: int, sealed: int) -> None:
        """
        Args:
            tokens: counted when it begins.
            standing: tokens of the snapshot that stands in Redis; 0 for none (Redis is new as well).
            sealed: segments in the log. Ingest is never more than `AHEAD` ahead of what is counted, so all before were counted.
        """
        self._began, self._from = time.monotonic(), tokens
        self._standing, self._segment = standing, sealed - AHEAD
        self._over = False

    def goes_on(self, tokens: int, cursor: Cursor, *, idle: bool = False) -> bool:
        """Whether less is counted than was.

        As many tokens are not enough until the log is counted whole (`idle`): with the last of them the end of their segment may
        have been told as well, its uploads as counted.
        """
        enough = tokens > self._standing or (idle and tokens == self._standing)
        if not self._over and enough and cursor.segment >= self._segment:
            self.end(tokens)
        return not self._over

    def end(self, tokens: int) -> None:
        """All there is is counted, or all that was: tells the log, once."""
        if self._over:
            return
        self._over = True
        counted, took = tokens - self._from, time.monotonic() - self._began
        log.info(
            "ready: %d tokens, %d of them counted again in %.2f s; %.2f s after this process began",
            *(tokens, counted, took, process_age()),
        )


def process_age() -> float:
    """Seconds since this process began, its imports among them; by the boot clock, which nobody sets."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _words(cursor: Cursor) -> str:
    return f"segment {cursor.segment}" + (f", unit {cursor.units}" if cursor.units else "")
