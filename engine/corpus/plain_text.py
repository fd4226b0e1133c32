"""`text/plain`: the body is one document. A byte order mark stays in it: it is a character of the text like any other."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from engine.corpus.body import BodyCheck, Document, half_of, too_large
from engine.errors import BadInput

MEDIA_TYPE = "text/plain"


class PlainTextCheck(BodyCheck):
    """UTF-8 and size. An empty body is an empty document."""

    media_type = MEDIA_TYPE

    def __init__(self, max_document_bytes: int) -> None:
        self._limit = max_document_bytes
        self._bytes = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def feed(self, chunk: bytes) -> None:
        self._decode(chunk, final=False)
        self._bytes += len(chunk)
        if self._bytes > self._limit:
            raise too_large("the text", self._bytes, self._limit)

    def finish(self, body: Path) -> int:
        self._decode(b"", final=True)
        return 1

    def _decode(self, chunk: bytes, final: bool) -> None:
        pending = len(self._decoder.getstate()[0])  # bytes of a character that the last chunk cut
        try:
            self._decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            raise not_utf8("the text", error, self._bytes - pending) from error


def not_utf8(where: str, error: UnicodeDecodeError, offset: int) -> BadInput:
    """What is wrong and where; `offset` is where the bytes that were decoded begin in the body."""
    wrong = error.object[error.start]
    return BadInput(f"{where} is not UTF-8: byte 0x{wrong:02x} at offset {offset + error.start} of the body ({error.reason})")


def read_plain_text(path: Path) -> Iterator[Document]:
    """Yield the one document. Raises BadInput if the file is not UTF-8, which the check has ruled out."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8("the text", error, 0) from error
    yield Document(0, None, text, None, half_of(raw))
