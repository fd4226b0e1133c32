"""Bodies that others have packed are unpacked for the first time in a process of its own, which may have so much memory.

What a Parquet page says of its size is as trustworthy as its sender: 46 kB can become 6 GB at once, and a damaged page can break
its reader altogether. There it breaks the check of one upload, which is then refused, and neither the API nor the engine: the
engine reads the same bytes in the same way, and so with as much memory.

    python -m engine.corpus.apart PATH MAX_DOCUMENT_BYTES VOCAB_SIZE MAX_BYTES MEMORY_BYTES CPU_SECONDS

    → {"documents": n}, or {"error": …, "message": …}

It takes 0.4 s to start, which is why it is for Parquet alone.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import msgspec

from engine import errors
from engine.corpus.body import BodyCheck
from engine.corpus.parquet import ParquetCheck
from engine.errors import SaestreamError, TooLarge

MEMORY_BYTES = 512 << 20
"""Beyond what Python and pyarrow take, and eight documents of the largest size. 300 MB of text in one row group take 70 MiB."""
_LARGEST_DOCUMENTS = 8
CPU_SECONDS = 600  # 2 GiB of text take 20
_POOL = {"ARROW_DEFAULT_MEMORY_POOL": "system"}  # the default one reserves a gigabyte before it gives a byte
_AT_ONCE = threading.BoundedSemaphore(2)  # of them, each with so much memory


class _Found(msgspec.Struct, frozen=True, omit_defaults=True):
    documents: int = 0
    error: str | None = None
    message: str = ""


class CheckedApart(BodyCheck):
    """A check whose end is in another process."""

    media_type = ParquetCheck.media_type

    def __init__(self, check: ParquetCheck) -> None:
        self._check = check

    def feed(self, chunk: bytes) -> None:
        self._check.feed(chunk)

    def finish(self, body: Path) -> int:
        with _AT_ONCE:
            return self._finish(body)

    def _finish(self, body: Path) -> int:
        limits = self._check.limits
        memory = MEMORY_BYTES + _LARGEST_DOCUMENTS * limits[0]
        words = [sys.executable, "-m", __name__, str(body), *map(str, (*limits, memory, CPU_SECONDS))]
        ended = subprocess.run(words, stdout=subprocess.PIPE, env={**os.environ, **_POOL}, check=False)
        if ended.returncode:
            raise TooLarge(
                "the Parquet file takes too much memory or time to unpack, or breaks its reader: write it in smaller pages and rows"
            )
        found = msgspec.json.decode(ended.stdout, type=_Found)
        if found.error is not None:
            raise getattr(errors, found.error)(found.message)
        return found.documents


def main() -> int:
    """Check one body, within limits; the exit status."""
    from engine.supervisor import die_with_parent

    die_with_parent()
    path, *limits = sys.argv[1:]
    max_document_bytes, vocab_size, max_bytes, memory, seconds = map(int, limits)
    with open("/proc/self/statm") as statm:
        memory += int(statm.read().split()[5]) * os.sysconf("SC_PAGE_SIZE")  # data and stack
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        found = _Found(documents=ParquetCheck(max_document_bytes, vocab_size, max_bytes).finish(Path(path)))
    except SaestreamError as error:
        found = _Found(error=type(error).__name__, message=error.message)
    sys.stdout.buffer.write(msgspec.json.encode(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
