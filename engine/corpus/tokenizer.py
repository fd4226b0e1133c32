"""Text to token ids, piece by piece.

A 10 MB text encoded at once takes 1.6 GB. So a long text is cut into pieces of at most 64 Ki characters, each before a blank or a
line feed that follows a word, where the tokenizer ends a token in any case: the ids are the same as at once. Whether that holds is
the tokenizer's business, so the widest of three rules that a probe text confirms is taken:

1. before a blank or line feed after any other character (GPT-2 and its kin);
2. before a blank after any other character, or before a line feed after a letter or digit (newer pre-tokenizers join a full stop
   and the line feeds after it);
3. before a blank after a letter or digit.

Where no such place comes for 1 Mi characters (or the tokenizer fails the probe, as one that puts a mark in front of every text
does), the text is cut there without one. In every case the cuts depend on the text alone, and so do the ids.

User text is text: special tokens are not recognised in it (`<|endoftext|>` becomes `<`, `|`, …) and none are added.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from engine.errors import DoesNotFit

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads would take the cores from the forward pass

from tokenizers import Tokenizer

PIECE = 64 << 10
LONGEST = 1 << 20
_RULES = (re.compile(r"(?<=\S)[ \n]"), re.compile(r"(?<=\S) |(?<=[^\W_])\n"), re.compile(r"(?<=[^\W_]) "))
_PROBE = (
    "The quick brown-fox jumps over 12345 dogs.\n\nIt's done, isn't it?  Two  blanks,\ttab; \r\n a line \n  indented = f(x_1)[0]\n"
    "naïve café “quoted” – dash… 東京 は 大きい。\n  def f(self):\n        return 'a'\n\n\n\nEnd.) \n)\n1 234\n5 67 \u00a0x # no\n"
    "e\u0301 e \u0301 <a> 🙂 🙂\n"
)


class DocumentTokenizer:
    """The tokenizer of a model, for documents. Safe to use from several threads; encoding releases the GIL."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Args: tokenizer: a fast tokenizer (`transformers`: its `backend_tokenizer`); a copy is taken."""
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # that is: as the text they are
        self._rule = next((rule for rule in _RULES if self._confirms(rule)), None)

    @classmethod
    def from_file(cls, path: Path) -> DocumentTokenizer:
        """Read a `tokenizer.json`. Raises DoesNotFit for a file that is none."""
        try:
            return cls(Tokenizer.from_file(str(path)))
        except Exception as error:  # the library raises nothing narrower
            raise DoesNotFit(f"{path} is not a tokenizer.json that the tokenizers library reads") from error

    @property
    def vocab_size(self) -> int:
        """Ids are below this; added tokens included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> np.ndarray:
        """int32 ids of a whole text, however long. For a long one `encode_pieces` needs less memory at a time."""
        return np.concatenate([*self.encode_pieces(text), np.empty(0, np.int32)])

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int32 ids of each of some texts of at most `PIECE` characters."""
        return [np.array(encoding.ids, dtype=np.int32) for encoding in self._encode(texts)]

    def encode_pieces(self, text: str) -> Iterator[np.ndarray]:
        """Yield the int32 ids of a text in consecutive parts, each made when it is asked for."""
        start = 0
        while start < len(text):
            end = self._cut(text, start)
            yield self.encode_many([text[start:end]])[0]
            start = end

    def _encode(self, texts: Sequence[str]) -> list:
        return self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)

    def _cut(self, text: str, start: int) -> int:
        """The end of the piece that begins at `start`: the last place in its 64 Ki, or else the first after."""
        if len(text) - start <= PIECE:
            return len(text)
        limit = min(start + LONGEST, len(text))
        if self._rule is None:
            return limit
        # the pattern looks one character back and takes one: a place at `limit` needs the character there
        for low in range(start + PIECE, start, -256):
            places = [match.start() for match in self._rule.finditer(text, max(low - 256, start + 1), low + 1)]
            if places:
                return places[-1]
        following = self._rule.search(text, start + PIECE, limit)
        return following.start() if following else limit

    def _confirms(self, rule: re.Pattern[str]) -> bool:
        """Whether cutting a probe text at every place that the rule allows changes no id."""
        places = [0, *(match.start() for match in rule.finditer(_PROBE)), len(_PROBE)]
        whole = self._encode([_PROBE])[0].ids
        parts = self._encode([_PROBE[start:end] for start, end in itertools.pairwise(places)])
        return [token for part in parts for token in part.ids] == whole
