"""What a feature without a gate waits for, as a sentence, and the candidate parents that it has."""

from __future__ import annotations

from collections.abc import Sequence

from engine.measures.gate_tests import NONE, gate_evidence
from engine.views.answers import name
from engine.views.gate_answers import CandidatesAnswer, e_value
from engine.views.gate_records import GatesRecord


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
        told = f"the best evidence so far is {e_value(best)}, and {e_value(judged[0][0].needed.gate)} is needed"
        return f"{_many(gates, 'gate')} of {who} {are} being judged: {told}; verdict=any shows them"
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


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' if count != 1 else ''}"
