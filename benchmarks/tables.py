"""The README's table of figures, from the rows alone: what was measured, held against what, how far from its bound and its goal."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rows import newest

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- made by `make plots` from benchmarks/results -->", "<!-- end of what `make plots` makes -->"
HEAD = ("what", "figure", "against", "times the bound", "goal")

Row = dict[str, Any]
Line = tuple[str, str, str, str, str]


def table(rows: Sequence[Row]) -> str:
    """Markdown: the lines that there are rows for, and when and where they were measured."""
    used: list[Row] = []
    lines = [HEAD, ("---",) * len(HEAD)]
    for (benchmark, variant), line in LINES.items():
        for one in newest(rows, benchmark, variant):
            used.append(one)
            lines.append(line(one))
    places = sorted({(one["date"][:10], machine(one)) for one in used})
    measured = [f"{date} on {name}, {loads(used, date, name)}" for date, name in places]
    where = f"Measured on {'; '.join(measured)}." if used else "Nothing was measured yet."
    return "\n".join([*("| " + " | ".join(line) + " |" for line in lines), "", where])


def put_in(readme: str, made: str) -> str:
    """The README with the table in its place.

    Raises:
        ValueError: the place is not marked.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the README has no place for the table: {BEGIN} … {END}")
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def machine(one: Row) -> str:
    """Processor or GPU, and cores."""
    return f"{one['machine'].get('gpu', one['machine']['cpu'])} ({one['machine']['cores']} cores)"


def loads(rows: Sequence[Row], date: str, name: str) -> str:
    """How busy that machine was that day; one benchmark alone is a load of 1 to 2."""
    load = [one["machine"]["load_1min"] for one in rows if one["date"].startswith(date) and machine(one) == name]
    return f"load {min(load):.0f} to {max(load):.0f}"


def of_accumulate(one: Row) -> Line:
    sizes = one["sizes"]
    cores = "" if one["variant"] == "numba" else one["variant"].removeprefix("numba")
    what = f"accumulate, {one['shape']} ({sizes['D']:,} features, L0 {sizes['L0']}), {sizes['tokens']:,} tokens{cores}"
    if one["seconds"] is None:
        return what, one["missed"], "", "", ""
    rate = f"{thousands(one['tokens_per_second'])} tokens/s, {one['updates_per_second'] / 1e6:.0f} M updates/s"
    ratios = ", ".join(f"{times(ratio)} {name}" for name, ratio in one["ratios"].items())
    return what, rate, ratios, f"{one['distance']:.1f}", goal(one)


def of_compact(one: Row) -> Line:
    tokens = one["sizes"]["tokens"]
    what = f"compact with ReLU, {one['shape']} ({one['sizes']['D']:,} features)"
    rate = f"{1e6 * one['seconds']['cpu_p50'] / tokens:.1f} µs a token"
    return what, rate, f"{times(one['ratio'])} {one['baseline']}", f"{one['distance']:.1f}", goal(one)


def of_gates(one: Row) -> Line:
    what = f"truth tables of gates, {one['shape']}, {one['sizes']['tokens']:,} tokens"
    rate = f"{1e6 * one['seconds_per_token']:.1f} µs a token"
    return what, rate, f"{one['cost_by_cpu_time']:.2f} of what accumulate costs", "", goal(one)


def of_ranking(one: Row) -> Line:
    what = f"top {one['sizes']['k']} of a layer pair, {one['variant']}, {one['shape']}"
    against = f"{times(one['ratio'])} {one['baseline']}" if "ratio" in one else ""
    return what, seconds(one, "cpu_p50"), against, f"{one['distance']:.1f}", ""


def of_publish(one: Row) -> Line:
    what = f"publish, {one['shape']}, {one['variant']}"
    return what, f"{seconds(one)}, {one['written']:,} records, {one['bytes'] / 1e6:.0f} MB", "", "", ""


def of_recall(one: Row) -> Line:
    what = f"a bounded table, {one['sizes']['D']:,} features, {one['sizes']['kept']:,} partners kept"
    held = f"true ten held for {100 * one['true_ten_held']:.2f} % of {one['features_with_100']:,} features, "
    figure = f"{held}{one['bounds_violated']} bounds violated, {one['table_bytes'] / 1e9:.1f} GB"
    return what, figure, f"{one['ratio']:.1f} times the time of a dense table", "", ""


def of_width(one: Row) -> Line:
    sizes = one["sizes"]
    what = f"a layer pair of {sizes['D']:,} features in {sizes['budget'] / 1e9:.0f} GB: {one['layout']}, {one['kept']:,} kept"
    return what, f"{1e6 * one['seconds_per_token']:.1f} µs a token", "", "", ""


def of_million(one: Row) -> Line:
    what = f"the whole state of {one['sizes']['layers']} layers of {one['sizes']['D']:,} features"
    used = f"{one['state_bytes_used'] / 1e9:.1f} GB of the {one['sizes']['budget'] / 1e9:.0f} GB allowed"
    return what, f"{one['tokens_per_second']:,.0f} tokens/s, {used}", "", "", ""


def of_share(one: Row) -> Line:
    what = f"{one['variant']} at GPT-2 size, batches of {one['sizes']['tokens']:,} tokens"
    return what, f"{100 * one['share']:.1f} % of it", one["baseline"], "", ""


def of_loop(one: Row) -> Line:
    against = f"{one['ratio']:.2f} times {one['baseline']}"
    return "the demo, end to end", f"{one['tokens_per_second']:,.0f} tokens/s", against, f"{one['distance']:.1f}", ""


def of_api(one: Row) -> Line:
    what = f"the API beside a counting engine: {one['variant']}"
    rate = f"{one['requests_per_second']:,.0f} requests/s, p99 {1e3 * one['p99']:.0f} ms"
    return what, rate, f"{one['ratio']:.2f} of {one['baseline']}", "", goal(one)


def of_visible(one: Row) -> Line:
    what = f"from counted to visible, demo, {one['variant'].removeprefix('visible: ')}"
    return what, f"p50 {one['seconds']['p50']:.2f} s, p99 {one['p99']:.2f} s", "", "", goal(one)


def of_gpu(one: Row) -> Line:
    what = f"accumulate on the GPU, {one['variant']}, L0 {one['sizes'].get('L0')}, {one['sizes'].get('tokens', 0):,} tokens"
    if one["seconds"] is None:
        return what, one["missed"], "", "", ""
    rate = f"{thousands(one['tokens_per_second_of_11_pairs'])} tokens/s over 11 layer pairs"
    against = f"{times(one['ratio'])} {one['baseline']}" if "ratio" in one else ""
    return what, rate, against, f"{one['distance']:.1f}", reached(f"{one['goal'] / 1e6:.0f} M tokens/s", one["goal_ratio"])


def of_gpu_run(one: Row) -> Line:
    rate = f"{thousands(one['tokens_per_second'])} tokens/s, statistics {100 * one['share']:.1f} % of the time"
    wanted = f"10 M tokens in {one['goal']:.0f} s"
    return f"10 M tokens end to end on the GPU, {one['variant']}", rate, "", "", reached(wanted, one["goal_ratio"])


def goal(one: Row) -> str:
    """What was to be reached, and whether it was."""
    return reached(one["goal"], one["goal_ratio"]) if "goal" in one else ""


def reached(wanted: str, ratio: float) -> str:
    return f"{wanted}: {'met' if ratio >= 1 else '**missed**'} ({ratio:.2f})"


def seconds(one: Row, which: str = "p50") -> str:
    value = one["seconds"][which]
    return f"{value:.2f} s" if value >= 0.1 else f"{1000 * value:.1f} ms"


def times(ratio: float) -> str:
    return f"{ratio:,.0f} ×" if ratio >= 10 else f"{ratio:.1f} ×"


def thousands(value: float) -> str:
    return f"{value / 1000:,.0f} k" if value >= 10_000 else f"{value:,.0f}"


LINES: Mapping[tuple[str, str | None], Callable[[Row], Line]] = {
    ("loop", "all of it"): of_loop,
    ("accumulate", "numba"): of_accumulate,
    ("accumulate", "numba, 2 cores"): of_accumulate,
    ("bounded", "recall"): of_recall,
    ("bounded", "width"): of_width,
    ("bounded", "million"): of_million,
    ("compact", "numba, relu included"): of_compact,
    ("share", "compact of 12 layers + accumulate of 11 pairs"): of_share,
    ("gates", "count_gate_cells"): of_gates,
    ("ranking", "by Jaccard"): of_ranking,
    ("ranking", "cells taken"): of_ranking,
    ("ranking", "published lists"): of_ranking,
    ("publish", "everything"): of_publish,
    ("publish", "after 512 tokens"): of_publish,
    ("api", "neighbours of 50 features"): of_api,
    ("api", "answers of 50 features"): of_api,
    ("api", "neighbours of all features"): of_api,
    ("api", "visible: no load"): of_visible,
    ("api", "visible: under load"): of_visible,
    ("gpu_accumulate", "rows"): of_gpu,
    ("gpu_end_to_end", None): of_gpu_run,
}
"""Benchmark and variant (None: all), in the order of the table."""
