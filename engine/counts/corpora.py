"""Corpora: the marginals of a layer for every corpus by itself, with what their intervals need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from engine.counts.clusters import ClusterKey, SegmentClusters
from engine.counts.part import FramedPart, Place
from engine.counts.shape import RunShape

if TYPE_CHECKING:
    from engine.encoder.batch import SparseBatch
    from engine.encoder.encoded import SetAside


@dataclass(eq=False)
class CorpusSums:
    """Sums over the clusters of one corpus; n, Σa, Σa² are those of a feature in a cluster of T tokens.

    Attributes:
        clusters: int64 `[3]`, how many hold a counted token, Σ T and Σ T².
        count, with_tokens, squares, documents: int64 `[D]`, Σ n, Σ n·T, Σ n², and the clusters with n > 0.
        sum, sum_of_squares: float64 `[D]`, over all activations.
    """

    clusters: np.ndarray
    count: np.ndarray
    with_tokens: np.ndarray
    squares: np.ndarray
    documents: np.ndarray
    sum: np.ndarray
    sum_of_squares: np.ndarray

    @classmethod
    def zero(cls, features: int) -> Self:
        """Of a corpus that nothing was counted of."""
        count, with_tokens, squares, documents = np.zeros((4, features), np.int64)
        return cls(np.zeros(3, np.int64), count, with_tokens, squares, documents, np.zeros(features), np.zeros(features))

    def add(self, other: CorpusSums) -> None:
        """Add sums over other clusters."""
        for field in fields(self):
            getattr(self, field.name)[:] += getattr(other, field.name)

    def add_cluster(self, tokens: int, sums: np.ndarray) -> None:
        """Add one cluster: its tokens, and float64 `[D, 3]` of n, Σa, Σa² per feature."""
        count = sums[:, 0].astype(np.int64)
        self.clusters += (tokens > 0, tokens, tokens * tokens)
        self.count += count
        self.with_tokens += count * tokens
        self.squares += count * count
        self.documents += count > 0
        self.sum += sums[:, 1]
        self.sum_of_squares += sums[:, 2]


@dataclass(eq=False)
class OpenCluster:
    """A cluster that has not ended: its corpus, log position of its first token, its tokens, and float64 `[D, 3]` sums so far."""

    corpus: str
    first_position: int
    tokens: int
    sums: np.ndarray


class CorpusMarginals(FramedPart):
    """Per corpus the sums over its clusters, and the clusters that go on in segments to come.

    Attributes:
        corpora: name → sums over the clusters that have ended.
        open: the others.
    """

    kind = "corpora"

    def __init__(self, shape: RunShape, place: Place) -> None:
        self.shape, self.place = shape, place
        self.corpora: dict[str, CorpusSums] = {}
        self.open: dict[ClusterKey, OpenCluster] = {}

    @classmethod
    def places(cls, shape: RunShape) -> Sequence[Place]:
        return [(layer,) for layer in range(len(shape.dictionaries))]

    @classmethod
    def bytes_at(cls, shape: RunShape, place: Place) -> int:
        return shape.dictionaries[place[0]] * 6 * 8  # for the first corpus

    @classmethod
    def zero(cls, shape: RunShape, place: Place) -> Self:
        return cls(shape, place)

    def add(self, batch: SparseBatch, set_aside: Sequence[SetAside] = ()) -> None:
        return  # clusters are counted where segments end

    def end_segment(self, segment: Sequence[SegmentClusters]) -> None:
        (layer,) = self.place
        for part in segment:
            runs, totals = part.layers[layer].runs, part.layers[layer].totals
            sums = self._sums(part.corpus)
            whole = part.whole.astype(np.int64)
            sums.clusters += (len(whole), whole.sum(), whole @ whole)
            sums.count += totals.sums[:, 0].astype(np.int64)
            sums.with_tokens += totals.with_tokens[:, 0].astype(np.int64)
            sums.squares += totals.squares[:, 0, 0].astype(np.int64)
            sums.documents += totals.documents[:, 0]
            sums.sum += totals.sums[:, 1]
            sums.sum_of_squares += totals.sums[:, 2]
            for row, (key, cluster) in enumerate(part.carried):
                self._carry(part.corpus, key, cluster.first_position, cluster.tokens, runs.dense(part.row == row))
                if cluster.ends:
                    ended = self.open.pop(key)
                    sums.add_cluster(ended.tokens, ended.sums)

    def merge(self, other: Self) -> None:
        for corpus, sums in other.corpora.items():
            self._sums(corpus).add(sums)
        for key, cluster in other.open.items():
            self._carry(cluster.corpus, key, cluster.first_position, cluster.tokens, cluster.sums)

    def _sums(self, corpus: str) -> CorpusSums:
        if corpus not in self.corpora:
            self.corpora[corpus] = CorpusSums.zero(self.shape.dictionaries[self.place[0]])
        return self.corpora[corpus]

    def _carry(self, corpus: str, key: ClusterKey, first_position: int, tokens: int, sums: np.ndarray) -> None:
        if key not in self.open:
            self.open[key] = OpenCluster(corpus, first_position, 0, np.zeros_like(sums))
        cluster = self.open[key]
        cluster.first_position = min(cluster.first_position, first_position)
        cluster.tokens += tokens
        cluster.sums += sums

    def arrays(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        corpora, keys = sorted(self.corpora), sorted(self.open)
        features = self.shape.dictionaries[self.place[0]]
        arrays = {
            field.name: np.stack([getattr(self.corpora[corpus], field.name) for corpus in corpora])
            for field in fields(CorpusSums)
            if corpora
        }
        opened = [self.open[key] for key in keys]
        arrays["open"] = np.array([cluster.sums for cluster in opened]).reshape(len(keys), features, 3)
        clusters = [
            [*key, cluster.corpus, cluster.first_position, cluster.tokens] for key, cluster in zip(keys, opened, strict=True)
        ]
        return {"corpora": corpora, "clusters": clusters}, arrays

    @classmethod
    def from_arrays(cls, shape: RunShape, place: Place, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        part = cls(shape, place)
        for at, corpus in enumerate(header["corpora"]):
            part.corpora[corpus] = CorpusSums(*(np.array(arrays[field.name][at]) for field in fields(CorpusSums)))
        for (upload, document, number, corpus, first_position, tokens), sums in zip(
            header["clusters"], arrays["open"], strict=True
        ):
            part.open[ClusterKey(upload, document, number)] = OpenCluster(corpus, first_position, tokens, np.array(sums))
        return part
