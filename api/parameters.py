"""What a request may say: features, layers, measures and bounds, each refused with the thing that would be right."""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated, Any

from litestar import Request
from litestar.handlers import BaseRouteHandler
from litestar.params import Parameter

from engine.corpus.inbox import Inbox
from engine.encoder.description import LayerDescription, RunDescription
from engine.errors import BadInput, BadValue, Conflict, Unknown

FREE_QUERY = "free_query"
"""Key of a route's `opt`: what follows the question mark is none of the server's business (the page reads it itself)."""

Feature = tuple[int, int]
"""(layer, index)."""

Name = Annotated[str, Parameter(description="the corpus: 1 to 64 letters, digits, dots, dashes or underscores")]
Wait = Annotated[str, Parameter(description="durable (on disk) or visible (all of it in a published snapshot)")]
Key = Annotated[str | None, Parameter(header="Idempotency-Key", description="marks a repetition of the same upload")]

_NAMED = 20  # corpora that a message lists: a sentence, not a page
_FEATURE = re.compile(r"(\d{1,9}):(\d{1,9})", re.ASCII)


def parse_feature(text: str, name: str) -> Feature:
    """`"3:17"` → (3, 17).

    Raises:
        BadInput: another form; the message names the parameter and the value.
    """
    match = _FEATURE.fullmatch(text)
    if match is None:
        raise BadInput(f"{name} = {text!r}: a feature is written layer:index, for example 3:17")
    return int(match[1]), int(match[2])


def known_feature(run: RunDescription, feature: Feature) -> LayerDescription:
    """The layer of a feature that this run has.

    Raises:
        Unknown: no such layer or no such index in it; the message names what there is.
    """
    layer, index = feature
    if not 0 <= layer < len(run.layers):
        raise Unknown(f"there is no layer {layer}: this run has layers 0 to {len(run.layers) - 1}")
    found = run.layers[layer]
    if not 0 <= index < found.features:
        raise Unknown(f"there is no feature {layer}:{index}: layer {layer} ({found.hook}) has features 0 to {found.features - 1}")
    return found


def known_corpus(inbox: Inbox, corpus: str) -> None:
    """Refuse a corpus that nothing was sent of.

    Raises:
        Unknown: the message names those that there are.
    """
    known = sorted({manifest.corpus for manifest in inbox.manifests()})
    if corpus not in known:
        listed = ", ".join(known[:_NAMED]) + (f" and {len(known) - _NAMED:,} more" if len(known) > _NAMED else "")
        raise Unknown(f"there is no corpus {corpus!r}: " + (f"this run has {listed}" if known else "nothing was sent yet"))


def needs_model(run: RunDescription, what: str) -> None:
    """Refuse what only a run with a model can do.

    Raises:
        Conflict: activations are pushed to this one; the message says what needs a model.
    """
    if run.context_size is None:
        raise Conflict(f"this run has no model, activations are pushed to it (--dictionary): {what}")


def within(name: str, value: int, low: int, high: int) -> int:
    """`value`, when low ≤ value ≤ high.

    Raises:
        BadValue: it is not.
    """
    if not low <= value <= high:
        raise BadValue(f"{name} = {value}: it must be between {low:,} and {high:,}")
    return value


async def only_known_parameters(request: Request[Any, Any, Any]) -> None:
    """Refuse a query parameter that the route does not read: a misspelt `min_suport` must not look like an answer.

    Raises:
        BadInput: the message names it and the ones that the route knows.
    """
    if request.route_handler.opt.get(FREE_QUERY):
        return
    known = _query_parameters(request.route_handler)
    for name in request.query_params:
        if name not in known:
            listed = f"this route reads {', '.join(known)}" if known else "this route reads no query parameters"
            raise BadInput(f"unknown query parameter {name!r}: {listed}")


@cache
def _query_parameters(handler: BaseRouteHandler) -> tuple[str, ...]:
    """The query parameters of a route, by their names in the address."""
    reserved = {"request", "data", "state", "headers", "cookies", "query", "scope", "socket", "body"} | set(
        handler.resolve_dependencies()
    )
    in_path = set(re.findall(r"\{(\w+)", " ".join(handler.paths)))
    names = []
    for name, field in handler.parsed_fn_signature.parameters.items():
        definition: Any = field.kwarg_definition
        if name in reserved or name in in_path or getattr(definition, "header", None):
            continue
        names.append(getattr(definition, "query", None) or name)
    return tuple(names)
