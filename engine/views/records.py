"""The records that a snapshot is made of, as MessagePack in Redis.

A record holds counts, never values of measures: every tick changes N, and with it lift, phi, mutual information and Pearson of
every pair. What depends on N is computed where a record is read (`engine.views.answers`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec
import numpy as np

NEIGHBOR = np.dtype(
    [
        ("count", "<i8"),
        ("joint", "<i8"),
        ("sum", "<f8"),
        ("sum_of_squares", "<f8"),
        ("product", "<f8"),
        ("index", "<i4"),
        ("decoder_cosine", "<f4"),
    ]
)
"""One row of a neighbour table (48 bytes): index, active count and sums of the neighbour, joint count and Σab with the feature that
the table belongs to, and the cosine of their decoder directions (NaN in a run without a model)."""

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


class NeighborTable(msgspec.Struct, frozen=True, array_like=True):
    """Neighbours of a feature in one layer, in the order of their indices.

    The union of the top `published_k` by every measure, among those with a joint count of at least `min_support`.

    Attributes:
        layer: the neighbours' layer.
        direction: where that is, seen from the feature.
        packed: rows of `NEIGHBOR`.
    """

    layer: int
    direction: Direction
    packed: memoryview

    def rows(self) -> np.ndarray:
        """The rows, `NEIGHBOR [n]`, without a copy."""
        return np.frombuffer(self.packed, dtype=NEIGHBOR)


class FeatureRecord(msgspec.Struct, frozen=True, array_like=True):
    """One feature with its neighbours, all from one state.

    Attributes:
        layer, index: which feature.
        tokens: N of that state.
        count: tokens at which it was active; sum, sum_of_squares: over all its activations.
        max, max_position: its strongest activation and the position of that token in the log; 0.0 and -1 when it never fired.
        tables: one per layer pair that its layer is part of, empty ones included.
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


EngineState = Literal["starting", "recovering", "counting", "idle", "stopping"]


class StatusRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How the engine is. `problem` is a sentence for the user about what it can't do at the moment, or None."""

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


class ConvergencePoint(msgspec.Struct, frozen=True, kw_only=True):
    """The state of convergence at one place of the log.

    Attributes:
        tokens: N there.
        dead: per layer, features that had never fired.
        list_change: per layer pair, mean of 1 − RBO (p = 0.9) of the upstream features' Jaccard top lists against the point before;
            None at the first point, and where no feature had a list.
    """

    tokens: int
    dead: list[int]
    list_change: list[float | None]


class ConvergenceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The series so far; `pairs` names the entries of each point's `list_change`."""

    pairs: list[tuple[int, int]]
    points: list[ConvergencePoint]
