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


class StreamSegment(NamedTuple):
    """Micro-batches, the pieces of documents in them, and the position of each piece's first token."""

    batches: list[SparseBatch]
    pieces: list[Piece]
    positions: list[int]


def segment(layers: Sequence[Csr], first: int, tokens: int, micro_batch: int, document: int = 512) -> StreamSegment:
    """Tokens `first` to `first + tokens` of a stream, in documents of one length, which divides `micro_batch`, which divides
    `tokens`."""
    number = first // document
    pieces = [Piece("stream", "stream", number + at, None, at % 2, 0, document, True) for at in range(tokens // document)]
    owner = np.repeat(np.arange(micro_batch // document, dtype=np.int32), document)
    batches = []
    for start in range(0, tokens, micro_batch):
        parts = tuple(tokens_of(layer, first + start, micro_batch) for layer in layers)
        of = slice(start // document, (start + micro_batch) // document)
        batches.append(SparseBatch(parts, np.arange(first + start, first + start + micro_batch), owner, tuple(pieces[of])))
    return StreamSegment(batches, pieces, [first + at * document for at in range(len(pieces))])


def count(state: State, whole: StreamSegment) -> list[SegmentClusters]:
    """Count a segment and end it."""
    for batch in whole.batches:
        state.add(batch)
    return state.end_segment(*whole)
