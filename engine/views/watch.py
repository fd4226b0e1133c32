"""Which pairs are watched, so that their intervals are kept: the leaders of the published lists, and what was asked for by name.

Choices are made at fixed places of the log (`engine.views.convergence`), from the state there: what is watched is a function of the
log and of the pins, and the pins lie in the data directory with the segment from which each holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engine import durable
from engine.errors import BadValue, DamagedFile
from engine.views.ranking import Side, best_cells
from engine.views.records import INTERVAL_MEASURES
from kernels.cpu.threads import run_each

if TYPE_CHECKING:
    from engine.counts.state import State

Pair = tuple[int, int, int, int]
"""Upstream layer and feature, downstream layer and feature."""

MAGIC = b"SAESPINS"
VERSION = 1

LEADERS = 5
MIN_SUPPORT = 10


class Pin(msgspec.Struct, frozen=True):
    """Pairs that are watched from the start of a segment on, and how many tokens were counted there if that was known then."""

    segment: int
    pairs: list[Pair]
    tokens: int | None = None


class _Pins(msgspec.Struct, frozen=True):
    """The file of the pins, a record (`engine.durable`): nothing else could bring them back."""

    pins: list[Pin]


class Watch:
    """The choices of one run.

    Attributes:
        limit: watched pairs at most, over all layer pairs.
    """

    def __init__(self, path: Path, limit: int, pairs: Sequence[tuple[int, int]]) -> None:
        """
        Args:
            path: file of the pins; none yet is no pins.
            limit: watched pairs at most; each layer pair gets the same share of it.
            pairs: the run's layer pairs.

        Raises:
            DamagedFile: the file holds something else.
        """
        self.limit = limit
        self._path = path
        self._share = limit // max(1, len(pairs))
        self._pins: list[Pin] = []
        if path.exists():
            try:
                self._pins = msgspec.convert(durable.read_record(path, MAGIC, {VERSION}), _Pins).pins
            except msgspec.ValidationError as error:
                raise DamagedFile(f"{path} holds no list of watched pairs: {error}") from error

    @property
    def pinned(self) -> set[Pair]:
        """All pairs that were ever asked for."""
        return {pair for pin in self._pins for pair in pin.pairs}

    def pinned_at(self, pairs: Sequence[Pair]) -> dict[Pair, int | None]:
        """Of these pinned pairs: tokens counted before the segment from which each is watched, None where not known."""
        wanted = set(pairs)
        return {pair: pin.tokens for pin in self._pins for pair in pin.pairs if pair in wanted}

    def pin(self, pairs: Sequence[Pair], segment: int, tokens: int | None = None) -> int:
        """Watch these from the start of a segment on, durably; how many of them were not pinned before.

        Args:
            pairs: which.
            segment: a number that `begin` was not called with yet.
            tokens: counted before that segment, where it is known already.

        Raises:
            BadValue: more pairs than the limit leaves room for; none is pinned then.
            StorageFault: none is pinned.
        """
        known = self.pinned
        new = [pair for pair in dict.fromkeys(pairs) if pair not in known]
        by_layers: dict[tuple[int, int], int] = {}
        for pair in (*known, *new):
            by_layers[pair[0], pair[2]] = by_layers.get((pair[0], pair[2]), 0) + 1
        if most := max(by_layers.values(), default=0):
            layers = max(by_layers, key=lambda key: by_layers[key])
            if most > self._share:
                raise BadValue(
                    f"{len(pairs)} pairs: layers {layers[0]}→{layers[1]} would have {most:,} pinned pairs, and at most "
                    f"{self._share:,} of a layer pair can be watched (watched_pairs = {self.limit:,}, shared by the layer pairs)"
                )
        if new:
            pins = [*self._pins, Pin(segment, new, tokens)]
            durable.write_record(self._path, MAGIC, VERSION, _Pins(pins))
            self._pins = pins
        return len(new)

    def begin(self, state: State, segment: int, position: int, tokens: int) -> None:
        """Pin what holds from this segment on, before its clusters are summed.

        Args:
            state: to pin in.
            segment: its number.
            position: in the log, of its first token.
            tokens: counted before it.
        """
        for pin in self._pins:
            if pin.segment == segment:
                for layers in {(pair[0], pair[2]) for pair in pin.pairs}:
                    chosen = [(pair[1], pair[3]) for pair in pin.pairs if (pair[0], pair[2]) == layers]
                    up, down = np.array(chosen, np.int32).T
                    state.watched[layers].pin(up, down, position=position, tokens=tokens)

    def choose(self, state: State, position: int) -> None:
        """Choose anew from what is counted, for the clusters that begin at or behind a position in the log."""
        sides = [Side.of(part) for part in state.marginals]
        run_each([partial(self._choose, state, pair, sides, position) for pair in state.watched])

    def _choose(self, state: State, pair: tuple[int, int], sides: Sequence[Side], position: int) -> None:
        up, down = pair
        table, width = state.pairs[pair], len(sides[down].count)
        best = best_cells(table, sides[up], sides[down], state.tokens, INTERVAL_MEASURES, LEADERS, MIN_SUPPORT).values()
        by_rank = [ids[:, rank] for rank in range(LEADERS) for found in best for ids in (found.rows, found.columns)]
        ids = np.concatenate(by_rank)
        ids, first = np.unique(ids[ids >= 0], return_index=True)
        # Leaders before followers; among equals those with the most joint tokens, whose intervals come first.
        rank = np.searchsorted(np.cumsum([np.count_nonzero(part >= 0) for part in by_rank]), first, side="right")
        rank //= 2 * len(best)
        i, j = np.divmod(ids, width)
        order = np.lexsort((ids, -table.at(i, j).joint, rank))
        i, j = i[order].astype(np.int32), j[order].astype(np.int32)
        state.watched[pair].choose(i, j, position=position, tokens=state.tokens, limit=self._share)
