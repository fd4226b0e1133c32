"""Bounded rows in the slow and obvious way: a dictionary a row, to hold `kernels.cpu.bounded` to.

Mergeable Misra-Gries (Agarwal, Cormode, Huang, Phillips, Wei, Yi 2012, "Mergeable summaries") in its SpaceSaving form: what is kept
of a partner is what was counted since it was taken in, and beside it what may have been missed before that. A row that must prune
drops the partners whose count and error together are not above the (keep + 1)-th largest, which is from then on the most that any
partner outside of the row can have.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class ReferenceRow:
    """A feature's partners: index → [count of half A, of half B, error, Σab].

    Attributes:
        bound: the most that a partner outside of the row can have been counted.
        weight: W, all that was ever counted in the row.
    """

    partners: dict[int, list[float]] = field(default_factory=dict)
    bound: int = 0
    weight: int = 0

    def add(self, sums: dict[int, tuple[int, int, float]], limit: int, keep: int) -> None:
        """Add a batch's sums by partner; `limit`: partners that fit, `keep`: how many a prune leaves at most."""
        for partner, (a, b, product) in sums.items():
            found = self.partners.setdefault(partner, [0, 0, self.bound, 0.0])
            found[0] += a
            found[1] += b
            found[3] += product
            self.weight += a + b
        self.prune(limit, keep)

    def prune(self, limit: int, keep: int) -> None:
        """Make the row fit."""
        if len(self.partners) <= limit:
            return
        most = sorted((a + b + error for a, b, error, _ in self.partners.values()), reverse=True)
        self.bound = int(most[keep])
        self.partners = {
            partner: values for partner, values in self.partners.items() if values[0] + values[1] + values[2] > self.bound
        }

    def merge(self, other: ReferenceRow, limit: int, keep: int) -> None:
        """Add what another row has counted."""
        for partner in self.partners.keys() | other.partners.keys():
            mine = self.partners.get(partner, [0, 0, self.bound, 0.0])
            theirs = other.partners.get(partner, [0, 0, other.bound, 0.0])
            self.partners[partner] = [one + two for one, two in zip(mine, theirs, strict=True)]
        self.bound += other.bound
        self.weight += other.weight
        self.prune(limit, keep)


def row_sums(
    up: np.ndarray, down: np.ndarray, halves: np.ndarray, up_limits: np.ndarray, down_limits: np.ndarray, row: int
) -> dict[int, tuple[int, int, float]]:
    """What a batch adds to the row of an upstream feature, from dense activations float32 `[T, Du]` and `[T, Dd]`."""
    sums: dict[int, tuple[int, int, float]] = {}
    for token in np.flatnonzero(up[:, row]):
        a = up[token, row]
        for partner in np.flatnonzero(down[token]):
            b = down[token, partner]
            both = int(a > up_limits[row] and b > down_limits[partner])
            in_a, in_b, product = sums.get(int(partner), (0, 0, 0.0))
            half_a, half_b = (both, 0) if halves[token] == 0 else (0, both)
            sums[int(partner)] = (in_a + half_a, in_b + half_b, product + float(a) * float(b))
    return sums
