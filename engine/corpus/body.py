"""The check of a request body while it streams in: an upload is taken whole or refused whole, before it is acknowledged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from engine.errors import TooLarge


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
            body: where the whole body lies (a Parquet file begins at its end).
        """


def too_large(what: str, found: int, limit: int) -> TooLarge:
    """The error for a document over `max_document_bytes`."""
    return TooLarge(f"{what} has more than {limit:,} bytes ({found:,} so far), the most that one document may have")
