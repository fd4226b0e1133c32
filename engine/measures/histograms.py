"""How a measure is distributed over the best partners of features, in bins that are the same for every layer pair of a snapshot."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from engine.errors import BadValue
from engine.measures.pair_counts import MEASURES
from engine.measures.relations import FeatureGraph, Pair, partners

_STEPS = 20  # bins from 0 to 1: of 0.05
_OCTAVES = 20  # ln 2 · 2^-20 nats is what a pair tells that is seen together once in some 10 million tokens: nothing is below


class BestPartners(NamedTuple):
    """The features of one side of a layer pair by the measure of their best partner.

    Attributes:
        layer: which layer they are of.
        counts: int64 `[B]`, features per bin. Bins are closed below and open above, the last one closed.
        live: features that ever fired; without: those of them that have no partner for which the measure is defined.
        median: of those that have one; NaN if none has.
        undecided: features for which a better partner may exist that is not listed (`engine.measures.relations.Partners`).
    """

    layer: int
    counts: np.ndarray
    live: int
    without: int
    median: float
    undecided: int


def bin_edges(measure: str, tokens: int, min_support: int) -> np.ndarray:
    """Edges of the bins, float64 `[B + 1]` ascending, which hold every value of the measure.

    Steps of 0.05 from the lowest value to 1. Lift and mutual information span orders of magnitude, so their bins double: lift from
    1 to its largest value over N tokens and a joint count s, N/s (n_i and n_j are at least n_ij ≥ s); mutual information up to
    ln 2 = 1 bit.

    Raises:
        BadValue: an unknown measure.
    """
    if measure not in MEASURES:
        raise BadValue(f"measure = {measure!r}: it must be one of {', '.join(MEASURES)}")
    if measure == "lift":
        octaves = max(1, math.ceil(math.log2(max(1.0, tokens / min_support))))
        return np.concatenate([[0.0], np.exp2(np.arange(octaves + 1))])
    if measure == "mutual_information":
        return np.concatenate([[0.0], np.log(2.0) * np.exp2(np.arange(-_OCTAVES, 1))])
    lowest = -1 if measure in ("phi", "pearson", "decoder_cosine") else 0
    return np.arange(lowest * _STEPS, _STEPS + 1) / _STEPS


def best_partners(graph: FeatureGraph, pair: Pair, measure: str, min_support: int) -> tuple[np.ndarray, BestPartners, BestPartners]:
    """Edges of the bins, the upstream features by their best downstream partner, the downstream ones by their best upstream one.

    Args:
        graph: of a snapshot.
        pair, measure: of which layers, by what.
        min_support: smallest joint count of a partner.

    Raises:
        BadValue: an unknown measure.
    """
    edges, scores = bin_edges(measure, graph.tokens, min_support), graph.scores(pair, measure)
    sides = []
    for layer, side in zip(pair, partners(graph, pair, measure, -math.inf, min_support), strict=True):
        values = scores[side.best[side.best >= 0]]
        live = int((graph.layers[layer].count > 0).sum())
        median = float(np.median(values)) if len(values) else math.nan
        counts, _ = np.histogram(values, edges)
        enough = graph.layers[layer].count >= min_support
        undecided = int((side.undecided & enough).sum())
        sides.append(BestPartners(layer, counts, live, live - len(values), median, undecided))
    return edges, sides[0], sides[1]
