"""`/v1/communities`: groups of features that fire together over several layers.

The analysis worker splits the cross-layer graph of a whole published snapshot; here it is checked, asked for and encoded.
"""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, get
from litestar.openapi.spec import Example
from litestar.params import Parameter

from api.corpora import MOST, PAGE, Cursor, Limit
from api.gates import known_choice
from api.parameters import known_feature, parse_feature, within
from api.relations import Measure, MinSupport, answer_of
from api.run import Run
from engine.errors import BadValue
from engine.settings import Settings
from engine.views.communities import (
    MAX_SIZE,
    MIN_SIZE,
    MIN_VALUE,
    OBJECTIVES,
    RESOLUTIONS,
    SORTS,
    CommunitiesRequest,
    CommunityOfRequest,
    CommunityRequest,
    check_sizes,
    number_of,
    partition_of,
)
from engine.views.community_answers import CommunitiesAnswer, CommunityAnswer, CommunityOfAnswer
from engine.views.reader import Views
from engine.views.relations import support_of

MOST_FEATURES = 1_000
"""Features whose communities are told at once: as many as a drawing shows."""

MinValue = Annotated[
    float | None,
    Parameter(
        description=f"smallest value of the measure that makes a pair an edge, above 0; {MIN_VALUE:g} by default (lift and "
        "mutual_information have no default)"
    ),
]
Rank = Annotated[
    str | None,
    Parameter(
        description="the value that counts, and that an edge weighs: lower (the heuristic lower bound, the default where the "
        "measure has one) or estimate"
    ),
]
Objective = Annotated[str, Parameter(description=f"what the communities maximise: {', '.join(OBJECTIVES)}")]
Resolution = Annotated[
    float | None,
    Parameter(
        description="above 0; the higher, the smaller communities get; by default "
        + ", ".join(f"{value:g} for {objective}" for objective, value in RESOLUTIONS.items())
    ),
]
MinSize = Annotated[int, Parameter(description="features of a community that is listed, at least; 2 or more")]
MaxSize = Annotated[int, Parameter(description="and at most")]
MinSpan = Annotated[int, Parameter(description="layers from its first to its last, at least")]
_ANY = "of the list; it does not matter here"
AnySize = Annotated[int | None, Parameter(description=_ANY)]


@get("/v1/communities", summary="Groups of features over layers", tags=["relations"])
async def communities(
    request: Request[Any, Any, Any],
    views: Views,
    run: Run,
    settings: Settings,
    measure: Measure = "jaccard",
    min_value: MinValue = None,
    rank: Rank = None,
    min_support: MinSupport = None,
    objective: Objective = "modularity",
    resolution: Resolution = None,
    min_size: MinSize = MIN_SIZE,
    max_size: MaxSize = MAX_SIZE,
    min_span: MinSpan = 1,
    sort: Annotated[str, Parameter(description=f"{', '.join(SORTS)}; largest first")] = "size",
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> Response[CommunitiesAnswer]:
    """The cross-layer graph of a measure split into communities (Leiden), and how far to trust it: both halves of the documents
    are split alone, `agreement` says how far the two agree, and `stability` how much of a community both find again. An id stays
    with its community from snapshot to snapshot, for the same measure, values and objective. What is asked for often is not
    computed for every snapshot: see `snapshot`.
    """
    check_sizes(min_size, max_size)
    known_choice("sort", sort, SORTS)
    asked = CommunitiesRequest(
        by=partition_of(measure, min_value, rank, support_of(min_support, settings.min_support), objective, resolution),
        min_size=min_size,
        max_size=max_size,
        min_span=within("min_span", min_span, 1, len(run.description().layers)),
        sort=sort,  # pyright: ignore[reportArgumentType]  (checked above)
    )
    return await answer_of(request, views, asked, limit, cursor)


@get("/v1/communities/of", summary="Where features belong", tags=["relations"])
async def community_of(
    request: Request[Any, Any, Any],
    views: Views,
    run: Run,
    settings: Settings,
    feature: Annotated[str, Parameter(description=f"layer:index, or several separated by commas, at most {MOST_FEATURES:,}")],
    measure: Measure = "jaccard",
    min_value: MinValue = None,
    rank: Rank = None,
    min_support: MinSupport = None,
    objective: Objective = "modularity",
    resolution: Resolution = None,
    min_size: AnySize = None,
    max_size: AnySize = None,
    min_span: AnySize = None,
) -> Response[CommunityOfAnswer]:
    """The communities of features, whatever their size, by the same parameters as the list."""
    named = feature.split(",")
    if len(named) > MOST_FEATURES:
        raise BadValue(f"feature: {len(named):,} features, at most {MOST_FEATURES:,} can be asked for at once")
    features = [parse_feature(text, "feature") for text in named]
    for one in features:
        known_feature(run.description(), one)
    by = partition_of(measure, min_value, rank, support_of(min_support, settings.min_support), objective, resolution)
    return await answer_of(request, views, CommunityOfRequest(by=by, features=features), MOST, None)


@get("/v1/communities/{community:str}", summary="One group of features", tags=["relations"])
async def community(
    request: Request[Any, Any, Any],
    views: Views,
    settings: Settings,
    community: Annotated[str, Parameter(description="its id", examples=[Example(value="c17")])],
    measure: Measure = "jaccard",
    min_value: MinValue = None,
    rank: Rank = None,
    min_support: MinSupport = None,
    objective: Objective = "modularity",
    resolution: Resolution = None,
    min_size: AnySize = None,
    max_size: AnySize = None,
    min_span: AnySize = None,
) -> Response[CommunityAnswer]:
    """A community with its features and the edges between them, largest weight first, by the same parameters as the list that
    its id is from; at most 1,000 features and 10,000 edges.
    """
    by = partition_of(measure, min_value, rank, support_of(min_support, settings.min_support), objective, resolution)
    return await answer_of(request, views, CommunityRequest(by=by, number=number_of(community)), MOST, None)


ROUTES = [communities, community_of, community]
