"""Watched: the pairs of a layer pair whose intervals are kept, with their sums and second moments over clusters.

A pair is watched from a place in the log on, and only clusters that begin behind it count: what was chosen for looking good on some
data is not judged by the same data. `engine.views.watch` makes the choices; here they are only kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from engine.counts.clusters import ClusterKey, SegmentClusters
from engine.counts.part import FramedPart, Place
from engine.counts.shape import RunShape
from kernels import add_pairs

if TYPE_CHECKING:
    from engine.encoder.batch import SparseBatch
    from engine.encoder.encoded import SetAside

SUMS, SQUARES, DOCUMENTS = 9, 45, 4
IDLE_CHOICES = 4
"""Choices that a pair may miss before it is no longer watched: lists flicker, and a pair that comes back would start at 0."""

_UPPER = np.triu_indices(SUMS)


@dataclass(eq=False)
class PairMoments:
    """Sums over clusters of P pairs; s = (T, n_i, n_j, n_ij, Σa, Σb, Σa², Σb², Σab) of a cluster.

    Attributes:
        sums: float64 `[P, 9]`, Σ s.
        squares: float64 `[P, 45]`, Σ s sᵀ, upper triangle row by row.
        documents: int64 `[P, 4]`, clusters with n_i > 0, with n_j > 0, with either, and those in which either fires at all.
    """

    sums: np.ndarray
    squares: np.ndarray
    documents: np.ndarray

    @classmethod
    def zero(cls, pairs: int) -> Self:
        """Of pairs that nothing was counted of."""
        return cls(np.zeros((pairs, SUMS)), np.zeros((pairs, SQUARES)), np.zeros((pairs, DOCUMENTS), np.int64))

    def add(self, other: PairMoments, rows: np.ndarray | slice = slice(None)) -> None:
        """Add those of other clusters to some rows."""
        self.sums[rows] += other.sums
        self.squares[rows] += other.squares
        self.documents[rows] += other.documents

    def add_cluster(self, sums: np.ndarray, rows: np.ndarray) -> None:
        """Add one cluster, float64 `[P, 9]`, to the rows of a mask."""
        chosen = sums[rows]
        self.sums[rows] += chosen
        self.squares[rows] += chosen[:, _UPPER[0]] * chosen[:, _UPPER[1]]
        up, down, fires = chosen[:, 1] > 0, chosen[:, 2] > 0, (chosen[:, 6] > 0) | (chosen[:, 7] > 0)
        self.documents[rows] += np.stack([up, down, up | down, fires], axis=1)

    def at(self, rows: np.ndarray) -> PairMoments:
        """Some of the pairs; a row of −1 is one of which nothing was counted."""
        found = PairMoments(self.sums[rows], self.squares[rows], self.documents[rows])
        for array in (found.sums, found.squares, found.documents):
            array[rows < 0] = 0
        return found


@dataclass(eq=False)
class OpenPairs:
    """A cluster that has not ended: its corpus, the log position of its first token, and float64 `[P, 9]` sums so far."""

    corpus: str
    first_position: int
    sums: np.ndarray


class Watched(FramedPart):
    """The watched pairs of one layer pair, sorted by upstream, then downstream feature.

    Attributes:
        up, down: int32 `[P]`.
        since: int64 `[P]`, clusters count whose first token is at this position of the log or behind it.
        counted_from: int64 `[P]`, the tokens that were counted when the pair was chosen.
        pinned: bool `[P]`, asked for by name: never dropped.
        idle: int64 `[P]`, choices since the pair was last among the chosen.
        corpora: name → moments over the clusters that have ended.
        open: the clusters that have not.
    """

    kind = "watched"

    def __init__(self, shape: RunShape, place: Place) -> None:
        self.shape, self.place = shape, place
        self.up, self.down = np.empty(0, np.int32), np.empty(0, np.int32)
        self.since, self.counted_from = np.empty(0, np.int64), np.empty(0, np.int64)
        self.pinned, self.idle = np.empty(0, bool), np.empty(0, np.int64)
        self.corpora: dict[str, PairMoments] = {}
        self.open: dict[ClusterKey, OpenPairs] = {}

    @classmethod
    def places(cls, shape: RunShape) -> Sequence[Place]:
        return shape.pairs

    @classmethod
    def bytes_at(cls, shape: RunShape, place: Place) -> int:
        return 0

    @classmethod
    def zero(cls, shape: RunShape, place: Place) -> Self:
        return cls(shape, place)

    def __len__(self) -> int:
        return len(self.up)

    @property
    def ids(self) -> np.ndarray:
        """int64 `[P]`, ascending: up · Dd + down."""
        return self._ids(self.up, self.down)

    def find(self, up: np.ndarray, down: np.ndarray) -> np.ndarray:
        """int64: the row of each pair, −1 for one that is not watched."""
        ids, wanted = self.ids, self._ids(np.asarray(up), np.asarray(down))
        rows = np.searchsorted(ids, wanted)
        found = (rows < len(ids)) & (np.append(ids, -1)[rows] == wanted)
        return np.where(found, rows, -1)

    def moments(self, corpus: str | None = None, rows: np.ndarray | slice = slice(None)) -> PairMoments:
        """Of one corpus, or of all of them; of all pairs, or of some rows."""
        total = PairMoments.zero(len(self.up[rows]))
        for name in sorted(self.corpora):
            if corpus is None or name == corpus:
                total.add(self.corpora[name].at(np.arange(len(self))[rows]))
        return total

    def choose(self, up: np.ndarray, down: np.ndarray, *, position: int, tokens: int, limit: int) -> None:
        """Watch these pairs, and go on with those of before that are pinned or were chosen lately.

        Args:
            up, down: int32 `[n]`, most wanted first, each pair once.
            position: in the log, of the first token behind this place.
            tokens: counted up to here.
            limit: how many pairs at most; those that are watched already come before new ones, pins before all.
        """
        wanted, ids = self._ids(up, down), self.ids
        self.idle = np.where(np.isin(ids, wanted), 0, self.idle + 1)
        room = max(0, limit - int(self.pinned.sum()))
        loose = np.flatnonzero(~self.pinned & (self.idle < IDLE_CHOICES))
        loose = loose[np.argsort(self.idle[loose], kind="stable")][:room]
        kept = ids[np.concatenate([np.flatnonzero(self.pinned), loose])]
        fresh = wanted[~np.isin(wanted, kept)][: room - len(loose)]
        self._watch(kept, fresh, position, tokens)

    def pin(self, up: np.ndarray, down: np.ndarray, *, position: int, tokens: int) -> None:
        """Watch these pairs (int32 `[n]`) for good; those that are watched already go on as they are. The rest as in `choose`."""
        pins = np.unique(self._ids(up, down))
        self._watch(self.ids, pins[~np.isin(pins, self.ids)], position, tokens)
        self.pinned |= np.isin(self.ids, pins)

    def _watch(self, kept: np.ndarray, fresh: np.ndarray, position: int, tokens: int) -> None:
        """Watch exactly these (ids, two disjoint sets)."""
        before = self.ids
        ids = np.sort(np.concatenate([kept, fresh]))
        rows = np.searchsorted(before, ids)
        rows = np.where(np.append(before, -1)[rows] == ids, rows, -1)
        self.up, self.down = (part.astype(np.int32) for part in np.divmod(ids, self._width))
        self.since = np.where(rows >= 0, np.append(self.since, 0)[rows], position)
        self.counted_from = np.where(rows >= 0, np.append(self.counted_from, 0)[rows], tokens)
        self.pinned = np.where(rows >= 0, np.append(self.pinned, False)[rows], False)
        self.idle = np.where(rows >= 0, np.append(self.idle, 0)[rows], 0)
        if len(before):
            self.corpora = {name: moments.at(rows) for name, moments in self.corpora.items()}
        else:
            self.corpora = {name: PairMoments.zero(len(ids)) for name in self.corpora}
        for cluster in self.open.values():
            cluster.sums = np.where(rows[:, None] >= 0, np.vstack([cluster.sums, np.zeros((1, SUMS))])[rows], 0.0)

    def add(self, batch: SparseBatch, set_aside: Sequence[SetAside] = ()) -> None:
        return  # clusters are counted where segments end

    def end_segment(self, segment: Sequence[SegmentClusters]) -> None:
        up, down = self.place
        for part in segment:
            moments = self._moments(part.corpus)
            upstream, downstream = part.layers[up], part.layers[down]
            carried = add_pairs(
                upstream.runs,
                downstream.runs,
                upstream.totals,
                downstream.totals,
                self.up,
                self.down,
                part.lengths,
                part.row,
                part.tokens,
                moments.sums,
                moments.squares,
                moments.documents,
            )
            for sums, (key, cluster) in zip(carried, part.carried, strict=True):
                self._carry(part.corpus, key, cluster.first_position, sums)
                if cluster.ends:
                    ended = self.open.pop(key)
                    moments.add_cluster(ended.sums, self.since <= ended.first_position)

    def merge(self, other: Self) -> None:
        """Pairs of either are watched; of a pair that both watch the sums add up, and it is watched since the earlier place."""
        mine, theirs = self.ids, other.ids
        ids = np.union1d(mine, theirs)
        rows, their_rows = (np.searchsorted(ids, part) for part in (mine, theirs))
        both = np.intersect1d(mine, theirs)
        total = type(self)(self.shape, self.place)
        total.up, total.down = (part.astype(np.int32) for part in np.divmod(ids, self._width))
        for name, start, join in (
            ("since", np.iinfo(np.int64).max, np.minimum),
            ("counted_from", np.iinfo(np.int64).max, np.minimum),
            ("pinned", False, np.logical_or),
            ("idle", np.iinfo(np.int64).max, np.minimum),
        ):
            joined = np.full(len(ids), start, getattr(self, name).dtype)
            for part, at in ((self, rows), (other, their_rows)):
                joined[at] = join(joined[at], getattr(part, name))
            setattr(total, name, joined)
        assert len(both) == len(mine) + len(theirs) - len(ids)
        for part, at in ((self, rows), (other, their_rows)):
            for corpus, moments in part.corpora.items():
                total._moments(corpus).add(moments, at)
            for key, cluster in part.open.items():
                sums = np.zeros((len(ids), SUMS))
                sums[at] = cluster.sums
                total._carry(cluster.corpus, key, cluster.first_position, sums)
        vars(self).update(vars(total))

    @property
    def _width(self) -> int:
        return self.shape.dictionaries[self.place[1]]

    def _ids(self, up: np.ndarray, down: np.ndarray) -> np.ndarray:
        return up.astype(np.int64) * self._width + down

    def _moments(self, corpus: str) -> PairMoments:
        if corpus not in self.corpora:
            self.corpora[corpus] = PairMoments.zero(len(self))
        return self.corpora[corpus]

    def _carry(self, corpus: str, key: ClusterKey, first_position: int, sums: np.ndarray) -> None:
        if key not in self.open:
            self.open[key] = OpenPairs(corpus, first_position, np.zeros((len(self), SUMS)))
        cluster = self.open[key]
        cluster.first_position = min(cluster.first_position, first_position)
        cluster.sums += sums

    def arrays(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        corpora, keys = sorted(self.corpora), sorted(self.open)
        arrays = {name: getattr(self, name) for name in ("up", "down", "since", "counted_from", "pinned", "idle")}
        for at, corpus in enumerate(corpora):
            moments = self.corpora[corpus]
            arrays |= {f"sums-{at}": moments.sums, f"squares-{at}": moments.squares, f"documents-{at}": moments.documents}
        arrays["open"] = np.array([self.open[key].sums for key in keys]).reshape(len(keys), len(self), SUMS)
        clusters = [[*key, self.open[key].corpus, self.open[key].first_position] for key in keys]
        return {"corpora": corpora, "clusters": clusters}, arrays

    @classmethod
    def from_arrays(cls, shape: RunShape, place: Place, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        part = cls(shape, place)
        for name in ("up", "down", "since", "counted_from", "pinned", "idle"):
            setattr(part, name, np.array(arrays[name]))
        for at, corpus in enumerate(header["corpora"]):
            part.corpora[corpus] = PairMoments(*(np.array(arrays[f"{name}-{at}"]) for name in ("sums", "squares", "documents")))
        for (upload, document, number, corpus, first_position), sums in zip(header["clusters"], arrays["open"], strict=True):
            part.open[ClusterKey(upload, document, number)] = OpenPairs(corpus, first_position, np.array(sums))
        return part
