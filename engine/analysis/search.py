"""Features by a text in their contexts: an index of the windows around features' strongest activations.

1. Built when somebody searches and the snapshot is another one: the windows that hold the snapshot's contexts are read from the
   sealed segments of the log, and their texts laid out one behind the other (2 MB on the demo). Building takes at most 5 % of a
   core, as reading snapshots does; in between searches are answered from the index that is here, which names its snapshot.
2. A search finds all places of a text (some milliseconds), and the contexts whose part of a window holds one.

At most `MOST_CONTEXTS` contexts are held, those that are strongest of their features first.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from engine.analysis.context_lists import ContextLists
from engine.analysis.snapshot import Whole
from engine.analysis.token_texts import Spelled, TokenTexts, folded
from engine.corpus.token_windows import SealedWindows, TokenWindows
from engine.encoder.description import RunDescription
from engine.encoder.tokenizer_file import TOKENIZER
from engine.errors import Conflict, DamagedFile, NotReady
from engine.views.answers import name, snapshot_answer
from engine.views.contexts import SIDE_TOKENS
from engine.views.records import Snapshot
from engine.views.relations import MOST_ITEMS
from engine.views.search_answers import SearchAnswer, SearchItemAnswer, SearchRequest

log = logging.getLogger(__name__)

MOST_CONTEXTS = 1 << 19
"""Of at most 129 tokens, some 500 bytes, each: 300 MB where no two are in one window. GPT-2 small has 295,000 features."""

_NOWHERE = np.iinfo(np.int64).max


class Places(NamedTuple):
    """Where C contexts are in a text, int64 `[C]` each: where it begins and ends, and where its strongest token does; −1 where its
    text is not there."""

    begin: np.ndarray
    end: np.ndarray
    peak_begin: np.ndarray
    peak_end: np.ndarray


@dataclass(frozen=True)
class TextIndex:
    """The contexts of a snapshot with their text.

    Attributes:
        snapshot: whose contexts.
        feature: int64 `[C]`, of each context, features numbered over all layers; value: float32 `[C]`, its activation.
        places: in `text`, uint8, of all windows that hold a context.
        counts: int64, active tokens of each feature; sizes: of the dictionaries.
        per_feature: contexts of each feature, at most.
    """

    snapshot: Snapshot
    feature: np.ndarray
    value: np.ndarray
    places: Places
    text: np.ndarray
    counts: np.ndarray
    sizes: Sequence[int]
    per_feature: int

    @classmethod
    def of(
        cls,
        snapshot: Snapshot,
        run: RunDescription,
        contexts: Sequence[ContextLists],
        counts: np.ndarray,
        windows: SealedWindows,
        texts: TokenTexts,
    ) -> TextIndex:
        """Read and spell what holds the contexts of a snapshot, with the active counts of all features (int64, layer by layer)."""
        rows = np.concatenate([layer.rows for layer in contexts])
        lengths = np.concatenate([layer.lengths for layer in contexts])
        feature = np.repeat(np.arange(len(lengths)), lengths)
        rank = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        held = np.cumsum(np.bincount(rank, minlength=1))  # contexts with at most so many of a feature
        per_feature = max(1, int(np.searchsorted(held, MOST_CONTEXTS, side="right")))
        kept = np.flatnonzero(rank < per_feature)[:MOST_CONTEXTS]
        counted = run.fingerprint.get("special tokens") == "counted"
        special = np.array([] if counted else run.special_ids, np.int64)
        places, text = _read(rows["position"][kept], windows, texts, special)
        there = places.begin >= 0
        return cls(
            snapshot=snapshot,
            feature=feature[kept][there],
            value=rows["value"][kept][there],
            places=Places(*(column[there] for column in places)),
            text=text,
            counts=counts,
            sizes=run.dictionaries,
            per_feature=per_feature,
        )

    def find(self, request: SearchRequest) -> tuple[SearchAnswer, list[SearchItemAnswer]]:
        """Features with a context that holds a text; see `SearchAnswer`."""
        needle = folded(request.q)
        places = np.append(occurrences(self.text, needle), _NOWHERE - len(needle))
        begin, end, peak_begin, peak_end = self.places

        def holds(after: np.ndarray, before: np.ndarray) -> np.ndarray:
            """bool `[C]`: one begins at `after` or behind it, and before `before`, and ends within the context."""
            first = places[np.searchsorted(places, after)]
            return (first < before) & (first + len(needle) <= end)

        found = holds(begin, end)
        peak = holds(np.maximum(begin, peak_begin - len(needle) + 1), peak_end)
        features = len(self.counts)
        contexts, at_peak = (np.bincount(self.feature[which], minlength=features) for which in (found, peak))
        strongest = np.zeros(features, np.float32)
        np.maximum.at(strongest, self.feature[found], self.value[found])
        chosen = np.flatnonzero(contexts)
        order = chosen[np.lexsort((chosen, -strongest[chosen], -contexts[chosen], -at_peak[chosen]))][:MOST_ITEMS]
        layer = np.searchsorted(np.cumsum(self.sizes), order, side="right")
        index = order - (np.cumsum(self.sizes) - self.sizes)[layer]
        tokens = self.snapshot.tokens
        columns = (layer, index, contexts[order], at_peak[order], strongest[order], self.counts[order])
        items = [
            SearchItemAnswer(
                feature=name((layer, index)),
                layer=layer,
                index=index,
                contexts=found,
                at_peak=peaks,
                activation=activation,
                density=count / tokens if tokens else None,
            )
            for layer, index, found, peaks, activation, count in zip(*(column.tolist() for column in columns), strict=True)
        ]
        answer = SearchAnswer(
            q=request.q,
            searched=len(self.feature),
            per_feature=self.per_feature,
            total=len(chosen),
            items=[],
            next=None,
            snapshot=snapshot_answer(self.snapshot),
        )
        return answer, items


class Searches:
    """The index of one run, built anew when it is needed and may be."""

    def __init__(self, data_dir: Path, pause: float, factor: float) -> None:
        """The run's folder; between two builds lie at least `pause` seconds, and `factor` times the CPU seconds of the first."""
        self._data_dir = data_dir
        self._pause, self._factor = pause, factor
        self._windows = SealedWindows(data_dir / "log")
        self._texts: TokenTexts | None = None
        self._index: TextIndex | None = None
        self._next = 0.0

    def index(self, whole: Whole) -> TextIndex:
        """The index of a snapshot, or the one before it while the pause lasts.

        Raises:
            Conflict: a run without a model. NotReady: the engine has not laid down its tokenizer.
        """
        here = self._index
        if here is not None and (here.snapshot.version == whole.snapshot.version or time.monotonic() < self._next):
            return here
        began, worked = time.monotonic(), time.process_time()
        counts = np.concatenate([layer.count for layer in whole.graph.layers])
        texts = self._known(whole.run)
        self._index = TextIndex.of(whole.snapshot, whole.run, whole.contexts, counts, self._windows, texts)
        self._next = time.monotonic() + max(self._pause, self._factor * (time.process_time() - worked))
        found = len(self._index.feature), self._index.text.nbytes
        log.info("%d contexts, %d bytes of text, laid out in %.2f s", *found, time.monotonic() - began)
        return self._index

    def _known(self, run: RunDescription) -> TokenTexts:
        if not run.model:
            raise Conflict("this run has no model, activations are pushed to it (--dictionary): there is no text to search")
        if self._texts is None:
            path = self._data_dir / TOKENIZER
            if not path.exists():
                raise NotReady("the engine has not laid down its tokenizer yet")
            self._texts = TokenTexts(Tokenizer.from_file(str(path)))
        return self._texts


def occurrences(text: np.ndarray, needle: bytes) -> np.ndarray:
    """int64, ascending: every place of `text` (uint8) at which these bytes begin, those that overlap too."""
    if len(text) < len(needle):
        return np.empty(0, np.int64)
    starts = len(text) - len(needle) + 1
    wanted = np.frombuffer(needle, np.uint8)
    sample = np.bincount(text[:: max(1, len(text) >> 16)], minlength=256)  # rare bytes first leave little to compare
    order = np.argsort(sample[wanted], kind="stable").tolist()
    found = np.flatnonzero(text[order[0] : order[0] + starts] == wanted[order[0]])
    for at in order[1:]:
        found = found[text[found + at] == wanted[at]]
    return found


def _read(positions: np.ndarray, windows: SealedWindows, texts: TokenTexts, special: np.ndarray) -> tuple[Places, np.ndarray]:
    """The text of all windows that hold some positions of the log, int64 `[C]`, and where the contexts around these are in it.

    `special`: ids that are left out of contexts.
    """
    places = Places(*(np.full(len(positions), -1, np.int64) for _ in Places._fields))
    parts, length = [np.empty(0, np.uint8)], 0
    order = np.argsort(positions, kind="stable")
    for segment, chosen in _segments(positions, order, windows):
        spelled, at = _spell(segment, positions[chosen], texts, special)
        for column, found in zip(places, at, strict=True):
            column[chosen] = np.where(found >= 0, found + length, -1)
        parts.append(spelled.text)
        length += len(spelled.text)
    return places, np.concatenate(parts)


def _segments(positions: np.ndarray, order: np.ndarray, windows: SealedWindows) -> Iterator[tuple[TokenWindows, np.ndarray]]:
    """Segments that hold positions, each with which ones; those that can't be read, or hold no text, are left out."""
    while len(order):
        first = int(positions[order[0]])
        try:
            number = windows.segment_of(first)
            if number is None:
                log.warning("%d contexts from position %d on have no text: the log ends before", len(order), first)
                return
            here, order = np.split(order, [int(np.searchsorted(positions[order], windows.end(number)))])
        except DamagedFile as error:
            log.warning("%d contexts from position %d on have no text: %s", len(order), first, error.message)
            return
        try:
            segment = windows.read(number)
        except (FileNotFoundError, DamagedFile) as error:
            log.warning("%d contexts have no text: %s", len(here), error)
            continue
        if segment is not None:
            yield segment, here


def _spell(segment: TokenWindows, positions: np.ndarray, texts: TokenTexts, special: np.ndarray) -> tuple[Spelled, Places]:
    """The windows of a segment that hold some positions, and where contexts are in their text."""
    at = positions - segment.first_position
    window = np.searchsorted(segment.offsets, at, side="right") - 1
    windows = np.unique(window)
    firsts, lengths = segment.offsets[windows].astype(np.int64), np.diff(segment.offsets)[windows].astype(np.int64)
    rows = np.arange(lengths.sum()) + np.repeat(firsts - (np.cumsum(lengths) - lengths), lengths)
    owner = np.repeat(windows, lengths)
    shown = ~np.isin(segment.tokens[rows], special)
    rows, owner = rows[shown], owner[shown]
    spelled = texts.spell(segment.tokens[rows], owner)
    row = np.minimum(np.searchsorted(rows, at), len(rows) - 1)
    there = rows[row] == at
    first = np.maximum(np.searchsorted(owner, window, side="left"), row - SIDE_TOKENS)
    last = np.minimum(np.searchsorted(owner, window, side="right"), row + SIDE_TOKENS + 1) - 1
    found = (spelled.begins[first], spelled.ends[last], spelled.begins[row], spelled.ends[row])
    return spelled, Places(*(np.where(there, column, -1) for column in found))
