"""Token ids → the text that they stand for, laid out so that it can be searched: case folded, as UTF-8.

A token that is part of a character has no text of its own. It is decoded with those after it until whole characters come out, and
each of these tokens is where all of their text is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

_UNKNOWN = "\ufffd"
_LONGEST = 16  # tokens of such a run: a character has at most four bytes, but a token may end one and begin the next
_MOST_RUNS = 1 << 18  # that are remembered; parts of characters in others stay what they are, U+FFFD


class Spelled(NamedTuple):
    """The text of n tokens, uint8 `[bytes]`, and int64 `[n]` where that of each begins and ends."""

    text: np.ndarray
    begins: np.ndarray
    ends: np.ndarray


class TokenTexts:
    """The texts of one tokenizer, each decoded once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._of_token = np.empty(0, np.int64)  # token id → number of its text, −1 while unknown
        self._of_run: dict[tuple[int, ...], int] = {}  # −1: no whole characters
        self._texts: list[bytes] = [b""]
        self._partial = [False]
        self._table = np.empty(0, np.uint8), np.zeros(1, np.int64), np.zeros(1, bool)  # all texts, the length of each, partial

    def spell(self, tokens: np.ndarray, windows: np.ndarray) -> Spelled:
        """Lay out the texts of tokens one behind the other.

        Args:
            tokens: int `[n]`, ids.
            windows: int `[n]`, ascending, the window of each: no character reaches from one into the next.
        """
        self._learn(tokens)
        numbers = self._of_token[tokens]
        runs = []
        for first, end in _stretches(self._table[2][numbers], windows):
            for length, number in self._runs(tokens[first:end].tolist()):
                if number >= 0:
                    runs.append((first, first + length))
                    numbers[first], numbers[first + 1 : first + length] = number, 0
                first += length
        text, lengths, _ = self._refreshed()
        starts = np.cumsum(lengths) - lengths
        ends = np.cumsum(lengths[numbers])
        begins = ends - lengths[numbers]
        laid = text[np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts[numbers] - begins, lengths[numbers])]
        for first, end in runs:
            begins[first:end], ends[first:end] = begins[first], ends[first]
        return Spelled(laid, begins, ends)

    def _learn(self, tokens: np.ndarray) -> None:
        """Decode those that were not met before."""
        known = np.full(max(len(self._of_token), int(tokens.max(initial=-1)) + 1), -1, np.int64)
        known[: len(self._of_token)] = self._of_token
        self._of_token = known
        fresh = np.unique(tokens)
        fresh = fresh[known[fresh] < 0]
        texts = self._tokenizer.decode_batch([[token] for token in fresh.tolist()], skip_special_tokens=False)
        known[fresh] = len(self._texts) + np.arange(len(fresh))
        self._texts += [folded(text) for text in texts]
        self._partial += [_UNKNOWN in text for text in texts]
        self._refreshed()

    def _refreshed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if len(self._table[1]) != len(self._texts):
            lengths = np.array([len(text) for text in self._texts], np.int64)
            self._table = np.frombuffer(b"".join(self._texts), np.uint8), lengths, np.array(self._partial)
        return self._table

    def _runs(self, tokens: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Tokens that are all parts of characters, cut where a whole one ends: how many, and the number of their text; one token
        and −1 where none comes."""
        first = 0
        while first < len(tokens):
            ends = range(first + 2, min(first + _LONGEST, len(tokens)) + 1)
            found = next(((end, number) for end in ends if (number := self._run(tuple(tokens[first:end]))) >= 0), (first + 1, -1))
            yield found[0] - first, found[1]
            first = found[0]

    def _run(self, tokens: tuple[int, ...]) -> int:
        """The number of the text of some tokens together; −1 where it still has a part of a character."""
        known = self._of_run.get(tokens)
        if known is not None or len(self._of_run) >= _MOST_RUNS:
            return -1 if known is None else known
        text = self._tokenizer.decode(list(tokens), skip_special_tokens=False)
        number = -1 if _UNKNOWN in text else len(self._texts)
        if number >= 0:
            self._texts.append(folded(text))
            self._partial.append(False)
        self._of_run[tokens] = number
        return number


def folded(text: str) -> bytes:
    """A text as it is compared: without case, character by character, so that a text is the sum of its parts."""
    return text.casefold().encode("utf-8", "replace")


def _stretches(partial: np.ndarray, windows: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and end of each stretch of partial tokens in one window."""
    at = np.flatnonzero(partial)
    if not len(at):
        return
    breaks = np.flatnonzero((np.diff(at) > 1) | (np.diff(windows[at]) != 0)) + 1
    for stretch in np.split(at, breaks):
        yield int(stretch[0]), int(stretch[-1]) + 1
