"""So many at once, and no more: what is full says so at once, and nobody waits in a line that nobody sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import TooMany


class Slots:
    """Places for things of one kind, in one process."""

    def __init__(self, most: int, what: str) -> None:
        """`most` of `what`, which is a plural with a verb: "uploads arrive"."""
        self.most = most
        self.taken = 0
        self._what = what

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold a place as long as the context lasts.

        Raises:
            TooMany: all are taken.
        """
        if self.taken >= self.most:
            raise TooMany(f"{self.taken:,} {self._what} here already, and no more are taken at once: ask again in a moment")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
