"""Histograms of activations: how often each feature of a layer is active how strongly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from engine.counts.part import FramedPart, Place
from engine.counts.shape import RunShape
from engine.measures.strengths import STEP_BITS, STRENGTH_BINS, STRENGTHS

if TYPE_CHECKING:
    from engine.encoder.batch import SparseBatch
    from engine.encoder.encoded import SetAside

_SHIFT = 23 - STEP_BITS
_FIRST = (int(np.float32(STRENGTHS[0]).view(np.int32)) >> _SHIFT) - 1  # exponent and mantissa of what is in bin 0


class Histograms(FramedPart):
    """Of one layer, over all tokens so far.

    Attributes:
        counts: int64 `[D, STRENGTH_BINS]`, activations of each feature in each bin, whatever its threshold.
    """

    kind = "histograms"

    def __init__(self, shape: RunShape, place: Place, counts: Tensor) -> None:
        self.shape, self.place = shape, place
        self.counts = counts

    @classmethod
    def places(cls, shape: RunShape) -> Sequence[Place]:
        return [(layer,) for layer in range(len(shape.dictionaries))]

    @classmethod
    def bytes_at(cls, shape: RunShape, place: Place) -> int:
        return shape.dictionaries[place[0]] * STRENGTH_BINS * 8

    @classmethod
    def zero(cls, shape: RunShape, place: Place) -> Self:
        return cls(shape, place, torch.zeros(shape.dictionaries[place[0]], STRENGTH_BINS, dtype=torch.int64, device=shape.device))

    def add(self, batch: SparseBatch, set_aside: Sequence[SetAside] = ()) -> None:
        _, features, values = batch.layers[self.place[0]]
        bins = ((values.view(torch.int32) >> _SHIFT) - _FIRST).clamp_(0, STRENGTH_BINS - 1)
        slots = features.to(torch.int64) * STRENGTH_BINS + bins
        one = torch.ones(1, dtype=torch.int64, device=slots.device).expand(len(slots))
        self.counts.view(-1).index_add_(0, slots, one)  # bincount would touch every bin of a large dictionary for a small batch

    def merge(self, other: Self) -> None:
        self.counts += other.counts.to(self.counts.device)

    def arrays(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {}, {"counts": self.counts.cpu().numpy()}

    @classmethod
    def from_arrays(cls, shape: RunShape, place: Place, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        return cls(shape, place, torch.from_numpy(np.array(arrays["counts"])).to(shape.device))
