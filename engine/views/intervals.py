"""Intervals of watched pairs as records hold them: computed once where a segment ends, and read by every sweep until the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.measures.intervals import intervals
from engine.measures.moments import Moments
from engine.views.records import INTERVAL, INTERVAL_MEASURES

if TYPE_CHECKING:
    from engine.counts.watched import Watched


def interval_rows(watched: Watched, at: np.ndarray, corpus: str | None = None) -> np.ndarray:
    """`INTERVAL [n]` of some watched pairs (their rows, int64 `[n]`), over all corpora or one; `index` is left at 0."""
    rows = np.zeros(len(at), INTERVAL)
    rows["counted_from"] = watched.counted_from[at]
    total = watched.moments(corpus, at)
    found = intervals(Moments(total.sums, total.squares, total.documents), INTERVAL_MEASURES)
    for number, measure in enumerate(INTERVAL_MEASURES):
        of_measure = found[measure]
        for name in ("estimate", "lower", "upper", "documents", "effective"):
            rows[name][:, number] = getattr(of_measure, name)
    return rows


@dataclass(frozen=True)
class PairIntervals:
    """The watched pairs of one layer pair.

    Attributes:
        ids: int64 `[P]`, ascending: up · Dd + down.
        width: Dd.
        rows: `INTERVAL [P]`, `index` left at 0: it is the neighbour's, which depends on the direction.
    """

    ids: np.ndarray
    width: int
    rows: np.ndarray

    @classmethod
    def of(cls, watched: Watched) -> PairIntervals:
        """From the moments as they are now. Nothing may count meanwhile."""
        return cls(watched.ids, watched.shape.dictionaries[watched.place[1]], interval_rows(watched, np.arange(len(watched))))

    def find(self, up: np.ndarray, down: np.ndarray) -> np.ndarray:
        """int64: the row of each pair, −1 for one that is not watched."""
        wanted = up.astype(np.int64) * self.width + down
        at = np.searchsorted(self.ids, wanted)
        return np.where(np.append(self.ids, -1)[at] == wanted, at, -1)
