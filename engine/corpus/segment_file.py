"""A segment on disk: `NNNNNNNN.seg`, a framed file (engine/durable.py).

The header is small whatever the segment holds: where the segment lies in the log, and for every upload in it what came in. So the
progress of every upload is known from the headers alone, and a log of many thousands of segments opens in about a second. Pieces
are columns of the payload: a segment of docstrings has 3,000 of them.

Retention (`engine.corpus.retention`) may leave the header of a segment alone. That is another format version, so that nobody takes
it for a segment.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from engine import durable
from engine.corpus.segment import ActivationSegment, LayerActivations, Piece, Segment, TokenSegment
from engine.errors import DamagedFile, DroppedSegment

MAGIC = b"SAESEGMT"
VERSION = 1
HEADER_ALONE = 2
"""Version of a segment whose content was dropped."""


class UploadInSegment(msgspec.Struct, frozen=True):
    """What a segment holds of one upload."""

    id: str
    corpus: str
    documents: int  # that end here
    tokens: int
    next_number: int  # the first token not in the log yet: this document …
    next_start: int  # … at this offset
    finished: bool = False  # the last document ends here
    failed: str | None = None  # given up here, with this reason


class SegmentHeader(msgspec.Struct, frozen=True):
    kind: Literal["tokens", "activations"]
    number: int
    first_position: int
    tokens: int
    units: int
    layers: int  # 0 for tokens
    uploads: tuple[UploadInSegment, ...]
    dropped: bool = False  # the header is alone

    @property
    def end_position(self) -> int:
        return self.first_position + self.tokens


def segment_path(folder: Path, number: int) -> Path:
    return folder / f"{number:08d}.seg"


def header_of(segment: Segment) -> SegmentHeader:
    """The header that goes in front of `segment`."""
    uploads: dict[str, UploadInSegment] = {}
    for piece in segment.pieces:
        before = uploads.get(piece.upload)
        end = piece.start + piece.tokens
        uploads[piece.upload] = UploadInSegment(
            id=piece.upload,
            corpus=piece.corpus,
            documents=piece.last + (before.documents if before else 0),
            tokens=piece.tokens + (before.tokens if before else 0),
            next_number=piece.number + 1 if piece.last else piece.number,
            next_start=0 if piece.last else end,
        )
    for upload in {*segment.finished, *segment.failed}:
        ended = uploads.get(upload) or UploadInSegment(id=upload, corpus="", documents=0, tokens=0, next_number=-1, next_start=0)
        uploads[upload] = msgspec.structs.replace(ended, finished=upload in segment.finished, failed=segment.failed.get(upload))
    return SegmentHeader(
        kind=segment.kind,
        number=segment.number,
        first_position=segment.first_position,
        tokens=segment.token_count,
        units=segment.units,
        layers=len(segment.layers) if isinstance(segment, ActivationSegment) else 0,
        uploads=tuple(uploads.values()),
    )


def write_segment(folder: Path, segment: Segment) -> SegmentHeader:
    """Write it durably. Raises StorageFault, and then it does not exist."""
    header = header_of(segment)
    arrays = _pack_pieces(segment.pieces, {upload.id: index for index, upload in enumerate(header.uploads)})
    if isinstance(segment, TokenSegment):
        arrays |= {"tokens": segment.tokens, "window_offsets": segment.window_offsets, "window_pieces": segment.window_pieces}
    else:
        arrays |= {"unit_offsets": segment.unit_offsets, "unit_pieces": segment.unit_pieces}
        for index, layer in enumerate(segment.layers):
            arrays |= {f"{index}.{name}": array for name, array in layer._asdict().items()}
    durable.write_framed(segment_path(folder, segment.number), MAGIC, VERSION, header, arrays)
    return header


def drop_content(folder: Path, header: SegmentHeader) -> SegmentHeader:
    """Leave the header of a segment alone, durably. Raises StorageFault, and then all of it is still there."""
    dropped = msgspec.structs.replace(header, dropped=True)
    durable.write_framed(segment_path(folder, header.number), MAGIC, HEADER_ALONE, dropped, {})
    return dropped


def read_segment_header(folder: Path, number: int) -> SegmentHeader:
    """Raises DamagedFile for a file that is not this segment and of a known version."""
    path = segment_path(folder, number)
    return _header(path, number, durable.read_framed_header(path, MAGIC, {VERSION, HEADER_ALONE}))


def read_framed_segment(folder: Path, number: int) -> tuple[SegmentHeader, dict[str, np.ndarray]]:
    """The header and all arrays. Raises as `read_segment`."""
    path = segment_path(folder, number)
    raw, arrays = durable.read_framed(path, MAGIC, {VERSION, HEADER_ALONE})
    header = _header(path, number, raw)
    if header.dropped:
        raise DroppedSegment(f"the text of {path} was dropped, which `retention = drop` does when the disk quota nears")
    return header, arrays


def read_whole_header(folder: Path, number: int) -> SegmentHeader:
    """The header of a segment whose every byte was checked. Raises as `read_segment`."""
    return read_framed_segment(folder, number)[0]


def read_segment(folder: Path, number: int) -> Segment:
    """Raises DamagedFile for a file that is not this segment, whole and of a known version, DroppedSegment for its header alone."""
    header, arrays = read_framed_segment(folder, number)
    pieces = _unpack_pieces(header.uploads, arrays)
    finished = tuple(upload.id for upload in header.uploads if upload.finished)
    failed = {upload.id: upload.failed for upload in header.uploads if upload.failed is not None}
    if header.kind == "tokens":
        return TokenSegment(
            number,
            header.first_position,
            pieces,
            finished,
            failed,
            tokens=arrays["tokens"],
            window_offsets=arrays["window_offsets"],
            window_pieces=arrays["window_pieces"],
        )
    return ActivationSegment(
        number,
        header.first_position,
        pieces,
        finished,
        failed,
        layers=tuple(
            LayerActivations(*(arrays[f"{index}.{name}"] for name in LayerActivations._fields)) for index in range(header.layers)
        ),
        unit_offsets=arrays["unit_offsets"],
        unit_pieces=arrays["unit_pieces"],
    )


def _header(path: Path, number: int, raw: object) -> SegmentHeader:
    header = msgspec.convert(raw, SegmentHeader)
    if header.number != number:
        raise DamagedFile(f"{path} holds segment {header.number}, by its name it must hold {number}")
    return header


def _pack_pieces(pieces: tuple[Piece, ...], upload_index: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Pieces as columns; names as one UTF-8 text with the end of each, -1 where there is no name."""
    names = b"".join(piece.name.encode() for piece in pieces if piece.name is not None)
    name_lengths = [-1 if piece.name is None else len(piece.name.encode()) for piece in pieces]
    return {
        "piece_upload": np.array([upload_index[piece.upload] for piece in pieces], dtype=np.int32),
        "piece_number": np.array([piece.number for piece in pieces], dtype=np.int64),
        "piece_half": np.array([piece.half for piece in pieces], dtype=np.uint8),
        "piece_start": np.array([piece.start for piece in pieces], dtype=np.int64),
        "piece_tokens": np.array([piece.tokens for piece in pieces], dtype=np.int32),
        "piece_last": np.array([piece.last for piece in pieces], dtype=np.bool_),
        "piece_name_length": np.array(name_lengths, dtype=np.int32),
        "piece_names": np.frombuffer(names, dtype=np.uint8),
    }


def _unpack_pieces(uploads: tuple[UploadInSegment, ...], arrays: dict[str, np.ndarray]) -> tuple[Piece, ...]:
    columns = ("upload", "number", "half", "start", "tokens", "last", "name_length")
    names, position, pieces = arrays["piece_names"].tobytes(), 0, []
    for upload, number, half, start, tokens, last, length in zip(
        *(arrays[f"piece_{column}"].tolist() for column in columns), strict=True
    ):
        name = None
        if length >= 0:
            name = names[position : position + length].decode()
            position += length
        owner = uploads[upload]
        pieces.append(Piece(owner.id, owner.corpus, number, name, half, start, tokens, last))
    return tuple(pieces)
