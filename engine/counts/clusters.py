"""Clusters: the tokens of a segment by document, which is what intervals take to be independent.

A cluster is tokens [4096 p, 4096 (p + 1)) of a document. At the end of a segment its sparse batches, in whatever micro-batches they
came, are put in one order (cluster by cluster, tokens ascending) and handed to the parts of the state that sum over clusters:

    batches of a segment, its pieces ──▶ per corpus: clusters, and the runs of every layer (`kernels.cpu.moments`)

A cluster that goes on in another segment, before or after, is *carried*: its sums over this segment are given out by themselves,
and a part adds them up until the cluster has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.counts.shape import RunShape
from kernels import BlockMasks, Blocks, FeatureTotals, Runs, block_masks, cut_blocks, feature_totals, make_runs
from kernels.cpu.threads import run_each

if TYPE_CHECKING:
    from engine.corpus.segment import Piece
    from engine.encoder.batch import SparseBatch

CLUSTER_TOKENS = 4096


class ClusterKey(NamedTuple):
    """Names a cluster in the whole log: the upload, the document's number in it, and the part p of the document."""

    upload: str
    document: int
    part: int


@dataclass
class Cluster:
    """One cluster as far as it lies in one segment.

    Attributes:
        first_position: in the log, of its first token here.
        begins, ends: whether it begins, and ends, in this segment.
        half: of the documents, 0 or 1.
        tokens: how many of its tokens are counted here.
    """

    first_position: int
    begins: bool
    ends: bool
    half: int
    tokens: int = 0

    @property
    def carried(self) -> bool:
        """Whether it goes on in another segment."""
        return not (self.begins and self.ends)


class LayerClusters(NamedTuple):
    """One layer of a segment by cluster."""

    runs: Runs
    totals: FeatureTotals
    """Over the clusters that are not carried."""
    masks: BlockMasks
    entries: tuple[np.ndarray, np.ndarray, np.ndarray]
    """The activations as they came: offsets int64 `[T + 1]`, features int32 and values float32 `[nnz]`; `order` has their rows."""


@dataclass(frozen=True)
class SegmentClusters:
    """The clusters of one corpus in one segment.

    Attributes:
        corpus: its name.
        keys, clusters: the C clusters in the order of the log.
        lengths: float64 `[C]`, counted tokens of each.
        row: int32 `[C]`, −1, or for a carried cluster its row among those.
        tokens: counted tokens of all of them.
        halves: uint8 `[C]`, of each.
        blocks: the tokens cut into blocks, cluster by cluster.
        order: int64 `[tokens]`, for each token in the order of the clusters its row in `LayerClusters.entries`.
        layers: one per layer of the run.
    """

    corpus: str
    keys: tuple[ClusterKey, ...]
    clusters: tuple[Cluster, ...]
    lengths: np.ndarray
    row: np.ndarray
    tokens: int
    halves: np.ndarray
    blocks: Blocks
    order: np.ndarray
    layers: tuple[LayerClusters, ...]

    @property
    def carried(self) -> list[tuple[ClusterKey, Cluster]]:
        """The carried clusters, in the order of their rows."""
        return [(key, cluster) for key, cluster in zip(self.keys, self.clusters, strict=True) if cluster.carried]

    @property
    def whole(self) -> np.ndarray:
        """float64: the lengths of the clusters that lie in this segment from beginning to end, and hold a counted token."""
        return self.lengths[(self.row < 0) & (self.lengths > 0)]


def cluster_segment(
    batches: Sequence[SparseBatch], pieces: Sequence[Piece], positions: Sequence[int], shape: RunShape
) -> list[SegmentClusters]:
    """The clusters of a segment, corpus by corpus in the order of the names.

    Args:
        batches: everything of the segment that was counted.
        pieces: the pieces of the segment, and with them the documents that it holds.
        positions: position in the log of each piece's first token.
        shape: of the run.
    """
    found: dict[str, dict[ClusterKey, Cluster]] = {}
    for piece, position in zip(pieces, positions, strict=True):
        end = piece.start + piece.tokens
        for part in range(piece.start // CLUSTER_TOKENS, -(-end // CLUSTER_TOKENS)):
            key, first = ClusterKey(piece.upload, piece.number, part), part * CLUSTER_TOKENS
            ends = piece.last or end >= first + CLUSTER_TOKENS
            here = found.setdefault(piece.corpus, {}).setdefault(
                key, Cluster(position + max(0, first - piece.start), piece.start <= first, ends, piece.half)
            )
            here.ends |= ends
    tokens = _Tokens.of(batches, pieces, positions, len(shape.dictionaries))
    return [_cluster_corpus(corpus, found[corpus], tokens, shape) for corpus in sorted(found)]


@dataclass(frozen=True)
class _Tokens:
    """All counted tokens of a segment: activations per layer as one Csr, and the piece and the document's offset of each."""

    layers: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]
    positions: np.ndarray
    keys: list[ClusterKey]  # of the clusters that occur
    corpora: list[str]  # of each of them
    cluster: np.ndarray  # int64 [T], index into keys

    @classmethod
    def of(cls, batches: Sequence[SparseBatch], pieces: Sequence[Piece], positions: Sequence[int], layers: int) -> _Tokens:
        joined = tuple(
            _joined([tuple(part.cpu().numpy() for part in batch.layers[layer]) for batch in batches]) for layer in range(layers)
        )
        place = np.concatenate([np.empty(0, np.int64), *(batch.positions for batch in batches)])
        order = np.argsort(positions, kind="stable")
        firsts = np.asarray(positions, np.int64)[order]
        # An empty piece has the position of the next one: of equal positions the last is the one with tokens, after a stable sort.
        piece = order[np.searchsorted(firsts, place, side="right") - 1] if len(place) else np.empty(0, np.int64)
        starts = np.array([one.start for one in pieces], np.int64)
        part = (starts[piece] + place - np.asarray(positions, np.int64)[piece]) // CLUSTER_TOKENS
        # One number per token, not a row of two: `np.unique` of rows takes ten times as long.
        parts = int(part.max(initial=0)) + 1
        found, cluster = np.unique(piece * parts + part, return_inverse=True)
        pairs = [divmod(number, parts) for number in found.tolist()]
        keys = [ClusterKey(pieces[at].upload, pieces[at].number, number) for at, number in pairs]
        return cls(joined, place, keys, [pieces[at].corpus for at, _ in pairs], cluster)


def _joined(parts: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    lengths = np.concatenate([np.empty(0, np.int64), *(np.diff(offsets) for offsets, _, _ in parts)])
    features = np.concatenate([np.empty(0, np.int32), *(features for _, features, _ in parts)])
    values = np.concatenate([np.empty(0, np.float32), *(values for _, _, values in parts)])
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]), features, values


def _cluster_corpus(corpus: str, found: dict[ClusterKey, Cluster], tokens: _Tokens, shape: RunShape) -> SegmentClusters:
    keys = tuple(found)
    index = {key: at for at, key in enumerate(keys)}
    to_corpus = np.array([index[key] if name == corpus else -1 for key, name in zip(tokens.keys, tokens.corpora, strict=True)])
    cluster = to_corpus[tokens.cluster] if len(tokens.cluster) else np.empty(0, np.int64)
    mine = np.flatnonzero(cluster >= 0)
    order = mine[np.lexsort((tokens.positions[mine], cluster[mine]))]
    cluster_of = cluster[order].astype(np.int32)
    lengths = np.bincount(cluster_of, minlength=len(keys)).astype(np.float64)
    for key, length in zip(keys, lengths.tolist(), strict=True):
        found[key].tokens = int(length)
    blocks = cut_blocks(lengths.astype(np.int64))
    halves = np.array([found[key].half for key in keys], np.uint8)
    carried = np.array([found[key].carried for key in keys], bool)
    row = np.where(carried, np.cumsum(carried) - 1, -1).astype(np.int32)

    def layer(at: int) -> LayerClusters:
        threshold = shape.thresholds[at]
        limits = None if threshold is None else threshold.cpu().numpy()
        runs = make_runs(order, cluster_of, *tokens.layers[at], limits, shape.dictionaries[at])
        return LayerClusters(runs, feature_totals(runs, lengths, row), block_masks(runs, blocks), tokens.layers[at])

    layers = run_each([partial(layer, at) for at in range(len(shape.dictionaries))])
    clusters = tuple(found.values())
    return SegmentClusters(corpus, keys, clusters, lengths, row, len(order), halves, blocks, order, tuple(layers))
