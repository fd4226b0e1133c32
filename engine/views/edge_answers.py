"""The answers about edges, the listed pairs of features of a whole snapshot: their distribution, and the most certain ones."""

from __future__ import annotations

from typing import Literal

import msgspec

from engine.views.answers import SnapshotAnswer
from engine.views.relation_answers import LinkAnswer, ListsAnswer


class BestPartnersAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a layer pair.

    Attributes:
        layer: which layer; live: its features that ever fired.
        counts: per bin, features whose best partner has such a value; without: live features that have no listed partner for which
            the measure is defined. Together they are `live`.
        median: of the best partners' values; null if there are none.
        undecided: features whose best partner may be one that is not listed; null where nothing can be said.
    """

    layer: int
    live: int
    counts: list[int]
    without: int
    median: float | None
    undecided: int | None


class HistogramAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One measure of one layer pair: upstream features by their best downstream partner, and downstream features by their best
    upstream one. `bins` are B + 1 edges for B counts; a bin holds its lower edge, the last one both."""

    measure: str
    pair: tuple[int, int]
    bins: list[float]
    up: BestPartnersAnswer
    down: BestPartnersAnswer


class HistogramsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Histograms by measure, then by layer pair; `measures` are those that this run has."""

    measures: list[str]
    min_support: int
    lists: ListsAnswer
    total: int
    items: list[HistogramAnswer]
    next: str | None
    snapshot: SnapshotAnswer


class EdgeAnswer(LinkAnswer, frozen=True, kw_only=True):
    """A watched pair with its interval, as `EstimateAnswer` describes it."""

    lower: float
    upper: float
    interval_estimate: float
    counted_from: int
    status: Literal["ok"]
    method: Literal["anytime"]
    documents: int
    effective_documents: float


class EdgesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Pairs that are published and watched, by the lower bound of a measure; `watched` are there, `total` of them have an interval
    of it."""

    measure: str
    pair: tuple[int, int] | None
    watched: int
    total: int
    items: list[EdgeAnswer]
    next: str | None
    snapshot: SnapshotAnswer
