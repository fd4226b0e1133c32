"""From counts to answers: the structs of the HTTP contract, built in one place for published records and live tables alike."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from engine.encoder.description import RunDescription
from engine.errors import BadValue, Unknown
from engine.measures import MEASURES, PairCounts, estimates, reason
from engine.views.records import DIRECTIONS, Direction, FeatureRecord, Snapshot

MOST_NEIGHBORS = 1_000
"""Cap of `k`: an answer of 1,000 neighbours is some 0.6 MB of JSON, and nobody reads further down a ranking."""

Feature = tuple[int, int]
Status = Literal["insufficient"]


class SnapshotAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Which state an answer is from; version "live-…" when it is read from the running counts."""

    version: str
    tokens: int
    age_ms: int


class EstimateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One measure of one pair; `estimate` is null exactly when `reason` says why."""

    estimate: float | None
    lower: float | None = None
    upper: float | None = None
    interval_estimate: float | None = None
    counted_from: int | None = None
    status: Status = "insufficient"
    method: str | None = None
    reason: str | None = None


class CountsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens at which the upstream feature, the downstream feature, and both were active."""

    up: int
    down: int
    joint: int


class SimilarityAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Every measure of one pair."""

    up: str
    down: str
    tokens: int
    counts: CountsAnswer
    measures: dict[str, EstimateAnswer]
    snapshot: SnapshotAnswer


class NeighborAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One neighbour: `estimate` is the measure that was asked for, `measures` holds all of them."""

    feature: str
    counts: CountsAnswer
    estimate: float
    lower: float | None = None
    upper: float | None = None
    status: Status = "insufficient"
    measures: dict[str, float | None]


class NeighborsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The best neighbours of a feature by one measure, best first; ties by layer and index."""

    feature: str
    direction: Direction
    measure: str
    rank: Literal["estimate"]
    k: int
    min_support: int
    tokens: int
    count: int
    neighbors: list[NeighborAnswer]
    certified_k: int | None = None
    split_half_rbo: float | None = None
    snapshot: SnapshotAnswer


class OneSide(NamedTuple):
    """Counts of a feature, or arrays of many: active count, Σa, Σa²."""

    count: int | np.ndarray
    sum: float | np.ndarray
    sum_of_squares: float | np.ndarray


def name(feature: Feature) -> str:
    """(3, 17) → "3:17"."""
    return f"{feature[0]}:{feature[1]}"


def snapshot_answer(snapshot: Snapshot) -> SnapshotAnswer:
    """The published snapshot as answers show it."""
    age = max(0.0, time.time() - snapshot.published_at)
    return SnapshotAnswer(version=snapshot.version, tokens=snapshot.tokens, age_ms=round(age * 1000))


def live_snapshot(tokens: int) -> SnapshotAnswer:
    """The running state."""
    return SnapshotAnswer(version=f"live-{tokens}", tokens=tokens, age_ms=0)


def check_ranking(direction: str, measure: str, k: int, min_support: int, rank: str) -> None:
    """Refuse what no ranking can be made by.

    Raises:
        BadValue: the message names parameter, value and what is allowed.
    """
    if direction not in DIRECTIONS:
        raise BadValue(f"direction = {direction!r}: it must be one of {', '.join(DIRECTIONS)}")
    if measure not in MEASURES:
        raise BadValue(f"measure = {measure!r}: it must be one of {', '.join(MEASURES)}")
    if not 1 <= k <= MOST_NEIGHBORS:
        raise BadValue(f"k = {k}: it must be between 1 and {MOST_NEIGHBORS:,}")
    if min_support < 1:
        raise BadValue(f"min_support = {min_support}: it must be at least 1")
    if rank == "lower":
        raise BadValue("rank = 'lower': there are no intervals in this version to rank by; use rank = 'estimate'")
    if rank != "estimate":
        raise BadValue(f"rank = {rank!r}: it must be 'estimate'")


def similarity(up: Feature, down: Feature, counts: PairCounts, snapshot: SnapshotAnswer) -> SimilarityAnswer:
    """Every measure of one pair from its counts (scalars)."""
    measures = {}
    for measure, value in estimates(counts).items():
        why = None if math.isfinite(value) else reason(measure, counts, f"feature {name(up)}", f"feature {name(down)}")
        measures[measure] = EstimateAnswer(estimate=_number(value), reason=why)
    return SimilarityAnswer(
        up=name(up),
        down=name(down),
        tokens=int(counts.tokens),  # type: ignore[arg-type]  # scalars here, see the docstring
        counts=CountsAnswer(up=int(counts.up), down=int(counts.down), joint=int(counts.joint)),  # type: ignore[arg-type]  # same
        measures=measures,
        snapshot=snapshot,
    )


def neighbors(
    feature: Feature,
    own: OneSide,
    tables: Sequence[tuple[int, np.ndarray]],
    snapshot: SnapshotAnswer,
    *,
    direction: Direction,
    measure: str = "jaccard",
    k: int = 20,
    min_support: int = 10,
) -> NeighborsAnswer:
    """Rank the rows of tables in one direction.

    Args:
        feature: whose neighbours.
        own: its counts (scalars).
        tables: (layer, rows `NEIGHBOR [n]`) of the layers in that direction.
        snapshot: the state that all of it is from; its tokens are N.
        direction, measure, k, min_support: as checked by `check_ranking`.

    Returns:
        At most k neighbours for which the measure is defined.
    """
    layers = np.concatenate([np.full(len(rows), layer) for layer, rows in tables] or [np.empty(0, np.int64)])
    rows = np.concatenate([rows for _, rows in tables]) if tables else np.empty(0, dtype=[("joint", "<i8")])
    supported = rows["joint"] >= min_support
    layers, rows = layers[supported], rows[supported]
    best = np.empty(0, np.intp)
    if len(rows):
        scores = estimates(pair_counts(own, rows, snapshot.tokens, direction), [measure])[measure]
        scores = np.broadcast_to(scores, rows.shape)
        order = np.lexsort((rows["index"], layers, -scores))  # NaN sorts last
        best = order[: np.count_nonzero(np.isfinite(scores))][:k]
    chosen, own_count = rows[best], int(own.count)
    values = estimates(pair_counts(own, chosen, snapshot.tokens, direction)) if len(chosen) else {}
    columns = {key: np.broadcast_to(value, chosen.shape).tolist() for key, value in values.items()}
    found = []
    for at, (layer, row) in enumerate(zip(layers[best].tolist(), chosen, strict=True)):
        other, joint = int(row["count"]), int(row["joint"])
        up, down = (own_count, other) if direction == "downstream" else (other, own_count)
        found.append(
            NeighborAnswer(
                feature=name((layer, int(row["index"]))),
                counts=CountsAnswer(up=up, down=down, joint=joint),
                estimate=columns[measure][at],
                measures={key: _number(column[at]) for key, column in columns.items()},
            )
        )
    return NeighborsAnswer(
        feature=name(feature),
        direction=direction,
        measure=measure,
        rank="estimate",
        k=k,
        min_support=min_support,
        tokens=snapshot.tokens,
        count=own_count,
        neighbors=found,
        snapshot=snapshot,
    )


def record_neighbors(
    record: FeatureRecord, snapshot: Snapshot, *, direction: Direction, measure: str, k: int, min_support: int
) -> NeighborsAnswer:
    """Neighbours from a published record; right for k ≤ `published_k` and the published `min_support` only."""
    own = OneSide(record.count, record.sum, record.sum_of_squares)
    tables = [(table.layer, table.rows()) for table in record.tables if table.direction == direction]
    feature = (record.layer, record.index)
    return neighbors(
        feature, own, tables, snapshot_answer(snapshot), direction=direction, measure=measure, k=k, min_support=min_support
    )


def unknown(run: RunDescription, feature: Feature) -> Unknown | None:
    """The error for a feature that the run does not have; None for one that it has."""
    layer, index = feature
    if not 0 <= layer < len(run.layers):
        return Unknown(f"there is no layer {layer}: this run has layers 0 to {len(run.layers) - 1}")
    found = run.layers[layer]
    if not 0 <= index < found.features:
        return Unknown(f"there is no feature {layer}:{index}: layer {layer} ({found.hook}) has features 0 to {found.features - 1}")
    return None


def no_table(feature: Feature, direction: Direction, pairs: Sequence[tuple[int, int]]) -> BadValue:
    """The error for a feature whose layer has no neighbours in a direction."""
    side = "upstream" if direction == "downstream" else "downstream"
    return BadValue(
        f"feature {name(feature)} has no {direction} neighbours: layer {feature[0]} is {side} in none of the run's layer pairs "
        f"({pair_names(pairs)})"
    )


def pair_names(pairs: Sequence[tuple[int, int]]) -> str:
    """The pairs as a message lists them: "0→1, 1→2"."""
    return ", ".join(f"{up}→{down}" for up, down in pairs)


def pair_counts(own: OneSide, rows: np.ndarray | Mapping[str, np.ndarray], tokens: int, direction: Direction) -> PairCounts:
    """The counts of a feature with each of its rows, turned so that upstream is upstream."""
    other = OneSide(rows["count"], rows["sum"], rows["sum_of_squares"])
    up, down = (own, other) if direction == "downstream" else (other, own)
    return PairCounts(
        tokens=tokens,
        up=up.count,
        down=down.count,
        joint=rows["joint"],
        up_sum=up.sum,
        down_sum=down.sum,
        up_sumsq=up.sum_of_squares,
        down_sumsq=down.sum_of_squares,
        product=rows["product"],
        decoder_cosine=rows["decoder_cosine"],
    )


def _number(value: float | np.ndarray) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
