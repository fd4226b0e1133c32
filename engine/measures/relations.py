"""Relations between the features of different layers: what passes through, appears, disappears, and lives on as a lineage.

Everything here reads a `FeatureGraph`: the counts of every feature, and per layer pair a sparse set of edges, the published lists.
Those hold for each feature the best `k` partners by every measure among the pairs that were active together on at least
`min_support` tokens, in both directions. Whatever asks only for the best partner, or whether there is one above a threshold, is
therefore answered as from all pairs with that support. Where a larger support is asked for, a partner that has it may be missing
behind k others that don't: such features are counted as `undecided`.

Definitions, for a measure m and a threshold t (Balcells et al. 2024, arXiv 2410.08869, take Pearson at 0.4 and 0.95):

- an upstream feature *passes* when it has a downstream partner with m ≥ t, and *disappears* otherwise;
- a downstream feature is *passed into* when it has an upstream partner with m ≥ t, and *appears* otherwise;
- a *lineage* follows mutual best partners over consecutive layers, so that no two lineages ever share a feature.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from engine.errors import BadValue
from engine.measures.pair_counts import MEASURES, PairCounts, estimates

Pair = tuple[int, int]

HIGHEST: dict[str, float] = {**dict.fromkeys(MEASURES, 1.0), "lift": math.inf, "mutual_information": math.log(2.0)}
"""Largest value of each measure. Thresholds are above 0: at 0 every pair passes that was never active together, and no list holds
those."""


class LayerCounts(NamedTuple):
    """Marginals of a layer's D features: active tokens int64 `[D]`, Σa and Σa² float64 `[D]`."""

    count: np.ndarray
    sum: np.ndarray
    sum_of_squares: np.ndarray


class Edges(NamedTuple):
    """Listed pairs of one layer pair, each once, ordered by (up, down).

    Attributes:
        up, down: int32 `[E]`, the two features.
        joint: int64 `[E]`, tokens with both active; product: float64 `[E]`, Σab.
        decoder_cosine: float32 `[E]`, NaN where unknown.
        error: int64 `[E]`, what may be missing of the joint counts; 0 in a dense table.
    """

    up: np.ndarray
    down: np.ndarray
    joint: np.ndarray
    product: np.ndarray
    decoder_cosine: np.ndarray
    error: np.ndarray


@dataclass(frozen=True)
class FeatureGraph:
    """All features of a run with their listed pairs, from one state.

    Attributes:
        tokens: N.
        layers: counts of each layer, in the order of the layers.
        edges: layer pair → its edges.
        k: partners that a feature's list holds by each measure, at least, where it has so many with the support.
        min_support: smallest joint count of a listed pair.
        unlisted: layer pair → int64 `[D]` of its upstream and of its downstream layer: the most that the joint count with a feature
            can be that the pair's table does not hold; nothing for a pair whose table holds all.
    """

    tokens: int
    layers: Sequence[LayerCounts]
    edges: Mapping[Pair, Edges]
    k: int
    min_support: int
    unlisted: Mapping[Pair, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def counts(self, pair: Pair, which: np.ndarray | slice = slice(None)) -> PairCounts:
        """The counts of the chosen edges, all of them by default; arrays `[E]`."""
        edges = Edges(*(column[which] for column in self.edges[pair]))
        up, down = (
            LayerCounts(*(column[index] for column in self.layers[layer]))
            for layer, index in zip(pair, (edges.up, edges.down), strict=True)
        )
        return PairCounts(
            tokens=self.tokens,
            up=up.count,
            down=down.count,
            joint=edges.joint,
            up_sum=up.sum,
            down_sum=down.sum,
            up_sumsq=up.sum_of_squares,
            down_sumsq=down.sum_of_squares,
            product=edges.product,
            decoder_cosine=edges.decoder_cosine,
            joint_error=edges.error,
        )

    def scores(self, pair: Pair, measure: str) -> np.ndarray:
        """float64 `[E]`: the measure of every edge, NaN where it is undefined.

        Raises:
            BadValue: an unknown measure.
        """
        return np.broadcast_to(estimates(self.counts(pair), [measure])[measure], len(self.edges[pair].up))


def check_threshold(measure: str, threshold: float, name: str = "threshold") -> None:
    """Refuse what no relation can be asked by; `name` is what the message calls the threshold.

    Raises:
        BadValue: an unknown measure (the message lists the known ones), or a threshold out of the measure's range (which it names).
    """
    if measure not in MEASURES:
        raise BadValue(f"measure = {measure!r}: it must be one of {', '.join(MEASURES)}")
    highest = HIGHEST[measure]
    if not (0 < threshold <= highest and math.isfinite(threshold)):
        most = "no more than ln 2 = 0.6931" if measure == "mutual_information" else "no more than 1"
        allowed = "it must be above 0" + (f" and {most}" if math.isfinite(highest) else "")
        raise BadValue(f"{name} = {threshold:g}: {allowed} for {measure}")


class Partners(NamedTuple):
    """The best partner of each of a layer's D features on the other side of a layer pair.

    Attributes:
        best: int64 `[D]`, index of its best edge with at least the threshold and the support; −1 where it has none. Of equal
            edges the one with the smaller partner index.
        undecided: bool `[D]`: a better edge may exist that is not listed.
    """

    best: np.ndarray
    undecided: np.ndarray


def partners(graph: FeatureGraph, pair: Pair, measure: str, threshold: float, min_support: int) -> tuple[Partners, Partners]:
    """Best partners of a layer pair: those of the upstream features, and those of the downstream features.

    Raises:
        BadValue: an unknown measure.
    """
    edges, scores = graph.edges[pair], graph.scores(pair, measure)
    enough = np.flatnonzero((scores >= threshold) & (edges.joint >= min_support))  # NaN is not
    order = enough[np.lexsort((edges.down[enough], edges.up[enough], -scores[enough]))]
    sides = []
    for layer, owner in zip(pair, (edges.up, edges.down), strict=True):
        size = len(graph.layers[layer].count)
        best = np.full(size, -1, np.int64)
        best[owner[order[::-1]]] = order[::-1]  # written last, so the first of each owner in the order stays
        floor = np.full(size, threshold)
        found = np.flatnonzero(best >= 0)
        floor[found] = np.nextafter(scores[best[found]], np.inf)
        better = np.bincount(owner[scores >= floor[owner]], minlength=size)
        sides.append(Partners(best, better >= graph.k))
    for side, missing, layer in zip(sides, graph.unlisted.get(pair, ()), pair, strict=False):
        # What is not listed for want of support, or not held at all, may have so much by what is missing; other ratios than these
        # have denominators that may be smaller than the feature's own count.
        possible = missing > 0
        if measure in ("jaccard", "sufficiency" if layer == pair[0] else "necessity"):
            known = np.where(side.best >= 0, scores[side.best], threshold) if len(scores) else np.full(len(missing), threshold)
            possible &= np.maximum(min_support, missing) + missing > known * graph.layers[layer].count
        side.undecided[:] |= possible
    return sides[0], sides[1]


@dataclass(frozen=True)
class FlowSide:
    """One side of a layer pair. All arrays bool `[D]`.

    Attributes:
        layer: which layer.
        live: features that ever fired; the others are dead, and never have a partner.
        rare: live ones that fired on fewer tokens than the support asks for: they can't have a partner yet.
        partnered: features with a partner (upstream: passed; downstream: passed into).
        undecided: features without a listed partner that may have one which is not listed.
        best: int64 `[D]`, the edge that leads to the best partner, −1 without one.
    """

    layer: int
    live: np.ndarray
    rare: np.ndarray
    partnered: np.ndarray
    undecided: np.ndarray
    best: np.ndarray


def flow(graph: FeatureGraph, pair: Pair, measure: str, threshold: float, min_support: int) -> tuple[FlowSide, FlowSide]:
    """What passes from the upstream layer of a pair (first), and into its downstream layer (second).

    Raises:
        BadValue: an unknown measure.
    """
    sides = []
    for layer, side in zip(pair, partners(graph, pair, measure, threshold, min_support), strict=True):
        count = graph.layers[layer].count
        partnered = side.best >= 0
        rare = (count > 0) & (count < min_support)
        undecided = side.undecided & ~partnered & (count >= min_support)
        sides.append(FlowSide(layer, count > 0, rare, partnered, undecided, side.best))
    return sides[0], sides[1]


class Link(NamedTuple):
    """One step of a lineage: the edge of a layer pair, by its index there."""

    pair: Pair
    edge: int


class Lineage(NamedTuple):
    """Features that are each other's best partner over consecutive layers.

    Attributes:
        layers, features: one entry per layer, from birth to death.
        links: between them, one fewer.
        scores: the measure of each link.
    """

    layers: tuple[int, ...]
    features: tuple[int, ...]
    links: tuple[Link, ...]
    scores: tuple[float, ...]

    @property
    def weakest(self) -> int:
        """Index of the link with the lowest measure, the first of equal ones; of a lineage with links only."""
        return min(range(len(self.scores)), key=self.scores.__getitem__)


@dataclass(frozen=True)
class Lineages:
    """All lineages of a graph.

    Attributes:
        chains: those of two layers or more: longest first, then the strongest weakest link, then layer and feature.
        spans: (birth layer, death layer) → how many, live features that stay alone included.
        undecided: features whose best partner may not be listed (see `Partners`).
    """

    chains: list[Lineage]
    spans: Counter[Pair]
    undecided: int


def consecutive(pairs: Iterable[Pair]) -> list[Pair]:
    """The layer pairs that lineages follow, by layer: from each layer to the nearest one that it is paired with, if that layer has
    none nearer. For 0→1, 1→2, 0→2 these are 0→1 and 1→2; for 0→2, 2→4 both."""
    pairs = list(pairs)
    nearest_down = {up: min(b for a, b in pairs if a == up) for up, _ in pairs}
    nearest_up = {down: max(a for a, b in pairs if b == down) for _, down in pairs}
    return sorted((up, down) for up, down in nearest_down.items() if nearest_up[down] == up)


def lineages(graph: FeatureGraph, measure: str, threshold: float, min_support: int) -> Lineages:
    """Follow mutual best partners over the consecutive layers.

    1. An edge links its two features when it is the best edge of both (`partners`), with m ≥ threshold and the support.
    2. So a feature has at most one link in each direction: chains neither merge nor split.
    3. A lineage is born at its first layer and dies at its last. Before the first and after the last layer of the run nobody looks.

    Raises:
        BadValue: an unknown measure.
    """
    following: dict[int, dict[int, tuple[int, int, Link, float]]] = {}
    led_to = [np.zeros(len(layer.count), bool) for layer in graph.layers]
    undecided = 0
    for pair in consecutive(graph.edges):
        ups, downs = partners(graph, pair, measure, threshold, min_support)
        undecided += int(ups.undecided.sum()) + int(downs.undecided.sum())
        chosen = ups.best[ups.best >= 0]
        mutual = chosen[downs.best[graph.edges[pair].down[chosen]] == chosen]
        up, down = graph.edges[pair].up[mutual].tolist(), graph.edges[pair].down[mutual].tolist()
        scores = graph.scores(pair, measure)[mutual].tolist()
        links = (Link(pair, edge) for edge in mutual.tolist())
        following[pair[0]] = {i: (pair[1], j, link, score) for i, j, link, score in zip(up, down, links, scores, strict=True)}
        led_to[pair[1]][down] = True
    chains: list[Lineage] = []
    spans: Counter[Pair] = Counter()
    for layer, counts in enumerate(graph.layers):
        starts = following.get(layer, {})
        born = np.flatnonzero((counts.count > 0) & ~led_to[layer]).tolist()
        for feature in born:
            if feature not in starts:
                spans[layer, layer] += 1
                continue
            chain = _follow(following, layer, feature)
            chains.append(chain)
            spans[layer, chain.layers[-1]] += 1
    chains.sort(key=lambda chain: (-len(chain.layers), -min(chain.scores), chain.layers[0], chain.features[0]))
    return Lineages(chains, spans, undecided)


def _follow(following: dict[int, dict[int, tuple[int, int, Link, float]]], layer: int, feature: int) -> Lineage:
    layers, features, links, scores = [layer], [feature], [], []
    while (step := following.get(layer, {}).get(feature)) is not None:
        layer, feature, link, score = step
        layers.append(layer)
        features.append(feature)
        links.append(link)
        scores.append(score)
    return Lineage(tuple(layers), tuple(features), tuple(links), tuple(scores))


def mass(graph: FeatureGraph, lineage: Lineage) -> tuple[np.ndarray, np.ndarray]:
    """How the activation of a lineage is spread over its layers.

    Returns:
        Σa and Σa² of each of its features, float64 `[L]`. Divided by their sums they are shares. Activations grow with the norm of
        the residual stream from layer to layer, and so do these.
    """
    at = list(zip(lineage.layers, lineage.features, strict=True))
    sums = np.array([graph.layers[layer].sum[feature] for layer, feature in at])
    squares = np.array([graph.layers[layer].sum_of_squares[feature] for layer, feature in at])
    return sums, squares
