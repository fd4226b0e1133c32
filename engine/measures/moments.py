"""First and second moments over documents of what a pair of features did: all that `engine.measures.intervals` needs.

A document longer than 4,096 tokens is several clusters, tokens [4096 p, 4096 (p + 1)) each, so that what is kept of one at a time
is bounded; wherever documents are counted here, clusters are. Counts are exact below 2^53, also squared and summed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.measures.similarity import Floats

SUMS = ("tokens", "up", "down", "joint", "a", "b", "aa", "bb", "ab")
"""What is summed over a cluster: T, n_i, n_j, n_ij, Σa, Σb, Σa², Σb², Σab, in this order everywhere."""

INFORMATIVE = ("up", "down", "either", "activation")
"""What `Moments.documents` counts clusters by: n_i > 0, n_j > 0, either of both, Σa² > 0 or Σb² > 0."""

ROWS, COLUMNS = np.triu_indices(len(SUMS))
"""int64 `[45]` each: position p of `Moments.squares` holds Σ_d s_d[ROWS[p]] s_d[COLUMNS[p]]; the upper triangle, row by row."""

PACKED = np.zeros((len(SUMS), len(SUMS)), np.int64)
"""int64 `[9, 9]`, symmetric: where `Moments.squares` holds entry (x, y); `squares[..., PACKED]` is M as `[..., 9, 9]`."""
PACKED[ROWS, COLUMNS] = PACKED[COLUMNS, ROWS] = np.arange(len(ROWS))


class Moments(NamedTuple):
    """First and second moments over clusters of one pair of features, or of P pairs: any leading shape.

    Attributes:
        sums: float64 `[..., 9]`, S in the order of `SUMS`.
        squares: float64 `[..., 45]`, the upper triangle of M, see `PACKED`.
        documents: int64 `[..., 4]`, informative clusters in the order of `INFORMATIVE`.
    """

    sums: Floats
    squares: Floats
    documents: NDArray[np.int64]

    @classmethod
    def zero(cls, *shape: int) -> Moments:
        """Moments of no cluster, of so many pairs."""
        return cls(
            np.zeros((*shape, len(SUMS))), np.zeros((*shape, len(ROWS))), np.zeros((*shape, len(INFORMATIVE)), dtype=np.int64)
        )

    def merged(self, other: Moments) -> Moments:
        """Moments of the clusters of both, which must have none in common."""
        return Moments(self.sums + other.sums, self.squares + other.squares, self.documents + other.documents)

    def of(self, pairs: NDArray[Any] | slice) -> Moments:
        """Moments of some of the pairs, by index or mask."""
        return Moments(self.sums[pairs], self.squares[pairs], self.documents[pairs])


def moments_of(clusters: Iterable[Iterable[float]]) -> Moments:
    """The definition, slow: moments of one pair from the nine sums of each of its clusters."""
    moments = Moments.zero()
    for cluster in clusters:
        s = dict(zip(SUMS, cluster, strict=True))
        moments.sums[:] += np.array([s[name] for name in SUMS], dtype=np.float64)
        for x, first in enumerate(SUMS):
            for y in range(x, len(SUMS)):
                moments.squares[PACKED[x, y]] += s[first] * s[SUMS[y]]
        informative = (s["up"] > 0, s["down"] > 0, s["up"] > 0 or s["down"] > 0, s["aa"] > 0 or s["bb"] > 0)
        moments.documents[:] += np.array(informative, dtype=np.int64)
    return moments


def check_moments(moments: Moments) -> None:
    """ValueError names the part whose shape does not fit the others."""
    shape = np.shape(moments.sums)[:-1]
    wanted = {"sums": (*shape, len(SUMS)), "squares": (*shape, len(ROWS)), "documents": (*shape, len(INFORMATIVE))}
    for name, have in moments._asdict().items():
        if np.shape(have) != wanted[name]:
            raise ValueError(f"moments.{name} has shape {np.shape(have)}, it must be {wanted[name]}")
