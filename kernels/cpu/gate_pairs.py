"""The leading candidate parents of every child by four criteria, in one pass over the rows of a pair table.

    rows of counts, in any number of calls ──▶ far from independence? ──▶ each criterion ──▶ compare with the worst kept ──▶ insert

Most cells are next to what independence expects and are left by a compare that goes through `LANES` of them at a time; what is left
is scored once and compared with the worst that each list of its child keeps. The plain form, with what is computed and why, is
`engine.measures.gate_candidates`: same formulas, operation by operation, and a test holds the lists to be the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kernels.cpu.best import insert
from kernels.cpu.compiled import compiled
from kernels.host_checks import check_pair_rows

LANES = 64
_Z = 1.959963984540054  # Wilson's bound: a two-sided level of 95 %
_NECESSITY, _SUFFICIENCY, _INHIBITION, _SIGNIFICANCE = range(4)


class Ranked(NamedTuple):
    """The leading candidates of C children by each criterion, int64 `[C, Q]` upstream features, best first, then −1."""

    necessity: np.ndarray
    sufficiency: np.ndarray
    inhibition: np.ndarray
    significance: np.ndarray


class CandidateLists:
    """The four lists of some children of one layer pair; ties go to the smaller upstream index if rows are offered in order."""

    def __init__(
        self, up: np.ndarray, down: np.ndarray, children: np.ndarray, tokens: int, effects: np.ndarray, least: float, keep: int
    ) -> None:
        """
        Args:
            up: int64 [Du], down: int64 [Dd], active counts of all features.
            children: int64 [C], downstream features without repeats, whose lists are wanted.
            tokens: N.
            effects: float64 [B], the design effect of a joint count of 4^b to 4^(b+1) − 1, the last one of all above; one that is
                not at least 1 (NaN: not known), or none at all, is taken as 1.
            least: standard errors from independence above which a pair counts.
            keep: Q.
        """
        self._up = np.asarray(up, np.float64)
        self._down = np.full(-(-len(down) // LANES) * LANES, np.nan)
        self._down[children] = np.asarray(down, np.float64)[children]
        self._width = len(down)
        self._place = np.full(len(self._down), -1)
        self._place[children] = np.arange(len(children))
        self._lanes = np.unique(children // LANES)
        self._tokens = float(max(tokens, 1))
        self._effects = np.where(effects >= 1.0, effects, 1.0) if len(effects) else np.ones(1)
        self._least = least
        self._found = np.full((4, len(children), keep), -1, np.int64)
        self._scores = np.full((4, len(children), keep), -np.inf)

    def offer(self, first: int, counts: np.ndarray) -> None:
        """Offer some rows of the pair table.

        Args:
            first: upstream feature of the first row.
            counts: int32 or int64 [R, Dd, 2], joint counts of either half of the documents.

        Raises:
            ValueError: rows that do not fit, named.
        """
        check_pair_rows(first, counts, len(self._up), self._width)
        _offer(
            first,
            counts.reshape(len(counts), -1),
            self._up,
            self._down,
            self._place,
            self._lanes,
            self._tokens,
            self._effects,
            self._least,
            self._found,
            self._scores,
        )

    def offer_cells(self, up: np.ndarray, down: np.ndarray, joint: np.ndarray, errors: np.ndarray) -> None:
        """Offer some cells of a table that may lack counts.

        Args:
            up, down: int32 [n], upstream and downstream features.
            joint: int64 [n], their joint counts at least; errors: int64 [n], what may be missing of each.
        """
        _offer_cells(
            up,
            down,
            joint,
            errors,
            self._up,
            self._down,
            self._place,
            self._tokens,
            self._effects,
            self._least,
            self._found,
            self._scores,
        )

    @property
    def ranked(self) -> Ranked:
        """The lists now."""
        return Ranked(*self._found)


@compiled(error_model="numpy")
def _wilson_lower(s, n):
    n = max(n, 1e-100)
    p, z2 = s / n, _Z * _Z
    return max((p + z2 / (2 * n) - _Z * np.sqrt(p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n), 0.0)


@compiled(error_model="numpy")
def _keep(found, scores, which, place, up, score):
    if score > scores[which, place, -1]:
        insert(found[which, place], scores[which, place], up, score)


@compiled(error_model="numpy")
def _any_far(row, down, rate, start, end, limit):
    """Whether a cell may be further from independence than its standard errors, were the design effect 1. Vector code."""
    far = np.uint64(0)
    for j in range(start, end):
        expected = rate * down[j]
        away = np.float64(row[np.uint64(2) * j] + row[np.uint64(2) * j + np.uint64(1)]) - expected
        far |= np.uint64(away * away > limit * max(expected, 1.0))  # NaN, a child that is not asked for: false
    return far != 0


@compiled(error_model="numpy")
def _offer(first, counts, up, down, place, lanes, n, effects, least, found, scores):
    width = np.uint64(counts.shape[1] // 2)
    limit = least * least * (1.0 - 1e-9)  # the quick look rounds otherwise
    for at in range(counts.shape[0]):
        i = first + at
        n_i = up[i]
        if n_i == 0.0:
            continue
        row = counts[at]
        for lane in lanes:
            start = np.uint64(lane * LANES)
            end = min(start + np.uint64(LANES), width)
            if not _any_far(row, down, n_i / n, start, end, limit):
                continue
            for j in range(start, end):
                child = place[j]
                if child < 0:
                    continue
                n_ij = np.float64(row[np.uint64(2) * j] + row[np.uint64(2) * j + np.uint64(1)])
                _score(i, child, n_i, down[j], n_ij, n, effects, least, found, scores)


@compiled(error_model="numpy")
def _score(i, child, n_i, n_j, n_ij, n, effects, least, found, scores):
    """Offer a cell to the lists of its child."""
    expected = n_i * n_j / n
    spread = max(expected, 1.0)
    away = n_ij - expected
    if not away * away > least * least * (1.0 - 1e-9) * spread:  # the quick look rounds otherwise
        return
    whole, b = np.int64(spread), 0
    while whole >= 4 and b < len(effects) - 1:
        whole >>= 2
        b += 1
    deff = effects[b]
    z = away / np.sqrt(deff * spread)
    if not abs(z) > least:
        return
    _keep(found, scores, _SIGNIFICANCE, child, i, abs(z))
    if z > 0:
        _keep(found, scores, _NECESSITY, child, i, n_ij / max(n_j, 1.0) - n_i / n)
        if n_ij / n_i - n_j / n > scores[_SUFFICIENCY, child, -1]:  # the lower end is below the estimate
            _keep(found, scores, _SUFFICIENCY, child, i, _wilson_lower(n_ij / deff, n_i / deff) - n_j / n)
    else:
        _keep(found, scores, _INHIBITION, child, i, -z)


@compiled(error_model="numpy")
def _offer_cells(up_of, down_of, joint, errors, up, down, place, n, effects, least, found, scores):
    for cell in range(len(joint)):
        i, j = np.int64(up_of[cell]), np.int64(down_of[cell])
        child, n_i, n_j = place[j], up[i], down[j]
        if child < 0 or n_i == 0.0:
            continue
        fewest = np.float64(joint[cell])
        most = min(fewest + np.float64(errors[cell]), n_i, n_j)
        expected = n_i * n_j / n
        # By what is sure: more than expected even so, or fewer than expected even with all that may be missing.
        if fewest > expected:
            _score(i, child, n_i, n_j, fewest, n, effects, least, found, scores)
        elif most < expected:
            _score(i, child, n_i, n_j, most, n, effects, least, found, scores)
