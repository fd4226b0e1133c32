"""`POST /v1/graph`: the features that are active on a prompt, and how they are related."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response, post

from api.json_body import json_body
from api.negotiation import answer
from api.parameters import needs_model
from api.run import Run
from engine.settings import Settings
from engine.views.graph_answers import MOST_TOKENS, GraphAnswer, GraphRequest, check_graph
from engine.views.reader import Views

MOST_BYTES = 64 << 10
"""Of a body: 256 tokens are some kilobytes, so that what is a little too long is refused by its tokens, which is the limit."""

SECONDS = 15.0
"""How long a prompt waits. The engine looks for prompts after every micro-batch (at most 0.5 s); the longest that it does between
two of them on the demo is a choice of gates, about 1 s."""


class GraphBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/graph`; see `GraphRequest`. `min_support` is the run's where it is not given."""

    prompt: str
    token: int | None = None
    measure: str = "jaccard"
    min_value: float = 0.1
    min_support: int | None = None
    per_layer: int = 20
    edges: int = 400


@post("/v1/graph", status_code=200, summary="The graph of a prompt", tags=["statistics"])
async def graph(request: Request[Any, Any, Any], views: Views, run: Run, settings: Settings) -> Response[GraphAnswer]:
    """Run a text of at most 256 tokens through model and SAEs: `{"prompt": "The cat sat on the mat", "token": 3}`.

    The answer has the features that are active on the token (on any, without `token`), of each layer the `per_layer` most active
    ones; the edges between them that reach `min_value` of `measure` with a joint count of at least `min_support`, with bounds as of
    neighbours; and the gates among them. Edges and gates are of all text that is counted, live from the engine; the prompt itself
    is counted nowhere. Windows, BOS, special tokens and thresholds are those of counting. 429 with `Retry-After` while too many
    prompts wait, 409 in a run without a model.
    """
    body = await json_body(
        request,
        GraphBody,
        most_bytes=MOST_BYTES,
        example='{"prompt": "The cat sat on the mat", "token": 3}',
        too_large=f"a prompt has at most {MOST_TOKENS} tokens",
    )
    needs_model(run.description(), "no prompt can be run through it")
    asked = GraphRequest(
        prompt=body.prompt,
        token=body.token,
        measure=body.measure,
        min_value=body.min_value,
        min_support=settings.min_support if body.min_support is None else body.min_support,
        per_layer=body.per_layer,
        edges=body.edges,
    )
    check_graph(asked)
    return answer(request, await views.live(asked, SECONDS))


ROUTES = [graph]
