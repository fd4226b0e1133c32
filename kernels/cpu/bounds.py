"""Bounds of a ratio, or of a correlation, from counts alone: for pairs of which nothing but the table is kept.

    successes s, trials n, design effect ──▶ tempered counts ──▶ right side L of n·KL(s/n ‖ p) ≤ L ──▶ Newton from outside ──▶ p

The beta-binomial confidence sequence holds every p with ln B(a+s, b+f) − ln B(a, b) − s ln p − f ln(1−p) ≤ ln(1/α), a = b = ½:
Ville's inequality for likelihood ratios mixed over a Beta(a, b) prior (Robbins 1970, "Statistical methods related to the law of the
iterated logarithm"). s and f are divided by the design effect first, which is what makes it a heuristic: dependent tokens are
counted as so many fewer independent ones.

With p̂ = s/n the condition is n·KL(p̂ ‖ p) ≤ L, where L = ln(1/α) + ½ ln(πn/2) + what goes to 0, written without any difference of
large logarithms: counts may be as large as float64 holds. The scalar functions are compiled and can be called from other compiled
code. Tables are ranked on the host, so there is no GPU form.
"""

from __future__ import annotations

import math

import numpy as np

from kernels.cpu.compiled import compiled
from kernels.host_checks import check_correlations, check_trials

_compile = compiled()

ALPHA = 0.05  # the level of the bounds that lists are ranked by

PEARSON_LEAST_EFFECT = 6.0
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_SERIES_FROM = 10.0  # three terms of Stirling's series leave 3e-11 there, and lgamma is exact but takes longer


@_compile
def _half(x):
    """ln Γ(x + ½) − x ln x + x − ½ ln 2π, which goes to 0 with x."""
    if x >= _SERIES_FROM:
        y = 1.0 / (x * x)
        return (-1.0 / 24.0 + y * (7.0 / 2880.0 - y * 31.0 / 40320.0)) / x
    return math.lgamma(x + 0.5) + x - _HALF_LOG_2PI - (x * math.log(x) if x > 0.0 else 0.0)


@_compile
def _whole(x):
    """ln Γ(x + 1) − x ln x + x, which is ½ ln 2πx and what goes to 0; x > 0."""
    if x >= _SERIES_FROM:
        y = 1.0 / (x * x)
        return _HALF_LOG_2PI + 0.5 * math.log(x) + (1.0 / 12.0 - y * (1.0 / 360.0 - y / 1260.0)) / x
    return math.lgamma(x + 1.0) + x - x * math.log(x)


@_compile
def _allowance(s, f, alpha):
    """L: ln(1/α) − [ln B(½+s, ½+f) − ln B(½, ½) − s ln(s/n) − f ln(f/n)], above 0 for every s, f ≥ 0 with s + f > 0."""
    return -math.log(alpha) - (math.log(2.0) - _whole(s + f) + _half(s) + _half(f))


@_compile
def _below(s, f, allowance):
    """The p ≤ s/n with n·KL(s/n ‖ p) = allowance.

    With p = p̂ e^−w the divergence is p̂ w − q̂ ln(1 + p̂(1 − e^−w)/q̂): increasing and convex in w, with derivative (p̂ − p)/(1 − p)
    and second derivative p q̂/(1 − p)², so Halley's step costs no more logarithms than Newton's. The start is the nearer of two w
    that are both beyond the root, from the Poisson limits in p and in q = 1 − p.
    """
    if s <= 0.0:
        return 0.0
    n = s + f
    if f <= 0.0:
        return math.exp(-allowance / n)
    p, q, target = s / n, f / n, allowance / n
    y = allowance / s  # e^−w − 1 + w ≤ y, and e^−w − 1 + w ≥ w²/(2 + w)
    w = 0.5 * (y + math.sqrt(y * y + 8.0 * y))
    y = 2.0 / 3.0 * allowance / f  # with q̂(1 + t): t − ln(1 + t) ≥ t²/(2 + 4t/3)
    less = q / p * (y + math.sqrt(y * y + 3.0 * y))
    if less < 1.0:
        w = min(w, -math.log1p(-less))
    for _ in range(50):  # 2 to 4 are enough; the limit is for counts at which float64 can't tell p from p̂
        fall = -p * math.expm1(-w)  # p̂ − p
        rest = q + fall  # 1 − p
        over = p * w - q * math.log1p(fall / q) - target
        step = over * rest / fall
        step /= 1.0 - 0.5 * step * (p - fall) * q / (rest * fall)
        w -= step
        if w <= 0.0:
            return p
        if abs(step) <= 1e-4 * w:  # the error is of the order of the cube of the last step
            break
    return p * math.exp(-w)


@_compile
def lower_bound(successes, trials, deff, alpha):
    """Lower end of the tempered beta-binomial sequence for successes/trials, compiled, for numbers.

    0 without successes, NaN without trials. A design effect below 1 counts as 1: fewer tokens are never more information.
    """
    if not trials > 0.0:
        return math.nan
    deff = max(deff, 1.0)
    s, f = successes / deff, max(trials - successes, 0.0) / deff
    return _below(s, f, _allowance(s, f, alpha))


@_compile
def lower_bound_exceeds(successes, trials, deff, alpha, least):
    """Whether `lower_bound` is above `least`, as far as rounding lets one tell: a third of the time that computing it takes."""
    if not successes > least * trials or not trials > 0.0:
        return False
    if least <= 0.0:
        return True
    deff = max(deff, 1.0)
    s, f = successes / deff, max(trials - successes, 0.0) / deff
    p = successes / trials
    divergence = s * math.log(p / least) + (f * math.log((1.0 - p) / (1.0 - least)) if f > 0.0 else 0.0)
    return divergence * (1.0 + 1e-9) > _allowance(s, f, alpha)


@_compile
def log_half(x):
    """ln Γ(x + ½) + x − ½ ln 2π, for `evidence`."""
    return _half(x) + (x * math.log(x) if x > 0.0 else 0.0)


@_compile
def evidence(half_s, f, n, alpha):
    """What `lower_bound` knows of tempered counts s and f with n = s + f > 0: it is above a p < s/n where this is more than
    s ln p + f ln(1 − p). A tenth of the time that the bound itself takes.

    Args:
        half_s: `log_half` of s, the same for all cells with one joint count.
        f, n, alpha: numbers.
    """
    return half_s + log_half(f) - (_whole(n) + n * math.log(n)) + math.log(2.0 * alpha)


@_compile
def upper_bound(successes, trials, deff, alpha):
    """Upper end of the same sequence; 1 without failures, NaN without trials."""
    if not trials > 0.0:
        return math.nan
    deff = max(deff, 1.0)
    s, f = successes / deff, max(trials - successes, 0.0) / deff
    return 1.0 - _below(f, s, _allowance(s, f, alpha))


def bounds(
    successes: np.ndarray, trials: np.ndarray, deff: np.ndarray | float, alpha: float = ALPHA
) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the tempered beta-binomial sequence, of many ratios at once.

    Args:
        successes, trials: of one shape, any real or integer type; 0 ≤ successes ≤ trials, finite.
        deff: design effects, at least 1: one for all or one each.
        alpha: the level, in (0, 1).

    Returns:
        lower, upper: float64 of that shape, lower ≤ successes/trials ≤ upper; NaN where trials is 0.

    Raises:
        ValueError: arguments out of range or of shapes that don't fit, named.
    """
    s, n, effects = check_trials(successes, trials, deff, alpha)
    lower, upper = np.empty(len(s)), np.empty(len(s))
    _bounds(s, n, effects, alpha, lower, upper)
    return lower.reshape(np.shape(successes)), upper.reshape(np.shape(successes))


@_compile
def _bounds(successes, trials, deff, alpha, lower, upper):
    for at in range(len(successes)):
        n, effect = trials[at], deff[at]
        if n > 0.0:
            s, f = successes[at] / effect, (n - successes[at]) / effect
            allowance = _allowance(s, f, alpha)
            lower[at], upper[at] = _below(s, f, allowance), 1.0 - _below(f, s, allowance)
        else:
            lower[at] = upper[at] = math.nan


@_compile
def pearson_effective(up, down, deff):
    """As many independent tokens as `pearson_bounds` may count on: the smaller active count over the larger of deff and 6.

    Correlations of sparse activations vary as their fourth moments over the *active* tokens do, not as those of N normal values:
    with gamma activations of one document gain each, independent tokens (deff = 1.1) missed in up to 67 % of streams before the 6.
    """
    return min(up, down) / max(deff, PEARSON_LEAST_EFFECT)


@_compile
def pearson_half_width(n_effective, alpha):
    """tanh of half the width on Fisher's scale; NaN where n_effective is not above 0."""
    if not n_effective > 0.0:
        return math.nan
    scale = n_effective / 1000.0 * (-2.0 * math.log(alpha) + math.log1p(-2.0 * math.log(alpha)))
    return math.tanh(math.sqrt(2.0 * (scale + 1.0) / scale * (0.5 * math.log1p(scale) - math.log(alpha)) / n_effective))


@_compile
def pearson_shifted(r, n_effective, half_width):
    """The lower end from r and `pearson_half_width`."""
    centre = r * n_effective / (n_effective + 1.0) if r > 0.0 else r
    shifted = (centre - half_width) / (1.0 - centre * half_width)  # tanh(artanh(centre) − half)
    return r if shifted > r else shifted  # rounding


@_compile
def pearson_lower_bound(r, n_effective, alpha):
    """Lower end of `pearson_bounds`, compiled, for numbers; NaN where n_effective is not above 0 or r is NaN."""
    return pearson_shifted(r, n_effective, pearson_half_width(n_effective, alpha))


@_compile
def pearson_upper_bound(r, n_effective, alpha):
    """Upper end of `pearson_bounds`, compiled, for numbers."""
    return -pearson_lower_bound(-r, n_effective, alpha)


def pearson_bounds(r: np.ndarray, n_effective: np.ndarray, alpha: float = ALPHA) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of Pearson correlations of which only the estimate and the counts are known. A heuristic that proves nothing.

    Fisher's z = artanh r with a standard error of 1/√n_effective, as wide as the asymptotic confidence sequence of arXiv 2103.06476
    with n* = 1,000; the end next to 0 starts from r n/(n + 1), one more token at which only one of the two was active, so that two
    features that agreed a few times are not certain to agree.

    In the simulation of `benchmarks/coverage.py`, with n_effective = `pearson_effective` and the design effect of the features'
    rates, at most 3 % of streams were ever missed at nominal 5 % in any setting (ICC from 0.0003 to 0.3), at 0.5 to 12 times the
    width of the intervals from moments: widest where the correlation is near 0 or a document repeats itself.

    Args:
        r: float64, correlations in [−1, 1].
        n_effective: float64 of the same shape, at least 0, finite: see `pearson_effective`.
        alpha: the level, in (0, 1).

    Returns:
        lower, upper: float64 of that shape, lower ≤ r ≤ upper; NaN where n_effective is 0 or r is NaN.

    Raises:
        ValueError: arguments out of range or of shapes that don't fit, named.
    """
    flat_r, effective = check_correlations(r, n_effective, alpha)
    lower, upper = np.empty(len(flat_r)), np.empty(len(flat_r))
    _pearson_bounds(flat_r, effective, alpha, lower, upper)
    return lower.reshape(np.shape(r)), upper.reshape(np.shape(r))


@_compile
def _pearson_bounds(r, n_effective, alpha, lower, upper):
    for at in range(len(r)):
        lower[at] = pearson_lower_bound(r[at], n_effective[at], alpha)
        upper[at] = pearson_upper_bound(r[at], n_effective[at], alpha)
