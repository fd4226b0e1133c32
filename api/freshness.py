"""How old an answer may be: `max_staleness_ms`, and what counts as stale."""

from __future__ import annotations

import time
from typing import Annotated

from litestar.params import Parameter

from engine.errors import NotReady
from engine.views.reader import Views
from engine.views.records import Snapshot, StatusRecord

MaxStaleness = Annotated[
    int | None,
    Parameter(
        ge=0,
        description="503 instead of an answer from a snapshot that is older than this and lacks tokens counted since",
    ),
]


def age_seconds(snapshot: Snapshot) -> float:
    """Seconds since a snapshot was published."""
    return max(0.0, time.time() - snapshot.published_at)


def up_to_date(snapshot: Snapshot, status: StatusRecord | None, seconds: float) -> bool:
    """Whether a snapshot is younger than `seconds`, or held everything that had arrived until so long ago.

    The second half is for an engine that had nothing to do: it publishes nothing new, its last snapshot stays the truth, and does
    not become stale at once when text comes again.
    """
    current = max(snapshot.published_at, status.caught_up_at if status else 0.0)
    return time.time() - current <= seconds


async def refuse_stale(views: Views, snapshot: Snapshot, max_staleness_ms: int | None) -> None:
    """Hold a request to its bound.

    Raises:
        NotReady: the snapshot is older, and not all there is.
    """
    if max_staleness_ms is None or up_to_date(snapshot, None, max_staleness_ms / 1000):
        return
    if not up_to_date(snapshot, await views.status(), max_staleness_ms / 1000):
        age = round(age_seconds(snapshot) * 1000)
        raise NotReady(
            f"snapshot {snapshot.version} is {age:,} ms old, older than max_staleness_ms = {max_staleness_ms:,}", retry_after=1
        )
