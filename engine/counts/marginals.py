"""Marginals: how often each feature of a layer is active, and the sums of its activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from engine.counts.part import FramedPart, Place
from engine.counts.shape import RunShape

if TYPE_CHECKING:
    from engine.encoder.batch import SparseBatch
    from engine.encoder.encoded import SetAside


class Marginals(FramedPart):
    """Per feature of one layer, over all tokens so far.

    Attributes:
        by_half: int64 `[D, 2]`, tokens of either half at which the activation is above the feature's threshold.
        sum: float64 `[D]`, Σa over all activations, whatever the threshold.
        sum_of_squares: float64 `[D]`, Σa² over all activations.
    """

    kind = "marginals"

    def __init__(self, shape: RunShape, place: Place, by_half: Tensor, sum: Tensor, sum_of_squares: Tensor) -> None:
        self.shape, self.place = shape, place
        self.by_half, self.sum, self.sum_of_squares = by_half, sum, sum_of_squares

    @property
    def count(self) -> Tensor:
        """int64 `[D]`, tokens of both halves."""
        return self.by_half.sum(dim=1)

    @classmethod
    def places(cls, shape: RunShape) -> Sequence[Place]:
        return [(layer,) for layer in range(len(shape.dictionaries))]

    @classmethod
    def bytes_at(cls, shape: RunShape, place: Place) -> int:
        return shape.dictionaries[place[0]] * (2 * 8 + 8 + 8)

    @classmethod
    def zero(cls, shape: RunShape, place: Place) -> Self:
        features = shape.dictionaries[place[0]]
        return cls(
            shape,
            place,
            torch.zeros(features, 2, dtype=torch.int64, device=shape.device),
            torch.zeros(features, dtype=torch.float64, device=shape.device),
            torch.zeros(features, dtype=torch.float64, device=shape.device),
        )

    def add(self, batch: SparseBatch, set_aside: Sequence[SetAside] = ()) -> None:
        (layer,) = self.place
        offsets, features, values = batch.layers[layer]
        size = len(self.by_half)
        threshold = self.shape.thresholds[layer]
        halves = torch.from_numpy(batch.halves).to(features.device, torch.int32)
        slots = 2 * features + halves.repeat_interleave(offsets.diff(), output_size=len(features))
        if threshold is None:
            added = torch.bincount(slots, minlength=2 * size)
        else:
            # weights, not a mask: a GPU need not say first how many there are
            above = (values > threshold.index_select(0, features)).to(torch.float64)
            added = torch.bincount(slots, weights=above, minlength=2 * size).to(torch.int64)
        self.by_half += added.view(size, 2)
        # Each batch is summed by itself in float64 and then added: running float32 sums lose 4e-3 after 4 M terms.
        exact = values.to(torch.float64)
        self.sum += torch.bincount(features, weights=exact, minlength=size)
        self.sum_of_squares += torch.bincount(features, weights=exact.square(), minlength=size)

    def merge(self, other: Self) -> None:
        self.by_half += other.by_half.to(self.by_half.device)
        self.sum += other.sum.to(self.sum.device)
        self.sum_of_squares += other.sum_of_squares.to(self.sum.device)

    def arrays(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {}, {name: getattr(self, name).cpu().numpy() for name in ("by_half", "sum", "sum_of_squares")}

    @classmethod
    def from_arrays(cls, shape: RunShape, place: Place, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        part = cls.zero(shape, place)
        for name in ("by_half", "sum", "sum_of_squares"):
            getattr(part, name).copy_(torch.from_numpy(np.array(arrays[name])))
        return part
