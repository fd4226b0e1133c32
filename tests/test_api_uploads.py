"""`POST /v1/corpora` and `/v1/activations`: taken whole or refused whole, over real connections."""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from api_rig import DICTIONARIES, RUN, Api, api_process, eventually, problem

from engine.encoder.description import RunDescription

TEXT, JSONL, PARQUET, MSGPACK = "text/plain", "application/x-ndjson", "application/vnd.apache.parquet", "application/x-msgpack"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with api_process(tmp_path_factory.mktemp("uploads")) as (api, _):
        yield api


def left_behind(api: Api) -> list[Path]:
    return list((api.settings.data_dir / "inbox" / "incoming").iterdir())


def taken(api: Api) -> int:
    return len(api.inbox.manifests())


def parquet(**columns: list[object]) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(columns), sink)
    return sink.getvalue()


def ints(*values: int) -> bytes:
    return np.array(values, "<i4").tobytes()


def frame(document: str = "d", tokens: int = 2, **changes: object) -> bytes:
    """A right frame over the three layers, but for `changes` to the first layer."""
    layers = []
    for size in DICTIONARIES:
        layer = {
            "offsets": ints(0, 2, 3),
            "features": ints(0, size - 1, 1),
            "values": np.array([0.5, 1.5, 2.5], "<f4").tobytes(),
        }
        layers.append(layer)
    layers[0].update(changes)  # type: ignore[arg-type]
    return msgpack.packb({"document": document, "tokens": tokens, "layers": layers})


@pytest.mark.parametrize(
    ("path", "media_type", "body", "documents"),
    [
        pytest.param("/v1/corpora", TEXT, "Straße, 東京, naïve".encode(), 1, id="text"),
        pytest.param("/v1/corpora", TEXT + "; charset=UTF-8", b"a", 1, id="text-with-charset"),
        pytest.param("/v1/corpora", TEXT, b"", 1, id="empty-text"),
        pytest.param("/v1/corpora", JSONL, b'{"text": "a"}\n{"tokens": [1, 2], "id": "x"}\n', 2, id="json-lines"),
        pytest.param("/v1/corpora", PARQUET, parquet(text=["a", "b", "c"]), 3, id="parquet-text"),
        pytest.param("/v1/corpora", PARQUET, parquet(tokens=[[1, 2], [3]]), 2, id="parquet-tokens"),
        pytest.param("/v1/activations", MSGPACK, frame("a") + frame("a") + frame("b"), 2, id="activations"),
    ],
)
def test_an_upload_is_on_disk_and_queued_when_it_is_acknowledged(
    api: Api, path: str, media_type: str, body: bytes, documents: int
) -> None:
    answer = api.post(path, body, media_type)
    assert answer.status_code == 202, answer.text
    upload = answer.json()
    assert api.inbox.body(upload["id"]).read_bytes() == body
    assert (upload["state"], upload["documents"], upload["bytes"]) == ("queued", documents, len(body))
    assert upload["tokens_received"] is None and upload["tokens_counted"] == 0
    assert answer.headers["location"] == f"/v1/uploads/{upload['id']}"
    assert api.http.get(answer.headers["location"]).json() == upload


@pytest.mark.parametrize(
    ("path", "media_type", "body", "status", "says"),
    [
        pytest.param("/v1/corpora", TEXT, b"caf\xe9", 400, "UTF-8", id="text-not-utf8"),
        pytest.param("/v1/corpora", JSONL, b'{"text": "a"}\n{"text": "caf\xe9"}\n', 400, "line 2", id="line-not-utf8"),
        pytest.param("/v1/corpora", JSONL, b'{"text": "a"}\n\n{"text": \n', 400, "line 3", id="broken-line"),
        pytest.param("/v1/corpora", JSONL, b'{"text": "a"}\n{"texts": "b"}\n', 400, "line 2", id="no-text-field"),
        pytest.param("/v1/corpora", JSONL, b'{"tokens": [5, 100]}\n', 400, "100", id="token-id-out-of-range"),
        pytest.param("/v1/corpora", TEXT, b"a" * 100_001, 413, "100,000", id="document-too-large"),
        pytest.param("/v1/corpora", JSONL, b'{"text": "' + b"a" * 100_001 + b'"}\n', 413, "100,000", id="line-too-large"),
        pytest.param("/v1/corpora", PARQUET, b"PAR1 not really", 400, "Parquet", id="not-parquet"),
        pytest.param("/v1/corpora", PARQUET, parquet(title=["a"]), 400, "text", id="parquet-without-text"),
        pytest.param("/v1/corpora", "application/pdf", b"a", 415, "text/plain", id="unsupported-media"),
        pytest.param("/v1/corpora", TEXT + "; charset=latin-1", b"a", 415, "UTF-8", id="other-charset"),
        pytest.param("/v1/activations", JSONL, b"{}", 415, MSGPACK, id="text-as-activations"),
        pytest.param("/v1/activations", MSGPACK, b"", 400, "frame", id="no-frame"),
        pytest.param("/v1/activations", MSGPACK, b"\xc1\xc1\xc1", 400, "MessagePack", id="malformed-msgpack"),
        pytest.param("/v1/activations", MSGPACK, frame()[:-3], 400, "cut off", id="cut-off-msgpack"),
        pytest.param("/v1/activations", MSGPACK, msgpack.packb([1, 2]), 400, "map", id="not-a-map"),
        pytest.param("/v1/activations", MSGPACK, msgpack.packb({"document": "a" * 200_000}), 413, "0,000", id="oversized-msgpack"),
        pytest.param(
            "/v1/activations",
            MSGPACK,
            frame(features=ints(3, 1, 1)),
            400,
            "follows 3 within token 0",
            id="unsorted-features",
        ),
        pytest.param("/v1/activations", MSGPACK, frame(features=ints(-1, 1, 1)), 400, "-1", id="negative-feature"),
        pytest.param("/v1/activations", MSGPACK, frame(features=ints(0, 6, 1)), 400, "0 to 5", id="out-of-range"),
        pytest.param("/v1/activations", MSGPACK, frame(tokens=3), 400, "offsets", id="wrong-token-count"),
        pytest.param("/v1/activations", MSGPACK, frame() + frame(values=b"\0" * 12), 400, "frame 2", id="second-frame-bad"),
    ],
)
def test_bad_input_is_refused_whole_with_a_reason(
    api: Api, path: str, media_type: str, body: bytes, status: int, says: str
) -> None:
    before = taken(api)
    assert says in problem(api.post(path, body, media_type), status)
    assert taken(api) == before and left_behind(api) == []


def test_a_compressed_body_is_refused_as_such(api: Api) -> None:
    headers = {"Content-Type": TEXT, "Content-Encoding": "gzip"}
    assert "compression" in problem(api.http.post("/v1/corpora?name=mine", content=b"x", headers=headers), 415)


@pytest.mark.parametrize("name", ["", "a/b", "a b", "x" * 65], ids=["empty", "slash", "space", "too-long"])
def test_a_bad_corpus_name_is_refused(api: Api, name: str) -> None:
    assert "corpus name" in problem(api.post("/v1/corpora", b"text", TEXT, name=name), 400)


def test_an_upload_needs_a_name(api: Api) -> None:
    assert "name" in problem(api.http.post("/v1/corpora", content=b"text", headers={"Content-Type": TEXT}), 400)


def test_an_unknown_way_to_wait_is_refused_before_anything_is_taken(api: Api) -> None:
    before = taken(api)
    assert "durable, visible" in problem(api.post("/v1/corpora", b"text", TEXT, wait="forever"), 422)
    assert taken(api) == before


def test_a_large_refused_body_still_gets_its_reason(api: Api) -> None:
    body = b'{"text": "a"}\nnot json\n' + b'{"text": "b"}\n' * 600_000
    assert "line 2" in problem(api.post("/v1/corpora", body, JSONL), 400)


def test_who_asks_with_expect_100_continue_is_refused_without_sending_the_body(api: Api) -> None:
    host, port = api.url.removeprefix("http://").split(":")
    head = f"POST /v1/corpora?name=mine HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"{head}Content-Length: 1000000\r\nExpect: 100-continue\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 415")


def test_a_client_that_disconnects_in_mid_body_leaves_nothing(api: Api) -> None:
    before = taken(api)
    host, port = api.url.removeprefix("http://").split(":")
    head = f"POST /v1/corpora?name=mine HTTP/1.1\r\nHost: {host}\r\nContent-Type: {JSONL}\r\nContent-Length: 3000000\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head.encode() + b'{"text": "half"}\n' * 100_000)
        eventually("the body is arriving", lambda: left_behind(api))
    eventually("what had arrived is gone", lambda: not left_behind(api))
    assert taken(api) == before


def test_a_streamed_body_without_length_is_taken_whole(api: Api) -> None:
    lines = [json.dumps({"text": f"document {number}"}) + "\n" for number in range(20_000)]
    answer = api.post("/v1/corpora", (line.encode() for line in lines), JSONL)
    assert answer.json()["documents"] == 20_000
    assert api.inbox.body(answer.json()["id"]).read_bytes() == "".join(lines).encode()


def test_the_same_key_and_content_are_one_upload_and_other_content_is_a_conflict(api: Api) -> None:
    first = api.post("/v1/corpora", b"text", TEXT, key="k1")
    before = taken(api)
    again = api.post("/v1/corpora", b"text", TEXT, key="k1")
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json()["id"] == again.json()["id"] and taken(api) == before
    assert "k1" in problem(api.post("/v1/corpora", b"other", TEXT, key="k1"), 409)
    assert "k1" in problem(api.post("/v1/corpora", b"text", TEXT, key="k1", name="another"), 409)
    assert api.post("/v1/activations", frame(), MSGPACK, key="k1").status_code == 202  # a key belongs to its route
    assert taken(api) == before + 1


def test_identical_text_without_a_key_is_taken_as_often_as_it_is_sent(api: Api) -> None:
    ids = {api.post("/v1/corpora", b"twice", TEXT).json()["id"] for _ in range(2)}
    assert len(ids) == 2


def test_a_key_that_is_still_arriving_is_busy_with_retry_after(api: Api) -> None:
    sent, go_on = threading.Event(), threading.Event()

    def slowly() -> Iterator[bytes]:
        yield b'{"text": "a"}\n' * 100_000
        sent.set()
        go_on.wait(20)
        yield b'{"text": "z"}\n'

    first: list[int] = []
    sender = threading.Thread(target=lambda: first.append(api.post("/v1/corpora", slowly(), JSONL, key="slow").status_code))
    sender.start()
    try:
        assert sent.wait(20)
        eventually("the body is arriving", lambda: left_behind(api))
        second = api.post("/v1/corpora", b'{"text": "a"}\n', JSONL, key="slow")
        assert "still arriving" in problem(second, 409)
        assert int(second.headers["retry-after"]) >= 1
    finally:
        go_on.set()
        sender.join()
    assert first == [202]


def test_text_for_a_run_without_a_model_is_refused_with_the_route_that_works(tmp_path: Path) -> None:
    pushed = RunDescription(model="", saes="", layers=RUN.layers)
    with api_process(tmp_path, pushed) as (api, _):
        assert "/v1/activations" in problem(api.post("/v1/corpora", b"text", TEXT), 400)
        assert api.post("/v1/activations", frame(), MSGPACK).status_code == 202


def test_an_upload_before_the_run_is_described_is_503_with_retry_after(tmp_path: Path) -> None:
    with api_process(tmp_path, run=None) as (api, redis):
        answer = api.post("/v1/corpora", b"text", TEXT)
        assert "loading" in problem(answer, 503) and int(answer.headers["retry-after"]) >= 1
        assert api.http.get("/v1/status").json()["state"] == "starting"
        redis.stop()


def test_an_upload_is_taken_while_redis_is_away(tmp_path: Path) -> None:
    with api_process(tmp_path) as (api, redis):
        redis.stop()
        assert api.post("/v1/corpora", b"text", TEXT).status_code == 202
        away = api.http.get("/v1/corpora")
        assert "does not answer" in problem(away, 503) and int(away.headers["retry-after"]) >= 1
        assert api.http.get("/livez").status_code == 200
        assert "saestream_redis_up 0.0" in api.http.get("/metrics").text


def test_corpora_and_uploads_are_listed_in_pages(tmp_path: Path) -> None:
    with api_process(tmp_path) as (api, _):
        for name in ("b", "a", "c", "a", "a"):
            api.post("/v1/corpora", b"text", TEXT, name=name)
        first = api.http.get("/v1/corpora", params={"limit": 2}).json()
        assert [corpus["name"] for corpus in first["items"]] == ["a", "b"]
        assert first["items"][0]["uploads"] == 3 and first["items"][0]["documents"] == 3
        rest = api.http.get("/v1/corpora", params={"limit": 2, "cursor": first["next"]}).json()
        assert [corpus["name"] for corpus in rest["items"]] == ["c"] and rest["next"] is None

        newest = api.http.get("/v1/corpora/a", params={"limit": 2}).json()
        older = api.http.get("/v1/corpora/a", params={"limit": 2, "cursor": newest["next"]}).json()
        ids = [upload["id"] for upload in newest["items"] + older["items"]]
        assert ids == sorted(ids, reverse=True) and len(ids) == 3 and older["next"] is None
        assert newest["documents"] == 3
        assert "nothing of that name" in problem(api.http.get("/v1/corpora/none"), 404)
        assert "no upload" in problem(api.http.get("/v1/uploads/none"), 404)
