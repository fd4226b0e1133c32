"""Segments in the making: pieces are added until one is sealed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from engine.corpus.inbox import Manifest
from engine.corpus.segment import UNIT_TOKENS, ActivationSegment, LayerActivations, Piece, Segment, TokenSegment
from engine.corpus.windows import cut_windows


class _Builder(ABC):
    """Pieces in order. A piece that goes on where the last one ended is joined to it: turns leave no trace in a segment."""

    def __init__(self) -> None:
        self.tokens = 0
        self.bytes = 0
        self.finished: list[str] = []
        self.failed: dict[str, str] = {}
        self._pieces: list[Piece] = []

    @property
    def empty(self) -> bool:
        """Nothing to seal: an upload of one empty document is something."""
        return not (self._pieces or self.finished or self.failed)

    @property
    def pieces(self) -> int:
        return len(self._pieces)

    def finish(self, upload: str) -> None:
        """The last document of `upload` is in."""
        self.finished.append(upload)

    def fail(self, upload: str, reason: str) -> None:
        """`upload` is given up: what is in stays, nothing follows."""
        self.failed[upload] = reason

    @abstractmethod
    def seal(self, number: int, first_position: int) -> Segment:
        """The segment with all that was added. Builds it anew on every call, so that a failed write can be tried again."""

    def _add_piece(self, upload: Manifest, number: int, name: str | None, half: int, start: int, tokens: int, last: bool) -> int:
        """Returns the index of the piece that the tokens went to."""
        self.tokens += tokens
        if self._pieces:
            before = self._pieces[-1]
            joins = before.upload == upload.id and before.number == number and before.start + before.tokens == start
            if joins and not before.last:
                self._pieces[-1] = Piece(
                    before.upload, before.corpus, number, name, half, before.start, before.tokens + tokens, last
                )
                return len(self._pieces) - 1
        self._pieces.append(Piece(upload.id, upload.corpus, number, name, half, start, tokens, last))
        return len(self._pieces) - 1


class TokenBuilder(_Builder):
    """Makes a `TokenSegment`. A part begins at a window's start of its document; only a document's last part may end within one."""

    def __init__(self, content: int) -> None:
        super().__init__()
        self.content = content
        self._tokens: list[np.ndarray] = []

    def add(self, upload: Manifest, number: int, name: str | None, half: int, start: int, tokens: np.ndarray, last: bool) -> None:
        """Add tokens [start, start + len(tokens)) of a document (int32)."""
        assert start % self.content == 0 and (last or len(tokens) % self.content == 0), (start, len(tokens), last)
        self._add_piece(upload, number, name, half, start, len(tokens), last)
        self._tokens.append(tokens)
        self.bytes += tokens.nbytes

    def seal(self, number: int, first_position: int) -> TokenSegment:
        offsets, pieces = cut_windows(np.array([piece.tokens for piece in self._pieces], dtype=np.int64), self.content)
        return TokenSegment(
            number=number,
            first_position=first_position,
            pieces=tuple(self._pieces),
            finished=tuple(self.finished),
            failed=dict(self.failed),
            tokens=np.concatenate(self._tokens or [np.empty(0, np.int32)]).astype(np.int32, copy=False),
            window_offsets=offsets,
            window_pieces=pieces,
        )


class ActivationBuilder(_Builder):
    """Makes an `ActivationSegment`."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self._units: list[int] = []
        self._unit_pieces: list[int] = []
        self._layers: list[list[LayerActivations]] = [[] for _ in range(layers)]

    def add(
        self,
        upload: Manifest,
        number: int,
        name: str | None,
        half: int,
        start: int,
        tokens: int,
        layers: Sequence[LayerActivations],
        last: bool,
    ) -> None:
        """Add one unit of at most `UNIT_TOKENS` tokens; an empty one marks a document's end without being a unit."""
        assert tokens <= UNIT_TOKENS and len(layers) == len(self._layers), (tokens, len(layers))
        piece = self._add_piece(upload, number, name, half, start, tokens, last)
        if tokens:
            self._units.append(tokens)
            self._unit_pieces.append(piece)
            for held, layer in zip(self._layers, layers, strict=True):
                held.append(layer)
                self.bytes += layer.offsets.nbytes + layer.features.nbytes + layer.values.nbytes

    def seal(self, number: int, first_position: int) -> ActivationSegment:
        return ActivationSegment(
            number=number,
            first_position=first_position,
            pieces=tuple(self._pieces),
            finished=tuple(self.finished),
            failed=dict(self.failed),
            layers=tuple(_joined(parts) for parts in self._layers),
            unit_offsets=np.concatenate([[0], np.cumsum(self._units, dtype=np.int64)]).astype(np.int32),
            unit_pieces=np.array(self._unit_pieces, dtype=np.int32),
        )


def _joined(parts: Sequence[LayerActivations]) -> LayerActivations:
    """One CSR over the rows of all parts, with int64 offsets: 65,536 tokens × 60 entries is far below 2^31, a dense one is not."""
    rows = np.concatenate([np.diff(part.offsets).astype(np.int64) for part in parts] or [np.empty(0, np.int64)])
    return LayerActivations(
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(rows)]),
        features=np.concatenate([part.features for part in parts] or [np.empty(0, np.int32)]).astype(np.int32, copy=False),
        values=np.concatenate([part.values for part in parts] or [np.empty(0, np.float32)]).astype(np.float32, copy=False),
    )
