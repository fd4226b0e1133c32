"""Lists that are read page by page: the first page fixes what the following ones show."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import msgspec

from engine.errors import BadInput, Gone
from engine.views.answers import SnapshotAnswer, snapshot_answer
from engine.views.records import Snapshot

KEPT_SECONDS = 300.0
"""How long a list stays after a page of it was last read."""

MOST_ITEMS = 10_000
"""Items of a list that are kept for paging; further ones are counted in `total` only."""

_KEPT_LISTS = 32  # at 10,000 items of 1 kB each some 300 MB at the very most

_CURSOR = re.compile(r"([0-9a-f]{24})-(\d{1,9})", re.ASCII)


Item = TypeVar("Item")


class Page(msgspec.Struct, frozen=True):
    """Which part of a list: at most `limit` items, those after `cursor`."""

    limit: int = 100
    cursor: str | None = None


class Made(Sequence[Item]):
    """Items that are made when a page shows them, from columns that are kept: most of 10,000 are never looked at."""

    def __init__(self, size: int, make: Callable[[int], Item]) -> None:
        self._size = min(size, MOST_ITEMS)
        self._make = make

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, at: int) -> Item: ...
    @overload
    def __getitem__(self, at: slice) -> list[Item]: ...
    def __getitem__(self, at: int | slice) -> Item | list[Item]:
        places = range(self._size)[at]
        return [self._make(place) for place in places] if isinstance(places, range) else self._make(places)


@dataclass
class _Kept:
    request: Any
    snapshot: Snapshot
    answer: Any
    items: Sequence[Any]
    used: float


class Lists:
    """The lists of the last questions, each with all its items."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def page(self, request: Any, page: Page, snapshot: Snapshot | None, make: Callable[[], tuple[Any, Sequence[Any]]]) -> Any:
        """A page of the answer.

        Args:
            request: the question, a struct without the page.
            page: which part; without a cursor the first one, from `snapshot`.
            snapshot: the newest one that was read; None: the running state, which is another one at every call.
            make: computes the answer without items, and the items; not called when this snapshot was asked the same before.

        Raises:
            BadInput: a cursor that is none, or of another question. Gone: a cursor whose list is not kept any more.
        """
        self._forget()
        if page.cursor is None:
            key, start = secrets.token_hex(12) if snapshot is None else _key(request, snapshot), 0
            if key not in self._kept:
                answer, items = make()
                if snapshot is None and len(items) <= page.limit:  # nobody will ask for more of it
                    return msgspec.structs.replace(answer, items=items[:])
                of = snapshot or _running(answer.snapshot)
                self._kept[key] = _Kept(request, of, answer, items, self._clock())
        else:
            key, start = self._place(request, page.cursor)
        kept = self._kept[key]
        kept.used = self._clock()
        self._kept.move_to_end(key)
        while len(self._kept) > _KEPT_LISTS:
            self._kept.popitem(last=False)
        end = start + page.limit
        shown = {"snapshot": snapshot_answer(kept.snapshot)}
        if kept.answer.items is not None:
            shown |= {"items": kept.items[start:end], "next": f"{key}-{end}" if end < len(kept.items) else None}
        return msgspec.structs.replace(kept.answer, **shown)

    def _place(self, request: Any, cursor: str) -> tuple[str, int]:
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


def _running(state: SnapshotAnswer) -> Snapshot:
    """The running state as it is now, to be told the age of later."""
    return Snapshot(version=state.version, tokens=state.tokens, published_at=time.time())


def _key(request: Any, snapshot: Snapshot) -> str:
    packed = msgspec.msgpack.encode((snapshot.version, request))
    return hashlib.blake2b(packed, digest_size=12).hexdigest()
