"""Answers about gates: the structs of the HTTP contract, and how they are made of records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from engine.measures.gate_nominations import MOST_NOMINATIONS
from engine.measures.gate_tests import NONE, TESTS, VERDICTS, gate_evidence
from engine.measures.gates import AND_NOT, KINDS, PARENTS, TWO_OF_THREE, Quality, gate_counts, quality
from engine.measures.intervals import MIN_DOCUMENTS, MIN_EFFECTIVE
from engine.views.answers import SnapshotAnswer, name
from engine.views.gate_records import GatesRecord, Needed

Kind = Literal["and", "or", "and_not", "k_of_n"]
Verdict = Literal["gate", "joint", "none"]
Sort = Literal["f1", "gain", "evidence", "support"]
SORTS: tuple[Sort, ...] = ("f1", "gain", "evidence", "support")
FILTERS = ("gate", "joint", "none", "any")
"""What `verdict` may say; without it gates and joint actions are shown."""

_HALVES: tuple[Literal["A", "B"], ...] = ("A", "B")


class GateParentAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A parent; `negated` where the gate asks that it is not active."""

    feature: str
    negated: bool


class BestParentAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The single upstream feature that predicted the child best when the gate was nominated, and its F1 since."""

    feature: str
    f1: float | None


class GainAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """F1 of the gate less F1 of the best single parent, over the documents that began after the nomination and have ended.

    Attributes:
        estimate: null while neither is defined.
        lower, upper: 95 %, valid however often they are read; null while `insufficient`, for which `reason` says what is missing.
        documents: in which gate, best parent or child were active (parts of at most 4,096 tokens); effective_documents: as many of
            equal weight.
    """

    estimate: float | None
    lower: float | None
    upper: float | None
    status: Literal["ok", "insufficient"]
    documents: int
    effective_documents: float
    reason: str | None


class GateSupportAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens at which gate and child are active, and documents that decide: there a token tells the gate from its best parent (for
    "and": it shows both parents with the child)."""

    tokens: int
    documents: int


class GateHalfAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The gate in one half of the documents: tokens at which both, the gate, and the child are active."""

    half: Literal["A", "B"]
    precision: float | None
    recall: float | None
    f1: float | None
    both: int
    gate: int
    child: int


class GateTestAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One test as the logarithm of its e-value: "parent", that this parent still moves the child given the others, or
    "common_cause", that the parents are not merely reports of one cause."""

    test: Literal["parent", "common_cause"]
    feature: str | None
    log_e: float


class GateEvidenceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`log_e` is the least of all tests, `joint_log_e` that of the parents' tests alone; `needed` is what one more gate of this run
    needs just now, and `joint_needed` what one more joint action does."""

    log_e: float
    joint_log_e: float
    needed: float
    joint_needed: float
    tests: list[GateTestAnswer]


class GateCellAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens at which exactly these parents are active, and the child is or is not."""

    active: list[str]
    child: bool
    holds: bool
    tokens: int


class GateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A boolean gate of upstream features that a downstream feature computes, or may compute.

    Everything is from after its nomination alone: it was chosen from what came before.

    Attributes:
        child: the downstream feature.
        kind: "and", "or", "and_not" (the first parent and not the second), "k_of_n" (at least `k` of them).
        precision, recall, f1, mcc: of the gate as a prediction of the child, over `tokens`; null where not defined.
        quasi: how far from exact: 1 − min(precision, recall).
        verdict: "gate"; "joint": the parents act together and a common cause is not excluded; "none": not shown so far.
        reason: why the verdict is "none".
        counted_from: tokens that were counted when it was nominated; tokens: counted since, in segments that have ended.
        cells: the truth table, where it was asked for.
    """

    child: str
    kind: Kind
    parents: list[GateParentAnswer]
    k: int | None
    precision: float | None
    recall: float | None
    f1: float | None
    mcc: float | None
    quasi: float | None
    gain: GainAnswer
    best_parent: BestParentAnswer
    support: GateSupportAnswer
    halves: list[GateHalfAnswer]
    evidence: GateEvidenceAnswer
    verdict: Verdict
    reason: str | None
    counted_from: int
    tokens: int
    cells: list[GateCellAnswer] | None


class CandidatesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Candidate parents in one upstream layer, whose joint truth table with the feature is counted from token `counted_from` on;
    `nominated`: gates that were nominated from its tables so far, at most 8."""

    layer: int
    features: list[str]
    counted_from: int | None
    nominated: int


class FeatureGatesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Gates of which a feature is the child, gates first, then joint actions, each by F1; where there are none, `waiting` says what
    they wait for."""

    feature: str
    count: int
    items: list[GateAnswer]
    candidates: list[CandidatesAnswer]
    waiting: str | None
    snapshot: SnapshotAnswer


class GateCountsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How many gates of a kind a layer pair has, by verdict."""

    pair: tuple[int, int]
    kind: Kind
    gate: int
    joint: int
    none: int


class GatesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Gates of the run. `counts` are of all, `total` and `items` of those that were asked for. False discoveries among gates, and
    among joint actions, are at most a share `alpha`, controlled over `hypotheses` that could have been put forward."""

    sort: Sort
    alpha: float
    hypotheses: int
    counts: list[GateCountsAnswer]
    total: int
    items: list[GateAnswer]
    next: str | None
    snapshot: SnapshotAnswer


class PaperParentAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A parent by the paper's rule: tokens at which it is active and at which it is with the child, and the ratio that counts:
    necessity P(parent | child) for "and", sufficiency P(child | parent) for "or"."""

    feature: str
    count: int
    joint: int
    estimate: float


class PaperGateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A finding of the paper's rule; `count`: tokens at which the child is active."""

    child: str
    kind: Literal["and", "or"]
    count: int
    parents: list[PaperParentAnswer]


class PaperGatesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What Balcells et al. 2024 (arXiv 2410.08869) take for gates, from pair counts alone: a feature is an "and" of two upstream
    features if exactly two have a necessity of at least the threshold, an "or" if exactly two have such a sufficiency.

    It looks at no joint behaviour of the two and at no support: of independent features that fired three times it calls 35 % an
    "and". It is here so that its table can be compared; `/v1/gates` has what is shown.

    Attributes:
        pair: the layer pair; ands, ors: findings of each kind, total: of both; live: downstream features that ever fired.
    """

    rule: Literal["paper_rule"]
    threshold: float
    pair: tuple[int, int]
    ands: int
    ors: int
    live: int
    total: int
    items: list[PaperGateAnswer]
    next: str | None
    snapshot: SnapshotAnswer


def gate_answers(pair: tuple[int, int], rows: np.ndarray, needed: Needed, cells: bool = False) -> list[GateAnswer]:
    """Gates of a layer pair as answers.

    Args:
        pair: (up, down).
        rows: `GATE_ROW [G]`.
        needed: of the run.
        cells: with their truth tables.
    """
    if not len(rows):
        return []
    found = measured(rows)
    least, first = gate_evidence(rows["kind"], rows["log_e"])
    return [
        GateAnswer(
            child=name((pair[1], int(row["child"]))),
            kind=KINDS[row["kind"]],  # pyright: ignore[reportArgumentType]  (they are the literal's)
            parents=[
                GateParentAnswer(feature=feature, negated=int(row["kind"]) == AND_NOT and at == 1)
                for at, feature in enumerate(_parents(pair, row))
            ],
            k=2 if row["kind"] == TWO_OF_THREE else None,
            **{key: number(found[key][at]) for key in ("precision", "recall", "f1", "mcc", "quasi")},
            gain=_gain(row, float(found["gain"][at])),
            best_parent=BestParentAnswer(feature=name((pair[0], int(row["best"]))), f1=number(found["best_f1"][at])),
            support=GateSupportAnswer(tokens=int(found["support"][at]), documents=int(row["deciding"])),
            halves=[_half(half, row["sums"][number]) for number, half in enumerate(_HALVES)],
            evidence=GateEvidenceAnswer(
                log_e=float(least[at]),
                joint_log_e=float(first[at]),
                needed=needed.gate,
                joint_needed=needed.joint,
                tests=_tests(pair, row),
            ),
            verdict=VERDICTS[row["verdict"]],  # pyright: ignore[reportArgumentType]  (they are the literal's)
            reason=_reason(pair, row, float(least[at]), needed),
            counted_from=int(row["counted_from"]),
            tokens=int(row["tokens"]),
            cells=_cells(pair, row) if cells else None,
        )
        for at, row in enumerate(rows)
    ]


def measured(rows: np.ndarray) -> dict[str, np.ndarray]:
    """What gates are filtered and sorted by, float64 `[G]` each: precision, recall, f1, mcc and quasi over all tokens since the
    nomination; gain and best_f1 over documents; support, tokens at which gate and child are active."""
    counts = gate_counts(rows["kind"], rows["cells"])
    whole = rows["sums"].sum(axis=1)
    of_gate, of_best = (_quality(*(whole[:, column] for column in (at, at + 1, 4))).f1 for at in (0, 2))
    told = quality(counts.both, counts.predicted, counts.child, rows["tokens"])._asdict()
    return {**told, "gain": of_gate - of_best, "best_f1": of_best, "support": counts.both.astype(np.float64)}


def number(value: float | np.floating) -> float | None:
    """None for what is not finite."""
    return float(value) if math.isfinite(value) else None


def waiting(feature: tuple[int, int], count: int, records: Sequence[GatesRecord], choices: str | None) -> str | None:
    """Why no gate of a feature is shown, and what that waits for.

    Args:
        feature: (layer, index).
        count: tokens at which it was active.
        records: that hold it, one per layer pair in which it is downstream.
        choices: the filter that left nothing, None for the default one.
    """
    who, at = f"feature {name(feature)}", feature[1]
    of_child = [(record, record.rows()[record.rows()["child"] == at]) for record in records]
    judged = [(record, rows) for record, rows in of_child if len(rows)]
    if judged:
        best = max(float(gate_evidence(rows["kind"], rows["log_e"])[0].max()) for _, rows in judged)
        gates = sum(len(rows) for _, rows in judged)
        if choices not in (None, "gate", "joint") or any((rows["verdict"] != NONE).any() for _, rows in judged):
            return f"{who} has {_many(gates, 'nominated gate')}, none of them with the verdict {choices!r}"
        are = "is" if gates == 1 else "are"
        needed = _e(judged[0][0].needed.gate)
        return (
            f"{_many(gates, 'gate')} of {who} {are} being judged: the best evidence so far is {_e(best)}, and {needed} is needed; "
            "verdict=any shows them"
        )
    if not count:
        return f"{who} never fired: nothing upstream can be related to it"
    fired = f"{who} fired on {_many(count, 'token')}"
    parents = {(record.up, int(one)) for record in records for one in record.parents()[at - record.first] if one >= 0}
    if len(parents) < 2:
        seen = "no upstream feature is" if not parents else f"only {name(min(parents))} is"
        return (
            f"{fired}; {seen} significantly related yet, and a gate has two parents: it waits for text in which they fire together"
        )
    since = max(int(record.since()[at - record.first]) for record in records)
    return (
        f"{fired}; its {len(parents)} candidate parents are counted since token {since:,}, and a gate is nominated when one "
        "describes the feature in fewer bits than its best single parent, where choices are made: whenever the tokens have grown "
        "by a fifth"
    )


def candidates(feature: tuple[int, int], records: Sequence[GatesRecord]) -> list[CandidatesAnswer]:
    """The candidate parents of a feature, by upstream layer."""
    found = []
    for record in records:
        at = feature[1] - record.first
        parents = [name((record.up, one)) for one in record.parents()[at].tolist() if one >= 0]
        since = int(record.since()[at]) if parents else None
        nominated = int(record.nominations()[at])
        found.append(CandidatesAnswer(layer=record.up, features=parents, counted_from=since, nominated=nominated))
    return found


def hypotheses(children: int) -> int:
    """K: gates that could be put forward of so many children."""
    return MOST_NOMINATIONS * children


def _quality(both: ArrayLike, predicted: ArrayLike, child: ArrayLike) -> Quality:
    """All but its MCC: sums over documents do not say over how many tokens they are."""
    return quality(both, predicted, child, np.asarray(predicted) + np.asarray(child))


def _parents(pair: tuple[int, int], row: np.void) -> list[str]:
    return [name((pair[0], parent)) for parent in row["parents"][: PARENTS[row["kind"]]].tolist()]


def _gain(row: np.void, estimate: float) -> GainAnswer:
    documents, effective = int(row["documents"]), float(row["effective"])
    bounded = math.isfinite(row["lower"])
    reason = None
    if not bounded:
        reason = (
            f"{documents:,} documents since the gate was nominated, worth {effective:,.0f} of equal weight: an interval needs "
            f"{MIN_DOCUMENTS} and {MIN_EFFECTIVE}"
        )
    return GainAnswer(
        estimate=number(estimate),
        lower=float(row["lower"]) if bounded else None,
        upper=float(row["upper"]) if bounded else None,
        status="ok" if bounded else "insufficient",
        documents=documents,
        effective_documents=effective,
        reason=reason,
    )


def _half(half: Literal["A", "B"], sums: np.ndarray) -> GateHalfAnswer:
    both, gate, child = (int(sums[at]) for at in (0, 1, 4))
    found = _quality(both, gate, child)
    shown = {key: number(getattr(found, key)) for key in ("precision", "recall", "f1")}
    return GateHalfAnswer(half=half, **shown, both=both, gate=gate, child=child)


def _tests(pair: tuple[int, int], row: np.void) -> list[GateTestAnswer]:
    values = row["log_e"][: TESTS[row["kind"]]].tolist()
    named = [
        GateTestAnswer(test="parent", feature=feature, log_e=value)
        for feature, value in zip(_parents(pair, row), values[:-1], strict=True)
    ]
    return [*named, GateTestAnswer(test="common_cause", feature=None, log_e=values[-1])]


def _reason(pair: tuple[int, int], row: np.void, evidence: float, needed: Needed) -> str | None:
    if row["verdict"] != NONE:
        return None
    if evidence >= needed.gate:
        return f"another gate of {name((pair[1], int(row['child'])))} explains more of it"
    return f"the evidence so far is {_e(evidence)}, and {_e(needed.gate)} is needed"


def _cells(pair: tuple[int, int], row: np.void) -> list[GateCellAnswer]:
    parents, kind = _parents(pair, row), int(row["kind"])
    found = []
    for pattern in range(1 << len(parents)):
        one = np.zeros((1, 16), np.int64)
        one[0, pattern] = 1
        holds = pattern > 0 and bool(gate_counts([kind], one).predicted[0])
        active = [feature for at, feature in enumerate(parents) if pattern >> at & 1]
        for child in (False, True):
            tokens = int(row["cells"][pattern + 8 * child])
            found.append(GateCellAnswer(active=active, child=child, holds=holds, tokens=tokens))
    return found


def _e(log_e: float) -> str:
    """An e-value from its logarithm, which may be far beyond what a float holds."""
    if abs(log_e) < 7:
        return f"E = {math.exp(log_e):.3g}"
    return f"E = 10^{log_e / math.log(10):.1f}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' if count != 1 else ''}"


def chosen(rows: np.ndarray, verdict: str | None) -> np.ndarray:
    """bool `[G]`, gates with a verdict (one of `FILTERS`); None: gates and joint actions."""
    if verdict is None:
        return rows["verdict"] != NONE
    return np.ones(len(rows), bool) if verdict == "any" else rows["verdict"] == VERDICTS.index(verdict)


def first_order(rows: np.ndarray) -> np.ndarray:
    """Gates, then joint actions, then the others; each by F1."""
    f1 = np.nan_to_num(measured(rows)["f1"]) if len(rows) else np.empty(0)
    return np.lexsort((-f1, -rows["verdict"].astype(np.int64)))
