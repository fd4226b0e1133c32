"""Answers about single corpora, two corpora side by side, and pairs that were asked for by name: structs of the HTTP contract."""

from __future__ import annotations

from typing import Literal

import msgspec

from engine.views.answers import SnapshotAnswer


class RatioAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A measure over the documents of one corpus; where one is longer than 4,096 tokens each such part of it counts as one.

    Attributes:
        estimate: null exactly when it is not defined; then `reason` says why.
        lower, upper: valid however often they are read, at the level of the answer; null while `insufficient`.
        count, of: numerator and denominator in tokens; null for Pearson.
        tokens: what it covers.
        documents: those that say something of it; effective_documents: as many of equal weight would say as much.
        reason: why there is no estimate, or no interval.
    """

    estimate: float | None
    lower: float | None
    upper: float | None
    status: Literal["ok", "insufficient"]
    count: int | None
    of: int | None
    tokens: int
    documents: int
    effective_documents: float | None
    reason: str | None = None


class DifferenceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """First minus second corpus; `lower` and `upper` are null while either has no interval, and `reason` says which."""

    estimate: float | None
    lower: float | None
    upper: float | None
    status: Literal["ok", "insufficient"]
    reason: str | None = None


class CorpusFeatureAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One feature in one corpus.

    Sums per corpus grow where segments of the log end, by the documents that have ended there: they cover `tokens`, and the newest
    text is not in them yet.

    Attributes:
        threshold: of this feature: it is active where its activation is above.
        tokens, documents: of the corpus, as far as the sums cover it; documents_active: those in which the feature was active.
        count: tokens at which it was active; density: its share of `tokens`, with its interval in `density_interval`.
        mean: over all tokens; mean_active: over those at which it was active, null when it never was or its threshold is not 0.
        reason: why there is nothing yet.
    """

    feature: str
    layer: int
    index: int
    hook: str
    corpus: str
    threshold: float
    tokens: int
    documents: int
    documents_active: int
    count: int
    density: float | None
    density_interval: RatioAnswer
    mean: float | None
    mean_active: float | None
    reason: str | None
    snapshot: SnapshotAnswer


class ComparedCorpus(msgspec.Struct, frozen=True, kw_only=True):
    """A corpus that is compared, and how much of it the sums cover."""

    name: str
    tokens: int
    documents: int


class FeatureDifference(msgspec.Struct, frozen=True, kw_only=True):
    """The density of a feature in two corpora."""

    feature: str
    a: RatioAnswer
    b: RatioAnswer
    difference: DifferenceAnswer


class CompareAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Features by how much their density differs between two corpora at least: the distance of the difference's interval from 0.

    Attributes:
        layer: whose features; null for those of all layers.
        alpha: how often any one of the intervals may ever miss, over all `family` features together.
        family: features compared.
        different: how many have an interval that does not hold 0.
        next: cursor of the following page, which is of the same ranking, whatever is counted meanwhile.
    """

    a: ComparedCorpus
    b: ComparedCorpus
    layer: int | None
    alpha: float
    family: int
    different: int
    items: list[FeatureDifference]
    next: str | None
    snapshot: SnapshotAnswer


class EdgeDifference(msgspec.Struct, frozen=True, kw_only=True):
    """A measure of a watched pair in two corpora, over the documents behind the place where it was chosen (`counted_from`)."""

    up: str
    down: str
    counted_from: int
    a: RatioAnswer
    b: RatioAnswer
    difference: DifferenceAnswer


class CompareEdgesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Watched pairs by how much a measure differs between two corpora at least; `alpha`, `family`, `different` and `next` as for
    features, with `family` the pairs that are watched."""

    a: ComparedCorpus
    b: ComparedCorpus
    up: int
    down: int
    measure: str
    alpha: float
    family: int
    different: int
    items: list[EdgeDifference]
    next: str | None
    snapshot: SnapshotAnswer


class PinAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request to watch pairs; all of it is on disk.

    Attributes:
        added: pairs that were not pinned before; known: those that were.
        pinned: all that are pinned now; limit: watched pairs at most, in equal shares for the layer pairs.
        counted_from: tokens counted before the first document that counts for the added ones (a pair that is watched already goes
            on from where it began); null when that is known only where the segment that is being counted ends, or none was added.
    """

    added: int
    known: int
    pinned: int
    limit: int
    counted_from: int | None
    snapshot: SnapshotAnswer


class PinnedPair(msgspec.Struct, frozen=True, kw_only=True):
    """A pair that was asked for by name.

    Attributes:
        status: waiting until the segment ends from which on it counts.
        counted_from: tokens counted before the first document that counts for it; null while that is not known.
        tokens: of the documents that count for it and have ended; documents: those of them in which either feature was active.
    """

    up: str
    down: str
    status: Literal["waiting", "counting"]
    counted_from: int | None
    tokens: int
    documents: int


class PinnedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the pinned pairs by upstream, then downstream feature; `next` is the cursor of the following page."""

    items: list[PinnedPair]
    pinned: int
    limit: int
    next: str | None
    snapshot: SnapshotAnswer
