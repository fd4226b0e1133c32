"""Siblings: features of one layer that may be specialisations of one parent in an earlier layer, and how they fire together.

Pairs are counted across layers only. Whether the children of a parent exclude each other needs counts within one layer; they are
kept for groups that look like specialisations, from the end of the segment on at which a group was chosen (`engine.views.siblings`
chooses; here the groups are only kept). A group's truth table tells everything that can be asked of any of its children: how often
each fires, how often two fire together, and how often at least one does, each with and without the parent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from engine.counts.part import FramedPart, Place
from engine.counts.shape import RunShape
from kernels import CELLS, SIBLINGS, sibling_cells

if TYPE_CHECKING:
    from engine.counts.clusters import SegmentClusters
    from engine.encoder.batch import SparseBatch
    from engine.encoder.encoded import SetAside

IDLE_CHOICES = 4
"""Choices that a group may miss before it is dropped, as for watched pairs: candidates flicker."""

Group = tuple[int, ...]
"""A parent and its children, ascending."""


class Siblings(FramedPart):
    """The groups of one layer pair, sorted by parent, then children. A parent may have several: one that lacks a new child is kept
    while its successor begins at 0.

    Attributes:
        parent: int32 `[G]`, upstream features.
        children: int32 `[G, 8]`, downstream features, ascending, then −1 for empty slots.
        counted_from: int64 `[G]`, the tokens that were counted when the group was chosen.
        idle: int64 `[G]`, choices since the group was last among the chosen.
        cells: int64 `[G, 512]`, tokens since then by the features that are active: bit c of a cell's number is for the child in
            slot c, bit 8 for the parent. The sum of a row is the tokens.
    """

    kind = "siblings"

    def __init__(self, shape: RunShape, place: Place) -> None:
        self.shape, self.place = shape, place
        self.parent, self.children = np.empty(0, np.int32), np.empty((0, SIBLINGS), np.int32)
        self.counted_from, self.idle = np.empty(0, np.int64), np.empty(0, np.int64)
        self.cells = np.empty((0, CELLS), np.int64)

    @classmethod
    def places(cls, shape: RunShape) -> Sequence[Place]:
        return shape.pairs

    @classmethod
    def bytes_at(cls, shape: RunShape, place: Place) -> int:
        return 0

    @classmethod
    def zero(cls, shape: RunShape, place: Place) -> Self:
        return cls(shape, place)

    def __len__(self) -> int:
        return len(self.parent)

    def groups(self) -> list[Group]:
        """Every group, in order."""
        return [
            (parent, *(child for child in children if child >= 0))
            for parent, children in zip(self.parent.tolist(), self.children.tolist(), strict=True)
        ]

    def choose(self, wanted: Sequence[Group], needed: Sequence[frozenset[int]], *, tokens: int, limit: int) -> None:
        """Count these groups, and go on with those of before that were chosen lately.

        Args:
            wanted: the groups, most wanted first, no parent twice; 2 to 8 children each.
            needed: the children of each that it is about. A group of before goes on in its place where it has the same parent and
                all of these: what is only nearly a child comes and goes, and each change would begin at 0.
            tokens: counted up to here.
            limit: how many groups at most; those that are counted already come before new ones.
        """
        before = self.groups()
        of_parent: dict[int, list[int]] = {}
        for at, group in enumerate(before):
            of_parent.setdefault(group[0], []).append(at)
        idle = self.idle + 1
        fresh = []
        for group, about in zip(wanted, needed, strict=True):
            serving = [at for at in of_parent.get(group[0], ()) if about <= frozenset(before[at][1:])]
            if serving:
                idle[min(serving, key=lambda at: self.counted_from[at])] = 0
            else:
                fresh.append(group)
        kept = np.flatnonzero(idle < IDLE_CHOICES)
        kept = kept[np.argsort(idle[kept], kind="stable")][:limit]
        known = {before[at]: (int(self.counted_from[at]), int(idle[at]), self.cells[at]) for at in kept}
        for group in fresh[: limit - len(known)]:
            known[group] = (tokens, 0, np.zeros(CELLS, np.int64))
        self._hold(known)

    def add(self, batch: SparseBatch, set_aside: Sequence[SetAside] = ()) -> None:
        return  # counted where segments end: there every layer lies ordered by feature

    def end_segment(self, segment: Sequence[SegmentClusters]) -> None:
        up, down = self.place
        for part in segment:
            sibling_cells(part.layers[up].runs, part.layers[down].runs, self.parent, self.children, part.tokens, self.cells)

    def merge(self, other: Self) -> None:
        """Groups of either are counted; of a group that both count the cells add up, and it is counted from the earlier place."""
        known = self._known()
        for group, (counted_from, idle, cells) in other._known().items():
            mine = known.get(group)
            if mine is None:
                known[group] = (counted_from, idle, cells)
            else:
                known[group] = (min(mine[0], counted_from), min(mine[1], idle), mine[2] + cells)
        self._hold(known)

    def _known(self) -> dict[Group, tuple[int, int, np.ndarray]]:
        return dict(zip(self.groups(), zip(self.counted_from.tolist(), self.idle.tolist(), self.cells, strict=True), strict=True))

    def _hold(self, known: Mapping[Group, tuple[int, int, np.ndarray]]) -> None:
        """Hold exactly these: counted from, idle and cells of each."""
        order = sorted(known)
        self.parent = np.array([group[0] for group in order], np.int32)
        self.children = np.full((len(order), SIBLINGS), -1, np.int32)
        for row, group in zip(self.children, order, strict=True):
            row[: len(group) - 1] = group[1:]
        self.counted_from = np.array([known[group][0] for group in order], np.int64)
        self.idle = np.array([known[group][1] for group in order], np.int64)
        self.cells = np.array([known[group][2] for group in order], np.int64).reshape(len(order), CELLS)

    def arrays(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        group, cell = np.nonzero(self.cells)  # a group fills some 20 of its 512 cells
        arrays = {name: getattr(self, name) for name in ("parent", "children", "counted_from", "idle")}
        return {}, {**arrays, "group": group, "cell": cell, "tokens": self.cells[group, cell]}

    @classmethod
    def from_arrays(cls, shape: RunShape, place: Place, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        part = cls(shape, place)
        for name in ("parent", "children", "counted_from", "idle"):
            setattr(part, name, np.array(arrays[name]))
        part.cells = np.zeros((len(part), CELLS), np.int64)
        part.cells[arrays["group"], arrays["cell"]] = arrays["tokens"]
        return part
