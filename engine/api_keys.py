"""API keys: who may read, and who may write. Only their hashes are kept.

1. `saestream keys add` makes a key of 256 random bits, shows it once, and writes its SHA-256 into a file that only its owner can
   read. A slow hash would add nothing: there is nothing to guess.
2. `--api-key` (or `SAESTREAM_API_KEY`) gives a server one more key, which may write; the settings hold its hash.
3. A running server looks at the file again when it changes: a key that is removed is refused from the next request on.

A port that others can reach is not opened without a key.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from engine import durable
from engine.errors import BadInput, Conflict, DamagedFile, Unknown

Scope = Literal["read", "write"]
"""`write` includes `read`."""

SHORTEST = 20
"""Characters of a key that somebody chose: its hash must not be worth guessing."""
FROM_SETTINGS = "api_key"
"""What the key of the settings is called."""

_PREFIX = "sha256:"
_HASHED = re.compile(_PREFIX + r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_FORMAT = 1


class ApiKey(msgspec.Struct, frozen=True):
    """A key as it is kept: its name, what it may do, `sha256:…` of its text, and when it was made (Unix seconds)."""

    name: str
    scope: Scope
    hash: str
    made_at: float


class _Kept(msgspec.Struct, frozen=True):
    """The file."""

    format: int
    keys: tuple[ApiKey, ...]


def hashed(key: str) -> str:
    """`sha256:…` of a key."""
    return _PREFIX + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def hash_of_setting(value: object) -> str | None:
    """The hash of a key that somebody chose; a hash stays what it is.

    Raises:
        ValueError: it is too short. The message does not repeat it.
    """
    if value is None or (isinstance(value, str) and _HASHED.fullmatch(value)):
        return value
    if not isinstance(value, str) or len(value) < SHORTEST:
        raise ValueError(f"a key has at least {SHORTEST} characters, or is the sha256:… of one; `saestream keys add` makes one")
    return hashed(value)


def matching(keys: Sequence[ApiKey], presented: str) -> ApiKey | None:
    """The key that this is. Compares with all of them, each in constant time: how long it takes says nothing."""
    found, mine = None, hashed(presented)
    for key in keys:
        if hmac.compare_digest(key.hash, mine):
            found = key
    return found


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can reach a server that listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class KeyFile:
    """The keys in a file, which need not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._keys: tuple[ApiKey, ...] = ()

    def read(self) -> tuple[ApiKey, ...]:
        """What is in it; costs one `stat` while it does not change.

        Raises:
            DamagedFile: it is not a file of keys.
        """
        try:
            stat = os.stat(self.path)
        except FileNotFoundError:
            self._seen, self._keys = None, ()
            return ()
        seen = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if seen != self._seen:
            self._keys = self._decoded()
            self._seen = seen
        return self._keys

    def add(self, name: str, scope: Scope) -> str:
        """Make a key and return it: it is nowhere else.

        Raises:
            BadInput: a name that is not 1–64 of letters, digits, dot, dash, underscore. Conflict: there is one of that name.
            StorageFault: nothing was written.
        """
        if not _NAME.fullmatch(name) or name == FROM_SETTINGS:
            raise BadInput(f"key name {name!r}: it must be 1 to 64 letters, digits, dots, dashes or underscores")
        keys = self.read()
        if any(key.name == name for key in keys):
            raise Conflict(f"{self.path} has a key {name} already; remove it first, or give this one another name")
        made = f"sae_{secrets.token_urlsafe(32)}"
        self._write((*keys, ApiKey(name, scope, hashed(made), time.time())))
        return made

    def remove(self, name: str) -> None:
        """Forget a key.

        Raises:
            Unknown: there is none of that name; the message lists those that there are.
        """
        keys = self.read()
        left = tuple(key for key in keys if key.name != name)
        if len(left) == len(keys):
            raise Unknown(f"{self.path} has no key {name!r}; it has {', '.join(key.name for key in keys) or 'none'}")
        self._write(left)

    def _decoded(self) -> tuple[ApiKey, ...]:
        try:
            kept = msgspec.json.decode(self.path.read_bytes(), type=_Kept)
        except ValueError as error:  # msgspec's own, or of text that is no UTF-8
            raise DamagedFile(f"{self.path} is not a file of API keys: {error}") from error
        if kept.format != _FORMAT:
            raise DamagedFile(f"{self.path} has format {kept.format}; this saestream reads {_FORMAT}")
        return kept.keys

    def _write(self, keys: tuple[ApiKey, ...]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        durable.write_file(self.path, [msgspec.json.format(msgspec.json.encode(_Kept(_FORMAT, keys))), b"\n"])
        self.path.chmod(0o600)
