"""The convergence series: how far lists, values and intervals can be trusted, from place to place in the log.

Points are taken at fixed places only: at the first end of a segment after each of 1, 2^(1/4), 2^(1/2) … tokens. Where they are,
and what they say, is a function of the log alone, whatever was restarted in between: the series and the lists of its last point
travel in the checkpoint. Four points per doubling are 120 for 2^30 tokens and fewer than 252 for any number that an int64 holds, so
the series needs no thinning.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from engine.errors import DamagedFile
from engine.measures.convergence import HALF_MEASURES, design_effects
from engine.measures.intervals import intervals, tokens_needed
from engine.measures.moments import INFORMATIVE, Moments
from engine.views.halves import LIST_LENGTH, compare_halves, mean_rbo
from engine.views.newest_corpus import drift_of
from engine.views.records import ConvergencePoint, ConvergenceRecord, FrequencyEffects
from kernels.cpu.threads import run_each

if TYPE_CHECKING:
    from engine.counts.state import State
    from engine.counts.watched import Watched

WANTED_WIDTH = 0.1
"""Of the interval that `tokens_needed` speaks of: ±0.05."""

MOST_WATCHED = 512
"""Watched pairs per layer pair, evenly spaced, that tokens are extrapolated for: each takes 30 intervals."""

FEWEST_DOCUMENTS = 10
"""Informative documents below which nothing is extrapolated: what a handful of documents says of its variance is noise."""

_FORMAT = 2


class _Saved(msgspec.Struct, frozen=True, array_like=True):
    format: int
    record: ConvergenceRecord
    lists: list[bytes]  # per pair, int32 [n, LIST_LENGTH]; empty before the first point
    corpora: list[str]  # in the order of their first tokens


class _Format(msgspec.Struct, frozen=True, array_like=True):
    """The first element of `_Saved`, whatever follows."""

    format: int


class Convergence:
    """The series of one run."""

    def __init__(self, pairs: Sequence[tuple[int, int]]) -> None:
        """An empty series over the run's layer pairs."""
        self._record = ConvergenceRecord(pairs=[(up, down) for up, down in pairs], points=[])
        self._lists: list[np.ndarray] = []
        self._corpora: list[str] = []

    def observe(self, state: State, corpora: Iterable[str] = ()) -> bool:
        """Call at the end of every segment; takes a point when one is due there, and says whether it did.

        Args:
            state: everything up to there.
            corpora: the corpora that the segment holds tokens of, in the order of the log.
        """
        self._corpora += [corpus for corpus in dict.fromkeys(corpora) if corpus not in self._corpora]
        if not self._due(state.tokens):
            return False
        tokens_a, tokens_b = state.ledger.tokens_by_half
        by_half = [part.by_half.cpu().numpy() for part in state.marginals]
        found = run_each(
            [
                partial(compare_halves, state.pairs[up, down], by_half[up], by_half[down], (tokens_a, tokens_b))
                for up, down in self._record.pairs
            ]
        )
        lists = [agreement.lists for agreement in found]
        same: list[float | None] = [None] * len(lists)
        if self._lists:
            same = [mean_rbo(now, before) for now, before in zip(lists, self._lists, strict=True)]
        widths = [_widths(state.watched[pair]) for pair in self._record.pairs]
        point = ConvergencePoint(
            tokens=state.tokens,
            tokens_by_half=(tokens_a, tokens_b),
            dead=[int(np.count_nonzero(counts.sum(axis=1) == 0)) for counts in by_half],
            design_effects=[_design_effects(counts, tokens_a, tokens_b) for counts in by_half],
            list_change=[None if rbo is None else 1.0 - rbo for rbo in same],
            split_half_rbo=[agreement.split_half_rbo for agreement in found],
            reliability={measure: [agreement.reliability[measure] for agreement in found] for measure in HALF_MEASURES},
            unseen_mass=[agreement.unseen_mass for agreement in found],
            pairs_seen=[agreement.pairs_seen for agreement in found],
            pairs_at_all=[agreement.pairs_at_all for agreement in found],
            watched=[one.watched for one in widths],
            interval_share=[one.share for one in widths],
            median_width=[one.median for one in widths],
            tokens_needed=[one.needed for one in widths],
            tokens_needed_reason=[one.reason for one in widths],
        )
        drift = drift_of(state, self._corpora[-1]) if len(self._corpora) > 1 else None
        self._record = ConvergenceRecord(pairs=self._record.pairs, points=[*self._record.points, point], drift=drift)
        self._lists = lists
        return True

    def record(self) -> ConvergenceRecord:
        """The series so far."""
        return self._record

    def save(self) -> bytes:
        """Series, last lists and the order of the corpora, for the checkpoint."""
        lists = [best.astype("<i4").tobytes() for best in self._lists]
        return msgspec.msgpack.encode(_Saved(_FORMAT, self._record, lists, self._corpora))

    @classmethod
    def load(cls, saved: bytes) -> Convergence:
        """Inverse of `save`.

        Raises:
            DamagedFile: something else, or of another format.
        """
        try:
            version = msgspec.msgpack.decode(saved, type=_Format).format
            if version != _FORMAT:
                raise DamagedFile(f"the checkpoint's convergence series has format {version}, this program reads {_FORMAT}")
            found = msgspec.msgpack.decode(saved, type=_Saved)
        except ValueError as error:  # msgspec's own, or of text that is no UTF-8
            raise DamagedFile(f"the checkpoint holds no convergence series: {error}") from error
        loaded = cls(found.record.pairs)
        loaded._record = found.record
        loaded._lists = [np.frombuffer(best, "<i4").reshape(-1, LIST_LENGTH) for best in found.lists]
        loaded._corpora = found.corpora
        return loaded

    def _due(self, tokens: int) -> bool:
        if tokens == 0:
            return False
        points = self._record.points
        return not points or _place(tokens) > _place(points[-1].tokens)


def _place(tokens: int) -> int:
    """The largest k with 2^(k/4) ≤ tokens, exactly: 2^k ≤ tokens^4 in integers."""
    return (tokens**4).bit_length() - 1


def _design_effects(by_half: np.ndarray, tokens_a: int, tokens_b: int) -> FrequencyEffects:
    found = design_effects(by_half[:, 0], by_half[:, 1], tokens_a, tokens_b)
    return FrequencyEffects(
        features=found.features.tolist(), effect=[None if math.isnan(one) else one for one in found.effect.tolist()]
    )


class _Widths(NamedTuple):
    """What `ConvergencePoint` says of the intervals of one layer pair."""

    watched: int
    share: float | None
    median: float | None
    needed: int | None
    reason: str | None


def _widths(watched: Watched) -> _Widths:
    pairs = len(watched)
    if not pairs:
        return _Widths(0, None, None, None, "no pair is watched yet")
    counted = watched.moments()
    moments = Moments(counted.sums, counted.squares, counted.documents)
    found = intervals(moments, ("jaccard",))["jaccard"]
    width = (found.upper - found.lower)[found.sufficient]
    sample = slice(None, None, math.ceil(pairs / MOST_WATCHED))
    needed = tokens_needed(moments.of(sample), "jaccard", WANTED_WIDTH).tokens
    few = moments.documents[sample, INFORMATIVE.index("either")] < FEWEST_DOCUMENTS
    needed[np.isnan(needed) | few] = np.inf
    median = float(np.quantile(needed, 0.5, method="higher"))
    reason = None
    if math.isinf(median):
        known = np.count_nonzero(~np.isinf(needed)) / len(needed)
        reason = (
            f"it is known of {known:.0%} of the watched pairs, and must be of more than half: a pair must have fired in "
            f"{FEWEST_DOCUMENTS} documents since it was chosen"
        )
    return _Widths(
        watched=pairs,
        share=float(np.mean(found.sufficient)),
        median=float(np.median(width)) if len(width) else None,
        needed=None if reason else int(median),
        reason=reason,
    )
