"""Running top lists: the best cells of every row and of every column of a table, by every measure, in one pass over its cells.

    cells (row, column, joint count, Σab), in any number of calls ──▶ each measure ──▶ compare with the worst that row and column
    keep ──▶ insert

A top-k by groups needs the cells of a group side by side: for columns that is a sort of all cells and a permutation of every
score. Here a cell is compared with the worst that its row and its column keep, wherever it comes; nearly all fail both compares,
and a list takes a new cell by insertion. What a measure needs of a feature alone (roots of its sums) is computed once per feature,
and a costly one (mutual information, the bounds) only where something cheap above it passes the compare. Tables are ranked on the
host, so there is no GPU form.

The formulas are those of `engine.measures.similarity`, operation by operation, so that their values are the same bits (but for the
logarithm's last one); a test holds them to that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kernels.cpu.bounds import ALPHA, lower_bound, lower_bound_exceeds, pearson_effective, pearson_lower_bound
from kernels.cpu.compiled import compiled
from kernels.host_checks import check_cells, check_features, check_ranking

RANKED = (
    "jaccard",
    "sufficiency",
    "necessity",
    "phi",
    "mutual_information",
    "pearson",
    "activation_cosine",
    "decoder_cosine",
    "jaccard_lower",
    "sufficiency_lower",
    "necessity_lower",
    "pearson_lower",
)
"""What cells are ranked by: measures, and the lower ends of `kernels.bounds` and `kernels.pearson_bounds` at their default level.
Of lift there is none: along a row it orders as necessity does, along a column as sufficiency."""

_JACCARD, _SUFFICIENCY, _NECESSITY, _PHI, _INFORMATION, _PEARSON, _COSINE, _DECODER = range(8)
_JACCARD_LOWER, _SUFFICIENCY_LOWER, _NECESSITY_LOWER, _PEARSON_LOWER = range(8, 12)

_COUNT, _SUM, _PHI_ROOT, _PEARSON_ROOT, _COSINE_ROOT, _EFFECT, _COLUMNS = range(7)

ONE = np.uint64(1)

_CONSTANT = 1e-12  # of n Σa²: a variance below that is rounding (`engine.measures.similarity`)
EFFECT_BINS = 32  # by joint count, bin b from 4^b on


class Features(NamedTuple):
    """What the measures need of the D features of a layer alone."""

    count: np.ndarray
    """int64 [D], active counts."""
    sum: np.ndarray
    """float64 [D], Σa."""
    sum_of_squares: np.ndarray
    """float64 [D], Σa²."""
    effect: np.ndarray | None = None
    """float [D], design effects of their rates, NaN where unknown; None where none is."""

    def columns(self, tokens: int) -> np.ndarray:
        """float64 [D, 6], in the order of the compiled code."""
        n, n_i, a, aa = float(tokens), self.count.astype(np.float64), self.sum, self.sum_of_squares
        total = n * aa
        spread = total - a * a
        found = np.empty((len(n_i), _COLUMNS))
        found[:, _COUNT], found[:, _SUM] = n_i, a
        found[:, _PHI_ROOT] = np.sqrt(n_i * (n - n_i))
        found[:, _PEARSON_ROOT] = np.sqrt(np.where(spread > _CONSTANT * total, spread, 0.0))
        found[:, _COSINE_ROOT] = np.sqrt(aa)
        found[:, _EFFECT] = np.nan if self.effect is None else self.effect
        return found


class TopCells(NamedTuple):
    """The k best cells of each row and each column, best first: int64 [Du, k] and [Dd, k], −1 where there are fewer."""

    rows: np.ndarray
    columns: np.ndarray


class BestCells:
    """The k best cells of each row and each column of one layer pair by each of some measures; ties go to the cell that was
    offered first."""

    def __init__(
        self, up: Features, down: Features, tokens: int, measures: Sequence[str], k: int, effects: np.ndarray | None = None
    ) -> None:
        """
        Args:
            up, down: the features of the rows and of the columns.
            tokens: N.
            measures: some of `RANKED`.
            k: length of the lists.
            effects: float64 [32], the design effect of ratios whose joint count is 4^b to 4^(b+1) − 1; NaN or None: not known, and
                no such cell is in a list by lower bound.

        Raises:
            ValueError: an argument that does not fit, named.
        """
        check_ranking(measures, RANKED, k)
        check_features("up", up)
        check_features("down", down)
        self._measures = tuple(measures)
        self._codes = np.array([RANKED.index(measure) for measure in measures], np.int64)
        self._tokens = float(tokens)
        self._up, self._down = up.columns(tokens), down.columns(tokens)
        self._effects = np.full(EFFECT_BINS, np.nan) if effects is None else np.asarray(effects, np.float64)
        self._rows, self._columns = (_Kept.none(len(measures), len(side), k) for side in (self._up, self._down))

    def offer(
        self,
        up: np.ndarray,
        down: np.ndarray,
        cells: np.ndarray,
        joint: np.ndarray,
        product: np.ndarray,
        cosine: np.ndarray | None = None,
    ) -> None:
        """Offer some cells.

        Args:
            up, down: int32 [n], row and column of each.
            cells: int64 [n], their ids.
            joint: int64 [n], joint counts.
            product: float64 [n], Σab.
            cosine: float32 [n], decoder cosines, NaN where there is none; None where none is known.

        Raises:
            ValueError: an array of another type or length, or a row or column that there is not.
        """
        check_cells(up, down, cells, joint, product, cosine, len(self._up), len(self._down))
        cosines = np.full(len(cells), np.nan, np.float32) if cosine is None else cosine
        sides = (*self._rows, *self._columns)
        _offer(self._codes, up, down, cells, joint, product, cosines, self._tokens, self._up, self._down, self._effects, sides)

    @property
    def found(self) -> dict[str, TopCells]:
        """The lists by each measure."""
        return {measure: TopCells(self._rows.cells[at], self._columns.cells[at]) for at, measure in enumerate(self._measures)}


class _Kept(NamedTuple):
    """Lists of one side: cells int64 [M, D, k], scores float64 [M, D, k], and the worst score of each list once more, [D, M]."""

    cells: np.ndarray
    scores: np.ndarray
    least: np.ndarray

    @classmethod
    def none(cls, measures: int, size: int, k: int) -> _Kept:
        """Empty lists."""
        shape = (measures, size, k)
        return cls(np.full(shape, -1, np.int64), np.full(shape, -np.inf), np.full((size, measures), -np.inf))


_compile = compiled(error_model="numpy")


@_compile
def insert(kept, kept_scores, cell, score):
    slot = np.uint64(len(kept)) - ONE
    while slot > 0 and score > kept_scores[slot - ONE]:
        kept[slot] = kept[slot - ONE]
        kept_scores[slot] = kept_scores[slot - ONE]
        slot -= ONE
    kept[slot] = cell
    kept_scores[slot] = score


@_compile
def ratio(numerator, denominator, low, high):
    return min(max(numerator / denominator, low), high) if denominator > 0.0 else math.nan


@_compile
def spread(n, total, squares):
    """n Σa² − (Σa)², 0 where that is rounding."""
    most = n * squares
    found = most - total * total
    return found if found > _CONSTANT * most else 0.0


@_compile
def _term(n, row, column, cell):
    return cell * math.log(n * cell / (row * column)) if cell > 0.0 else 0.0


@_compile
def information(n, n_i, n_j, n_ij):
    found = _term(n, n_i, n_j, n_ij)
    found += _term(n, n_i, n - n_j, n_i - n_ij)
    found += _term(n, n - n_i, n_j, n_j - n_ij)
    found += _term(n, n - n_i, n - n_j, n - n_i - n_j + n_ij)
    return ratio(found, n, 0.0, math.log(2.0))


@_compile
def information_below(n, n_i, n_j, n_ij, phi, least):
    """Whether the mutual information can't reach `least`, by a logarithm or none: it is at most φ², and, with ln x ≤ x − 1 in three
    of the cells, at most φ² − p (L − 1 − ln L), p the joint rate and L the lift; of rare features that is a tenth of φ²."""
    most = phi * phi * (1.0 + 1e-9)
    if most < least:
        return True
    lift = n * n_ij / (n_i * n_j)
    return most - n_ij / n * (lift - 1.0 - math.log(lift)) < least


@_compile
def effect_bin(joint):
    """The bin of `effects` that a joint count is in."""
    at = 0
    while joint >= 4 and at < EFFECT_BINS - 1:
        joint >>= 2
        at += 1
    return at


@_compile
def _bound_of_ratio(successes, trials, effects, joint, least):
    effect = effects[effect_bin(joint)]
    if not (effect > 0.0 and lower_bound_exceeds(successes, trials, effect, ALPHA, least)):
        return math.nan
    return lower_bound(successes, trials, effect, ALPHA)


@_compile
def _bound_of_pearson(r, n_i, n_j, up_effect, down_effect):
    if math.isnan(up_effect) or math.isnan(down_effect):
        return math.nan
    return pearson_lower_bound(r, pearson_effective(n_i, n_j, max(up_effect, down_effect)), ALPHA)


@_compile
def _offer(codes, up, down, cells, joint, product, cosines, n, up_columns, down_columns, effects, sides):
    rows, row_scores, row_least, columns, column_scores, column_least = sides
    last = rows.shape[2] - 1
    for at in range(np.uint64(len(cells))):
        i, j = np.uint64(up[at]), np.uint64(down[at])
        n_i, n_j, n_ij = up_columns[i, _COUNT], down_columns[j, _COUNT], np.float64(joint[at])
        for m in range(np.uint64(len(codes))):
            code = codes[m]
            least = min(row_least[i, m], column_least[j, m])
            # Where a measure can't be above what is kept, nothing more is computed of it.
            if code == _JACCARD:
                score = ratio(n_ij, n_i + n_j - n_ij, 0.0, 1.0)
            elif code == _SUFFICIENCY:
                score = ratio(n_ij, n_i, 0.0, 1.0)
            elif code == _NECESSITY:
                score = ratio(n_ij, n_j, 0.0, 1.0)
            elif code in (_PHI, _INFORMATION):
                score = ratio(n * n_ij - n_i * n_j, up_columns[i, _PHI_ROOT] * down_columns[j, _PHI_ROOT], -1.0, 1.0)
                if code == _INFORMATION:
                    if information_below(n, n_i, n_j, n_ij, score, least):
                        continue
                    score = information(n, n_i, n_j, n_ij)
            elif code in (_PEARSON, _PEARSON_LOWER):
                roots = up_columns[i, _PEARSON_ROOT] * down_columns[j, _PEARSON_ROOT]
                score = ratio(n * product[at] - up_columns[i, _SUM] * down_columns[j, _SUM], roots, -1.0, 1.0)
                if code == _PEARSON_LOWER:
                    if not score > least:
                        continue
                    score = _bound_of_pearson(score, n_i, n_j, up_columns[i, _EFFECT], down_columns[j, _EFFECT])
            elif code == _COSINE:
                score = ratio(product[at], up_columns[i, _COSINE_ROOT] * down_columns[j, _COSINE_ROOT], 0.0, 1.0)
            elif code == _DECODER:
                score = np.float64(cosines[at])
            else:
                trials = n_i + n_j - n_ij if code == _JACCARD_LOWER else (n_i if code == _SUFFICIENCY_LOWER else n_j)
                if not n_ij > least * trials:
                    continue
                score = _bound_of_ratio(n_ij, trials, effects, joint[at], least)
            if not score > least:  # true for NaN
                continue
            if score > row_least[i, m]:
                insert(rows[m, i], row_scores[m, i], cells[at], score)
                row_least[i, m] = row_scores[m, i, last]
            if score > column_least[j, m]:
                insert(columns[m, j], column_scores[m, j], cells[at], score)
                column_least[j, m] = column_scores[m, j, last]
