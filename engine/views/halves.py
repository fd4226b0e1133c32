"""What the two halves of the documents say of one layer pair: do they give the same lists and values, and what has no one seen yet?

One pass over a sample of the pair table's rows, block by block:

1. Cells by their count: seen once, twice, at all (`engine.measures.convergence.count_of_counts`).
2. Top lists by Jaccard from all documents, from half A and from half B (`kernels.half_lists`). A half is ranked from its full rows:
   halves that may only choose among what both together publish agree by construction.
3. A sample of the cells with support, for the reliability of their values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.measures.convergence import HALF_MEASURES, chao1, count_of_counts, half_estimates, reliability, unseen_mass
from engine.measures.ranking import rbos
from kernels import half_lists

if TYPE_CHECKING:
    from engine.counts.joint_table import JointTable

LIST_LENGTH = 20
MIN_SUPPORT = 10
HALF_SUPPORT = MIN_SUPPORT // 2
"""What a list is here, whatever a run publishes: settings may change at a restart, and the series must go on. In a half of the
tokens half the support is as much."""

MOST_FEATURES = 2_048
"""Upstream features per layer pair, evenly spaced by index: a mean over 2,048 lists is good to 0.01, and a table of any size takes
as long as one of 2,048 rows."""

MOST_CELLS = 1 << 17
"""Cells that a reliability rests on: a correlation of 65,536 to 131,072 is good to 0.004 wherever it lies."""

_BLOCK_CELLS = 1 << 20
_MOST_SAMPLED = 1 << 29  # cells gone through: fewer features where a row is very wide


class Agreement(NamedTuple):
    """The halves of one layer pair.

    Attributes:
        lists: int32 `[n, 20]`, the downstream features with the highest Jaccard of every sampled upstream feature, from all
            documents; −1 where there are fewer.
        split_half_rbo: mean RBO (p = 0.9) of the lists from half A and from half B, over the features that have a list in either
            (a feature with a list in one half only counts as 0); None without any, or when a half has no tokens.
        reliability: measure → Spearman and Brown's reliability over cells with support; None where it is not defined.
        unseen_mass: chance that the next joint activation is of a pair that was never seen; None before the first one, and where
            the table does not hold all pairs that were seen: it drops those that were seen once first.
        pairs_seen: pairs that were active together at all, of those that the table holds.
        pairs_at_all: how many can be, at least (Chao 1984), cut at the size of the table; None where it does not hold all.
    """

    lists: np.ndarray
    split_half_rbo: float | None
    reliability: dict[str, float | None]
    unseen_mass: float | None
    pairs_seen: int
    pairs_at_all: int | None


def compare_halves(table: JointTable, up: np.ndarray, down: np.ndarray, tokens_by_half: Sequence[int]) -> Agreement:
    """Compare the halves of one layer pair.

    Where the upstream layer has more than `MOST_FEATURES`, `pairs_seen` and `pairs_at_all` are those of the sampled rows, scaled
    up to all of them.

    Args:
        table: the layer pair's.
        up, down: int64 `[D, 2]`, active counts by half of its layers.
        tokens_by_half: tokens of half A and of half B.
    """
    rows, width = len(up), len(down)
    step = max(1, math.ceil(rows / MOST_FEATURES), rows * width // _MOST_SAMPLED)
    sampled = up[::step]
    cells = _Sample(MOST_CELLS)
    tallies = np.zeros(4, np.int64)
    parts = [np.empty((3, 0, LIST_LENGTH), np.int64)]
    block_rows = max(1, _BLOCK_CELLS // width)
    for first in range(0, len(sampled), block_rows):
        block = sampled[first : first + block_rows]
        by_half = table.rows_by_half(first * step, step, len(block))
        parts.append(half_lists(by_half, block, down, LIST_LENGTH, MIN_SUPPORT, HALF_SUPPORT))
        flat = by_half.reshape(-1, 2)
        joint = flat[:, 0] + flat[:, 1]
        tallies += count_of_counts([joint])
        chosen = cells.choose(np.flatnonzero(joint >= MIN_SUPPORT))
        cells.add(np.concatenate([np.divmod(chosen + first * width, width), flat[chosen].T]))
    lists, list_a, list_b = np.concatenate(parts, axis=1)
    once, twice, seen, total = tallies.tolist()
    mass = float(unseen_mass(once, total))
    scale = rows / max(1, len(sampled))
    return Agreement(
        lists=lists.astype(np.int32),
        split_half_rbo=mean_rbo(list_a, list_b) if min(tokens_by_half) > 0 else None,
        reliability=_reliability(cells.columns(), sampled, down),
        unseen_mass=None if math.isnan(mass) or not table.exact else mass,
        pairs_seen=round(seen * scale),
        pairs_at_all=min(round(float(chao1(once, twice, seen)) * scale), rows * width) if table.exact else None,
    )


def mean_rbo(lists_a: np.ndarray, lists_b: np.ndarray) -> float | None:
    """Mean RBO (p = 0.9) of lists `[n, k]` (−1 after the last) over the features that have one in either; None when none has."""
    either = (lists_a[:, 0] >= 0) | (lists_b[:, 0] >= 0)
    return float(np.mean(rbos(lists_a[either], lists_b[either]))) if either.any() else None


def _reliability(cells: np.ndarray, up: np.ndarray, down: np.ndarray) -> dict[str, float | None]:
    """From row, column, and joint counts in either half of some cells, int64 `[4, n]`."""
    i, j, *joint = cells
    halves = [(joint[half], up[i, half], down[j, half]) for half in (0, 1)]
    return {measure: reliability(*(half_estimates(measure, *half) for half in halves)) for measure in HALF_MEASURES}


class _Sample:
    """Every 2^s-th of the cells that were offered, with the smallest s for which these are at most `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._stride, self._offered = 1, 0
        self._cells = np.empty((4, 0), np.int64)

    def choose(self, offered: np.ndarray) -> np.ndarray:
        """Which of these are in the sample so far: they must be added."""
        while -(-(self._offered + len(offered)) // self._stride) > self._limit:
            self._cells = self._cells[:, ::2]
            self._stride *= 2
        chosen = offered[-self._offered % self._stride :: self._stride]
        self._offered += len(offered)
        return chosen

    def add(self, cells: np.ndarray) -> None:
        """Add chosen cells, int64 `[4, n]`."""
        self._cells = np.concatenate([self._cells, cells], axis=1)

    def columns(self) -> np.ndarray:
        """int64 `[4, n]`."""
        return self._cells
