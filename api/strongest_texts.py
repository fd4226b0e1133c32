"""The text around the strongest activation of features, kept while that activation is the strongest: the engine encodes a window
again for it, between two micro-batches, and answers some dozen such questions a second while it counts."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict

from engine.errors import NotReady, TooMany
from engine.views.reader import Views
from engine.views.records import FeatureRecord
from engine.views.requests import ContextAnswer

log = logging.getLogger(__name__)

MOST = 4_096
"""Texts that are kept, of some 5 kB each."""

KEPT_SECONDS = 60.0
"""Then it is asked for anew: a run within a disk quota drops its oldest text."""

# The engine looks for such requests after every micro-batch (at most 0.5 s) and takes them in turn, a window or a few (some 10 ms
# each) at a time: a feature's counts need not wait longer for its text.
_SECONDS = 3.0


class StrongestTexts:
    """Of one API process."""

    def __init__(self, views: Views) -> None:
        self._views = views
        self._kept: OrderedDict[tuple[int, int], tuple[float, ContextAnswer]] = OrderedDict()

    def forget(self) -> None:
        """Ask anew: what was written may have taken text away."""
        self._kept.clear()

    async def of(self, record: FeatureRecord) -> tuple[ContextAnswer | None, str | None, bool]:
        """The context of a feature's strongest activation, or why there is none, and whether that is more than passing trouble."""
        feature = record.layer, record.index
        name = f"{record.layer}:{record.index}"
        if record.max_position < 0:
            return None, f"feature {name} never fired", True
        kept = self._kept.get(feature)
        if kept is not None and kept[1].log_position == record.max_position and time.monotonic() < kept[0] + KEPT_SECONDS:
            self._kept.move_to_end(feature)
            return kept[1], None, True
        try:
            found = await self._views.contexts([feature], 1, _SECONDS)
        except (NotReady, TooMany) as error:
            log.info("no context for feature %s: %s", name, error.message)
            return None, error.message, False
        if not found.contexts:
            missing = found.missing[0].reason if found.missing else f"the engine has not counted feature {name} again yet"
            return None, missing, False
        context = found.contexts[0]
        if context.log_position != record.max_position:  # of what is counted by now, or again after a restart
            return context, None, False
        self._kept[feature] = time.monotonic(), context
        if len(self._kept) > MOST:
            self._kept.popitem(last=False)
        return context, None, True
