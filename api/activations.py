"""`POST /v1/activations`: sparse activations that were computed elsewhere."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, post
from litestar.datastructures import State

from api.answers import UploadAnswer
from api.body import body_of, check_of
from api.parameters import Key, Name, Wait
from api.run import Run
from api.uploads import REPEATED, SMALLER, accept
from engine.settings import Settings


@post("/v1/activations", status_code=202, summary="Send activations", tags=["corpora"], responses=REPEATED)
async def send_activations(
    request: Request[Any, Any, Any],
    state: State,
    run: Run,
    settings: Settings,
    name: Name,
    wait: Wait = "durable",
    key: Key = None,
) -> Response[UploadAnswer]:
    """A stream of MessagePack maps, one per document or part of one, consecutive parts of the same `document` being one document.

    `{"document": str, "tokens": T, "layers": [{"offsets": bin, "features": bin, "values": bin}, …]}`, one entry per layer in order:
    `offsets` int32 [T+1], `features` int32 [nnz] strictly increasing within a token, `values` float32 [nnz] > 0, all little-endian.
    """
    async with body_of(request, settings.max_upload_bytes, SMALLER) as body:
        check = check_of(request, "activations", run.description(), settings)
        return await accept(request, state, body, "activations", name, check, key, wait)


ROUTES = [send_activations]
