"""A request body is a sequence of documents, checked while it streams in: it is taken whole or refused whole, before the answer."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from engine.errors import BadInput, TooLarge

LONGEST_NAME = 1024  # characters; names are held in memory with every piece


class Document(NamedTuple):
    """One document as it was sent: either `text` or `tokens`."""

    number: int  # in its upload, from 0
    name: str | None
    text: str | None
    tokens: np.ndarray | None  # int32 [n]
    half: int


class BodyCheck(ABC):
    """Fed with a body chunk by chunk; memory is bounded by its largest document.

    `feed` and `finish` raise BadInput (what is wrong and where) or TooLarge (a document over the limit); after that the body is
    refused and the check is of no further use.
    """

    media_type: ClassVar[str]

    @abstractmethod
    def feed(self, chunk: bytes) -> None:
        """Check the next bytes of the body."""

    @abstractmethod
    def finish(self, body: Path) -> int:
        """Check what can only be known at the end, and return the number of documents.

        Args:
            body: where the whole body lies (what a Parquet file holds is written at its end).
        """


def half_of(raw: bytes | memoryview) -> int:
    """0 or 1 by a document's raw bytes: UTF-8 text, int32 little-endian token ids, or the name of pushed activations.

    blake2b and not crc32, so that nobody's file format correlates with the halves.
    """
    return hashlib.blake2b(raw).digest()[0] & 1


def half_of_tokens(tokens: np.ndarray) -> int:
    return half_of(np.asarray(tokens, dtype="<i4", order="C").tobytes())


def token_ids(values: Sequence[int] | np.ndarray, vocab_size: int, where: str) -> np.ndarray:
    """Token ids as int32.

    Args:
        values: integers of any size.
        vocab_size: every id must be below it.
        where: which document this is, for the message.

    Raises:
        BadInput: an id below 0 or from `vocab_size` on; names the first such and its index.
    """
    if len(values) == 0:
        return np.empty(0, dtype=np.int32)
    low, high = (values.min(), values.max()) if isinstance(values, np.ndarray) else (min(values), max(values))
    if low < 0 or high >= vocab_size:
        index, wrong = next((index, value) for index, value in enumerate(values) if not 0 <= value < vocab_size)
        raise BadInput(f"{where}: token id {wrong} at index {index}; this model's ids are 0 to {vocab_size - 1}")
    return np.array(values, dtype=np.int32)


def document_name(value: object, where: str) -> str | None:
    """The sender's id of a document. Raises BadInput for one that is neither text nor an integer, or too long."""
    if value is None:
        return None
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise BadInput(f"{where}: the id is {type(value).__name__}; it must be a string or an integer")
    name = str(value)
    if len(name) > LONGEST_NAME:
        raise BadInput(f"{where}: the id has {len(name)} characters; the most is {LONGEST_NAME}")
    return name


def too_large(where: str, found: int, limit: int) -> TooLarge:
    """The error for a document over `max_document_bytes`."""
    return TooLarge(f"{where} has {found:,} bytes or more; one document may have at most {limit:,}")
