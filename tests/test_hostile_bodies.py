"""Bodies that want more than to be counted: bombs, nesting, and names of files and servers; over HTTP, to the real API process."""

from __future__ import annotations

import gzip
import http.server
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import httpx
import msgpack
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from api_rig import Api, api_process, problem

from engine.corpus import apart
from engine.corpus.apart import CheckedApart
from engine.corpus.documents import read_documents
from engine.corpus.parquet import ParquetCheck
from engine.errors import SaestreamError, TooLarge

TEXT, JSONL, PARQUET, MSGPACK = "text/plain", "application/x-ndjson", "application/vnd.apache.parquet", "application/x-msgpack"
MIB = 1 << 20


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with api_process(tmp_path_factory.mktemp("hostile"), max_upload_bytes=8 * MIB) as (api, _):
        yield api


@pytest.fixture(autouse=True)
def _nothing_is_left_and_memory_is_flat(api: Api) -> Iterator[None]:
    process = psutil.Process(api.process.pid)
    before = process.memory_info().rss
    yield
    assert process.memory_info().rss - before < 64 * MIB
    assert not list((api.settings.data_dir / "inbox" / "incoming").iterdir())
    assert api.http.get("/livez").status_code == 200


def parquet(columns: dict[str, object], **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, write_statistics=False, **options)
    return sink.getvalue()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, identity"])
@pytest.mark.parametrize("path", ["/v1/corpora?name=a", "/v1/activations?name=a", "/v1/watch", "/v1/graph"])
def test_a_compressed_body_is_refused_unread(api: Api, path: str, encoding: str) -> None:
    bomb = gzip.compress(bytes(50 * MIB))
    kinds = {"/v1/corpora?name=a": TEXT, "/v1/activations?name=a": MSGPACK}
    headers = {"Content-Type": kinds.get(path, "application/json"), "Content-Encoding": encoding}
    assert "compression" in problem(api.http.post(path, content=bomb, headers=headers), 415)


def test_a_gzip_file_is_no_text(api: Api) -> None:
    assert "UTF-8" in problem(api.post("/v1/corpora", gzip.compress(b"text"), TEXT), 400)


def test_a_small_parquet_file_of_much_text_is_refused_where_it_becomes_too_much(api: Api) -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(100_000, np.int32)), pa.array(["a" * 90_000]))  # 9 GB
    body = parquet({"text": texts}, compression="zstd")
    assert len(body) < 100_000
    assert "unpacks to more than 8,388,608 bytes" in problem(api.post("/v1/corpora", body, PARQUET), 413)


def test_a_small_parquet_file_of_many_empty_documents_is_refused_too(api: Api) -> None:
    body = parquet({"text": pa.array([""] * 100_000)}, compression="zstd")
    assert "in its first 32,769 rows" in problem(api.post("/v1/corpora", body, PARQUET), 413)


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_a_parquet_page_that_expands_a_thousand_times_is_refused_by_its_document(api: Api, codec: str) -> None:
    body = parquet({"text": pa.array(["a" * (20 * MIB)])}, compression=codec, use_dictionary=False)
    assert len(body) < 100_000
    assert "row 1 has 20,971,520 bytes" in problem(api.post("/v1/corpora", body, PARQUET), 413)


def finish(tmp_path: Path, body: bytes) -> int:
    (tmp_path / "body").write_bytes(body)
    return CheckedApart(ParquetCheck(1 << 20, 600, 1 << 40)).finish(tmp_path / "body")


def test_a_page_that_needs_more_memory_than_there_is_ends_the_check_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "MEMORY_BYTES", 32 * MIB)
    (honest, bomb) = (parquet({"text": pa.array(["a" * size])}, use_dictionary=False) for size in (MIB, 80 * MIB))
    assert finish(tmp_path, honest) == 1
    with pytest.raises(TooLarge, match="take too much memory: write it in smaller ones"):
        finish(tmp_path, bomb)


def test_a_row_of_a_million_times_the_same_token_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "MEMORY_BYTES", 32 * MIB)
    row = pa.ListArray.from_arrays(pa.array([0, 20_000_000], pa.int32()), pa.array(np.zeros(20_000_000, np.int32)))
    body = parquet({"tokens": row}, compression="zstd")
    assert len(body) < 100_000
    with pytest.raises(TooLarge):
        finish(tmp_path, body)


def test_a_check_that_is_killed_refuses_its_upload_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a page does that breaks its reader."""
    monkeypatch.setattr(apart, "CPU_SECONDS", 1)
    body = parquet({"text": pa.array(["a"] * 500_000)})
    with pytest.raises(TooLarge, match="or breaks its reader"):
        finish(tmp_path, body)


def test_the_errors_of_a_check_in_another_process_are_those_of_the_check(tmp_path: Path) -> None:
    bodies = [b"PAR1 not really", parquet({"title": ["a"]}), parquet({"tokens": [[1], [600]]}), parquet({"text": ["a" * 2 * MIB]})]
    for body in bodies:
        raised = []
        for check in (ParquetCheck(1 << 20, 600, 1 << 40), CheckedApart(ParquetCheck(1 << 20, 600, 1 << 40))):
            (tmp_path / "body").write_bytes(body)
            with pytest.raises(SaestreamError) as error:
                check.finish(tmp_path / "body")
            raised.append((type(error.value), error.value.message))
        assert raised[0] == raised[1]


DEEP = 200_000
NESTED = {
    "lists": b"[" * DEEP,
    "objects": b'{"a":' * DEEP,
    "a list in place of a value": b'{"prompt": ' + b"[" * DEEP,
    "a field that nobody knows": b'{"x": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "pairs": b'{"pairs": ' + b"[" * DEEP + b"]" * DEEP + b"}",
}


@pytest.mark.parametrize("body", NESTED.values(), ids=NESTED)
@pytest.mark.parametrize("path", ["/v1/watch", "/v1/graph"])
def test_deep_json_is_refused(api: Api, path: str, body: bytes) -> None:
    answer = api.http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert problem(answer, answer.status_code) and answer.status_code in (400, 413)


def test_deep_json_lines_and_messagepack_are_refused(api: Api) -> None:
    for body in (b'{"text": "a", "x": ' + b"[" * 90_000, b"[" * 90_000, b'{"tokens": ' + b"[" * 90_000):
        assert "line 1" in problem(api.post("/v1/corpora", body, JSONL), 400)
    for body in (b"\x91" * 90_000, b"\x81\xa1a" * 30_000, msgpack.packb({"document": "d"})[:1] + b"\xa1d" + b"\x91" * 90_000):
        assert "not MessagePack" in problem(api.post("/v1/activations", body, MSGPACK), 400)


class Watched(http.server.BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(404)

    do_HEAD = do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """A server that nobody may ask."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Watched) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
    assert Watched.asked == []


def sources(elsewhere: str, secret: Path) -> list[str]:
    return [
        str(secret),
        f"file://{secret}",
        f"{elsewhere}/x",
        f"@{secret}",
        "../../../../etc/passwd",
        "hf://datasets/a/b",
        "s3://a/b",
    ]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.jsonl"
    path.write_text('{"text": "the secret of this machine"}\n')
    return path


def test_a_name_of_a_file_or_a_server_in_a_text_is_a_text(api: Api, elsewhere: str, secret: Path) -> None:
    for source in sources(elsewhere, secret):
        for media_type, body in ((TEXT, source.encode()), (JSONL, json.dumps({"text": source, "id": source}).encode())):
            answer = api.post("/v1/corpora", body, media_type)
            assert answer.status_code == 202
            assert api.inbox.body(answer.json()["id"]).read_bytes() == body


def test_a_field_that_names_a_source_is_none(api: Api, elsewhere: str, secret: Path) -> None:
    for source in sources(elsewhere, secret):
        for field in ("path", "file", "url", "source", "$ref", "dataset"):
            body = json.dumps({field: source}).encode()
            assert "neither a text nor a tokens field" in problem(api.post("/v1/corpora", body, JSONL), 400)
            for path in ("/v1/watch", "/v1/graph"):
                answer = api.http.post(path, content=body, headers={"Content-Type": "application/json"})
                assert problem(answer, 400)


def test_no_parameter_of_any_route_takes_a_source(api: Api, elsewhere: str, secret: Path) -> None:
    document = api.http.get("/schema/openapi.json").json()
    operations = [(path, method, operation) for path, item in document["paths"].items() for method, operation in item.items()]
    assert len(operations) > 30
    for path, method, operation in operations:
        names = {parameter["name"] for parameter in operation.get("parameters", [])}
        assert not names & {"path", "file", "filename", "url", "uri", "source", "host", "address", "redis", "callback", "webhook"}
        for name in ("path", "url", "file", "source"):
            address = path.replace("{layer}", "0").replace("{index}", "0").replace("{", "").replace("}", "")
            answer = api.http.request(method, address, params={name: f"file://{secret}"})
            assert "unknown query parameter" in problem(answer, 400), (path, name)


@pytest.mark.parametrize(
    "name", ["../../escaped", "..", "/etc/passwd", "a/../../b", "file:///etc/passwd", "a\x00b", "\u202e", "C:\\x"]
)
def test_a_corpus_is_not_called_like_a_file(api: Api, name: str) -> None:
    answer = api.post("/v1/corpora", b"text", TEXT, name=name)
    if name == "..":  # only a name: nothing on disk is called by it
        assert answer.status_code == 202
    else:
        assert "corpus name" in problem(answer, 400)
    inbox = api.settings.data_dir / "inbox"
    assert {path.name for path in inbox.iterdir()} <= {"uploads", "incoming", "keys", "writer.lock", "commit.lock"}
    assert not (api.settings.data_dir / "escaped").exists() and not (api.settings.data_dir.parent / "escaped").exists()


WEB = ["/web/../../setup.py", "/web/%2e%2e/app.py", "/web/..%2fapp.py", "/web//etc/passwd", "/web/%2fetc/passwd", "/web/%00"]


@pytest.mark.parametrize("path", [*WEB, f"/web/{'a' * 5000}"])
def test_the_files_of_the_page_are_all_that_is_served(api: Api, path: str) -> None:
    address = api.http.base_url
    url = httpx.URL(scheme="http", host=address.host, port=address.port, raw_path=path.encode())
    answer = api.http.send(httpx.Request("GET", url))
    assert answer.status_code in (400, 404) and b"import" not in answer.content and b"root:" not in answer.content


def test_a_parquet_file_that_says_that_its_columns_lie_elsewhere_is_read_where_it_is(api: Api, elsewhere: str) -> None:
    for source in ("/etc/passwd", "file:///etc/passwd", f"{elsewhere}/x.parquet"):
        written: list[pq.FileMetaData] = []
        sink, footer = io.BytesIO(), io.BytesIO()
        table = pa.table({"text": ["here"]})
        with pq.ParquetWriter(sink, table.schema, metadata_collector=written) as writer:
            writer.write_table(table)
        written[0].set_file_path(source)
        written[0].write_metadata_file(footer)
        body = sink.getvalue()
        moved = body[: -8 - int.from_bytes(body[-8:-4], "little")] + footer.getvalue()[4:]
        assert pq.ParquetFile(io.BytesIO(moved)).metadata.row_group(0).column(0).file_path == source
        answer = api.post("/v1/corpora", moved, PARQUET)
        assert [document.text for document in read_documents(api.inbox.body(answer.json()["id"]), PARQUET)] == ["here"]
