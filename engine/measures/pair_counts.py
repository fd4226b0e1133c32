"""Counts of pairs of features, all measures of them, and why one is undefined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from engine.errors import BadValue
from engine.measures import similarity
from engine.measures.similarity import Floats


class PairCounts(NamedTuple):
    """What is known of a pair of features, or of P pairs: numbers, or arrays that broadcast to one shape.

    Attributes:
        tokens: N, tokens in the statistics.
        up, down: active counts of the upstream and the downstream feature.
        joint: tokens at which both are active.
        up_sum, down_sum: Σa, Σb over all activations.
        up_sumsq, down_sumsq: Σa², Σb².
        product: Σa·b.
        decoder_cosine: cosine of the two decoder directions; NaN in a run without a model.
        joint_error: what may be missing of the joint count, which is sure as it stands; 0 in a dense table. Measures are of what is
            sure.
    """

    tokens: ArrayLike
    up: ArrayLike
    down: ArrayLike
    joint: ArrayLike
    up_sum: ArrayLike
    down_sum: ArrayLike
    up_sumsq: ArrayLike
    down_sumsq: ArrayLike
    product: ArrayLike
    decoder_cosine: ArrayLike = np.nan
    joint_error: ArrayLike = 0


_ESTIMATES: dict[str, Callable[[PairCounts], Floats]] = {
    "jaccard": lambda c: similarity.jaccard(c.up, c.down, c.joint),
    "sufficiency": lambda c: similarity.sufficiency(c.up, c.joint),
    "necessity": lambda c: similarity.necessity(c.down, c.joint),
    "phi": lambda c: similarity.phi(c.tokens, c.up, c.down, c.joint),
    "lift": lambda c: similarity.lift(c.tokens, c.up, c.down, c.joint),
    "mutual_information": lambda c: similarity.mutual_information(c.tokens, c.up, c.down, c.joint),
    "pearson": lambda c: similarity.pearson(c.tokens, c.up_sum, c.down_sum, c.up_sumsq, c.down_sumsq, c.product),
    "activation_cosine": lambda c: similarity.activation_cosine(c.product, c.up_sumsq, c.down_sumsq),
    "decoder_cosine": lambda c: np.asarray(c.decoder_cosine, dtype=np.float64),
}

MEASURES: tuple[str, ...] = tuple(_ESTIMATES)
"""The names of all measures, in the order in which answers list them."""


def estimates(counts: PairCounts, measures: Sequence[str] = MEASURES) -> dict[str, Floats]:
    """The named measures of one pair or of many.

    Returns:
        name → float64 of the broadcast shape of what the measure needs (0-d for scalars); NaN where undefined, never ±inf.

    Raises:
        BadValue: an unknown measure.
    """
    return {measure: _estimate(measure)(counts) for measure in measures}


def reason(measure: str, counts: PairCounts, up: str = "the upstream feature", down: str = "the downstream feature") -> str | None:
    """Why a measure of one pair (scalar counts) has no value, as a sentence for the reader; None when it has one.

    Args:
        measure: its name.
        counts: scalars.
        up, down: what to call the two features, such as "feature 3:17".

    Raises:
        BadValue: an unknown measure.
    """
    if not np.isnan(_estimate(measure)(counts)):
        return None
    if measure == "decoder_cosine":
        return "decoder directions are not known: this run has no model, or a decoder direction is zero"
    if counts.tokens == 0:
        return "no tokens were counted yet"
    return _reason_of(measure, counts, up, down)


def _reason_of(measure: str, counts: PairCounts, up: str, down: str) -> str:
    features = [
        (up, counts.up, counts.up_sum, counts.up_sumsq),
        (down, counts.down, counts.down_sum, counts.down_sumsq),
    ]
    if measure == "jaccard":
        return f"neither {up} nor {down} ever fired"
    if measure in ("sufficiency", "necessity"):
        return f"{up if measure == 'sufficiency' else down} never fired"
    for feature, count, total, total_of_squares in features:
        if measure == "pearson":
            if total_of_squares == 0:
                return f"{feature} never fired"
            if similarity.is_constant(counts.tokens, total, total_of_squares):
                return f"{feature} had the same activation at every token"
        elif measure == "activation_cosine":
            if total_of_squares == 0:
                return f"{feature} never fired"
        elif count == 0:
            return f"{feature} never fired"
        elif measure == "phi" and count == counts.tokens:
            return f"{feature} fired at every token"
    return f"{measure} is not defined by these counts"


def _estimate(measure: str) -> Callable[[PairCounts], Floats]:
    if measure not in _ESTIMATES:
        raise BadValue(f"measure {measure!r} is not one of {', '.join(MEASURES)}")
    return _ESTIMATES[measure]
