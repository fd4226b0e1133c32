"""How much better a gate predicts its child than its best single parent: gain = F1(gate) − F1(parent), with its anytime interval.

As every interval (`engine.measures.intervals`): over document clusters d the sums x_d = (TP of the gate, N of the gate, TP of the
parent, N of the parent, N of the child), of which S = Σ x_d, M = Σ x_d x_dᵀ and n are kept.

1. F1 = A/U with A = 2 TP and U = N + N_child, both linear in x, for the gate (g) and for the parent (p).
2. Delta method: document d moves the gain by u_d = (A_gd − F_g U_gd)/U_g − (A_pd − F_p U_pd)/U_p; Σ u_d = 0; V = Σ u_d².
3. Two pseudo-documents of size-biased weight, z = ΣU_d²/U for each of the two: one in which the gate is right at every token and
   the parent at none, (A_g, U_g, A_p, U_p) = (z_g, z_g, 0, z_p), and one the other way round, (0, z_g, z_p, z_p). They keep V from
   vanishing when gate and parent have agreed in every document so far, which is when the plain sequence is wrong.
4. gain' ± √V'·`sequence_width(n)`, clipped to [−1, 1] and widened to hold the gain itself, which stays the estimate.

`benchmarks/gate_gain.py` streams dependent documents of known gain through it and through the plain form.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.measures.intervals import ALPHA, MIN_DOCUMENTS, MIN_EFFECTIVE, N_STAR, Intervals, sequence_width
from engine.measures.similarity import Floats

GAIN_SUMS = ("gate_joint", "gate", "parent_joint", "parent", "child")
"""What is summed over a cluster, in this order: TP and N of the gate, TP and N of the parent, N of the child."""

ROWS, COLUMNS = np.triu_indices(len(GAIN_SUMS))
"""int64 `[15]` each: M is kept packed, position p holds Σ x[ROWS[p]] x[COLUMNS[p]]: the upper triangle, row by row."""

PACKED = np.zeros((len(GAIN_SUMS), len(GAIN_SUMS)), np.int64)
"""int64 `[5, 5]`, symmetric: `squares[..., PACKED]` is M as `[..., 5, 5]`."""
PACKED[ROWS, COLUMNS] = PACKED[COLUMNS, ROWS] = np.arange(len(ROWS))

# (A_g, U_g, A_p, U_p) from the five sums.
_LINEAR = np.array([[2, 0, 0, 0, 0], [0, 1, 0, 0, 1], [0, 0, 2, 0, 0], [0, 0, 0, 1, 1]], np.float64)


def gain_interval(
    sums: ArrayLike, squares: ArrayLike, documents: ArrayLike, alpha: float = ALPHA, n_star: float = N_STAR
) -> Intervals:
    """Gain of G gates with its interval, valid at all times at level 1 − alpha each.

    Args:
        sums: float64 `[G, 5]`, S in the order of `GAIN_SUMS`.
        squares: float64 `[G, 15]`, M, see `PACKED`.
        documents: int `[G]`, n: clusters with gate, parent or child active.
        alpha, n_star: see `sequence_width`; fixed for a run.

    Returns:
        Estimate and ends in [−1, 1], n, and k: the smaller of U²/ΣU_d² of gate and parent; NaN while n < 100 or k < 50.
    """
    n = np.asarray(documents, np.int64)
    a_g, u_g, a_p, u_p = (column for column in np.moveaxis(np.asarray(sums, np.float64) @ _LINEAR.T, -1, 0))
    second = _LINEAR @ np.asarray(squares, np.float64)[..., PACKED] @ _LINEAR.T
    z_g, z_p = _divide(second[..., 1, 1], u_g), _divide(second[..., 3, 3], u_p)
    estimate = _divide(a_g, u_g) - _divide(a_p, u_p)
    effective = np.nan_to_num(np.fmin(_divide(u_g, z_g), _divide(u_p, z_p)))
    sufficient = (n >= MIN_DOCUMENTS) & (effective >= MIN_EFFECTIVE) & np.isfinite(estimate)
    none = np.zeros_like(z_g)
    pseudo = np.stack([np.stack([z_g, z_g, none, z_p], axis=-1), np.stack([none, z_g, z_p, z_p], axis=-1)], axis=-2)
    second = second + np.swapaxes(pseudo, -1, -2) @ pseudo
    a_g, u_g, a_p, u_p = a_g + z_g, u_g + 2.0 * z_g, a_p + z_p, u_p + 2.0 * z_p
    f_g, f_p = _divide(a_g, u_g), _divide(a_p, u_p)
    gradient = np.stack([_divide(1.0, u_g), -_divide(f_g, u_g), -_divide(1.0, u_p), _divide(f_p, u_p)], axis=-1)
    variance = np.einsum("...x,...xy,...y->...", gradient, second, gradient)
    half = np.sqrt(np.maximum(variance, 0.0)) * sequence_width(n, alpha, n_star)
    lower = np.minimum(np.clip(f_g - f_p - half, -1.0, 1.0), estimate)
    upper = np.maximum(np.clip(f_g - f_p + half, -1.0, 1.0), estimate)
    estimate, lower, upper = (np.where(sufficient, column, np.nan) for column in (estimate, lower, upper))
    return Intervals(estimate, lower, upper, n, effective, sufficient)


def plain_interval(
    sums: ArrayLike, squares: ArrayLike, documents: ArrayLike, alpha: float = ALPHA, n_star: float = N_STAR
) -> tuple[Floats, Floats, Floats]:
    """Estimate, lower and upper end of the same without pseudo-documents: only for comparison, it is too narrow near 0 and 1."""
    a_g, u_g, a_p, u_p = (column for column in np.moveaxis(np.asarray(sums, np.float64) @ _LINEAR.T, -1, 0))
    second = _LINEAR @ np.asarray(squares, np.float64)[..., PACKED] @ _LINEAR.T
    f_g, f_p = _divide(a_g, u_g), _divide(a_p, u_p)
    gradient = np.stack([_divide(1.0, u_g), -_divide(f_g, u_g), -_divide(1.0, u_p), _divide(f_p, u_p)], axis=-1)
    half = np.sqrt(np.maximum(np.einsum("...x,...xy,...y->...", gradient, second, gradient), 0.0))
    half = half * sequence_width(np.asarray(documents), alpha, n_star)
    return f_g - f_p, f_g - f_p - half, f_g - f_p + half


def _divide(numerator: ArrayLike, denominator: ArrayLike) -> NDArray[np.float64]:
    top, under = np.broadcast_arrays(np.asarray(numerator, np.float64), np.asarray(denominator, np.float64))
    return np.divide(top, under, out=np.full(top.shape, np.nan), where=under > 0)
