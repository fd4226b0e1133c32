"""numba's compiler as the CPU kernels use it: without the interpreter's lock, and with the compiled code kept beside the source.

numba compiles a kernel anew when the file that it is written in has changed, and does not look at those whose functions it calls:
after an update an old form of these would go on in it, and count. Here the stamp of what is kept is that of all files together.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numba
from numba.core import caching, config

_config = cast("Any", config)  # its fields are made when it is imported


@functools.cache
def sources_stamp(folder: Path = Path(__file__).parent) -> bytes:
    """SHA-256 of all Python files of a folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.py")):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.digest()


class _AllSources:
    def get_source_stamp(self) -> bytes:
        return sources_stamp()


class WhereTheUserSays(_AllSources, caching.UserProvidedCacheLocator):
    """In `NUMBA_CACHE_DIR`."""


class BesideTheSource(_AllSources, caching.InTreeCacheLocator):
    """In `__pycache__`."""


class InTheUsersHome(_AllSources, caching.UserWideCacheLocator):
    """Where the user's caches are, if the source may not be written beside."""


_LOCATORS = ",".join(f"{__name__}.{kind.__name__}" for kind in (WhereTheUserSays, BesideTheSource, InTheUsersHome))


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that compiles a function when it is first called: `numba.njit` with more of its options."""

    def compile_it(function: Callable[..., Any]) -> Callable[..., Any]:
        before, _config.CACHE_LOCATOR_CLASSES = _config.CACHE_LOCATOR_CLASSES, _LOCATORS
        try:
            return numba.njit(function, nogil=True, cache=True, **options)
        finally:
            _config.CACHE_LOCATOR_CLASSES = before

    return compile_it
