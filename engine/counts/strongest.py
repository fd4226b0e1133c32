"""Strongest: per feature of a layer its strongest activations, each of another document, and where in the corpus log they are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from engine.counts.part import FramedPart, Place
from engine.counts.shape import RunShape
from kernels import Csr, StrongestLists

if TYPE_CHECKING:
    from engine.encoder.batch import SparseBatch
    from engine.encoder.encoded import SetAside

KEPT = 8
"""Activations kept per feature, one per document: eight tokens of one repetitive document would show a reader one text."""


class Strongest(FramedPart):
    """Per feature of one layer; strongest first, of equal values the smaller position, at most one per document.

    On the host wherever the run's tables are: a batch changes a handful of entries, which are found on the batch's device.

    Attributes:
        value: float32 `[D, KEPT]`, the activations, whatever the threshold; 0 where there are fewer.
        position: int64 `[D, KEPT]`, the positions in the log of the tokens that have them; -1 where there are fewer.
        document: int64 `[D, KEPT]`, the `document_key` of each; 0 where there are fewer.
    """

    kind = "strongest"
    version = 2  # 1 held one activation per feature

    def __init__(self, shape: RunShape, place: Place, lists: StrongestLists) -> None:
        self.shape, self.place = shape, place
        self._lists = lists  # its arrays are the memory of the tensors
        self.value, self.position, self.document = map(torch.from_numpy, (lists.values, lists.positions, lists.documents))

    @classmethod
    def places(cls, shape: RunShape) -> Sequence[Place]:
        return [(layer,) for layer in range(len(shape.dictionaries))]

    @classmethod
    def bytes_at(cls, shape: RunShape, place: Place) -> int:
        return shape.dictionaries[place[0]] * (KEPT * (4 + 8 + 8) + 4)

    @classmethod
    def zero(cls, shape: RunShape, place: Place) -> Self:
        return cls(shape, place, StrongestLists.empty(shape.dictionaries[place[0]], KEPT))

    def add(self, batch: SparseBatch, set_aside: Sequence[SetAside] = ()) -> None:
        layer = batch.layers[self.place[0]]
        if layer.values.device.type != "cpu":
            layer = entries_above(layer, torch.from_numpy(self._lists.bar).to(layer.values.device))
        if not len(layer.values):
            return
        keys = np.array([document_key(piece.upload, piece.number) for piece in batch.documents], np.int64)
        offsets, features, values = layer
        positions = np.ascontiguousarray(batch.positions)
        self._lists.offer(offsets.numpy(), features.numpy(), values.numpy(), positions, keys[batch.pieces])

    def merge(self, other: Self) -> None:
        self._lists.merge(other._lists)

    def arrays(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {}, {name: getattr(self, name).numpy() for name in ("value", "position", "document")}

    @classmethod
    def from_arrays(cls, shape: RunShape, place: Place, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        return cls(shape, place, StrongestLists(*(np.array(arrays[name]) for name in ("value", "position", "document"))))


@lru_cache(maxsize=1 << 14)  # each layer asks for the documents of a batch
def document_key(upload: str, number: int) -> int:
    """The document `number` of an upload as one int64, the same in every process: 64 bits of BLAKE2b. Of a million documents two
    share a key once in 37 million runs; then a list may show one of them only."""
    return int.from_bytes(hashlib.blake2b(f"{upload}/{number}".encode(), digest_size=8).digest(), "little", signed=True)


def entries_above(layer: Csr, bar: Tensor) -> Csr:
    """The entries of a layer that reach `bar` (float32 `[D]`, on its device) of their feature, as a `Csr` of the same tokens on the
    host. The compare is made on the device: after a few batches this is a handful."""
    index = (layer.values >= bar.index_select(0, layer.features)).nonzero().squeeze(1)
    features, values = layer.features[index].cpu(), layer.values[index].cpu()
    offsets = np.searchsorted(index.cpu().numpy(), layer.offsets.cpu().numpy()).astype(np.int32)
    return Csr(torch.from_numpy(offsets), features, values)
