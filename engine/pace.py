"""How fast the engine is going, and how much it takes at a time."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from engine.errors import DoesNotFit

if TYPE_CHECKING:
    from engine.corpus.segment import Segment
    from engine.encoder.batch import SparseBatch
    from engine.encoder.encoded import Encoded

log = logging.getLogger(__name__)


class Rate:
    """Tokens per second over the last seconds of counting; 0 when nothing was counted in them."""

    def __init__(self, window_seconds: float = 5.0) -> None:
        self.window_seconds = window_seconds
        self._counted: deque[tuple[float, int]] = deque()

    def add(self, tokens: int) -> None:
        """`tokens` were counted just now."""
        self._counted.append((time.monotonic(), tokens))

    def per_second(self) -> float:
        """Tokens per second. The first entry only marks where the span begins: its tokens were earned before it."""
        now = time.monotonic()
        while self._counted and self._counted[0][0] < now - self.window_seconds:
            self._counted.popleft()
        if len(self._counted) < 2:
            return 0.0
        span = now - self._counted[0][0]
        return sum(tokens for _, tokens in list(self._counted)[1:]) / span


class MicroBatchSize:
    """How many tokens go through the device at once, so that it takes about `seconds`.

    Starts at `start` tokens and follows the measured speed by at most a factor of two a step; never under 64 tokens (a forward pass
    of fewer costs the same) and never over `most`, which bounds the dense SAE output: tokens × dictionary × 4 bytes a layer.
    """

    def __init__(self, seconds: float, most: int, start: int = 512) -> None:
        self.seconds = seconds
        self.most = max(64, most)
        self.tokens = min(start, self.most)
        self._elsewhere = 0.0  # seconds of the running micro-batch that were spent on something else
        self._again = False  # the running micro-batch did not fit the memory

    def encode(
        self,
        encode: Callable[[Segment, np.ndarray], Encoded],
        segment: Segment,
        which: slice = slice(None),
        make_room: Callable[[SparseBatch], None] | None = None,
    ) -> Iterator[tuple[np.ndarray, Encoded]]:
        """Units of a segment as `batches` gives them, and what they are encoded to. Where the GPU's memory is too small for some of
        them, they come again, at most half as many tokens at a time, and so does what follows.

        Args:
            encode: the encoder's.
            segment, which: as `batches` takes them.
            make_room: called with each batch before it is given: whatever needs memory to count it, and counts nothing yet.

        Raises:
            DoesNotFit: a single unit is too much.
        """
        for units in self.batches(segment, which):
            encoded = None
            try:
                encoded = encode(segment, units)
                if make_room is not None:
                    make_room(encoded.batch)
            except torch.cuda.OutOfMemoryError as error:
                encoded, self._again = None, True
                self._halve(segment.unit_tokens(units), str(error))
            if self._again:
                torch.cuda.empty_cache()  # not before the exception is gone, whose frames hold what was allocated
            elif encoded is not None:
                yield units, encoded

    def encode_first(
        self, encode: Callable[[Segment, np.ndarray], Encoded], segment: Segment, units: np.ndarray
    ) -> tuple[int, Encoded]:
        """Encode as many of the first of some units as fit, between two micro-batches: how many, and what they are encoded to.

        Raises:
            DoesNotFit: a single unit is too much.
        """
        while True:
            lengths = segment.unit_tokens(units)
            taken = self.fit(lengths)
            try:
                return taken, encode(segment, units[:taken])
            except torch.cuda.OutOfMemoryError as error:
                self._halve(lengths[:taken], str(error))
            torch.cuda.empty_cache()

    def _halve(self, unit_tokens: np.ndarray, reason: str) -> None:
        tokens = int(unit_tokens.sum())
        if len(unit_tokens) == 1:
            raise DoesNotFit(f"one window of {tokens} tokens needs more memory than the GPU has left: {reason}")
        self.most = self.tokens = max(1, tokens // 2)
        log.warning("%d tokens do not fit the GPU's memory at a time, from now on at most %d: %s", tokens, self.most, reason)

    def batches(self, segment: Segment, which: slice = slice(None)) -> Iterator[np.ndarray]:
        """Units of a segment, `which` of their fixed order, as many at a time as the measured speed allows."""
        left = segment.unit_order[which]
        lengths = segment.unit_tokens(left)
        first = 0
        while first < len(left):
            taken = self.fit(lengths[first:])
            began, self._elsewhere, self._again = time.monotonic(), 0.0, False
            yield left[first : first + taken]
            if self._again:
                continue
            self.took(int(lengths[first : first + taken].sum()), time.monotonic() - began - self._elsewhere)
            first += taken

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """What is done in here is no part of the micro-batch: prompts that are answered after each one must not make it smaller."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._elsewhere += time.monotonic() - began

    def fit(self, unit_tokens: np.ndarray) -> int:
        """How many of the next units fit: at least one.

        Args:
            unit_tokens: int `[U]`, tokens of each unit in the order in which they are taken.
        """
        return max(1, int(np.searchsorted(np.cumsum(unit_tokens), self.tokens, side="right")))

    def took(self, tokens: int, seconds: float) -> None:
        """The last micro-batch of `tokens` took `seconds`; a short one at a segment's end says nothing about a full one."""
        if seconds <= 0 or tokens < self.tokens // 2:
            return
        wanted = tokens * self.seconds / seconds
        self.tokens = int(min(self.most, max(64, min(2 * self.tokens, max(self.tokens / 2, wanted)))))
