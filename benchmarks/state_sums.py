"""The streams of `benchmarks.streams` through the real state: what is put to the test is what a run of the engine does.

    batch, pair by pair ──▶ two layers, token by token (Csr) ──▶ segments ──▶ micro-batches ──▶ State.add
                                                                     └──────────────────────▶ State.end_segment ──▶ Watched

Pair p is feature p of layer 0 and feature p of layer 1. Segments and micro-batches end at any token, as in the log, so documents
are cut; documents take turns in two halves and are of two corpora.
"""

from __future__ import annotations

import numba
import numpy as np
import torch

from benchmarks.streams import Batch
from engine.corpus.segment import Piece
from engine.counts.state import State
from engine.encoder.batch import SparseBatch
from engine.measures.moments import Moments
from kernels import Csr

LAYERS = (0, 1)
UPLOAD, CORPORA = "stream", ("odd", "even")
SEGMENT_TOKENS, MICRO_BATCH_TOKENS = 65_536, 4_096  # a segment of the engine by default, and about a micro-batch of the demo


class StateSums:
    """An `Accumulator`: moments of the watched pairs of a `State`.

    Attributes:
        state: of one layer pair.
    """

    def __init__(
        self,
        pairs: int,
        pinned: bool = True,
        *,
        segment_tokens: int = SEGMENT_TOKENS,
        micro_batch_tokens: int = MICRO_BATCH_TOKENS,
    ) -> None:
        """Nothing counted yet.

        Args:
            pairs: P.
            pinned: watch all of them from the first token on; else none before `choose`.
            segment_tokens, micro_batch_tokens: at most so many tokens each; a segment ends where a batch of documents does, too.
        """
        self.state = State.zero((pairs, pairs), [LAYERS])
        self._features = np.arange(pairs, dtype=np.int32)
        self._segment_tokens, self._micro_batch_tokens = segment_tokens, micro_batch_tokens
        self._documents = self._tokens = 0
        if pinned:
            self.state.watched[LAYERS].pin(self._features, self._features, position=0, tokens=0)

    def add(self, batch: Batch) -> None:
        """Count some whole documents: at least one segment."""
        ends = np.cumsum(batch.lengths)
        tokens = int(batch.lengths.sum())
        fires = batch.fires.reshape(-1)
        place = np.repeat(np.tile(ends - batch.lengths, len(batch.fires)), fires) + batch.positions()
        feature = np.repeat(self._features, batch.fires.sum(axis=1))
        layers = tuple(_layer(place, feature, values, tokens) for values in (batch.a, batch.b))
        for start in range(0, tokens, self._segment_tokens):
            self._segment(layers, ends, start, min(start + self._segment_tokens, tokens))
        self._documents += len(ends)
        self._tokens += tokens

    def choose(self, pairs: np.ndarray) -> None:
        """Watch these, int `[n]`, from this place on, as the engine does at the end of a segment."""
        chosen = self._features[pairs]
        watched = self.state.watched[LAYERS]
        watched.choose(chosen, chosen, position=self._tokens, tokens=self.state.tokens, limit=len(watched) + len(chosen))

    def moments(self) -> Moments:
        """Of all P pairs, over what was added since each is watched."""
        watched = self.state.watched[LAYERS]
        found = watched.moments().at(watched.find(self._features, self._features))
        return Moments(found.sums, found.squares, found.documents)

    def _segment(self, layers: tuple[Csr, ...], ends: np.ndarray, start: int, stop: int) -> None:
        """Count tokens [start, stop) of a batch whose documents end at `ends`, as a segment."""
        first, last = np.searchsorted(ends, [start, stop - 1], side="right").tolist()
        pieces = []
        for at in range(first, last + 1):
            number, begin = self._documents + at, int(ends[at - 1]) if at else 0
            here = slice(max(begin, start), min(int(ends[at]), stop))
            corpus, half = CORPORA[number % 2], number // 2 % 2
            done = int(ends[at]) <= stop
            pieces.append(Piece(UPLOAD, corpus, number, None, half, here.start - begin, here.stop - here.start, done))
        batches = []
        for here in range(start, stop, self._micro_batch_tokens):
            places = np.arange(here, min(here + self._micro_batch_tokens, stop))
            piece = np.searchsorted(ends, places, side="right") - first
            part = tuple(_rows(layer, here, here + len(places)) for layer in layers)
            occurring = tuple(pieces[piece[0] : piece[-1] + 1])
            batches.append(SparseBatch(part, self._tokens + places, (piece - piece[0]).astype(np.int32), occurring))
        for batch in batches:
            self.state.add(batch)
        firsts = np.concatenate([[start], ends[first:last]])
        self.state.end_segment(batches, pieces, (self._tokens + firsts).tolist())


def _layer(place: np.ndarray, feature: np.ndarray, values: np.ndarray, tokens: int) -> Csr:
    """Entries in the order of their features as a Csr of so many tokens; one whose value is 0 is none."""
    offsets = np.zeros(tokens + 1, np.int32)
    count = int(np.count_nonzero(values))
    features, moved = np.empty(count, np.int32), np.empty(count, np.float32)
    _by_token(place, feature, values, offsets, features, moved)
    return Csr(torch.from_numpy(offsets), torch.from_numpy(features), torch.from_numpy(moved))


@numba.njit(cache=True)
def _by_token(place, feature, values, offsets, features, moved):
    for entry in range(len(place)):
        if values[entry] != 0:
            offsets[place[entry] + 1] += 1
    for token in range(len(offsets) - 1):
        offsets[token + 1] += offsets[token]
    filled = offsets[:-1].copy()
    for entry in range(len(place)):
        if values[entry] != 0:
            slot = filled[place[entry]]
            filled[place[entry]] = slot + 1
            features[slot], moved[slot] = feature[entry], values[entry]


def _rows(layer: Csr, start: int, stop: int) -> Csr:
    offsets = layer.offsets[start : stop + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    return Csr(offsets - first, layer.features[first:last], layer.values[first:last])
