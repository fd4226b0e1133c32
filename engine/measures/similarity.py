"""Similarity of an upstream and a downstream feature, from counts and sums over the same N tokens.

Notation, as in DESIGN: a, b the two activations at a token, active = above the threshold; n tokens, n_i and n_j active
counts, n_ij joint count. Every function takes numbers or arrays that broadcast, computes in float64 and returns float64: NaN where
the measure is undefined (never ±inf), and values within the measure's range, whatever rounding did.

Counts are exact in float64 up to 2^53. n·n_ij − n_i·n_j is exact below n = 94,906,265 = √2^53 tokens; beyond that it is rounded to
2^-53 of n_i·n_j, which changes phi by less than 1e-15.

Sources: Jaccard, sufficiency, necessity and Pearson are the measures of Balcells et al. 2024 (arXiv 2410.08869); phi, lift and
mutual information as in Tan, Kumar, Srivastava 2002 ("Selecting the right interestingness measure for association patterns").
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def jaccard(n_up: ArrayLike, n_down: ArrayLike, joint: ArrayLike) -> Floats:
    """J = n_ij / (n_i + n_j − n_ij): tokens with both over tokens with either. In [0, 1]; undefined when neither ever fired."""
    n_i, n_j, n_ij = _floats(n_up, n_down, joint)
    return _ratio(n_ij, n_i + n_j - n_ij)


def sufficiency(n_up: ArrayLike, joint: ArrayLike) -> Floats:
    """P(j | i) = n_ij / n_i: how often the downstream feature fires when the upstream one does.

    In [0, 1]; undefined when the upstream feature never fired.
    """
    n_i, n_ij = _floats(n_up, joint)
    return _ratio(n_ij, n_i)


def necessity(n_down: ArrayLike, joint: ArrayLike) -> Floats:
    """P(i | j) = n_ij / n_j: how often the upstream feature fires when the downstream one does.

    In [0, 1]; undefined when the downstream feature never fired.
    """
    n_j, n_ij = _floats(n_down, joint)
    return _ratio(n_ij, n_j)


def phi(n: ArrayLike, n_up: ArrayLike, n_down: ArrayLike, joint: ArrayLike) -> Floats:
    """φ = (n·n_ij − n_i·n_j) / √( n_i (n − n_i) n_j (n − n_j) ): Pearson correlation of the two active/inactive variables.

    In [−1, 1]; undefined when either feature fired never or at every token.
    """
    n, n_i, n_j, n_ij = _floats(n, n_up, n_down, joint)
    # √x·√y, not √(x·y): four counts of 2^31 multiply to 2^124 and lose nothing, but the two factors show what is being divided.
    spread = np.sqrt(n_i * (n - n_i)) * np.sqrt(n_j * (n - n_j))
    return _ratio(n * n_ij - n_i * n_j, spread, -1.0, 1.0)


def lift(n: ArrayLike, n_up: ArrayLike, n_down: ArrayLike, joint: ArrayLike) -> Floats:
    """n·n_ij / (n_i·n_j): joint count over that of independent features. At least 0; undefined when either never fired."""
    n, n_i, n_j, n_ij = _floats(n, n_up, n_down, joint)
    return _ratio(n * n_ij, n_i * n_j, 0.0, np.inf)


def mutual_information(n: ArrayLike, n_up: ArrayLike, n_down: ArrayLike, joint: ArrayLike) -> Floats:
    """I = Σ over the four cells of (n_xy / n) ln( n·n_xy / (n_x n_y) ), in nats, with 0 ln 0 = 0.

    In [0, ln 2]; undefined without tokens. A feature that never or always fires carries no information: 0.
    """
    n, n_i, n_j, n_ij = _floats(n, n_up, n_down, joint)
    information = _cell(n, n_i, n_j, n_ij)
    information += _cell(n, n_i, n - n_j, n_i - n_ij)
    information += _cell(n, n - n_i, n_j, n_j - n_ij)
    information += _cell(n, n - n_i, n - n_j, n - n_i - n_j + n_ij)
    return _ratio(information, n, 0.0, np.log(2.0))


def pearson(
    n: ArrayLike,
    up_sum: ArrayLike,
    down_sum: ArrayLike,
    up_sum_of_squares: ArrayLike,
    down_sum_of_squares: ArrayLike,
    product: ArrayLike,
) -> Floats:
    """r = (n Σab − Σa Σb) / √( (n Σa² − (Σa)²) (n Σb² − (Σb)²) ) over the activations, zeros included.

    In [−1, 1]; undefined when either activation is constant (see `_spread`).
    """
    n, a, b, aa, bb, ab = _floats(n, up_sum, down_sum, up_sum_of_squares, down_sum_of_squares, product)
    return _ratio(n * ab - a * b, np.sqrt(_spread(n, a, aa)) * np.sqrt(_spread(n, b, bb)), -1.0, 1.0)


def activation_cosine(product: ArrayLike, up_sum_of_squares: ArrayLike, down_sum_of_squares: ArrayLike) -> Floats:
    """cos = Σab / √(Σa² Σb²) of the two activation vectors over tokens. In [0, 1]; undefined when either never fired."""
    ab, aa, bb = _floats(product, up_sum_of_squares, down_sum_of_squares)
    return _ratio(ab, np.sqrt(aa) * np.sqrt(bb))


def is_constant(n: ArrayLike, sum: ArrayLike, sum_of_squares: ArrayLike) -> NDArray[np.bool_]:
    """Whether an activation has no measurable variance: it never fired, or had the same value at every token."""
    n, a, aa = _floats(n, sum, sum_of_squares)
    return _spread(n, a, aa) == 0


def _spread(n: Floats, a: Floats, aa: Floats) -> Floats:
    """n Σa² − (Σa)² = n² variance, 0 where it is below what float64 sums can tell from 0.

    Both terms are rounded sums of up to n numbers, folded from per-batch partial sums: their relative error stays below 1e-12 in
    practice (batches of thousands of tokens), so a difference below 1e-12 of n Σa² is rounding, and dividing by it would answer
    with noise. Activations are at least 0 and sparse: Σa² n is far above (Σa)² for every feature that is not constant.
    """
    total = n * aa
    spread = total - a * a
    return np.where(spread > 1e-12 * total, spread, 0.0)


def _cell(n: Floats, row: Floats, column: Floats, cell: Floats) -> Floats:
    """One term of the mutual information, times n; 0 where the cell is empty."""
    lift = np.ones(np.broadcast_shapes(n.shape, row.shape, column.shape, cell.shape))
    np.divide(n * cell, row * column, out=lift, where=cell > 0)
    return cell * np.log(lift, out=lift)  # ln 1 = 0 in empty cells; a log with `where=` is not vectorised and takes 4 times as long


def _ratio(numerator: Floats, denominator: Floats, low: float = 0.0, high: float = 1.0) -> Floats:
    """numerator / denominator clipped to the measure's range, NaN where the denominator is 0."""
    result = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return np.clip(result, low, high, out=result)


def _floats(*values: ArrayLike) -> tuple[Floats, ...]:
    return tuple(np.asarray(value, dtype=np.float64) for value in values)
