"""The ledger: what of each upload is in the counts, and what was set aside. Exact, and saved with the counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from engine.counts.documents import DocumentSet
from engine.counts.part import FramedPart, Place
from engine.counts.shape import RunShape

if TYPE_CHECKING:
    from engine.corpus.segment import Piece
    from engine.encoder.batch import SparseBatch
    from engine.encoder.encoded import SetAside

REASONS_KEPT = 3
"""Different reasons kept per upload: one bad exporter gives the same reason for every document, and a client reads the first."""


@dataclass
class Account:
    """One upload: tokens in the counts, documents whose end was reached, and what was set aside (that is not in the counts)."""

    tokens_counted: int = 0
    documents: DocumentSet = field(default_factory=DocumentSet)
    set_aside_tokens: int = 0
    aside: DocumentSet = field(default_factory=DocumentSet)
    """Documents of which something was set aside."""
    reasons: tuple[str, ...] = ()
    """The smallest `REASONS_KEPT` of the reasons in alphabetical order, so that they don't depend on the order of merging."""

    @property
    def set_aside_documents(self) -> int:
        """Documents of which something was set aside, each once."""
        return len(self.aside)

    @property
    def documents_counted(self) -> int:
        """Documents of which the end was reached, each once."""
        return len(self.documents)

    def add_reasons(self, reasons: Sequence[str]) -> None:
        """Keep these too, up to the limit."""
        self.reasons = tuple(sorted({*self.reasons, *reasons})[:REASONS_KEPT])


class Ledger(FramedPart):
    """Accounts per upload id, and `tokens_by_half`, the tokens in the statistics of either half of the documents."""

    kind = "ledger"

    def __init__(self, shape: RunShape, place: Place) -> None:
        self.shape, self.place = shape, place
        self.tokens_by_half = [0, 0]
        self.uploads: dict[str, Account] = {}

    @classmethod
    def places(cls, shape: RunShape) -> Sequence[Place]:
        return [()]

    @classmethod
    def bytes_at(cls, shape: RunShape, place: Place) -> int:
        return 0

    @classmethod
    def zero(cls, shape: RunShape, place: Place = ()) -> Self:
        return cls(shape, place)

    @property
    def tokens(self) -> int:
        """All tokens in the statistics: the N of every measure."""
        return sum(self.tokens_by_half)

    def account(self, upload: str) -> Account:
        """The account of an upload, empty when nothing of it was counted yet."""
        return self.uploads.get(upload) or Account()

    def add(self, batch: SparseBatch, set_aside: Sequence[SetAside] = ()) -> None:
        tokens = np.bincount(batch.pieces, minlength=len(batch.documents))
        for piece, counted in zip(batch.documents, tokens.tolist(), strict=True):
            self.tokens_by_half[piece.half] += counted
            account = self._open(piece.upload)
            account.tokens_counted += counted
            if piece.last:
                account.documents.add(piece.number)
        for item in set_aside:
            account = self._open(item.upload)
            account.set_aside_tokens += item.tokens
            account.aside.add(item.document)
            account.add_reasons([item.reason])

    def finish(self, pieces: Iterable[Piece]) -> None:
        """A segment is counted whole: every document that ends in it is done, also one that left no token in a batch (an empty
        one, or one whose windows were all set aside). Doing it again changes nothing."""
        for piece in pieces:
            if piece.last:
                self._open(piece.upload).documents.add(piece.number)

    def merge(self, other: Self) -> None:
        for half, tokens in enumerate(other.tokens_by_half):
            self.tokens_by_half[half] += tokens
        for upload, theirs in other.uploads.items():
            mine = self._open(upload)
            mine.tokens_counted += theirs.tokens_counted
            mine.documents.update(theirs.documents)
            mine.set_aside_tokens += theirs.set_aside_tokens
            mine.aside.update(theirs.aside)
            mine.add_reasons(theirs.reasons)

    def _open(self, upload: str) -> Account:
        return self.uploads.setdefault(upload, Account())

    def arrays(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        accounts = [self.uploads[upload] for upload in sorted(self.uploads)]
        header = {
            "tokens_by_half": self.tokens_by_half,
            "uploads": sorted(self.uploads),
            "reasons": [list(account.reasons) for account in accounts],
        }
        sets = {
            "documents": [account.documents.array() for account in accounts],
            "aside": [account.aside.array() for account in accounts],
        }
        numbers = [
            (account.tokens_counted, account.set_aside_tokens, len(documents), len(aside))
            for account, documents, aside in zip(accounts, sets["documents"], sets["aside"], strict=True)
        ]
        ranges = {name: np.concatenate([np.empty((0, 2), np.int64), *arrays]) for name, arrays in sets.items()}
        return header, {"accounts": np.array(numbers, dtype=np.int64).reshape(-1, 4), **ranges}

    @classmethod
    def from_arrays(cls, shape: RunShape, place: Place, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        part = cls(shape, place)
        part.tokens_by_half = list(header["tokens_by_half"])
        documents, aside = (iter(arrays[name].tolist()) for name in ("documents", "aside"))
        for upload, reasons, row in zip(header["uploads"], header["reasons"], arrays["accounts"].tolist(), strict=True):
            tokens, aside_tokens, counted_ranges, aside_ranges = row
            part.uploads[upload] = Account(
                tokens,
                DocumentSet(islice(documents, counted_ranges)),
                aside_tokens,
                DocumentSet(islice(aside, aside_ranges)),
                tuple(reasons),
            )
        return part
