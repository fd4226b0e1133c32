"""A set of document numbers that stays small: sorted, disjoint, non-touching ranges."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

import numpy as np


class DocumentSet:
    """Which documents of an upload were counted.

    A document can be listed by several batches (its windows are sorted by length, and micro-batches cut where time says), so a
    number counts once however often it is added; the union of two sets is exact in any order. Uploads are read front to back:
    what is complete is one range, whatever its size.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in ranges:
            self.add(start, end)

    def add(self, start: int, end: int | None = None) -> None:
        """Add one number, or the range `start <= number < end`."""
        stop = start + 1 if end is None else end
        if stop <= start:
            raise ValueError(f"a range of documents must hold at least one, got [{start}, {stop})")
        first = bisect_right(self._starts, start)
        if first and self._ends[first - 1] >= start:  # touches or overlaps the one before
            first -= 1
            start = self._starts[first]
            stop = max(stop, self._ends[first])
        last = first
        while last < len(self._starts) and self._starts[last] <= stop:
            stop = max(stop, self._ends[last])
            last += 1
        self._starts[first:last] = [start]
        self._ends[first:last] = [stop]

    def update(self, other: DocumentSet) -> None:
        """Add every number of another set."""
        for start, end in other.ranges():
            self.add(start, end)

    def ranges(self) -> Iterator[tuple[int, int]]:
        """The ranges (start, end), end not included, in order."""
        return zip(self._starts, self._ends, strict=True)

    def array(self) -> np.ndarray:
        """The ranges as int64 `[R, 2]`."""
        return np.array([self._starts, self._ends], dtype=np.int64).T

    def __len__(self) -> int:
        return sum(self._ends) - sum(self._starts)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._ends[at]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DocumentSet) and (self._starts, self._ends) == (other._starts, other._ends)

    def __repr__(self) -> str:
        return f"DocumentSet({list(self.ranges())})"
