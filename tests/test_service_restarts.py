"""What a client holds in its hand when a process behind it is killed: a place in the event stream, a page of a list."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pushed_run import CORPUS, FIRST, SIZES, frames

from tests.service import Service, eventually, serving

KILLS = 2


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A run with the first documents in two corpora, which publishes ten times a second."""
    options = ("--dictionary", ",".join(map(str, SIZES)))
    with serving(tmp_path_factory.mktemp("restarts"), *options, environment={"SAESTREAM_PUBLISH_INTERVAL": "0.1"}) as service:
        half = FIRST // 2
        for corpus, start in (("a", 0), ("b", half)):
            service.until_counted(service.push(frames(CORPUS[start : start + half], start), corpus))
        yield service


class Reader(threading.Thread):
    """Reads events as a browser does: reconnects with the last id it has seen whole, for as long as it is let."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.seen: list[tuple[str, str]] = []  # kind and id
        self.connections = 0
        self.enough = threading.Event()

    def run(self) -> None:
        while not self.enough.is_set():
            headers = {"Last-Event-ID": self.seen[-1][1]} if self.seen else {}
            try:
                with httpx.stream("GET", f"{self.url}/v1/events", headers=headers, timeout=20.0) as response:
                    self.connections += response.status_code == 200
                    self.follow(response)
            except httpx.TransportError:
                self.enough.wait(0.05)

    def follow(self, response: httpx.Response) -> None:
        fields: dict[str, str] = {}
        for line in response.iter_lines():
            name, _, value = line.partition(": ")
            fields[name] = value
            if not line:  # an event is one when its blank line has come
                if "data" in fields:
                    assert json.loads(fields["data"])["version"] == fields["id"]
                    self.seen.append((fields["event"], fields["id"]))
                fields = {}
            if self.enough.is_set():
                return


def killed(service: Service, process: str) -> None:
    """Kill -9 a child of the supervisor, and wait until another one answers in its place."""
    before = service.child(process)
    assert before is not None
    before.kill()
    eventually("another one runs", lambda: (new := service.child(process)) is not None and new.pid != before.pid)
    eventually("the server is ready", service.is_ready)


def test_no_event_is_lost_or_repeated_when_the_api_is_killed_under_its_readers(service: Service) -> None:
    documents = iter(range(FIRST, len(CORPUS)))

    def push() -> Any:
        number = next(documents)
        return service.push(frames([CORPUS[number]], number), "more")

    readers = [Reader(str(service.http.base_url)) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for kills in range(1, KILLS + 1):
            eventually("all read", lambda kills=kills: all(reader.connections >= kills for reader in readers))
            service.until_counted(push(), push())
            uploads = push(), push()  # published before the kill, after it, or while nobody listens
            killed(service, "api.server")
            service.until_counted(*uploads, push())
        newest = eventually("all is published", lambda: (s := service.get("/v1/status"))["lag_tokens"] == 0 and s["snapshot"])
        eventually("it is read", lambda: all(reader.seen[-1][1] == newest["version"] for reader in readers))
    finally:
        for reader in readers:
            reader.enough.set()
        push()  # an event, at which readers look up
    for reader in readers:
        reader.join(30)
        assert reader.connections > KILLS
        epochs = {event.partition("-")[0] for _, event in reader.seen}
        numbers = [int(event.partition("-")[2]) for _, event in reader.seen]
        assert len(epochs) == 1 and {kind for kind, _ in reader.seen} == {"snapshot"}
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) and len(numbers) > 3 * KILLS


LISTS: dict[str, dict[str, Any]] = {
    "/v1/flow": {"pair": "0-1", "kind": "appeared", "threshold": 0.9},
    "/v1/histograms": {},
    "/v1/compare": {"a": "a", "b": "b"},
    "/v1/gates/paper": {"pair": "0-1", "threshold": 0.2},
}


def test_pages_are_of_the_state_of_the_first_one_whatever_is_counted_meanwhile(service: Service) -> None:
    firsts, wholes = {}, {}
    for path, query in LISTS.items():
        wholes[path] = service.get(path, limit=1_000, **query)
        firsts[path] = service.get(path, limit=2, **query)
        assert firsts[path]["next"] and firsts[path]["items"] == wholes[path]["items"][:2], path
    more = [service.push(frames(CORPUS[100:140], 1_000), corpus) for corpus in "ab"]
    service.until_counted(*more)
    eventually(
        "new lists are of more", lambda: service.get("/v1/flow")["snapshot"]["tokens"] == service.get("/v1/status")["tokens"]
    )
    for path, query in LISTS.items():
        page = first = firsts[path]
        items = list(first["items"])
        while page["next"]:
            page = service.get(path, limit=7, cursor=page["next"], **query)
            assert page["snapshot"]["version"] == first["snapshot"]["version"], path
            items += page["items"]
        assert items == wholes[path]["items"], path
        assert service.get(path, limit=1_000, **query)["items"] != items, path


@pytest.mark.parametrize(("path", "process"), [("/v1/histograms", "engine.analysis.main"), ("/v1/compare", "engine.main")])
def test_a_page_of_a_list_that_went_with_its_process_is_gone(service: Service, path: str, process: str) -> None:
    query = LISTS[path]
    cursor = service.get(path, limit=2, **query)["next"]
    assert service.get(path, limit=2, cursor=cursor, **query)["items"]
    killed(service, process)

    def answered() -> httpx.Response | None:
        answer = service.http.get(path, params={"limit": 2, "cursor": cursor, **query})
        return None if answer.status_code == 503 else answer

    gone = eventually("the page is answered for", answered)
    assert gone.status_code == 410 and gone.json()["type"] == "urn:saestream:problem:gone"
    assert "begin again" in gone.json()["detail"]
    assert eventually("a new list", lambda: service.http.get(path, params={"limit": 2, **query}).status_code == 200)
