"""`/v1/watch`: pairs of features whose intervals are kept because someone asked for them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get, post
from litestar.params import Parameter

from api.calibration import refusal
from api.json_body import json_body
from api.negotiation import answer
from api.parameters import Feature, known_feature, parse_feature, within
from api.run import Run
from engine.encoder.description import RunDescription
from engine.errors import BadInput, BadValue, NotReady
from engine.views.corpus_answers import PinAnswer, PinnedAnswer
from engine.views.reader import Views
from engine.views.requests import PinnedRequest, PinRequest

PAGE = 100
MOST = 1_000
MOST_BYTES = 16 << 20  # some 400,000 pairs, four times what is watched by default
_SECONDS = 30.0  # to pin: a disk may take its time until it has synced


class PairBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pair: layer:index of the upstream and of the downstream feature."""

    up: str
    down: str


class WatchBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/watch`."""

    pairs: list[PairBody]


@post("/v1/watch", status_code=200, summary="Watch pairs", tags=["watch"])
async def watch(request: Request[Any, Any, Any], views: Views, run: Run) -> Response[PinAnswer]:
    """Keep the intervals of these pairs from here on: `{"pairs": [{"up": "0:3", "down": "1:3"}]}`.

    Answered when it is on disk; doing it again changes nothing. Documents count for a pair that begin in the first segment of the
    log of which nothing is counted yet, or later: all of them, when it is asked for before the first token. All pairs of a request
    are taken, or none. 503 with `Retry-After` while the engine starts, calibrates its thresholds, or counts again what it had
    counted before it was stopped.
    """
    body = await json_body(
        request,
        WatchBody,
        most_bytes=MOST_BYTES,
        example='{"pairs": [{"up": "0:3", "down": "1:3"}, …]}',
        too_large="send the pairs in several requests",
    )
    pairs = _pairs(body, run.description())
    await _refuse_calibrating(views)
    return answer(request, await views.live(PinRequest([(*up, *down) for up, down in pairs]), _SECONDS))


@get("/v1/watch", summary="The pairs that were asked for", tags=["watch"])
async def pinned(
    request: Request[Any, Any, Any],
    views: Views,
    limit: Annotated[int, Parameter(description="items of a page, at most")] = PAGE,
    cursor: Annotated[str | None, Parameter(description="`next` of the page before")] = None,
) -> Response[PinnedAnswer]:
    """The pinned pairs, from which token on each counts, and how much it has counted by now. 503 as for `POST`."""
    within("limit", limit, 1, MOST)
    after = None
    if cursor is not None:
        up, comma, down = cursor.partition(",")
        if not comma:
            raise BadInput(f"cursor = {cursor!r}: it must be `next` of the page before")
        after = (*parse_feature(up, "cursor"), *parse_feature(down, "cursor"))
    await _refuse_calibrating(views)
    return answer(request, await views.live(PinnedRequest(after, limit)))


def _pairs(body: WatchBody, run: RunDescription) -> list[tuple[Feature, Feature]]:
    """Raises BadInput for a malformed feature, Unknown for one that the run does not have, BadValue for no pairs at all."""
    if not body.pairs:
        raise BadValue("pairs is empty: name at least one pair of features to watch")
    found = []
    for at, pair in enumerate(body.pairs):
        features = parse_feature(pair.up, f"pairs[{at}].up"), parse_feature(pair.down, f"pairs[{at}].down")
        for feature in features:
            known_feature(run, feature)
        found.append(features)
    return found


async def _refuse_calibrating(views: Views) -> None:
    status = await views.status()
    if status is not None and status.state == "calibrating":
        calibrating = refusal(status)
        raise NotReady(calibrating.message, retry_after=calibrating.retry_after)


ROUTES = [watch, pinned]
