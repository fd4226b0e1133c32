"""Whether a nominated gate is there: e-values of scores within documents, and control of false discoveries.

1. A cluster of L tokens is cut into blocks of min(⌈L/4⌉, 32) consecutive ones. Within a block and a *stratum* (say, the tokens at
   which parent a is active), with n tokens, r of them with x, k with y and n₁₁ with both, s = σ(n₁₁ − r k/n) has mean 0 if the k
   tokens with y are exchangeable: n₁₁ is hypergeometric given n, r and k. Topics and bursts that parents and children share make
   whole documents alike, not the order of tokens in a block; whole documents with drifting rates gave false gates, blocks none.
2. c is the largest loss: s ≥ −c. A bet λ ≥ 0 with λc < 1, chosen from earlier blocks alone, makes Π(1 + λs) an e-process: its mean
   is at most 1 whenever it is read (Waudby-Smith & Ramdas, arXiv 2010.09686, on betting).
3. **T1**, each parent still moves the child. AND: p0 where p1 = 1, and the other way round (σ = +1). OR: where the other is 0 (+).
   AND_NOT: p0 where p1 = 0 (+), p1 where p0 = 1 (−). TWO_OF_THREE: each where exactly one of the other two is active (+).
4. **T2**, explaining away, against a common cause: two reports of one cause are independent given it, or positively related;
   the parents of an AND exclude each other where the child is silent. AND: cov(p0, p1 | y = 0) < 0; OR: cov(p0, p1 | y = 1) < 0;
   AND_NOT: cov(p0, p1 | y = 0) > 0; TWO_OF_THREE: the three scores of an AND summed, c summed.
5. A gate's evidence is the least of its tests. `e_bh` accepts (Wang & Ramdas, arXiv 2009.02824). T1 without T2 is *joint*: the
   parents act together, and a common cause is not excluded.

`block_scores` and `add_block` are the reference of the compiled scoring. numpy only; float64.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.errors import BadValue
from engine.measures.gate_nominations import MOST_NOMINATIONS
from engine.measures.gates import KINDS, PARENTS
from engine.measures.similarity import Floats
from kernels import BET_PRIOR

CELLS = 16
"""Of a gate: [p0] + 2[p1] + 4[p2] + 8[y]; p2 is never active for gates of two parents."""

TESTS = (3, 3, 3, 4)
"""By kind: T1 of each parent in order, then T2. What is behind them in an array of four is not used."""

BLOCK_TOKENS = 32
ALPHA = 0.05

PRIOR = BET_PRIOR

VERDICTS = ("none", "joint", "gate")
NONE, JOINT, GATE = range(3)

_PATTERN = np.arange(CELLS)
_P0, _P1, _P2, _Y = ((_PATTERN >> bit & 1).astype(bool) for bit in range(4))
_ANY = np.ones(CELLS, bool)

_Part = tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_], float]
TEST_PARTS: tuple[tuple[tuple[_Part, ...], ...], ...] = (
    (((_P1, _P0, _Y, 1.0),), ((_P0, _P1, _Y, 1.0),), ((~_Y, _P0, _P1, -1.0),)),
    (((~_P1, _P0, _Y, 1.0),), ((~_P0, _P1, _Y, 1.0),), ((_Y, _P0, _P1, -1.0),)),
    (((~_P1, _P0, _Y, 1.0),), ((_P0, _P1, _Y, -1.0),), ((~_Y, _P0, _P1, 1.0),)),
    (
        ((_P1 ^ _P2, _P0, _Y, 1.0),),
        ((_P0 ^ _P2, _P1, _Y, 1.0),),
        ((_P0 ^ _P1, _P2, _Y, 1.0),),
        tuple((~_Y, first, second, -1.0) for first, second in ((_P0, _P1), (_P0, _P2), (_P1, _P2))),
    ),
)
"""By kind (AND, OR, AND_NOT, TWO_OF_THREE) and test, the parts that are summed: bool `[16]` which cells are of the stratum, have x
and have y, and σ."""


def block_tokens(length: int) -> int:
    """Tokens of a block in a cluster of so many counted tokens: min(⌈length/4⌉, 32), at least 1; its last block may be shorter."""
    return max(1, min(-(-length // 4), BLOCK_TOKENS))


def block_scores(kind: int, cells: ArrayLike) -> tuple[Floats, Floats]:
    """Scores of one gate's tests in blocks.

    s = σ(n₁₁ − r k/n); c = r k/n − max(0, r + k − n) for σ = +1, min(r, k) − r k/n for σ = −1; both 0 in an empty stratum.

    Args:
        kind: code of the gate.
        cells: int `[…, 16]`, tokens of a block by cell.

    Returns:
        s and c, float64 `[…, 4]` each, 0 behind the kind's last test.

    Raises:
        BadValue: an unknown kind.
    """
    if not 0 <= kind < len(KINDS):
        raise BadValue(f"gate kind is {kind}, it must be one of {', '.join(f'{code} ({name})' for code, name in enumerate(KINDS))}")
    counts = np.asarray(cells, np.float64)
    s, c = np.zeros((*counts.shape[:-1], 4)), np.zeros((*counts.shape[:-1], 4))
    for test, parts in enumerate(TEST_PARTS[kind]):
        for stratum, x, y, sign in parts:
            n, r, k, joint = (counts[..., stratum & of].sum(axis=-1) for of in (_ANY, x, y, x & y))
            expected = np.divide(r * k, n, out=np.zeros_like(n), where=n > 0)
            loss = expected - np.maximum(0.0, r + k - n) if sign > 0 else np.minimum(r, k) - expected
            s[..., test] += sign * (joint - expected)
            c[..., test] += loss
    return s, c


class Evidence(NamedTuple):
    """What the tests of G gates have come to: log E, Σs and Σs², float64 `[G, 4]` each."""

    log_e: Floats
    scores: Floats
    squares: Floats

    @classmethod
    def zero(cls, gates: int) -> Evidence:
        """No block seen: E = 1."""
        return cls(np.zeros((gates, 4)), np.zeros((gates, 4)), np.zeros((gates, 4)))


def add_block(evidence: Evidence, s: Floats, c: Floats) -> None:
    """One block after another, in place: log E += ln(1 + λs), λ = min(max(0, (½ + Σs)/(¼ + Σs²)), 0.9/c) from earlier blocks alone.

    Args:
        evidence: of G gates.
        s, c: float64 `[G, 4]`, of the next block.
    """
    log_e, scores, squares = evidence
    most = np.divide(0.9, c, out=np.full_like(c, np.inf), where=c > 0)
    bet = np.minimum(np.maximum(0.0, (PRIOR[0] + scores) / (PRIOR[1] + squares)), most)
    log_e += np.log1p(bet * s)
    scores += s
    squares += s * s


def gate_evidence(kinds: ArrayLike, log_e: ArrayLike) -> tuple[Floats, Floats]:
    """log of the e-value of a gate (least of T1 and T2) and of its joint action (least of T1), float64 `[G]` each.

    Args:
        kinds: uint8 `[G]`; log_e: float64 `[G, 4]` in the order of `TESTS`.
    """
    of, tests = np.asarray(kinds, np.int64), np.asarray(log_e, np.float64)
    first = np.where(np.arange(4) < np.take(PARENTS, of)[:, None], tests, np.inf).min(axis=1, initial=np.inf)
    second = np.take_along_axis(tests, np.take(TESTS, of)[:, None] - 1, axis=1)[:, 0]
    return np.minimum(first, second), first


def e_bh(log_e: ArrayLike, total: int, alpha: float = ALPHA) -> NDArray[np.bool_]:
    """Which of the hypotheses are accepted with a false discovery rate of at most alpha: e-BH (Wang & Ramdas, arXiv 2009.02824).

    The k largest, for the largest k with the k-th E ≥ total/(alpha·k). It holds whatever the dependence, and whenever it is read.
    Hypotheses that are not given count among the total with E ≤ 1; leaving any out, by whatever rule, keeps the rate.

    Args:
        log_e: float64 `[G]`, natural logarithms.
        total: K ≥ G, hypotheses that could have been put forward.
        alpha: in (0, 1).

    Raises:
        BadValue: alpha or total out of range.
    """
    values = np.asarray(log_e, np.float64)
    if not 0.0 < alpha < 1.0:
        raise BadValue(f"alpha is {alpha}, it must be between 0 and 1, both not included")
    if total < len(values):
        raise BadValue(f"{len(values)} hypotheses were put forward, their total can't be {total}")
    order = np.argsort(-values, kind="stable")
    enough = values[order] >= math.log(max(total, 1) / alpha) - np.log(np.arange(1, len(values) + 1))
    accepted = np.zeros(len(values), bool)
    accepted[order[: np.flatnonzero(enough).max(initial=-1) + 1]] = True
    return accepted


def verdicts(
    kinds: ArrayLike, log_e: ArrayLike, child: ArrayLike, explained: ArrayLike, children: int, alpha: float = ALPHA
) -> NDArray[np.uint8]:
    """What is said of each nominated gate: `GATE`, `JOINT` or `NONE`; at most one gate, or else one joint action, of a child.

    1. Of the gates of a child that may be accepted at all (E ≥ 1/alpha) the one that explains most stays: a gate with a relative of
       a true parent in its place passes the tests too, with fewer bits. The others count as E = 0, which e-BH allows.
    2. e-BH over these, with K = 8·children.
    3. The same for joint actions (the least of T1), among the children that have no gate.

    Args:
        kinds: uint8 `[G]`; log_e: float64 `[G, 4]`; child: int `[G]`, numbered over all layer pairs.
        explained: float64 `[G]`, bits per token that the gate saves, over its own tokens (`Fits.explained`): the kind is decided by
            description length.
        children: of all layer pairs; K is 8 times as many.
        alpha: of e-BH.
    """
    of, saved = np.asarray(child, np.int64), np.asarray(explained, np.float64)
    total = MOST_NOMINATIONS * children
    found = np.full(len(of), NONE, np.uint8)
    for verdict, evidence in zip((GATE, JOINT), gate_evidence(kinds, log_e), strict=True):
        possible = (evidence >= -math.log(alpha)) & ~np.isin(of, of[found == GATE])
        rows = np.flatnonzero(possible)
        order = rows[np.lexsort((rows, -saved[rows], of[rows]))]
        leading = order[np.unique(of[order], return_index=True)[1]]
        found[leading[e_bh(evidence[leading], total, alpha)]] = verdict
    return found
