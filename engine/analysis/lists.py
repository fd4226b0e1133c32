"""Lists that are read page by page: the first page fixes what the following ones show."""

from __future__ import annotations

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from engine.errors import BadInput, Gone
from engine.views.answers import snapshot_answer
from engine.views.records import Snapshot
from engine.views.relations import Page, RelationRequest

KEPT_SECONDS = 300.0
"""How long a list stays after a page of it was last read."""

_KEPT_LISTS = 32  # at 10,000 items of 1 kB each some 300 MB at the very most

_CURSOR = re.compile(r"([0-9a-f]{24})-(\d{1,9})", re.ASCII)


@dataclass
class _Kept:
    request: RelationRequest
    snapshot: Snapshot
    answer: Any
    items: list[Any]
    used: float


class Lists:
    """The lists of the last questions, each with all its items."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def page(self, request: RelationRequest, page: Page, snapshot: Snapshot, make: Callable[[], tuple[Any, list[Any]]]) -> Any:
        """A page of the answer; all of it where it is no list.

        Args:
            request: the question.
            page: which part; without a cursor the first one, from `snapshot`.
            snapshot: the newest one that was read.
            make: computes the answer without items, and the items; not called when this snapshot was asked the same before.

        Raises:
            BadInput: a cursor that is none, or of another question. Gone: a cursor whose list is not kept any more.
        """
        self._forget()
        if page.cursor is None:
            key, start = _key(request, snapshot), 0
            if key not in self._kept:
                answer, items = make()
                self._kept[key] = _Kept(request, snapshot, answer, items, self._clock())
        else:
            key, start = self._place(request, page.cursor)
        kept = self._kept[key]
        kept.used = self._clock()
        self._kept.move_to_end(key)
        while len(self._kept) > _KEPT_LISTS:
            self._kept.popitem(last=False)
        end = start + page.limit
        shown = {"snapshot": snapshot_answer(kept.snapshot)}
        if getattr(kept.answer, "items", None) is not None:
            shown |= {"items": kept.items[start:end], "next": f"{key}-{end}" if end < len(kept.items) else None}
        return msgspec.structs.replace(kept.answer, **shown)

    def _place(self, request: RelationRequest, cursor: str) -> tuple[str, int]:
        match = _CURSOR.fullmatch(cursor)
        if match is None:
            raise BadInput(f"cursor = {cursor!r}: it must be the `next` of the page before")
        kept = self._kept.get(match[1])
        if kept is None:
            raise Gone(
                f"the list of this cursor is not kept any more (it is for {KEPT_SECONDS:.0f} s): begin again without a cursor"
            )
        if kept.request != request:
            raise BadInput("cursor: it belongs to another question; send the same parameters as for the page before")
        return match[1], int(match[2])

    def _forget(self) -> None:
        now = self._clock()
        for key in [key for key, kept in self._kept.items() if now - kept.used > KEPT_SECONDS]:
            del self._kept[key]


def _key(request: RelationRequest, snapshot: Snapshot) -> str:
    packed = msgspec.msgpack.encode((snapshot.version, request))
    return hashlib.blake2b(packed, digest_size=12).hexdigest()
