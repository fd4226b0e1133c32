"""A segment: a sealed, immutable part of the corpus log, and the batch that the statistics are counted in.

Two kinds, one kind per segment:

- `TokenSegment`: token ids, cut into windows for the model;
- `ActivationSegment`: sparse activations that were computed elsewhere and pushed.

Both are made of *pieces* (a run of tokens of one document) and of *units* (what is counted or set aside as a whole: a window, or
at most `UNIT_TOKENS` tokens of a pushed frame). A unit lies in one piece, units lie in the order of the tokens. The position of a
token in the log is `first_position` + its index in the segment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import ClassVar, Literal, NamedTuple

import msgspec
import numpy as np

from engine.corpus.windows import length_bucket

UNIT_TOKENS = 4096  # a pushed frame is cut here, from its start: the cluster length of the intervals


class Piece(msgspec.Struct, frozen=True, gc=False):
    """A run of tokens of one document, as far as it lies in one segment."""

    upload: str
    corpus: str
    number: int  # of the document in its upload, from 0
    name: str | None
    half: int  # 0 or 1, by the document's content
    start: int  # token offset within the document
    tokens: int
    last: bool  # the document ends with this piece


class LayerActivations(NamedTuple):
    """Activations of one layer over the tokens of a segment or frame (CSR, rows are tokens)."""

    offsets: np.ndarray  # [n + 1], from 0; int64 in a segment, int32 in a frame
    features: np.ndarray  # int32 [nnz], strictly increasing within a token
    values: np.ndarray  # float32 [nnz], > 0, NaN or +inf


@dataclass(frozen=True, eq=False)
class _Segment(ABC):
    number: int
    first_position: int
    pieces: tuple[Piece, ...]
    finished: tuple[str, ...] = ()
    """Uploads whose last document ends here."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Uploads given up here, with the reason; what they have in the log before stays counted."""

    @property
    def token_count(self) -> int:
        return sum(piece.tokens for piece in self.pieces)

    @abstractmethod
    def unit_bounds(self) -> np.ndarray:
        """int [U + 1]: unit u holds the segment's tokens [bounds[u], bounds[u + 1])."""

    @cached_property
    def piece_positions(self) -> list[int]:
        """Position in the log of each piece's first token."""
        lengths = [piece.tokens for piece in self.pieces]
        return [self.first_position + before for before in accumulate(lengths, initial=0)][:-1]

    @property
    def units(self) -> int:
        return len(self.unit_bounds()) - 1

    @property
    @abstractmethod
    def unit_order(self) -> np.ndarray:
        """int32 [U], a permutation: the order in which units are counted, a function of the segment alone."""

    def unit_tokens(self, units: np.ndarray | Sequence[int]) -> np.ndarray:
        """int64 [len(units)]: the number of content tokens of each of these units."""
        bounds = self.unit_bounds()
        chosen = np.asarray(units, dtype=np.int64)
        return bounds[chosen + 1].astype(np.int64) - bounds[chosen]


@dataclass(frozen=True, eq=False)
class TokenSegment(_Segment):
    """Windows of token ids. Content only: the BOS that a model needs is added by the encoder."""

    tokens: np.ndarray = field(kw_only=True)  # int32 [n]
    window_offsets: np.ndarray = field(kw_only=True)  # int32 [W + 1], from 0 to n
    window_pieces: np.ndarray = field(kw_only=True)  # int32 [W], index into `pieces`

    kind: ClassVar[Literal["tokens"]] = "tokens"

    def unit_bounds(self) -> np.ndarray:
        return self.window_offsets

    @cached_property
    def unit_order(self) -> np.ndarray:
        """Windows by (length bucket, index): neighbours in this order have about the same length, so that little is padded."""
        lengths = np.diff(self.window_offsets)
        return np.argsort(length_bucket(lengths), kind="stable").astype(np.int32)


@dataclass(frozen=True, eq=False)
class ActivationSegment(_Segment):
    """Pushed activations of every layer over the same n tokens."""

    layers: tuple[LayerActivations, ...] = field(kw_only=True)  # offsets int64 [n + 1]
    unit_offsets: np.ndarray = field(kw_only=True)  # int32 [U + 1], from 0 to n
    unit_pieces: np.ndarray = field(kw_only=True)  # int32 [U], index into `pieces`

    kind: ClassVar[Literal["activations"]] = "activations"

    def unit_bounds(self) -> np.ndarray:
        return self.unit_offsets

    @cached_property
    def unit_order(self) -> np.ndarray:
        """As they came: there is no padding to save."""
        return np.arange(self.units, dtype=np.int32)


Segment = TokenSegment | ActivationSegment
