"""The README's pictures as plotly figures, from the rows alone. Each function takes all rows; None: it has none of its own.

Colours stand for names of the style sheet that `benchmarks.plots` puts into each picture, which knows light and dark.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from benchmarks.pair_products import DenseMatmuls, ScipySparse, TorchSparse
from benchmarks.rows import newest

INK, QUIET, LINE, PAPER = "rgb(1, 1, 1)", "rgb(2, 2, 2)", "rgb(3, 3, 3)", "rgb(4, 4, 4)"
OURS, FIRST, SECOND, THIRD = "rgb(5, 5, 5)", "rgb(6, 6, 6)", "rgb(7, 7, 7)", "rgb(8, 8, 8)"
WIDTH = 860
GROWS = {"tokens": "tokens", "active": "L0", "pairs": "layer_pairs", "dictionary": "D"}
WITHOUT_STATISTICS = ("forward", "encode", "compact")
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"

Rows = Sequence[dict[str, Any]]


def speed(rows: Rows) -> go.Figure | None:
    """accumulate: tokens per second of a layer pair on one core, by shape, for every way there is, with the bound."""
    own = [one for one in newest(rows, "accumulate", "numba") if one["seconds"]]
    if not own:
        return None
    most = {(one["shape"], one["sizes"]["L0"]): one for one in sorted(own, key=lambda one: one["sizes"]["tokens"])}
    names = {key: f"{one['shape']}, L0 {one['sizes']['L0']}" for key, one in most.items()}
    series: dict[str, dict[str, float]] = {name: {} for name in (DenseMatmuls.name, ScipySparse.name, TorchSparse.name)}
    for key, one in most.items():
        for name, ratio in one["ratios"].items():
            series[name][names[key]] = one["tokens_per_second"] / ratio
    series["saestream"] = {names[key]: one["tokens_per_second"] for key, one in most.items()}
    series["bound of this machine"] = {names[key]: one["sizes"]["tokens"] / one["bound_seconds"] for key, one in most.items()}
    looks = ((QUIET, "circle-open"), (FIRST, "circle"), (SECOND, "circle"), (OURS, "diamond"), (INK, "line-ns-open"))
    figure = go.Figure()
    for (name, points), (color, symbol) in zip(series.items(), looks, strict=True):
        marker = {"color": color, "symbol": symbol, "size": 13 if symbol != "circle" else 10, "line": {"width": 2, "color": color}}
        figure.add_scatter(name=name, x=list(points.values()), y=list(points), mode="markers", marker=marker)
    for name in names.values():
        ends = [points[name] for points in series.values() if name in points]
        figure.add_shape(type="line", x0=min(ends), x1=max(ends), y0=name, y1=name, line={"color": LINE, "width": 1}, layer="below")
    figure.update_xaxes(type="log", dtick=1, title="tokens per second, one layer pair on one core")
    figure.update_yaxes(autorange="reversed")
    return _styled(figure, "Counting a layer pair", own, 210 + 36 * len(names))


def growth(rows: Rows) -> go.Figure | None:
    """How the cost grows with tokens, L0, layer pairs, and with the dictionary under a memory budget."""
    of = {what: [one for one in newest(rows, "growth", what) if one["seconds"]] for what in ("tokens", "active", "pairs")}
    wide = newest(rows, "bounded", "width")
    if not (all(of.values()) and wide):
        return None
    figure = make_subplots(
        *(1, 4),
        subplot_titles=("tokens", "L0", "layer pairs", f"dictionary, {wide[0]['sizes']['budget'] / 1e9:.0f} GB at most"),
        horizontal_spacing=0.05,
    )
    panels = [(found, [one["updates"] for one in found], what) for what, found in of.items()]
    panels.append((wide, [one["sizes"]["D"] for one in wide], "dictionary"))
    for column, (found, sizes, what) in enumerate(panels, 1):
        work = [size / sizes[0] for size in sizes]
        cost = [one["seconds"]["cpu_p50"] / found[0]["seconds"]["cpu_p50"] for one in found]
        linear = [1.0, max(work)]
        figure.add_scatter(x=linear, y=linear, mode="lines", line={"color": QUIET, "dash": "dot", "width": 1}, row=1, col=column)
        look = {"color": OURS, "width": 2}
        figure.add_scatter(x=work, y=cost, mode="lines+markers", line=look, marker={"size": 7, "color": OURS}, row=1, col=column)
        for at, place in ((0, {"xanchor": "left", "xshift": 6, "yshift": -10}), (-1, {"xanchor": "right", "yshift": 14})):
            text = f"{found[at]['sizes'][GROWS[what]]:,}"
            figure.add_annotation(x=_log(work[at]), y=_log(cost[at]), text=text, showarrow=False, **place, row=1, col=column)
    figure.update_xaxes(type="log", title="updates, ×", tickvals=[1, 4, 16, 64], range=[-0.15, 2.1])
    figure.update_yaxes(type="log", tickvals=[1, 4, 16, 64], range=[-0.35, 2.1])
    figure.update_yaxes(title="CPU time, ×", col=1)
    figure.update_xaxes(title="features, ×", col=4)
    figure.update_layout(showlegend=False)
    return _styled(figure, "How the cost grows; dotted: in proportion", [one for found, *_ in panels for one in found], 340)


def distances(rows: Rows) -> go.Figure | None:
    """How far from its bound everything is that has one."""
    found = {_named(one): one for one in _last(rows) if one.get("distance")}
    if not found:
        return None
    names = sorted(found, key=lambda name: found[name]["distance"], reverse=True)
    distance = [found[name]["distance"] for name in names]
    figure = go.Figure()
    figure.add_bar(x=distance, y=names, orientation="h", marker_color=OURS, text=[f"{value:.1f}" for value in distance], width=0.6)
    figure.update_traces(textposition="outside", cliponaxis=False, textfont_color=INK)
    figure.update_xaxes(type="log", dtick=1, title="times the bound", range=[0, _log(max(distance)) + 0.2])
    return _styled(figure, "Distance to what this machine allows", list(found.values()), 120 + 24 * len(names))


def loop(rows: Rows) -> go.Figure | None:
    """Where a token's time goes on the demo."""
    run = newest(rows, "loop", "all of it")
    if not run:
        return None
    stages = [one for one in rows if one.get("run") == run[0]["run"] and one["benchmark"] == "loop"]
    inside = [one for one in stages if ":" not in one["variant"] and one["variant"] not in ("all of it", "tokenise, alone")]
    inside.sort(key=lambda one: one["microseconds_per_token"])
    order = [one["variant"] for one in inside]
    figure = go.Figure()
    for name, color, among in (("model and SAEs", FIRST, True), ("statistics and serving", OURS, False)):
        part = [one for one in inside if (one["variant"] in WITHOUT_STATISTICS) == among]
        values = [one["microseconds_per_token"] for one in part]
        text = [f"{value:.1f}" for value in values]
        figure.add_bar(
            name=name, x=values, y=[one["variant"] for one in part], orientation="h", marker_color=color, width=0.6, text=text
        )
    figure.update_traces(textposition="outside", cliponaxis=False, textfont_color=INK)
    figure.update_yaxes(categoryorder="array", categoryarray=order)
    figure.update_xaxes(title="µs per token")
    whole = run[0]["tokens_per_second"]
    return _styled(figure, f"The demo, end to end: {whole:,.0f} tokens/s", run, 150 + 24 * len(inside))


def gpu(rows: Rows) -> go.Figure | None:
    """Every way to accumulate on a GPU, in the batches that most of them were measured in."""
    run = [one for one in newest(rows, "gpu_accumulate") if one["seconds"]]
    if not run:
        return None
    size = Counter((one["sizes"]["L0"], one["sizes"]["tokens"]) for one in run if "cells" in one).most_common(1)
    there = {
        one["variant"]: one
        for one in run
        if not size or (one["sizes"]["L0"], one["sizes"]["tokens"]) == size[0][0] or "cells" not in one
    }
    order = sorted(there, key=lambda variant: there[variant]["tokens_per_second_of_11_pairs"])
    values = [there[variant]["tokens_per_second_of_11_pairs"] for variant in order]
    bound = max(one["sizes"]["tokens"] / one["bound_seconds"] / 11 for one in there.values())
    figure = go.Figure()
    figure.add_bar(x=values, y=order, orientation="h", marker_color=OURS, width=0.6, text=[f"{value:,.0f}" for value in values])
    figure.update_traces(textposition="outside", cliponaxis=False, textfont_color=INK)
    for name, at in (("goal", there[order[-1]]["goal"]), ("bound", bound)):
        figure.add_vline(x=at, line={"color": QUIET, "dash": "dot", "width": 1}, annotation_text=name)
    figure.update_xaxes(type="log", dtick=1, title="tokens per second over 11 layer pairs")
    return _styled(figure, "Accumulate on a GPU, GPT-2 small's size", run, 150 + 22 * len(order))


def _last(rows: Rows) -> list[dict[str, Any]]:
    """Of every benchmark on the CPU and variant the rows of its last run, without what is only there to be compared with."""
    kinds = dict.fromkeys((one["benchmark"], one["variant"]) for one in rows if "gpu" not in one["machine"])
    against = {(one["benchmark"], name) for one in rows for name in (one.get("baseline"), *one.get("ratios", ()))}
    return [one for kind in kinds if kind not in against for one in newest(rows, *kind)]


def _named(one: dict[str, Any]) -> str:
    """A row in a few words."""
    sizes = one["sizes"]
    told = [f"L0 {sizes['L0']}"] if one["benchmark"] == "accumulate" else []
    told += [f"T {sizes['tokens']:,}"] if one["benchmark"] in ("accumulate", "gates") else []
    return ", ".join([one["benchmark"], one["variant"], *([one["shape"]] if "shape" in one else []), *told])


def _log(value: float) -> float:
    return math.log10(value)


def _styled(figure: go.Figure, title: str, measured: Rows, height: int) -> go.Figure:
    """One look for all, with machine and date of the newest row."""
    last = max(measured, key=lambda one: one["date"])
    machine = last["machine"]
    where = f"{machine.get('gpu', machine['cpu'])}, {last['date'][:10]}, load {machine['load_1min']}"
    axis = {
        "gridcolor": LINE,
        "linecolor": LINE,
        "zeroline": False,
        "tickfont": {"color": INK},
        "title_font": {"color": QUIET, "size": 13},
    }
    figure.update_xaxes(**axis, automargin=True)
    figure.update_yaxes(**axis, automargin=True)
    figure.update_annotations(font={"color": QUIET, "size": 12})
    figure.update_layout(
        width=WIDTH,
        height=height,
        paper_bgcolor=PAPER,
        plot_bgcolor=PAPER,
        font={"family": FONT, "size": 13, "color": INK},
        title={
            "text": title,
            "font": {"size": 16},
            "x": 0.012,
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 14},
            "subtitle": {"text": where, "font": {"size": 11, "color": QUIET}},
        },
        legend={"orientation": "h", "y": -0.02, "yref": "container", "yanchor": "bottom", "x": 0, "font": {"size": 12}},
        margin={"l": 20, "r": 40, "t": 80, "b": 50},
    )
    return figure


FIGURES: Mapping[str, Callable[[Rows], go.Figure | None]] = {
    "speed": speed,
    "growth": growth,
    "distances": distances,
    "loop": loop,
    "gpu": gpu,
}
"""By the name of the picture."""
