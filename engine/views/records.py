"""The records that a snapshot is made of, as MessagePack in Redis.

A record holds counts, never values of measures: every tick changes N, and with it lift, phi, mutual information and Pearson of
every pair. What depends on N is computed where a record is read (`engine.views.answers`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec
import numpy as np

from engine.views.figures import Figures

NEIGHBOR = np.dtype(
    [
        ("count", "<i8"),
        ("count_a", "<i8"),
        ("joint", "<i8"),
        ("joint_a", "<i8"),
        ("sum", "<f8"),
        ("sum_of_squares", "<f8"),
        ("product", "<f8"),
        ("index", "<i4"),
        ("decoder_cosine", "<f4"),
        ("effect", "<f4"),
        ("rate_effect", "<f4"),
    ]
)
"""One row of a neighbour table (72 bytes): index, active count (of all, and of half A) and sums of the neighbour, joint count (the
same) and Σab with the feature that the table belongs to, the cosine of their decoder directions (NaN in a run without a model), and
the design effects of the pair's ratios and of the neighbour's rate (NaN where unknown)."""

INTERVAL_MEASURES = ("jaccard", "sufficiency", "necessity", "pearson")

INTERVAL = np.dtype(
    [
        ("index", "<i4"),
        ("counted_from", "<i8"),
        ("estimate", "<f4", len(INTERVAL_MEASURES)),
        ("lower", "<f4", len(INTERVAL_MEASURES)),
        ("upper", "<f4", len(INTERVAL_MEASURES)),
        ("documents", "<i4", len(INTERVAL_MEASURES)),
        ("effective", "<f4", len(INTERVAL_MEASURES)),
    ]
)
"""The intervals of a neighbour that is watched (92 bytes), by `INTERVAL_MEASURES`: NaN where there are too few documents."""

CONTEXT = np.dtype([("position", "<i8"), ("value", "<f4")])
"""One of a feature's strongest activations (12 bytes): the position of its token in the log, and its value."""

CONTEXTS = 8
"""Contexts of a feature, at most: as many activations as the engine keeps of each, one per document (`engine.counts.strongest`)."""

DENSE_CELLS = 1 << 22
"""A layer pair of at most so many cells keeps all its cosines (16 MiB as float32; the demo's pairs have 2^20) and can be ranked by
them. At 24,576 × 24,576 they would be 2.4 GB a pair and 1 TFLOP."""

Direction = Literal["downstream", "upstream"]
DIRECTIONS: tuple[Direction, ...] = ("downstream", "upstream")


ORDER_DIGITS = 27
"""Length of `Version.order`, which stands before the packed record in the snapshot's key."""


class Version(NamedTuple):
    """The version of a snapshot. Versions order as pairs: a restarted engine counts its snapshots anew in a later epoch.

    `str(version)` is "{epoch}-{number}", also the id of the snapshot's event in the Redis stream.
    """

    epoch: int  # milliseconds since 1970 when the engine started
    number: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.number}"

    @property
    def order(self) -> str:
        """27 digits that compare as strings like versions do: Lua compares by the locale's collation, which keeps only digits in
        their order everywhere, and its numbers are exact to 2^53 only."""
        return f"{self.epoch:015d}{self.number:012d}"

    @classmethod
    def parse(cls, text: str) -> Version:
        """Inverse of `str`.

        Raises:
            ValueError: another form.
        """
        epoch, number = text.split("-")
        return cls(int(epoch), int(number))


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A published state: `tokens` counted in it, when it was published (Unix seconds), and the version before it.

    `previous` is None where nothing leads up to it: at an engine's first snapshot, and after Redis was wiped.
    """

    version: str
    tokens: int
    published_at: float
    previous: str | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What `Views.events` yields: a new snapshot, or `reset`, when it does not follow on the reader's last one."""

    kind: Literal["snapshot", "reset"]
    snapshot: Snapshot

    @property
    def id(self) -> str:
        """The id to resume after."""
        return self.snapshot.version


class NeighborTable(msgspec.Struct, frozen=True):
    """Neighbours of a feature in one layer, in the order of their indices.

    The union of the top `published_k` by every measure, among those with a joint count of at least `min_support`.

    Attributes:
        layer: the neighbours' layer; features: how many it has.
        direction: where that is, seen from the feature.
        packed: rows of `NEIGHBOR`.
        packed_intervals: rows of `INTERVAL`, for those of the neighbours that are watched, in the same order.
        packed_errors: int64 per row, what may be missing of its joint count; empty where nothing is.
        unlisted: the most that the joint count with a feature can be that the pair's table does not hold; 0 where it holds all.
    """

    layer: int
    features: int
    direction: Direction
    packed: memoryview
    packed_intervals: memoryview = memoryview(b"")
    packed_errors: memoryview = memoryview(b"")
    unlisted: int = 0

    def rows(self) -> np.ndarray:
        """The rows, `NEIGHBOR [n]`, without a copy."""
        return np.frombuffer(self.packed, dtype=NEIGHBOR)

    def intervals(self) -> np.ndarray:
        """The intervals, `INTERVAL [m]`, without a copy."""
        return np.frombuffer(self.packed_intervals, dtype=INTERVAL)

    def errors(self) -> np.ndarray:
        """What may be missing of each row's joint count, int64 `[n]`."""
        if len(self.packed_errors):
            return np.frombuffer(self.packed_errors, "<i8")
        return np.zeros(len(self.packed) // NEIGHBOR.itemsize, np.int64)


class FeatureRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One feature with its neighbours, all from one state, as it is put together from what is published
    (`engine.views.snapshot_reads`).

    Attributes:
        layer, index: which feature.
        tokens: N of that state.
        count: tokens at which it was active, count_a: of those in half A; sum, sum_of_squares: over all its activations.
        rate_effect: design effect of its rate of firing; NaN where unknown.
        max, max_position: its strongest activation and the position of that token in the log; 0.0 and -1 when it never fired.
        tables: one per layer pair that its layer is part of in the directions that were read, empty ones included.
        threshold: it is active where its activation is above this.
        packed_contexts: rows of `CONTEXT`: its strongest activations, strongest first, at most one per document and 8 in all.
        packed_histogram: int64 `[STRENGTH_BINS]`, its activations by strength (`engine.measures.strengths`).
    """

    layer: int
    index: int
    tokens: int
    count: int
    sum: float
    sum_of_squares: float
    max: float
    max_position: int
    tables: list[NeighborTable]
    threshold: float
    count_a: int
    rate_effect: float
    packed_contexts: memoryview = memoryview(b"")
    packed_histogram: memoryview = memoryview(b"")

    def histogram(self) -> np.ndarray:
        """int64 `[STRENGTH_BINS]`, without a copy."""
        return np.frombuffer(self.packed_histogram, dtype=np.int64)

    def contexts(self) -> np.ndarray:
        """The strongest activations, `CONTEXT [n]`, without a copy."""
        return np.frombuffer(self.packed_contexts, dtype=CONTEXT)


class SetAsideRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What an upload held that can't be counted (NaN activations …), and the first reasons."""

    documents: int = 0
    tokens: int = 0
    reasons: list[str] = msgspec.field(default_factory=list)


UploadState = Literal["queued", "counting", "counted", "failed"]


class UploadRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine has done with one upload. `tokens_received` is None until it is tokenised."""

    id: str
    state: UploadState
    tokens_received: int | None = None
    tokens_counted: int = 0
    documents_counted: int = 0
    set_aside: SetAsideRecord = msgspec.field(default_factory=SetAsideRecord)
    error: str | None = None


class LayerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One hook point, and how many of its features have not fired yet."""

    layer: int
    hook: str
    features: int
    dead: int


class CheckpointStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The last checkpoint: tokens in it, Unix seconds when it was saved, seconds that it took."""

    tokens: int
    saved_at: float
    seconds: float


class CalibrationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The maxima that the thresholds of a run are relative to.

    Attributes:
        tokens: how many tokens from the start of the log they are from, so far or in the end.
        calibration_tokens: after how many it is enough, unless the first upload ends earlier.
        done: the thresholds are fixed, and tokens are counted.
        never_fired: per layer, features that did not fire in these tokens; their threshold is 0.
    """

    tokens: int
    calibration_tokens: int
    done: bool
    never_fired: list[int]


EngineState = Literal["starting", "calibrating", "recovering", "counting", "idle", "stopping"]


class TableStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The table of one layer pair.

    Attributes:
        pair: its layers.
        layout: "dense", every pair of features; "bounded", the partners that each feature fires with most often.
        bytes: of memory that it may take.
        kept: partners that every feature keeps at least, in either direction; kept_most: at most; null in a dense table. A partner
            is there in any case where joint / W > 1 / (kept + 1), W being the joint counts of the feature with all partners.
    """

    pair: tuple[int, int]
    layout: Literal["dense", "bounded"]
    bytes: int
    kept: int | None = None
    kept_most: int | None = None


class StatusRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How the engine is. `problem` is a sentence for the user about what it can't do at the moment, or None; `calibration` is None
    where the threshold is absolute. `publish_interval` are the seconds from one snapshot to the next as the publisher paces itself
    now: the setting, or more where a publish takes long. `caught_up_at`: when the snapshot last held all that had arrived."""

    state: EngineState
    tokens: int
    tokens_per_second: float
    queue_tokens: int
    layers: list[LayerStatus]
    pairs: list[tuple[int, int]]
    checkpoint: CheckpointStatus | None
    memory_bytes: int
    problem: str | None
    updated_at: float
    calibration: CalibrationStatus | None = None
    publish_interval: float = 0.0
    tables: list[TableStatus] = []
    caught_up_at: float = 0.0
    figures: Figures = Figures()


class FrequencyEffects(msgspec.Struct, frozen=True, kw_only=True):
    """Design effects of a layer by frequency: how many tokens of text are worth one independent token.

    Attributes:
        features: per bin, features that it rests on; bin b is for those that were active 4^b to 4^(b+1) − 1 times.
        effect: per bin, at least 1; None in all bins where there are too few features, or a half has no tokens.
    """

    features: list[int]
    effect: list[float | None]


class ConvergencePoint(msgspec.Struct, frozen=True, kw_only=True):
    """The state of convergence at one place of the log; a list has an entry per layer (`dead`, `design_effects`) or per layer pair.

    Lists of features, reliability and counts of pairs are of a sample of at most 2,048 upstream features, evenly spaced by index.

    Attributes:
        tokens: N there; tokens_by_half: of the documents in half A and in half B.
        dead: features that had never fired.
        design_effects: see `FrequencyEffects`.
        list_change: mean of 1 − RBO (p = 0.9) of the upstream features' Jaccard top lists against the point before; None at the
            first point, and where no feature had a list.
        split_half_rbo: mean RBO (p = 0.9) of those lists made from half A alone and from half B alone; None without any list, and
            where a half has no tokens.
        reliability: measure → Spearman and Brown's reliability of its values over pairs with a joint count of at least 10 (at most
            131,072 of them, evenly spaced); None where it is not defined.
        unseen_mass: the chance that the next joint activation is of a pair that never was active together before (Good, Turing);
            None before the first one.
        pairs_seen: pairs that were active together; pairs_at_all: how many there are at least, seen or not (Chao 1984);
            neither this nor the unseen mass is known of a bounded table that has dropped pairs.
        watched: pairs whose intervals are kept.
        interval_share: share of them that has an interval (of Jaccard); None without any.
        median_width: of these intervals; None without any.
        tokens_needed: tokens still to come until the median watched pair has an interval of Jaccard of ±0.05, if they are like
            those that came (of at most 512 watched pairs, evenly spaced); None with a reason in `tokens_needed_reason`.
    """

    tokens: int
    tokens_by_half: tuple[int, int]
    dead: list[int]
    design_effects: list[FrequencyEffects]
    list_change: list[float | None]
    split_half_rbo: list[float | None]
    reliability: dict[str, list[float | None]]
    unseen_mass: list[float | None]
    pairs_seen: list[int]
    pairs_at_all: list[int | None]
    watched: list[int]
    interval_share: list[float | None]
    median_width: list[float | None]
    tokens_needed: list[int | None]
    tokens_needed_reason: list[str | None]


class ChangedPair(msgspec.Struct, frozen=True, kw_only=True):
    """A watched pair whose Jaccard differs between the newest corpus and all others: both estimates, and their difference (newest −
    others) with an interval that does not hold 0, at a level at which those of all watched pairs hold together."""

    up: int
    down: int
    newest: float
    others: float
    difference: float
    lower: float
    upper: float


class PairDrift(msgspec.Struct, frozen=True, kw_only=True):
    """Newest corpus against all others in one layer pair.

    Attributes:
        compared: watched pairs that have an interval of Jaccard in both.
        changed_share: share of them whose difference has an interval (95 %) without 0; None where none was compared.
        most_changed: at most ten, those that differ most by what the interval guarantees, first.
    """

    compared: int
    changed_share: float | None
    most_changed: list[ChangedPair]


class LayerDrift(msgspec.Struct, frozen=True, kw_only=True):
    """Newest corpus against all others in one layer: `compared` features that fired in either and whose density has an interval in
    both, and the share of them whose densities differ (their difference has an interval of 95 % without 0); None without any."""

    compared: int
    changed_share: float | None


class DriftRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the newest corpus, the one whose first token came last, changes against all others together.

    Attributes:
        corpus: its name; tokens: of its documents that have ended.
        layers, pairs: one per layer, one per layer pair.
    """

    corpus: str
    tokens: int
    layers: list[LayerDrift]
    pairs: list[PairDrift]


class ConvergenceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The series so far; `pairs` names the layer pairs of each point's entries. `drift` is of the newest point; None while there is
    one corpus only."""

    pairs: list[tuple[int, int]]
    points: list[ConvergencePoint]
    drift: DriftRecord | None = None
