"""The sparse batch: what an encoder makes of some tokens, and all that the statistics ever see of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # annotations only: the counts import this file and need neither the readers nor a kernel for it
    from engine.corpus.segment import Piece
    from kernels import Csr


@dataclass(frozen=True, slots=True)
class SparseBatch:
    """Activations of T tokens at every hook point.

    Attributes:
        layers: one `Csr` per hook point, in the order of the run, all over the same T tokens: offsets int32 `[T + 1]`,
            features int32 `[nnz]` strictly increasing within a token, values float32 `[nnz]`, every one > 0 and finite.
        positions: int64 `[T]`, the position in the corpus log of each token.
        pieces: int32 `[T]`, index into `documents` of the piece of a document that each token belongs to.
        documents: the pieces that occur in the batch, in the order of the log.
    """

    layers: tuple[Csr, ...]
    positions: np.ndarray
    pieces: np.ndarray
    documents: tuple[Piece, ...]

    @property
    def tokens(self) -> int:
        """T: how many tokens the batch counts."""
        return len(self.positions)

    @property
    def halves(self) -> np.ndarray:
        """uint8 `[T]`: which half of the documents each token belongs to, 0 or 1."""
        return np.array([piece.half for piece in self.documents], np.uint8)[self.pieces]
