"""How much disk a run may fill with what it is sent: a quota of its own, and a rest of the disk that it leaves alone.

What counts is what lies on the disk, so nothing has to be kept in step with it: log and inbox are looked through at most once a
second, and what this process writes in between is added. Engine and API each have a `Quota` of the same settings.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

from engine.errors import StorageFull
from engine.settings import Settings

_LOOK_SECONDS = 1.0  # 1 ms per 200 files
_BLOCK = 512  # of st_blocks


class Quota:
    """The disk under a data directory, from any thread."""

    def __init__(self, data_dir: Path, quota: int | None, keep_free: int) -> None:
        """
        Args:
            data_dir: of the run.
            quota: bytes that log and inbox may have together; None: any.
            keep_free: bytes of the disk.
        """
        self.quota = quota
        self._data_dir, self._keep_free = data_dir, keep_free
        self._lock = threading.Lock()
        self._looked = -_LOOK_SECONDS
        self._used = 0

    @classmethod
    def of(cls, settings: Settings) -> Quota:
        """That of a run."""
        return cls(settings.data_dir, settings.disk_quota, settings.min_free_bytes)

    def take(self, size: int) -> None:
        """Before so many bytes are written.

        Raises:
            StorageFull: they would be too many; the message says what of.
        """
        free = shutil.disk_usage(self._data_dir).free
        if free - size < self._keep_free:
            raise StorageFull(
                f"the disk has {free:,} bytes left, of which {self._keep_free:,} are kept for checkpoints (min_free_bytes); what "
                "is stored already is safe"
            )
        if self.quota is None:
            return
        with self._lock:
            used = self._look()
            if used + size > self.quota:
                raise StorageFull(
                    f"corpus log and inbox have {used:,} bytes of {self.quota:,} (disk_quota): give them more, or let the oldest "
                    "text that is counted go (retention = drop); what is stored already is safe"
                )
            self._used += size

    def used(self) -> int:
        """Bytes that log and inbox have now."""
        with self._lock:
            self._looked = -_LOOK_SECONDS
            return self._look()

    def _look(self) -> int:
        if time.monotonic() - self._looked >= _LOOK_SECONDS:
            self._used = sum(_bytes_under(self._data_dir / name) for name in ("log", "inbox"))
            self._looked = time.monotonic()
        return self._used


def _bytes_under(folder: Path) -> int:
    """What a folder and those in it take of the disk; what is removed meanwhile takes nothing."""
    total, folders = 0, [str(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    stat = entry.stat(follow_symlinks=False)
                    total += _BLOCK * stat.st_blocks
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except FileNotFoundError:
            continue
    return total
