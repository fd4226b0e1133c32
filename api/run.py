"""The static description of the run (layers, dictionary sizes, vocabulary), which every check of a request needs."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from engine.encoder.description import RunDescription
from engine.errors import DamagedFile, NotReady

log = logging.getLogger(__name__)


class Run:
    """Reads `<data_dir>/run.json`, which every start of the engine writes anew and the same.

    From the file and not from Redis, so that an upload can be checked and taken while Redis is away.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "run.json"
        self._seen: tuple[int, int] = (0, 0)
        self._description: RunDescription | None = None

    def description(self) -> RunDescription:
        """What is measured; a `stat` per call, read again only when the file is another one.

        A file that was damaged since it was read is the disk's fault and no reason to refuse what the run still takes: what it said
        before holds, until the engine writes it anew.

        Raises:
            NotReady: the engine has not written it yet.
            DamagedFile: it does not hold a description, and never did.
        """
        seen = self._seen
        try:
            stat = self._path.stat()
            seen = stat.st_mtime_ns, stat.st_ino
            if self._description is None or seen != self._seen:
                self._description = msgspec.json.decode(self._path.read_bytes(), type=RunDescription)
                self._seen = seen
        except FileNotFoundError as error:
            raise NotReady("the engine is loading the model and has not described the run yet; try again in a moment") from error
        except ValueError as error:  # msgspec's own, or of text that is no UTF-8
            if self._description is None:
                raise DamagedFile(f"run.json of the data directory does not hold the description of a run: {error}") from error
            log.warning("run.json was damaged (%s): the engine writes it anew when it starts, what it said before holds", error)
            self._seen = seen
        return self._description
