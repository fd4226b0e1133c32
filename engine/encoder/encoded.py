"""What encoding some units of a segment gives: the sparse batch, and an account of every token that is not in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from engine.corpus.segment import Piece, Segment
from engine.encoder.batch import SparseBatch
from kernels import Csr

if TYPE_CHECKING:
    from engine.encoder.projections import PairProjections


class SetAside(NamedTuple):
    """A unit (window or frame) that is not counted because an activation in it is NaN or infinite."""

    upload: str
    tokens: int
    """Tokens that would have been counted."""
    document: int
    """Number of the document in its upload."""
    reason: str


class Encoded(NamedTuple):
    """`batch.tokens` + tokens set aside + tokens excluded = tokens of the units."""

    batch: SparseBatch
    set_aside: tuple[SetAside, ...]
    excluded: dict[str, int]
    """Tokens left out as special, per upload."""
    projections: tuple[PairProjections, ...] = ()
    """One per layer pair that can be projected (`engine.encoder.projections`); none of pushed activations, which have no
    residuals."""


@dataclass(frozen=True, slots=True)
class TokenPlaces:
    """Where T tokens of a segment lie: their indexes in the segment, and for each the unit and the piece it belongs to."""

    index: np.ndarray  # int64 [T]
    unit: np.ndarray  # int64 [T]
    piece: np.ndarray  # int64 [T]

    def at(self, chosen: np.ndarray) -> TokenPlaces:
        """The places that a mask or an index chooses."""
        return TokenPlaces(self.index[chosen], self.unit[chosen], self.piece[chosen])


def places_of(segment: Segment, units: np.ndarray, unit_pieces: np.ndarray) -> TokenPlaces:
    """Places of all tokens of `units`, unit by unit."""
    bounds = segment.unit_bounds().astype(np.int64)
    units = np.asarray(units, dtype=np.int64)
    index = ranges(bounds[units], bounds[units + 1])
    unit = np.repeat(units, bounds[units + 1] - bounds[units])
    return TokenPlaces(index, unit, unit_pieces[unit].astype(np.int64))


def ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """int64: start, start + 1, … end − 1 of every range, one range after the other."""
    lengths = ends - starts
    return np.arange(lengths.sum(), dtype=np.int64) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)


def make_batch(segment: Segment, layers: Sequence[Csr], places: TokenPlaces) -> SparseBatch:
    """A batch of the tokens at `places`, which the rows of `layers` belong to."""
    present, pieces = np.unique(places.piece, return_inverse=True)
    return SparseBatch(
        layers=tuple(layers),
        positions=segment.first_position + places.index,
        pieces=pieces.astype(np.int32),
        documents=tuple(segment.pieces[piece] for piece in present.tolist()),
    )


def set_aside(segment: Segment, places: TokenPlaces, faults: np.ndarray, hooks: Sequence[str]) -> tuple[SetAside, ...]:
    """Account for units that are set aside whole.

    Args:
        segment: the segment.
        places: of all tokens that would be counted.
        faults: int `[T]`, the first layer at which a token has a NaN or an infinity, −1 where all is well.
        hooks: what to call each layer.

    Returns:
        One entry per unit with a fault, in the order of the segment.
    """
    found: list[SetAside] = []
    for unit in np.unique(places.unit[faults >= 0]).tolist():
        tokens = np.flatnonzero(places.unit == unit)
        broken = tokens[faults[tokens] >= 0]
        worst = broken[faults[broken].argmin()]  # the earliest layer: attention carries a NaN to all tokens of the later ones
        piece = segment.pieces[int(places.piece[worst])]
        offset = piece.start + int(places.index[worst]) - _start(segment, int(places.piece[worst]))
        found.append(
            SetAside(
                upload=piece.upload,
                tokens=len(tokens),
                document=piece.number,
                reason=f"{_name(piece)}: NaN or infinite activation at token {offset}, {hooks[int(faults[worst])]}",
            )
        )
    return tuple(found)


def select(sparse: Csr, rows: np.ndarray) -> Csr:
    """The rows (tokens) of a `Csr` where the mask `rows` is true."""
    keep = torch.from_numpy(rows).to(sparse.offsets.device)
    lengths = sparse.offsets.diff()
    entries = torch.repeat_interleave(keep, lengths)
    offsets = torch.nn.functional.pad(lengths[keep].cumsum(dim=0), (1, 0))
    return Csr(offsets.int(), sparse.features[entries], sparse.values[entries])


def runs(sparse: Csr, bounds: Sequence[tuple[int, int]]) -> list[Csr]:
    """Rows (tokens) [first, end) of a `Csr`, a view for each: for a few of many rows, where `select` would look at all entries."""
    found = []
    for first, end in bounds:
        offsets = sparse.offsets[first : end + 1]
        entries = slice(*offsets[:: end - first].tolist())
        found.append(Csr(offsets - offsets[0], sparse.features[entries], sparse.values[entries]))
    return found


def row_of_entries(sparse: Csr, entries: torch.Tensor) -> torch.Tensor:
    """int64: the row (token) that each of these entries belongs to."""
    return torch.searchsorted(sparse.offsets, entries.int(), right=True) - 1


def _name(piece: Piece) -> str:
    return f"document {piece.number}" if piece.name is None else f"document {piece.number} ({piece.name})"


def _start(segment: Segment, piece: int) -> int:
    return sum(other.tokens for other in segment.pieces[:piece])
