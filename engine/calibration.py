"""Calibration: the maxima that relative thresholds are shares of, and the thresholds that come of them.

1. From the first token of the log on, keep the largest activation of every feature, and nothing else.
2. At the end of the segment by which `calibration_tokens` were seen, or by which the first upload has ended, stop. What is
   special or set aside is not seen here either, and the first upload is the first of which a token was.
3. The threshold of a feature is ratio × maximum; then all is frozen in one file, and counting begins at token 0 of the log.

Where calibration stops, and with it every threshold, is a function of the log alone. Nothing of an unfinished one is kept: an
engine that is killed meanwhile begins at the first segment again and stops at the same one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec
import numpy as np
import torch

from engine import durable
from engine.counts.checkpoint import require_same_run
from engine.errors import DamagedFile, UnknownVersion
from engine.views.records import CalibrationStatus

if TYPE_CHECKING:
    from engine.corpus.segment import Segment
    from engine.encoder.batch import SparseBatch

log = logging.getLogger(__name__)

MAGIC = b"SAESTHRS"
VERSION = 1


class Calibration:
    """The maxima so far.

    Attributes:
        maxima: per layer float32 `[D]` on the device, the largest activation; 0 where the feature never fired.
        tokens: how many they are from.
        wanted: after how many it is enough.
        segments: how many segments were seen whole.
        done: whether it is enough; changes at the end of a segment only.
    """

    def __init__(self, dictionaries: Sequence[int], wanted: int, device: str | torch.device = "cpu") -> None:
        """Dictionary size per layer, `calibration_tokens`, and where the batches are."""
        self.maxima = [torch.zeros(size, dtype=torch.float32, device=device) for size in dictionaries]
        self.tokens = 0
        self.wanted = wanted
        self.segments = 0
        self.done = False
        self._first: str | None = None
        self._seen: set[str] = set()

    def add(self, batch: SparseBatch) -> None:
        """Look at a batch of the segment at hand."""
        for maximum, (_, features, values) in zip(self.maxima, batch.layers, strict=True):
            maximum.scatter_reduce_(0, features.to(torch.int64), values, "amax")
        self.tokens += batch.tokens
        if self._first is None:
            self._seen.update(piece.upload for piece in batch.documents)

    def finish(self, segment: Segment) -> None:
        """All of a segment was looked at: decide whether it is enough."""
        self.segments += 1
        if self._first is None:
            self._first = next((piece.upload for piece in segment.pieces if piece.upload in self._seen), None)
        self.done = self.tokens >= self.wanted or self._first in {*segment.finished, *segment.failed}

    def status(self) -> CalibrationStatus:
        """How far it is, for the status of the run."""
        never_fired = [int((maximum == 0).sum()) for maximum in self.maxima]
        return CalibrationStatus(tokens=self.tokens, calibration_tokens=self.wanted, done=False, never_fired=never_fired)

    def freeze(self, ratio: float) -> FrozenThresholds:
        """The thresholds at `ratio`, in (0, 1), of the maxima."""
        maxima = tuple(maximum.cpu().numpy() for maximum in self.maxima)
        return FrozenThresholds(ratio, self.wanted, self.tokens, self.segments, maxima, tuple(share(ratio, m) for m in maxima))


def share(ratio: float, maxima: np.ndarray) -> np.ndarray:
    """Thresholds float32 `[D]`: ratio × maximum, computed in float64.

    Always below the maximum, whatever the rounding, so that a feature that fired in calibration is active where it was strongest.
    A feature that never fired there has no scale to be relative to; its threshold is 0, and any activation counts.
    """
    rounded = (ratio * maxima.astype(np.float64)).astype(np.float32)
    return np.minimum(rounded, np.nextafter(maxima, np.float32(0)))


class _Header(msgspec.Struct, frozen=True):
    fingerprint: dict[str, str]
    ratio: float
    calibration_tokens: int
    tokens: int
    segments: int
    layers: int


@dataclass(frozen=True, eq=False)
class FrozenThresholds:
    """What a calibration ended with; it never changes for the life of a run.

    Attributes:
        ratio, calibration_tokens: as the settings were.
        tokens, segments: of the log that the maxima are from.
        maxima, thresholds: per layer float32 `[D]`.
    """

    ratio: float
    calibration_tokens: int
    tokens: int
    segments: int
    maxima: tuple[np.ndarray, ...]
    thresholds: tuple[np.ndarray, ...]

    def status(self) -> CalibrationStatus:
        """What the run was calibrated with, for its status."""
        never_fired = [int(np.count_nonzero(maximum == 0)) for maximum in self.maxima]
        return CalibrationStatus(tokens=self.tokens, calibration_tokens=self.calibration_tokens, done=True, never_fired=never_fired)

    def save(self, path: Path, fingerprint: Mapping[str, str]) -> None:
        """Write the file durably.

        Raises:
            StorageFault: as `durable.write_file`.
        """
        layers = len(self.maxima)
        header = _Header(dict(fingerprint), self.ratio, self.calibration_tokens, self.tokens, self.segments, layers)
        arrays = {f"maximum-{layer}": array for layer, array in enumerate(self.maxima)}
        arrays |= {f"threshold-{layer}": array for layer, array in enumerate(self.thresholds)}
        durable.write_framed(path, MAGIC, VERSION, header, arrays)

    @classmethod
    def load(cls, path: Path, fingerprint: Mapping[str, str]) -> Self | None:
        """Read it back; None where no calibration has ended yet. A damaged file is none: the same log calibrates the run again.

        Raises:
            OtherRun: it belongs to a run with another fingerprint. UnknownVersion: a whole file of another format.
        """
        try:
            raw, arrays = durable.read_framed(path, MAGIC, {VERSION})
            header = msgspec.convert(raw, _Header)
        except FileNotFoundError:
            return None
        except UnknownVersion:
            raise
        except (DamagedFile, msgspec.ValidationError) as error:
            log.warning("%s does not hold thresholds, the run calibrates again: %s", path, error)
            return None
        require_same_run(path, header.fingerprint, fingerprint)
        maxima, thresholds = (tuple(arrays[f"{name}-{at}"] for at in range(header.layers)) for name in ("maximum", "threshold"))
        return cls(header.ratio, header.calibration_tokens, header.tokens, header.segments, maxima, thresholds)
