"""`application/x-ndjson`: a document a line, `{"text": …}` or `{"tokens": [ids]}`, with an optional `"id"`.

Other fields are ignored. Lines end with LF or CRLF; empty ones are skipped, but counted in the line numbers of messages. A byte
order mark in front of the first line is skipped: JSON has none. Memory is bounded by the longest line, and `max_document_bytes` is
the limit of a line here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from engine.corpus.body import BodyCheck, Document, document_name, half_of, half_of_tokens, token_ids, too_large
from engine.corpus.plain_text import not_utf8
from engine.errors import BadInput

MEDIA_TYPE = "application/x-ndjson"
_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a fraction",
    type(None): "null",
}
_BOM = b"\xef\xbb\xbf"


class _Line(msgspec.Struct, gc=False):
    text: str | None = None
    tokens: list[int] | None = None
    id: str | int | None = None


_decoder = msgspec.json.Decoder(_Line)


class _Parsed(NamedTuple):
    name: str | None
    text: bytes | None  # UTF-8
    tokens: np.ndarray | None


class JsonLinesCheck(BodyCheck):
    """Every line, with its number in each message."""

    media_type = MEDIA_TYPE

    def __init__(self, max_document_bytes: int, vocab_size: int) -> None:
        self._limit, self._vocab_size = max_document_bytes, vocab_size
        self._line = 0  # number of the line in `_rest`, from 0
        self._offset = 0  # where `_rest` begins in the body
        self._rest = bytearray()
        self._documents = 0

    def feed(self, chunk: bytes) -> None:
        searched = len(self._rest)
        self._rest += chunk
        start = 0
        while (end := self._rest.find(b"\n", max(start, searched))) >= 0:
            self._check(bytes(self._rest[start:end]), self._offset + start)
            start = end + 1
        del self._rest[:start]
        self._offset += start
        if len(self._rest) > self._limit:
            raise too_large(f"line {self._line + 1}", len(self._rest), self._limit)

    def finish(self, body: Path) -> int:
        self._check(bytes(self._rest), self._offset)
        self._rest.clear()
        if not self._documents:
            raise BadInput('the body has no document; every line must be a JSON object with "text" or "tokens"')
        return self._documents

    def _check(self, line: bytes, offset: int) -> None:
        if len(line) > self._limit:
            raise too_large(f"line {self._line + 1}", len(line), self._limit)
        self._documents += _parse(line, self._line, offset, self._vocab_size) is not None
        self._line += 1


def read_json_lines(path: Path, start: int = 0) -> Iterator[Document]:
    """Yield the documents from number `start` on. Raises BadInput for a line that the check has ruled out."""
    number = 0
    with open(path, "rb") as file:
        for index, line in enumerate(file):
            if number < start:
                number += not _blank(line, index)
                continue
            parsed = _parse(line, index, 0, 1 << 31)
            if parsed is None:
                continue
            if parsed.text is not None:
                yield Document(number, parsed.name, parsed.text.decode(), None, half_of(parsed.text))
            elif parsed.tokens is not None:
                yield Document(number, parsed.name, None, parsed.tokens, half_of_tokens(parsed.tokens))
            number += 1


def _blank(line: bytes, index: int) -> bool:
    return not (line.removeprefix(_BOM) if index == 0 else line).strip()


def _parse(line: bytes, index: int, offset: int, vocab_size: int) -> _Parsed | None:
    """One line, the `index`-th from 0, beginning at `offset` of the body; None for a blank one."""
    if _blank(line, index):
        return None
    where = f"line {index + 1}"
    if not line.isascii():
        try:
            line.decode("utf-8")  # msgspec validates only what it keeps
        except UnicodeDecodeError as error:
            raise not_utf8(where, error, offset) from error
    if index == 0:
        line = line.removeprefix(_BOM)
    try:
        record = _decoder.decode(line)
        text = None if record.text is None else record.text.encode("utf-8")
    except RecursionError as error:
        raise BadInput(f"{where} is nested too deeply") from error
    except msgspec.ValidationError as error:
        raise BadInput(f"{where}: {_wrong_type(line)}") from error
    except UnicodeEncodeError as error:
        raise BadInput(f"{where}: the text holds half of a surrogate pair at character {error.start}") from error
    except msgspec.DecodeError as error:
        at = re.search(r"byte (\d+)", str(error))
        raise BadInput(
            f"{where} is not JSON: {f'wrong at byte {at[1]} of it' if at else 'cut off, or with half of a surrogate pair'}"
        ) from error
    if (text is None) == (record.tokens is None):
        both = "both a text and a tokens field" if text is not None else f"neither a text nor a tokens field ({_fields(line)})"
        raise BadInput(f"{where} has {both}; a document is one of the two")
    tokens = None if record.tokens is None else token_ids(record.tokens, vocab_size, where)
    return _Parsed(document_name(record.id, where), text, tokens)


def _wrong_type(line: bytes) -> str:
    """What of a line that is JSON has another type than it must have, for a message."""
    try:
        record = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError):  # such as 1e999, or something deep behind the wrong field
        return "a number is out of range, or a field has the wrong type"
    if not isinstance(record, dict):
        return f'it is {_KINDS[type(record)]}; it must be an object with "text" or "tokens"'
    text, tokens = record.get("text"), record.get("tokens")
    if text is not None and not isinstance(text, str):
        return f"text is {_KINDS[type(text)]}; it must be a string"
    if tokens is not None and not isinstance(tokens, list):
        return f"tokens is {_KINDS[type(tokens)]}; it must be a list of integers"
    for index, token in enumerate(tokens or ()):
        if type(token) is not int:
            return f"the token id at index {index} is {_KINDS[type(token)]}; it must be an integer"
    return f"id is {_KINDS[type(record.get('id'))]}; it must be a string or an integer"


def _fields(line: bytes) -> str:
    """The names of a line's fields, for a message; it is known to be an object."""
    names = list(msgspec.json.decode(line, type=dict[str, msgspec.Raw]))
    if not names:
        return "it has no field"
    return f"it has {', '.join(repr(name[:40]) for name in names[:5])}{' and more' if len(names) > 5 else ''}"
