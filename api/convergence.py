"""`GET /v1/convergence`: how the statistics settle."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, get
from litestar.params import Parameter

from api.answers import ConvergenceAnswer
from api.freshness import MaxStaleness, refuse_stale
from api.negotiation import answer
from api.parameters import within
from engine.errors import NotReady
from engine.views.answers import snapshot_answer
from engine.views.reader import Views

MOST_POINTS = 252
"""More than a series can have: four for every doubling of what an int64 holds."""


@get("/v1/convergence", summary="How the statistics settle", tags=["statistics"])
async def convergence(
    request: Request[Any, Any, Any],
    views: Views,
    last: Annotated[int | None, Parameter(description="only so many of the newest points; all by default")] = None,
    max_staleness_ms: MaxStaleness = None,
) -> Response[ConvergenceAnswer]:
    """How far the numbers can be trusted, over the tokens counted.

    A point is taken at the first end of a segment past every 2^(k/4) tokens. Its lists have an entry per layer pair, in the order
    of `pairs`; `dead` and `design_effects` one per layer. Every document belongs to half A or half B by a hash.

    - `split_half_rbo`: how well the Jaccard top 20 made from half A alone agree with those from half B alone (mean RBO, p = 0.9; 1:
      the same lists). `list_change`: 1 − RBO against the point before, which is small long before the lists are right.
    - `reliability`: of each measure's values over pairs with a joint count of at least 10 (Spearman, Brown): 1 where more text
      would not change which pairs are high and which low.
    - `unseen_mass`: the chance that the next joint activation is of a pair not seen before; `pairs_seen`, and `pairs_at_all`, an
      estimate from below of how many there are.
    - `watched` pairs, the share of them that has an interval (`interval_share`), the `median_width` of these intervals, and the
      `tokens_needed` until the median pair is ±0.05.
    - `dead`: features that never fired. `design_effects`: how many tokens are worth one independent token, by how often a feature
      fired (bin b: 4^b times or more); intervals that took tokens to be independent would be too narrow by its square root.
    - `drift`: the newest corpus against all others at the newest point: the share of watched pairs and of features that differ,
      and the pairs that differ most. About 5 % or less where it is like the others.

    Lists, reliability and counts of pairs are of at most 2,048 upstream features per layer pair, evenly spaced. What is not known
    is null.
    """
    if last is not None:
        within("last", last, 1, MOST_POINTS)
    snapshot, record = await views.snapshot(), await views.convergence()
    if snapshot is None or record is None:
        raise NotReady("the engine has not published a snapshot yet")
    await refuse_stale(views, snapshot, max_staleness_ms)
    body = ConvergenceAnswer(
        pairs=record.pairs,
        points=record.points[-last:] if last else record.points,
        drift=record.drift,
        snapshot=snapshot_answer(snapshot),
    )
    return answer(request, body, version=snapshot.version)


ROUTES = [convergence]
