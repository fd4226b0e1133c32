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
    """Whether a snapshot is younger than `seconds`, or holds everything there is to count as of an engine's report that is.

    The second half is for an engine that has nothing to do: it publishes nothing new, and its last snapshot stays the truth.
    """
    if age_seconds(snapshot) <= seconds:
        return True
    if status is None or time.time() - status.updated_at > seconds:
        return False
    return status.tokens == snapshot.tokens and status.queue_tokens == 0


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
