"""The one place where saestream writes files that must survive a crash.

What is synced, and when:

1. the bytes go to a temporary name beside the target (`.NAME.XXXXXXXX.partial`), so that a reader never opens half a file;
2. the file is fsynced: its bytes are on the disk before its name is;
3. it is renamed onto its name, which is atomic: a crash leaves the old state or the new one;
4. the folder is fsynced: the name is on the disk before anybody is told about it.

Why in that order: a disk may write what it was given in any order, and a kill or a power cut may come between any two steps. A name
that came to the disk before its bytes would be an empty file that looks whole; an answer before the name would be a promise about a
file that is gone. A kill alone loses nothing that was written (the kernel has it): the syncs are for the power cut. What a process
*finds* by name at its start may have been renamed by one that was killed before step 4, so whoever goes on from a folder syncs it
first (`CorpusLog`, `Inbox`, `make_folders`).

A sync that failed is never tried again on the same file: Linux marks its pages clean, and a second sync would succeed without the
bytes. The file is thrown away and written anew from memory.

A crash in 1–3 leaves a `.partial` file, which every reader ignores and `remove_partial` deletes at the next start. Every step goes
through `disk`, one object per process: the seam at which tests fill the disk up, break it, or end the process.

Binary files of ours are *framed* (little-endian throughout):

    magic 8 bytes | u32 format version | u64 header length | header (MessagePack) | u32 crc32 of all before
    arrays, each at a multiple of 64 bytes from the start of the file
    u32 crc32 of all before

A file says what it is before anything in it is believed, its header can be read alone, and damage is named instead of counted.
The layout of the head, up to its checksum, is that of every version: a version is believed, and refused when it is not known, only
where the checksum says that it was written so. A *record* is a small frame without arrays that lies in its file twice: what nothing
else could bring back survives a flipped bit or a lost end.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import shutil
import struct
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

from engine.errors import DamagedFile, StorageFault, StorageFull, UnknownVersion

log = logging.getLogger(__name__)

PARTIAL = ".partial"
ALIGNMENT = 64  # a cache line; numpy needs 8
_PREAMBLE = struct.Struct("<8sIQ")
_CRC = struct.Struct("<I")
_FULL = {errno.ENOSPC, errno.EDQUOT}


class Disk:
    """The steps in which files are written, each of which can fail or be the last. Tests put another one in `durable.disk`."""

    def create(self, path: Path) -> IO[bytes]:
        """Open a new file for writing, unbuffered; its name must not exist."""
        return open(path, "xb", buffering=0)

    def write(self, file: IO[bytes], data: bytes | memoryview) -> None:
        """Write all of `data`: an unbuffered write may take a part only."""
        view = memoryview(data).cast("B")
        while view:
            view = view[file.write(view) :]

    def sync(self, file: IO[bytes]) -> None:
        os.fsync(file.fileno())

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def sync_folder(self, folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def make_folder(self, path: Path) -> None:
        os.mkdir(path)

    def remove(self, path: Path) -> None:
        os.unlink(path)

    def remove_folder(self, path: Path) -> None:
        """Remove a folder and what is in it."""
        shutil.rmtree(path)


disk = Disk()


def make_folders(path: Path) -> None:
    """Make a folder, and those above it that are missing; its name is on the disk when this returns, whoever made it.

    Raises:
        StorageFault: it can't be made.
    """
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
        for folder in reversed(missing):
            try:
                disk.make_folder(folder)
            except FileExistsError:
                continue  # another process of ours was quicker
        for folder in missing or [path]:
            disk.sync_folder(folder.parent)
    except PermissionError as error:
        if not path.is_dir():
            raise storage_error(error, path) from error
        log.warning("%s can't be synced (%s): a power cut could take its newest entries", path.parent, error.strerror)
    except OSError as error:
        raise storage_error(error, path) from error


class PendingFile:
    """A file under its temporary name: `write` chunks, then `commit` (it exists, whole and synced) or `abort` (it never did).

    Raises:
        StorageFault: the disk failed (`StorageFull`: it or the quota is full); the temporary file is gone by then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = 0
        self._temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
        self._file: IO[bytes] | None = None
        try:
            self._file = disk.create(self._temporary)
        except OSError as error:
            raise self._failed(error) from error

    def write(self, chunk: bytes | memoryview) -> None:
        assert self._file is not None, f"{self.path} is already committed or aborted"
        try:
            disk.write(self._file, chunk)
        except OSError as error:
            raise self._failed(error) from error
        self.bytes += memoryview(chunk).nbytes

    def commit(self) -> None:
        assert self._file is not None, f"{self.path} is already committed or aborted"
        try:
            disk.sync(self._file)
            self._file.close()
            disk.rename(self._temporary, self.path)
            disk.sync_folder(self.path.parent)
        except OSError as error:
            raise self._failed(error) from error
        self._file = None

    def abort(self) -> None:
        """Remove the temporary file; after `commit` this does nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._temporary.unlink(missing_ok=True)

    def _failed(self, error: OSError) -> StorageFault:
        self.abort()
        return storage_error(error, self.path)


def storage_error(error: OSError, path: Path) -> StorageFault:
    """What a failed step becomes: `StorageFull` for a full disk or quota, `StorageFault` for anything else."""
    what = f"cannot write {path}: {error.strerror or error}"
    if error.errno in _FULL:
        return StorageFull(f"{what}; free some space, what is stored already is safe")
    return StorageFault(f"{what}; look after the disk, what is stored already is safe")


def write_file(path: Path, chunks: Iterable[bytes | memoryview]) -> int:
    """Write a whole file durably (see the module's text) and return its length in bytes.

    Raises:
        StorageFault: the disk failed, or is full (`StorageFull`); an older file of this name is untouched, unless only the folder's
            last sync failed.
    """
    pending = PendingFile(path)
    try:
        for chunk in chunks:
            pending.write(chunk)
        pending.commit()
    finally:
        pending.abort()
    return pending.bytes


def remove_partial(folder: Path) -> int:
    """Delete what a crash left half-written in `folder` and return how many; call it at the start, before anyone writes."""
    left = [path for path in folder.iterdir() if path.name.startswith(".") and path.name.endswith(PARTIAL)]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Around the reading of a file of ours: what the disk can't give back (EIO) is damage. Raises DamagedFile."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise DamagedFile(f"{path} can't be read: {error.strerror}") from error


def write_framed(path: Path, magic: bytes, version: int, header: Any, arrays: Mapping[str, np.ndarray]) -> int:
    """Write a framed file durably and return its length in bytes.

    Args:
        magic: 8 bytes, one value per kind of file.
        version: of the format of header and arrays, 0 <= version < 2^32.
        header: anything msgspec can encode to a MessagePack map (a Struct or a dict).
        arrays: by name; any shape, numeric or bool dtype; stored C-contiguous and little-endian.

    Raises:
        StorageFault: as `write_file`.
    """
    return write_file(path, framed_chunks(magic, version, header, arrays))


def write_record(path: Path, magic: bytes, version: int, header: Any) -> int:
    """Write a record, twice in a file, durably; its length in bytes. Arguments and errors as `write_framed`."""
    return write_file(path, _both_copies(magic, version, header))


def read_record(path: Path, magic: bytes, versions: Collection[int]) -> dict[str, Any]:
    """The header of a record. Where a part of the file is damaged, it is written anew while one of its copies is whole: what the
    disk does to it next may be to the other one.

    Raises:
        DamagedFile: both are. UnknownVersion. FileNotFoundError.
    """
    with reading(path):
        data = memoryview(path.read_bytes())
    try:
        whole = data
        header = _head(path, whole, magic, versions)[0]["header"]
    except UnknownVersion:
        raise
    except DamagedFile as first:
        try:
            whole = data[len(data) // 2 :]
            header = _head(path, whole, magic, versions)[0]["header"]
        except DamagedFile:
            raise first from None
    copies = _both_copies(magic, _PREAMBLE.unpack(whole[: _PREAMBLE.size])[1], header)
    if data != b"".join(copies):
        log.warning("%s is damaged, one of the two copies in it is whole: it is written anew", path)
        try:
            write_file(path, copies)
        except StorageFault as error:
            log.warning("it stays as it is: %s", error.message)
    return header


def _both_copies(magic: bytes, version: int, header: Any) -> list[bytes]:
    return [b"".join(framed_chunks(magic, version, header, {}))] * 2


def framed_chunks(magic: bytes, version: int, header: Any, arrays: Mapping[str, np.ndarray]) -> Iterator[bytes | memoryview]:
    """The bytes of a framed file, piece by piece: arrays go out as they lie in memory, without a second copy."""
    if len(magic) != 8:
        raise ValueError(f"magic must be 8 bytes, got {magic!r}")
    stored = {name: _little_endian(name, array) for name, array in arrays.items()}
    table, offset = [], 0
    for name, array in stored.items():
        table.append({"name": name, "dtype": array.dtype.str, "shape": list(array.shape), "offset": offset})
        offset = _aligned(offset + array.nbytes)
    encoded = msgspec.msgpack.encode({"header": header, "arrays": table})
    head = _PREAMBLE.pack(magic, version, len(encoded)) + encoded
    head += _CRC.pack(zlib.crc32(head))
    crc, position = zlib.crc32(head), len(head)
    yield head
    for array in stored.values():
        padding = bytes(_aligned(position) - position)
        payload = array.reshape(-1).view(np.uint8).data
        crc = zlib.crc32(payload, zlib.crc32(padding, crc))
        position += len(padding) + len(payload)
        yield padding
        yield payload
    yield _CRC.pack(crc)


def read_framed(path: Path, magic: bytes, versions: Collection[int]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read a framed file whole: header and arrays by name (writable views into one buffer).

    Raises:
        DamagedFile: another magic, a wrong length or checksum; says what was found and what was expected.
        UnknownVersion: a whole file of a version that is not among `versions`.
        FileNotFoundError: no such file.
    """
    with reading(path), open(path, "rb") as file:
        content = bytearray(os.fstat(file.fileno()).st_size)
        length = file.readinto(content)
    data = memoryview(content)[:length]
    decoded, start = _head(path, data, magic, versions)
    if len(data) < start + _CRC.size:
        raise DamagedFile(f"{path} is cut off: {len(data)} bytes, its header alone needs {start + _CRC.size}")
    found, expected = zlib.crc32(data[: -_CRC.size]), _CRC.unpack(data[-_CRC.size :])[0]
    if found != expected:
        raise DamagedFile(f"{path} is damaged or cut off: checksum {found:08x} of its content, {expected:08x} was written")
    arrays, first = {}, _aligned(start)
    for entry in decoded["arrays"]:
        dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        count = int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer(content, dtype=dtype, count=count, offset=first + entry["offset"] if count else 0).reshape(shape)
        arrays[entry["name"]] = array
    return decoded["header"], arrays


def read_framed_header(path: Path, magic: bytes, versions: Collection[int]) -> dict[str, Any]:
    """The header of a framed file alone, protected by its own checksum; the arrays are not read. Raises as `read_framed`."""
    with reading(path), open(path, "rb") as file:
        data = file.read(_PREAMBLE.size)
        if len(data) == _PREAMBLE.size:
            length = min(_PREAMBLE.unpack(data)[2], os.fstat(file.fileno()).st_size)
            data += file.read(length + _CRC.size)
    return _head(path, memoryview(data), magic, versions)[0]["header"]


def _head(path: Path, data: memoryview, magic: bytes, versions: Collection[int]) -> tuple[dict[str, Any], int]:
    """Decoded header table and the offset behind its checksum."""
    if len(data) < _PREAMBLE.size:
        raise DamagedFile(f"{path} is cut off: {len(data)} bytes, a {_name(magic)} file has at least {_PREAMBLE.size}")
    found_magic, version, length = _PREAMBLE.unpack(data[: _PREAMBLE.size])
    if found_magic != magic:
        raise DamagedFile(f"{path} is not a {_name(magic)} file: it starts with {found_magic!r}, expected {magic!r}")
    end = _PREAMBLE.size + length
    if len(data) < end + _CRC.size:
        raise DamagedFile(f"{path} is cut off: {len(data)} bytes, its header alone needs {end + _CRC.size}")
    found, expected = zlib.crc32(data[:end]), _CRC.unpack(data[end : end + _CRC.size])[0]
    if found != expected:
        raise DamagedFile(f"{path} has a damaged header: checksum {found:08x}, {expected:08x} was written")
    if version not in versions:
        known = ", ".join(str(known) for known in sorted(versions))
        raise UnknownVersion(f"{path} has format version {version}; this saestream reads {known}")
    return msgspec.msgpack.decode(data[_PREAMBLE.size : end]), end + _CRC.size


def _name(magic: bytes) -> str:
    return magic.rstrip(b"\0").decode("ascii", "replace")


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _little_endian(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "biuf":
        raise ValueError(f"array {name!r} has dtype {array.dtype}; a framed file stores bool, integer and float arrays")
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")  # not ascontiguousarray: it makes scalars [1]
