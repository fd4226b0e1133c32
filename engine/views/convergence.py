"""The convergence series: how much the lists still change, and how many features have not fired, from place to place in the log.

Points are taken at fixed places only: at the first end of a segment after each of 1, 2^(1/4), 2^(1/2) … tokens. Where they are,
and what they say, is a function of the log alone, whatever was restarted in between: the series and the lists of its last point
travel in the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engine.errors import DamagedFile
from engine.measures import rbo
from engine.views.ranking import Side, top_lists
from engine.views.records import ConvergencePoint, ConvergenceRecord

if TYPE_CHECKING:
    from engine.counts.state import State

LIST_LENGTH = 20
MIN_SUPPORT = 10
"""What a list is here, whatever a run publishes: settings may change at a restart, and the series must go on."""

MOST_FEATURES = 2_048
"""Lists compared per layer pair and point, evenly spaced by index: an RBO takes 30 µs, and a mean over 2,048 is good to 0.01."""

_FORMAT = 1


class _Saved(msgspec.Struct, frozen=True, array_like=True):
    format: int
    record: ConvergenceRecord
    lists: list[bytes]  # per pair, int32 [n, LIST_LENGTH]; empty before the first point


class Convergence:
    """The series of one run."""

    def __init__(self, pairs: Sequence[tuple[int, int]]) -> None:
        """An empty series over the run's layer pairs."""
        self._record = ConvergenceRecord(pairs=[(up, down) for up, down in pairs], points=[])
        self._lists: list[np.ndarray] = []

    def observe(self, state: State) -> bool:
        """Call at the end of every segment; takes a point when one is due there, and says whether it did."""
        if not self._due(state.tokens):
            return False
        sides = [Side.of(part) for part in state.marginals]
        lists = []
        for pair in self._record.pairs:
            up, down = (sides[layer] for layer in pair)
            best = top_lists(state.pairs[pair], up, down, state.tokens, measure="jaccard", k=LIST_LENGTH, min_support=MIN_SUPPORT)
            lists.append(best[:: max(1, math.ceil(len(best) / MOST_FEATURES))])
        change: list[float | None] = [None] * len(lists)
        if self._lists:
            change = [_change(now, before) for now, before in zip(lists, self._lists, strict=True)]
        dead = [int(np.count_nonzero(side.count == 0)) for side in sides]
        point = ConvergencePoint(tokens=state.tokens, dead=dead, list_change=change)
        self._record = ConvergenceRecord(pairs=self._record.pairs, points=[*self._record.points, point])
        self._lists = lists
        return True

    def record(self) -> ConvergenceRecord:
        """The series so far."""
        return self._record

    def save(self) -> bytes:
        """Series and last lists, for the checkpoint."""
        lists = [best.astype("<i4").tobytes() for best in self._lists]
        return msgspec.msgpack.encode(_Saved(_FORMAT, self._record, lists))

    @classmethod
    def load(cls, saved: bytes) -> Convergence:
        """Inverse of `save`.

        Raises:
            DamagedFile: something else, or of another format.
        """
        try:
            found = msgspec.msgpack.decode(saved, type=_Saved)
        except msgspec.DecodeError as error:
            raise DamagedFile(f"the checkpoint holds no convergence series: {error}") from error
        if found.format != _FORMAT:
            raise DamagedFile(f"the checkpoint's convergence series has format {found.format}, this program reads {_FORMAT}")
        loaded = cls(found.record.pairs)
        loaded._record = found.record
        loaded._lists = [np.frombuffer(best, "<i4").reshape(-1, LIST_LENGTH) for best in found.lists]
        return loaded

    def _due(self, tokens: int) -> bool:
        if tokens == 0:
            return False
        points = self._record.points
        return not points or _place(tokens) > _place(points[-1].tokens)


def _place(tokens: int) -> int:
    """The largest k with 2^(k/4) ≤ tokens, exactly: 2^k ≤ tokens^4 in integers."""
    return (tokens**4).bit_length() - 1


def _change(now: np.ndarray, before: np.ndarray) -> float | None:
    """Mean 1 − RBO over the features that have a list in either; None when none has."""
    changes = [
        1.0 - rbo(a[a >= 0].tolist(), b[b >= 0].tolist()) for a, b in zip(now, before, strict=True) if a[0] >= 0 or b[0] >= 0
    ]
    return float(np.mean(changes)) if changes else None
