"""Intervals that stay valid although they are read again and again while data arrives.

Tokens of one document are dependent, so the unit is the document, or a cluster of 4,096 tokens of a long one:

1. s_d, the nine sums of a pair over cluster d. Kept are S = Σ s_d, M = Σ s_d s_dᵀ and how many clusters were informative:
   `engine.measures.moments`.
2. A measure is a smooth g(S) of degree 0 (twice the data, same value), so Σ_d ∇g(S)·s_d = 0 and the linearised variance of the
   estimate is V = ∇g(S)ᵀ M ∇g(S), without centring (the delta method, clustered).
3. The interval is the Gaussian-mixture asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas (arXiv
   2103.06476): estimate ± √V · `sequence_width(n)`, valid at all times at once.
4. Near 0 and 1 the plain sequence is not enough: V is small exactly when the estimate is too extreme. One pseudo-document on each
   side, of the weight of a size-biased document, repairs it (as Agresti and Coull's pseudo-observations do for Wald's interval);
   `benchmarks/coverage.py` shows both.

numpy only; float64 throughout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.errors import BadValue
from engine.measures import similarity
from engine.measures.moments import INFORMATIVE, PACKED, SUMS, Moments, check_moments
from engine.measures.similarity import Floats

MEASURES = ("jaccard", "sufficiency", "necessity", "pearson")
"""The measures that have intervals."""

ALPHA = 0.05
N_STAR = 1000.0
"""Documents at which the sequence is tightest: 1.97 times a fixed-time interval at 100, 1.55 at 1,000, 1.77 at 50,000."""

MIN_DOCUMENTS = 100
MIN_EFFECTIVE = 50
"""Below either there is no interval: the sequence holds asymptotically, and a few heavy documents are few."""

# A = joint; U by measure, as coefficients of SUMS, and the column of `Moments.documents` that counts its informative clusters.
_JOINT = SUMS.index("joint")
_DENOMINATORS = {
    "jaccard": ({"up": 1, "down": 1, "joint": -1}, "either"),
    "sufficiency": ({"up": 1}, "up"),
    "necessity": ({"down": 1}, "down"),
}
_PEARSON = [SUMS.index(name) for name in ("tokens", "a", "b", "aa", "bb", "ab")]
_AA, _BB, _AB = 3, 4, 5  # within _PEARSON


class Intervals(NamedTuple):
    """Intervals of one measure, of one pair or of P: arrays of the leading shape of the moments.

    Attributes:
        estimate: float64, the measure over the clusters of the moments; NaN where not sufficient.
        lower, upper: float64, in the measure's range, holding `estimate`; NaN where not sufficient.
        documents: int64, n: informative clusters.
        effective: float64, k = U²/ΣU_d²: as many clusters of equal weight would weigh as much; 0 without any.
        sufficient: bool, n ≥ 100 and k ≥ 50 and the measure is defined.
    """

    estimate: Floats
    lower: Floats
    upper: Floats
    documents: NDArray[np.int64]
    effective: Floats
    sufficient: NDArray[np.bool_]

    def of(self, pairs: NDArray[Any] | slice) -> Intervals:
        """Intervals of some of the pairs, by index or mask."""
        return Intervals(
            self.estimate[pairs],
            self.lower[pairs],
            self.upper[pairs],
            self.documents[pairs],
            self.effective[pairs],
            self.sufficient[pairs],
        )


def intervals(
    moments: Moments, measures: Sequence[str] = MEASURES, alpha: float = ALPHA, n_star: float = N_STAR
) -> dict[str, Intervals]:
    """Intervals of P pairs by each of the measures, valid at all times at level 1 − alpha each.

    For a ratio R = A/U (A = n_ij; U = n_i, n_j, or n_i + n_j − n_ij) with z = ΣU_d²/U, the weight of the size-biased cluster:
    A' = A + z, U' = U + 2z, S'_AA = S_AA + z², S'_AU = S_AU + z², S'_UU = S_UU + 2z², R' = A'/U',
    V = (S'_AA − 2R' S'_AU + R'² S'_UU)/U'². For Pearson the two pseudo-documents have (Σa², Σb², Σab) = (z_a, z_b, √(z_a z_b)) and
    (z_a, z_b, 0), with z_a = ΣΣa²_d²/Σa². The interval is R' ± √V · `sequence_width(n)`, clipped to the measure's range and widened
    to hold R.

    Args:
        moments: of P pairs, or of one.
        measures: names, of `MEASURES`.
        alpha, n_star: see `sequence_width`; fixed for a run, or the sequence is none.

    Raises:
        BadValue: a measure that has no intervals, alpha or n_star out of range.
        ValueError: moments whose shapes don't fit each other.
    """
    check_moments(moments)
    return {measure: _intervals(moments, _known(measure), alpha, n_star) for measure in measures}


def sequence_width(n: ArrayLike, alpha: float = ALPHA, n_star: float = N_STAR) -> Floats:
    """Half the width of the confidence sequence after n observations, in standard errors of their mean.

        √( 2 (nρ² + 1)/(nρ²) · ln( √(nρ² + 1)/α ) ),  ρ² = (−2 ln α + ln(1 − 2 ln α))/n*

    (Waudby-Smith et al., arXiv 2103.06476, with ρ chosen for n*; a fixed-time interval has 1.96 here).

    Args:
        n: number of observations, any shape; NaN is returned where it is not above 0.
        alpha: the share of sequences that may ever miss, in (0, 1).
        n_star: the n at which it is tightest, above 0.

    Raises:
        BadValue: alpha or n_star out of range.
    """
    if not 0.0 < alpha < 1.0:
        raise BadValue(f"alpha is {alpha}, it must be between 0 and 1, both not included")
    if not 0.0 < n_star < np.inf:
        raise BadValue(f"n_star is {n_star}, it must be a positive number of documents")
    rho_squared = (-2.0 * np.log(alpha) + np.log1p(-2.0 * np.log(alpha))) / n_star
    scale = np.asarray(n, dtype=np.float64) * rho_squared
    scale = np.where(scale > 0.0, scale, np.nan)
    return np.sqrt(2.0 * (scale + 1.0) / scale * (0.5 * np.log1p(scale) - np.log(alpha)))


def standard_error(moments: Moments, measure: str) -> Floats:
    """√V of the plain estimate: clustered and linearised, without pseudo-documents. Only for comparison: 0 at R = 0 and R = 1.

    Returns:
        float64 of the leading shape; NaN where the measure is undefined.

    Raises:
        BadValue: a measure that has no intervals.
        ValueError: moments whose shapes don't fit each other.
    """
    check_moments(moments)
    if _known(measure) == "pearson":
        sums, squares = _pearson_moments(moments)
        return np.where(np.isnan(_pearson_value(sums)), np.nan, _pearson_error(sums, squares))
    joint, of, joint_squared, cross, of_squared, _ = _ratio_moments(moments, measure)
    return _ratio_error(joint, of, joint_squared, cross, of_squared)


def design_effect(moments: Moments, measure: str) -> Floats:
    """How many times the variance of a ratio exceeds that of independent tokens:
    (S_AA − 2R S_AU + R² S_UU)/(U R (1 − R)), at least 1.

    Args:
        moments: of P pairs, or of one.
        measure: "jaccard", "sufficiency" or "necessity".

    Returns:
        float64 of the leading shape; NaN where the ratio is undefined, 0 or 1.

    Raises:
        BadValue: another measure.
        ValueError: moments whose shapes don't fit each other.
    """
    check_moments(moments)
    if measure not in _DENOMINATORS:
        raise BadValue(f"measure {measure!r} has no design effect, only {', '.join(_DENOMINATORS)} have")
    joint, of, joint_squared, cross, of_squared, _ = _ratio_moments(moments, measure)
    error = _ratio_error(joint, of, joint_squared, cross, of_squared)
    ratio = _divide(joint, of)
    effect = _divide(error * error * of, ratio * (1.0 - ratio))
    return np.maximum(effect, 1.0)  # NaN stays NaN


class Needed(NamedTuple):
    """How much more data an interval needs: further informative clusters and further tokens, float64, whole numbers or NaN."""

    documents: Floats
    tokens: Floats


def tokens_needed(moments: Moments, measure: str, wanted: float, alpha: float = ALPHA, n_star: float = N_STAR) -> Needed:
    """How much more data until there is an interval and it is at most `wanted` wide.

    Assumes that what comes is like what came: the smallest t ≥ 1 is sought for which the interval of t S, t M and t n is narrow
    enough, and (t − 1) n documents and (t − 1) T tokens are the answer. So estimate, variance per document and share of informative
    documents are taken to stay as they are, and are only as good as the n documents that they come from; what the pseudo-documents
    add, the sequence's width at t n and the ends of the measure's range are all as they will be.

    Args:
        moments: of P pairs, or of one.
        measure: of `MEASURES`.
        wanted: full width, above 0.
        alpha, n_star: as in `intervals`.

    Returns:
        0 where the interval is already as narrow; NaN where nothing is known of the pair yet, where the measure is undefined, and
        where a billion times the data would not do.

    Raises:
        BadValue: a measure that has no intervals, `wanted`, alpha or n_star out of range.
        ValueError: moments whose shapes don't fit each other.
    """
    if not 0.0 < wanted < np.inf:
        raise BadValue(f"the wanted width is {wanted}, it must be above 0")
    check_moments(moments)
    _known(measure)

    def narrow(times: Floats) -> NDArray[np.bool_]:
        sums, squares, documents = (column * times[..., None] for column in moments)
        scaled = Moments(sums, squares, documents.astype(np.int64))
        found = _intervals(scaled, measure, alpha, n_star)
        return found.upper - found.lower <= wanted  # NaN is not narrow

    none = np.zeros(moments.sums.shape[:-1])
    low, high = none, none + np.log(1e9)
    possible, enough = narrow(np.exp(high)), narrow(np.exp(low))
    for _ in range(30):  # 20.7 halved 30 times: t to 2e-8
        middle = 0.5 * (low + high)
        there = narrow(np.exp(middle))
        low, high = np.where(there, low, middle), np.where(there, middle, high)
    more = np.where(possible, np.where(enough, 0.0, np.expm1(high)), np.nan)
    documents = _intervals(moments, measure, alpha, n_star).documents
    return Needed(np.ceil(more * documents), np.ceil(more * moments.sums[..., SUMS.index("tokens")]))


def why_insufficient(
    measure: str, found: Intervals, up: str = "the upstream feature", down: str = "the downstream feature"
) -> str | None:
    """Why a measure of one pair has no interval, as a sentence for the reader; None when it has one.

    Args:
        measure: its name.
        found: of one pair (0-d arrays or numbers).
        up, down: what to call the two features, such as "feature 3:17".

    Raises:
        BadValue: a measure that has no intervals.
    """
    who = {
        "jaccard": f"{up} or {down}",
        "sufficiency": up,
        "necessity": down,
        "pearson": f"{up} or {down}",
    }[_known(measure)]
    if found.sufficient:
        return None
    n, k = int(found.documents), float(found.effective)
    if n < MIN_DOCUMENTS:
        return (
            f"{who} fired in {n:,} documents and an interval needs {MIN_DOCUMENTS} "
            f"(they weigh as {k:.1f} equal ones, {MIN_EFFECTIVE} are needed)"
        )
    if k < MIN_EFFECTIVE:
        few = {"pearson": f"the squared activations of {up} or of {down}"}.get(measure, f"the firings of {who}")
        return (
            f"{few} lie in few of {n:,} documents: they weigh as {k:.1f} equal ones, and an interval needs {MIN_EFFECTIVE} "
            f"(and {MIN_DOCUMENTS} documents)"
        )
    return f"{up} or {down} had the same activation at every token, in {n:,} documents that weigh as {k:.1f} equal ones"


def _intervals(moments: Moments, measure: str, alpha: float, n_star: float) -> Intervals:
    return _pearson(moments, alpha, n_star) if measure == "pearson" else _ratio(moments, measure, alpha, n_star)


def _ratio(moments: Moments, measure: str, alpha: float, n_star: float) -> Intervals:
    joint, of, joint_squared, cross, of_squared, n = _ratio_moments(moments, measure)
    estimate = _divide(joint, of)
    effective = np.nan_to_num(_divide(of * of, of_squared))
    sufficient = (n >= MIN_DOCUMENTS) & (effective >= MIN_EFFECTIVE)
    z = _divide(of_squared, of)
    z_squared = z * z
    joint, of = joint + z, of + 2.0 * z
    error = _ratio_error(joint, of, joint_squared + z_squared, cross + z_squared, of_squared + 2.0 * z_squared)
    half = error * sequence_width(n, alpha, n_star)
    return _interval(estimate, _divide(joint, of), half, n, effective, sufficient, 0.0)


def _pearson(moments: Moments, alpha: float, n_star: float) -> Intervals:
    sums, squares = _pearson_moments(moments)
    n = moments.documents[..., INFORMATIVE.index("activation")]
    estimate = _pearson_value(sums)
    z_a, z_b = (_divide(squares[..., i, i], sums[..., i]) for i in (_AA, _BB))
    effective = np.nan_to_num(np.fmin(_divide(sums[..., _AA], z_a), _divide(sums[..., _BB], z_b)))
    sufficient = (n >= MIN_DOCUMENTS) & (effective >= MIN_EFFECTIVE) & ~np.isnan(estimate)
    for product in (np.sqrt(z_a * z_b), np.zeros_like(z_a)):
        document = np.zeros_like(sums)
        document[..., _AA], document[..., _BB], document[..., _AB] = z_a, z_b, product
        sums = sums + document
        squares = squares + document[..., :, None] * document[..., None, :]
    half = _pearson_error(sums, squares) * sequence_width(n, alpha, n_star)
    return _interval(estimate, _pearson_value(sums), half, n, effective, sufficient, -1.0)


def _interval(
    estimate: Floats,
    centre: Floats,
    half: Floats,
    n: NDArray[np.int64],
    effective: Floats,
    sufficient: NDArray[np.bool_],
    low: float,
) -> Intervals:
    lower = np.minimum(np.clip(centre - half, low, 1.0), estimate)
    upper = np.maximum(np.clip(centre + half, low, 1.0), estimate)
    estimate, lower, upper = (np.where(sufficient, column, np.nan) for column in (estimate, lower, upper))
    return Intervals(estimate, lower, upper, n, effective, sufficient)


def _ratio_moments(moments: Moments, measure: str) -> tuple[Floats, Floats, Floats, Floats, Floats, NDArray[np.int64]]:
    """A, U, S_AA, S_AU, S_UU and the number of informative clusters."""
    coefficients, informative = _DENOMINATORS[measure]
    terms = [(SUMS.index(name), factor) for name, factor in coefficients.items()]
    sums, squares = moments.sums, moments.squares
    return (
        sums[..., _JOINT],
        _sum(factor * sums[..., x] for x, factor in terms),
        squares[..., PACKED[_JOINT, _JOINT]],
        _sum(factor * squares[..., PACKED[_JOINT, x]] for x, factor in terms),
        _sum(first * second * squares[..., PACKED[x, y]] for x, first in terms for y, second in terms),
        moments.documents[..., INFORMATIVE.index(informative)],
    )


def _ratio_error(joint: Floats, of: Floats, joint_squared: Floats, cross: Floats, of_squared: Floats) -> Floats:
    """√V; for counts all terms are exact, and the clamp only meets rounding in R."""
    ratio = _divide(joint, of)
    return _divide(np.sqrt(np.maximum(joint_squared - 2.0 * ratio * cross + ratio * ratio * of_squared, 0.0)), of)


def _pearson_moments(moments: Moments) -> tuple[Floats, Floats]:
    """S `[..., 6]` and M `[..., 6, 6]` of T, Σa, Σb, Σa², Σb², Σab."""
    return moments.sums[..., _PEARSON], moments.squares[..., PACKED[np.ix_(_PEARSON, _PEARSON)]]


def _pearson_value(sums: Floats) -> Floats:
    return similarity.pearson(*np.moveaxis(sums, -1, 0))


def _pearson_error(sums: Floats, squares: Floats) -> Floats:
    """√(∇rᵀ M ∇r), with x = T Σa² − (Σa)², y likewise, D = √(xy): ∂r/∂Σab = T/D, ∂r/∂Σa² = −rT/2x, ∂r/∂Σa = rΣa/x − Σb/D,
    ∂r/∂T = Σab/D − r(Σa²/2x + Σb²/2y), and the same with a and b exchanged."""
    tokens, a, b, aa, bb, ab = np.moveaxis(sums, -1, 0)
    x, y = tokens * aa - a * a, tokens * bb - b * b
    x, y = (np.where(spread > 0.0, spread, np.nan) for spread in (x, y))
    both = np.sqrt(x) * np.sqrt(y)
    r = (tokens * ab - a * b) / both
    gradient = np.stack(
        [
            ab / both - r * (aa / (2.0 * x) + bb / (2.0 * y)),
            r * a / x - b / both,
            r * b / y - a / both,
            -r * tokens / (2.0 * x),
            -r * tokens / (2.0 * y),
            tokens / both,
        ],
        axis=-1,
    )
    variance = np.einsum("...i,...ij,...j->...", gradient, squares, gradient, optimize=True)
    return np.sqrt(np.maximum(variance, 0.0))


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    """NaN where the denominator is not above 0."""
    out = np.full(np.broadcast_shapes(np.shape(numerator), np.shape(denominator)), np.nan)
    return np.divide(numerator, denominator, out=out, where=np.asarray(denominator) > 0)


def _sum(terms: Iterable[Floats]) -> Floats:
    first, *rest = terms
    for term in rest:
        first = first + term
    return first


def _known(measure: str) -> str:
    if measure not in MEASURES:
        raise BadValue(f"measure {measure!r} has no interval, only {', '.join(MEASURES)} have")
    return measure
