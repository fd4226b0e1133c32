"""The manifest of an upload: what is known of it when it is acknowledged, and its id.

A record (`engine.durable`): nothing else could say whose a body is and by which key it came.
"""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Literal

import msgspec

from engine import durable
from engine.errors import DamagedFile

Route = Literal["corpora", "activations"]

MAGIC = b"SAESUPLD"
VERSION = 2  # 1: manifest.json, without a checksum
ID_LENGTH = 26
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: sorts as it counts


class Manifest(msgspec.Struct, frozen=True):
    """What is known of an upload when it is acknowledged."""

    id: str  # 26 characters, sorts by arrival
    route: Route
    corpus: str
    key: str | None  # the sender's idempotency key
    sha256: str  # of the body
    media_type: str
    bytes: int
    documents: int
    received_at: float  # unix seconds


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it into the upload's folder, durably. Raises StorageFault."""
    durable.write_record(folder / "manifest", MAGIC, VERSION, manifest)


def read_manifest(folder: Path) -> Manifest:
    """The manifest in an upload's folder. Raises DamagedFile."""
    try:
        try:
            return msgspec.convert(durable.read_record(folder / "manifest", MAGIC, {VERSION}), Manifest)
        except FileNotFoundError:
            return msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
    except (ValueError, FileNotFoundError) as error:
        raise DamagedFile(f"{folder} has no manifest that saestream wrote: {error}") from error


def next_id(last: str) -> str:
    """48 bits of milliseconds and 80 random bits (a ULID); one more than `last` if the clock is not ahead of it."""
    value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    if last:
        value = max(value, _decode(last) + 1)
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(5 * (ID_LENGTH - 1), -1, -5))


def _decode(upload_id: str) -> int:
    value = 0
    for character in upload_id:
        value = value << 5 | _ALPHABET.index(character)
    return value
