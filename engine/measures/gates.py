"""Boolean gates of two or three upstream features, fitted to the joint truth table of a downstream feature.

1. A *child* (downstream feature) has up to m candidate parents (`engine.measures.gate_candidates`). Its table has 2^(m+1) cells:
   cell p + 2^m·y counts the tokens at which exactly the candidates in pattern p are active (bit s of p: the candidate in slot s)
   and the child is (y = 1) or is not.
2. A *hypothesis* is a kind of gate and the slots that it takes. Which patterns it holds at does not depend on the data, so what it
   gets right and wrong in every table is one matrix product (`fits`).
3. Hypotheses that describe the child in fewer bits than the best single parent are *nominated*
   (`engine.measures.gate_nominations`). That is a way to look where something may be found and no evidence: shared topics make
   gates of this kind in pure noise. What judges a nominated gate comes after its nomination (`engine.measures.gate_tests`).

All-inactive tokens dominate, so F1 leads, which does not change with them (Tan, Kumar, Srivastava 2002). numpy only; float64.
"""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.errors import BadValue
from engine.measures.similarity import Floats
from kernels import FEWEST_CANDIDATES, MOST_CANDIDATES

KINDS = ("and", "or", "and_not", "k_of_n")
"""Published names, by code: AND 0, OR 1, AND_NOT 2 (the first parent and not the second), TWO_OF_THREE 3 (k = 2, n = 3)."""

AND, OR, AND_NOT, TWO_OF_THREE = range(4)
PARENTS = (2, 2, 2, 3)
"""Parents of each kind."""


_FUNCTIONS = 10  # boolean functions of two variables that depend on both: 16 less 2 constants and 4 of one variable


def holds(kind: int, first: ArrayLike, second: ArrayLike, third: ArrayLike = False) -> NDArray[np.bool_]:
    """Whether a gate holds, from its parents' activity: the definition of the four kinds, elementwise.

    Raises:
        BadValue: an unknown kind.
    """
    a, b, c = (np.asarray(parent, bool) for parent in (first, second, third))
    if kind == AND:
        return a & b
    if kind == OR:
        return a | b
    if kind == AND_NOT:
        return a & ~b
    if kind == TWO_OF_THREE:
        return (a & b) | (a & c) | (b & c)
    raise BadValue(f"gate kind is {kind}, it must be one of {', '.join(f'{code} ({name})' for code, name in enumerate(KINDS))}")


class Hypotheses(NamedTuple):
    """Every gate of m slots, in a fixed order: AND, OR, AND_NOT, TWO_OF_THREE, each by slots.

    Attributes:
        kind: uint8 `[H]`.
        slots: int8 `[H, 3]`, −1 in the third place of a gate of two parents; AND_NOT: slots[0] and not slots[1].
        indicator: bool `[H, 2^m]`, the patterns at which it holds.
    """

    kind: NDArray[np.uint8]
    slots: NDArray[np.int8]
    indicator: NDArray[np.bool_]


@lru_cache(maxsize=MOST_CANDIDATES)
def hypotheses(m: int) -> Hypotheses:
    """All gates of m slots: m(m−1)/2 each AND and OR, m(m−1) AND_NOT, m(m−1)(m−2)/6 TWO_OF_THREE; 80 at m = 6, 168 at m = 8.

    Raises:
        BadValue: m out of range.
    """
    if not FEWEST_CANDIDATES <= m <= MOST_CANDIDATES:
        raise BadValue(f"a gate table has {FEWEST_CANDIDATES} to {MOST_CANDIDATES} candidate parents, not {m}")
    pairs, triples = list(itertools.combinations(range(m), 2)), list(itertools.combinations(range(m), 3))
    ordered = list(itertools.permutations(range(m), 2))
    found = [(kind, (*two, -1)) for kind, of in ((AND, pairs), (OR, pairs), (AND_NOT, ordered)) for two in of]
    found += [(TWO_OF_THREE, three) for three in triples]
    active = _patterns(m)
    indicator = np.stack([holds(kind, active[a], active[b], active[c] if c >= 0 else False) for kind, (a, b, c) in found])
    table = Hypotheses(np.array([kind for kind, _ in found], np.uint8), np.array([slots for _, slots in found], np.int8), indicator)
    for column in table:
        column.setflags(write=False)  # one copy for all callers
    return table


class Quality(NamedTuple):
    """How well a predictor fits a child: float64 each, NaN where it is not defined.

    Attributes:
        precision, recall, f1, mcc: the usual ones; mcc is Matthews' correlation of the two.
        quasi: how far precision and recall are from 1, the larger of the two distances: 0 for an exact gate.
    """

    precision: Floats
    recall: Floats
    f1: Floats
    mcc: Floats
    quasi: Floats


def quality(both: ArrayLike, predicted: ArrayLike, child: ArrayLike, tokens: ArrayLike) -> Quality:
    """Quality from counts of tokens, of any shapes that broadcast.

    precision TP/N_gate, recall TP/N_child, F1 2 TP/(N_gate + N_child), quasi 1 − min(precision, recall),
    MCC (N·TP − N_gate·N_child)/√(N_gate (N − N_gate) N_child (N − N_child)): φ of the two.

    Args:
        both: TP, tokens with the predictor and the child active.
        predicted, child: N_gate and N_child, tokens with either active.
        tokens: N.
    """
    tp, gate, y, n = (np.asarray(x, np.float64) for x in np.broadcast_arrays(both, predicted, child, tokens))
    precision, recall = _divide(tp, gate), _divide(tp, y)
    spread = np.sqrt(gate * (n - gate)) * np.sqrt(y * (n - y))
    mcc = np.clip(_divide(n * tp - gate * y, spread), -1.0, 1.0)
    return Quality(precision, recall, _divide(2.0 * tp, gate + y), mcc, 1.0 - np.minimum(precision, recall))


class Fits(NamedTuple):
    """All H hypotheses against the tables of C children.

    Attributes:
        both, predicted: int64 `[C, H]`, TP and N_gate.
        child, tokens: int64 `[C]`, N_child and N of the table.
        f1: float64 `[C, H]`, 0 where neither gate nor child is active.
        bits: float64 `[C, H]`, how many bits fewer the child costs with the gate than with the best single parent, the gate's own
            description included; −inf where the hypothesis takes an empty slot, or the child is rarer with the gate than without.
        explained: float64 `[C, H]`, bits that the gate saves against the child by itself, per token: I(gate; child), less the
            gate's description. It compares gates over different tokens.
        best, best_f1: int64 `[C]` and float64 `[C]`, the slot of the single parent with the largest F1 (−1 without candidates).
    """

    both: NDArray[np.int64]
    predicted: NDArray[np.int64]
    child: NDArray[np.int64]
    tokens: NDArray[np.int64]
    f1: Floats
    bits: Floats
    explained: Floats
    best: NDArray[np.int64]
    best_f1: Floats


def fits(cells: ArrayLike, tokens: ArrayLike, candidates: ArrayLike, effective: ArrayLike = 1.0) -> Fits:
    """Fits every hypothesis to every table.

    bits = share·N·[H(child | best parent) − H(child | gate)] − cost, in bits, where H is the empirical conditional entropy per
    token, the best parent is that with the smallest H among the P candidates, and the cost is `description_cost`.

    Args:
        cells: int `[C, 2^(m+1)]`; what cell 0 (nothing active) holds is ignored, it is derived from the tokens.
        tokens: int `[C]`, counted since the table was begun.
        candidates: int `[C]`, P ≤ m: slots 0 … P − 1 are taken.
        effective: independent tokens in one token (1/deff), in (0, 1], a number or `[C]`.

    Raises:
        BadValue: tables of another width, or tokens fewer than the cells hold.
    """
    counts = np.asarray(cells).astype(np.int64)
    n, taken = np.asarray(tokens, np.int64), np.asarray(candidates, np.int64)
    m = int(counts.shape[1]).bit_length() - 2
    if counts.shape[1] != 1 << (m + 1):
        raise BadValue(f"a gate table has 2^(m+1) cells, not {counts.shape[1]}")
    all_of = hypotheses(m)
    counts[:, 0] = 0
    counts[:, 0] = n - counts.sum(axis=1)
    if np.any(counts[:, 0] < 0):
        child = int(np.argmin(counts[:, 0]))
        raise BadValue(f"the table of child {child} holds {n[child] - counts[child, 0]} tokens and was counted over {n[child]}")
    inactive, active = counts[:, : 1 << m], counts[:, 1 << m :]
    child = active.sum(axis=1)
    both, predicted = _against(all_of.indicator, active, inactive)
    single_both, single = _against(_patterns(m), active, inactive)

    share = np.broadcast_to(np.asarray(effective, np.float64), n.shape)[:, None]
    entropy = conditional_entropy(both, predicted, child[:, None], n[:, None])
    of_single = conditional_entropy(single_both, single, child[:, None], n[:, None])
    there = np.arange(m) < taken[:, None]
    least = np.where(there, of_single, np.inf).min(axis=1, keepdims=True)
    cost = description_cost(all_of.kind, taken[:, None])
    possible = (all_of.slots.max(axis=1) < taken[:, None]) & (
        both * n[:, None].astype(np.float64) > predicted * child[:, None].astype(np.float64)
    )
    with np.errstate(invalid="ignore"):  # inf − x without candidates
        bits = np.where(possible, share * (least - entropy) - cost, -np.inf)
    alone = conditional_entropy(np.zeros_like(child), np.zeros_like(child), child, n)[:, None]
    explained = np.where(possible, (alone - entropy - cost / share) / np.maximum(n, 1)[:, None], -np.inf)
    f1 = np.nan_to_num(_divide(2.0 * both, predicted + child[:, None]))
    single_f1 = np.where(there, np.nan_to_num(_divide(2.0 * single_both, single + child[:, None])), -1.0)
    best = np.where(taken > 0, single_f1.argmax(axis=1), -1)
    return Fits(both, predicted, child, n, f1, bits, explained, best, single_f1.max(axis=1).clip(0.0))


def description_cost(kind: ArrayLike, candidates: ArrayLike) -> Floats:
    """Bits that a gate costs beyond a single parent out of P candidates.

    log2 C(P, 2) + log2 10 − log2 P for two parents and one of the ten functions of two variables; for k of n = 3 log2 C(P, 3) +
    log2 3 + log2 10 − log2 P (the three parents, and k). +inf where P is too small for it.

    Args:
        kind: uint8; candidates: int, P. Shapes that broadcast.
    """
    of, p = np.asarray(kind), np.asarray(candidates, np.float64)
    two, three = p * (p - 1) / 2, p * (p - 1) * (p - 2) / 6
    with np.errstate(divide="ignore", invalid="ignore"):
        ways = np.where(of == TWO_OF_THREE, np.log2(three) + np.log2(3.0), np.log2(two))
        cost = ways + np.log2(_FUNCTIONS) - np.log2(p)
    return np.where(np.isfinite(cost), cost, np.inf)


def conditional_entropy(both: ArrayLike, predicted: ArrayLike, child: ArrayLike, tokens: ArrayLike) -> Floats:
    """N·H(child | predictor) in bits, from counts: Σ_x n_x h(n_x1/n_x) with h the binary entropy and 0 log 0 = 0."""
    tp, gate, y, n = (np.asarray(x, np.float64) for x in np.broadcast_arrays(both, predicted, child, tokens))
    parts = ((tp, gate), (y - tp, n - gate))
    return sum((_x_log2(of) - _x_log2(part) - _x_log2(of - part) for part, of in parts), np.zeros(tp.shape))


class GateCounts(NamedTuple):
    """Tokens of G gates, int64 `[G]` each: gate and child active, gate active, child active."""

    both: NDArray[np.int64]
    predicted: NDArray[np.int64]
    child: NDArray[np.int64]


def gate_counts(kinds: ArrayLike, cells: ArrayLike) -> GateCounts:
    """Counts of gates from their own cells.

    Args:
        kinds: uint8 `[G]`.
        cells: int `[G, 16]`, index [p0] + 2[p1] + 4[p2] + 8[child]; cell 0 is not read.
    """
    counts = np.asarray(cells, np.int64)
    silent, active = counts[:, :8], counts[:, 8:]
    gate = _GATE_PATTERNS[np.asarray(kinds, np.int64)]
    both = (active * gate).sum(axis=1)
    return GateCounts(both, both + (silent * gate).sum(axis=1), active.sum(axis=1))


def explained_bits(
    kinds: ArrayLike, counts: GateCounts, tokens: ArrayLike, candidates: ArrayLike, effect: ArrayLike = 1.0
) -> Floats:
    """Bits per token that gates save against their children by themselves, like `Fits.explained`, over the gates' own tokens.

    Args:
        kinds: uint8 `[G]`; counts: of each; tokens: int `[G]`, counted since its nomination.
        candidates: P, that the parents were chosen from.
        effect: tokens that weigh as one independent one.
    """
    n, none = np.asarray(tokens, np.int64), np.zeros_like(counts.child)
    alone = conditional_entropy(none, none, counts.child, n)
    saved = alone - conditional_entropy(counts.both, counts.predicted, counts.child, n)
    return (saved - description_cost(kinds, candidates) * np.asarray(effect)) / np.maximum(n, 1)


def _patterns(m: int) -> NDArray[np.bool_]:
    """bool `[m, 2^m]`: whether slot s is active in pattern p."""
    return (np.arange(1 << m) >> np.arange(m)[:, None] & 1).astype(bool)


def _against(
    predictors: NDArray[np.bool_], active: NDArray[np.int64], inactive: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """TP and N of each predictor, int64 `[C, predictors]`. Products in float64 are BLAS's, and exact below 2^53."""
    of = predictors.T.astype(np.float64)
    both = (active @ of).astype(np.int64)
    return both, both + (inactive @ of).astype(np.int64)


def _x_log2(x: Floats) -> Floats:
    return x * np.log2(np.where(x > 0, x, 1.0))


def _divide(numerator: ArrayLike, denominator: ArrayLike) -> Floats:
    """NaN where the denominator is 0."""
    top, under = np.broadcast_arrays(np.asarray(numerator, np.float64), np.asarray(denominator, np.float64))
    return np.divide(top, under, out=np.full(top.shape, np.nan), where=under > 0)


_GATE_PATTERNS = np.stack([holds(kind, *_patterns(3)) for kind in range(len(KINDS))])  # bool [4, 8]: where each holds
