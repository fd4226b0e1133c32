"""Contexts as a report shows them: a stretch of a window, each token marked by which of two features fire on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from api.client import Client
from engine.errors import NotReady

BEFORE, AFTER = 28, 20  # tokens shown around the strongest one: about four lines

Fires = Literal["", "first", "second", "both"]


@dataclass(frozen=True)
class Token:
    """One token: its text, which features fire on it, how strongly the first does (share of its strongest here), and both values
    for the reader who points at it."""

    text: str
    fires: Fires
    heat: float
    values: str
    peak: bool


@dataclass(frozen=True)
class Shown:
    """One context. `tokens` is None in a run without a model; `cut` says whether there is more before and after."""

    feature: str
    activation: float
    corpus: str
    document: str
    tokens: list[Token] | None
    cut: tuple[bool, bool]


@dataclass(frozen=True)
class Texts:
    """Contexts of a request, what is missing of them, and the tokens that were counted when they were read."""

    shown: list[Shown]
    missing: list[str]
    tokens: int | None


def both(client: Client, first: str, second: str, most: int = 2) -> Texts:
    """The texts on which two features fire most: the strongest ones of the first, then those of the second that are others."""
    answer = _contexts(client, first, [second], most)
    if isinstance(answer, str):
        return Texts([], [answer], None)
    chosen, places = [], set()
    for context in answer["contexts"]:
        if context["log_position"] not in places and len(chosen) < most:
            places.add(context["log_position"])
            chosen.append(_shown(context, first, [second]))
    return Texts(chosen, [one["reason"] for one in answer["missing"]], answer["snapshot"]["tokens"])


def family(client: Client, parent: str, children: Sequence[str]) -> Texts:
    """The text on which a parent fires most, and each child's, where the parent is the second feature."""
    answer = _contexts(client, parent, children, 1)
    if isinstance(answer, str):
        return Texts([], [answer], None)
    shown = [_shown(one, one["feature"], children if one["feature"] == parent else [parent]) for one in answer["contexts"]]
    return Texts(shown, [one["reason"] for one in answer["missing"]], answer["snapshot"]["tokens"])


def gate(client: Client, found: Any) -> tuple[list[tuple[str, Texts]], str | None]:
    """The strongest text of each group of a gate, with what it shows; and why there is none just now."""
    parents = [parent["feature"] for parent in found["parents"]]
    try:
        answer = client.get("/v1/gates/contexts", child=found["child"], kind=found["kind"], parents=",".join(parents), k=1)
    except NotReady as error:
        return [], error.message
    tokens = answer["snapshot"]["tokens"]
    shown = [(_says(one), Texts([_shown(one, found["child"], parents)], [], tokens)) for one in answer["contexts"]]
    missing = answer["missing"]
    return shown, missing[0]["reason"] if missing and not shown else None


def _says(context: Any) -> str:
    """What a context of a gate shows, as a sentence."""
    active = context["active"]
    if context["group"] == "all":
        what = "All parents fire"
    elif context["group"] == "some":
        what = f"Only {' and '.join(active)} fire{'s' if len(active) == 1 else ''}"
    else:
        what = "No parent fires"
    gate = "holds" if context["holds"] else "does not hold"
    child = "fires" if context["child_active"] else "is silent"
    return f"{what}: the gate {gate}, {'and' if context['holds'] == context['child_active'] else 'but'} the child {child}."


def _contexts(client: Client, feature: str, others: Sequence[str], k: int) -> Any:
    """The server's answer, or the sentence why there is none just now: a report without its texts is still one."""
    try:
        return client.get(f"/v1/features/{feature.replace(':', '/')}/contexts", k=k, **{"with": list(others)})
    except NotReady as error:
        return error.message


def _shown(context: Any, first: str, others: Sequence[str]) -> Shown:
    document = context["document"]
    name = document["name"] if document["name"] is not None else f"document {document['number']}"
    told = {"feature": context["feature"], "activation": context["activation"], "corpus": context["corpus"], "document": name}
    if context["tokens"] is None:
        return Shown(**told, tokens=None, cut=(False, False))
    own = context["values"][first]
    theirs = [max(values) for values in zip(*(context["values"][other] for other in others), strict=True)]
    start, end = max(0, context["position"] - BEFORE), min(len(own), context["position"] + AFTER + 1)
    strongest = max(own[start:end]) or 1.0
    tokens = [
        Token(
            text=_visible(context["tokens"][at]) if own[at] > 0 or theirs[at] > 0 else context["tokens"][at],
            fires=_fires(own[at], theirs[at]),
            heat=own[at] / strongest,
            values=f"{first} {own[at]:.2f}, {others[0] if len(others) == 1 else 'the others'} {theirs[at]:.2f}",
            peak=at == context["position"],
        )
        for at in range(start, end)
    ]
    return Shown(**told, tokens=tokens, cut=(start > 0, end < len(own)))


def _fires(own: float, theirs: float) -> Fires:
    if own > 0:
        return "both" if theirs > 0 else "first"
    return "second" if theirs > 0 else ""


def _visible(text: str) -> str:
    """A marked line feed must be seen to be marked."""
    return text.replace("\n", "⏎\n")
