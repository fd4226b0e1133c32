"""Pushed activations with planted gates of every kind, in documents of 64 tokens: blocks of 16 wherever segments end."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from engine.corpus.segment import Piece
from engine.counts.clusters import SegmentClusters
from engine.counts.state import State
from engine.encoder.batch import SparseBatch
from engine.views.gate_choices import choose_gates
from tests.service import pack_frame, sparse
from tests.views_rig import as_batch

SIZES = (12, 9, 6)
PAIRS = ((0, 1), (1, 2))
TOKENS, DOCUMENTS = 64, 480
SEGMENT = 2_048
"""Tokens of a segment: whole documents."""

PLANTED = {
    (1, 0): ("and", ("0:0", "0:1")),
    (1, 1): ("or", ("0:2", "0:3")),
    (1, 2): ("and_not", ("0:4", "0:5")),
    (1, 3): ("k_of_n", ("0:7", "0:8", "0:9")),
    (2, 0): ("and", ("1:1", "1:5")),
}
"""Child → kind and parents. 1:4 copies 0:6, 1:6 never fires, 1:7 fires on three tokens, and the rest are noise."""


def planted(seed: int = 0) -> list[np.ndarray]:
    """float32 `[DOCUMENTS · TOKENS, D]` per layer; features come and go by document, and one label in fifty is wrong."""
    rng = np.random.default_rng(seed)
    tokens = DOCUMENTS * TOKENS
    layers = []
    for size, rate in zip(SIZES, (0.25, 0.2, 0.15), strict=True):
        there = np.repeat(rng.random((DOCUMENTS, size)) < 0.8, TOKENS, axis=0)
        layers.append(there & (rng.random((tokens, size)) < rate))
    up, middle, last = layers
    middle[:, 0] = up[:, 0] & up[:, 1]
    middle[:, 1] = up[:, 2] | up[:, 3]
    middle[:, 2] = up[:, 4] & ~up[:, 5]
    middle[:, 3] = up[:, [7, 8, 9]].sum(axis=1) >= 2
    middle[:, 4] = up[:, 6]
    middle[:, :5] ^= rng.random((tokens, 5)) < 0.02 * middle[:, :5]
    middle[:, 6] = False
    middle[:, 7] = False
    middle[[100, 9_000, 20_000], 7] = True
    last[:, 0] = middle[:, 1] & middle[:, 5]
    return [(layer * rng.gamma(2.0, 1.0, layer.shape)).astype(np.float32) + 0.01 * layer.astype(np.float32) for layer in layers]


def frames(dense: list[np.ndarray], first: int = 0, end: int = DOCUMENTS) -> bytes:
    """The body of `POST /v1/activations` with these documents."""
    parts = [slice(at * TOKENS, (at + 1) * TOKENS) for at in range(first, end)]
    return b"".join(pack_frame(f"document {first + at}", [sparse(layer[part]) for layer in dense]) for at, part in enumerate(parts))


def segments(dense: list[np.ndarray]) -> Iterator[tuple[SparseBatch, list[Piece], list[int]]]:
    """Segments as the engine would count them: batch, pieces, positions."""
    for first in range(0, len(dense[0]), SEGMENT):
        batch = as_batch([layer[first : first + SEGMENT] for layer in dense], first)
        numbers = range(first // TOKENS, first // TOKENS + batch.tokens // TOKENS)
        pieces = [Piece("upload", "corpus", number, None, number % 2, 0, TOKENS, True) for number in numbers]
        owners = np.repeat(np.arange(len(pieces), dtype=np.int32), TOKENS)
        yield SparseBatch(batch.layers, batch.positions, owners, tuple(pieces)), pieces, [number * TOKENS for number in numbers]


def count(state: State, segment: tuple[SparseBatch, list[Piece], list[int]], place: int) -> tuple[int, list[SegmentClusters]]:
    """Count a segment, and choose where the engine chooses; the new place, and the segment's clusters."""
    batch, pieces, positions = segment
    state.add(batch)
    clusters = state.end_segment([batch], pieces, positions)
    now = (state.tokens**4).bit_length() - 1
    if now > place:
        choose_gates(state, clusters, positions[-1] + TOKENS)
    return max(now, place), clusters
