"""A bounded pair table on disk: both directions' rows, without their empty slots, some rows at a time.

    head: an empty frame (`engine.durable`): magic, version, header {part, rows, wide}, checksum
    for each direction: the slots, partners, bounds and weights of its rows; then shard by shard the entries of some rows
    behind each of these: u32 crc32 of all so far

All little-endian. The checksums are a chain: a piece that is lost, repeated or from another file breaks it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from engine.counts.part import require
from engine.durable import framed_chunks, read_framed_header, write_file
from engine.errors import DamagedFile, DoesNotFit

if TYPE_CHECKING:
    from kernels.cpu.bounded import BoundedRows

MAGIC = b"SAESBNDP"
VERSION = 1
_CRC = struct.Struct("<I")
_PIECE_SLOTS = 1 << 20  # 24 MiB beside the table, whatever its size
_COLUMNS = (("slots", "<i4"), ("filled", "<i4"), ("bounds", "<i8"), ("weights", "<i8"))


def write(path: Path, part: str, directions: Sequence[BoundedRows]) -> int:
    """Write both directions durably and return the file's size in bytes; `StorageFault` when the disk fails."""
    return write_file(path, _chunks(part, directions))


def read(path: Path, part: str, directions: Sequence[BoundedRows]) -> None:
    """Fill rows that hold nothing from their file.

    Raises:
        DamagedFile: the file is not, byte for byte, what `write` wrote for a table of this name and size.
        DoesNotFit: it was written with more room than there is now.
        FileNotFoundError: no such file.
    """
    header = read_framed_header(path, MAGIC, {VERSION})
    require(path, "part", header.get("part"), part)
    require(path, "rows", header.get("rows"), [len(rows.slots) for rows in directions])
    with open(path, "rb") as file:
        head = b"".join(framed_chunks(MAGIC, VERSION, header, {}))
        require(path, "head", file.read(len(head)), head)
        crc = zlib.crc32(head)
        for rows in directions:
            if header["wide"]:
                rows.widen()
            columns = []
            for _, kind in _COLUMNS:
                column, crc = _take(path, file, len(rows.slots) * np.dtype(kind).itemsize, crc)
                columns.append(np.frombuffer(column, kind))
            try:
                rows.restore(*columns)
            except ValueError as error:
                raise DoesNotFit(f"{path} was saved with a larger --memory-budget: {error}; give it the former one") from error
            for shard, first, last in _pieces(rows):
                length = int(rows.filled[shard :: len(rows.arenas)][first:last].sum()) * rows.arenas[shard].itemsize
                entries, crc = _take(path, file, length, crc)
                rows.unpack(shard, first, last, np.frombuffer(entries, rows.arenas[shard].dtype))
        require(path, "end", file.read(1), b"")


def _chunks(part: str, directions: Sequence[BoundedRows]) -> Iterator[bytes | memoryview]:
    header = {"part": part, "rows": [len(rows.slots) for rows in directions], "wide": directions[0].wide}
    head = b"".join(framed_chunks(MAGIC, VERSION, header, {}))
    yield head
    crc = zlib.crc32(head)
    for rows in directions:
        columns = [getattr(rows, name).astype(kind, copy=False) for name, kind in _COLUMNS]
        for piece in (*columns, *(rows.packed(*place) for place in _pieces(rows))):
            payload = np.ascontiguousarray(piece).view(np.uint8).data
            crc = zlib.crc32(payload, crc)
            yield payload
            yield _CRC.pack(crc)


def _pieces(rows: BoundedRows) -> Iterator[tuple[int, int, int]]:
    """Shard, and its rows from and to, of about `_PIECE_SLOTS` entries each."""
    for shard in range(len(rows.arenas)):
        ends = np.cumsum(rows.filled[shard :: len(rows.arenas)], dtype=np.int64)
        first = 0
        while first < len(ends):
            before = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(ends, before + _PIECE_SLOTS, side="right")))
            yield shard, first, last
            first = last


def _take(path: Path, file: BinaryIO, length: int, crc: int) -> tuple[bytes, int]:
    """The next piece and the checksum so far."""
    data = file.read(length)
    expected = file.read(_CRC.size)
    if len(data) != length or len(expected) != _CRC.size:
        raise DamagedFile(f"{path} is cut off: {length + _CRC.size} more bytes expected, {len(data) + len(expected)} found")
    found = zlib.crc32(data, crc)
    if found != _CRC.unpack(expected)[0]:
        raise DamagedFile(f"{path}: checksum {found:08x} of a piece of {length} bytes, {_CRC.unpack(expected)[0]:08x} was written")
    return data, found
