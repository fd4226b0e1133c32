"""What goes when the disk quota nears, with `retention = drop`: text that is counted, the oldest first.

1. Bodies of uploads that every kept checkpoint has counted whole: no recovery takes them from the inbox again.
2. Segments that every kept checkpoint has counted: no recovery reads them again. Their headers stay, because they say how far each
   upload was taken.

What is dropped stays counted, and is not there for anything else: contexts of it can't be shown any more (they say so), and it
can't be counted anew with other SAEs or thresholds. With `retention = keep` nothing is ever dropped, and uploads are refused when
the quota is reached (`engine.corpus.quota`).
"""

from __future__ import annotations

import logging

from engine.corpus.inbox import Inbox
from engine.corpus.log import CorpusLog, LogIndex
from engine.corpus.quota import Quota
from engine.errors import SaestreamError

log = logging.getLogger(__name__)

_HIGH, _LOW = 0.8, 0.7
"""Of the quota: where dropping begins, and where it ends. The room above is what arrives between two checkpoints."""


class Retention:
    """Makes room within the quota of a run."""

    def __init__(self, quota: Quota, inbox: Inbox, corpus: CorpusLog, drop: bool) -> None:
        """`drop`: the run's `retention` says so."""
        self._quota, self._inbox, self._corpus, self._drop = quota, inbox, corpus, drop
        self._counted = LogIndex()  # of the segments before `needed_from`
        self._first = 0  # segment that may have its content
        self._bodies = ""  # id of the upload before which no body is left

    def short(self) -> bool:
        """Whether something is to be dropped."""
        quota = self._quota.quota
        return self._drop and quota is not None and self._quota.used() > _HIGH * quota

    def make_room(self, needed_from: int) -> None:
        """Drop what may go until enough is free. What the disk refuses is tried again the next time.

        Args:
            needed_from: the first segment that a recovery could read.
        """
        if not self.short():
            return
        surplus = self._quota.used() - int(_LOW * (self._quota.quota or 0))
        try:
            freed = self._drop_oldest(surplus, needed_from)
        except (SaestreamError, OSError) as error:
            log.error("the disk quota nears, and no room was made: %s", error)
            return
        if freed:
            log.info("the disk quota nears: %d bytes of counted text were dropped", freed)

    def _drop_oldest(self, wanted: int, needed_from: int) -> int:
        """Drop so many bytes, if there are; how many there were."""
        while len(self._counted.ends) < needed_from:
            self._counted.take(self._corpus.header(len(self._counted.ends)))
        surplus, all_before = wanted, True
        for manifest in self._inbox.manifests(self._bodies):
            if surplus <= 0:
                break
            ended = self._counted.progress(manifest.id).ended
            surplus -= self._inbox.drop_body(manifest.id) if ended else 0
            all_before = all_before and ended
            self._bodies = manifest.id if all_before else self._bodies
        while surplus > 0 and self._first < needed_from:
            surplus -= self._corpus.drop(self._first)
            self._first += 1
        return wanted - surplus
