"""Answers about relations as tables for a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.tables import MEASURE_NAMES, number, right


def flow(answer: Any) -> RenderableType:
    """`GET /v1/flow`."""
    columns = ("passed", "disappeared", "passed_into", "appeared")
    table = Table("layers", *(right(name.replace("_", " ")) for name in columns), box=None, header_style="bold")
    for pair in answer["pairs"]:
        table.add_row(f"{pair['up']['layer']} → {pair['down']['layer']}", *(_group(pair[name]) for name in columns))
    parts: list[RenderableType] = [_head(answer), table]
    parts.append(Text("count and share of live features, in brackets of all (dead ones never pass)", style="dim"))
    parts += _hidden(answer)
    if (undecided := answer["lists"]["undecided"]) != 0:
        parts.append(Text(f"{number(undecided)} features without a listed partner may have one outside of the lists", style="dim"))
    if answer["items"] is not None:
        parts.append(_flow_items(answer))
    return Group(*parts)


def _hidden(answer: Any) -> list[RenderableType]:
    """How much of what features wrote is in the next SAE's error, and how many of those that disappear are hidden there."""
    known = [pair for pair in answer["pairs"] if pair["hidden"]["reason"] is None]
    if not known:
        return [Text(f"hidden in the SAE error: not known. {answer['pairs'][0]['hidden']['reason']}", style="dim")]
    titles = ("in the next SAE's error", "by chance", "still in the stream", "disappeared: in the error", "hidden")
    table = Table("layers", *(right(title) for title in titles), box=None, header_style="bold")
    for pair in known:
        every, gone, hidden = (pair["hidden"][name] for name in ("all", "disappeared", "hidden"))
        share = f"{number(hidden['count'])} of {number(gone['features'])}"
        medians = (every["error_share"], every["decoder"], every["stream_share"], gone["error_share"])
        shown = ("–" if value is None else f"{value:.1%}" for value in medians)
        table.add_row(f"{pair['up']['layer']} → {pair['down']['layer']}", *shown, share)
    note = (
        f"medians of shares of what a feature wrote, over features active in {answer['hidden_windows']} windows of one in 16; "
        f"hidden: {answer['hidden_share']:g} or more is in the error, and {answer['hidden_factor']:g} times what is by chance"
    )
    return [table, Text(note, style="dim")]


def _group(group: Any) -> str:
    live, every = group["live"], group["all"]
    if live["share"] is None:
        return f"{number(live['count'])} ({every['share']:.1%})"
    return f"{number(live['count'])}  {live['share']:.1%} ({every['share']:.1%})"


def _flow_items(answer: Any) -> RenderableType:
    table = Table(answer["kind"].replace("_", " "), right("fires"), "partner", box=None, header_style="bold")
    for title in (_measure(answer), "joint", "in the next SAE's error"):
        table.add_column(title, justify="right")
    for item in answer["items"]:
        best, share = item["best"], item["error_share"]
        found = ("none", "", "")
        if best is not None:
            partner = best["down"] if best["up"] == item["feature"] else best["up"]
            found = (partner, number(best["estimate"]), number(best["counts"]["joint"]))
        table.add_row(item["feature"], number(item["count"]), *found, "" if share is None else f"{share:.1%}")
    return Group(table, *_rest(answer))


def lineages(answer: Any) -> RenderableType:
    """`GET /v1/lineages`."""
    lengths = ", ".join(f"{number(row['count'])} of {row['length']}" for row in answer["lengths"])
    parts: list[RenderableType] = [_head(answer), Text(f"lineages by layers: {lengths or 'none'}")]
    table = Table("lineage", right("layers"), right(f"weakest {_measure(answer)}"), "share of Σa", box=None, header_style="bold")
    for row in answer["items"]:
        features = " → ".join(feature["feature"] for feature in row["features"])
        shares = " ".join("–" if one["share_of_sum"] is None else f"{one['share_of_sum']:.0%}" for one in row["features"])
        table.add_row(features, f"{row['birth']}–{row['death']}", number(row["weakest"]["estimate"]), shares)
    return Group(*parts, *([table] if answer["items"] else []), *_rest(answer))


def specializations(answer: Any) -> RenderableType:
    """`GET /v1/specializations`."""
    head = Text.assemble(
        (f"{number(answer['total'])} specialisations", "bold"),
        f", {number(answer['shown'])} of them certainly exclusive; necessity ≥ {answer['threshold']:g}, coverage ≥ "
        f"{answer['coverage']:g}, shared ≤ {answer['max_overlap']:g}, joint ≥ {answer['min_support']}, "
        f"{number(answer['snapshot']['tokens'])} tokens",
    )
    table = Table("parent", right("fires"), "children (part of the parent, necessity)", box=None, header_style="bold")
    for title in ("shared", "covers"):
        table.add_column(title, justify="right")
    for item in answer["items"]:
        conditions = item["conditions"]
        children = ", ".join(f"{one['feature']} ({one['share']:.0%}, {one['necessity']:.2f})" for one in item["children"])
        exact = conditions["exclusive"] == "exact"
        shares = conditions["shared"], conditions["coverage"]
        ends = [f"{one['lower']:.1%}" if exact else f"{one['lower']:.0%}–{one['upper']:.0%}" for one in shares]
        table.add_row(item["parent"], number(item["count"]), children, *ends)
    parts: list[RenderableType] = [head]
    if answer["items"]:
        parts += [
            table,
            Text(
                "shared: what two children have in common, of the smaller one: a number where joint counts are known, else at "
                "least and at most, and then a candidate unless the upper end is small enough.",
                style="dim",
            ),
        ]
    return Group(*parts, *_rest(answer))


def communities(answer: Any) -> RenderableType:
    """`GET /v1/communities`."""
    agreed, lower = answer["agreement"], "lower bound of " if answer["rank"] == "lower" else ""
    parts: list[RenderableType] = [
        Text.assemble(
            (f"{number(answer['communities'])} communities of {number(answer['nodes'])} features", "bold"),
            f" and {number(answer['edges'])} pairs with a {lower}{_measure(answer)} ≥ {answer['min_value']:g}, "
            f"{answer['objective']} {number(answer['quality'])}, {number(answer['snapshot']['tokens'])} tokens",
        ),
        Text(
            f"agreement of the two halves: {number(agreed['adjusted_mutual_information'])} "
            + (f"({agreed['reason']})" if agreed["reason"] else "(1: the same, 0: chance)"),
            style="dim",
        ),
    ]
    if answer["reason"]:
        parts.append(Text(answer["reason"], style="yellow"))
    numbers = right("features"), "layers", right("edges"), right("in half A, B")
    table = Table("id", *numbers, "strongest", box=None, header_style="bold")
    for item in answer["items"]:
        halves, span = item["stability"], item["span"]
        again = "–" if halves is None else f"{halves['a']:.0%}, {halves['b']:.0%}"
        layers = f"{span['first']}–{span['last']}"
        table.add_row(item["id"], number(item["size"]), layers, f"{item['density']:.0%}", again, " ".join(item["top"]))
    note = "edges: of all possible ones; in half A, B: how much of it the communities of either half of the documents have again"
    return Group(*parts, *([table, Text(note, style="dim")] if answer["items"] else []), *_rest(answer))


def _head(answer: Any) -> Text:
    return Text.assemble(
        (f"{_measure(answer)} ≥ {answer['threshold']:g}", "bold"),
        f", joint ≥ {answer['min_support']}, {number(answer['snapshot']['tokens'])} tokens",
    )


def _measure(answer: Any) -> str:
    measure: str = answer["measure"]
    return MEASURE_NAMES.get(measure, measure)


def _rest(answer: Any) -> list[RenderableType]:
    """How many more there are."""
    left = answer["total"] - len(answer["items"])
    return [Text(f"… and {number(left)} more", style="dim")] if left else []
