"""Which upstream features a downstream feature (child) may be a gate of: chosen from the pair counts, by significance first.

    pair table ──▶ `significant_pairs` ──▶ `rank_candidates`, four lists a child ──▶ `choose_parents`, m slots a child

1. A pair counts only if its joint count is far from that of independent features, in standard errors of dependent tokens:
   z = (n_ij − E)/√(deff · max(E, 1)), E = n_i n_j/N, |z| > 3.5. The 1 keeps a pair seen once, whose E is next to 0, from being
   significant. Raw estimates would fill the slots with rare features: the recall of AND-NOT was 55 % with them and 97 % so.
2. Slots are given by necessity, by the lower bound of sufficiency, to inhibitors and to the rest by |z|, leaving out
   near-duplicates of a parent that has a slot already: two names of one feature would share its part in every gate.
3. Necessity and sufficiency are taken above what independent features have, P(i|j) − P(i) and P(j|i) − P(j): a feature that fires
   on 40 % of all tokens has a necessity of 40 % for everything, and is significant at the first slight dependence.
4. Inhibitors are looked for where the leading candidate by necessity is active (`suppression`): what silences the child there is
   active at the silent tokens and not at the others. That takes three-way counts, of the segment that has just ended; then comes
   the most negative z. Most negative z alone finds frequent features of other topics, which never meet the child: of 15 planted
   AND_NOT gates with 50 deciding documents it had the inhibitor of 4 among the candidates.

What is chosen here is judged by later tokens alone. `paper_rule` is what the paper takes for a gate on the same counts. numpy only;
the engine makes the lists in one compiled pass over the table (`kernels.CandidateLists`), and a test holds both to be the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.errors import BadValue
from engine.measures.convergence import DesignEffects, design_effect_of
from engine.measures.gates import AND, FEWEST_CANDIDATES, MOST_CANDIDATES, OR
from engine.measures.similarity import Floats
from kernels import Ranked

SIGNIFICANT = 3.5
DUPLICATE = 0.9
"""Jaccard index of two parents from which on the second is a near-duplicate."""

LEADING = 2 * MOST_CANDIDATES
"""Length of each list. Twice the slots: near-duplicates are left out later."""

BY_NECESSITY, BY_SUFFICIENCY, INHIBITORS = 3, 2, 1
"""Slots of each list, in the order in which they are filled; the rest go by |z|."""

_Z = 1.959963984540054  # Wilson's bound: a two-sided level of 95 %


class SignificantPairs(NamedTuple):
    """P pairs whose joint count is far from independence, by child: up, child int64 `[P]`; joint int64 `[P]`; z float64 `[P]`; deff
    float64 `[P]`, that z was taken with."""

    up: NDArray[np.int64]
    child: NDArray[np.int64]
    joint: NDArray[np.int64]
    z: Floats
    deff: Floats


def significant_pairs(
    joint: ArrayLike, up: ArrayLike, down: ArrayLike, tokens: int, effects: DesignEffects | float, least: float = SIGNIFICANT
) -> SignificantPairs:
    """Pairs with |n_ij − E| > least·√(deff·max(E, 1)), E = n_i n_j/N.

    Args:
        joint: int `[Du, C]`, n_ij of C children: a block of the pair table's columns, or all.
        up: int `[Du]`, n_i; down: int `[C]`, n_j; tokens: N, of the same tokens.
        effects: design effects of joint counts by their size, looked up at max(E, 1); or one for all. Not known (NaN) is 1.
        least: standard errors.
    """
    n_ij = np.asarray(joint)
    n_i, n_j = np.asarray(up, np.float64)[:, None], np.asarray(down, np.float64)[None, :]
    expected = n_i * n_j / max(tokens, 1)
    spread = np.maximum(expected, 1.0)
    known = design_effect_of(effects, spread.astype(np.int64)) if isinstance(effects, DesignEffects) else np.float64(effects)
    deff = np.broadcast_to(np.where(known >= 1.0, known, 1.0), expected.shape)
    z = (n_ij - expected) / np.sqrt(deff * spread)
    child, at = np.nonzero((np.abs(z) > least).T)
    return SignificantPairs(at, child, n_ij[at, child].astype(np.int64), z[at, child], deff[at, child])


def suppression(
    with_silent: ArrayLike, with_active: ArrayLike, silent: ArrayLike, active: ArrayLike, deff: ArrayLike = 1.0
) -> Floats:
    """How much more often an upstream feature is active where a parent is without the child than where it is with it.

    z = (x₀ − E)/√(deff·max(E·M₁/M, 1)), E = (x₀ + x₁)·M₀/M, M = M₀ + M₁: the form of `significant_pairs`, among the tokens of the
    parent, with the variance of drawing x₀ + x₁ of them.

    Args:
        with_silent, with_active: x₀ and x₁, tokens of the parent at which the feature is active, without and with the child.
        silent, active: M₀ and M₁, tokens of the parent without and with the child.
        deff: tokens that weigh as one.
    """
    x0, x1, m0, m1 = (np.asarray(x, np.float64) for x in (with_silent, with_active, silent, active))
    m = np.maximum(m0 + m1, 1.0)
    expected = (x0 + x1) * m0 / m
    return (x0 - expected) / np.sqrt(np.asarray(deff, np.float64) * np.maximum(expected * m1 / m, 1.0))


def rank_candidates(
    pairs: SignificantPairs,
    up: ArrayLike,
    down: ArrayLike,
    tokens: int,
    keep: int = LEADING,
) -> Ranked:
    """Four lists of each child, from significant pairs.

    By n_ij/n_j − n_i/N of those with z > 0; by the lower end of Wilson's interval of n_ij/n_i, with both counts over the design
    effect, less n_j/N, of those with z > 0; by −z of those with z < 0; by |z|. Ties go to the smaller index.

    Args:
        pairs: of C children.
        up: int `[Du]`, n_i; down: int `[C]`, n_j; tokens: N.
        keep: Q.
    """
    n_i, n_j = np.asarray(up, np.float64)[pairs.up], np.asarray(down, np.float64)[pairs.child]
    n = max(tokens, 1)
    above = pairs.z > 0
    necessity = np.where(above, pairs.joint / np.maximum(n_j, 1.0) - n_i / n, -np.inf)
    sufficiency = np.where(above, wilson_lower(pairs.joint / pairs.deff, n_i / pairs.deff) - n_j / n, -np.inf)
    inhibition = np.where(above, -np.inf, -pairs.z)
    scores = (necessity, sufficiency, inhibition, np.abs(pairs.z))
    return Ranked(*(_leading(pairs, score, len(np.asarray(down)), keep) for score in scores))


def choose_parents(
    ranked: Ranked, m: int, duplicate: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]
) -> NDArray[np.int32]:
    """The candidate parents of C children.

    Slots are filled in the order 3 by necessity, 2 by sufficiency, 1 inhibitor, the rest by |z|; where a list is used up the next
    slots go to the following lists, so that no slot stays empty while a significant feature is left.

    Args:
        ranked: lists of the children.
        m: slots, 2 to 8.
        duplicate: says of n pairs of upstream features, int64 `[n]` twice, whether they are near-duplicates, bool `[n]`.

    Returns:
        int32 `[C, m]`, upstream features, those chosen first, then −1.

    Raises:
        BadValue: m out of range.
    """
    if not FEWEST_CANDIDATES <= m <= MOST_CANDIDATES:
        raise BadValue(f"a gate table has {FEWEST_CANDIDATES} to {MOST_CANDIDATES} candidate parents, not {m}")
    children = len(ranked.necessity)
    chosen, filled = np.full((children, m), -1, np.int64), np.zeros(children, np.int64)
    quotas = (BY_NECESSITY, BY_SUFFICIENCY, INHIBITORS, m)
    for of, quota in zip(ranked, quotas, strict=True):
        given = np.zeros(children, np.int64)
        for candidate in of.T:
            rows = np.flatnonzero((candidate >= 0) & (given < quota) & (filled < m))
            rows = rows[~(chosen[rows] == candidate[rows, None]).any(axis=1)]
            row, slot = np.nonzero(chosen[rows] >= 0)
            clash = duplicate(candidate[rows][row], chosen[rows[row], slot])
            rows = np.delete(rows, row[clash])
            chosen[rows, filled[rows]] = candidate[rows]
            filled[rows] += 1
            given[rows] += 1
    return chosen.astype(np.int32)


def wilson_lower(successes: ArrayLike, trials: ArrayLike) -> Floats:
    """Lower end of Wilson's 95 % score interval (Wilson 1927); 0 without trials. Only an order is made from it, no statement."""
    s, n = np.asarray(successes, np.float64), np.asarray(trials, np.float64)
    n = np.maximum(n, 1e-100)
    p, z2 = s / n, _Z * _Z
    return np.maximum((p + z2 / (2 * n) - _Z * np.sqrt(p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n), 0.0)


class PaperGates(NamedTuple):
    """G findings of `paper_rule`, by child: child int64 `[G]`, kind uint8 `[G]` (AND or OR), parents int64 `[G, 2]`."""

    child: NDArray[np.int64]
    kind: NDArray[np.uint8]
    parents: NDArray[np.int64]


def paper_rule(joint: ArrayLike, up: ArrayLike, down: ArrayLike, threshold: float = 0.999) -> PaperGates:
    """The rule of Balcells et al. 2024 (arXiv 2410.08869), from pair counts alone: a child is an AND of two upstream features if
    exactly two have necessity n_ij/n_j of at least the threshold, and an OR if exactly two have sufficiency n_ij/n_i of that.

    For comparison: it looks at no joint behaviour and no support, and finds an AND for 35 % of the features that fired three times
    when all features are independent.

    Args:
        joint: int `[Du, C]`, n_ij; up: int `[Du]`, n_i; down: int `[C]`, n_j.
        threshold: in (0, 1].

    Raises:
        BadValue: threshold out of range.
    """
    if not 0.0 < threshold <= 1.0:
        raise BadValue(f"the threshold of the paper's rule is {threshold}, it must be above 0 and at most 1")
    table = np.asarray(joint)
    found = []
    for kind, of in ((AND, np.asarray(down)[None, :]), (OR, np.asarray(up)[:, None])):
        reaches = (table >= threshold * of) & (table > 0)
        children = np.flatnonzero(reaches.sum(axis=0) == 2)
        parents = np.nonzero(reaches[:, children].T)[1].reshape(-1, 2)
        found.append((children, np.full(len(children), kind, np.uint8), parents))
    child, kinds, parents = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((kinds, child))
    return PaperGates(child[order], kinds[order], parents[order])


def _leading(pairs: SignificantPairs, score: Floats, children: int, keep: int) -> NDArray[np.int64]:
    """int64 `[C, keep]`; −inf is never taken, ties go to the smaller index: the pairs of a child are in that order."""
    order = np.lexsort((-score, pairs.child))
    order = order[score[order] > -np.inf]
    child = pairs.child[order]
    place = np.arange(len(order)) - np.searchsorted(child, child)
    found = np.full((children, keep), -1, np.int64)
    first = place < keep
    found[child[first], place[first]] = pairs.up[order[first]]
    return found
