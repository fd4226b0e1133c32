"""Which gates are judged from here on: chosen from the truth tables at fixed places in the log, and few of a child.

numpy only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.measures.gates import AND_NOT, Fits, hypotheses

MOST_LIVE, MOST_NOMINATIONS = 4, 8
"""Nominated gates that a child has at a time, and ever: false discoveries are controlled over 8 hypotheses a child."""


class Nominations(NamedTuple):
    """G gates to be judged from here on: child int64 `[G]`, place of the child's gates that each takes int64 `[G]`, hypothesis
    int64 `[G]`, kind uint8 `[G]`, parents int32 `[G, 3]` (−1: none) and best single parent int32 `[G]`, upstream features."""

    child: NDArray[np.int64]
    place: NDArray[np.int64]
    hypothesis: NDArray[np.int64]
    kind: NDArray[np.uint8]
    parents: NDArray[np.int32]
    best: NDArray[np.int32]


def nominate(
    fit: Fits,
    parents: NDArray[np.integer],
    live_kind: NDArray[np.integer],
    live_parents: NDArray[np.integer],
    promising: NDArray[np.bool_],
    used: NDArray[np.integer],
) -> Nominations:
    """The hypotheses to be judged next: of every child the four with most bits, as far as those are above 0.

    One that is live already goes on and takes no place. A new one takes an empty place, or that of a gate that is no longer among
    the four and is not promising, as long as the child has been given fewer than `MOST_NOMINATIONS`. A gate that is dropped is lost
    with its evidence; nominated again it begins anew, and counts again.

    Args:
        fit: `fits` of the tables; parents: int `[C, m]`, the upstream feature in each slot.
        live_kind: int `[C, 4]`, −1 for an empty place; live_parents: int `[C, 4, 3]`.
        promising: bool `[C, 4]`, gates whose evidence is not to be thrown away.
        used: int `[C]`, nominations so far.
    """
    all_of = hypotheses(int(parents.shape[1]))
    rows = np.flatnonzero((fit.bits.max(axis=1, initial=-np.inf) > 0) & (used < MOST_NOMINATIONS))
    ranked = np.argsort(-fit.bits[rows], axis=1, kind="stable")[:, :MOST_LIVE]
    wanted = np.take_along_axis(fit.bits[rows], ranked, axis=1) > 0
    padded = np.concatenate([parents[rows], np.full((len(rows), 1), -1, parents.dtype)], axis=1)  # slot −1 reads the −1
    named = np.take_along_axis(padded[:, None, :], all_of.slots[ranked].astype(np.int64) % padded.shape[1], axis=2)
    same = (_names(all_of.kind[ranked], named)[:, :, None] == _names(live_kind[rows], live_parents[rows])[:, None]).all(axis=-1)
    fresh = wanted & ~same.any(axis=2)
    empty = live_kind[rows] < 0
    stays = ~empty & ((same & wanted[:, :, None]).any(axis=1) | promising[rows])
    order = np.argsort(np.where(empty, 0, 1 + stays), axis=1, kind="stable")  # empty places first, then those of dropped gates
    left = np.minimum(np.sum(~stays, axis=1), MOST_NOMINATIONS - used[rows])
    number = np.cumsum(fresh, axis=1) - 1
    row, rank = np.nonzero(fresh & (number < left[:, None]))
    child, hypothesis = rows[row], ranked[row, rank]
    best = parents[child, fit.best[child]].astype(np.int32)
    return Nominations(
        child, order[row, number[row, rank]], hypothesis, all_of.kind[hypothesis], named[row, rank].astype(np.int32), best
    )


def _names(kind: NDArray[np.integer], parents: NDArray[np.integer]) -> NDArray[np.int64]:
    """int64 `[…, 4]`, equal for equal gates: the kind, and the parents in an order that does not matter but for AND_NOT."""
    ordered = np.where((kind == AND_NOT)[..., None], parents, np.sort(parents, axis=-1))
    return np.concatenate([kind[..., None], ordered], axis=-1).astype(np.int64)
