"""Running top lists: the best cells of every row and of every column of a table, in one pass over its cells.

    cells (row, column, id, score), in any number of calls ──▶ compare with the worst kept of the row, of the column ──▶ insert

A top-k by groups needs the cells of a group side by side: for columns that is a sort of all cells and a permutation of every score,
half of a sweep's time. Here a cell is compared with the worst that its row and its column keep, wherever it comes; nearly all fail
both compares, and a list takes a new cell by insertion. Tables are ranked on the host, so there is no GPU form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np

from kernels.cpu.bounds import ALPHA, lower_bound, pearson_lower_bound
from kernels.host_checks import check_cells


class BestCells:
    """The k best cells of each row and each column by one measure, best first; ties go to the cell that was offered first.

    Attributes:
        rows, columns: int64 `[Du, k]` and `[Dd, k]`, ids of cells; −1 where there are fewer.
    """

    def __init__(self, rows: int, columns: int, k: int) -> None:
        """Empty lists of k for so many rows and columns."""
        if k < 1:
            raise ValueError(f"k is {k}, it must be at least 1")
        self.rows, self._row_scores = _empty(rows, k)
        self.columns, self._column_scores = _empty(columns, k)

    def offer(self, up: np.ndarray, down: np.ndarray, cells: np.ndarray, scores: np.ndarray) -> None:
        """Offer some cells.

        Args:
            up, down: int32 `[n]`, row and column of each.
            cells: int64 `[n]`, their ids.
            scores: float64 `[n]`; NaN and −inf are never kept.

        Raises:
            ValueError: an array of another type or length, or a row or column that there is not.
        """
        check_cells(up, down, cells, scores, len(self.rows), len(self.columns))
        _offer(up, down, cells, scores, self.rows, self._row_scores, self.columns, self._column_scores)

    def offer_ratios(
        self, up: np.ndarray, down: np.ndarray, cells: np.ndarray, ratios: tuple[np.ndarray, np.ndarray], effects: np.ndarray
    ) -> None:
        """Offer some cells by the lower bound of a ratio (`kernels.bounds` at its default level), which is computed for the few
        whose estimate is above what is kept.

        Args:
            up, down, cells: as in `offer`.
            ratios: float64 `[n]` each, successes and trials.
            effects: float64 `[n]`, design effects; NaN is never kept.
        """
        successes, trials = ratios
        for part in (successes, trials, effects):
            check_cells(up, down, cells, part, len(self.rows), len(self.columns))
        _offer_ratios(up, down, cells, successes, trials, effects, self.rows, self._row_scores, self.columns, self._column_scores)

    def offer_correlations(self, up: np.ndarray, down: np.ndarray, cells: np.ndarray, r: np.ndarray, effective: np.ndarray) -> None:
        """Offer some cells by the lower bound of a correlation (`kernels.pearson_bounds`).

        Args:
            up, down, cells: as in `offer`.
            r: float64 `[n]`.
            effective: float64 `[n]`, effective numbers of tokens; NaN is never kept.
        """
        for part in (r, effective):
            check_cells(up, down, cells, part, len(self.rows), len(self.columns))
        _offer_correlations(up, down, cells, r, effective, self.rows, self._row_scores, self.columns, self._column_scores)


def _empty(groups: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full((groups, k), -1, np.int64), np.full((groups, k), -np.inf)


# numba's decorator is untyped; `cache` keeps the compiled code beside the source, 2 s at the first start otherwise.
_compile = cast("Callable[[Callable[..., Any]], Callable[..., Any]]", numba.njit(nogil=True, cache=True))


@_compile
def insert(kept, kept_scores, cell, score):
    slot = len(kept) - 1
    while slot > 0 and score > kept_scores[slot - 1]:
        kept[slot] = kept[slot - 1]
        kept_scores[slot] = kept_scores[slot - 1]
        slot -= 1
    kept[slot] = cell
    kept_scores[slot] = score


@_compile
def _offer(up, down, cells, scores, rows, row_scores, columns, column_scores):
    last = rows.shape[1] - 1
    for at in range(len(cells)):
        score = scores[at]
        i, j = up[at], down[at]
        if score > row_scores[i, last]:  # false for NaN
            insert(rows[i], row_scores[i], cells[at], score)
        if score > column_scores[j, last]:
            insert(columns[j], column_scores[j], cells[at], score)


@_compile
def _offer_bound(i, j, cell, bound, last, rows, row_scores, columns, column_scores):
    if bound > row_scores[i, last]:  # false for NaN
        insert(rows[i], row_scores[i], cell, bound)
    if bound > column_scores[j, last]:
        insert(columns[j], column_scores[j], cell, bound)


@_compile
def _offer_ratios(up, down, cells, successes, trials, effects, rows, row_scores, columns, column_scores):
    last = rows.shape[1] - 1
    for at in range(len(cells)):
        i, j = up[at], down[at]
        least = min(row_scores[i, last], column_scores[j, last])
        if successes[at] > least * trials[at] and effects[at] > 0.0:  # a bound is below its estimate
            bound = lower_bound(successes[at], trials[at], effects[at], ALPHA)
            _offer_bound(i, j, cells[at], bound, last, rows, row_scores, columns, column_scores)


@_compile
def _offer_correlations(up, down, cells, r, effective, rows, row_scores, columns, column_scores):
    last = rows.shape[1] - 1
    for at in range(len(cells)):
        i, j = up[at], down[at]
        if r[at] > min(row_scores[i, last], column_scores[j, last]):
            bound = pearson_lower_bound(r[at], effective[at], ALPHA)
            _offer_bound(i, j, cells[at], bound, last, rows, row_scores, columns, column_scores)
