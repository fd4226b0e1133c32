"""`application/x-msgpack` of `POST /v1/activations`: a stream of maps, one per document or part of one (a *frame*):

    {"document": str, "tokens": T, "layers": [{"offsets": bin, "features": bin, "values": bin}, …]}

one entry per layer in order, little-endian: `offsets` int32 [T + 1] from 0 to nnz, `features` int32 [nnz] strictly increasing
within a token, `values` float32 [nnz] > 0. NaN and +inf pass: the engine sets their frame aside and says so, one bad row must not
cost an hour's upload. Other keys are ignored. Consecutive frames with the same `document` are one document. Memory is bounded by
one frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np

from engine.corpus.body import LONGEST_NAME, BodyCheck, half_of, too_large
from engine.corpus.segment import LayerActivations
from engine.errors import BadInput, TooLarge

MEDIA_TYPE = "application/x-msgpack"
_CHUNK = 1 << 20
_COLUMNS = (("offsets", "<i4"), ("features", "<i4"), ("values", "<f4"))


class Frame(NamedTuple):
    document: str
    half: int
    tokens: int
    layers: tuple[LayerActivations, ...]  # offsets int32 [T + 1]


class FrameStream:
    """Bytes in, frames out."""

    def __init__(self, dictionaries: Sequence[int], max_frame_bytes: int) -> None:
        self._dictionaries, self._limit = tuple(dictionaries), max_frame_bytes
        self._unpacker = msgpack.Unpacker(
            max_buffer_size=max_frame_bytes + _CHUNK,
            max_bin_len=max_frame_bytes,
            max_str_len=4 * LONGEST_NAME,
            max_array_len=max(len(dictionaries), 1 << 10),
            max_map_len=1 << 10,
            max_ext_len=0,
        )
        self._fed = 0
        self._end = 0  # of the last whole frame, in bytes of the stream
        self._frames = 0

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """Yield the frames that end in `chunk`; exhaust it before the next call. Raises BadInput or TooLarge."""
        for start in range(0, len(chunk), _CHUNK):
            part = memoryview(chunk)[start : start + _CHUNK]
            self._fed += len(part)
            self._unpacker.feed(part)
            while (value := self._unpack()) is not None:
                yield self._frame(value[0])
                self._frames += 1
            if self._fed - self._end > self._limit:
                raise too_large(self._where, self._fed - self._end, self._limit)

    def finish(self) -> None:
        """Raises BadInput if the stream ends within a frame."""
        if self._end != self._fed:
            raise BadInput(f"{self._where} is cut off: the body ends after {self._fed - self._end:,} bytes of it")

    @property
    def _where(self) -> str:
        return f"frame {self._frames + 1} (from byte {self._end})"

    def _unpack(self) -> tuple[Any] | None:
        try:
            value = self._unpacker.unpack()
        except msgpack.OutOfData:
            return None
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            if "exceeds max" in str(error):
                raise TooLarge(
                    f"{self._where} declares a length beyond the limits: {self._limit:,} bytes for a frame, "
                    f"{LONGEST_NAME} characters for a name, {max(len(self._dictionaries), 1 << 10)} entries for a list"
                ) from error
            raise BadInput(f"{self._where} is not MessagePack") from error
        size = self._unpacker.tell() - self._end
        if size > self._limit:
            raise too_large(self._where, size, self._limit)
        self._end += size
        return (value,)

    def _frame(self, value: Any) -> Frame:
        where = f"frame {self._frames + 1}"
        if not isinstance(value, dict):
            raise BadInput(f"{where} is {_kind(value)}; it must be a map with document, tokens and layers")
        missing = [key for key in ("document", "tokens", "layers") if key not in value]
        if missing:
            raise BadInput(f"{where} has no {' and no '.join(missing)}; it has {', '.join(map(str, value)) or 'no key'}"[:400])
        document, tokens, layers = value["document"], value["tokens"], value["layers"]
        if not isinstance(document, str) or len(document) > LONGEST_NAME:
            raise BadInput(f"{where}: document is {_kind(document)}; it must be a string of at most {LONGEST_NAME} characters")
        if not isinstance(tokens, int) or isinstance(tokens, bool) or not 0 <= tokens < 1 << 31:
            raise BadInput(f"{where}: tokens is {tokens!r}; it must be an integer from 0 on"[:400])
        if not isinstance(layers, list) or len(layers) != len(self._dictionaries):
            found = f"{len(layers)} layers" if isinstance(layers, list) else f"layers as {_kind(layers)}"
            raise BadInput(f"{where} has {found}; this run has {len(self._dictionaries)}")
        checked = tuple(
            _layer(f"{where}, layer {index}", layer, tokens, size)
            for index, (layer, size) in enumerate(zip(layers, self._dictionaries, strict=True))
        )
        return Frame(document, half_of(document.encode()), tokens, checked)


def _layer(where: str, layer: Any, tokens: int, size: int) -> LayerActivations:
    if not isinstance(layer, dict):
        raise BadInput(f"{where} is {_kind(layer)}; it must be a map with offsets, features and values")
    columns = []
    for name, dtype in _COLUMNS:
        raw = layer.get(name)
        if not isinstance(raw, bytes) or len(raw) % 4:
            found = "missing" if raw is None else f"{len(raw)} bytes" if isinstance(raw, bytes) else _kind(raw)
            raise BadInput(f"{where}: {name} is {found}; it must be binary, 4 bytes an entry")
        columns.append(np.frombuffer(raw, dtype=dtype))
    offsets, features, values = columns
    _check_offsets(where, offsets, tokens, len(features))
    if len(values) != len(features):
        raise BadInput(f"{where}: {len(features)} features and {len(values)} values; they must be as many")
    _check_features(where, offsets, features, size)
    wrong = np.flatnonzero(values <= 0)  # NaN and +inf are found, set aside and reported by the engine
    if len(wrong):
        raise BadInput(f"{where}: value {values[wrong[0]]} at entry {wrong[0]}; only activations above 0 are sent")
    return LayerActivations(offsets, features, values)


def _check_offsets(where: str, offsets: np.ndarray, tokens: int, entries: int) -> None:
    if len(offsets) != tokens + 1:
        raise BadInput(f"{where}: {len(offsets)} offsets for {tokens} tokens; there must be {tokens + 1}")
    if offsets[0] != 0 or offsets[-1] != entries:
        raise BadInput(f"{where}: offsets go from {offsets[0]} to {offsets[-1]}; they must go from 0 to {entries}, its features")
    falls = np.flatnonzero(offsets[1:] < offsets[:-1])
    if len(falls):
        token = int(falls[0])
        raise BadInput(f"{where}: offsets fall from {offsets[token]} to {offsets[token + 1]} at token {token}; they must not")


def _check_features(where: str, offsets: np.ndarray, features: np.ndarray, size: int) -> None:
    outside = np.flatnonzero((features < 0) | (features >= size))
    if len(outside):
        raise BadInput(
            f"{where}: feature {features[outside[0]]} at entry {outside[0]}; this layer has the features 0 to {size - 1}"
        )
    rises = features[1:] > features[:-1]
    begins = offsets[1:-1]
    rises[begins[(begins > 0) & (begins < len(features))] - 1] = True  # the first of a token may be smaller than the last before
    if not rises.all():
        entry = int(np.argmin(rises)) + 1
        token = int(np.searchsorted(offsets, entry, side="right")) - 1
        raise BadInput(
            f"{where}: feature {features[entry]} follows {features[entry - 1]} within token {token}; they must strictly increase"
        )


def _kind(value: object) -> str:
    names = {dict: "a map", list: "a list", str: "a string", bytes: "binary", bool: "a boolean", int: "a number", float: "a number"}
    return "nil" if value is None else names.get(type(value), "of an unknown type")


class ActivationsCheck(BodyCheck):
    """Structure, lengths, order and range of every frame; counts documents."""

    media_type = MEDIA_TYPE

    def __init__(self, dictionaries: Sequence[int], max_document_bytes: int) -> None:
        self._stream = FrameStream(dictionaries, max_document_bytes)
        self._documents = 0
        self._open: str | None = None

    def feed(self, chunk: bytes) -> None:
        for frame in self._stream.feed(chunk):
            self._documents += frame.document != self._open
            self._open = frame.document

    def finish(self, body: Path) -> int:
        self._stream.finish()
        if not self._documents:
            raise BadInput("the body has no frame; it must be a MessagePack stream of maps, one per document")
        return self._documents


def read_frames(path: Path, dictionaries: Sequence[int], max_frame_bytes: int = 1 << 31) -> Iterator[Frame]:
    """Yield the frames of a checked body. Raises BadInput for content that the check would have refused, OSError."""
    stream = FrameStream(dictionaries, max_frame_bytes)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            yield from stream.feed(chunk)
    stream.finish()
