"""`GET /v1/events`: Server-Sent Events that lose nothing at the resume point, or say so."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from api_engine import Engine
from api_rig import Api, api_process, eventually


class Sent(NamedTuple):
    id: str
    event: str
    data: Any


@contextmanager
def stream(api: Api, after: str | None = None) -> Iterator[tuple[httpx.Response, Iterator[Sent]]]:
    """An open event stream: its response, and its events as they come."""
    headers = {} if after is None else {"Last-Event-ID": after}
    with httpx.stream("GET", f"{api.url}/v1/events", headers=headers, timeout=20.0) as response:
        yield response, events(response)


def events(response: httpx.Response) -> Iterator[Sent]:
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        name, _, value = line.partition(":")
        if line:
            fields[name] = value.strip()
        elif "data" in fields:
            yield Sent(fields.get("id", ""), fields["event"], json.loads(fields["data"]))
            fields = {}


@pytest.fixture
def api_and_engine(tmp_path: Path) -> Iterator[tuple[Api, Engine]]:
    with api_process(tmp_path) as (api, _):
        engine = Engine(api.settings)
        yield api, engine
        engine.close()


def published(engine: Engine) -> str:
    engine.count(5)
    return engine.publish()


def test_a_first_connection_gets_the_current_snapshot_and_then_every_new_one(api_and_engine: tuple[Api, Engine]) -> None:
    api, engine = api_and_engine
    published(engine)
    version = published(engine)
    with stream(api) as (response, coming):
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-accel-buffering"] == "no"
        assert response.headers["cache-control"] == "no-cache"
        first = next(coming)
        assert (first.id, first.event, first.data["version"], first.data["tokens"]) == (version, "snapshot", version, 10)
        assert first.data["age_ms"] >= 0
        point = engine.convergence.record().points[-1]
        assert first.data["convergence"] == {
            "tokens": point.tokens,
            "pairs": [[0, 1], [1, 2]],
            **{name: getattr(point, name) for name in ("split_half_rbo", "unseen_mass", "interval_share")},
        }
        later = published(engine)
        assert next(coming).id == later


def test_a_stream_resumes_with_the_first_event_after_last_event_id(api_and_engine: tuple[Api, Engine]) -> None:
    api, engine = api_and_engine
    versions = [published(engine) for _ in range(5)]
    with stream(api, after=versions[1]) as (_, coming):
        assert [(sent.event, sent.id) for sent in islice(coming, 3)] == [("snapshot", v) for v in versions[2:]]
    with stream(api, after=versions[-1]) as (_, coming):
        version = published(engine)
        assert (sent := next(coming)).id == version and sent.event == "snapshot"


@pytest.mark.parametrize("after", ["1-1", "nonsense"], ids=["long-gone", "not-an-id"])
def test_a_resume_point_that_is_gone_is_answered_with_reset(api_and_engine: tuple[Api, Engine], after: str) -> None:
    api, engine = api_and_engine
    version = published(engine)
    with stream(api, after=after) as (_, coming):
        assert (sent := next(coming)).event == "reset" and sent.id == version


def test_wiping_redis_shows_as_reset_on_an_open_stream(api_and_engine: tuple[Api, Engine]) -> None:
    api, engine = api_and_engine
    published(engine)
    with stream(api) as (_, coming):
        next(coming)
        engine.redis.flushall()
        engine.publisher.beat(engine.status())
        version = published(engine)
        assert (sent := next(coming)).event == "reset" and sent.id == version


def test_sigterm_ends_open_streams_and_the_process_at_once_with_status_0(tmp_path: Path) -> None:
    with api_process(tmp_path) as (api, _):
        engine = Engine(api.settings)
        published(engine)
        with stream(api) as (_, coming):
            next(coming)
            assert api.stop(signal.SIGTERM) == 0
            assert next(coming, None) is None
            assert "timeout graceful shutdown exceeded" not in api.log()
        engine.close()


def test_a_client_that_leaves_is_forgotten(api_and_engine: tuple[Api, Engine]) -> None:
    api, engine = api_and_engine
    published(engine)
    with stream(api) as (_, coming):
        next(coming)
        connected = len(engine.redis.client_list())
    eventually("its connection to Redis is idle or gone", lambda: not _waiting(engine), 20)
    assert connected >= 1


def _waiting(engine: Engine) -> bool:
    return any(client["cmd"] == "xread" and "b" in client["flags"] for client in engine.redis.client_list())
