"""Answers of the newest snapshot are sent again without the route, and only while they are of the newest snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
from api_engine import Engine
from api_rig import Api, api_process, eventually, problem

from engine.views.redis_server import PrivateRedis

NEIGHBORS = "/v1/features/0/0/neighbors"
FEATURE = "/v1/features/1/3"


class Run(NamedTuple):
    api: Api
    engine: Engine
    redis: PrivateRedis

    def get(self, path: str, **headers: str) -> httpx.Response:
        answer = self.api.http.get(path, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer

    def take_records_away(self) -> None:
        """The snapshot stays the newest one, and no route can read it any more."""
        keys = self.engine.redis.keys(f"{self.engine.publisher.keys.records}*")
        self.engine.redis.delete(*keys)  # type: ignore[misc]  # redis-py types it as sync or async

    def publish(self) -> None:
        """A newer snapshot, all of it."""
        self.engine.count(20)
        self.engine.publisher._published = None
        self.engine.publish()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with api_process(tmp_path_factory.mktemp("kept")) as (api, redis):
        engine = Engine(api.settings)
        engine.count()
        yield Run(api, engine, redis)
        engine.close()


@pytest.fixture
def run(shared: Run) -> Run:
    shared.publish()
    return shared


def steady(answer: httpx.Response) -> Any:
    """All that it says but the age."""
    body = answer.json()
    del body["snapshot"]["age_ms"]
    return body


@pytest.mark.parametrize("path", [NEIGHBORS, FEATURE])
def test_a_kept_answer_is_the_routes_with_its_headers_and_a_new_age(run: Run, path: str) -> None:
    first = run.get(path)
    run.take_records_away()
    assert run.api.http.get("/v1/features/0/1/neighbors").status_code in (404, 503), "the routes can't read any more"
    again = eventually("it is older", lambda: (it := run.get(path)).json()["snapshot"]["age_ms"] > 20 and it)
    assert steady(again) == steady(first)
    assert int(again.headers["content-length"]) == len(again.content)
    same, found = (
        {name: value for name, value in answer.headers.items() if name not in ("content-length", "date", "x-request-id")}
        for answer in (first, again)
    )
    assert found == same


def test_if_none_match_is_answered_without_the_route_too(run: Run) -> None:
    first = run.get(NEIGHBORS)
    run.take_records_away()
    same = run.api.http.get(NEIGHBORS, headers={"If-None-Match": first.headers["etag"]})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", first.headers["etag"])
    assert run.get(NEIGHBORS, **{"If-None-Match": 'W/"1-1"'}).json()["snapshot"]["version"] in first.headers["etag"]


def test_a_newer_snapshot_is_seen_at_once(run: Run) -> None:
    for _ in range(20):
        before = run.get(NEIGHBORS).json()["snapshot"]["tokens"]
        run.publish()
        assert run.get(NEIGHBORS).json()["snapshot"]["tokens"] == before + 20 == run.engine.state.tokens


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        pytest.param(f"{NEIGHBORS}?max_staleness_ms=60000", {}, id="depends-on-the-time"),
        pytest.param(NEIGHBORS, {"Accept": "application/x-msgpack"}, id="msgpack"),
        pytest.param("/v1/convergence", {}, id="a-route-that-is-not-marked"),
        pytest.param("/v1/features/0/99", {}, id="no-such-feature"),
    ],
)
def test_other_answers_are_not_kept(run: Run, path: str, headers: dict[str, str]) -> None:
    run.get(NEIGHBORS)
    first = run.api.http.get(path, headers=headers)
    run.engine.redis.delete(run.engine.publisher.keys.snapshot)
    again = run.api.http.get(path, headers=headers)
    assert again.status_code == (404 if first.status_code == 404 else 503)


def test_json_and_msgpack_are_not_mixed_up(run: Run) -> None:
    for _ in range(2):
        json = run.get(NEIGHBORS)
        packed = run.get(NEIGHBORS, Accept="application/x-msgpack")
        assert packed.headers["content-type"] == "application/x-msgpack"
        assert msgspec.msgpack.decode(packed.content)["neighbors"] == json.json()["neighbors"]


def test_two_accept_headers_leave_nothing_to_others(run: Run) -> None:
    both = [("Accept", "application/json"), ("Accept", "application/x-msgpack")]
    first = run.api.http.get(NEIGHBORS, headers=both)
    assert first.headers["content-type"].startswith("application/json")
    assert run.get(NEIGHBORS, Accept="application/x-msgpack").headers["content-type"] == "application/x-msgpack"


def test_a_parameter_that_is_spelt_with_percent_and_a_long_request_are_not_kept(run: Run) -> None:
    requests = [(f"{NEIGHBORS}?max%5Fstaleness_ms=60000", {}), (NEIGHBORS, {"Accept": "application/json" + ", text/x" * 100})]
    for path, headers in requests:
        run.get(path, **headers)
    run.take_records_away()
    for path, headers in requests:
        assert run.api.http.get(path, headers=headers).status_code in (404, 503)


def test_neighbours_that_are_older_than_was_asked_for_are_refused(run: Run) -> None:
    eventually("it is older", lambda: run.get(NEIGHBORS).json()["snapshot"]["age_ms"] > 20)
    assert "old" in problem(run.api.http.get(f"{NEIGHBORS}?max_staleness_ms=10"), 503)
    assert run.get(f"{NEIGHBORS}?max_staleness_ms=60000").json()["neighbors"] == run.get(NEIGHBORS).json()["neighbors"]


def test_a_prompt_that_is_asked_about_ends_nothing_that_is_kept(run: Run) -> None:
    run.get(NEIGHBORS)
    run.take_records_away()
    run.api.http.post("/v1/graph", json={"prompt": "some text"})
    run.get(NEIGHBORS)


def test_the_text_of_another_activation_than_the_snapshots_is_asked_for_anew(run: Run) -> None:
    run.engine.count(20)
    stronger = run.engine.state.strongest[1]
    position, value = int(stronger.position[3, 0]), float(stronger.value[3, 0])
    try:
        stronger.position[3, 0], stronger.value[3, 0] = 0, value + 1.0  # counted since, or counted again after a restart
        answer = run.get(FEATURE)
        assert "etag" not in answer.headers and answer.json()["strongest"]["log_position"] == 0
        assert answer.json()["contexts"][0]["log_position"] == position
    finally:
        stronger.position[3, 0], stronger.value[3, 0] = position, value
    assert run.get(FEATURE).json()["strongest"]["log_position"] == position


def test_what_is_written_ends_all_that_is_kept(run: Run) -> None:
    run.get(NEIGHBORS)
    run.get(FEATURE)
    run.take_records_away()
    run.get(NEIGHBORS)
    assert run.api.post("/v1/corpora", b"a text", "text/plain").status_code == 202
    for path in (NEIGHBORS, FEATURE):
        assert run.api.http.get(path).status_code in (404, 503)


def test_without_a_snapshot_and_without_redis_the_route_says_what_is_wrong(run: Run) -> None:
    run.get(NEIGHBORS)
    run.engine.redis.flushall()
    assert "not published a snapshot" in problem(run.api.http.get(NEIGHBORS), 503)
    run.publish()
    run.get(NEIGHBORS)
    run.redis.stop()
    assert "does not answer" in problem(run.api.http.get(NEIGHBORS), 503)
    run.redis.start()
    run.publish()
    run.get(NEIGHBORS)


def test_kept_answers_are_counted_by_the_metrics(run: Run) -> None:
    def counted() -> float:
        lines = run.api.http.get("/metrics").text.splitlines()
        name = 'saestream_http_requests_total{method="GET",route="/v1/features/{layer}/{index}/neighbors",status="200"}'
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    before = counted()
    for _ in range(5):
        run.get(NEIGHBORS)
    assert counted() == before + 5


def test_a_text_is_asked_of_the_engine_once_while_the_activation_is_the_strongest(run: Run) -> None:
    first = run.get(FEATURE).json()["strongest"]
    assert first is not None
    run.engine.lost = set(range(len(run.engine.rows)))  # no text is there any more
    try:
        run.publish()
        assert run.get(FEATURE).json()["strongest"] == first
        assert run.get("/v1/features/1/4").json()["strongest"] is None
    finally:
        run.engine.lost = set()
