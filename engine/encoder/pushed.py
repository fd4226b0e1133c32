"""Activations that were computed elsewhere (`POST /v1/activations`) → sparse batch; no model, no device needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from engine.corpus.segment import ActivationSegment, LayerActivations, Segment
from engine.encoder.description import LayerDescription, RunDescription
from engine.encoder.encoded import Encoded, make_batch, places_of, ranges, select, set_aside
from engine.errors import DoesNotFit
from kernels import Csr


class PushedActivations:
    """The encoder of a run without a model: it hands on what a client pushed.

    Offsets, order and range of features were checked when the frames arrived; NaN and infinities are found here, and the frame is
    set aside whole.
    """

    tokenizer = None

    def __init__(self, dictionaries: Sequence[int], *, device: str = "cpu", hooks: Sequence[str] | None = None) -> None:
        """
        Args:
            dictionaries: features of each layer.
            device: where the batches go, "cpu" or "cuda".
            hooks: what the layers are called in reasons; `layer 0`, `layer 1` … by default.
        """
        self.dictionaries = tuple(dictionaries)
        self._device = device
        self._hooks = list(hooks) if hooks is not None else [f"layer {layer}" for layer in range(len(self.dictionaries))]

    def describe(self) -> RunDescription:
        """The layers and their sizes: that is all there is to know."""
        layers = [
            LayerDescription(layer=layer, hook=hook, features=features)
            for layer, (hook, features) in enumerate(zip(self._hooks, self.dictionaries, strict=True))
        ]
        sizes = ", ".join(map(str, self.dictionaries))
        return RunDescription(model="", saes="", layers=layers, fingerprint={"dictionaries": sizes})

    def encode(self, segment: Segment, units: np.ndarray) -> Encoded:
        """Encode some units (frames) of a segment.

        Args:
            segment: pushed activations.
            units: int `[U]`, indexes of units, each at most once.

        Returns:
            The batch, its tokens in the order of `units`, and the frames that are set aside.

        Raises:
            DoesNotFit: the segment holds text, or has another number of layers.
        """
        if not isinstance(segment, ActivationSegment):
            raise DoesNotFit(f"segment {segment.number} holds text, and a run without a model (--dictionary) can't encode it")
        if len(segment.layers) != len(self.dictionaries):
            raise DoesNotFit(f"segment {segment.number} has {len(segment.layers)} layers, this run has {len(self.dictionaries)}")
        places = places_of(segment, units, segment.unit_pieces)
        layers = [_rows(layer, places.index) for layer in segment.layers]
        faults = np.full(len(places.index), -1, dtype=np.int64)
        for number, layer in enumerate(layers):
            broken = np.flatnonzero(~np.isfinite(layer.values.numpy()))
            rows = np.unique(np.searchsorted(layer.offsets.numpy(), broken, side="right") - 1)
            faults[rows[faults[rows] < 0]] = number
        aside = set_aside(segment, places, faults, self._hooks)
        if aside:
            sound = ~np.isin(places.unit, places.unit[faults >= 0])
            layers, places = [select(layer, sound) for layer in layers], places.at(sound)
        moved = [Csr(*(tensor.to(self._device) for tensor in layer)) for layer in layers]
        return Encoded(make_batch(segment, moved, places), aside, {})


def _rows(layer: LayerActivations, tokens: np.ndarray) -> Csr:
    """The rows `tokens` (int64, in any order) of a layer, copied."""
    bounds = layer.offsets.astype(np.int64)
    starts, ends = bounds[tokens], bounds[tokens + 1]
    entries = ranges(starts, ends)
    offsets = np.concatenate(([0], np.cumsum(ends - starts))).astype(np.int32)
    return Csr(
        torch.from_numpy(offsets),
        torch.from_numpy(layer.features[entries].astype(np.int32, copy=False)),
        torch.from_numpy(layer.values[entries].astype(np.float32, copy=False)),
    )
