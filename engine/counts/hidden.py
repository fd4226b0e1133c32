"""Hidden: how what each upstream feature wrote lies in the next layer's SAE error, summed over the windows that are projected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from engine.counts.part import FramedPart, Place
from engine.counts.shape import RunShape
from engine.encoder.projections import DIRECTIONS
from kernels import WINDOW_SUMS, add_window_sums

if TYPE_CHECKING:
    from engine.encoder.batch import SparseBatch
    from engine.encoder.encoded import SetAside
    from engine.encoder.projections import PairProjections


class HiddenSums(FramedPart):
    """Per upstream feature of one layer pair, over the tokens of projected windows at which it is active (above its threshold).

    On the host wherever the run's tables are: it is a sixteenth of the tokens, and the encoder has moved it there. A window lies in
    one batch, so what is summed over windows is additive too. 200 bytes a feature; a row of the pair's table has 16 a cell.

    Attributes:
        counts: int64 `[Du, 2]`, such tokens, and windows with one.
        sums: float64 `[Du, 7]`, in the order of `kernels.WINDOW_SUMS`.
        chance: float64 `[Du, 16]`, Σ e·r over the same tokens for the directions of either baseline.
    """

    kind = "hidden"

    def __init__(self, shape: RunShape, place: Place, counts: np.ndarray, sums: np.ndarray, chance: np.ndarray) -> None:
        self.shape, self.place = shape, place
        self.counts, self.sums, self.chance = counts, sums, chance
        threshold = shape.thresholds[place[0]]
        self._threshold = None if threshold is None else threshold.cpu().numpy()

    @classmethod
    def places(cls, shape: RunShape) -> Sequence[Place]:
        return shape.pairs

    @classmethod
    def bytes_at(cls, shape: RunShape, place: Place) -> int:
        return shape.dictionaries[place[0]] * 8 * (2 + len(WINDOW_SUMS) + 2 * DIRECTIONS)

    @classmethod
    def zero(cls, shape: RunShape, place: Place) -> Self:
        size = shape.dictionaries[place[0]]
        sums, chance = np.zeros((size, len(WINDOW_SUMS))), np.zeros((size, 2 * DIRECTIONS))
        return cls(shape, place, np.zeros((size, 2), np.int64), sums, chance)

    def add(self, batch: SparseBatch, set_aside: Sequence[SetAside] = ()) -> None:
        return  # a batch holds no residuals: see `add_projections`

    def add_projections(self, projections: Sequence[PairProjections]) -> None:
        for found in projections:
            if (found.up, found.down) != self.place:
                continue
            if self._threshold is not None:
                found = found.at(found.activations > self._threshold[found.features])
            values = (found.written, found.error, found.stream)
            add_window_sums(found.windows, found.chance, found.tokens, found.features, values, self.counts, self.sums, self.chance)

    def merge(self, other: Self) -> None:
        self.counts += other.counts
        self.sums += other.sums
        self.chance += other.chance

    def arrays(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {}, {"counts": self.counts, "sums": self.sums, "chance": self.chance}

    @classmethod
    def from_arrays(cls, shape: RunShape, place: Place, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        return cls(shape, place, *(np.array(arrays[name]) for name in ("counts", "sums", "chance")))
