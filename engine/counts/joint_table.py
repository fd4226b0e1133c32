"""What every table of joint counts of one layer pair can be asked, dense or bounded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from kernels import CandidateLists


class PairCells(NamedTuple):
    """Some pairs of features.

    Attributes:
        up, down: int32 `[n]`.
        counts: int64 `[n, 2]`, tokens of either half of the documents at which both were active.
        errors: int64 `[n]`: the true joint count is at least that, and at most so much more.
        products: float64 `[n]`, Σa·b, of the tokens in the counts.
    """

    up: np.ndarray
    down: np.ndarray
    counts: np.ndarray
    errors: np.ndarray
    products: np.ndarray

    @property
    def joint(self) -> np.ndarray:
        """int64 `[n]`."""
        return self.counts.sum(axis=1)

    def take(self, which: np.ndarray) -> PairCells:
        """Some of them."""
        return PairCells(*(column[which] for column in self))


class JointTable(ABC):
    """Joint counts of one layer pair of Du × Dd features. Nothing may count into it while it is read."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Du, Dd."""

    @property
    @abstractmethod
    def exact(self) -> bool:
        """Whether every count is what was seen, and every pair that was seen is there."""

    def settle(self) -> None:
        """Count what was taken in and is not counted yet. Whoever reads does so first; after it two may read at the same time."""
        return

    @abstractmethod
    def at(self, up: np.ndarray, down: np.ndarray) -> PairCells:
        """The cells of some pairs, integers `[n]` each, in their order."""

    @abstractmethod
    def line(self, feature: int, *, downstream: bool, min_support: int) -> PairCells:
        """The cells of one feature with a joint count of at least `min_support` (1 or more), by the partner's index: of an
        upstream feature with its downstream partners, or the other way round."""

    @abstractmethod
    def supported(self, min_support: int) -> Iterator[PairCells]:
        """All cells with a joint count of at least `min_support` (1 or more), block by block."""

    @abstractmethod
    def block(self, ups: np.ndarray, downs: np.ndarray) -> np.ndarray:
        """int64 `[U, D]`, the joint counts of some features of one layer with some of the other."""

    @abstractmethod
    def rows_by_half(self, first: int, step: int, rows: int) -> np.ndarray:
        """Counts by half `[R, Dd, 2]`, int32 or int64, of the upstream features first, first + step, …, at most so many."""

    @abstractmethod
    def sample(self, cells: int) -> np.ndarray:
        """Counts by half `[n, 2]` of about so many cells, evenly spaced."""

    @abstractmethod
    def offer_candidates(self, lists: CandidateLists) -> None:
        """Offer every cell that may hold a candidate parent."""

    @abstractmethod
    def likely_children(
        self, least: np.ndarray, most: np.ndarray, needed: np.ndarray, covered: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Parent, child and joint count, int64 `[n]`, of the cells that a sibling group may be of, by parent, see
        `kernels.likely_children`."""

    @abstractmethod
    def unlisted(self, downstream: bool) -> np.ndarray:
        """int64 `[D]`: of every upstream feature (`downstream`) or every downstream one the most that the joint count with a
        partner can be that the table does not hold; 0 where it holds all."""
