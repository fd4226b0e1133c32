"""`application/vnd.apache.parquet`: a document a row; column `text` (string) or `tokens` (list of integers), optional column `id`.

Row groups are read page by page, in batches of about 4 MiB and at most 64 rows, so memory is bounded by a page and 64 documents.
Both may be large, and a small file may unpack to much: who does not trust it has it checked in another process
(`engine.corpus.apart`), which has a limit of memory; all documents together are no larger than a body may be.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.corpus.body import BodyCheck, Document, document_name, half_of, half_of_tokens, token_ids, too_large
from engine.errors import BadInput, TooLarge

MEDIA_TYPE = "application/vnd.apache.parquet"
_MAGIC = b"PAR1"
_BATCH_BYTES = 4 << 20
_MOST_ROWS = 64  # a dictionary may make each of them a megabyte; 1,024 are no faster
_READ_BYTES = 1 << 20  # at a time: without it pyarrow reads whole column chunks
_DOCUMENT_BYTES = 256  # that a document counts for beside its text: millions of empty ones are work too


class ParquetCheck(BodyCheck):
    """The magic while the body streams in, everything else when the file is whole."""

    media_type = MEDIA_TYPE

    def __init__(self, max_document_bytes: int, vocab_size: int, max_bytes: int) -> None:
        """`max_bytes`: of all documents together."""
        self.limits = max_document_bytes, vocab_size, max_bytes
        self._start = b""

    def feed(self, chunk: bytes) -> None:
        if len(self._start) < len(_MAGIC):
            self._start += chunk[: len(_MAGIC) - len(self._start)]
            if not _MAGIC.startswith(self._start[: len(_MAGIC)]):
                raise BadInput(f"the body is not Parquet: it starts with {self._start!r}, a Parquet file with {_MAGIC!r}")

    def finish(self, body: Path) -> int:
        max_document_bytes, vocab_size, max_bytes = self.limits
        documents = unpacked = 0
        for document in read_parquet(body, max_document_bytes=max_document_bytes, vocab_size=vocab_size):
            documents += 1
            unpacked += _DOCUMENT_BYTES + (len(document.text or "") if document.tokens is None else 4 * len(document.tokens))
            if unpacked > max_bytes:
                raise TooLarge(
                    f"the Parquet file unpacks to more than {max_bytes:,} bytes in its first {documents:,} rows, {_DOCUMENT_BYTES} "
                    "for each and its text: send it in several uploads"
                )
        if not documents:
            raise BadInput("the Parquet file has no row")
        return documents


def read_parquet(path: Path, start: int = 0, max_document_bytes: int = 1 << 62, vocab_size: int = 1 << 31) -> Iterator[Document]:
    """Yield the documents from row `start` on.

    Raises:
        BadInput: not Parquet, damaged, without the columns, or a row that is null, not UTF-8 or holds a wrong token id.
        TooLarge: a document of more than `max_document_bytes` (text: UTF-8 bytes; tokens: 4 bytes each), or more at once than there
            is memory for.
    """
    try:
        column, columns = _columns(pq.read_schema(path))
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_READ_BYTES) as file:
            for number, value, name in _rows(file, columns, start):
                where = f"row {number + 1}"
                if not value.is_valid:
                    raise BadInput(f"{where}: {column} is null")
                yield _document(number, column, value, document_name(name, where), where, max_document_bytes, vocab_size)
    except MemoryError as error:
        raise TooLarge("the Parquet file has a page, or rows, that take too much memory: write it in smaller ones") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault; pyarrow raises OSError without a number for content that it can't decode
        raise BadInput("the body is not a readable Parquet file: it is cut off, damaged or of an unsupported kind") from error


def _columns(schema: pa.Schema) -> tuple[str, list[str]]:
    """The column that holds the documents, and all that are read."""
    has_id = ["id"] if "id" in schema.names else []
    for name, fits, kind in (("text", _is_text, "strings"), ("tokens", _is_ids, "lists of integers")):
        if name in schema.names:
            if not fits(schema.field(name).type):
                raise BadInput(f"the Parquet column {name} is {schema.field(name).type}; it must hold {kind}")
            if name == "text" and "tokens" in schema.names:
                raise BadInput("the Parquet file has both a text and a tokens column; a document is one of the two")
            return name, [name, *has_id]
    raise BadInput(f"the Parquet file has neither a text nor a tokens column; it has {', '.join(schema.names[:8]) or 'none'}")


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_ids(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and pa.types.is_integer(kind.value_type)


def _rows(file: pq.ParquetFile, columns: list[str], start: int) -> Iterator[tuple[int, Any, object]]:
    """Yield (row number, scalar of the document, id) from row `start` on, without reading row groups that lie before it."""
    first = 0
    for group in range(file.metadata.num_row_groups):
        held = file.metadata.row_group(group)
        end = first + held.num_rows
        if end > start:
            rows = max(1, min(_MOST_ROWS, _BATCH_BYTES * held.num_rows // max(held.total_byte_size, 1)))
            number = first
            for batch in file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False):
                ids = batch.column("id").to_pylist() if "id" in columns else [None] * len(batch)
                for value, name in zip(batch.column(columns[0]), ids, strict=True):
                    if number >= start:
                        yield number, value, name
                    number += 1
        first = end


def _document(number: int, column: str, value: Any, name: str | None, where: str, limit: int, vocab_size: int) -> Document:
    if column == "text":
        raw = (value.value if isinstance(value, pa.DictionaryScalar) else value).as_buffer()
        if raw.size > limit:
            raise too_large(where, raw.size, limit)
        try:
            return Document(number, name, raw.to_pybytes().decode("utf-8"), None, half_of(memoryview(raw)))
        except UnicodeDecodeError as error:
            raise BadInput(f"{where} is not UTF-8: byte {error.start} of the text ({error.reason})") from error
    if 4 * len(value.values) > limit:
        raise too_large(where, 4 * len(value.values), limit)
    if value.values.null_count:
        raise BadInput(f"{where}: tokens holds a null")
    tokens = token_ids(value.values.to_numpy(zero_copy_only=False), vocab_size, where)
    return Document(number, name, None, tokens, half_of_tokens(tokens))
