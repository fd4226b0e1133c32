"""The answers about relations between features: the structs of the HTTP contract, which the analysis worker fills in."""

from __future__ import annotations

from typing import Literal

import msgspec

from engine.views.answers import CountsAnswer, SnapshotAnswer

Kind = Literal["passed", "disappeared", "hidden", "passed_into", "appeared"]
KINDS: tuple[Kind, ...] = ("passed", "disappeared", "hidden", "passed_into", "appeared")


class LinkAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A pair of features: its counts, the measure that was asked for (`estimate`), and all of them."""

    up: str
    down: str
    counts: CountsAnswer
    estimate: float | None
    measures: dict[str, float | None]


class ListsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the answer was read from: for each feature the best `published_k` partners by every measure, among those with a joint
    count of at least `min_support`. `undecided` counts features for which a partner outside of these lists could change the answer
    (none where the question's own `min_support` is this one); null where nothing can be said, with decoder cosines that are not
    ranked."""

    published_k: int
    min_support: int
    undecided: int | None


class GroupAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A number of features, and its share of those that it is counted among (null when there are none)."""

    count: int
    share: float | None


class FlowGroupAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Among features that ever fired, and among all (dead ones have no partner, so they disappear and appear)."""

    live: GroupAnswer
    all: GroupAnswer


class FlowLayerAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a layer pair.

    Attributes:
        features: size of the dictionary; live: features that ever fired; dead: the others.
        rare: live features that fired on fewer than `min_support` tokens: they can't have a partner yet.
        undecided: features without a partner in the lists that may have one outside of them.
    """

    layer: int
    features: int
    live: int
    dead: int
    rare: int
    undecided: int


class HiddenMediansAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Medians over the `features` that were active in enough windows, null without any: the shares of what a feature wrote that
    lie in the next SAE's error, and in the stream at all, and the two baselines of the first (`engine.measures.hidden`)."""

    features: int
    error_share: float | None
    stream_share: float | None
    random: float | None
    decoder: float | None


class FlowHiddenAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Upstream features in the error of the downstream SAE, from one window in 16.

    Attributes:
        all, disappeared: live upstream features that were active in at least `hidden_windows` of those windows, and of them those
            that disappear; null with `reason`.
        hidden: of these disappeared ones, those whose error share is at least `hidden_share`, and at least `hidden_factor` times
            the larger baseline.
        reason: why nothing is known of this layer pair.
    """

    all: HiddenMediansAnswer | None
    disappeared: HiddenMediansAnswer | None
    hidden: GroupAnswer | None
    reason: str | None


class FlowPairAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One layer pair. Upstream features are `passed` or `disappeared`, downstream ones `passed_into` or `appeared`."""

    up: FlowLayerAnswer
    down: FlowLayerAnswer
    passed: FlowGroupAnswer
    disappeared: FlowGroupAnswer
    passed_into: FlowGroupAnswer
    appeared: FlowGroupAnswer
    hidden: FlowHiddenAnswer


class FlowItemAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One live feature; `best` is its best partner at or above the threshold, null where it has none. `error_share` is that of an
    upstream feature that was active in enough windows."""

    feature: str
    count: int
    best: LinkAnswer | None
    error_share: float | None


class FlowAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What passes from layer to layer. `items`, `total` and `next` are of the `kind` that was asked for, else null."""

    measure: str
    threshold: float
    min_support: int
    hidden_share: float
    hidden_factor: float
    hidden_windows: int
    lists: ListsAnswer
    pairs: list[FlowPairAnswer]
    kind: Kind | None
    items: list[FlowItemAnswer] | None
    total: int | None
    next: str | None
    snapshot: SnapshotAnswer


class MassAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One feature of a lineage: active tokens, Σa and Σa² over them, and its shares of the lineage's Σa and Σa²."""

    feature: str
    count: int
    sum: float
    sum_of_squares: float
    share_of_sum: float | None
    share_of_squares: float | None


class WeakestAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The link of a lineage with the lowest measure."""

    up: str
    down: str
    estimate: float


class LineageAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Features that are each other's best partner from layer `birth` to layer `death`, `length` layers in all."""

    birth: int
    death: int
    length: int
    features: list[MassAnswer]
    links: list[LinkAnswer]
    weakest: WeakestAnswer


class LengthAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How many lineages have a length; 1 for live features that stay alone."""

    length: int
    count: int


class SpanAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How many lineages are born in a layer and die in one."""

    birth: int
    death: int
    count: int


class LineagesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`lengths` and `spans` are of all lineages, `total` and `items` of those that were asked for. `path` are the layer pairs that
    lineages follow; a birth in the first layer or a death in the last of them only says that nobody looked further."""

    measure: str
    threshold: float
    min_support: int
    lists: ListsAnswer
    path: list[tuple[int, int]]
    lengths: list[LengthAnswer]
    spans: list[SpanAnswer]
    total: int
    items: list[LineageAnswer]
    next: str | None
    snapshot: SnapshotAnswer


class BoundsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a share is at least and at most; equal where it is counted."""

    lower: float
    upper: float


class ChildAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A child: `counts.joint / counts.down` is its necessity, `counts.joint / counts.up` its part of the parent."""

    feature: str
    counts: CountsAnswer
    necessity: float
    share: float


class CountedChildAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A child in the counted part: tokens on which it is active, and on which the parent is too."""

    feature: str
    count: int
    joint: int


class SiblingPairAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Two children in the counted part: tokens on which both are active, and on which the parent is too."""

    a: str
    b: str
    joint: int
    within: int


class CountedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Exact counts over the `tokens` that came after `counted_from`, where the parent and its children were chosen.

    Attributes:
        parent: tokens on which the parent is active.
        children, pairs: each child, and each two of them.
        union: tokens on which at least one child is active; union_within: on which the parent is too.
    """

    counted_from: int
    tokens: int
    parent: int
    children: list[CountedChildAnswer]
    pairs: list[SiblingPairAnswer]
    union: int
    union_within: int


class ConditionsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The four conditions, each with its number.

    Attributes:
        children: how many.
        necessity: the smallest of the children's P(parent | child).
        shared: of two children within the parent, the largest overlap over the tokens of the smaller one.
        exclusive: "exact" where the children's joint counts are known: then `shared`, `overlap` and `coverage` are from `counted`.
            Elsewhere they are bounds: "shown" when even the upper end of `shared` is within the bound that was asked for, "bounded"
            when only the lower end is.
        overlap: tokens of the parent shared by children, Σ_t max(0, children active − 1) / n_p; at least Σ_c n_pc / n_p − 1.
        coverage: tokens of the parent at which a child is active, as a share of n_p.
        counted: the counts that make it exact, or null.
    """

    children: int
    necessity: float
    shared: BoundsAnswer
    exclusive: Literal["exact", "shown", "bounded"]
    overlap: BoundsAnswer
    coverage: BoundsAnswer
    counted: CountedAnswer | None


class SpecializationAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One parent upstream with its children downstream, largest part first."""

    parent: str
    count: int
    layer: int
    children_layer: int
    children: list[ChildAnswer]
    conditions: ConditionsAnswer


class SpecializationsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`threshold` is the smallest necessity of a child, `min_share` its smallest part of the parent; `shown` counts those whose
    children exclude each other for certain, by exact counts or by bounds."""

    measure: Literal["necessity"]
    threshold: float
    coverage: float
    max_overlap: float
    min_share: float
    min_support: int
    lists: ListsAnswer
    total: int
    shown: int
    items: list[SpecializationAnswer]
    next: str | None
    snapshot: SnapshotAnswer


class MatchedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A matching as a whole: pairs, the sum that it maximises, and from how many candidate pairs it was chosen."""

    matched: int
    total: float
    candidates: int


class DataFreeAnswer(MatchedAnswer, frozen=True, kw_only=True):
    """From the decoders alone: "folded" by each feature's threshold, or "cosine" where there are no thresholds to fold."""

    vectors: Literal["folded", "cosine"]


class AgreementAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Upstream features that both matchings match, those of them matched to the same partner, and the share."""

    both: int
    same: int
    share: float | None


class MatchAnswer(LinkAnswer, frozen=True, kw_only=True):
    """A matched pair; `data_free` is the partner that the decoders alone give the upstream feature."""

    data_free: str | None


class MatchingAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One-to-one matching of a layer pair, by the measure and by the decoders; without decoders `data_free_reason` says why."""

    pair: tuple[int, int]
    measure: str
    threshold: float
    min_support: int
    published_k: int
    published_min_support: int
    by_measure: MatchedAnswer
    data_free: DataFreeAnswer | None
    data_free_reason: str | None
    agreement: AgreementAnswer | None
    total: int
    items: list[MatchAnswer]
    next: str | None
    snapshot: SnapshotAnswer
