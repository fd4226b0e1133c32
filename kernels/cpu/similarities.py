"""All measures of similarity of many pairs at once: for answers, where a list of ten takes numpy a hundred calls.

The formulas are those of `engine.measures.similarity`, operation by operation; a test holds them to that, but for the last bit of a
logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from kernels.cpu.best import information, ratio, spread
from kernels.cpu.compiled import compiled

SIMILARITIES = (
    "jaccard",
    "sufficiency",
    "necessity",
    "phi",
    "lift",
    "mutual_information",
    "pearson",
    "activation_cosine",
)
"""The measures that follow from counts and sums."""

_JACCARD, _SUFFICIENCY, _NECESSITY, _PHI, _LIFT, _INFORMATION, _PEARSON, _COSINE = range(8)

_compile = compiled(error_model="numpy")


def similarities(counts: np.ndarray, measures: Sequence[str]) -> np.ndarray:
    """Some measures of P pairs.

    Args:
        counts: float64 [9, P], contiguous: N, n_i, n_j, n_ij, Σa, Σb, Σa², Σb² and Σab of each.
        measures: some of `SIMILARITIES`.

    Returns:
        float64 [M, P], NaN where a measure is undefined.

    Raises:
        ValueError: an array of another type or shape, or an unknown measure.
    """
    if counts.dtype != np.float64 or counts.ndim != 2 or len(counts) != 9 or not counts.flags.c_contiguous:
        raise ValueError(f"counts must be float64 [9, P], contiguous, it is {counts.dtype} {list(counts.shape)}")
    found = np.empty((len(measures), counts.shape[1]))
    _measure(counts, np.array([SIMILARITIES.index(measure) for measure in measures], np.int64), found)
    return found


@_compile
def _measure(counts, codes, found):
    for at in range(counts.shape[1]):
        n, n_i, n_j, n_ij = counts[0, at], counts[1, at], counts[2, at], counts[3, at]
        a, b, aa, bb, ab = counts[4, at], counts[5, at], counts[6, at], counts[7, at], counts[8, at]
        for m in range(len(codes)):
            code = codes[m]
            if code == _JACCARD:
                value = ratio(n_ij, n_i + n_j - n_ij, 0.0, 1.0)
            elif code == _SUFFICIENCY:
                value = ratio(n_ij, n_i, 0.0, 1.0)
            elif code == _NECESSITY:
                value = ratio(n_ij, n_j, 0.0, 1.0)
            elif code == _PHI:
                value = ratio(n * n_ij - n_i * n_j, math.sqrt(n_i * (n - n_i)) * math.sqrt(n_j * (n - n_j)), -1.0, 1.0)
            elif code == _LIFT:
                value = ratio(n * n_ij, n_i * n_j, 0.0, math.inf)
            elif code == _INFORMATION:
                value = information(n, n_i, n_j, n_ij)
            elif code == _PEARSON:
                value = ratio(n * ab - a * b, math.sqrt(spread(n, a, aa)) * math.sqrt(spread(n, b, bb)), -1.0, 1.0)
            else:
                value = ratio(ab, math.sqrt(aa) * math.sqrt(bb), 0.0, 1.0)
            found[m, at] = value
