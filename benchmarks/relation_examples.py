"""The best example of every relation in a run, with its interval and its text, in a line or two of Markdown.

Numbers, intervals and contexts are asked of the engine as the API asks for `/v1/similarity`, `…/neighbors` and `…/contexts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from benchmarks.brute_force import Feature
from benchmarks.relation_check import Flow
from benchmarks.relation_run import Run
from engine.views.answers import EstimateAnswer, NeighborAnswer
from engine.views.records import CONTEXTS
from engine.views.relation_answers import KINDS, LineageAnswer, LinkAnswer, MatchAnswer, SpecializationAnswer
from engine.views.requests import ContextAnswer

FEWEST = 100
"""Tokens on which a feature of an example fires, at least."""

LOOKED_AT = 40
"""Pairs that are asked for their interval to find the one with the highest lower end."""

_SIDE = 9  # tokens of a context shown to each side


def feature_of(text: str) -> Feature:
    """ "3:17" → (3, 17)."""
    layer, index = text.split(":")
    return int(layer), int(index)


def passed(run: Run, flow: Flow) -> str:
    """The pair whose measure is certainly the highest."""
    links = [item.best for (_, kind), items in flow.items.items() if kind == KINDS[0] for item in items if item.best is not None]
    links = [link for link in links if min(link.counts.up, link.counts.down) >= FEWEST]
    links.sort(key=lambda link: -(link.estimate or 0.0))
    told = [(estimate(run, link.up, link.down, "pearson"), link) for link in links[:LOOKED_AT]]
    number, link = max(told, key=lambda one: one[0].lower if one[0].status == "ok" and one[0].lower is not None else -1.0)
    return f"{_pair(link)}, {in_words(number, 'Pearson')}; {both_fire(run, link.up, link.down)}"


def without_partner(run: Run, flow: Flow, kind: Literal["disappeared", "appeared"]) -> str:
    """The feature that fires most often of those without a partner, and what is nearest to it."""
    items = [item for (_, of), listed in flow.items.items() if of == kind for item in listed]
    item = max(items, key=lambda one: one.count)
    near = nearest(run, item.feature, "downstream" if kind == "disappeared" else "upstream")
    words = "nothing fires with it" if near is None else f"nearest {near.feature}, {in_words(near, 'Pearson')}"
    return f"{item.feature} ({item.count:,} tokens); {words}; {fires(run, item.feature)}"


def nearest(run: Run, feature: str, direction: Literal["downstream", "upstream"]) -> NeighborAnswer | None:
    """The neighbour with the highest Pearson, whatever the threshold."""
    layer, index = feature_of(feature)
    graph = run.whole.graph
    found = run.ask(
        lambda views: views.neighbors(
            layer,
            index,
            direction=direction,
            measure="pearson",
            k=1,
            min_support=graph.min_support,
            rank="estimate",
            published_k=graph.k,
            published_support=graph.min_support,
        )
    )
    return found.neighbors[0] if found.neighbors else None


def lineage(run: Run, found: Sequence[LineageAnswer]) -> str:
    """The longest one with the strongest weakest link."""
    best = found[0]
    chain = " → ".join(one.feature for one in best.features)
    weakest = estimate(run, best.weakest.up, best.weakest.down, "pearson")
    shares = " ".join(f"{100 * (one.share_of_sum or 0):.0f}" for one in best.features)
    ends = best.features[0].feature, best.features[-1].feature
    link = f"weakest link {best.weakest.up} → {best.weakest.down}, {in_words(weakest, 'Pearson')}"
    return f"{chain}; {link}; its activation lies {shares} % in these layers; {both_fire(run, *ends)}"


def specialization(run: Run, item: SpecializationAnswer) -> str:
    """A parent whose children are counted, and a text for each child."""
    told = item.conditions.counted
    assert told is not None
    children = " and ".join(
        f"{one.feature} ({100 * one.share:.0f} % of it, necessity {one.necessity:.2f})" for one in item.children
    )
    counted = f"of {told.parent:,} tokens since token {told.counted_from:,} they cover {100 * item.conditions.coverage.lower:.1f} %"
    shared = (
        f"and share {max(pair.within for pair in told.pairs):,} ({100 * item.conditions.shared.lower:.1f} % of the smaller one)"
    )
    texts = "; ".join(both_fire(run, item.parent, one.feature, of=one.feature) for one in item.children)
    return f"{item.parent} ({item.count:,} tokens) → {children}; {counted} {shared}; {texts}"


def decoders_disagree(run: Run, items: Sequence[MatchAnswer]) -> str:
    """The matched pair with the highest measure whose decoders would be matched to others."""
    frequent = [item for item in items if min(item.counts.up, item.counts.down) >= FEWEST]
    others = [item for item in frequent if item.data_free not in (None, item.down)]
    item = max(others, key=lambda one: one.estimate or 0.0)
    assert item.data_free is not None
    number, other = (estimate(run, item.up, down, "pearson") for down in (item.down, item.data_free))
    cosines = [estimate(run, item.up, down, "decoder_cosine").estimate or 0.0 for down in (item.down, item.data_free)]
    words = f"{_pair(item)}, {in_words(number, 'Pearson')}, decoder cosine {cosines[0]:.2f}"
    return (
        f"{words}; the decoders match {item.data_free}, {in_words(other, 'Pearson')}, cosine {cosines[1]:.2f}; "
        f"{both_fire(run, item.up, item.down)}"
    )


def estimate(run: Run, up: str, down: str, measure: str) -> EstimateAnswer:
    """A measure of a pair as `/v1/similarity` gives it."""
    return run.ask(lambda views: views.similarity(feature_of(up), feature_of(down))).measures[measure]


def in_words(number: EstimateAnswer | NeighborAnswer, measure: str) -> str:
    """ "Pearson 0.912 (0.897–0.925)"; marked where the bounds are heuristic, without where there are none."""
    value = f"{measure} {number.estimate:.3f}"
    if number.lower is None or number.upper is None:
        return f"{value} (too few documents for an interval)"
    mark = "heuristic " if number.status == "heuristic" else ""
    return f"{value} ({mark}{number.lower:.3f} to {number.upper:.3f})"


def both_fire(run: Run, up: str, down: str, of: str | None = None) -> str:
    """The text of the strongest activation of one of two features, the upstream one by default, at which the other fires too."""
    of = of or up
    for context in contexts(run, of, up, down):
        at = context.position
        values = context.values[up][at], context.values[down][at]
        if min(values) > 0:
            return f"{text(context, at)} ({values[0]:.1f} and {values[1]:.1f})"
    return f"they don't fire together at the strongest activations of {of}"


def fires(run: Run, feature: str) -> str:
    """The text of its strongest activation."""
    context = contexts(run, feature, feature)[0]
    return f"{text(context, context.position)} ({context.activation:.1f})"


def contexts(run: Run, of: str, *features: str) -> list[ContextAnswer]:
    """The strongest contexts of a feature, with the activations of others."""
    asked = list(dict.fromkeys([of, *features]))
    found = run.ask(lambda views: views.contexts([feature_of(one) for one in asked], CONTEXTS)).contexts
    return [context for context in found if context.feature == of]


def text(context: ContextAnswer, at: int) -> str:
    """Some tokens around one, which stands in brackets, as a line of code: `… of the ⟦feed⟧forward …`."""
    assert context.tokens is not None
    before, token, after = (
        "".join(part).replace("\n", "⏎").replace("`", "'")
        for part in (context.tokens[max(0, at - _SIDE) : at], [context.tokens[at]], context.tokens[at + 1 : at + 1 + _SIDE])
    )
    return f"`…{before}⟦{token}⟧{after}…`"


def _pair(link: LinkAnswer) -> str:
    return f"{link.up} → {link.down} (fire {link.counts.up:,} and {link.counts.down:,} times, together {link.counts.joint:,})"
