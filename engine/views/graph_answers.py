"""A prompt's graph: the features that are active on it, how they are related by what was counted, and the gates among them."""

from __future__ import annotations

import math

import msgspec

from engine.errors import BadValue
from engine.measures.relations import HIGHEST
from engine.views.answers import SnapshotAnswer, Status
from engine.views.gate_answers import GateAnswer

MOST_TOKENS = 256
"""Tokens of a prompt. Nothing is counted while they go through the model: 40 ms on the demo, some 2 s at GPT-2 size on 2 cores."""

MOST_PER_LAYER = 200
MOST_EDGES = 5_000
MOST_SUPPORT = 10**15


class GraphRequest(msgspec.Struct, frozen=True, tag="graph"):
    """What to look for on a prompt.

    Attributes:
        prompt: text, of at most `MOST_TOKENS` tokens.
        token: number of the token whose features are wanted, from 0; None: those of any token.
        measure: of the edges; min_value, min_support: their smallest value and joint count.
        per_layer: features of a layer, at most, the most active ones; edges: at most, those of the largest value.
    """

    prompt: str
    token: int | None = None
    measure: str = "jaccard"
    min_value: float = 0.1
    min_support: int = 10
    per_layer: int = 20
    edges: int = 400


class GraphNodeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A feature that is active on the prompt.

    Attributes:
        activation: at the token that was asked for, else the largest one.
        peak: number of the token at which it has that activation.
        activations: at each token of the prompt; 0 at tokens that are left out.
        density: share of all counted tokens at which it is active; null before the first token.
        community: null; what community a feature is in depends on parameters of its own, see `/v1/communities`.
    """

    feature: str
    layer: int
    index: int
    activation: float
    peak: int
    activations: list[float]
    density: float | None
    community: str | None = None


class GraphEdgeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A pair of these features: the measure that was asked for over all that was counted, not over the prompt.

    Attributes:
        value: the estimate.
        lower, upper, status: 95 % bounds, as of a neighbour: `ok` where the pair is watched, `heuristic` from its counts alone,
            `insufficient` where there are none.
        joint: tokens at which both were active; count_error: as of every joint count.
    """

    up: str
    down: str
    value: float
    lower: float | None
    upper: float | None
    status: Status
    joint: int
    count_error: int = 0


class GraphDroppedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What was left out for its number alone: active features beyond `per_layer`, edges beyond `edges`, gates beyond 200."""

    nodes: int
    edges: int
    gates: int


class GraphAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The graph of a prompt. Its own tokens are counted nowhere.

    Attributes:
        tokens: the prompt's tokens as text; token: the number of the one that was asked for.
        left_out: numbers of tokens at which no feature can be active: special ones, as in the counts, and those of a window with an
            activation that is not finite.
        nodes: by layer, the most active first.
        edges: largest value first.
        gates: with the verdict "gate" or "joint", of which child and parents are among the nodes; the negated parent of an
            "and_not" need not be: it is silent where the child fires.
    """

    tokens: list[str]
    token: int | None
    left_out: list[int]
    measure: str
    min_value: float
    min_support: int
    nodes: list[GraphNodeAnswer]
    edges: list[GraphEdgeAnswer]
    gates: list[GateAnswer]
    dropped: GraphDroppedAnswer
    snapshot: SnapshotAnswer


def check_graph(request: GraphRequest) -> None:
    """Refuse what can't be asked; whether the prompt is too long is known when it is tokenised.

    Raises:
        BadValue: the message names the field, its value and what is allowed.
    """
    if not request.prompt:
        raise BadValue("prompt is empty: give the text whose features are to be shown")
    if request.token is not None and not 0 <= request.token < MOST_TOKENS:
        raise BadValue(f"token = {request.token}: tokens are numbered from 0, and a prompt has at most {MOST_TOKENS}")
    if request.measure not in HIGHEST:
        raise BadValue(f"measure = {request.measure!r}: it must be one of {', '.join(HIGHEST)}")
    highest = HIGHEST[request.measure]
    if not 0 <= request.min_value <= highest or math.isinf(request.min_value):
        most = "at least 0" if math.isinf(highest) else f"between 0 and {highest:.4g}"
        raise BadValue(f"min_value = {request.min_value:g}: it must be {most} for {request.measure}")
    for name, value, low, high in (
        ("min_support", request.min_support, 1, MOST_SUPPORT),
        ("per_layer", request.per_layer, 1, MOST_PER_LAYER),
        ("edges", request.edges, 0, MOST_EDGES),
    ):
        if not low <= value <= high:
            raise BadValue(f"{name} = {value}: it must be between {low:,} and {high:,}")
