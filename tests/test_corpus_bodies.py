"""Request bodies of /v1/corpora: what is read, and what is refused with which words."""

from __future__ import annotations

import json
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from corpus_rig import LIMIT, check, lines, parquet

from engine.corpus.body import Document, half_of, half_of_tokens
from engine.corpus.documents import media_type_of, read_documents
from engine.errors import BadInput, SaestreamError, TooLarge, UnsupportedMedia

TEXT, JSONL, PARQUET = "text/plain", "application/x-ndjson", "application/vnd.apache.parquet"


def take(tmp_path: Path, body: bytes, media_type: str, step: int = 1 << 16, **options: object) -> list[Document]:
    """Check a body in chunks of `step` bytes, and read it."""
    path = tmp_path / "body"
    path.write_bytes(body)
    watch = check(media_type, **options)
    for start in range(0, len(body), step):
        watch.feed(body[start : start + step])
    documents = watch.finish(path)
    found = list(read_documents(path, media_type))
    assert len(found) == documents and [document.number for document in found] == list(range(documents))
    return found


def test_plain_text_is_one_document_and_keeps_every_character(tmp_path: Path) -> None:
    text = "\ufeffé\r\nline 2\0 東京 🙂"
    (document,) = take(tmp_path, text.encode(), TEXT, step=1)
    assert (document.text, document.name, document.half) == (text, None, half_of(text.encode()))


@pytest.mark.parametrize(
    "media_type, body", [(TEXT, b""), (JSONL, b'{"text": ""}'), (JSONL, b'{"tokens": []}')], ids=["text", "line", "ids"]
)
def test_an_empty_document_is_a_document(tmp_path: Path, media_type: str, body: bytes) -> None:
    assert len(take(tmp_path, body, media_type)) == 1


def test_a_document_of_10_mb_is_a_document(tmp_path: Path) -> None:
    text = "0123456789" * 1_000_000
    assert take(tmp_path, text.encode(), TEXT, max_document_bytes=64 << 20)[0].text == text
    assert take(tmp_path, lines({"text": text}), JSONL, max_document_bytes=64 << 20)[0].text == text
    assert take(tmp_path, parquet({"text": [text]}), PARQUET, max_document_bytes=64 << 20)[0].text == text


def test_json_lines_hold_texts_and_token_ids_with_names(tmp_path: Path) -> None:
    body = b'\xef\xbb\xbf{"text": "a", "id": "first", "url": [1, {"x": null}]}\r\n\n  \n'
    body += b'{"tokens": [5, 0], "id": 7}\n{"text": "\xc3\xa9"}'
    for step in (1, 2, 7, 1000):
        first, second, third = take(tmp_path, body, JSONL, step)
        assert (first.text, first.name, second.name, third.text, third.name) == ("a", "first", "7", "é", None)
        assert second.tokens is not None and second.tokens.tolist() == [5, 0] and second.tokens.dtype == np.int32
        assert (first.half, second.half) == (half_of(b"a"), half_of(np.array([5, 0], "<i4").tobytes()))


def test_reading_from_a_document_on_gives_the_rest(tmp_path: Path) -> None:
    bodies = {
        JSONL: b"\n" + lines(*({"text": f"text {number}"} for number in range(9))).replace(b"\n", b"\n\n"),
        PARQUET: parquet({"text": [f"text {number}" for number in range(9)]}, row_group_size=2),
        TEXT: b"one",
    }
    for media_type, body in bodies.items():
        whole = take(tmp_path, body, media_type)
        for start in range(len(whole) + 1):
            assert list(read_documents(tmp_path / "body", media_type, start)) == whole[start:]


WRONG_LINES = {
    "cut off": (b'{"text": "a"}\n{"text": "b"\n{"text": "c"}', "line 2 is not JSON: cut off"),
    "wrong bracket": (b'{"text": "a"}\n\n{"text": "b"]}', r"line 3 is not JSON: wrong at byte \d+ of it"),
    "trailing garbage": (b'{"text": "a"} x', "line 1 is not JSON: wrong at byte 15 of it"),
    "trailing nul": (b'{"text": "a"}\0', "line 1 is not JSON"),
    "lone surrogate": (b'{"text": "\\ud800"}', "line 1 is not JSON: .*half of a surrogate pair"),
    "no text field": (b'{"text": "a"}\n{"body": "b", "n": 1}', "line 2 has neither a text nor a tokens field .it has 'body', 'n'"),
    "no field": (b"{}", "line 1 has neither a text nor a tokens field .it has no field"),
    "both": (b'{"text": "a", "tokens": [1]}', "line 1 has both a text and a tokens field"),
    "list": (b'["a"]', "line 1: it is a list; it must be an object"),
    "string": (b'"a"', "line 1: it is a string; it must be an object"),
    "text is a number": (b'{"text": 3}', "line 1: text is an integer; it must be a string"),
    "tokens is a string": (b'{"tokens": "3"}', "line 1: tokens is a string; it must be a list of integers"),
    "fraction": (b'{"tokens": [1, 2.5]}', "line 1: the token id at index 1 is a fraction; it must be an integer"),
    "boolean": (b'{"tokens": [true]}', "line 1: the token id at index 0 is a boolean"),
    "infinite id": (b'{"tokens": [1e999]}', "line 1: a number is out of range"),
    "negative id": (b'{"text": "a"}\n{"tokens": [1, -2]}', "line 2: token id -2 at index 1; this model's ids are 0 to 599"),
    "id too large": (b'{"tokens": [0, 599, 600]}', "line 1: token id 600 at index 2; this model's ids are 0 to 599"),
    "id over 64 bits": (b'{"tokens": [9223372036854775808, -1]}', "line 1: token id 9223372036854775808 at index 0"),
    "id over 96 bits": (b'{"tokens": [123456789012345678901234567890]}', "line 1: token id 123456789012345678901234567890"),
    "name is a list": (b'{"text": "a", "id": [1]}', "line 1: id is a list; it must be a string or an integer"),
    "endless name": (b'{"text": "a", "id": "' + b"x" * 2000 + b'"}', "line 1: the id has 2000 characters; the most is 1024"),
    "not utf-8": (b'{"text": "a"}\n{"text": "\xff"}', "line 2 is not UTF-8: byte 0xff at offset 24 of the body"),
    "not utf-8 beside the text": (b'{"text": "a", "other": "\xc3"}', "line 1 is not UTF-8: byte 0xc3 at offset 24 of the body"),
    "deep objects": (b'{"x": ' * 100_000, "line 1 is nested too deeply"),
    "deep lists": (b'{"text": "a", "x": ' + b"[" * 200_000, "line 1 is nested too deeply"),
    "empty body": (b"", "the body has no document"),
    "blank body": (b"\n \r\n", "the body has no document"),
}


@pytest.mark.parametrize("body, message", WRONG_LINES.values(), ids=WRONG_LINES)
def test_a_wrong_json_line_is_refused_with_its_number_and_what_is_wrong(tmp_path: Path, body: bytes, message: str) -> None:
    for step in (1, 1000) if len(body) < 1000 else (1 << 16,):
        with pytest.raises(BadInput, match=message):
            take(tmp_path, body, JSONL, step)


WRONG_TEXTS = {
    "wrong byte": (b"good \xff", "byte 0xff at offset 5 of the body .invalid start byte"),
    "cut off": (b"caf\xc3", "byte 0xc3 at offset 3 of the body .unexpected end"),
    "broken off": (b"\xe2\x82\xc3", "byte 0xe2 at offset 0 of the body .invalid continuation"),
    "surrogate": (b"a" * 3000 + b"\xed\xa0\x80", "byte 0xed at offset 3000 of the body"),
}


@pytest.mark.parametrize("body, message", WRONG_TEXTS.values(), ids=WRONG_TEXTS)
def test_text_that_is_not_utf8_is_refused_with_the_offset_of_the_byte(tmp_path: Path, body: bytes, message: str) -> None:
    for step in (1, 2, 1 << 16):
        with pytest.raises(BadInput, match=message):
            take(tmp_path, body, TEXT, step)


def test_a_document_over_the_limit_is_refused_before_all_of_it_has_come() -> None:
    for media_type, start in ((TEXT, b""), (JSONL, b'{"text": "a"}\n{"text": "')):
        watch = check(media_type)
        watch.feed(start)
        with pytest.raises(
            TooLarge, match=r"(the text|line 2) has 1,\d{3},\d{3} bytes or more; one document may have at most 1,048,576"
        ):
            for _ in range(LIMIT // 1000 + 2):
                watch.feed(b"a" * 1000)


@pytest.mark.parametrize(
    "column", [{"text": ["short", "a" * (LIMIT + 1)]}, {"tokens": [[1], [1] * (LIMIT // 4 + 1)]}], ids=["text", "tokens"]
)
def test_a_row_over_the_limit_is_refused(tmp_path: Path, column: dict[str, object]) -> None:
    with pytest.raises(TooLarge, match="row 2 has"):
        take(tmp_path, parquet(column), PARQUET)


def test_the_check_of_json_lines_holds_one_line_and_not_the_body() -> None:
    line = lines({"text": "a" * 50_000})
    watch = check(JSONL)
    tracemalloc.start()
    for _ in range(400):
        watch.feed(line)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert watch.finish(Path()) == 400 and peak < 10 * len(line)


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", "é", "", "a"]),
        pa.array(["a", "é", "", "a"], pa.large_string()),
        pa.array(["a", "é", "", "a"]).dictionary_encode(),
    ],
    ids=["string", "large string", "dictionary"],
)
@pytest.mark.parametrize(
    "options", [{}, {"row_group_size": 1}, {"use_dictionary": False, "compression": "zstd"}], ids=["plain", "groups", "zstd"]
)
def test_parquet_texts_of_every_encoding_are_read(tmp_path: Path, column: pa.Array, options: dict[str, object]) -> None:
    found = take(tmp_path, parquet({"other": [1, 2, 3, 4], "text": column, "id": ["w", None, "y", "z"]}, **options), PARQUET)
    assert [(document.text, document.name) for document in found] == [("a", "w"), ("é", None), ("", "y"), ("a", "z")]


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.large_list(pa.uint16())], ids=["list", "large list"])
def test_parquet_token_ids_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    first, second = take(tmp_path, parquet({"tokens": pa.array([[5, 0, 599], []], kind)}), PARQUET)
    assert first.tokens is not None and second.tokens is not None
    assert first.tokens.tolist() == [5, 0, 599] and second.tokens.tolist() == []
    assert first.half == half_of_tokens(np.array([5, 0, 599], dtype=np.int64))


GOOD = parquet({"text": ["some text", "more"] * 50})


WRONG_PARQUET = {
    "empty": (b"", "not a readable Parquet file"),
    "magic alone": (b"PAR1", "not a readable Parquet file"),
    "another format": (b"hello", "not Parquet: it starts with b'hell', a Parquet file with b'PAR1'"),
    "cut off": (GOOD[:-9], "not a readable Parquet file"),
    "trailing garbage": (GOOD + b"\0", "not a readable Parquet file"),
    "damaged": (GOOD[:16] + bytes(20) + GOOD[36:], "not a readable Parquet file"),
    "no text column": (parquet({"body": ["a"], "n": [1]}), "neither a text nor a tokens column; it has body, n"),
    "both": (parquet({"text": ["a"], "tokens": [[1]]}), "both a text and a tokens column"),
    "numbers": (parquet({"text": [1]}), "column text is int64; it must hold strings"),
    "struct": (parquet({"text": [{"x": "a"}]}), "column text is struct"),
    "fractions": (parquet({"tokens": [[1.5]]}), "column tokens is list<element: double>; it must hold lists of integers"),
    "null text": (parquet({"text": ["a", None]}), "row 2: text is null"),
    "null tokens": (parquet({"tokens": pa.array([[1], None], pa.list_(pa.int32()))}), "row 2: tokens is null"),
    "null id": (parquet({"tokens": [[1, None]]}), "row 1: tokens holds a null"),
    "negative id": (parquet({"tokens": [[1], [2, -5]]}), "row 2: token id -5 at index 1; this model's ids are 0 to 599"),
    "id too large": (parquet({"tokens": [[600]]}), "row 1: token id 600 at index 0"),
    "name is a fraction": (parquet({"text": ["a"], "id": [1.5]}), "row 1: the id is float; it must be a string or an integer"),
    "not utf-8": (
        parquet({"text": pa.array([b"fine", b"\xff"], pa.binary()).view(pa.string())}),
        "row 2 is not UTF-8: byte 0 of the text",
    ),
    "no row": (parquet({"text": pa.array([], pa.string())}), "the Parquet file has no row"),
}


@pytest.mark.parametrize("body, message", WRONG_PARQUET.values(), ids=WRONG_PARQUET)
def test_a_wrong_parquet_file_is_refused_with_what_is_wrong(tmp_path: Path, body: bytes, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        take(tmp_path, body, PARQUET)


def test_parquet_with_random_damage_is_refused_or_read_and_never_crashes(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    refused = 0
    for _ in range(150):
        damaged = bytearray(GOOD)
        for position in random.integers(4, len(GOOD), 3):
            damaged[position] = random.integers(256)
        try:
            take(tmp_path, bytes(damaged), PARQUET)
        except SaestreamError:
            refused += 1
    assert refused > 50


def test_a_run_without_a_model_takes_no_text_and_no_tokens() -> None:
    for media_type in (TEXT, JSONL, PARQUET):
        with pytest.raises(BadInput, match="this run has no model"):
            check(media_type, vocab_size=None)


def test_a_content_type_is_read_with_its_charset_or_refused() -> None:
    assert media_type_of('Text/Plain; charset="UTF-8"', "corpora") == TEXT
    for content_type in ("text/html", "", "application/json", "application/x-msgpack", "text/plain; charset=latin-1"):
        with pytest.raises(UnsupportedMedia, match="content type"):
            media_type_of(content_type, "corpora")
    with pytest.raises(UnsupportedMedia, match="/v1/activations reads application/x-msgpack and nothing else"):
        media_type_of(TEXT, "activations")


def test_the_half_of_a_document_depends_on_its_raw_bytes_alone() -> None:
    halves = [half_of(f"document {number}".encode()) for number in range(2000)]
    assert set(halves) == {0, 1} and 900 < sum(halves) < 1100
    assert half_of_tokens(np.array([1, 2], dtype=np.int64)) == half_of(b"\1\0\0\0\2\0\0\0")


def test_the_readers_need_no_torch() -> None:
    import subprocess

    program = "import sys, engine.corpus.inbox, engine.corpus.documents, engine.durable; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1])


def test_a_json_line_is_read_as_json_reads_it(tmp_path: Path) -> None:
    text = 'quote " backslash \\ tab \t nul \0 é 🙂 \u2028 \x7f'
    for ascii_only in (True, False):
        assert take(tmp_path, json.dumps({"text": text}, ensure_ascii=ascii_only).encode(), JSONL)[0].text == text
