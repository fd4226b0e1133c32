"""The charts of a report as plotly figures. Colours of text and grid are the page's, which knows whether it is dark.

Plotly reads tags and entities in every label, so what comes from outside goes through `plain`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

PASSED, DISAPPEARED, APPEARED, LAYER = "#4f7fd9", "#cc6a5c", "#3f9f75", "#8a93a3"
_DEPTH = ["#3d74d6", "#8a63cc", "#c95a93", "#d97b3f"]  # from the first layer pair to the last; each readable on white and on black
_PAD = 14  # pixels between nodes of a column
_MARGIN = {"l": 8, "r": 8, "t": 8, "b": 8}


@dataclass(frozen=True)
class Chart:
    """One figure: plotly's JSON, and the sentences below it; `wide` is the width in pixels below which it is scrolled, not
    squeezed."""

    title: str
    caption: str
    figure: dict[str, Any]
    wide: int = 0


def plain(text: str) -> str:
    """Text that plotly shows as it is, tags and entities included."""
    return html.escape(text, quote=False)


def depth_colors(count: int) -> list[str]:
    """One colour per layer pair, in the order of the layers."""
    return [str(color) for color in sample_colorscale(_DEPTH, [at / max(1, count - 1) for at in range(count)])] if count else []


def sankey(chain: Sequence[Any], hooks: list[str], among: str) -> dict[str, Any]:
    """Flow along consecutive layer pairs.

    Between two layers stands what passes: as many upstream features on its left as pass, as many downstream ones on its right as
    are passed into. The two differ, since several features may have the same partner.

    Args:
        chain: pairs of `/v1/flow`, each beginning where the one before ends.
        hooks: name of each layer.
        among: "live" or "all".
    """
    size = "live" if among == "live" else "features"
    layers = [(pair["up"]["layer"], pair["up"][size]) for pair in chain]
    layers.append((chain[-1]["down"]["layer"], chain[-1]["down"][size]))
    nodes = [
        _Node(2 * at, str(layer), LAYER, count, f"layer {layer}, {plain(hooks[layer])}<br>{count:,} {_FEATURES[among]}")
        for at, (layer, count) in enumerate(layers)
    ]
    links: list[tuple[int, int, int, str, str]] = []
    for at, pair in enumerate(chain):
        up, down = pair["up"]["layer"], pair["down"]["layer"]
        passed, gone, into, new = (pair[kind][among]["count"] for kind in ("passed", "disappeared", "passed_into", "appeared"))
        first = len(nodes)
        told = f"{passed:,} features of layer {up} pass<br>{into:,} features of layer {down} are passed into"
        nodes.append(_Node(2 * at + 1, "", PASSED, max(passed, into), told))
        nodes.append(_Node(2 * at + 1, "", DISAPPEARED, gone, f"{gone:,} features of layer {up} disappear"))
        nodes.append(_Node(2 * at + 1, "", APPEARED, new, f"{new:,} features of layer {down} appear"))
        links += [
            (at, first, passed, PASSED, f"{passed:,} features of layer {up} pass"),
            (first, at + 1, into, PASSED, f"{into:,} features of layer {down} are passed into"),
            (at, first + 1, gone, DISAPPEARED, nodes[first + 1].told),
            (first + 2, at + 1, new, APPEARED, nodes[first + 2].told),
        ]
    height = 360
    places = _places(nodes, height - _MARGIN["t"] - _MARGIN["b"])
    source, target, value, color, told = (list(column) for column in zip(*links, strict=True))
    trace = go.Sankey(
        arrangement="fixed",
        node={
            "label": [node.label for node in nodes],
            "color": [node.color for node in nodes],
            "customdata": [node.told for node in nodes],
            "hovertemplate": "%{customdata}<extra></extra>",
            "x": [x for x, _ in places],
            "y": [y for _, y in places],
            "pad": _PAD,
            "thickness": 12,
            "align": "center",
            "line": {"width": 0},
        },
        link={
            "source": source,
            "target": target,
            "value": value,
            "color": [_faint(one) for one in color],
            "customdata": told,
            "hovertemplate": "%{customdata}<extra></extra>",
        },
    )
    return _figure([trace], height=height, margin=_MARGIN)


_FEATURES = {"live": "features that fired", "all": "features"}


@dataclass(frozen=True)
class _Node:
    column: int
    label: str
    color: str
    value: int
    told: str


def _places(nodes: Sequence[_Node], height: float) -> list[tuple[float, float]]:
    """The centre of each node in [0, 1]²: columns from left to right, a column's nodes from the top in their order.

    The scale is the one that plotly takes: that at which the fullest column, with its gaps, just fits.
    """
    columns: dict[int, list[int]] = {}
    for node in nodes:
        columns.setdefault(node.column, []).append(node.value)
    scale = min((height - _PAD * (len(values) - 1)) / max(1, sum(values)) for values in columns.values())
    last, tops = max(columns), dict.fromkeys(columns, 0.0)
    places = []
    for node in nodes:
        top, size = tops[node.column], node.value * scale
        tops[node.column] += size + _PAD
        inside = (min(max(value, 0.001), 0.999) for value in (node.column / last, (top + size / 2) / height))  # 0 is "not given"
        places.append(tuple(inside))
    return places


def dead_bars(layers: Sequence[Any]) -> dict[str, Any]:
    """Share of dead features per layer, from `/v1/status`."""
    names = [plain(f"{layer['layer']} · {_short(layer['hook'])}") for layer in layers]
    bars = go.Bar(
        orientation="h",
        y=names,
        x=[layer["dead"] / layer["features"] for layer in layers],
        customdata=[f"{plain(layer['hook'])}: {layer['dead']:,} of {layer['features']:,} features never fired" for layer in layers],
        hovertemplate="%{customdata}<extra></extra>",
        marker={"color": DISAPPEARED},
        text=[f"{layer['dead']:,}" for layer in layers],
        textposition="outside",
        cliponaxis=False,
    )
    return _figure(
        [bars],
        height=70 + 26 * len(layers),
        bargap=0.35,
        yaxis={"autorange": "reversed", "type": "category", "automargin": True, "showgrid": False, "ticksuffix": " "},
        xaxis={"tickformat": ".1~%", "rangemode": "tozero", "automargin": True, "nticks": 5},
        margin={"l": 8, "r": 44, "t": 8, "b": 30},
    )


def curves(names: Sequence[str], x: Sequence[int], rows: Sequence[Sequence[float | None]], **axis: Any) -> dict[str, Any]:
    """A line per name over tokens (a logarithmic axis).

    Args:
        names: as hovering shows them; ours, not from outside.
        x: tokens of each point.
        rows: value of each name at each point, None where it is not known.
        axis: of the values.
    """
    tickformat = axis.get("hoverformat", ".3f")
    traces = [
        go.Scatter(
            x=list(x),
            y=list(row),
            name=name,
            mode="lines+markers",
            line={"color": color, "width": 1.8},
            marker={"size": 4.5},
            hovertemplate=f"{name}<br>%{{x:,}} tokens: %{{y:{tickformat}}}<extra></extra>",
        )
        for name, row, color in zip(names, rows, depth_colors(len(names)), strict=True)
    ]
    ticks = _ticks(x)
    labels = {"tickvals": ticks, "ticktext": [_thousands(tokens) for tokens in ticks]}
    return _figure(traces, height=230, xaxis={"type": "log", "automargin": True, **labels}, yaxis={"automargin": True, **axis})


def _ticks(x: Sequence[int]) -> list[int]:
    """At most four of ascending points, about evenly spaced by their logarithms, the last one always."""
    chosen: list[int] = []
    for tokens in reversed(x):
        if tokens and (not chosen or math.log(chosen[-1] / tokens) >= math.log(x[-1] / max(1, x[0])) / 3.2):
            chosen.append(tokens)
    return chosen[::-1]


def _thousands(tokens: int) -> str:
    for size, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if tokens >= size:
            return f"{tokens / size:.3g}{letter}"
    return str(tokens)


def histogram(items: Sequence[Any]) -> dict[str, Any]:
    """Upstream features by their best partner: one outline per layer pair, as shares of the features that fired.

    `items` are those of `/v1/histograms` of one measure.
    """
    bins = items[0]["bins"]
    filled = [at for item in items for at, count in enumerate(item["up"]["counts"]) if count] or [0]
    chosen = range(max(0, min(filled) - 1), min(len(bins) - 1, max(filled) + 2))
    doubling = bins[-1] / bins[-2] == 2  # lift and mutual information
    edges = [bins[at] for at in (*chosen, chosen[-1] + 1)]
    if doubling and not edges[0]:
        edges[0] = edges[1] / 2  # a logarithmic axis has no 0
    traces = []
    for item, color in zip(items, depth_colors(len(items)), strict=True):
        side, name = item["up"], f"{item['pair'][0]} → {item['pair'][1]}"
        shares = [side["counts"][at] / side["live"] if side["live"] else 0 for at in chosen]
        told = [[side["counts"][at], f"{bins[at]:.3g} to {bins[at + 1]:.3g}"] for at in chosen]
        traces.append(
            go.Scatter(  # the outline: up at the first edge, down at the last
                x=[edges[0], *edges],
                y=[0, *shares, 0],
                customdata=[told[0], *told, told[-1]],
                name=name,
                mode="lines",
                line={"color": color, "width": 1.8, "shape": "hv"},
                hovertemplate=f"{name}<br>%{{customdata[1]}}: %{{customdata[0]:,}} features<extra></extra>",
            )
        )
    x = {"type": "log", "tickformat": "~g", "nticks": 6} if doubling else {"nticks": 6}
    y = {"tickformat": ".0%", "rangemode": "tozero", "nticks": 5, "automargin": True}
    return _figure(traces, height=210, xaxis={**x, "automargin": True, "showgrid": False}, yaxis=y)


def _figure(traces: list[Any], **layout: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"margin": {"l": 8, "r": 10, "t": 8, "b": 8}, "showlegend": False, "hovermode": "closest", **layout}
    figure = go.Figure(data=traces, layout=go.Layout(template={}, **given))
    return figure.to_plotly_json()


def _faint(color: str) -> str:
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.38)"


def _short(hook: str) -> str:
    return hook if len(hook) <= 28 else f"{hook[:27]}…"
