"""Ids of communities that stay from one snapshot to the next, for each set of parameters that communities are asked for by.

1. A community takes the id of the earlier community that it overlaps most, if that is enough
   (`engine.measures.partitions.successors`); others get the next number. No number is given twice.
2. What the ids belong to lies in a file for each set of parameters, so that a link to a community outlives the process. Files are
   small (16 bytes for a feature with an edge), at most `MOST_SETS`, and worth nothing without the run: a lost or damaged one only
   means that its communities are numbered anew.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from engine import durable
from engine.errors import DamagedFile, StorageFault
from engine.measures.partitions import successors
from engine.views.communities import Partition

log = logging.getLogger(__name__)

IDS = "communities"
"""Folder of the files in the data directory."""

MOST_SETS = 32
"""Sets of parameters whose ids are kept, those that were used last: at 295,000 features 150 MB on the disk."""

_MAGIC = b"SAESCOMM"
_VERSION = 1


class Named(NamedTuple):
    """Communities with their ids.

    Attributes:
        number: int64 `[C]`, of each community; 0 for one of a single feature, which has no id.
        since: int64 `[C]`, tokens of the snapshot in which the number first appeared.
    """

    number: np.ndarray
    since: np.ndarray


class CommunityIds:
    """The ids of one run, in files of `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if folder.exists():
            durable.remove_partial(folder)

    def named(self, by: Partition, run: Mapping[str, str], features: np.ndarray, labels: np.ndarray, tokens: int) -> Named:
        """Name the communities of a snapshot, and keep the names for the next one.

        Args:
            by: the parameters; run: the run's fingerprint.
            features: int64 `[n]`, ascending; labels: int64 `[n]`, their communities, 0 … C − 1.
            tokens: of the snapshot.
        """
        path = self._folder / f"{hashlib.blake2b(msgspec.msgpack.encode(by), digest_size=12).hexdigest()}.ids"
        header, earlier = self._read(path, run)
        size = np.bincount(labels)
        many = np.flatnonzero(size > 1)
        named = Named(np.zeros(len(size), np.int64), np.full(len(size), tokens, np.int64))
        follows = successors(features, earlier["features"], labels, earlier["labels"])[many]
        kept, new = many[follows >= 0], many[follows < 0]
        named.number[kept], named.since[kept] = (earlier[column][follows[follows >= 0]] for column in ("number", "since"))
        named.number[new] = header["next"] + np.arange(len(new))
        if not len(many):  # no edges yet, as after the start of an engine that knows no design effects: what is kept stays
            return named
        together = size[labels] > 1
        _, groups = np.unique(labels[together], return_inverse=True)
        self._write(
            path,
            {"run": dict(run), "next": header["next"] + len(new)},
            {"features": features[together], "labels": groups, "number": named.number[many], "since": named.since[many]},
        )
        return named

    def _read(self, path: Path, run: Mapping[str, str]) -> tuple[dict, dict[str, np.ndarray]]:
        if path.exists():
            try:
                header, arrays = durable.read_framed(path, _MAGIC, [_VERSION])
                if header["run"] == dict(run):
                    return header, arrays
            except DamagedFile as error:
                log.warning("%s; its communities are numbered anew", error.message)
        return {"next": 1}, {name: np.empty(0, np.int64) for name in ("features", "labels", "number", "since")}

    def _write(self, path: Path, header: dict, arrays: dict[str, np.ndarray]) -> None:
        try:
            durable.make_folders(self._folder)
            durable.write_framed(path, _MAGIC, _VERSION, header, arrays)
        except StorageFault as error:
            log.warning("%s; the ids of these communities are not kept", error.message)
        files = sorted(self._folder.glob("*.ids"), key=lambda file: file.stat().st_mtime)
        for file in files[:-MOST_SETS]:
            file.unlink()
