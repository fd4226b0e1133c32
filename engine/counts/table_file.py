"""A pair table on disk: block by block, without the zeros, so that a 7 GB table needs 70 MB beside it to be written or read.

    head: an empty frame (`engine.durable`): magic, version, header {part, shape, dtype, blocks}, checksum
    each block of rows, in order:
        u64 first row | u64 cells that are not zero | u64 bytes of one count (1, 2, 4 or 8: as few as its largest needs)
        where any is not zero: one bit per cell | their counts of half A and B | their products (float64)
        u32 crc32 of all of this, continued from the block before

All little-endian. The checksums are a chain: a block that is lost, repeated or from another file breaks it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from torch import Tensor

from engine.counts.part import require
from engine.durable import framed_chunks, read_framed_header, reading, write_file
from engine.errors import DamagedFile

if TYPE_CHECKING:
    from engine.counts.pairs import PairTable

MAGIC = b"SAESPAIR"
VERSION = 2
_BLOCK = struct.Struct("<QQQ")
_CRC = struct.Struct("<I")
_COUNT_TYPES = tuple(np.dtype(code) for code in ("<u1", "<u2", "<u4", "<u8"))


def write_table(path: Path, table: PairTable) -> int:
    """Write a table durably and return the file's size in bytes; `StorageFault` when the disk fails."""
    return write_file(path, _chunks(table))


def read_table(path: Path, table: PairTable) -> None:
    """Fill a zero table from its file.

    Raises:
        DamagedFile: the file is not, byte for byte, what `write_table` wrote for a table of this name and shape.
        FileNotFoundError: no such file.
    """
    header = read_framed_header(path, MAGIC, {VERSION})
    require(path, "part", header.get("part"), table.name)
    require(path, "shape", header.get("shape"), list(table.counts.shape))
    if header["dtype"] == "int64":
        table.promote()
    with reading(path), open(path, "rb") as file:
        head = b"".join(framed_chunks(MAGIC, VERSION, header, {}))
        require(path, "head", file.read(len(head)), head)
        crc = zlib.crc32(head)
        for rows in table.blocks_of(header["block_rows"]):
            crc = _read_block(path, file, table, rows, crc)
        require(path, "end", file.read(1), b"")


def _chunks(table: PairTable) -> Iterator[bytes | memoryview]:
    blocks = table.blocks()
    header = {
        "part": table.name,
        "shape": list(table.counts.shape),
        "dtype": str(table.counts.dtype).removeprefix("torch."),
        "block_rows": blocks[0].stop,
    }
    head = b"".join(framed_chunks(MAGIC, VERSION, header, {}))
    yield head
    crc = zlib.crc32(head)
    for rows in blocks:
        counts = table.counts[rows].cpu().numpy().reshape(-1, 2)  # on the CPU both are views: nothing is copied
        products = table.products[rows].cpu().numpy().reshape(-1)
        # A product can be there without a count (thresholds), and underflow without it.
        filled = ((counts[:, 0] | counts[:, 1]) != 0) | (products != 0)
        cells = int(np.count_nonzero(filled))
        kept = counts[filled]
        kind = np.min_scalar_type(kept.max()).newbyteorder("<") if cells else _COUNT_TYPES[0]
        pieces = [_BLOCK.pack(rows.start, cells, kind.itemsize)]
        if cells:
            bits = np.packbits(filled)
            pieces += [array.view(np.uint8).data for array in (bits, kept.astype(kind), products[filled].astype("<f8", copy=False))]
        for piece in pieces:
            crc = zlib.crc32(piece, crc)
            yield piece
        yield _CRC.pack(crc)


def _read_block(path: Path, file: BinaryIO, table: PairTable, rows: slice, crc: int) -> int:
    """Read one block into the table and return the checksum so far."""
    head = _take(path, file, _BLOCK.size)
    crc = zlib.crc32(head, crc)
    first, cells, width = _BLOCK.unpack(head)
    size = (rows.stop - rows.start) * table.counts.shape[1]
    kinds = {kind.itemsize: kind for kind in _COUNT_TYPES}
    if first != rows.start or cells > size or width not in kinds:
        raise DamagedFile(f"{path}: the block of row {rows.start} says row {first}, {cells} of {size} cells, {width} bytes a count")
    if cells:
        parts = [_take(path, file, length) for length in ((size + 7) // 8, 2 * cells * width, cells * 8)]
        for part in parts:
            crc = zlib.crc32(part, crc)
    found, expected = crc, _CRC.unpack(_take(path, file, _CRC.size))[0]
    if found != expected:
        raise DamagedFile(f"{path}: checksum {found:08x} at the block of row {rows.start}, {expected:08x} was written")
    if cells:
        bits, counts, products = parts
        filled = np.unpackbits(np.frombuffer(bits, np.uint8), count=size).view(bool)
        _fill(table.counts[rows], filled, np.frombuffer(counts, kinds[width]).reshape(-1, 2))
        _fill(table.products[rows], filled, np.frombuffer(products, "<f8"))
    return crc


def _fill(target: Tensor, filled: np.ndarray, values: np.ndarray) -> None:
    host = target.cpu()  # the target itself when that is on the CPU
    host.numpy().reshape(len(filled), *values.shape[1:])[filled] = values
    if host is not target:
        target.copy_(host)


def _take(path: Path, file: BinaryIO, length: int) -> bytes:
    data = file.read(length)
    if len(data) != length:
        raise DamagedFile(f"{path} is cut off: {length} more bytes expected, {len(data)} found")
    return data
