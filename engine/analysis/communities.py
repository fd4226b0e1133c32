"""The answers about the communities of a snapshot."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.analysis.community_splits import Split
from engine.errors import Unknown
from engine.views.answers import name, snapshot_answer
from engine.views.communities import CommunitiesRequest, CommunityOfRequest, CommunityRequest
from engine.views.community_answers import (
    CommunitiesAnswer,
    CommunityAnswer,
    CommunityEdgeAnswer,
    CommunityItemAnswer,
    CommunityOfAnswer,
    DroppedAnswer,
    LayersAnswer,
    MemberAnswer,
    StabilityAnswer,
)
from engine.views.relations import MOST_ITEMS

_TOP = 5
_MOST_FEATURES, _MOST_EDGES = 1_000, 10_000  # of one community: 0.1 and 0.6 MB of JSON


def about(found: Split, request: CommunitiesRequest | CommunityRequest | CommunityOfRequest) -> tuple[Any, list[Any]]:
    """The answer, without the items of a list, and these.

    Raises:
        Unknown: a community that there is not.
    """
    if isinstance(request, CommunitiesRequest):
        return listed(found, request)
    return (one_community(found, request) if isinstance(request, CommunityRequest) else community_of(found, request)), []


def listed(found: Split, request: CommunitiesRequest) -> tuple[CommunitiesAnswer, list[CommunityItemAnswer]]:
    """The communities within the bounds that were asked for."""
    of, stability = found.shape, _mean(found)
    many = of.size > 1
    span = of.last - of.first + 1
    chosen = np.flatnonzero(many & (of.size >= request.min_size) & (of.size <= request.max_size) & (span >= request.min_span))
    column = {"size": of.size, "stability": stability, "density": of.density}[request.sort]
    order = chosen[np.lexsort((found.named.number[chosen], -of.size[chosen], -column[chosen]))]  # NaN sorts last
    answer = CommunitiesAnswer(
        measure=found.by.measure,
        min_value=found.by.min_value,
        rank=found.by.rank,
        min_support=found.by.min_support,
        objective=found.by.objective,
        resolution=found.by.resolution,
        nodes=len(found.graph.number),
        edges=len(found.graph.up),
        communities=int(many.sum()),
        quality=found.quality if math.isfinite(found.quality) else None,
        agreement=found.agreement,
        lists=found.lists,
        reason=found.reason,
        total=len(order),
        items=[],
        next=None,
        snapshot=snapshot_answer(found.snapshot),
    )
    return answer, [_item(found, one) for one in order[:MOST_ITEMS].tolist()]


def _mean(found: Split) -> np.ndarray:
    return np.full(len(found.shape.size), np.nan) if found.stability is None else found.stability.mean(axis=0)


def _item(found: Split, one: int) -> CommunityItemAnswer:
    of, nodes = found.shape, _members(found, one)
    halves = None if found.stability is None else found.stability[:, one].tolist()
    return CommunityItemAnswer(
        id=f"c{found.named.number[one]}",
        size=int(of.size[one]),
        span=LayersAnswer(first=int(of.first[one]), last=int(of.last[one])),
        layers={str(layer): count for layer, count in enumerate(of.layers[one].tolist()) if count},
        density=float(of.density[one]),
        internal_weight=float(of.weight[one]),
        stability=halves and StabilityAnswer(a=halves[0], b=halves[1], mean=(halves[0] + halves[1]) / 2),
        top=[_name(found, node) for node in nodes[:_TOP].tolist()],
        since_tokens=int(found.named.since[one]),
    )


def _members(found: Split, one: int) -> np.ndarray:
    """Nodes of a community, those with the largest weight within it first."""
    nodes = np.flatnonzero(found.labels == one)
    return nodes[np.lexsort((nodes, -found.shape.node_weight[nodes]))]


def _name(found: Split, node: int) -> str:
    return name((int(found.graph.layer[node]), int(found.graph.index[node])))


def one_community(found: Split, request: CommunityRequest) -> CommunityAnswer:
    """A community with its features and edges.

    Raises:
        Unknown: there is none of this number.
    """
    graph, at = found.graph, np.flatnonzero(found.named.number == request.number)
    if not len(at) or request.number == 0:
        raise Unknown(
            f"there is no community c{request.number} by these parameters in snapshot {found.snapshot.version} "
            f"({found.snapshot.tokens:,} tokens), which has {int((found.shape.size > 1).sum()):,}"
        )
    one = int(at[0])
    nodes = _members(found, one)
    within = np.flatnonzero((found.labels[graph.up] == one) & (found.labels[graph.down] == one))
    within = within[np.argsort(-graph.weight[within], kind="stable")]
    item = _item(found, one)
    return CommunityAnswer(
        **{field: getattr(item, field) for field in CommunityItemAnswer.__struct_fields__},
        features=[
            MemberAnswer(
                feature=_name(found, node),
                layer=int(graph.layer[node]),
                index=int(graph.index[node]),
                density=float(found.density[node]),
                internal_weight=float(found.shape.node_weight[node]),
            )
            for node in nodes[:_MOST_FEATURES].tolist()
        ],
        edges=[
            CommunityEdgeAnswer(
                up=_name(found, int(graph.up[edge])),
                down=_name(found, int(graph.down[edge])),
                value=float(found.value[edge]),
                lower=float(found.lower[edge]) if math.isfinite(found.lower[edge]) else None,
            )
            for edge in within[:_MOST_EDGES].tolist()
        ],
        dropped=DroppedAnswer(features=max(0, len(nodes) - _MOST_FEATURES), edges=max(0, len(within) - _MOST_EDGES)),
        snapshot=snapshot_answer(found.snapshot),
    )


def community_of(found: Split, request: CommunityOfRequest) -> CommunityOfAnswer:
    """The communities of features."""
    first = np.concatenate([[0], np.cumsum(found.sizes)])
    wanted = np.array([first[layer] + index for layer, index in request.features], np.int64)
    at = np.minimum(np.searchsorted(found.graph.number, wanted), max(0, len(found.graph.number) - 1))
    there = found.graph.number[at] == wanted if len(found.graph.number) else np.zeros(len(wanted), bool)
    label = [int(found.labels[node]) if known else -1 for node, known in zip(at.tolist(), there.tolist(), strict=True)]
    ids = [f"c{found.named.number[one]}" if one >= 0 and found.named.number[one] else None for one in label]
    reason = None
    if ids[0] is None:
        bound = " whose lower bound is" if found.by.rank == "lower" else " of"
        alone = f"no pair of {name(request.features[0])} has a {found.by.measure}{bound} {found.by.min_value:g} or more"
        reason = found.reason or (alone if label[0] < 0 else f"{name(request.features[0])} is a community of its own")
    return CommunityOfAnswer(
        features={name(feature): one for feature, one in zip(request.features, ids, strict=True)},
        community=None if ids[0] is None else _item(found, label[0]),
        reason=reason,
        snapshot=snapshot_answer(found.snapshot),
    )
