"""Gate tables: for every downstream feature of a layer pair the joint truth table of its candidate parents and itself.

Candidates are chosen by `engine.views.gate_choices`; a table is counted from the choice on, so what chose them never judges them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from engine.counts.part import FramedPart, Place
from engine.counts.shape import RunShape
from kernels import count_gate_cells

if TYPE_CHECKING:
    from engine.encoder.batch import SparseBatch
    from engine.encoder.encoded import SetAside


class GateTables(FramedPart):
    """The tables of one layer pair.

    Attributes:
        parents: int32 `[Dd, m]`, candidate parents of each child, upstream features; −1 behind the last.
        counted_from: int64 `[Dd]`, the tokens that were counted when they were chosen.
        cells: int64 tensor `[Dd, 2^(m+1)]` on the run's device, tokens by [parent 0] + 2 [parent 1] + … + 2^m [child]; cell 0,
            nothing active, is left at 0: it is what is missing from the tokens since the choice.
    """

    kind = "gate_tables"

    def __init__(self, shape: RunShape, place: Place) -> None:
        self.shape, self.place = shape, place
        children, m = shape.dictionaries[place[1]], shape.gate_candidates
        self.parents = np.full((children, m), -1, np.int32)
        self.counted_from = np.zeros(children, np.int64)
        self.cells = torch.zeros(children, 2 << m, dtype=torch.int64, device=shape.device)
        self._named: torch.Tensor | None = None  # the parents on the device

    @classmethod
    def places(cls, shape: RunShape) -> Sequence[Place]:
        return shape.pairs

    @classmethod
    def bytes_at(cls, shape: RunShape, place: Place) -> int:
        return shape.dictionaries[place[1]] * (8 * (2 << shape.gate_candidates) + 4 * shape.gate_candidates + 8)

    @classmethod
    def zero(cls, shape: RunShape, place: Place) -> Self:
        return cls(shape, place)

    @property
    def candidates(self) -> np.ndarray:
        """int64 `[Dd]`, how many candidates each child has."""
        return (self.parents >= 0).sum(axis=1)

    def choose(self, children: np.ndarray, parents: np.ndarray, tokens: int) -> None:
        """Begin new tables.

        Args:
            children: int `[n]`, whose.
            parents: int32 `[n, m]`, their candidates, −1 behind the last.
            tokens: counted so far.
        """
        self.parents[children] = parents
        self.counted_from[children] = tokens
        self.cells[torch.from_numpy(np.asarray(children, np.int64)).to(self.cells.device)] = 0
        self._named = None

    def add(self, batch: SparseBatch, set_aside: Sequence[SetAside] = ()) -> None:
        if not (self.parents[:, 0] >= 0).any():
            return
        if self._named is None:
            self._named = torch.from_numpy(self.parents).to(self.cells.device)
        up, down = self.place
        thresholds = self.shape.thresholds
        count_gate_cells(
            batch.layers[up],
            batch.layers[down],
            thresholds[up],
            thresholds[down],
            self.shape.dictionaries[up],
            self._named,
            self.cells,
        )

    def merge(self, other: Self) -> None:
        """Tables of the same candidates add up and were begun at the earlier place; of others the one begun earlier stays, which
        has seen more."""
        same = (self.parents == other.parents).all(axis=1)
        mine, theirs = self.candidates > 0, other.candidates > 0
        taken = ~same & theirs & (~mine | (other.counted_from < self.counted_from))
        rows = torch.from_numpy(same)
        self.cells[rows] += other.cells[rows].to(self.cells.device)
        rows = torch.from_numpy(taken)
        self.cells[rows] = other.cells[rows].to(self.cells.device)
        self.counted_from = np.where(same, np.minimum(self.counted_from, other.counted_from), self.counted_from)
        self.counted_from[taken] = other.counted_from[taken]
        self.parents[taken] = other.parents[taken]
        self._named = None

    def arrays(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        arrays = {"parents": self.parents, "counted_from": self.counted_from, "cells": self.cells.cpu().numpy()}
        return {}, arrays

    @classmethod
    def from_arrays(cls, shape: RunShape, place: Place, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        part = cls(shape, place)
        part.parents, part.counted_from = np.array(arrays["parents"]), np.array(arrays["counted_from"])
        part.cells = torch.from_numpy(np.array(arrays["cells"])).to(shape.device)
        return part
