"""Back-pressure: what is full says so with 429 or 507 and when to ask again; nothing hangs, and nobody else waits for it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvicorn
from api_engine import Engine
from api_rig import Api, api_process, eventually, problem
from views_rig import private_redis

from api.connection import Connection
from api.gate import Gate
from api.rate_limit import RateLimit
from api.slots import Slots
from engine.errors import TooMany
from engine.settings import Settings
from engine.views.connection import connect, connect_async

TEXT, JSONL = "text/plain", "application/x-ndjson"
MIB = 1 << 20
LINE = b'{"text": "a document of some length, so that a megabyte of them is soon checked"}\n' * 1000
LIMIT = 8 * MIB
SLOW = 1.5  # seconds


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, Engine]]:
    """A small server, ready."""
    more = {"max_upload_bytes": LIMIT, "max_uploads": 2, "max_subscribers": 2, "slow_seconds": SLOW, "publish_interval": 600}
    with api_process(tmp_path_factory.mktemp("limited"), **more) as (api, _), closing(Engine(api.settings)) as engine:
        engine.count()
        engine.publish("idle")
        yield api, engine


@pytest.fixture
def api(run: tuple[Api, Engine]) -> Iterator[Api]:
    """It, with everything let go of before and after."""
    api, engine = run
    engine.publish("idle")
    eventually("nothing arrives any more", lambda: not arriving(api))
    yield api
    eventually("what had arrived is gone", lambda: not arriving(api))
    assert api.http.get("/readyz").status_code == 200


def arriving(api: Api) -> list[Path]:
    return list((api.settings.data_dir / "inbox" / "incoming").iterdir())


def asked_again(answer: httpx.Response, status: int) -> str:
    """A refusal that says when to come back."""
    detail = problem(answer, status)
    assert int(answer.headers["retry-after"]) >= 1
    return detail


@contextmanager
def connection(api: Api, head: str = "") -> Iterator[socket.socket]:
    host, port = api.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as opened:
        opened.sendall(head.replace("\n", "\r\n").encode())
        yield opened


def upload_head(name: str = "mine", length: int = MIB) -> str:
    return f"POST /v1/corpora?name={name} HTTP/1.1\nHost: localhost\nContent-Type: {JSONL}\nContent-Length: {length}\n\n"


def ended(opened: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    received = b""
    try:
        while chunk := opened.recv(1 << 16):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def test_ten_gigabytes_in_chunks_are_refused_at_the_limit_and_held_nowhere(api: Api) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 10 << 30:
            sent += len(LINE)
            yield LINE

    process = psutil.Process(api.process.pid)
    before, most, done = process.memory_info().rss, 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.02):
            most = max(most, process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        answer = api.post("/v1/corpora", endless(), JSONL)
    finally:
        done.set()
        watching.join()
    assert f"{LIMIT:,}" in problem(answer, 413)
    assert sent < LIMIT + 128 * MIB  # 64 MiB are read for the answer's sake, and some lie in between
    assert most - before < 64 * MIB
    assert answer.headers["connection"] == "close"


def test_a_body_that_says_that_it_is_too_long_is_refused_before_it_comes(api: Api) -> None:
    head = upload_head(length=10 << 30).replace("\n\n", "\nExpect: 100-continue\n\n")
    with connection(api, head) as opened:
        answer = ended(opened)
    assert answer.startswith(b"HTTP/1.1 413") and b"10,737,418,240" in answer and b"100 Continue" not in answer


def test_uploads_beyond_the_limit_are_429_while_others_arrive_and_the_server_stays_ready(api: Api) -> None:
    with connection(api, upload_head()) as first, connection(api, upload_head()) as second:
        for opened in (first, second):
            opened.sendall(LINE)
        eventually("two uploads arrive", lambda: len(arriving(api)) == 2)
        assert "2 uploads arrive" in asked_again(api.post("/v1/corpora", b"text", TEXT), 429)
        assert api.http.get("/readyz").status_code == 200
        assert api.http.get("/v1/status").status_code == 200
    eventually("both are gone", lambda: not arriving(api))
    assert api.post("/v1/corpora", b"text", TEXT).status_code == 202


def test_event_streams_beyond_the_limit_are_429_until_one_ends(api: Api) -> None:
    head, ready = "GET /v1/events HTTP/1.1\nHost: localhost\n\n", api.http.get("/readyz").status_code
    with connection(api, head) as first:
        with connection(api, head) as second:
            for opened in (first, second):
                assert opened.recv(12) == b"HTTP/1.1 200"
            assert "2 event streams are open" in asked_again(api.http.get("/v1/events"), 429)
            assert api.http.get("/readyz").status_code == ready, "full is not unhealthy"
        with connection(api) as third:

            def streams() -> bool:
                third.sendall(head.replace("\n", "\r\n").encode())
                return third.recv(1 << 16).startswith(b"HTTP/1.1 200")

            eventually("a place is free again", streams)


@pytest.mark.parametrize("kind", ["nothing", "half a line", "byte by byte", "byte by byte on a kept connection"])
def test_a_head_that_does_not_come_to_its_end_is_cut_off_while_others_are_served(api: Api, kind: str) -> None:
    with connection(api, "GET /livez HTTP/1.1\nHost: localhost\n\n" if "kept" in kind else "") as opened:
        answer = b""
        while "kept" in kind and b"alive" not in answer:
            answer += opened.recv(1 << 16)
        opened.sendall(b"" if kind == "nothing" else b"GET /v1/status HTT")
        opened.settimeout(0.1)
        served, cut = 0, False
        while not cut and served < 1000:
            try:
                if "byte" in kind:
                    opened.sendall(b"X")
                cut = not opened.recv(1)
            except TimeoutError:
                served += api.http.get("/v1/status").status_code == 200
            except (ConnectionResetError, BrokenPipeError):
                cut = True
        assert cut and served > 3


def test_a_body_that_comes_byte_by_byte_is_408_and_cut_off_while_others_are_served(api: Api) -> None:
    with connection(api, upload_head()) as opened:
        opened.settimeout(0.1)
        served, answer = 0, b""
        while not answer and served < 1000:
            opened.sendall(b"{")
            try:
                answer = opened.recv(1 << 16)
            except TimeoutError:
                served += api.http.get("/v1/status").status_code == 200
        opened.settimeout(30)
        answer += ended(opened)
    assert answer.startswith(b"HTTP/1.1 408") and b"application/problem+json" in answer and b"it must keep coming" in answer
    assert served > 3 and not arriving(api)


def test_many_slow_connections_at_once_leave_the_server_to_others(api: Api) -> None:
    heads = ["POST /v1/corp", upload_head(), "GET /v1/status HTTP/1.1\nHost: loc"]
    opened = [connection(api, heads[number % 3]) for number in range(60)]
    sockets = [one.__enter__() for one in opened]
    try:
        assert api.http.get("/readyz").status_code == 200
        assert {ended(one)[:12] for one in sockets} <= {b"", b"HTTP/1.1 408", b"HTTP/1.1 429"}
    finally:
        for one in opened:
            one.__exit__(None, None, None)
    # On a connection of its own: that of the first request is as old as those above, and may be closed this very moment.
    answer = httpx.post(f"{api.url}/v1/corpora", content=b"text", headers={"Content-Type": TEXT}, params={"name": "mine"})
    assert answer.status_code == 202


def test_a_body_that_is_slow_but_keeps_coming_is_taken(api: Api) -> None:
    def slowly() -> Iterator[bytes]:
        began = time.monotonic()
        while time.monotonic() < began + 2 * SLOW:
            yield b'{"text": "' + b"a" * 2048 + b'"}\n'
            time.sleep(0.1)

    assert api.post("/v1/corpora", slowly(), JSONL).status_code == 202


def test_a_client_that_does_not_read_its_answers_is_cut_off(api: Api) -> None:
    with connection(api) as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.settimeout(0.2)
        client = psutil.Process(api.process.pid)
        before = len(client.net_connections("tcp"))
        ask = b"GET /schema/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"

        def cut() -> bool:
            try:
                opened.sendall(ask * 50)
            except TimeoutError:
                return False  # it does not read any more either
            except (ConnectionResetError, BrokenPipeError):
                return True
            return False

        eventually("the connection is gone", lambda: cut() or len(client.net_connections("tcp")) < before)


def test_the_rest_of_a_refused_body_is_not_waited_for(api: Api) -> None:
    """Its connection is closed: what still comes would be read, and thrown away, for ever."""
    with connection(api, upload_head(length=LIMIT).replace(JSONL, "image/png")) as opened:
        opened.sendall(b"x" * 1000)
        assert ended(opened).startswith(b"HTTP/1.1 415")


@pytest.mark.parametrize(
    ("more", "says"),
    [({"disk_quota": 300_000}, "disk_quota"), ({"min_free_bytes": 1 << 60}, "min_free_bytes")],
    ids=["quota", "disk"],
)
def test_an_upload_that_the_disk_has_no_room_for_is_507_and_reading_goes_on(
    tmp_path: Path, more: dict[str, Any], says: str
) -> None:
    with api_process(tmp_path, **more) as (api, _), closing(Engine(api.settings)) as engine:
        engine.count()
        engine.publish("idle")
        assert says in asked_again(api.post("/v1/corpora", LINE * 5, JSONL), 507)
        assert not arriving(api) and not api.inbox.manifests()
        assert api.http.get("/readyz").status_code == 200
        if "quota" in says:
            taken = [api.post("/v1/corpora", LINE, JSONL).status_code for _ in range(6)]
            assert taken == [202] * taken.count(202) + [507] * taken.count(507) and {202, 507} == set(taken)
            assert api.post("/v1/corpora", LINE, JSONL, key="again").status_code == 507


def test_an_upload_that_is_sent_again_needs_no_room(tmp_path: Path) -> None:
    with api_process(tmp_path, disk_quota=200_000) as (api, _):
        assert api.post("/v1/corpora", LINE, JSONL, key="k").status_code == 202
        assert api.post("/v1/corpora", LINE * 2, JSONL, key="other").status_code == 507
        assert api.post("/v1/corpora", LINE, JSONL, key="k").status_code == 200


def test_a_rate_is_kept_for_each_key_and_for_all_without_one_and_probes_are_free(tmp_path: Path) -> None:
    with api_process(tmp_path, rate_limit=0.001, rate_burst=5, api_key="the-key-of-the-settings") as (api, redis):
        keys = [api.settings.api_keys.add(name, "read") for name in ("a", "b")]

        def ask(key: str | None) -> httpx.Response:
            return api.http.get("/v1/status", headers={"Authorization": f"Bearer {key}"} if key else {})

        for key in keys:
            assert [ask(key).status_code for _ in range(7)] == [200] * 5 + [429] * 2
        assert "key a sends more than 0.001 requests" in asked_again(ask(keys[0]), 429)
        assert int(ask(keys[0]).headers["retry-after"]) > 900
        assert [ask(None).status_code for _ in range(4)] + [ask("guessed").status_code for _ in range(4)] == [401] * 5 + [429] * 3
        assert [api.http.get(path).status_code for path in ["/livez"] * 20] == [200] * 20
        redis.stop()
        assert [ask(keys[0]).status_code for _ in range(7)] == [503] * 5 + [429] * 2  # the process keeps the rate by itself


@pytest.mark.parametrize("proxies", [[], ["127.0.0.1"]], ids=["believed of nobody", "believed of a proxy"])
def test_an_address_that_a_client_claims_is_believed_of_a_trusted_proxy_alone(tmp_path: Path, proxies: list[str]) -> None:
    with api_process(tmp_path, rate_limit=0.001, rate_burst=2, trusted_proxies=proxies) as (api, _):
        claimed = [f"192.0.2.{number}, 198.51.100.{number % 2}" for number in range(6)]
        answers = [api.http.get("/v1/status", headers={"X-Forwarded-For": address}).status_code for address in claimed]
    assert answers == ([200] * 4 + [429] * 2 if proxies else [200] * 2 + [429] * 4)


def test_no_rate_is_kept_where_only_this_machine_asks(api: Api) -> None:
    assert {api.http.get("/livez").status_code for _ in range(50)} == {200}
    assert {api.http.get("/v1/status").status_code for _ in range(300)} == {200}
    assert not [key for key in connect(api.settings.redis_url).keys("*bucket*")]


def test_the_bucket_is_one_for_all_workers(tmp_path: Path) -> None:
    """Five of them ask at the same time, each over connections of its own."""
    with private_redis(tmp_path) as server:
        settings = Settings(redis_url=server.url, rate_limit=0.0001, rate_burst=50)

        async def one(limit: RateLimit) -> bool:
            try:
                await limit.take("key ci", limit.rate(True))
                return True
            except TooMany:
                return False

        async def all_of_them() -> int:
            clients = [connect_async(server.url) for _ in range(5)]
            limits = [RateLimit(client, settings) for client in clients]
            passed = await asyncio.gather(*(one(limit) for limit in limits for _ in range(40)))
            for client in clients:
                await client.aclose()
            return sum(passed)

        assert asyncio.run(all_of_them()) == 50
        bucket = connect(server.url).hgetall("saestream:bucket:key ci")
        assert set(bucket) == {b"tokens", b"at"} and 0 <= float(bucket[b"tokens"]) < 1
        assert 0 < connect(server.url).pttl("saestream:bucket:key ci") <= 50 / 0.0001 * 1000 + 1000


def test_a_bucket_fills_at_its_rate_and_no_further_than_its_size_whatever_the_clock_does(tmp_path: Path) -> None:
    with private_redis(tmp_path) as server:
        client, settings = connect(server.url), Settings(redis_url=server.url, rate_limit=10, rate_burst=3)

        def takes(at: float | None = None) -> int:
            if at is not None:
                client.hset("saestream:bucket:a", "at", f"{client.time()[0] + at:.6f}")

            async def take() -> int:
                asynchronous = connect_async(server.url)
                limit, passed = RateLimit(asynchronous, settings.model_copy(update={"rate_limit": 0.0001})), 0
                try:
                    while True:
                        await limit.take("a", limit.rate(True))
                        passed += 1
                except TooMany:
                    return passed
                finally:
                    await asynchronous.aclose()

            return asyncio.run(take())

        assert takes() == 3
        assert takes(at=-20_000) == 2
        assert takes(at=-(10.0**6)) == 3
        assert takes(at=10.0**6) == 0  # the clock was set back


def test_requests_beyond_what_may_be_answered_at_once_are_429_but_for_probes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.gate.MOST_REQUESTS", 3)
    settings = Settings(data_dir=tmp_path)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask(path: str) -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        scope = {"type": "http", "method": "GET", "path": path, "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1)}
        await gate(scope, receive, send)  # type: ignore[arg-type]
        return sent[0]["status"]

    async def five_at_once() -> list[int]:
        asked = [asyncio.ensure_future(ask("/v1/status")) for _ in range(5)]
        asked.append(asyncio.ensure_future(ask("/livez")))
        await asyncio.sleep(0)
        go_on.set()
        return await asyncio.gather(*asked)

    go_on = asyncio.Event()
    gate = Gate(app, settings, RateLimit(connect_async("unix:///nowhere"), settings))
    assert asyncio.run(five_at_once()) == [200, 200, 200, 429, 429, 200]


def test_connections_beyond_those_that_may_be_open_are_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.connection.MOST_CONNECTIONS", 3)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def six_at_once() -> list[bytes]:
        config = uvicorn.Config(app, http=partial(Connection, 30.0), lifespan="off", log_config=None, port=0)  # type: ignore[arg-type]
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(6)]
        answers = []
        for reader, writer in opened:
            with suppress(ConnectionError):
                writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                answers.append(await reader.read(12))
        for _, writer in opened:
            writer.close()
        server.should_exit = True
        await serving
        return answers

    assert [answer for answer in asyncio.run(six_at_once()) if answer] == [b"HTTP/1.1 200"] * 3


def test_a_place_is_free_again_however_its_holder_ends() -> None:
    slots = Slots(1, "things are")
    for fault in (ValueError, asyncio.CancelledError):
        with suppress(fault), slots.hold():
            with pytest.raises(TooMany, match="1 things are here already"), slots.hold():
                pass
            raise fault
    assert slots.taken == 0


def lists(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Routes that answer with as much as is asked for, and the parameter that says how much."""
    for path, item in document["paths"].items():
        for parameter in item.get("get", {}).get("parameters", []):
            if parameter["name"] in ("limit", "k", "last"):
                yield path, parameter["name"]


def test_no_list_is_longer_than_its_route_allows_whatever_is_asked_for(api: Api) -> None:
    document = api.http.get("/schema/openapi.json").json()
    found = list(lists(document))
    assert len(found) > 12
    for path, name in found:
        parameters = document["paths"][path]["get"]["parameters"]
        query = {one["name"]: one.get("example", 1) for one in parameters if one["in"] == "query" and one.get("required")}
        query |= {"up": "0:1", "down": "1:1"} if "up" in query and isinstance(query["up"], str) else {}
        query |= {"pair": "0-1"} if "pair" in query else {}
        address = path.replace("{layer}", "0").replace("{index}", "1").replace("{corpus}", "mine").replace("{community}", "c1")
        answer = api.http.get(address, params={**query, name: 10**9})
        assert answer.status_code in (400, 404, 422), (path, name, answer.text[:200])
        assert "between" in answer.text or answer.status_code == 404, (path, answer.text)
