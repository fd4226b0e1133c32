"""From a snapshot's gates to the list of those that are asked for."""

from __future__ import annotations

import numpy as np

from engine.analysis.snapshot import Whole
from engine.measures.gate_tests import ALPHA, VERDICTS, gate_evidence
from engine.measures.gates import KINDS
from engine.measures.relations import Pair
from engine.views.answers import snapshot_answer
from engine.views.gate_answers import GateAnswer, GateCountsAnswer, GatesAnswer, chosen, gate_answers, hypotheses, measured
from engine.views.gate_records import GATE_ROW
from engine.views.relations import MOST_ITEMS, GatesRequest


def gates(whole: Whole, request: GatesRequest) -> tuple[GatesAnswer, list[GateAnswer]]:
    """Gates of all layer pairs, filtered, the largest first by F1, by the lower bound of the gain (those without one last, by its
    estimate), by evidence, or by tokens of support."""
    pairs = list(whole.gates)
    rows = np.concatenate([np.empty(0, GATE_ROW), *whole.gates.values()])
    owner = np.repeat(np.arange(len(pairs)), [len(of_pair) for of_pair in whole.gates.values()])
    found = measured(rows)
    keep = chosen(rows, request.verdict)
    if request.kind is not None:
        keep &= rows["kind"] == KINDS.index(request.kind)
    if request.layer is not None:
        keep &= np.array([down == request.layer for _, down in pairs], bool)[owner]
    for least, column in ((request.min_f1, "f1"), (request.min_gain, "gain")):
        if least is not None:
            keep &= np.nan_to_num(found[column], nan=-np.inf) >= least
    kept = np.flatnonzero(keep)
    order = kept[np.lexsort((kept, *(-column[kept] for column in _columns(request, rows, found))))][:MOST_ITEMS]  # NaN sorts last
    items: dict[int, GateAnswer] = {}
    for at, pair in enumerate(pairs):
        of_pair = order[owner[order] == at]
        items |= zip(of_pair.tolist(), gate_answers(pair, rows[of_pair], whole.needed, request.cells), strict=True)
    answer = GatesAnswer(
        sort=request.sort,
        alpha=ALPHA,
        hypotheses=hypotheses(whole.children),
        counts=[row for pair, of_pair in whole.gates.items() for row in _counts(pair, of_pair)],
        total=len(kept),
        items=[],
        next=None,
        snapshot=snapshot_answer(whole.snapshot),
    )
    return answer, [items[place] for place in order.tolist()]


def _columns(request: GatesRequest, rows: np.ndarray, found: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """What is sorted by, the first one last."""
    if request.sort == "evidence":
        return (gate_evidence(rows["kind"], rows["log_e"])[0],)
    return (found["gain"], rows["lower"]) if request.sort == "gain" else (found[request.sort],)


def _counts(pair: Pair, rows: np.ndarray) -> list[GateCountsAnswer]:
    return [
        GateCountsAnswer(
            pair=pair,
            kind=kind,  # pyright: ignore[reportArgumentType]  (they are the literal's)
            **{verdict: int(((rows["kind"] == code) & (rows["verdict"] == said)).sum()) for said, verdict in enumerate(VERDICTS)},
        )
        for code, kind in enumerate(KINDS)
    ]
