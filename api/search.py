"""`GET /v1/search`: features by a text in their contexts."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, get
from litestar.params import Parameter

from api.corpora import Cursor, Limit
from api.parameters import needs_model
from api.relations import answer_of
from api.run import Run
from engine.views.reader import Views
from engine.views.search_answers import LONGEST, SHORTEST, SearchAnswer, SearchRequest, check_search

PAGE = 20


@get("/v1/search", summary="Features whose text contains a word", tags=["statistics"])
async def search(
    request: Request[Any, Any, Any],
    views: Views,
    run: Run,
    q: Annotated[str, Parameter(description=f"{SHORTEST} to {LONGEST} characters; blanks count, case does not")],
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> Response[SearchAnswer]:
    """Features with a context that contains `q`, in whatever case: the text around one of their strongest activations, as
    `/v1/features/{layer}/{index}/contexts` shows it. Those that fire on it come first (`at_peak`: `q` is at the strongest token),
    then those with most such contexts. Read from the contexts of a published snapshot, which may be some seconds behind the newest.
    409 in a run without a model.
    """
    check_search(q)
    needs_model(run.description(), "there is no text to search")
    return await answer_of(request, views, SearchRequest(q=q), limit, cursor)


ROUTES = [search]
