"""What `make run` shows of the statistics: features of a middle layer, their next-layer neighbours, text on which both fire."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from api import tables
from api.client import Client

SAMPLE = 192  # features looked at in one layer: every fifth of the demo's 1,024, a third of a second of requests
SHOWN = 6
NEIGHBORS = 3
CONTEXT_TOKENS = 14  # to each side of the token that both fire on


@dataclass
class Watched:
    """A few features whose nearest neighbour is shown while counting: the most frequent ones of a sample, chosen once."""

    features: list[tuple[int, int]] = field(default_factory=list)

    def look(self, client: Client) -> list[Text]:
        """One line per watched feature: its closest downstream feature so far."""
        if not self.features:
            self.features = [feature for _, feature in _busiest(client, 48)[4:7]]
        lines = []
        for layer, index in self.features:
            nearest = _neighbors(client, layer, index, 1)["neighbors"]
            if nearest:
                near, counts = nearest[0], nearest[0]["counts"]
                value = f"Jaccard {tables.number(near['estimate'])}"
                lines.append(Text(f"{layer}:{index} → {near['feature']}  {value}  ({counts['joint']:,} of {counts['up']:,})"))
        return lines


def report(client: Client) -> RenderableType:
    """The closing summary, from the API alone."""
    status = client.get("/v1/status")
    layer = middle_layer(status)
    rows = []
    for count, (_, index) in _busiest(client, SAMPLE, layer):
        answer = _neighbors(client, layer, index, NEIGHBORS)
        if answer["neighbors"] and answer["neighbors"][0]["estimate"] is not None:
            rows.append((answer["neighbors"][0]["estimate"], count, index, answer))
    rows.sort(key=lambda row: (-row[0], row[2]))
    # Not the very closest only: evenly spaced from the closest to the median, so that partial matches are seen too.
    step = max(1, len(rows) // (2 * SHOWN))
    parts: list[RenderableType] = [
        Text(
            f"\n{status['tokens']:,} tokens counted. Some features of layer {layer} ({status['layers'][layer]['hook']}) "
            f"and their nearest features in layer {layer + 1}:",
            style="bold",
        )
    ]
    for _, _, index, answer in rows[::step][:SHOWN]:
        parts.append(Text(""))
        parts.append(tables.feature_line(client.get(f"/v1/features/{layer}/{index}")))
        parts.append(tables.neighbors(answer))
        parts.extend(_both_fire(client, (layer, index), answer["neighbors"][0]["feature"]))
    return Group(*parts)


def middle_layer(status: Any) -> int:
    """The layer in the middle, which has a next one."""
    return max(0, (len(status["layers"]) - 1) // 2)


def _busiest(client: Client, sample: int, layer: int | None = None) -> list[tuple[int, tuple[int, int]]]:
    """Features of an evenly spaced sample of one layer that have fired, most frequent first."""
    status = client.get("/v1/status")
    layer = middle_layer(status) if layer is None else layer
    size = status["layers"][layer]["features"]
    indices = range(0, size, max(1, size // sample))
    counted = [(client.get(f"/v1/features/{layer}/{index}/neighbors", k=1)["count"], (layer, index)) for index in indices]
    return sorted((row for row in counted if row[0]), reverse=True)


def _neighbors(client: Client, layer: int, index: int, k: int) -> Any:
    return client.get(f"/v1/features/{layer}/{index}/neighbors", direction="downstream", measure="jaccard", k=k)


def _both_fire(client: Client, feature: tuple[int, int], neighbor: str) -> list[Text]:
    """Text on which a feature and its neighbour both fire: from the strongest contexts of either, where the other fires too."""
    layer, index = feature
    name = f"{layer}:{index}"
    answer = client.get(f"/v1/features/{layer}/{index}/contexts", **{"with": neighbor})
    lines = []
    for context in answer["contexts"]:
        ours, theirs = context["values"][name], context["values"][neighbor]
        both = [min(a, b) for a, b in zip(ours, theirs, strict=True)]
        at = max(range(len(both)), key=both.__getitem__)
        if both[at] > 0:
            lines.append(_context_line(context["tokens"], at, f"{ours[at]:.2f} and {theirs[at]:.2f}"))
    return lines[:1]


def _context_line(tokens: list[str], at: int, values: str) -> Text:
    before = "".join(tokens[max(0, at - CONTEXT_TOKENS) : at])
    after = "".join(tokens[at + 1 : at + 1 + CONTEXT_TOKENS])
    parts = (_visible(part) for part in (before, tokens[at], after))
    return Text.assemble("  both fire:  …", next(parts), (next(parts), "bold reverse"), next(parts), "…", (f"   ({values})", "dim"))


def _visible(text: str) -> str:
    """On one line: a line feed as ⏎."""
    return text.replace("\n", "⏎")
