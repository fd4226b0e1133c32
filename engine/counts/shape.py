"""What a run counts: dictionaries, layer pairs, thresholds, and the device that the tables are on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.errors import BadInput
from kernels import FEWEST_CANDIDATES, MOST_CANDIDATES

LayerPair = tuple[int, int]
Thresholds = float | Sequence["np.ndarray | Tensor"]

INT32_LIMIT = 2**31 - 1
"""The largest count that an int32 cell holds; a table that may pass it becomes int64 first."""


GATE_CANDIDATES = 6


def adjacent_pairs(layers: int) -> tuple[LayerPair, ...]:
    """The layer pairs (0, 1), (1, 2), … of a run over `layers` layers."""
    return tuple((up, up + 1) for up in range(layers - 1))


class RowSlots(NamedTuple):
    """Partners that the rows of a bounded table have room for: on average, half of which is every row's own, and at most."""

    average: int
    most: int


@dataclass(frozen=True)
class RunShape:
    """Everything that fixes the shape and the meaning of a state; two states can be merged when theirs are equal.

    Attributes:
        dictionaries: features per layer, in the order of the run.
        pairs: the layer pairs (up, down) that have a table.
        thresholds: per layer float32 `[D]` on `device`, or None where every threshold is 0: a feature is active where its
            activation is above its threshold. float32, so that marginals and kernels compare the same two numbers.
        device: where the tables are.
        count_limit: an int32 table becomes int64 before a cell could pass this.
        gate_candidates: m, candidate parents of a downstream feature whose joint truth table is counted, 2 to 8.
        bounded: the layer pairs whose table is bounded, with the room of its rows (`engine.counts.budget`); all others are dense.
    """

    dictionaries: tuple[int, ...]
    pairs: tuple[LayerPair, ...]
    thresholds: tuple[Tensor | None, ...]
    device: torch.device
    count_limit: int = INT32_LIMIT
    gate_candidates: int = GATE_CANDIDATES
    bounded: Mapping[LayerPair, RowSlots] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        dictionaries: Sequence[int],
        pairs: Sequence[LayerPair] | None = None,
        threshold: Thresholds = 0.0,
        device: str | torch.device = "cpu",
        count_limit: int = INT32_LIMIT,
        gate_candidates: int = GATE_CANDIDATES,
    ) -> RunShape:
        """Check and complete what the settings say.

        Args:
            dictionaries: features per layer, each at least 1.
            pairs: layer pairs (up, down) with up < down; None = the adjacent ones.
            threshold: one number for all features, or one array `[D]` per layer; finite and at least 0.
            device: "cpu" or "cuda".
            count_limit, gate_candidates: see the attributes.

        Raises:
            BadInput: a size, pair or threshold that no run can have.
        """
        sizes = tuple(int(size) for size in dictionaries)
        if not sizes or min(sizes) < 1:
            raise BadInput(f"dictionaries must be one size of 1 or more per layer, got {list(sizes)}")
        listed = adjacent_pairs(len(sizes)) if pairs is None else tuple((int(up), int(down)) for up, down in pairs)
        for up, down in listed:
            if not 0 <= up < down < len(sizes):
                raise BadInput(f"layer pair ({up}, {down}): needs 0 <= up < down <= {len(sizes) - 1}, the last layer of this run")
        if len(set(listed)) != len(listed):
            raise BadInput(f"layer pairs must be named once each, got {list(listed)}")
        if not MOST_CANDIDATES >= gate_candidates >= FEWEST_CANDIDATES:
            raise BadInput(
                f"gate_candidates = {gate_candidates}: a feature has {FEWEST_CANDIDATES} to {MOST_CANDIDATES} candidate parents"
            )
        place = torch.device(device)
        return cls(sizes, listed, _thresholds(sizes, threshold, place), place, count_limit, gate_candidates)

    def with_bounded(self, bounded: Mapping[LayerPair, RowSlots]) -> RunShape:
        """The same with bounded tables for some layer pairs."""
        return replace(self, bounded=dict(bounded))

    def same_counts_as(self, other: RunShape) -> bool:
        """Whether states of the two shapes count the same things (device, count limit and the room of bounded rows don't matter
        for that)."""
        return (
            self.dictionaries == other.dictionaries
            and self.pairs == other.pairs
            and self.bounded.keys() == other.bounded.keys()
            and self.gate_candidates == other.gate_candidates
            and all(_same(mine, theirs) for mine, theirs in zip(self.thresholds, other.thresholds, strict=True))
        )


def _thresholds(sizes: tuple[int, ...], threshold: Thresholds, device: torch.device) -> tuple[Tensor | None, ...]:
    if isinstance(threshold, int | float):
        per_layer = [np.full(size, threshold, np.float32) for size in sizes]
    else:
        per_layer = [np.asarray(array.cpu() if isinstance(array, Tensor) else array, dtype=np.float32) for array in threshold]
        if [array.shape for array in per_layer] != [(size,) for size in sizes]:
            got = [array.shape for array in per_layer]
            raise BadInput(
                f"thresholds must be one number, or one array per layer of shapes {[(size,) for size in sizes]}, got {got}"
            )
    for layer, array in enumerate(per_layer):
        bad = ~(np.isfinite(array) & (array >= 0))
        if bad.any():
            raise BadInput(f"threshold of layer {layer} must be finite and at least 0, got {array[bad][0]}")
    return tuple(torch.tensor(array, device=device) if array.any() else None for array in per_layer)


def _same(mine: Tensor | None, theirs: Tensor | None) -> bool:
    if mine is None or theirs is None:
        return mine is theirs
    return torch.equal(mine.cpu(), theirs.cpu())
