"""A snapshot split into communities, with how far both halves of the documents agree.

1. Every listed pair with enough of the measure is an edge (`_edges`): of all documents, and again of half A and of half B alone, by
   the counts that the published records hold of half A. In a half, half the support is asked for.
2. The three graphs are split by the same rule (`engine.measures.communities`). How far the halves agree says how far to trust the
   split, and a community that both find again is there for sure.
3. Communities get their ids (`engine.analysis.community_ids`).

A split takes seconds where a look at it takes none, so it is kept: for as long as its snapshot is the newest one, and in any case
for nine times the CPU time that it took.
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.analysis.answers import known_cosines, lists_of
from engine.analysis.community_ids import CommunityIds, Named
from engine.analysis.snapshot import Whole
from engine.errors import BadValue
from engine.measures import PairCounts, estimates
from engine.measures.bounds import tempered_bounds
from engine.measures.communities import CrossLayerGraph, PairEdges, Shape, communities, cross_layer_graph, quality, shape
from engine.measures.convergence import HALF_MEASURES
from engine.measures.partitions import adjusted_mutual_information, best_overlaps
from engine.measures.relations import Pair
from engine.views.communities import Partition
from engine.views.community_answers import HalvesAnswer
from engine.views.records import INTERVAL_MEASURES, Snapshot
from engine.views.relation_answers import ListsAnswer

log = logging.getLogger(__name__)

MOST_EDGES = 150_000
"""Edges that are split. Leiden takes 25 to 45 µs of CPU for each (110,000 edges: 2.8 s by modularity, 4.7 by CPM), and more for
each the more there are: 20 s for all three graphs."""

KEPT_FACTOR = 9
"""Seconds that a split is kept at least, in CPU seconds that it took: a tenth of a core goes into splits, however often somebody
asks."""

_KEPT = 8  # splits; at the most edges 30 MB each

_SAME = "decoder directions are the same in both halves of the documents"


@dataclass(frozen=True)
class Split:
    """The communities of one snapshot by one set of parameters.

    Attributes:
        graph: nodes and edges; labels: int64 `[n]`, the community of each node; shape: of the communities; named: their ids.
        value, lower: float64 `[E]`, estimate of the measure and its heuristic bound (NaN without one) of each edge.
        density: float64 `[n]`, share of tokens at which a node is active.
        stability: float64 `[2, C]`, best overlap in half A and in half B; None where the halves are not known.
        reason: why there is no edge.
        sizes: features of each layer.
    """

    snapshot: Snapshot
    by: Partition
    graph: CrossLayerGraph
    labels: np.ndarray
    shape: Shape
    named: Named
    value: np.ndarray
    lower: np.ndarray
    density: np.ndarray
    quality: float
    agreement: HalvesAnswer
    stability: np.ndarray | None
    lists: ListsAnswer
    reason: str | None
    sizes: list[int]


class Communities:
    """Splits of one run."""

    def __init__(self, folder: Path) -> None:
        """`folder` is where ids are kept."""
        self._ids = CommunityIds(folder)
        self._splits: OrderedDict[Partition, tuple[Split, float]] = OrderedDict()

    def split(self, whole: Whole, by: Partition) -> Split:
        """The communities of the newest snapshot, or of the one before it while they are kept.

        Raises:
            BadValue: a measure that this run does not have, or more edges than can be split in reasonable time.
        """
        kept = self._splits.get(by)
        if kept is not None and (kept[0].snapshot.version == whole.snapshot.version or time.monotonic() < kept[1]):
            return kept[0]
        began = time.process_time()
        found = split(whole, by, self._ids)
        took = time.process_time() - began
        self._splits[by] = found, time.monotonic() + KEPT_FACTOR * took
        self._splits.move_to_end(by)
        while len(self._splits) > _KEPT:
            self._splits.popitem(last=False)
        log.info("snapshot %s, %s: %d communities in %.2f s of CPU", found.snapshot.version, by, len(found.shape.size), took)
        return found


def split(whole: Whole, by: Partition, ids: CommunityIds) -> Split:
    """Split a snapshot; raises as `Communities.split`."""
    known_cosines(whole, by.measure)
    sizes, pairs = [len(layer.count) for layer in whole.graph.layers], list(whole.graph.edges)
    found = {pair: _edges(whole, pair, by) for pair in pairs}
    graph = cross_layer_graph({pair: edges for pair, (edges, _, _) in found.items()}, sizes)
    if len(graph.up) > MOST_EDGES:
        raise BadValue(
            f"min_value = {by.min_value:g}: {len(graph.up):,} pairs have a {by.measure} as high; at most {MOST_EDGES:,} can be "
            "split into communities: give a higher min_value"
        )
    labels = communities(graph, by.objective, by.resolution)
    agreement, stability = _halves(whole, by, graph, labels)
    q = quality(graph, labels, by.objective, by.resolution)
    counts = np.concatenate([layer.count for layer in whole.graph.layers])
    return Split(
        snapshot=whole.snapshot,
        by=by,
        graph=graph,
        labels=labels,
        shape=shape(graph, labels, len(sizes), pairs),
        named=ids.named(by, whole.run.fingerprint, graph.number, labels, whole.snapshot.tokens),
        value=np.concatenate([value for _, value, _ in found.values()]),
        lower=np.concatenate([lower for _, _, lower in found.values()]),
        density=counts[graph.number] / max(1, whole.graph.tokens),
        quality=q,
        agreement=agreement,
        stability=stability,
        lists=lists_of(whole.graph, by.measure, pairs, _undecided(whole, by)),
        reason=None if len(graph.up) else _why_no_edge(whole, by),
        sizes=sizes,
    )


def _edges(whole: Whole, pair: Pair, by: Partition, half: int | None = None) -> tuple[PairEdges, np.ndarray, np.ndarray]:
    """Edges of a layer pair, of all documents or of one half, with their estimates and lower bounds (NaN without one)."""
    edges, counts = whole.graph.edges[pair], _counts(whole, pair, half)
    support = by.min_support if half is None else max(1, by.min_support // 2)
    value = np.broadcast_to(estimates(counts, [by.measure])[by.measure], edges.up.shape)
    enough = np.flatnonzero((value >= by.min_value) & (np.asarray(counts.joint) >= support))  # no lower bound is above its estimate
    value, lower = value[enough], np.full(len(enough), np.nan)
    if by.measure in INTERVAL_MEASURES:
        rates = [of_layer[index[enough]] for of_layer, index in zip(_rates(whole, pair), (edges.up, edges.down), strict=True)]
        effect = whole.certainty.effect[pair][enough]
        lower = tempered_bounds(by.measure, _counts(whole, pair, half, enough), effect, np.fmax(*rates))[0]
    weight = lower if by.rank == "lower" else value
    kept = weight >= by.min_value  # NaN is not
    enough = enough[kept]
    return PairEdges(edges.up[enough], edges.down[enough], weight[kept]), value[kept], lower[kept]


def _rates(whole: Whole, pair: Pair) -> list[np.ndarray]:
    return [whole.certainty.rate_effect[layer] for layer in pair]


def _counts(whole: Whole, pair: Pair, half: int | None, which: np.ndarray | slice = slice(None)) -> PairCounts:
    """Counts of the chosen edges, of all documents or of one half; sums are always of all."""
    counts, edges, certainty = whole.graph.counts(pair, which), whole.graph.edges[pair], whole.certainty
    if half is None:
        return counts
    up, down = (certainty.count_a[layer][index[which]] for layer, index in zip(pair, (edges.up, edges.down), strict=True))
    joint = certainty.joint_a[pair][which]
    if half == 1:
        up, down, joint = np.subtract(counts.up, up), np.subtract(counts.down, down), np.subtract(counts.joint, joint)
    return counts._replace(up=up, down=down, joint=joint)


def _halves(whole: Whole, by: Partition, graph: CrossLayerGraph, labels: np.ndarray) -> tuple[HalvesAnswer, np.ndarray | None]:
    """How far the halves agree, and what of each community either of them finds again, float64 `[2, C]`."""
    if by.measure not in HALF_MEASURES:
        why = _SAME if by.measure == "decoder_cosine" else f"{by.measure} is not known by half: {', '.join(HALF_MEASURES)} are"
        return HalvesAnswer(adjusted_mutual_information=None, features=None, reason=why), None
    sizes = [len(layer.count) for layer in whole.graph.layers]
    graphs = [cross_layer_graph({pair: _edges(whole, pair, by, half)[0] for pair in whole.graph.edges}, sizes) for half in range(2)]
    split_by_half = [communities(of_half, by.objective, by.resolution) for of_half in graphs]
    stability = np.stack(
        [best_overlaps(graph.number, of_half.number, labels, found) for of_half, found in zip(graphs, split_by_half, strict=True)]
    )
    common, *at = np.intersect1d(graphs[0].number, graphs[1].number, assume_unique=True, return_indices=True)
    agreed = adjusted_mutual_information(split_by_half[0][at[0]], split_by_half[1][at[1]])
    told = HalvesAnswer(
        adjusted_mutual_information=agreed if math.isfinite(agreed) else None,
        features=len(common),
        reason=None if math.isfinite(agreed) else _why_no_agreement(graphs),
    )
    return told, stability


def _why_no_agreement(graphs: Sequence[CrossLayerGraph]) -> str:
    for half, graph in zip("AB", graphs, strict=True):
        if not len(graph.up):
            return f"no pair of features is similar enough in half {half} of the documents"
    return "what the halves have in common is one community in each, or single features: they can neither agree nor differ"


def _undecided(whole: Whole, by: Partition) -> int:
    """Features whose lists are full of pairs with enough of the measure: further ones may not be listed. A pair is missing only
    where both of its features are such."""
    undecided = 0
    for pair, edges in whole.graph.edges.items():
        high = whole.graph.scores(pair, by.measure) >= by.min_value
        full = [int((np.bincount(index[high], minlength=1) >= whole.graph.k).sum()) for index in (edges.up, edges.down)]
        undecided += sum(full) if min(full) else 0
    return undecided


def _why_no_edge(whole: Whole, by: Partition) -> str:
    if not any(len(edges.up) for edges in whole.graph.edges.values()):
        return f"no pair of features was active together on {whole.graph.min_support} tokens yet"
    if by.rank == "lower" and all(np.isnan(effect).all() for effect in whole.certainty.effect.values()):
        return "there are no lower bounds yet: too few features fired in both halves of the documents; rank=estimate needs none"
    what = f"a {by.measure}" + (" whose lower bound is" if by.rank == "lower" else "")
    return f"no pair of features has {what} {by.min_value:g} or more and a joint count of {by.min_support}: lower min_value"
