"""A token bucket per key or address, in Redis: one Lua call takes a token, so that all workers share one bucket.

The clock is that of Redis: one for all workers. While Redis is away each worker keeps buckets of its own.
"""

from __future__ import annotations

import logging
import math
import time
from typing import cast

import redis.asyncio
from redis.exceptions import RedisError

from engine.errors import TooMany
from engine.settings import Settings
from engine.views.keys import Keys

log = logging.getLogger(__name__)

OPEN_RATE = 200.0
"""Requests per second where keys are needed and the settings name no rate: some 2,400 are answered at most, and a page takes 20."""
_MOST_OWN = 10_000  # buckets that a process keeps by itself; more addresses than that begin anew

# KEYS: bucket   ARGV: tokens per second, tokens at most   → seconds until there is a token; "0" when one was taken
_TAKE = """
local rate, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local have = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(have[1] or most), tonumber(have[2] or now)
tokens = math.min(most, tokens + math.max(0, now - at) * rate)
local wait = 0
if tokens >= 1 then tokens = tokens - 1 else wait = (1 - tokens) / rate end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.6f', tokens), 'at', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil(1000 * most / rate) + 1000)
return string.format('%.6f', wait)
"""


class RateLimit:
    """The buckets of one run."""

    def __init__(self, client: redis.asyncio.Redis, settings: Settings) -> None:
        self._rate, self._burst = settings.rate_limit, settings.rate_burst
        self._keys = Keys(settings.redis_prefix)
        self._script = client.register_script(_TAKE)
        self._own: dict[str, tuple[float, float]] = {}

    def rate(self, needs_key: bool) -> float:
        """Requests per second of each; 0 where there is no limit."""
        return self._rate if self._rate is not None else OPEN_RATE if needs_key else 0.0

    async def take(self, who: str, rate: float) -> None:
        """Let one request of a key or an address pass.

        Raises:
            TooMany: its bucket is empty; `retry_after` says how long.
        """
        try:
            wait = float(cast(bytes, await self._script(keys=[self._keys.bucket(who)], args=[rate, self._burst])))
            self._own.clear()
        except (RedisError, OSError) as error:
            if not self._own:
                log.warning("this process keeps the rate limit by itself, Redis fails: %s", error)
            wait = self._take_here(who, rate)
        if wait > 0:
            raise TooMany(f"{who} sends more than {rate:g} requests a second", retry_after=math.ceil(wait))

    def _take_here(self, who: str, rate: float) -> float:
        """What the script does, without Redis."""
        now = time.monotonic()
        if len(self._own) >= _MOST_OWN:
            self._own.clear()
        tokens, at = self._own.get(who, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - at) * rate)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / rate
        self._own[who] = (tokens - (wait == 0), now)
        return wait
