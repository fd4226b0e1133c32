"""From counts to answers: the structs of the HTTP contract, built in one place for published records and live tables alike."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from engine.encoder.description import RunDescription
from engine.errors import BadValue, Unknown
from engine.measures import MEASURES, PairCounts, reason
from engine.measures.at_once import estimates_at_once
from engine.measures.bounds import tempered_bounds
from engine.measures.intervals import MIN_DOCUMENTS, MIN_EFFECTIVE
from engine.views.neighbor_rows import NeighborRows, OneSide, certify, halves_agree, pair_counts
from engine.views.records import DIRECTIONS, INTERVAL_MEASURES, NEIGHBOR, Direction, FeatureRecord, Snapshot

MOST_NEIGHBORS = 1_000
"""Cap of `k`: an answer of 1,000 neighbours is some 0.6 MB of JSON, and nobody reads further down a ranking."""

_OF_NEIGHBOR = ("lower", "upper", "interval_estimate", "counted_from", "status", "method")  # of `EstimateAnswer`

_COUNTS = {"up": "up", "down": "down", "joint": "joint", "count_error": "joint_error"}  # of `CountsAnswer`, in `PairCounts`

Feature = tuple[int, int]
Status = Literal["ok", "insufficient", "heuristic"]
Rank = Literal["lower", "estimate"]


class SnapshotAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Which state an answer is from; version "live-…" when it is read from the running counts."""

    version: str
    tokens: int
    age_ms: int


class EstimateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One measure of one pair.

    Attributes:
        estimate: over all tokens.
        lower, upper: 95 % bounds. With status `ok` they hold at all times at once, however often they are read, and are from the
            documents after `counted_from` (method `anytime`); with `heuristic` they are from the counts alone, tempered by a design
            effect (method `tempered`); with `insufficient` there are none yet.
        interval_estimate: the measure over the same documents as the interval.
        counted_from: tokens that were counted when the pair was chosen to be watched; null where it is not watched.
        documents: informative documents (parts of at most 4,096 tokens) behind the interval; effective_documents: as many of equal
            weight.
        reason: why the estimate, or its interval, is null; a measure without an interval has none to give.
    """

    estimate: float | None
    lower: float | None = None
    upper: float | None = None
    interval_estimate: float | None = None
    counted_from: int | None = None
    status: Status = "insufficient"
    method: str | None = None
    documents: int | None = None
    effective_documents: float | None = None
    reason: str | None = None


class CountsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens at which the upstream feature, the downstream feature, and both were active.

    Attributes:
        count_error: the true joint count is at least `joint` and at most so much more. 0 where the pair's table is dense; a bounded
            one (`--memory-budget`) may have dropped a pair for a while.
    """

    up: int
    down: int
    joint: int
    count_error: int = 0


class SimilarityAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Every measure of one pair; of one corpus where `corpus` names it (then from the documents after `counted_from` only)."""

    up: str
    down: str
    corpus: str | None = None
    tokens: int
    counts: CountsAnswer
    measures: dict[str, EstimateAnswer]
    snapshot: SnapshotAnswer


class NeighborAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One neighbour: `estimate` and what follows it are of the measure that was asked for (see `EstimateAnswer`), `measures` holds
    the estimates of all of them."""

    feature: str
    counts: CountsAnswer
    estimate: float
    lower: float | None = None
    upper: float | None = None
    interval_estimate: float | None = None
    counted_from: int | None = None
    status: Status = "insufficient"
    method: str | None = None
    measures: dict[str, float | None]


class NeighborsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The best neighbours of a feature by one measure, best first; ties by layer and index.

    Attributes:
        rank: by what they are ordered: the heuristic lower bound, which every pair has, or the estimate.
        certified_k: how many leaders of the list no other feature can overtake, at 95 % for the whole list; null with
            `certified_reason`.
        status: of the list: `certified` when that is all of it, `converging` when there are bounds, else `insufficient`.
        split_half_rbo: agreement (RBO, p = 0.9) of the list as ranked by either half of the documents, among the candidates that
            are published; null where a half has none, and for measures that are not ratios of counts.
    """

    feature: str
    direction: Direction
    measure: str
    rank: Rank
    k: int
    min_support: int
    tokens: int
    count: int
    neighbors: list[NeighborAnswer]
    status: Literal["insufficient", "converging", "certified"] = "insufficient"
    certified_k: int | None = None
    certified_reason: str | None = None
    split_half_rbo: float | None = None
    snapshot: SnapshotAnswer


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


def check_ranking(direction: str, measure: str, k: int, min_support: int, rank: str | None) -> Rank:
    """Refuse what no ranking can be made by, and say what it is made by: None is the lower bound where the measure has one.

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
    if rank is None:
        return "lower" if measure in INTERVAL_MEASURES else "estimate"
    if rank == "lower":
        if measure not in INTERVAL_MEASURES:
            raise BadValue(
                f"rank = 'lower': {measure} has no lower bound ({', '.join(INTERVAL_MEASURES)} have one); use rank = 'estimate'"
            )
        return "lower"
    if rank != "estimate":
        raise BadValue(f"rank = {rank!r}: it must be 'lower' or 'estimate'")
    return "estimate"


def similarity(
    up: Feature,
    down: Feature,
    counts: PairCounts,
    effects: tuple[float, float],
    interval: np.ndarray | None,
    snapshot: SnapshotAnswer,
    *,
    corpus: str | None = None,
) -> SimilarityAnswer:
    """Every measure of one pair.

    Args:
        up, down: its features.
        counts: its counts (scalars).
        effects: design effects, of its ratios and the larger one of its two rates; NaN where unknown.
        interval: its `INTERVAL` row, None where it is not watched.
        snapshot: the state that it is from.
        corpus: the corpus that all of it is from.
    """
    measures = {}
    for measure, value in estimates_at_once(counts).items():
        why = None if math.isfinite(value) else reason(measure, counts, f"feature {name(up)}", f"feature {name(down)}")
        found = EstimateAnswer(estimate=_number(value), reason=why)
        if measure in INTERVAL_MEASURES and why is None:
            lower, upper = tempered_bounds(measure, as_arrays(counts), np.array([effects[0]]), np.array([effects[1]]))
            missing = int(np.asarray(counts.joint_error))
            found = with_bounds(found, measure, interval, float(lower[0]), float(upper[0]), missing)
        measures[measure] = found
    return SimilarityAnswer(
        up=name(up),
        down=name(down),
        corpus=corpus,
        tokens=int(counts.tokens),  # type: ignore[arg-type]  # scalars here, see the docstring
        counts=CountsAnswer(**{key: int(getattr(counts, of)) for key, of in _COUNTS.items()}),
        measures=measures,
        snapshot=snapshot,
    )


def as_arrays(counts: PairCounts) -> PairCounts:
    """One pair's counts as arrays `[1]`."""
    return PairCounts(*(np.atleast_1d(value) for value in counts))


def with_bounds(
    found: EstimateAnswer, measure: str, interval: np.ndarray | None, lower: float, upper: float, missing: int = 0
) -> EstimateAnswer:
    """An estimate with its interval: that of a watched pair (its `INTERVAL` row), or the tempered bounds of any other, of whose
    joint count so many may be missing."""
    own = None if interval is None else _intervals(np.array([interval]), measure)[0]
    return msgspec.structs.replace(found, **_bounds(measure, own, lower, upper, missing))


class _Interval(NamedTuple):
    """What an `INTERVAL` row says of one measure."""

    counted_from: int
    documents: int
    effective: float | None
    estimate: float | None
    lower: float | None
    upper: float | None


def _intervals(rows: np.ndarray, measure: str) -> list[_Interval]:
    """Of `INTERVAL [n]`, for one measure."""
    at = INTERVAL_MEASURES.index(measure)
    columns = [map(_short, rows[name][:, at]) for name in ("effective", "estimate", "lower", "upper")]
    return list(map(_Interval, rows["counted_from"].tolist(), rows["documents"][:, at].tolist(), *columns))


def _bounds(measure: str, own: _Interval | None, lower: float, upper: float, missing: int) -> dict[str, Any]:
    """What an `EstimateAnswer` says of an interval."""
    if own is None:
        if not math.isfinite(lower):
            why = "design effects are not known yet: too few features have fired in both halves of the documents"
            if measure == "pearson" and missing:
                why = f"the pair's table is bounded, and products of up to {missing:,} joint tokens are missing"
            return {"reason": why}
        return {"lower": lower, "upper": upper, "status": "heuristic", "method": "tempered"}
    effective = own.effective or 0.0
    told = {"counted_from": own.counted_from, "documents": own.documents, "effective_documents": effective}
    if own.lower is None:
        why = (
            f"{own.documents:,} informative documents since the pair is watched, worth {effective:,.0f} of equal weight: an "
            f"interval needs {MIN_DOCUMENTS} and {MIN_EFFECTIVE}"
        )
        return told | {"reason": why}
    bounds = {"lower": own.lower, "upper": own.upper, "interval_estimate": own.estimate}
    return told | bounds | {"status": "ok", "method": "anytime"}


def neighbors(
    feature: Feature,
    own: OneSide,
    tables: Sequence[NeighborRows],
    snapshot: SnapshotAnswer,
    *,
    direction: Direction,
    measure: str = "jaccard",
    k: int = 20,
    min_support: int = 10,
    rank: Rank = "lower",
    depth: int | None = None,
) -> NeighborsAnswer:
    """Rank the rows of tables in one direction.

    Args:
        feature: whose neighbours.
        own: its counts (scalars).
        tables: the layers in that direction.
        snapshot: the state that all of it is from; its tokens are N.
        direction, measure, k, min_support, rank: as checked by `check_ranking`.
        depth: the rows hold so many best ones by every measure; None: all that have the support.

    Returns:
        At most k neighbours for which the measure is defined. By the lower bound those come first that have one.
    """
    layers = np.concatenate([np.full(len(table.rows), table.layer) for table in tables] or [np.empty(0, np.int64)])
    rows = np.concatenate([table.rows for table in tables] or [np.empty(0, NEIGHBOR)])
    errors = np.concatenate([table.errors for table in tables] or [np.empty(0, np.int64)])
    supported = rows["joint"] >= min_support
    layers, rows, errors = layers[supported], rows[supported], errors[supported]
    counts = pair_counts(own, rows, snapshot.tokens, direction, errors)
    scores = estimates_at_once(counts, [measure])[measure]
    lower = upper = np.full(len(rows), np.nan)
    if measure in INTERVAL_MEASURES:
        lower, upper = tempered_bounds(measure, counts, rows["effect"], np.fmax(rows["rate_effect"], own.rate_effect))
    first = lower if rank == "lower" else scores
    order = np.lexsort((rows["index"], layers, -scores, -first))  # NaN sorts last
    best = order[np.isfinite(scores[order])][:k]
    chosen, own_count = rows[best], int(own.count)
    values = estimates_at_once(pair_counts(own, chosen, snapshot.tokens, direction))
    columns = {key: _numbers(column) for key, column in values.items()}
    watched = _watched(tables, layers[best], chosen["index"], measure)
    numbers = (layers[best], chosen["index"], chosen["count"], chosen["joint"], errors[best], lower[best], upper[best])
    estimates = values[measure].tolist()
    found = []
    for at, (layer, index, other, joint, error, low, high) in enumerate(zip(*(one.tolist() for one in numbers), strict=True)):
        up, down = (own_count, other) if direction == "downstream" else (other, own_count)
        told = _bounds(measure, watched.get((layer, index)), low, high, error) if measure in INTERVAL_MEASURES else {}
        found.append(
            NeighborAnswer(
                feature=f"{layer}:{index}",
                counts=CountsAnswer(up=up, down=down, joint=joint, count_error=error),
                estimate=estimates[at],
                measures={key: column[at] for key, column in columns.items()},
                **{key: value for key, value in told.items() if key in _OF_NEIGHBOR},
            )
        )
    effects = rows["effect"]
    standing = certify(
        own, tables, counts, scores, effects, best, direction=direction, measure=measure, min_support=min_support, depth=depth
    )
    return NeighborsAnswer(
        feature=name(feature),
        direction=direction,
        measure=measure,
        rank=rank,
        k=k,
        min_support=min_support,
        tokens=snapshot.tokens,
        count=own_count,
        neighbors=found,
        status=standing.status,
        certified_k=standing.certified_k,
        certified_reason=standing.reason,
        split_half_rbo=halves_agree(own, rows, direction, measure, k),
        snapshot=snapshot,
    )


def record_neighbors(
    record: FeatureRecord,
    snapshot: Snapshot,
    *,
    direction: Direction,
    measure: str,
    k: int,
    min_support: int,
    rank: Rank = "lower",
    published_k: int,
) -> NeighborsAnswer:
    """Neighbours from a published record; right for k ≤ `published_k` and the published `min_support` only."""
    own = OneSide(record.count, record.sum, record.sum_of_squares, record.count_a, record.rate_effect)
    tables = [
        NeighborRows(table.layer, table.rows(), table.intervals(), table.features, table.errors(), table.unlisted)
        for table in record.tables
        if table.direction == direction
    ]
    feature, shown = (record.layer, record.index), snapshot_answer(snapshot)
    return neighbors(
        feature,
        own,
        tables,
        shown,
        direction=direction,
        measure=measure,
        k=k,
        min_support=min_support,
        rank=rank,
        depth=published_k,
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


def _watched(
    tables: Sequence[NeighborRows], layers: np.ndarray, indices: np.ndarray, measure: str
) -> dict[tuple[int, int], _Interval]:
    """(layer, index) → interval of those of some neighbours that are watched."""
    found = {}
    for table in tables if measure in INTERVAL_MEASURES else ():
        listed = set(indices[layers == table.layer].tolist())
        watched = table.intervals["index"].tolist()
        places = [at for at, index in enumerate(watched) if index in listed]
        keys = ((table.layer, watched[at]) for at in places)
        found |= zip(keys, _intervals(table.intervals[places], measure), strict=True)
    return found


def _number(value: float | np.ndarray) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _numbers(column: np.ndarray) -> list[float | None]:
    """Of a column, as `_number`."""
    return column.tolist() if np.isfinite(column).all() else [_number(value) for value in column.tolist()]


def _short(value: np.float32) -> float | None:
    """The shortest decimal that is it."""
    number = float(str(value))
    return number if math.isfinite(number) else None
