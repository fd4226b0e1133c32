"""How every process connects to Redis."""

from __future__ import annotations

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from engine.errors import NoRedis

TIMEOUT_SECONDS = 5.0
"""A local Redis answers in under a millisecond; one that needs 5 s is stuck, and the engine must go on counting without it."""

# One retry: it finds the server again after a restart. More would hold up counting, the next tick tries again anyway.
_RETRIES = 1

# redis-py's default is 100; every open event stream and every live request holds one while it waits.
_MOST_CONNECTIONS = 10_000


def connect(url: str | None) -> redis.Redis:
    """A client for the engine (blocking calls); it connects at its first command.

    Raises:
        NoRedis: there is no address.
    """
    return redis.Redis.from_url(
        _required(url),
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=1.0,
        retry=Retry(NoBackoff(), _RETRIES),
        max_connections=_MOST_CONNECTIONS,
    )


def connect_async(url: str | None) -> redis.asyncio.Redis:
    """A client for the API; else as `connect`."""
    from redis.asyncio.retry import Retry as AsyncRetry

    return redis.asyncio.Redis.from_url(
        _required(url),
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=1.0,
        retry=AsyncRetry(NoBackoff(), _RETRIES),
        max_connections=_MOST_CONNECTIONS,
    )


def _required(url: str | None) -> str:
    if url is None:
        raise NoRedis("the settings name no redis_url: `saestream serve` starts a private Redis and fills it in")
    return url
