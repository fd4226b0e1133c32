"""Hypothesis strategies of upload bodies: what a careful client sends, what a careless one does, and either of them damaged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa
from corpus_rig import VOCAB, parquet
from hypothesis import strategies as st

JSONL, PARQUET, ACTIVATIONS = "application/x-ndjson", "application/vnd.apache.parquet", "application/x-msgpack"

_texts = st.text(max_size=40) | st.sampled_from(["", "\0", "\ufeff", "<|endoftext|>", "\x1b[2J", "<script>", "a" * 3000])
_ids = st.integers(0, VOCAB - 1)
_wild_numbers = st.integers() | st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([2**31, 2**32, -1, 2**63, 2**64 - 1])
_leaves = st.none() | st.booleans() | _wild_numbers | _texts
_anything = st.recursive(
    _leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12
)


@st.composite
def damaged(draw: st.DrawFn, bodies: st.SearchStrategy[bytes]) -> bytes:
    """A body with up to four faults: bytes changed, removed, repeated, put in, or its end cut off."""
    body = bytearray(draw(bodies))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body)))
        length = draw(st.integers(1, 16))
        match draw(st.sampled_from(["change", "remove", "repeat", "insert", "cut"])):
            case "change":
                body[at : at + length] = draw(st.binary(min_size=1, max_size=length))
            case "remove":
                del body[at : at + length]
            case "repeat":
                body[at:at] = body[at : at + length] * draw(st.integers(1, 50))
            case "insert":
                body[at:at] = draw(st.binary(min_size=1, max_size=length))
            case "cut":
                del body[at:]
    return bytes(body)


def _lines(records: list[Any]) -> bytes:
    return "\n".join(json.dumps(record) for record in records).encode("utf-8", "surrogatepass")


_document = st.fixed_dictionaries({"text": _texts}, optional={"id": _texts | st.integers(0, 99)}) | st.fixed_dictionaries(
    {"tokens": st.lists(_ids, max_size=20)}, optional={"id": _texts}
)
_odd_document = st.dictionaries(st.sampled_from(["text", "tokens", "id", "x"]), _anything | st.lists(_wild_numbers), max_size=4)
_raw_line = st.sampled_from(
    [
        b'{"text": "\\ud800"}',
        b'{"text": "\\ud83d\\ude00", "text": "twice"}',
        b'{"tokens": [1e999]}',
        b'{"tokens": [1.0, -0]}',
        b"\xef\xbb\xbf",
        b'{"text": "\\u0000\\u2028"}',
        b'{"text": "\xff"}',
        b"NaN",
        b"\r",
    ]
)
_deep = st.builds(bytes.__mul__, st.sampled_from([b"[", b'{"a":', b"\x91", b"\x81\xa1a", b"\x81"]), st.sampled_from([3, 600, 5000]))
"""Lists in lists and maps in maps, in JSON and in MessagePack."""

json_lines = (
    st.lists(_document, min_size=1, max_size=6).map(_lines)
    | st.lists(_document | _odd_document | _anything, max_size=4).map(_lines)
    | st.lists(_raw_line | _deep | _document.map(lambda one: _lines([one])), max_size=4).map(b"\n".join)
)


@st.composite
def _layer(draw: st.DrawFn, tokens: int, size: int) -> dict[str, bytes]:
    rows = [sorted(draw(st.sets(st.integers(0, size - 1), max_size=3))) for _ in range(tokens)]
    features = [feature for row in rows for feature in row]
    values = draw(st.lists(st.floats(0.125, 1024, width=32), min_size=len(features), max_size=len(features)))
    return {
        "offsets": np.cumsum([0, *map(len, rows)]).astype("<i4").tobytes(),
        "features": np.array(features, "<i4").tobytes(),
        "values": np.array(values, "<f4").tobytes(),
    }


@st.composite
def _frame(draw: st.DrawFn, dictionaries: Sequence[int]) -> dict[str, Any]:
    tokens = draw(st.integers(0, 5))
    return {
        "document": draw(st.sampled_from(["a", "b"]) | _texts.filter(lambda name: len(name) <= 1024)),
        "tokens": tokens,
        "layers": [draw(_layer(tokens, size)) for size in dictionaries],
    }


_int4 = st.lists(st.sampled_from([0, 1, 2, 7, 8, -1, 2**31 - 1, -(2**31)]), max_size=6).map(
    lambda values: np.array(values, "<i4").tobytes()
)
_float4 = st.lists(st.floats(width=32), max_size=6).map(lambda values: np.array(values, "<f4").tobytes())


@st.composite
def _odd_frame(draw: st.DrawFn, dictionaries: Sequence[int]) -> Any:
    """A frame of which one thing is not as it must be."""
    frame = draw(_frame(dictionaries))
    wrong = st.binary(max_size=9) | _int4 | _float4 | _packable
    where = draw(st.sampled_from(["document", "tokens", "layers", "layer", "offsets", "features", "values"]))
    if where in ("document", "tokens", "layers"):
        frame[where] = draw(wrong)
    else:
        at = draw(st.integers(0, len(dictionaries) - 1))
        if where == "layer":
            frame["layers"][at] = draw(wrong)
        else:
            frame["layers"][at][where] = draw(wrong)
    return frame


_packable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=8))
    | st.just(msgpack.Timestamp(1, 5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(0, 9), inner, max_size=3),
    max_leaves=8,
)
_raw_frame = st.sampled_from(
    [
        b"\xdd\xff\xff\xff\xff",  # a list of 4 G
        b"\xdf\xff\xff\xff\xff",  # a map of 4 G
        b"\xc6\xff\xff\xff\xff",  # 4 GiB of binary
        b"\xdb\x7f\xff\xff\xff",  # 2 GiB of text
        b"\xc9\xff\xff\xff\xff\x01",  # an extension of 4 GiB
        b"\x81\x90\x00",  # a map whose key is a list
        b"\x81\x80\x00",  # … or a map
        b"\x82\xa1a\x00\xa1a\x01",  # a key twice
        b"\xa1\xff",  # text that is not UTF-8
        b"\xd6\xff\x00\x00\x00\x00",  # a timestamp
        b"\xc7\x0c\xff" + b"\xff" * 12,  # … out of range
        b"\xc1",  # the byte that means nothing
    ]
)


def activations(dictionaries: Sequence[int]) -> st.SearchStrategy[bytes]:
    """Bodies of `POST /v1/activations` for a run of these dictionaries."""
    good = _frame(dictionaries)
    return (
        st.lists(good, min_size=1, max_size=4).map(_packed)
        | st.lists(_odd_frame(dictionaries) | _packable | good, max_size=3).map(_packed)
        | st.lists(_raw_frame | _deep | good.map(msgpack.packb), max_size=3).map(b"".join)
    )


def _packed(frames: list[Any]) -> bytes:
    return b"".join(map(msgpack.packb, frames))


_columns = st.sampled_from(["text", "tokens", "id", "x", "TEXT", ""])
_arrays = (
    st.lists(_texts, max_size=6).map(lambda values: pa.array(values, pa.string()))
    | st.lists(st.none() | _texts, max_size=6).map(lambda values: pa.array(values, pa.string()).dictionary_encode())
    | st.lists(st.binary(max_size=6), max_size=6).map(lambda values: pa.array(values, pa.binary()).view(pa.string()))
    | st.lists(st.lists(_ids, max_size=5), max_size=6).map(lambda values: pa.array(values, pa.list_(pa.int32())))
    | st.lists(st.none() | st.lists(st.integers(-2, 2**40) | st.none(), max_size=5), max_size=6).map(
        lambda values: pa.array(values, pa.large_list(pa.int64()))
    )
    | st.lists(st.integers(0, 2**64 - 1), max_size=6).map(lambda values: pa.array(values, pa.uint64()))
    | st.lists(st.none() | st.lists(_ids, min_size=2, max_size=2), max_size=6).map(
        lambda values: pa.array(values, pa.list_(pa.int16(), 2))
    )
    | st.lists(st.floats(), max_size=6).map(lambda values: pa.array(values, pa.float64()))
    | st.lists(st.booleans(), max_size=6).map(lambda values: pa.array(values, pa.bool_()))
    | st.lists(st.just({"text": "a"}), max_size=6).map(lambda values: pa.array(values, pa.struct({"text": pa.string()})))
    | st.lists(st.none(), max_size=6).map(lambda values: pa.array(values, pa.null()))
)


@st.composite
def _table(draw: st.DrawFn) -> bytes:
    columns = {draw(_columns): draw(_arrays) for _ in range(draw(st.integers(1, 3)))}
    rows = min(map(len, columns.values()))
    return parquet(
        {name: column[:rows] for name, column in columns.items()},
        row_group_size=draw(st.integers(1, 4)),
        compression=draw(st.sampled_from(["none", "snappy", "zstd", "gzip", "brotli", "lz4"])),
        use_dictionary=draw(st.booleans()),
        data_page_version=draw(st.sampled_from(["1.0", "2.0"])),
        write_statistics=draw(st.booleans()),
    )


def _plain_table(texts: list[str]) -> bytes:
    return parquet({"text": pa.array(texts, pa.string()), "id": pa.array(range(len(texts)), pa.int64())})


parquet_files = st.lists(_texts, min_size=1, max_size=6).map(_plain_table) | _table()


def bodies(dictionaries: Sequence[int]) -> dict[str, st.SearchStrategy[bytes]]:
    """Media type → bodies for a run of these dictionaries, half of them damaged."""
    of = {JSONL: json_lines, PARQUET: parquet_files, ACTIVATIONS: activations(dictionaries)}
    return {media_type: whole | damaged(whole) for media_type, whole in of.items()}
