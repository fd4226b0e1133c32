"""How every process connects to Redis."""

from __future__ import annotations

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

TIMEOUT_SECONDS = 5.0
"""A local Redis answers in under a millisecond; one that needs 5 s is stuck, and the engine must go on counting without it."""

# One retry: it finds the server again after a restart. More would hold up counting, the next tick tries again anyway.
_RETRIES = 1

# redis-py's default is 100; every open event stream and every live request holds one while it waits.
_MOST_CONNECTIONS = 10_000


def connect(url: str) -> redis.Redis:
    """A client for the engine (blocking calls)."""
    return redis.Redis.from_url(
        url,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=1.0,
        retry=Retry(NoBackoff(), _RETRIES),
        max_connections=_MOST_CONNECTIONS,
    )


def connect_async(url: str) -> redis.asyncio.Redis:
    """A client for the API."""
    from redis.asyncio.retry import Retry as AsyncRetry

    return redis.asyncio.Redis.from_url(
        url,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=1.0,
        retry=AsyncRetry(NoBackoff(), _RETRIES),
        max_connections=_MOST_CONNECTIONS,
    )
