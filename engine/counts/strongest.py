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
    from engine.encoder.encoded import SetAside


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

        1. On the device: the entries that reach the value already kept. After a few batches these are a handful.
        2. On the host: the winner of each feature among them, by value, then by the smaller position.
        3. The winners are compared with what is kept.
        """
        offsets, features, values = batch.layers[self.place[0]]
        entries = _where(values >= self.value.index_select(0, features))
        if not len(entries):
            return
        found, strength, index = (tensor.cpu().numpy() for tensor in (features[entries], values[entries], entries))
        position = batch.positions[np.searchsorted(offsets.cpu().numpy(), index, side="right") - 1]
        order = np.lexsort((position, -strength, found))
        found, first = np.unique(found[order], return_index=True)
        winners = order[first]
        value, place = np.zeros(len(self.value), np.float32), np.full(len(self.value), -1, np.int64)
        value[found], place[found] = strength[winners], position[winners]
        self._keep(torch.from_numpy(value), torch.from_numpy(place))

    def merge(self, other: Self) -> None:
        self._keep(other.value, other.position)

    def _keep(self, value: Tensor, position: Tensor) -> None:
        """Per feature the larger value and its position; of two equal ones the smaller position. Two zeros: both are at -1."""
        value, position = value.to(self.value.device), position.to(self.value.device)
        better = (value > self.value) | ((value == self.value) & (position < self.position))
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
    """Indices of the true entries, int64. On the CPU by numpy: torch shares this out over its threads (as it does indexing by a
    tensor, unlike `index_select`), and waited 8–10 ms for a core that another process held, where one thread needs 0.02 ms for
    32,000 entries."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().squeeze(1)
