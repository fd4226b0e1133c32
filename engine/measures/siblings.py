"""What the truth table of a parent and its children says, in whole numbers.

A cell of the table is a set of features, and its count the tokens on which exactly those of the group are active: bit c of the
cell's number for the child in slot c, bit 8 for the parent. Every number here is a sum over the cells that have the right bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SLOTS = 8
"""Children of a group at most, and the bit of the parent."""


class SiblingGroup:
    """One group, counted since `counted_from`.

    Attributes:
        parent: upstream feature; children: downstream features, by slot.
        counted_from: tokens that were counted when the group was chosen; tokens: counted since.
    """

    def __init__(self, parent: int, children: Sequence[int], counted_from: int, cell: np.ndarray, tokens: np.ndarray) -> None:
        """cell, tokens int `[n]`: the cells that are not 0."""
        self.parent, self.children, self.counted_from = parent, tuple(children), counted_from
        self.tokens = int(tokens.sum())
        self._counts = tokens.astype(np.int64)
        self._on = (cell.astype(np.int64)[:, None] >> np.arange(len(self.children))) & 1 > 0  # bool [n, C]
        self._on_parent = (cell.astype(np.int64) >> SLOTS) & 1 > 0

    @property
    def parent_count(self) -> int:
        """Tokens on which the parent is active."""
        return int(self._counts[self._on_parent].sum())

    def count(self, child: int) -> int:
        """Tokens on which a child is active."""
        return int(self._counts[self._column(child)].sum())

    def joint(self, child: int) -> int:
        """Tokens on which a child and the parent are active."""
        return int(self._counts[self._column(child) & self._on_parent].sum())

    def both(self, a: int, b: int) -> int:
        """Tokens on which two children are active."""
        return int(self._counts[self._column(a) & self._column(b)].sum())

    def both_within(self, a: int, b: int) -> int:
        """Tokens on which two children and the parent are active."""
        return int(self._counts[self._column(a) & self._column(b) & self._on_parent].sum())

    def union(self, children: Sequence[int]) -> int:
        """Tokens on which at least one of these children is active."""
        return int(self._counts[self._active(children) > 0].sum())

    def union_within(self, children: Sequence[int]) -> int:
        """The same, with the parent active."""
        return int(self._counts[(self._active(children) > 0) & self._on_parent].sum())

    def overlap(self, children: Sequence[int]) -> int:
        """Σ_t max(0, m_t − 1) over the parent's tokens, with m_t of these children active at t."""
        more = np.maximum(self._active(children) - 1, 0)
        return int((self._counts * more)[self._on_parent].sum())

    def _column(self, child: int) -> np.ndarray:
        return self._on[:, self.children.index(child)]

    def _active(self, children: Sequence[int]) -> np.ndarray:
        return self._on[:, [self.children.index(child) for child in children]].sum(axis=1)


@dataclass(frozen=True)
class SiblingGroups:
    """The groups of a layer pair: parent → its groups."""

    of_parent: Mapping[int, Sequence[SiblingGroup]]

    @classmethod
    def of(
        cls,
        parent: np.ndarray,
        children: np.ndarray,
        counted_from: np.ndarray,
        cells: tuple[np.ndarray, np.ndarray, np.ndarray],
    ) -> SiblingGroups:
        """
        Args:
            parent: int `[G]`; children: int `[G, 8]`, −1 for an empty slot at the end; counted_from: int `[G]`.
            cells: group, cell and tokens of each cell that is not 0, int `[n]` each, by group.
        """
        found: dict[int, list[SiblingGroup]] = {}
        bounds = np.searchsorted(cells[0], np.arange(len(parent) + 1))
        for at, (index, row, start) in enumerate(zip(parent.tolist(), children, counted_from.tolist(), strict=True)):
            part = slice(bounds[at], bounds[at + 1])
            group = SiblingGroup(index, row[row >= 0].tolist(), start, cells[1][part], cells[2][part])
            found.setdefault(index, []).append(group)
        return cls(found)

    def best(self, parent: int, children: Sequence[int], min_support: int) -> SiblingGroup | None:
        """The parent's group that tells most about these children; None where none tells of two.

        A group tells of a child that was active with the parent on at least `min_support` tokens since it was chosen. Most: of the
        most children, then from the most tokens.
        """
        groups = self.of_parent.get(parent, ())
        told = [(len(told_of(group, children, min_support)), group.tokens, -at) for at, group in enumerate(groups)]
        best = max(told, default=(0, 0, 0))
        return groups[-best[2]] if best[0] >= 2 else None


def told_of(group: SiblingGroup, children: Sequence[int], min_support: int) -> list[int]:
    """Those of these children that a group tells of, in their order."""
    return [child for child in children if child in group.children and group.joint(child) >= min_support]
