"""Design effects of a run: how many dependent tokens are worth one independent one, from the difference between the two halves.

The bounds of pairs that are not watched are tempered by them. They are taken anew where choices are made, so that records do not
change for their sake in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.measures.convergence import DesignEffects, design_effect_of, design_effects
from engine.views.gate_choices import effect_of, joint_effects
from kernels import EFFECT_BINS

if TYPE_CHECKING:
    from engine.counts.state import State

_BINS = np.array([min(4**b, 2**62) for b in range(EFFECT_BINS)])  # a joint count of each bin


class PairEffects(NamedTuple):
    """Design effects of one layer pair: of its ratios, by joint count and by bin of joint counts (float64 `[EFFECT_BINS]`, 4^b to
    4^(b+1) − 1), and of its features' rates, float32 `[Du]` and `[Dd]`."""

    ratios: Callable[[np.ndarray], np.ndarray]
    by_bin: np.ndarray
    up: np.ndarray
    down: np.ndarray


class Effects:
    """The design effects at the last choice.

    Attributes:
        revision: how often they were taken.
        rates: per layer float32 `[D]`, of each feature's rate of firing; NaN where it is not known.
    """

    def __init__(self, dictionaries: Sequence[int]) -> None:
        """Unknown yet."""
        self.revision = 0
        self.rates = tuple(np.full(size, np.nan, np.float32) for size in dictionaries)
        self._ratios: dict[tuple[int, int], tuple[DesignEffects, DesignEffects]] = {}
        self._joint: dict[tuple[int, int], DesignEffects] = {}

    def update(self, state: State) -> None:
        """Take them from a state: those of rates from all features, those of ratios from the watched pairs."""
        tokens = state.ledger.tokens_by_half
        halves = [part.by_half.cpu().numpy() for part in state.marginals]
        self.rates = tuple(
            design_effect_of(design_effects(half[:, 0], half[:, 1], *tokens), half.sum(axis=1)).astype(np.float32)
            for half in halves
        )
        self._joint = {pair: joint_effects(table, tokens) for pair, table in state.pairs.items()}
        for (up, down), watched in state.watched.items():
            joint = state.pairs[up, down].at(watched.up, watched.down).counts
            over = (halves[up][watched.up], halves[down][watched.down])
            self._ratios[up, down] = tuple(design_effects(joint[:, 0], joint[:, 1], whole[:, 0], whole[:, 1]) for whole in over)  # type: ignore[assignment]  # two
        self.revision += 1

    def of_pair(self, pair: tuple[int, int]) -> PairEffects:
        """Those that the bounds of one layer pair need."""
        up, down = pair
        by_bin = self.ratios(pair, _BINS).astype(np.float64)
        return PairEffects(partial(self.ratios, pair), by_bin, self.rates[up], self.rates[down])

    def ratios(self, pair: tuple[int, int], joint: np.ndarray) -> np.ndarray:
        """float32, for joint counts of a layer pair: the larger design effect of n_ij/n_i and n_ij/n_j; NaN where unknown."""
        if pair not in self._ratios:
            return np.full(np.shape(joint), np.nan, np.float32)
        of_up, of_down = self._ratios[pair]
        return np.maximum(design_effect_of(of_up, joint), design_effect_of(of_down, joint)).astype(np.float32)

    def of_gates(self, pair: tuple[int, int], counts: np.ndarray) -> np.ndarray:
        """float64, for counts of a layer pair's children: tokens that weigh as one when gates are compared; 1 where unknown."""
        return effect_of(self._joint[pair], counts) if pair in self._joint else np.ones(np.shape(counts))
