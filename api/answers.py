"""What the routes answer: frozen records whose names are the interface that clients are written against."""

from __future__ import annotations

from typing import Literal

import msgspec

from engine.threshold import Threshold
from engine.views.answers import SnapshotAnswer
from engine.views.hidden import HiddenAnswer
from engine.views.records import CalibrationStatus, CheckpointStatus, ConvergencePoint, DriftRecord, EngineState, TableStatus
from engine.views.requests import ContextAnswer


class SetAsideAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What was taken but not counted, because of faults found later (NaN activations, for example)."""

    documents: int = 0
    tokens: int = 0
    reasons: list[str] = []


class UploadAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One upload. `tokens_received` is null until it is tokenised; `tokens_counted` only grows, and ends exact."""

    id: str
    corpus: str
    state: Literal["receiving", "queued", "counting", "counted", "failed"]
    media_type: str
    bytes: int
    documents: int
    documents_counted: int
    tokens_received: int | None
    tokens_counted: int
    set_aside: SetAsideAnswer
    received_at: float
    error: str | None = None


class CorpusAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """All uploads of one name, summed."""

    name: str
    state: Literal["queued", "counting", "counted", "failed"]
    uploads: int
    bytes: int
    documents: int
    documents_counted: int
    tokens_received: int | None
    tokens_counted: int
    set_aside: SetAsideAnswer


class CorpusList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of corpora by name; `next` is the cursor of the following page, null at the end."""

    items: list[CorpusAnswer]
    next: str | None


class CorpusDetail(CorpusAnswer, frozen=True, kw_only=True):
    """A corpus with a page of its uploads, newest first."""

    items: list[UploadAnswer]
    next: str | None


class LayerAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One hook point with the size of its dictionary, and how many of its features never fired (null at first)."""

    layer: int
    hook: str
    features: int
    dead: int | None


class StatusAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The run and how it goes."""

    state: EngineState
    model: str
    saes: str
    layers: list[LayerAnswer]
    pairs: list[tuple[int, int]]
    tables: list[TableStatus]
    threshold: Threshold
    calibration: CalibrationStatus | None
    tokens: int
    tokens_per_second: float
    queue_tokens: int
    snapshot: SnapshotAnswer | None
    lag_tokens: int
    checkpoint: CheckpointStatus | None
    memory_bytes: int
    publish_interval: float
    published_k: int
    min_support: int
    problem: str | None


class ActivationAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One activation of a feature: its value, and the position of its token in the corpus log."""

    activation: float
    log_position: int


class StrengthsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A histogram of activations: `counts[0]` below `edges[0]`, `counts[b]` from `edges[b - 1]` to below `edges[b]`, the last at or
    above the last edge. Four edges to an octave, the same for every feature."""

    edges: list[float]
    counts: list[int]


class FeatureAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One feature.

    Attributes:
        explanation: what it is said to be about, null unless the run's settings name a file that has it.
        threshold: of this feature, also where the run's is relative: it is active where its activation is above.
        count: tokens at which it was active; density: its share of `tokens`, null before the first token.
        max: its strongest activation, null when it never fired.
        mean: over all tokens; mean_active: over those at which it was active, null when it never fired or where its threshold is
            not 0 (sums hold every activation, counts those above the threshold).
        histogram: all its activations by strength, whatever its threshold.
        pairs: the layer pairs that its layer is part of.
        contexts: its strongest activations, strongest first, at most one per document and 8 in all; `…/contexts` has their text.
        strongest: the text around its strongest activation, live from the engine; null with `strongest_reason`.
        hidden: per downstream layer, how much of what it wrote is in the error of that layer's SAE.
    """

    feature: str
    layer: int
    index: int
    hook: str
    neuronpedia: str | None
    explanation: str | None
    tokens: int
    threshold: float
    count: int
    density: float | None
    max: float | None
    mean: float | None
    mean_active: float | None
    histogram: StrengthsAnswer
    pairs: list[tuple[int, int]]
    contexts: list[ActivationAnswer]
    strongest: ContextAnswer | None
    strongest_reason: str | None
    hidden: list[HiddenAnswer]
    snapshot: SnapshotAnswer


class ConvergenceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How the statistics settle over the tokens counted.

    Attributes:
        pairs: the layer pairs, in the order of every point's lists.
        points: oldest first; what each of them says is told by `ConvergencePoint`.
        drift: what the newest corpus changes against all others together, at the newest point; null while there is one corpus only.
    """

    pairs: list[tuple[int, int]]
    points: list[ConvergencePoint]
    drift: DriftRecord | None
    snapshot: SnapshotAnswer


class ConvergenceSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The newest point of the convergence series in an event: `tokens` there, and per layer pair what `ConvergencePoint` says of
    the agreement of the halves, the pairs not seen yet, and the watched pairs that have intervals."""

    tokens: int
    pairs: list[tuple[int, int]]
    split_half_rbo: list[float | None]
    unseen_mass: list[float | None]
    interval_share: list[float | None]


class EventAnswer(SnapshotAnswer, frozen=True, kw_only=True):
    """The data of an event: a snapshot, and the newest point of the convergence series when it was sent (null before the first)."""

    convergence: ConvergenceSummary | None
