"""Nominated gates of a layer pair: each with its parents, and what the documents after its nomination say of it.

`engine.views.gate_choices` nominates, from the gate tables; here a gate is only judged, by blocks and clusters of the segments that
come after (`kernels.score_gates`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from engine.counts.clusters import ClusterKey, SegmentClusters
from engine.counts.part import FramedPart, Place
from engine.counts.shape import RunShape
from kernels import Gates, GateTotals, score_gates

if TYPE_CHECKING:
    from engine.encoder.batch import SparseBatch
    from engine.encoder.encoded import SetAside

PLACES = 4
"""Gates of a child that are judged at a time."""

CARRIED = 6  # sums of a cluster, and whether it has a deciding token
_UPPER = np.triu_indices(5)
_COLUMNS = ("children", "number", "kinds", "parents", "best", "since", "counted_from", "tokens")


@dataclass(eq=False)
class OpenGates:
    """A cluster that has not ended: its half, the log position of its first token, and float64 `[G, 6]` sums so far."""

    half: int
    first_position: int
    sums: np.ndarray


class NominatedGates(FramedPart):
    """The gates of one layer pair, sorted by child, then by place.

    Attributes:
        children: int32 `[G]`; number: uint8 `[G]`, 0 to 3, a child's places.
        kinds: uint8 `[G]`; parents: int32 `[G, 3]`; best: int32 `[G]`, the best single parent. As in `kernels.Gates`.
        since: int64 `[G]`, clusters count whose first token is at this position of the log or behind it.
        counted_from: int64 `[G]`, the tokens that were counted when the gate was nominated.
        tokens: int64 `[G]`, tokens of the segments that have ended since: what the cells cover.
        totals: `kernels.GateTotals` of the G gates, sums over the clusters that have ended.
        open: the clusters that have not.
        nominations: int64 `[Dd]`, how many gates each child has been given so far.
    """

    kind = "gates"

    def __init__(self, shape: RunShape, place: Place) -> None:
        self.shape, self.place = shape, place
        self.children, self.number = np.empty(0, np.int32), np.empty(0, np.uint8)
        self.kinds, self.parents, self.best = np.empty(0, np.uint8), np.empty((0, 3), np.int32), np.empty(0, np.int32)
        self.since, self.counted_from, self.tokens = (np.empty(0, np.int64) for _ in range(3))
        self.totals = GateTotals.zero(0)
        self.open: dict[ClusterKey, OpenGates] = {}
        self.nominations = np.zeros(shape.dictionaries[place[1]], np.int64)

    @classmethod
    def places(cls, shape: RunShape) -> Sequence[Place]:
        return shape.pairs

    @classmethod
    def bytes_at(cls, shape: RunShape, place: Place) -> int:
        return shape.dictionaries[place[1]] * 8

    @classmethod
    def zero(cls, shape: RunShape, place: Place) -> Self:
        return cls(shape, place)

    def __len__(self) -> int:
        return len(self.children)

    def nominate(
        self,
        children: np.ndarray,
        number: np.ndarray,
        kinds: np.ndarray,
        parents: np.ndarray,
        best: np.ndarray,
        *,
        position: int,
        tokens: int,
    ) -> None:
        """Judge these gates from here on; one that is at the same place of a child is dropped with its evidence.

        Args:
            children, number, kinds, parents, best: `[n]`, as the attributes, each (child, number) once.
            position: of the next token in the log.
            tokens: counted so far.
        """
        stays = ~np.isin(self._names(self.children, self.number), self._names(children, number))
        fresh = np.full(len(children), -1)
        rows = np.concatenate([np.flatnonzero(stays), fresh])
        starts = (np.full(len(children), value) for value in (position, tokens, 0))
        new = (children, number, kinds, parents, best, *starts)
        columns = {
            name: np.concatenate([getattr(self, name)[stays], np.asarray(column).astype(getattr(self, name).dtype)])
            for name, column in zip(_COLUMNS, new, strict=True)
        }
        order = np.argsort(self._names(columns["children"], columns["number"]), kind="stable")
        for name, column in columns.items():
            setattr(self, name, np.ascontiguousarray(column[order]))
        self.totals = _at(self.totals, rows[order])
        for cluster in self.open.values():
            cluster.sums = _rows(cluster.sums, rows[order])
        np.add.at(self.nominations, children, 1)

    def add(self, batch: SparseBatch, set_aside: Sequence[SetAside] = ()) -> None:
        return  # blocks and clusters are counted where segments end

    def end_segment(self, segment: Sequence[SegmentClusters]) -> None:
        if not len(self):
            return
        up, down = self.place
        gates = Gates(self.kinds, self.parents, self.children, self.best)
        for part in segment:
            self.tokens += part.tokens
            layers = part.layers
            carried = score_gates(layers[up].masks, layers[down].masks, gates, part.blocks, part.halves, part.row, self.totals)
            for sums, (key, cluster) in zip(carried, part.carried, strict=True):
                self._carry(key, cluster.half, cluster.first_position, sums)
                if cluster.ends:
                    self._add_cluster(self.open.pop(key))

    def merge(self, other: Self) -> None:
        """Gates of either are judged on; of one that both judge, totals add up (the logarithms of e-values too: valid, and not what
        one pass has), from the earlier place. Of more than four gates of a child those with most evidence stay."""
        mine, theirs = self._identities(), other._identities()
        shared = np.isin(theirs, mine)
        at = {identity: row for row, identity in enumerate(mine.tolist())}
        rows = np.array([at[identity] for identity in theirs[shared].tolist()], np.int64)
        for total, more in zip(self.totals, other.totals, strict=True):
            total[rows] += more[shared]
        self.tokens[rows] += other.tokens[shared]
        for name in ("since", "counted_from"):
            getattr(self, name)[rows] = np.minimum(getattr(self, name)[rows], getattr(other, name)[shared])
        fresh = np.flatnonzero(~shared)
        size = len(self)
        for name in _COLUMNS:
            setattr(self, name, np.concatenate([getattr(self, name), getattr(other, name)[fresh]]))
        self.totals = GateTotals(
            *(np.concatenate([total, more[fresh]]) for total, more in zip(self.totals, other.totals, strict=True))
        )
        everything = np.concatenate([np.arange(size), np.full(len(fresh), -1)])
        for cluster in self.open.values():
            cluster.sums = _rows(cluster.sums, everything)
        of_other = np.empty(len(other), np.int64)
        of_other[shared], of_other[fresh] = rows, size + np.arange(len(fresh))
        for key, cluster in other.open.items():
            sums = np.zeros((len(self), CARRIED))
            sums[of_other] = cluster.sums
            self._carry(key, cluster.half, cluster.first_position, sums)
        twice = np.bincount(other.children[shared], minlength=len(self.nominations))
        self.nominations = self.nominations + other.nominations - twice
        self._keep_strongest()

    def _keep_strongest(self) -> None:
        """At most four gates of a child, those with the largest sum of log e-values; in order, and with the first places."""
        order = np.lexsort((-self.totals.log_e.sum(axis=1), self.children))
        child = self.children[order]
        kept = np.sort(order[np.arange(len(order)) - np.searchsorted(child, child) < PLACES])
        kept = kept[np.lexsort((kept, self.number[kept], self.children[kept]))]
        for name in _COLUMNS:
            setattr(self, name, np.ascontiguousarray(getattr(self, name)[kept]))
        self.totals = _at(self.totals, kept)
        for cluster in self.open.values():
            cluster.sums = cluster.sums[kept]
        self.number = (np.arange(len(self)) - np.searchsorted(self.children, self.children)).astype(np.uint8)

    @staticmethod
    def _names(children: np.ndarray, number: np.ndarray) -> np.ndarray:
        return children.astype(np.int64) * PLACES + number

    def _identities(self) -> np.ndarray:
        """One record per gate, equal for the same child, kind and parents."""
        columns = np.column_stack([self.children, self.kinds, self.parents]).astype(np.int32)
        return np.ascontiguousarray(columns).view(np.dtype((np.void, columns.shape[1] * 4))).reshape(-1)

    def _carry(self, key: ClusterKey, half: int, first_position: int, sums: np.ndarray) -> None:
        if key not in self.open:
            self.open[key] = OpenGates(half, first_position, np.zeros((len(self), CARRIED)))
        cluster = self.open[key]
        cluster.first_position = min(cluster.first_position, first_position)
        cluster.sums[:, :5] += sums[:, :5]
        cluster.sums[:, 5] = np.maximum(cluster.sums[:, 5], sums[:, 5])

    def _add_cluster(self, cluster: OpenGates) -> None:
        rows = self.since <= cluster.first_position
        x, deciding = cluster.sums[rows, :5], cluster.sums[rows, 5]
        self.totals.sums[rows, cluster.half] += x
        self.totals.squares[rows] += x[:, _UPPER[0]] * x[:, _UPPER[1]]
        self.totals.documents[rows] += (x > 0).any(axis=1)
        self.totals.deciding[rows] += deciding > 0

    def arrays(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        keys = sorted(self.open)
        arrays = {name: getattr(self, name) for name in (*_COLUMNS, "nominations")}
        arrays |= {f"totals-{name}": column for name, column in self.totals._asdict().items()}
        arrays["open"] = np.array([self.open[key].sums for key in keys]).reshape(len(keys), len(self), CARRIED)
        return {"clusters": [[*key, self.open[key].half, self.open[key].first_position] for key in keys]}, arrays

    @classmethod
    def from_arrays(cls, shape: RunShape, place: Place, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        part = cls(shape, place)
        for name in (*_COLUMNS, "nominations"):
            setattr(part, name, np.array(arrays[name]))
        part.totals = GateTotals(*(np.array(arrays[f"totals-{name}"]) for name in GateTotals._fields))
        for (upload, document, number, half, first_position), sums in zip(header["clusters"], arrays["open"], strict=True):
            part.open[ClusterKey(upload, document, number)] = OpenGates(half, first_position, np.array(sums))
        return part


def _rows(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The rows of an array, those of −1 zero."""
    found = np.zeros((len(rows), *array.shape[1:]), array.dtype)
    found[rows >= 0] = array[rows[rows >= 0]]
    return found


def _at(totals: GateTotals, rows: np.ndarray) -> GateTotals:
    return GateTotals(*(_rows(column, rows) for column in totals))
