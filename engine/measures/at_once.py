"""`engine.measures.estimates` of one pair or a list of pairs in one compiled call: of the few of an answer numpy takes some
hundred."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.measures.pair_counts import MEASURES, PairCounts, estimates
from engine.measures.similarity import Floats
from kernels import SIMILARITIES, similarities


def estimates_at_once(counts: PairCounts, measures: Sequence[str] = MEASURES) -> dict[str, Floats]:
    """The named measures.

    Args:
        counts: numbers, or arrays `[P]` and numbers, joint counts of the shape of them all.
        measures: their names.

    Returns:
        name → float64, 0-d or `[P]` (the decoder cosine as it is given); NaN where undefined, never ±inf.

    Raises:
        BadValue: an unknown measure.
    """
    wanted = [measure for measure in measures if measure in SIMILARITIES]
    shape = np.shape(counts.joint)
    columns = np.empty((9, *(shape or (1,))))
    for column, value in zip(columns, counts, strict=False):
        column[:] = value
    found = dict(zip(wanted, similarities(columns, wanted).reshape(len(wanted), *shape), strict=True))
    return {measure: found[measure] if measure in found else estimates(counts, [measure])[measure] for measure in measures}
