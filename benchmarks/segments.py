"""A stream of synthetic activations as the state takes it in: segments of documents, micro-batch by micro-batch."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.activations import tokens_of
from engine.corpus.segment import Piece
from engine.counts.clusters import SegmentClusters
from engine.counts.state import State
from engine.encoder.batch import SparseBatch
from kernels import Csr

DOCUMENT_TOKENS = 512


class StreamSegment(NamedTuple):
    """Micro-batches, the pieces of documents in them, and the position of each piece's first token."""

    batches: list[SparseBatch]
    pieces: list[Piece]
    positions: list[int]


def sparse_batch(layers: Sequence[Csr], position: int) -> SparseBatch:
    """A batch of whole documents of 512 tokens (the last may be shorter), whose first token has this position in the log."""
    tokens, first = layers[0].tokens, position // DOCUMENT_TOKENS
    lengths = np.full(-(-tokens // DOCUMENT_TOKENS), DOCUMENT_TOKENS)
    lengths[-1] -= -tokens % DOCUMENT_TOKENS
    pieces = [
        Piece("stream", "stream", first + at, None, (first + at) % 2, 0, length, True) for at, length in enumerate(lengths.tolist())
    ]
    owner = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    return SparseBatch(tuple(layers), np.arange(position, position + tokens), owner, tuple(pieces))


def segment(layers: Sequence[Csr], first: int, tokens: int, micro_batch: int) -> StreamSegment:
    """Tokens `first` to `first + tokens` of a stream; 512 divides `micro_batch`, which divides `tokens`."""
    starts = range(first, first + tokens, micro_batch)
    batches = [sparse_batch([tokens_of(layer, start, micro_batch) for layer in layers], start) for start in starts]
    pieces = [piece for batch in batches for piece in batch.documents]
    return StreamSegment(batches, pieces, [piece.number * DOCUMENT_TOKENS for piece in pieces])


def count(state: State, whole: StreamSegment) -> list[SegmentClusters]:
    """Count a segment and end it."""
    for batch in whole.batches:
        state.add(batch)
    return state.end_segment(*whole)
