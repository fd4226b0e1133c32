"""Requests for contexts: what is chosen for them from the running state, before its windows are encoded again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from engine.errors import BadValue
from engine.views import answers
from engine.views.contexts import Chosen, EncodeWindows, context_steps
from engine.views.gate_contexts import check_gate, gate_context_steps
from engine.views.records import CONTEXTS
from engine.views.requests import ContextsAnswer, ContextsRequest, GateContextsAnswer, GateContextsRequest

if TYPE_CHECKING:
    from engine.counts.state import State
    from engine.encoder.description import RunDescription

MOST_CONTEXTS = 16
"""Features of one request: each of their windows may need a forward pass of its own, some 20 ms, in which nothing is counted."""


class ContextQueries:
    """Answers about a run's state, in steps."""

    def __init__(
        self, description: RunDescription, state: State, lock: threading.Lock, decode: Callable[[int], str] | None
    ) -> None:
        """
        Args:
            description: of the run.
            state: what is counted into, always under `lock`.
            lock: held while the state is counted into.
            decode: token id → its text; None in a run without a model.
        """
        self._description = description
        self._state = state
        self._lock = lock
        self._decode = decode

    def steps(
        self, request: ContextsRequest | GateContextsRequest, windows: EncodeWindows
    ) -> Iterator[ContextsAnswer | GateContextsAnswer | None]:
        """None while there is more to encode, then the answer; what is wrong with the request is raised by the first step."""
        return self._contexts(request, windows) if isinstance(request, ContextsRequest) else self._gate(request, windows)

    def _contexts(self, request: ContextsRequest, windows: EncodeWindows) -> Iterator[ContextsAnswer | None]:
        if not 1 <= len(request.features) <= MOST_CONTEXTS:
            raise BadValue(f"{len(request.features)} features: contexts are given for 1 to {MOST_CONTEXTS} at a time")
        if not 1 <= request.k <= CONTEXTS:
            raise BadValue(f"k = {request.k}: of each feature the 1 to {CONTEXTS} strongest contexts are given")
        tokens, chosen = self._strongest(request.features, request.k)
        yield from context_steps(request.features, chosen, tokens, windows, self._decode)

    def _gate(self, request: GateContextsRequest, windows: EncodeWindows) -> Iterator[GateContextsAnswer | None]:
        if not 1 <= request.k <= CONTEXTS:
            raise BadValue(f"k = {request.k}: of each group 1 to {CONTEXTS} contexts are given")
        check_gate(request, list(self._state.pairs))
        features = [request.child, *request.parents]
        tokens, chosen = self._strongest(features, CONTEXTS)
        limits = [self._state.shape.thresholds[layer] for layer, _ in features]
        above = [0.0 if limit is None else float(limit[index]) for limit, (_, index) in zip(limits, features, strict=True)]
        yield from gate_context_steps(request, chosen, above, tokens, windows, self._decode)

    def _strongest(self, features: Sequence[tuple[int, int]], k: int) -> tuple[int, list[Chosen]]:
        """N, and the k strongest activations of each feature.

        Raises:
            Unknown: a feature that the run does not have.
        """
        for feature in features:
            if (error := answers.unknown(self._description, feature)) is not None:
                raise error
        chosen = []
        with self._lock:
            for layer, index in features:
                part = self._state.strongest[layer]
                best = zip(part.value[index, :k].tolist(), part.position[index, :k].tolist(), strict=True)
                chosen += [Chosen((layer, index), value, position) for value, position in best if position >= 0]
            return self._state.tokens, chosen
