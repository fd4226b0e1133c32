"""Strongest: the strongest activation of each feature of a layer, and where in the corpus log it is."""

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
    from engine.encoder.encoder import SetAside

NOWHERE = np.iinfo(np.int64).max


class Strongest(FramedPart):
    """Per feature of one layer.

    Attributes:
        value: float32 `[D]`, the largest activation so far, whatever the threshold; 0 where the feature never fired.
        position: int64 `[D]`, the position in the log of the token that has it, the smallest one on ties; -1 where it never fired.
    """

    kind = "strongest"

    def __init__(self, shape: RunShape, place: Place, value: Tensor, position: Tensor) -> None:
        self.shape, self.place = shape, place
        self.value, self.position = value, position

    @classmethod
    def places(cls, shape: RunShape) -> Sequence[Place]:
        return [(layer,) for layer in range(len(shape.dictionaries))]

    @classmethod
    def bytes_at(cls, shape: RunShape, place: Place) -> int:
        return shape.dictionaries[place[0]] * (4 + 8)

    @classmethod
    def zero(cls, shape: RunShape, place: Place) -> Self:
        features = shape.dictionaries[place[0]]
        return cls(
            shape,
            place,
            torch.zeros(features, dtype=torch.float32, device=shape.device),
            torch.full((features,), -1, dtype=torch.int64, device=shape.device),
        )

    def add(self, batch: SparseBatch, set_aside: Sequence[SetAside] = ()) -> None:
        """Keep what is stronger.

        1. Only entries that reach the value already kept can change anything: after a few batches a handful.
        2. Their maximum per feature, and of those that reach it the smallest position.
        3. The result is a `Strongest` of its own, and merging it settles ties with what was there.
        """
        offsets, features, values = batch.layers[self.place[0]]
        entries = _where(values >= self.value[features])
        if not len(entries):
            return
        features, values = features[entries].long(), values[entries]
        tokens = torch.searchsorted(offsets, entries.to(offsets.dtype), right=True) - 1
        positions = torch.from_numpy(batch.positions).to(self.value.device)[tokens]
        value = torch.zeros_like(self.value).scatter_reduce_(0, features, values, "amax")
        positions = torch.where(values == value[features], positions, NOWHERE)
        position = torch.full_like(self.position, NOWHERE).scatter_reduce_(0, features, positions, "amin")
        self._keep(value, position)

    def merge(self, other: Self) -> None:
        device = self.value.device
        self._keep(other.value.to(device), torch.where(other.position < 0, NOWHERE, other.position).to(device))

    def _keep(self, value: Tensor, position: Tensor) -> None:
        better = (value > self.value) | ((value == self.value) & (value > 0) & (position < self.position))
        self.value = torch.where(better, value, self.value)
        self.position = torch.where(better, position, self.position)

    def arrays(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {}, {"value": self.value.cpu().numpy(), "position": self.position.cpu().numpy()}

    @classmethod
    def from_arrays(cls, shape: RunShape, place: Place, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        part = cls.zero(shape, place)
        part.value.copy_(torch.from_numpy(np.array(arrays["value"])))
        part.position.copy_(torch.from_numpy(np.array(arrays["position"])))
        return part


def _where(mask: Tensor) -> Tensor:
    """Indices of the true entries, int64. On the CPU by numpy: torch shares this out over its threads, and waited 8 ms for a
    second core that another process held, where one thread needs 0.02 ms for 32,000 entries."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().squeeze(1)
