"""Answers about gates as tables for a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.tables import number, right

WORDS = {"and": " and ", "or": " or ", "and_not": " and not "}


def formula(gate: Any) -> str:
    """A gate in words: "0:3 and 0:5", "0:3 and not 0:5", "2 of 0:3, 0:5, 0:7"."""
    parents = [parent["feature"] for parent in gate["parents"]]
    return f"{gate['k']} of {', '.join(parents)}" if gate["kind"] == "k_of_n" else WORDS[gate["kind"]].join(parents)


def of_feature(answer: Any) -> RenderableType:
    """`GET /v1/features/{layer}/{index}/gates`."""
    head = Text.assemble((answer["feature"], "bold"), f" fired on {number(answer['count'])} tokens")
    parts: list[RenderableType] = [head]
    for one in answer["candidates"]:
        if one["features"]:
            since = f"counted since token {number(one['counted_from'])}"
            parts.append(Text(f"candidates in layer {one['layer']}: {', '.join(one['features'])}, {since}", style="dim"))
    if answer["waiting"]:
        parts.append(Text(answer["waiting"]))
    return Group(*parts, *_gates(answer["items"]))


def of_run(answer: Any) -> RenderableType:
    """`GET /v1/gates`."""
    said = {verdict: sum(row[verdict] for row in answer["counts"]) for verdict in ("gate", "joint", "none")}
    head = Text.assemble(
        (f"{number(said['gate'])} gates", "bold"),
        f", {number(said['joint'])} joint actions, {number(said['none'])} being judged; "
        f"at most {answer['alpha']:.0%} of either are false, {number(answer['snapshot']['tokens'])} tokens",
    )
    left = answer["total"] - len(answer["items"])
    more = [Text(f"… and {number(left)} more", style="dim")] if left else []
    return Group(head, *_gates(answer["items"]), *more)


def _gates(items: list[Any]) -> list[RenderableType]:
    if not items:
        return []
    table = Table("feature", "fires where", "verdict", box=None, header_style="bold")
    for title in ("F1", "precision", "recall", "gain", "95 %", "documents", "log E"):
        table.add_column(title, justify="right")
    for gate in items:
        gain = gate["gain"]
        between = "–" if gain["lower"] is None else f"{number(gain['lower'])} to {number(gain['upper'])}"
        fit = (number(gate[name]) for name in ("f1", "precision", "recall"))
        rest = (number(gain["estimate"]), between, number(gate["support"]["documents"]), f"{gate['evidence']['log_e']:.1f}")
        table.add_row(gate["child"], formula(gate), gate["verdict"], *fit, *rest)
    told = Text("gain: F1 less that of the best single parent; documents: those that tell the two apart", style="dim")
    return [table, told, *(_cells(gate) for gate in items if gate["cells"])]


def _cells(gate: Any) -> RenderableType:
    """The truth table of a gate: a row for each pattern of its parents."""
    table = Table(f"{gate['child']}: {formula(gate)}", right("silent"), right("fires"), box=None, header_style="bold")
    for silent, fires in zip(gate["cells"][::2], gate["cells"][1::2], strict=True):
        active = " ".join(silent["active"]) or "none active"
        table.add_row(f"{active} → fires" if silent["holds"] else active, number(silent["tokens"]), number(fires["tokens"]))
    return table
