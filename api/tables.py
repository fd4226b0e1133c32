"""Answers of the API as readable tables for a terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from api.doctor import Finding

MEASURE_NAMES = {"mutual_information": "MI (nats)", "activation_cosine": "act. cosine", "decoder_cosine": "dec. cosine"}


def number(value: Any) -> str:
    """A count with thousands separators, a ratio with three digits, and a dash for what has no value."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"


def status(answer: Any, corpora: Any, series: Any = None) -> RenderableType:
    """`GET /v1/status`, `GET /v1/corpora`, and where there is one `GET /v1/convergence`."""
    layers = Table("layer", "hook point", right("features"), right("dead"), box=None, header_style="bold")
    for layer in answer["layers"]:
        share = f" ({layer['dead'] / layer['features']:.0%})"
        layers.add_row(str(layer["layer"]), layer["hook"], number(layer["features"]), number(layer["dead"]) + share)
    texts = Table("corpus", "state", right("uploads"), right("documents"), right("tokens counted"), box=None, header_style="bold")
    for corpus in corpora["items"]:
        cells = (corpus["state"], *(number(corpus[name]) for name in ("uploads", "documents", "tokens_counted")))
        texts.add_row(corpus["name"], *cells)
    lines = [
        Text.assemble(
            (f"{number(answer['tokens'])} tokens", "bold"),
            f" counted, {answer['tokens_per_second']:,.0f} tokens/s, {answer['state']}",
        )
    ]
    if calibration := answer.get("calibration"):
        lines.append(_calibration(calibration, answer["threshold"]["value"]))
    if bounded := [table for table in answer.get("tables", []) if table["layout"] == "bounded"]:
        kept = min(table["kept"] for table in bounded)
        size = sum(table["bytes"] for table in bounded)
        lines.append(
            Text(
                f"{len(bounded)} of {len(answer['tables'])} pair tables are bounded ({size / 1e9:.1f} GB): every feature keeps at "
                f"least its {number(kept)} strongest partners, counts say how much they may lack"
            )
        )
    if answer.get("problem"):
        lines.append(Text(f"problem: {answer['problem']}", style="red"))
    if checkpoint := answer.get("checkpoint"):
        age = time.time() - checkpoint["saved_at"]
        lines.append(Text(f"last checkpoint {age:,.0f} s ago, at {number(checkpoint['tokens'])} tokens", style="dim"))
    convergence = [_convergence(series)] if series and series["points"] else []
    return Group(*lines, layers, *convergence, *([texts] if texts.row_count else []))


def _convergence(series: Any) -> RenderableType:
    """The newest point by layer pair."""
    table = Table(
        "layers",
        right("at tokens"),
        right("split-half RBO"),
        right("unseen mass"),
        right("with intervals"),
        box=None,
        header_style="bold",
    )
    point = series["points"][-1]
    for at, (up, down) in enumerate(series["pairs"]):
        share = point["interval_share"][at]
        watched = "–" if share is None else f"{share:.0%} of {number(point['watched'][at])}"
        unseen = point["unseen_mass"][at]
        agreement = number(point["split_half_rbo"][at])
        table.add_row(f"{up}→{down}", number(point["tokens"]), agreement, "–" if unseen is None else f"{unseen:.2%}", watched)
    return table


def _calibration(answer: Any, ratio: float) -> Text:
    """One line about relative thresholds: how far they are, or what they are."""
    seen, wanted, never_fired = answer["tokens"], answer["calibration_tokens"], sum(answer["never_fired"])
    what = f"{ratio:g} of each feature's maximum"
    if not answer["done"]:
        done = f"{number(seen)} of {number(wanted)} tokens seen ({min(1.0, seen / wanted):.0%})"
        return Text(f"{done}, fewer if the first upload ends there; thresholds will be {what} in them", style="yellow")
    unseen = f"; {number(never_fired)} features had not fired there, their threshold is 0" if never_fired else ""
    return Text(f"thresholds: {what} in the first {number(seen)} tokens{unseen}", style="dim")


def finding(found: Finding) -> Text:
    """One line of `saestream doctor`, and below it what to do."""
    mark, style = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "wrong": ("✗", "red")}[found.state]
    line = Text.assemble((f"{mark} {found.check}", style), f"  {found.says}")
    return line.append(f"\n  → {found.do}", style="bold") if found.do else line


def feature_line(answer: Any) -> Text:
    """One line about a feature: what it is, how often it fires."""
    density = answer.get("density")
    share = "never fired" if not answer["count"] else f"fires on {density:.3%} of tokens ({number(answer['count'])} times)"
    return Text.assemble((answer["feature"], "bold"), f"  {answer['hook']}  ", (share, "cyan"))


def neighbors(answer: Any) -> RenderableType:
    """`GET /v1/features/{layer}/{index}/neighbors` in one direction."""
    measure = MEASURE_NAMES.get(answer["measure"], answer["measure"])
    table = Table(answer["direction"], right(measure), right("95 %"), right("joint"), right("fires"), box=None, header_style="bold")
    for row in answer["neighbors"]:
        counts = row["counts"]
        own = counts["down"] if answer["direction"] == "downstream" else counts["up"]
        joint = number(counts["joint"]) + (f" (+{number(counts['count_error'])})" if counts["count_error"] else "")
        table.add_row(row["feature"], number(row["estimate"]), _between(row), joint, number(own))
    if not answer["neighbors"]:
        return Text(f"{answer['direction']}: no feature fires together with it often enough yet", style="dim")
    if any(row["status"] == "heuristic" for row in answer["neighbors"]):
        return Group(table, Text("~ from the counts alone, tempered: a heuristic", style="dim"))
    return table


def _between(row: Any) -> str:
    """The bounds of a neighbour; ~ marks those that are a heuristic."""
    if row["lower"] is None:
        return "–"
    return f"{'~' if row['status'] == 'heuristic' else ''}{number(row['lower'])}–{number(row['upper'])}"


def compared(answer: Any) -> RenderableType:
    """`GET /v1/compare` and `GET /v1/compare/edges`."""
    a, b = answer["a"]["name"], answer["b"]["name"]
    edges = "measure" in answer
    what = f"{answer['measure']} of watched pairs" if edges else "densities of features"
    head = Text(f"{what}: {number(answer['different'])} of {number(answer['family'])} differ for certain", style="bold")
    table = Table("pair" if edges else "feature", right(a), right(b), right("difference"), right("between"), box=None)
    for row in answer["items"]:
        found = row["difference"]
        between = "–" if found["lower"] is None else f"{_share(found['lower'])} and {_share(found['upper'])}"
        label = f"{row['up']} → {row['down']}" if edges else row["feature"]
        table.add_row(label, *(_share(part["estimate"]) for part in (row["a"], row["b"], found)), between)
    reason = next((row["difference"]["reason"] for row in answer["items"] if row["difference"]["lower"] is None), None)
    return Group(head, table, *([Text(f"–: {reason}", style="dim")] if reason else []))


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.5f}"  # densities of SAE features are a few per mille


def pinned_line(answer: Any) -> Text:
    """`POST /v1/watch`."""
    line = Text(f"{number(answer['added'])} pairs are watched from here on, {number(answer['known'])} were already")
    if answer["counted_from"] is not None:
        line.append(f"; counted from token {number(answer['counted_from'])}", style="dim")
    return line


def pinned(answer: Any) -> RenderableType:
    """`GET /v1/watch`."""
    if not answer["items"]:
        return Text("no pairs were asked for yet", style="dim")
    table = Table("pair", "status", right("counted from"), right("tokens"), right("documents"), box=None, header_style="bold")
    for row in answer["items"]:
        cells = (number(row[name]) for name in ("counted_from", "tokens", "documents"))
        table.add_row(f"{row['up']} → {row['down']}", row["status"], *cells)
    shown = len(answer["items"])
    more = [Text(f"{number(shown)} of {number(answer['pinned'])} pairs", style="dim")] if shown < answer["pinned"] else []
    return Group(table, *more)


def upload_line(name: str, upload: Any) -> Text:
    """One line about an upload: its id, its state, what was counted, and what was set aside."""
    colour = {"counted": "green", "failed": "red"}.get(upload["state"], "cyan")
    line = Text.assemble((name, "bold"), f" → {upload['corpus']} ", (upload["state"], colour), f"  {upload['id']}")
    line.append(f"  {number(upload['documents'])} documents, {number(upload['tokens_counted'])} tokens counted")
    if upload.get("error"):
        line.append(f"  {upload['error']}", style="red")
    aside = upload.get("set_aside") or {}
    if aside.get("documents"):
        line.append(f"  set aside: {number(aside['documents'])} documents ({'; '.join(aside['reasons'])})", style="yellow")
    return line


def right(title: str | None) -> Column:
    """A right-aligned column."""
    return Column(title or "", justify="right")
