"""Edges between given features from the running tables: the cells of each layer pair's block, the largest of all, their bounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.measures import PairCounts, estimates
from engine.measures.bounds import tempered_bounds
from engine.views.answers import EstimateAnswer, name, with_bounds
from engine.views.graph_answers import GraphEdgeAnswer
from engine.views.intervals import interval_rows
from engine.views.ranking import may_be_missing
from engine.views.records import INTERVAL_MEASURES

if TYPE_CHECKING:
    from engine.counts.state import State
    from engine.views.decoder import DecoderCosines
    from engine.views.effects import Effects

Pair = tuple[int, int]


class _Cells(NamedTuple):
    """Cells of one layer pair, `[n]`: features of its two layers, their counts, and the measure."""

    up: np.ndarray
    down: np.ndarray
    counts: PairCounts
    values: np.ndarray


def edges_among(
    state: State,
    effects: Effects,
    cosines: DecoderCosines,
    features: Mapping[int, np.ndarray],
    *,
    measure: str,
    min_value: float,
    min_support: int,
    most: int,
) -> tuple[list[GraphEdgeAnswer], int]:
    """The edges of at least a value and a joint count between some features, in all layer pairs. Nothing may count meanwhile.

    Args:
        features: layer → int64 `[n]`, features of it.
        measure: one of `engine.measures.MEASURES`.
        min_support: at least 1.
        most: how many are wanted.

    Returns:
        Those of the largest value, largest first (ties by features), and how many there are beyond them.
    """
    found = {pair: cells for pair in state.pairs if (cells := _cells(state, cosines, pair, features, measure, min_support))}
    kept = {pair: np.flatnonzero(np.nan_to_num(cells.values, nan=-np.inf) >= min_value) for pair, cells in found.items()}
    owner = np.repeat(np.arange(len(found)), [len(rows) for rows in kept.values()])
    rows = np.concatenate([np.empty(0, np.int64), *kept.values()])
    values = np.concatenate([np.empty(0), *(cells.values[kept[pair]] for pair, cells in found.items())])
    order = np.lexsort((rows, owner, -values))[:most]
    answers: dict[int, GraphEdgeAnswer] = {}
    for number, (pair, cells) in enumerate(found.items()):
        mine = order[owner[order] == number]
        answers |= zip(mine.tolist(), _answers(state, effects, pair, cells, rows[mine], measure), strict=True)
    return [answers[at] for at in order.tolist()], len(rows) - len(order)


def _cells(
    state: State, cosines: DecoderCosines, pair: Pair, features: Mapping[int, np.ndarray], measure: str, min_support: int
) -> _Cells | None:
    """The cells of a layer pair that have the support; None where there is none."""
    ups, downs = (features.get(layer, np.empty(0, np.int64)) for layer in pair)
    if not (len(ups) and len(downs)):
        return None
    table = state.pairs[pair]
    i, j = np.nonzero(table.block(ups, downs) >= min_support)
    if not len(i):
        return None
    up, down = ups[i], downs[j]
    found = table.at(up, down)
    joint = found.joint
    sides = []
    for layer, index in zip(pair, (up, down), strict=True):
        part = state.marginals[layer]
        sides.append([column.cpu().numpy()[index] for column in (part.by_half, part.sum, part.sum_of_squares)])
    (n_i, a, aa), (n_j, b, bb) = sides
    up_count, down_count = n_i.sum(axis=1), n_j.sum(axis=1)
    error = may_be_missing(found.errors, joint, up_count, down_count)
    cosine = cosines.of_pairs(*pair, up, down) if measure == "decoder_cosine" else np.nan
    counts = PairCounts(state.tokens, up_count, down_count, joint, a, b, aa, bb, found.products, cosine, error)
    return _Cells(up, down, counts, np.broadcast_to(estimates(counts, [measure])[measure], joint.shape))


def _answers(
    state: State, effects: Effects, pair: Pair, cells: _Cells, rows: np.ndarray, measure: str
) -> Iterator[GraphEdgeAnswer]:
    """Some of a layer pair's cells with their bounds."""
    up, down = cells.up[rows], cells.down[rows]
    counts = PairCounts(*(np.broadcast_to(column, cells.values.shape)[rows] for column in cells.counts))
    lower = upper = np.full(len(rows), np.nan)
    intervals: dict[int, np.ndarray] = {}
    if measure in INTERVAL_MEASURES and len(rows):
        rates = np.fmax(effects.rates[pair[0]][up], effects.rates[pair[1]][down])
        lower, upper = tempered_bounds(measure, counts, effects.ratios(pair, np.asarray(counts.joint)), rates)
        watched = state.watched[pair]
        found = watched.find(up, down)
        at = np.flatnonzero(found >= 0)
        intervals = dict(zip(at.tolist(), interval_rows(watched, found[at]), strict=True))
    columns = (up, down, np.asarray(counts.joint), np.asarray(counts.joint_error), cells.values[rows])
    for at, (i, j, joint, error, value) in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        told = EstimateAnswer(estimate=value)
        if measure in INTERVAL_MEASURES:
            told = with_bounds(told, measure, intervals.get(at), float(lower[at]), float(upper[at]), error)
        yield GraphEdgeAnswer(
            up=name((pair[0], i)),
            down=name((pair[1], j)),
            value=value,
            lower=told.lower,
            upper=told.upper,
            status=told.status,
            joint=joint,
            count_error=error,
        )
