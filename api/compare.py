"""`GET /v1/compare…`: what differs most between two corpora."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, get
from litestar.openapi.spec import Example
from litestar.params import Parameter

from api.negotiation import answer
from api.parameters import known_corpus, within
from engine.corpus.inbox import Inbox
from engine.errors import BadValue
from engine.views.corpus_answers import CompareAnswer, CompareEdgesAnswer
from engine.views.lists import Page
from engine.views.reader import Views
from engine.views.requests import CompareEdgesRequest, CompareRequest

PAGE = 100
MOST = 1_000

A = Annotated[str, Parameter(description="a corpus")]
B = Annotated[str, Parameter(description="another corpus; differences are the first minus this one")]
Limit = Annotated[int, Parameter(description="items of a page, at most")]
Cursor = Annotated[str | None, Parameter(description="`next` of the page before")]


@get("/v1/compare", summary="Features that differ between two corpora", tags=["statistics"])
async def compare(
    request: Request[Any, Any, Any],
    views: Views,
    inbox: Inbox,
    a: A,
    b: B,
    layer: Annotated[int | None, Parameter(description="whose features; those of all layers by default")] = None,
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> Response[CompareAnswer]:
    """Features by how much their density (the share of tokens at which they are active) differs at least.

    That is the distance of the difference's interval from 0. All intervals of the answer, and of all its pages, hold together at
    level `alpha`: what was picked for its difference is not judged more mildly than all others. Live from the engine, over the
    documents that have ended; features without an interval come last.
    """
    _check(inbox, a, b, limit)
    return answer(request, await views.live(CompareRequest(a, b, layer, Page(limit, cursor))))


@get("/v1/compare/edges", summary="Pairs that differ between two corpora", tags=["statistics"])
async def compare_edges(
    request: Request[Any, Any, Any],
    views: Views,
    inbox: Inbox,
    a: A,
    b: B,
    up: Annotated[int, Parameter(description="the earlier layer", examples=[Example(value=3)])],
    down: Annotated[int, Parameter(description="the later layer", examples=[Example(value=4)])],
    measure: Annotated[str, Parameter(description="jaccard, sufficiency, necessity or pearson")] = "jaccard",
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> Response[CompareEdgesAnswer]:
    """Watched pairs of a layer pair (published leaders and what was pinned by `POST /v1/watch`) by how much a measure differs.

    Over documents that began behind the place where a pair was chosen, so also `estimate` is over these; the rest as for features.
    """
    _check(inbox, a, b, limit)
    return answer(request, await views.live(CompareEdgesRequest(a, b, (up, down), measure, Page(limit, cursor))))


def _check(inbox: Inbox, a: str, b: str, limit: int) -> None:
    """Refuse two corpora that can't be compared.

    Raises:
        Unknown: a corpus that nothing was sent of. BadValue: twice the same, or a limit out of range.
    """
    within("limit", limit, 1, MOST)
    for corpus in (a, b):
        known_corpus(inbox, corpus)
    if a == b:
        raise BadValue(f"a and b are both {a!r}: a corpus does not differ from itself, name two")


ROUTES = [compare, compare_edges]
