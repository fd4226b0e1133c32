"""Questions about communities, and what they may say."""

from __future__ import annotations

import math
import re
from typing import Literal, get_args

import msgspec

from engine.errors import BadInput, BadValue
from engine.measures.relations import check_threshold
from engine.views.answers import Rank, check_ranking

MIN_VALUE = 0.1
"""Default of the smallest measure of an edge, for the measures that reach to 1. On the demo 27,373 pairs have a Jaccard of which
even the lower bound is that high, four for a feature; at 0.4 it is one."""

Objective = Literal["modularity", "cpm"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)

RESOLUTIONS: dict[Objective, float] = {"modularity": 1.0, "cpm": 0.05}
"""Default resolutions: modularity as it was first defined; for CPM a twentieth of the pairs, at a weight of 1."""

Sort = Literal["size", "stability", "density"]
SORTS: tuple[Sort, ...] = get_args(Sort)

MIN_SIZE, MAX_SIZE = 5, 199
"""Features of a community that a list shows by default: less is a chain of partners (see lineages), more has no one topic."""

_ID = re.compile(r"c(\d{1,9})", re.ASCII)


class Partition(msgspec.Struct, frozen=True, kw_only=True):
    """What the communities of a snapshot depend on.

    Attributes:
        measure, min_value: an edge is a pair with at least this value of it.
        rank: which value: the heuristic lower bound, or the estimate; it is also the weight of the edge.
        min_support: smallest joint count of an edge.
        objective, resolution: see `engine.measures.communities`.
    """

    measure: str
    min_value: float
    rank: Rank
    min_support: int
    objective: Objective
    resolution: float


class CommunitiesRequest(msgspec.Struct, frozen=True, kw_only=True, tag="communities"):
    """Communities within these bounds of size (features) and span (layers from the first to the last)."""

    by: Partition
    min_size: int
    max_size: int
    min_span: int
    sort: Sort


class CommunityRequest(msgspec.Struct, frozen=True, kw_only=True, tag="community"):
    """One community with its features and edges."""

    by: Partition
    number: int


class CommunityOfRequest(msgspec.Struct, frozen=True, kw_only=True, tag="community of"):
    """The communities of these features."""

    by: Partition
    features: list[tuple[int, int]]


def partition_of(
    measure: str, min_value: float | None, rank: str | None, min_support: int, objective: str, resolution: float | None
) -> Partition:
    """The parameters, with defaults where they are None.

    Raises:
        BadValue: one that can't be; the message names it and what is allowed.
    """
    if min_value is None and measure in ("lift", "mutual_information"):
        raise BadValue(f"min_value: it must be given for {measure}, which has no natural scale from 0 to 1")
    least = MIN_VALUE if min_value is None else min_value
    check_threshold(measure, least, "min_value")
    if objective not in OBJECTIVES:
        raise BadValue(f"objective = {objective!r}: it must be one of {', '.join(OBJECTIVES)}")
    gamma = RESOLUTIONS[objective] if resolution is None else resolution
    if not (gamma > 0 and math.isfinite(gamma)):
        raise BadValue(f"resolution = {gamma:g}: it must be above 0; the higher, the smaller communities get")
    return Partition(
        measure=measure,
        min_value=least,
        rank=check_ranking("downstream", measure, 1, min_support, rank),
        min_support=min_support,
        objective=objective,
        resolution=gamma,
    )


def check_sizes(min_size: int, max_size: int) -> None:
    """Refuse bounds that no community can be within.

    Raises:
        BadValue: the message names the value.
    """
    if min_size < 2:
        raise BadValue(f"min_size = {min_size}: a community has two features or more")
    if max_size < min_size:
        raise BadValue(f"max_size = {max_size}: it must be min_size = {min_size} or more")


def number_of(text: str) -> int:
    """`"c17"` → 17.

    Raises:
        BadInput: another form.
    """
    match = _ID.fullmatch(text)
    if match is None:
        raise BadInput(f"community = {text!r}: the id of a community is written c17")
    return int(match[1])
