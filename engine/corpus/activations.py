"""`application/x-msgpack` of `POST /v1/activations`: a stream of maps, one per document or part of one (a *frame*):

    {"document": str, "tokens": T, "layers": [{"offsets": bin, "features": bin, "values": bin}, …]}

one entry per layer in order, little-endian: `offsets` int32 [T + 1] from 0 to nnz, `features` int32 [nnz] strictly increasing
within a token, `values` float32 [nnz] > 0. NaN and +inf pass: the engine sets their frame aside and says so, one bad row must not
cost an hour's upload. Other keys are ignored. Consecutive frames with the same `document` are one document. Memory is bounded by
one frame.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import msgspec
import numpy as np

from engine.corpus.body import LONGEST_NAME, BodyCheck, half_of, too_large
from engine.corpus.segment import LayerActivations
from engine.errors import BadInput, TooLarge

MEDIA_TYPE = "application/x-msgpack"
_CHUNK = 1 << 20
_COLUMNS = (("offsets", "<i4"), ("features", "<i4"), ("values", "<f4"))
_MOST_KEYS = 1 << 10  # of a map: three are ours
_SMALL_BYTES = 4 * LONGEST_NAME + 5  # of a name, or a number
_KINDS: tuple[tuple[Container[int], str], ...] = (
    ((*range(0x80, 0x90), 0xDE, 0xDF), "a map"),
    ((*range(0x90, 0xA0), 0xDC, 0xDD), "a list"),
    ((*range(0xA0, 0xC0), 0xD9, 0xDA, 0xDB), "a string"),
    ((0xC4, 0xC5, 0xC6), "binary"),
    ((0xC0,), "nil"),
    ((0xC2, 0xC3), "a boolean"),
    ((*range(0x80), *range(0xE0, 0x100), *range(0xCA, 0xD4)), "a number"),
)
"""First bytes of MessagePack."""


class Frame(NamedTuple):
    document: str
    half: int
    tokens: int
    layers: tuple[LayerActivations, ...]  # offsets int32 [T + 1]


class FrameStream:
    """Bytes in, frames out.

    A frame is first passed over, which makes no object of anything in it, and then taken apart level by level, each by its declared
    length: 64 MiB of empty lists would be 4 GiB of them.
    """

    def __init__(self, dictionaries: Sequence[int], max_frame_bytes: int) -> None:
        self._dictionaries, self._limit = tuple(dictionaries), max_frame_bytes
        self._unpacker = msgpack.Unpacker(max_buffer_size=max_frame_bytes + _CHUNK)
        self._held = bytearray()  # from `_end` on
        self._end = 0  # of the last whole frame, in bytes of the stream
        self._frames = 0

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """Yield the frames that end in `chunk`; exhaust it before the next call. Raises BadInput or TooLarge."""
        for start in range(0, len(chunk), _CHUNK):
            part = memoryview(chunk)[start : start + _CHUNK]
            self._held += part
            self._unpacker.feed(part)
            taken = 0
            while size := self._next():
                yield self._frame(memoryview(bytes(memoryview(self._held)[taken : taken + size])))
                self._frames += 1
                self._end += size
                taken += size
            del self._held[:taken]
            if len(self._held) > self._limit:
                raise too_large(self._where, len(self._held), self._limit)

    def finish(self) -> None:
        """Raises BadInput if the stream ends within a frame."""
        if self._held:
            raise BadInput(f"{self._where} is cut off: the body ends after {len(self._held):,} bytes of it")

    @property
    def _where(self) -> str:
        return f"frame {self._frames + 1} (from byte {self._end})"

    def _next(self) -> int:
        """Bytes of the next frame; 0 while it is not whole."""
        try:
            self._unpacker.skip()
        except msgpack.OutOfData:
            return 0
        except (ValueError, msgpack.UnpackException) as error:
            raise BadInput(f"{self._where} is not MessagePack") from error
        size = self._unpacker.tell() - self._end
        if size > self._limit:
            raise too_large(self._where, size, self._limit)
        return size

    def _frame(self, raw: memoryview) -> Frame:
        where = f"frame {self._frames + 1}"
        if (kind := _kind(raw)) != "a map":
            raise BadInput(f"{where} is {kind}; it must be a map with document, tokens and layers")
        try:
            return self._checked(where, _entries(where, raw))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:  # not UTF-8, or a key that is no text
            raise BadInput(f"{self._where} is not MessagePack as it must be: {error}") from error

    def _checked(self, where: str, value: dict[str, memoryview]) -> Frame:
        missing = [key for key in ("document", "tokens", "layers") if key not in value]
        if missing:
            raise BadInput(f"{where} has no {' and no '.join(missing)}; it has {', '.join(value) or 'no key'}"[:400])
        document, tokens = _small(value["document"]), _small(value["tokens"])
        if not isinstance(document, str) or len(document) > LONGEST_NAME:
            found = _kind(value["document"])
            raise BadInput(f"{where}: document is {found}; it must be a string of at most {LONGEST_NAME} characters")
        if not isinstance(tokens, int) or isinstance(tokens, bool) or not 0 <= tokens < 1 << 31:
            found = _kind(value["tokens"]) if tokens is None else repr(tokens)
            raise BadInput(f"{where}: tokens is {found}; it must be an integer from 0 on"[:400])
        kind = _kind(value["layers"])
        if kind != "a list" or _length(value["layers"]) != len(self._dictionaries):
            found = f"{_length(value['layers'])} layers" if kind == "a list" else f"layers as {kind}"
            raise BadInput(f"{where} has {found}; this run has {len(self._dictionaries)}")
        layers = msgspec.msgpack.decode(value["layers"], type=list[msgspec.Raw])
        checked = tuple(
            _layer(f"{where}, layer {index}", memoryview(layer), tokens, size)
            for index, (layer, size) in enumerate(zip(layers, self._dictionaries, strict=True))
        )
        return Frame(document, half_of(document.encode()), tokens, checked)


def _layer(where: str, raw: memoryview, tokens: int, size: int) -> LayerActivations:
    if (kind := _kind(raw)) != "a map":
        raise BadInput(f"{where} is {kind}; it must be a map with offsets, features and values")
    layer, columns = _entries(where, raw), []
    for name, dtype in _COLUMNS:
        packed = layer.get(name)
        kind = "missing" if packed is None else _kind(packed)
        column = msgspec.msgpack.decode(packed, type=memoryview) if packed is not None and kind == "binary" else b""
        if kind != "binary" or len(column) % 4:
            found = f"{len(column)} bytes" if kind == "binary" else kind
            raise BadInput(f"{where}: {name} is {found}; it must be binary, 4 bytes an entry")
        columns.append(np.frombuffer(column, dtype=dtype))
    offsets, features, values = columns
    _check_offsets(where, offsets, tokens, len(features))
    if len(values) != len(features):
        raise BadInput(f"{where}: {len(features)} features and {len(values)} values; they must be as many")
    _check_features(where, offsets, features, size)
    wrong = np.flatnonzero(values <= 0)  # NaN and +inf are found, set aside and reported by the engine
    if len(wrong):
        raise BadInput(f"{where}: value {values[wrong[0]]} at entry {wrong[0]}; only activations above 0 are sent")
    return LayerActivations(offsets, features, values)


def _entries(where: str, raw: memoryview) -> dict[str, memoryview]:
    """The entries of a map, still packed, where they lie."""
    if (entries := _length(raw)) > _MOST_KEYS:
        raise TooLarge(f"{where} has a map of {entries:,} keys; at most {_MOST_KEYS:,} are read")
    return {key: memoryview(value) for key, value in msgspec.msgpack.decode(raw, type=dict[str, msgspec.Raw]).items()}


def _small(raw: memoryview) -> Any:
    """A string or number; None for what is neither, or longer than any of ours."""
    return msgspec.msgpack.decode(raw) if _kind(raw) in ("a string", "a number", "a boolean") and len(raw) <= _SMALL_BYTES else None


def _length(raw: memoryview) -> int:
    """How many entries a packed map or list has."""
    first = raw[0]
    if first < 0xA0:  # fixmap, fixarray
        return first & 0x0F
    return int.from_bytes(raw[1 : 3 if first in (0xDC, 0xDE) else 5], "big")


def _kind(raw: memoryview) -> str:
    """What a packed value is, for a message."""
    first = raw[0]
    for kinds, name in _KINDS:
        if first in kinds:
            return name
    return "of an unknown type"


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
