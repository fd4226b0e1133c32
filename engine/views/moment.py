"""A state as it was at one moment: all that a publish reads of it, so that counting goes on while the rest is done.

Taken while nothing counts: the marginals, and of each pair table the cells that can be listed (`take_cells`). A table that has more
of them than there is memory for is ranked here and now. What changes only where a segment ends (intervals, gates, siblings) is read
when one has ended.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.counts.memory import available_bytes
from engine.views.blocks import STRENGTHS
from engine.views.gate_records import GateRecords
from engine.views.hidden import HiddenRecords
from engine.views.intervals import PairIntervals
from engine.views.keys import Keys
from engine.views.ranking import Bounded, Ranking, Side, rank_pair, take_cells
from engine.views.sibling_record import pack_siblings

if TYPE_CHECKING:
    from engine.counts.histograms import Histograms
    from engine.counts.state import State
    from engine.counts.strongest import Strongest
    from engine.views.decoder import DecoderCosines
    from engine.views.effects import Effects, PairEffects
    from kernels import Supported

_TAKEN_SHARE = 0.25  # of the memory that is free, and of the budget: one moment may wait while another one is written and ranked
_THREADS = min(8, len(os.sched_getaffinity(0)))  # numpy and numba let go of the interpreter's lock, and nothing else goes on

Pair = tuple[int, int]


class Ends(NamedTuple):
    """What changes where a segment ends: the intervals of each layer pair's watched pairs, and packed records under their keys."""

    intervals: dict[Pair, PairIntervals]
    records: list[tuple[str, bytes]]


@dataclass(frozen=True)
class Moment:
    """One state.

    Attributes:
        seconds: that it took to take it.
        whole: all of it is here, not only what has changed since the moment before.
        tokens: N.
        revision: what intervals, gates and design effects are from.
        sides: per layer, marginals.
        strengths: per layer `STRENGTHS [D]`. positions: per layer int64 `[D, CONTEXTS]`, those in them.
        thresholds: per layer float32 `[D]`.
        tables: layer pair → what can be listed of its table, or what is.
        effects: layer pair → design effects; rates: per layer float32 `[D]`, of the rates.
        by_bound: whether effects are known, so that lists by lower bound can be made.
        hidden: packed records under their keys, of what has changed.
        ends: None where the moment before has the same revision.
    """

    seconds: float
    whole: bool
    tokens: int
    revision: tuple[int, int]
    sides: tuple[Side, ...]
    strengths: tuple[np.ndarray, ...]
    positions: tuple[np.ndarray, ...]
    thresholds: tuple[np.ndarray, ...]
    tables: dict[Pair, Supported | Bounded | Ranking]
    effects: dict[Pair, PairEffects]
    rates: tuple[np.ndarray, ...]
    by_bound: bool
    hidden: list[tuple[str, bytes]]
    ends: Ends | None


class Moments:
    """Takes the moments of one engine.

    Attributes:
        last: tokens and revision of the last one; None before the first.
    """

    def __init__(
        self, keys: Keys, cosines: DecoderCosines, effects: Effects, k: int, min_support: int, budget: int | None = None
    ) -> None:
        """Keys of the run; decoder cosines and design effects, kept up to date by the loop; how many neighbours are listed by each
        measure, and the smallest joint count of one; the memory budget in bytes."""
        self._cosines = cosines
        self._effects = effects
        self._k, self._min_support, self._budget = k, min_support, budget
        self._hidden = HiddenRecords(keys)
        self._gates = GateRecords(keys, effects)
        self._keys = keys
        self.last: tuple[int, tuple[int, int]] | None = None

    def revision(self, state: State) -> tuple[int, int]:
        """What intervals, gates and design effects of a state are from."""
        return (state.segments_ended, self._effects.revision)

    def take(self, state: State, whole: bool) -> Moment:
        """The state as it is; nothing may count meanwhile.

        Args:
            state: what is counted so far.
            whole: with everything that has not changed since the last call too.
        """
        began = time.perf_counter()
        revision, effects = self.revision(state), self._effects
        whole = whole or self.last is None
        ended = whole or (self.last is not None and self.last[1] != revision)
        self.last = (state.tokens, revision)
        sides = tuple(Side.of(layer) for layer in state.marginals)
        of_pairs = {pair: effects.of_pair(pair) for pair in state.pairs}
        by_bound = bool(effects.revision)

        room = self._room() // max(1, len(state.pairs))

        def take(pair: Pair) -> Supported | Bounded | Ranking:
            table, dense = state.pairs[pair], self._cosines.dense(*pair)
            cells = take_cells(table, self._min_support, room, dense)
            if cells is not None:
                return cells
            up, down = (sides[layer] for layer in pair)
            tempered = of_pairs[pair] if by_bound else None
            return rank_pair(
                table, up, down, state.tokens, k=self._k, min_support=self._min_support, cosines=dense, effects=tempered
            )

        with ThreadPoolExecutor(_THREADS, "take") as pool:
            tables = dict(zip(state.pairs, pool.map(take, state.pairs), strict=True))
        strengths = tuple(map(_strengths, state.strongest, state.histograms))
        hidden = list(self._hidden.changed(state, whole))
        ends = self._ends(state, whole) if ended else None
        return Moment(
            seconds=time.perf_counter() - began,
            whole=whole,
            tokens=state.tokens,
            revision=revision,
            sides=sides,
            strengths=strengths,
            positions=tuple(rows["contexts"]["position"].copy() for rows in strengths),
            thresholds=tuple(
                np.zeros(size, np.float32) if limit is None else limit.cpu().numpy()
                for size, limit in zip(state.shape.dictionaries, state.shape.thresholds, strict=True)
            ),
            tables=tables,
            effects=of_pairs,
            rates=effects.rates,
            by_bound=by_bound,
            hidden=hidden,
            ends=ends,
        )

    def _room(self) -> int:
        """Bytes that the cells of all tables may take."""
        there = available_bytes()
        return int(_TAKEN_SHARE * (there if self._budget is None else min(there, self._budget)))

    def _ends(self, state: State, whole: bool) -> Ends:
        siblings = [(self._keys.siblings(*pair), pack_siblings(part)) for pair, part in state.siblings.items()]
        intervals = {pair: PairIntervals.of(watched) for pair, watched in state.watched.items()}
        return Ends(intervals, [*siblings, *self._gates.changed(state, whole)])


def _strengths(strongest: Strongest, histograms: Histograms) -> np.ndarray:
    rows = np.empty(len(strongest.value), STRENGTHS)
    rows["contexts"]["position"], rows["contexts"]["value"] = strongest.position.numpy(), strongest.value.numpy()
    rows["histogram"] = histograms.counts.cpu().numpy()
    return rows
