"""The answers about communities: the structs of the HTTP contract, which the analysis worker fills in."""

from __future__ import annotations

import msgspec

from engine.views.answers import Rank, SnapshotAnswer
from engine.views.communities import Objective
from engine.views.relation_answers import ListsAnswer


class LayersAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The layers in which a community begins and ends."""

    first: int
    last: int


class StabilityAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a community either half of the documents finds again: its overlap (features in both over features in either) with
    the community of half A, and of half B, that is most like it, and the mean of the two."""

    a: float
    b: float
    mean: float


class CommunityItemAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One community.

    Attributes:
        id: stays with it from snapshot to snapshot, as long as a third or more of what the two hold together is common.
        size: features; layers: of these by layer; span: its first and last layer.
        density: edges within it, of the pairs of its features whose layers the run pairs.
        internal_weight: sum of the weights of these edges.
        stability: null where the halves are not known (see `agreement` of the list).
        top: the features with the largest weight within it, at most five.
        since_tokens: tokens that were counted when the id first appeared.
    """

    id: str
    size: int
    span: LayersAnswer
    layers: dict[str, int]
    density: float
    internal_weight: float
    stability: StabilityAnswer | None
    top: list[str]
    since_tokens: int


class HalvesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How far the communities of half A and of half B of the documents agree: adjusted mutual information, 1 for the same and 0 for
    what chance gives, over the `features` that have an edge in both; null with a reason."""

    adjusted_mutual_information: float | None
    features: int | None
    reason: str | None


class CommunitiesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The communities of the cross-layer graph.

    Attributes:
        nodes, edges: of the graph; communities: groups of two features or more that it was split into.
        quality: modularity, or the quality by CPM; null without an edge.
        lists: what the edges were read from; `undecided` counts features that may have further ones.
        reason: why there is no edge, else null.
        total: communities within the bounds that were asked for; `items` are these.
    """

    measure: str
    min_value: float
    rank: Rank
    min_support: int
    objective: Objective
    resolution: float
    nodes: int
    edges: int
    communities: int
    quality: float | None
    agreement: HalvesAnswer
    lists: ListsAnswer
    reason: str | None
    total: int
    items: list[CommunityItemAnswer]
    next: str | None
    snapshot: SnapshotAnswer


class MemberAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A feature of a community: the share of tokens on which it is active, and the weight of its edges within the community."""

    feature: str
    layer: int
    index: int
    density: float
    internal_weight: float


class CommunityEdgeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A pair within a community: `value` is the estimate of the measure, `lower` its heuristic bound from the counts, null where it
    has none."""

    up: str
    down: str
    value: float
    lower: float | None


class DroppedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How many features and edges, those of the least weight, are not listed."""

    features: int
    edges: int


class CommunityAnswer(CommunityItemAnswer, frozen=True, kw_only=True):
    """One community with its features and the edges between them, largest weight first."""

    features: list[MemberAnswer]
    edges: list[CommunityEdgeAnswer]
    dropped: DroppedAnswer
    snapshot: SnapshotAnswer


class CommunityOfAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Where features belong.

    Attributes:
        features: each feature that was asked for → the id of its community; null where it is in none.
        community: that of the first feature; null with a reason.
    """

    features: dict[str, str | None]
    community: CommunityItemAnswer | None
    reason: str | None
    snapshot: SnapshotAnswer
