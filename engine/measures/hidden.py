"""Hidden in the next layer's SAE error: from sums over tokens and windows to shares of what a feature wrote.

For an upstream feature over the sampled tokens at which it is active, with what it wrote w, the next SAE's error e, what that SAE
reads x, all on its unit decoder direction d̂ (`engine.encoder.projections`): W = Σw, E = Σe·d̂, X = Σx·d̂, and

- *error share* E/W: the part of what it wrote that lies in the error. A ratio of sums, as all of ours: tokens weigh by what was
  written, and a weak activation can't make it large. *Stream share* X/W: the part that is in the stream at all, below 0 where it
  was undone and above 1 where other things lie on its direction; *feature share* (X − E)/W: the part that the SAE's features give
  back.
- *baseline*: √(mean over directions r of (Σe·r)²)/W, what the error share would be by chance on a direction that has nothing to
  do with the feature, `random` over the sphere and `decoder` among the upstream decoder's rows; root mean squares of 8 directions
  each.
- *spread*: √(mean of (e·d̂)² − (E/n)²)·n/W, how far single tokens are from the mean.

A feature *is hidden* when its error share is at least `share`, and at least `factor` times the larger baseline, over at least
`windows` windows. Balcells et al. 2024, arXiv 2410.08869, give medians of the ratio by layer (GPT-2 small: 0.11–0.39 in layers
0–7, 0.48–0.67 in 8–10); the three conditions are ours.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.errors import BadValue
from engine.measures.intervals import ALPHA, MIN_DOCUMENTS, MIN_EFFECTIVE, N_STAR, sequence_width
from engine.measures.similarity import Floats

SHARE = 0.5
"""Of what a feature wrote, at least half lies in the error."""

FACTOR = 2.0
"""A feature's own baseline is from 8 directions: with a normal error share of that root mean square, 4 % of features are above 2
times theirs by chance (one side of Student's t with 8 degrees of freedom), and few of them have half of what they wrote in the
error."""

WINDOWS = 10
"""With fewer, a share rests on one or two documents."""


class HiddenMeasures(NamedTuple):
    """Of D features, arrays `[D]`; float64, NaN where the feature was never active at a sampled token.

    Attributes:
        tokens, windows: int64, what the rest is from.
        written: mean w, in the units of the residual stream.
        error_share, stream_share: E/W and X/W.
        random, decoder: the two baselines of the error share.
        spread: of single tokens, relative to mean w.
        lower, upper: interval of the error share, NaN below 100 windows or 50 effective ones.
        effective: W²/ΣW_c²: as many windows of equal weight would weigh as much; 0 without any.
    """

    tokens: NDArray[np.int64]
    windows: NDArray[np.int64]
    written: Floats
    error_share: Floats
    stream_share: Floats
    random: Floats
    decoder: Floats
    spread: Floats
    lower: Floats
    upper: Floats
    effective: Floats


def hidden(counts: NDArray[np.int64], sums: Floats, chance: Floats, alpha: float = ALPHA, n_star: float = N_STAR) -> HiddenMeasures:
    """Shares, baselines and intervals.

    The interval is the confidence sequence of `engine.measures.intervals` for the ratio R = E/W, clustered by window: with z =
    ΣW_c²/W two pseudo-windows (E, W) = (z, z) and (0, z) are added, so W' = W + 2z, R' = (E + z)/W', V = (S'_EE − 2R' S'_EW + R'²
    S'_WW)/W'², R' ± √V · `sequence_width`, widened to hold R. It is not clipped: a share may be below 0 and above 1. Windows of
    one document are 2,000 tokens apart on average and taken as clusters of their own, as parts of 4,096 tokens are elsewhere.

    Args:
        counts: int64 `[D, 2]`, tokens and windows.
        sums: float64 `[D, 7]`: W, E, X, Σ(e·d̂)²; ΣE_c², ΣE_cW_c, ΣW_c² over windows.
        chance: float64 `[D, 2K]`, Σe·r for K random and K decoder directions.
        alpha, n_star: see `sequence_width`.
    """
    tokens, windows = counts.T
    written, error, stream, squared, errors, crossed, weights = sums.T
    share = _divide(error, written)
    baselines = np.sqrt(np.square(chance.reshape(len(chance), 2, -1)).mean(axis=2))
    variance = np.maximum(_divide(squared, tokens) - np.square(_divide(error, tokens)), 0.0)
    effective = np.nan_to_num(_divide(written * written, weights))
    z = _divide(weights, written)
    centre, weight = _divide(error + z, written + 2.0 * z), written + 2.0 * z
    spread = errors + z * z - 2.0 * centre * (crossed + z * z) + centre * centre * (weights + 2.0 * z * z)
    half = _divide(np.sqrt(np.maximum(spread, 0.0)), weight) * sequence_width(windows, alpha, n_star)
    sufficient = (windows >= MIN_DOCUMENTS) & (effective >= MIN_EFFECTIVE)
    return HiddenMeasures(
        tokens=tokens,
        windows=windows,
        written=_divide(written, tokens),
        error_share=share,
        stream_share=_divide(stream, written),
        random=_divide(baselines[:, 0], written),
        decoder=_divide(baselines[:, 1], written),
        spread=np.sqrt(variance) * _divide(tokens, written),
        lower=np.where(sufficient, np.minimum(centre - half, share), np.nan),
        upper=np.where(sufficient, np.maximum(centre + half, share), np.nan),
        effective=effective,
    )


def is_hidden(
    error_share: NDArray[np.floating],
    baseline: NDArray[np.floating],
    windows: NDArray[np.integer],
    share: float,
    factor: float,
    least: int,
) -> NDArray[np.bool_]:
    """bool `[D]`: features whose error share is at least `share` and at least `factor` times the baseline, over `least` windows."""
    return (windows >= least) & (error_share >= share) & (error_share >= factor * baseline)


def check_hidden(share: float, factor: float, windows: int) -> None:
    """Refuse what nothing can be called hidden by.

    Raises:
        BadValue: names the parameter, its value and its range.
    """
    if not (share > 0 and math.isfinite(share)):
        raise BadValue(f"hidden_share = {share:g}: it must be a number above 0 (0.5: half of what a feature wrote is in the error)")
    if not (factor >= 1 and math.isfinite(factor)):
        raise BadValue(f"hidden_factor = {factor:g}: it must be at least 1 (2: twice what lies on a direction by chance)")
    if windows < 1:
        raise BadValue(f"hidden_windows = {windows}: it must be at least 1")


def _divide(numerator: NDArray, denominator: NDArray) -> Floats:
    """NaN where the denominator is not above 0."""
    out = np.full(np.broadcast_shapes(np.shape(numerator), np.shape(denominator)), np.nan)
    return np.divide(numerator, denominator, out=out, where=np.asarray(denominator) > 0)
