"""Specialisation: one parent feature upstream, several children downstream that share its tokens out among them.

The four conditions, for a parent p and children c in one downstream layer:

1. *several*: two children or more, none of which covers the parent alone (that would be pass-through);
2. *they imply the parent*: necessity P(p | c) = n_pc / n_c ≥ t for each;
3. *they exclude each other*: of the parent's tokens that a child has, no other child shares more than a small part;
4. *together they cover it*: the parent's tokens at which some child is active are at least a share c of n_p.

With m_t the number of children active at a token t of the parent, the *overlap* is E / n_p, where E = Σ_t max(0, m_t − 1), and
the coverage is exactly (Σ_c n_pc − E) / n_p. A small overlap alone is no exclusion: two small children that are one and the same
overlap on few of the parent's tokens, and on all of their own. So the *shared part*, the overlap of two children within the parent
over n_pc of the smaller one, is what decides.

Pairs are counted across layers only. For parents that look like a specialisation the engine counts truth tables of their children
as well (`engine.measures.siblings`), from a choice on: where a parent has one, shared part, overlap and coverage are *exact*
numbers over the tokens since that choice. It decides where it tells of every child; where it tells of some, it says which of them
can't be taken together. Anywhere else they are bounded from the tables across layers. E is bounded

- from below by the pigeonhole principle, Σ_c n_pc − n_p, and by Hunter's inequality (1976), which allows the overlaps of the pairs
  of a tree over the children to be summed;
- from above by the sum over all pairs of children (Bonferroni).

The overlap of two children a, b is bounded by every *witness* x, a feature of another layer that is counted with both:

    n_xa + n_xb − n_x  ≤  n_ab  ≤  min(n_xa, n_xb) + min(n_a − n_xa, n_b − n_xb)

(of the tokens of a and b, those with x and those without). The copy that a child has in a neighbouring layer is a sharp witness.
Without a sharp witness the bounds are wide, and a finding whose children are not *shown* to exclude each other is a candidate, no
more: on the demo model (625,000 tokens, defaults) bounds alone leave 41 and show none; counted on the dense activations of 93,000
of these tokens, children of every one share 30 to 100 %.

A joint count that is not listed is at most the k-th largest one that is listed for either feature: joint counts of one feature are
in the order of its sufficiency (downstream lists) or necessity (upstream lists).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from engine.measures.relations import Edges, FeatureGraph, Pair
from engine.measures.siblings import SiblingGroup, SiblingGroups, told_of

MIN_SHARE = 0.05
"""Smallest part of the parent's tokens that a child has. Each child widens the bound on the overlap by what its lists can't rule
out, so a tail of rare children would turn every specialisation into an open one."""


class Bounds(NamedTuple):
    """A number that lies between `lower` and `upper`."""

    lower: float
    upper: float


class Shares(NamedTuple):
    """What decides over exclusion and coverage; see `Specialization`."""

    shared: Bounds
    overlap: Bounds
    coverage: Bounds


class Specialization(NamedTuple):
    """A parent with its children.

    Attributes:
        pair: upstream layer of the parent, downstream layer of the children.
        parent: index of the parent; count: n_p.
        edges: int64 `[C]`, the edges parent→child by their index in the pair, largest joint count first.
        joint: int64 `[C]`, n_pc.
        necessity: float64 `[C]`, n_pc / n_c.
        shared: the largest shared part of two children.
        overlap: of the children within the parent, as a share of n_p.
        coverage: by the children, as a share of n_p.
        counted: the truth table that the last three are from, whose ends are then equal; None where they are bounds.
    """

    pair: Pair
    parent: int
    count: int
    edges: np.ndarray
    joint: np.ndarray
    necessity: np.ndarray
    shared: Bounds
    overlap: Bounds
    coverage: Bounds
    counted: SiblingGroup | None


class Found(NamedTuple):
    """`items` in order (see `specializations`), and how many features may have a parent that is not listed."""

    items: list[Specialization]
    undecided: int


def specializations(
    graph: FeatureGraph,
    *,
    necessity: float = 0.8,
    coverage: float = 0.8,
    max_overlap: float = 0.1,
    min_support: int = 10,
    min_share: float = MIN_SHARE,
    siblings: Mapping[Pair, SiblingGroups] | None = None,
) -> Found:
    """Every parent whose tokens are shared out among children, as far as the tables can tell.

    Children are taken by joint count, largest first; one that certainly overlaps too much with those already taken is left out.
    Necessity, support and share are of all tokens whatever the rest is from.

    Args:
        graph: of a snapshot.
        necessity: smallest P(parent | child).
        coverage: smallest share of the parent that the children may cover, by the upper bound of the coverage.
        max_overlap: largest shared part of two children, by its lower bound; the overlap of all of them may be no more either.
        min_support: smallest joint count of parent and child.
        min_share: smallest n_pc / n_p.
        siblings: layer pair → the groups that are counted; None, or a pair that is not there: none.

    Returns:
        Those whose shared parts are certainly at most `max_overlap` first, then by the lower bound of the coverage, then by parent.
    """
    found, undecided = [], 0
    overlaps = Overlaps(graph)
    for pair, edges in graph.edges.items():
        n_up, n_down = graph.layers[pair[0]].count, graph.layers[pair[1]].count
        implied = edges.joint >= necessity * n_down[edges.down]
        undecided += int((np.bincount(edges.down[implied], minlength=1) >= graph.k).sum())
        share = edges.joint / n_up[edges.up]
        chosen = np.flatnonzero(implied & (edges.joint >= min_support) & (share >= min_share) & (share < coverage))
        for parent, candidates in _by_parent(edges, chosen):
            n_p = int(n_up[parent])
            if len(candidates) >= 2 and edges.joint[candidates].sum() >= coverage * n_p:
                group = None
                if siblings is not None and pair in siblings:
                    group = siblings[pair].best(parent, edges.down[candidates].tolist(), min_support)
                item = _find(overlaps, _Parent(pair, parent, n_p, candidates), group, max_overlap, coverage, min_support)
                if item is not None:
                    found.append(item)
    found.sort(key=lambda item: (item.shared.upper > max_overlap, -item.coverage.lower, item.pair, item.parent))
    return Found(found, undecided)


def _by_parent(edges: Edges, chosen: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """The chosen edges of each parent, largest joint count first, ties by child."""
    order = chosen[np.lexsort((edges.down[chosen], -edges.joint[chosen], edges.up[chosen]))]
    parents = edges.up[order]
    cuts = np.flatnonzero(np.diff(parents)) + 1
    groups = np.split(order, cuts) if len(order) else []
    return [(int(edges.up[group[0]]), group) for group in groups]


class _Parent(NamedTuple):
    """A parent with its candidates: edges of the layer pair, largest joint count first."""

    pair: Pair
    index: int
    count: int
    edges: np.ndarray


def _find(
    overlaps: Overlaps, parent: _Parent, group: SiblingGroup | None, max_overlap: float, coverage: float, min_support: int
) -> Specialization | None:
    """From the group's counts where they suffice, else by bounds; None where no children cover enough."""
    told: list[int] = []
    if group is not None:
        children = overlaps.graph.edges[parent.pair].down[parent.edges]
        told = told_of(group, children.tolist(), min_support)
        item = _choose_counted(overlaps.graph, parent._replace(edges=parent.edges[np.isin(children, told)]), group, max_overlap)
        if item is not None and item.coverage.lower >= coverage:
            return item
        if len(told) == len(children):
            return None

    def share(a: int, b: int) -> bool:
        """Whether two children share too much, as far as the group tells."""
        if group is None or not (a in told and b in told):
            return False
        return group.both_within(a, b) > max_overlap * min(group.joint(a), group.joint(b))

    item = _choose(overlaps, parent, share, max_overlap)
    return item if item is not None and item.coverage.upper >= coverage else None


def _choose_counted(graph: FeatureGraph, parent: _Parent, group: SiblingGroup, max_overlap: float) -> Specialization | None:
    """Children that exclude each other by the counts of a group that tells of every candidate."""
    edges, since = graph.edges[parent.pair], group.parent_count
    taken: list[int] = []
    children: list[int] = []
    shared = 0.0
    for edge in parent.edges.tolist():
        child = int(edges.down[edge])
        parts = [group.both_within(child, other) / min(group.joint(child), group.joint(other)) for other in children]
        most = max([0.0, *parts])
        if most <= max_overlap and group.overlap([*children, child]) <= max_overlap * since:
            taken.append(edge)
            children.append(child)
            shared = max(shared, most)
    if len(taken) < 2:
        return None
    overlap, covered = group.overlap(children) / since, group.union_within(children) / since
    exact = Shares(*(Bounds(one, one) for one in (shared, overlap, covered)))
    return _item(graph, parent, taken, exact, group)


def _choose(overlaps: Overlaps, parent: _Parent, share: Callable[[int, int], bool], max_overlap: float) -> Specialization | None:
    """Children that may exclude each other as far as bounds tell, and `share` does not deny it of two of them."""
    edges, n_p = overlaps.graph.edges[parent.pair], parent.count
    taken: list[int] = []
    total, least, most, shared = 0, 0.0, 0.0, Bounds(0.0, 0.0)
    for edge in parent.edges.tolist():
        child, joint = int(edges.down[edge]), int(edges.joint[edge])
        others = [(int(edges.down[other]), int(edges.joint[other])) for other in taken]  # each at least as large as this one
        if any(share(child, other) for other, _ in others):
            continue
        within = [_within(overlaps, parent.pair, n_p, (child, joint), other) for other in others]
        low, high = max([0.0, *(one.lower for one in within)]), [one.upper for one in within]
        if low > max_overlap * joint or max(least + low, total + joint - n_p) > max_overlap * n_p:
            continue
        taken.append(edge)
        total, least, most = total + joint, least + low, most + sum(high)
        shared = Bounds(max(shared.lower, low / joint), max([shared.upper, *(one / joint for one in high)]))
    if len(taken) < 2:
        return None
    least, largest = max(least, total - n_p), float(edges.joint[taken].max())
    covered = Bounds(max(largest, total - most) / n_p, min(1.0, (total - least) / n_p))
    overlap = Bounds(least / n_p, min(most, total - largest) / n_p)
    return _item(overlaps.graph, parent, taken, Shares(shared, overlap, covered), None)


def _item(graph: FeatureGraph, parent: _Parent, taken: list[int], shares: Shares, counted: SiblingGroup | None) -> Specialization:
    edges, at = graph.edges[parent.pair], np.array(taken, np.int64)
    joint = edges.joint[at]
    necessity = joint / graph.layers[parent.pair[1]].count[edges.down[at]]
    return Specialization(parent.pair, parent.index, parent.count, at, joint, necessity, *shares, counted)


def _within(overlaps: Overlaps, pair: Pair, n_p: int, one: tuple[int, int], other: tuple[int, int]) -> Bounds:
    """Tokens of the parent on which two children fire, each given as (index, n_pc)."""
    (a, n_pa), (b, n_pb) = one, other
    n_down = overlaps.graph.layers[pair[1]].count
    anywhere = overlaps.bounds(pair[1], a, b)
    outside = min(int(n_down[a]) - n_pa, int(n_down[b]) - n_pb)
    return Bounds(max(0.0, n_pa + n_pb - n_p, anywhere.lower - outside), min(anywhere.upper, n_pa, n_pb))


class _Lists(NamedTuple):
    """One layer's lists in one direction, as rows: feature f has `partner`, `joint` and `most`, what that may be at most, at
    `offsets[f] : offsets[f + 1]`.

    `absent` int64 `[D]`: no unlisted partner has a larger joint count. `partner_count`, `partner_absent`: of the other layer.
    """

    offsets: np.ndarray
    partner: np.ndarray
    joint: np.ndarray
    most: np.ndarray
    absent: np.ndarray
    partner_count: np.ndarray
    partner_absent: np.ndarray


class Overlaps:
    """Bounds on how often two features of one layer fire together, from what is counted across layers."""

    def __init__(self, graph: FeatureGraph) -> None:
        self.graph = graph
        self._lists: dict[int, list[_Lists]] = {}
        self._known: dict[tuple[int, int, int], Bounds] = {}
        for (up, down), edges in graph.edges.items():
            sizes = [len(graph.layers[layer].count) for layer in (up, down)]
            unlisted = graph.unlisted.get((up, down), (0, 0))
            absent_up = _most_unlisted(edges.up, edges.joint, sizes[0], graph, unlisted[0])
            absent_down = _most_unlisted(edges.down, edges.joint, sizes[1], graph, unlisted[1])
            most = edges.joint + edges.error
            by_down = np.lexsort((edges.up, edges.down))
            of_up, n_down = _offsets(edges.up, sizes[0]), graph.layers[down].count
            rows = _Lists(of_up, edges.down, edges.joint, most, absent_up, n_down, absent_down)
            columns = _Lists(
                _offsets(edges.down, sizes[1]),
                edges.up[by_down],
                edges.joint[by_down],
                most[by_down],
                absent_down,
                graph.layers[up].count,
                absent_up,
            )
            self._lists.setdefault(up, []).append(rows)
            self._lists.setdefault(down, []).append(columns)

    def bounds(self, layer: int, a: int, b: int) -> Bounds:
        """Tokens at which features a and b of one layer are both active: at least, and at most."""
        key = (layer, min(a, b), max(a, b))
        if key not in self._known:
            self._known[key] = self._bounds(*key)
        return self._known[key]

    def _bounds(self, layer: int, a: int, b: int) -> Bounds:
        count = self.graph.layers[layer].count
        n_a, n_b = int(count[a]), int(count[b])
        lower, upper = max(0, n_a + n_b - self.graph.tokens), min(n_a, n_b)
        for lists in self._lists.get(layer, []):
            of_a, of_b = (slice(lists.offsets[f], lists.offsets[f + 1]) for f in (a, b))
            witnesses = np.union1d(lists.partner[of_a], lists.partner[of_b])
            if not len(witnesses):
                continue
            low_a, high_a = _joint(lists, of_a, witnesses, int(lists.absent[a]), n_a)
            low_b, high_b = _joint(lists, of_b, witnesses, int(lists.absent[b]), n_b)
            lower = max(lower, int((low_a + low_b - lists.partner_count[witnesses]).max()))
            upper = min(upper, int((np.minimum(high_a, high_b) + np.minimum(n_a - low_a, n_b - low_b)).min()))
        return Bounds(float(lower), float(upper))


def _joint(lists: _Lists, own: slice, witnesses: np.ndarray, absent: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Joint counts of one feature with each witness, int64 `[W]`: at least, and at most."""
    low = np.zeros(len(witnesses), np.int64)
    high = np.minimum(np.minimum(absent, count), lists.partner_absent[witnesses])
    high = np.minimum(high, lists.partner_count[witnesses])
    at = np.searchsorted(witnesses, lists.partner[own])
    low[at], high[at] = lists.joint[own], lists.most[own]
    return low, high


def _most_unlisted(owner: np.ndarray, joint: np.ndarray, size: int, graph: FeatureGraph, missing: np.ndarray | int) -> np.ndarray:
    """int64 `[D]`: the k-th largest listed joint count of each feature; one below the support where fewer are listed. Of a bounded
    table, which may lack up to `missing` of any count and lists none that may lack more than it has, that much more."""
    order = np.lexsort((-joint, owner))
    offsets = _offsets(owner, size)
    most = np.full(size, graph.min_support - 1, np.int64)
    full = np.flatnonzero(np.diff(offsets) >= graph.k)
    most[full] = joint[order[offsets[full] + graph.k - 1]]
    return np.maximum(most, missing) + missing


def _offsets(owner: np.ndarray, size: int) -> np.ndarray:
    offsets = np.zeros(size + 1, np.int64)
    np.cumsum(np.bincount(owner, minlength=size), out=offsets[1:])
    return offsets
