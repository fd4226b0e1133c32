"""Graphs of prompts: a text goes through model and SAEs beside the text that is counted, and changes no count.

1. `prepare`, on the query thread: the prompt is tokenised as documents are, and cut into the same windows.
2. `steps`, on the main loop's thread, to which the encoder belongs: one call of the encoder per step, with as many windows as a
   micro-batch takes; the batch is never added to the state.
3. The most active features of each layer, by the run's own thresholds; the edges between them from the running tables
   (`live_edges`); the gates among them as they are judged now. The main loop alone changes the state, so no lock is needed there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from engine.corpus.segment import Piece, TokenSegment
from engine.corpus.windows import cut_windows
from engine.errors import BadValue, TooLarge
from engine.measures.gate_tests import NONE
from engine.measures.gates import AND_NOT
from engine.views.answers import live_snapshot, name
from engine.views.gate_answers import GateAnswer, first_order, gate_answers
from engine.views.gate_records import GATE_ROW, Judged, judge
from engine.views.graph_answers import MOST_TOKENS, GraphAnswer, GraphDroppedAnswer, GraphNodeAnswer, GraphRequest
from engine.views.live_edges import edges_among

if TYPE_CHECKING:
    from engine.counts.state import State
    from engine.encoder.batch import SparseBatch
    from engine.views.contexts import EncodeFirst
    from engine.views.decoder import DecoderCosines
    from engine.views.effects import Effects

MOST_GATES = 200
"""Gates of an answer: 1.5 kB of JSON each, and no drawing shows more."""


class Tokenizer(Protocol):
    """The part of a tokenizer that is needed here."""

    def encode(self, text: str) -> np.ndarray: ...


class Prompt(NamedTuple):
    """A request whose prompt is tokenised: the segment is one document, and in no log."""

    request: GraphRequest
    segment: TokenSegment


class Entries(NamedTuple):
    """The activations of one layer on a prompt: int64 `[nnz]` number of the token, int64 feature, float32 value; bool whether that
    is above the feature's threshold."""

    token: np.ndarray
    feature: np.ndarray
    value: np.ndarray
    active: np.ndarray


class PromptQueries:
    """Runs prompts through the encoder of a run, and relates what is active on them by its state."""

    def __init__(
        self,
        state: State,
        encode: EncodeFirst,
        content: int,
        tokenizer: Tokenizer,
        decode: Callable[[int], str],
        cosines: DecoderCosines,
        effects: Effects,
    ) -> None:
        """
        Args:
            state: what is counted into.
            encode: of the run; called by `steps` alone.
            content: tokens of a document in one window.
            tokenizer: of the model, for documents; decode: token id → its text.
            cosines, effects: of the run.
        """
        self._state = state
        self._encode = encode
        self._content = content
        self._tokenizer = tokenizer
        self._decode = decode
        self._cosines = cosines
        self._effects = effects
        self._judged: tuple[tuple[int, int], Judged] | None = None  # gates and joint actions, with what they are from

    def prepare(self, request: GraphRequest) -> Prompt:
        """Tokenise a prompt.

        Raises:
            TooLarge: it has more than `MOST_TOKENS` tokens. BadValue: it has none, or no token of that number.
        """
        tokens = self._tokenizer.encode(request.prompt)
        if not len(tokens):
            raise BadValue("prompt is empty: it has no tokens")
        if len(tokens) > MOST_TOKENS:
            raise TooLarge(f"the prompt has {len(tokens):,} tokens: at most {MOST_TOKENS} are run through the model, shorten it")
        if request.token is not None and request.token >= len(tokens):
            raise BadValue(f"token = {request.token}: the prompt has tokens 0 to {len(tokens) - 1}")
        offsets, pieces = cut_windows(np.array([len(tokens)]), self._content)
        document = Piece("prompt", "prompt", 0, None, 0, 0, len(tokens), True)
        return Prompt(
            request, TokenSegment(0, 0, (document,), tokens=tokens.astype(np.int32), window_offsets=offsets, window_pieces=pieces)
        )

    def steps(self, prompt: Prompt) -> Iterator[GraphAnswer | None]:
        """None after each call of the encoder while there is more to encode, and the answer at last. On the main loop's thread."""
        batches: list[SparseBatch] = []
        left = np.arange(prompt.segment.units)
        while len(left):
            count, encoded = self._encode(prompt.segment, left)
            batches.append(encoded.batch)
            left = left[count:]
            if len(left):
                yield None
        yield self._graph(prompt, batches)

    def _graph(self, prompt: Prompt, batches: Sequence[SparseBatch]) -> GraphAnswer:
        request, tokens = prompt.request, prompt.segment.tokens
        thresholds = [None if limit is None else limit.cpu().numpy() for limit in self._state.shape.thresholds]
        nodes: list[GraphNodeAnswer] = []
        features: dict[int, np.ndarray] = {}
        dropped = 0
        total = self._state.tokens
        for layer, limit in enumerate(thresholds):
            entries = entries_of(batches, layer, limit)
            chosen, peaks = most_active(entries, request.token)
            dropped += max(0, len(chosen) - request.per_layer)
            features[layer] = chosen[: request.per_layer]
            nodes += self._nodes(layer, features[layer], peaks[: request.per_layer], entries, len(tokens), total)
        edges, further_edges = edges_among(
            self._state,
            self._effects,
            self._cosines,
            features,
            measure=request.measure,
            min_value=request.min_value,
            min_support=request.min_support,
            most=request.edges,
        )
        gates, further_gates = self._gates(features)
        counted = np.concatenate([batch.positions for batch in batches])
        return GraphAnswer(
            tokens=[self._decode(token) for token in tokens.tolist()],
            token=request.token,
            left_out=np.setdiff1d(np.arange(len(tokens)), counted).tolist(),
            measure=request.measure,
            min_value=request.min_value,
            min_support=request.min_support,
            nodes=nodes,
            edges=edges,
            gates=gates,
            dropped=GraphDroppedAnswer(nodes=dropped, edges=further_edges, gates=further_gates),
            snapshot=live_snapshot(total),
        )

    def _nodes(
        self, layer: int, chosen: np.ndarray, peaks: np.ndarray, entries: Entries, tokens: int, total: int
    ) -> Iterator[GraphNodeAnswer]:
        counts = self._state.marginals[layer].count.cpu().numpy()[chosen]
        row = np.full(int(entries.feature.max(initial=-1)) + 1, -1)
        row[chosen] = np.arange(len(chosen))
        shown = row[entries.feature] >= 0
        activations = np.zeros((len(chosen), tokens), np.float32)
        activations[row[entries.feature[shown]], entries.token[shown]] = entries.value[shown]
        for index, peak, count, values in zip(chosen.tolist(), peaks.tolist(), counts.tolist(), activations, strict=True):
            yield GraphNodeAnswer(
                feature=name((layer, index)),
                layer=layer,
                index=index,
                activation=float(values[peak]),
                peak=peak,
                activations=values.tolist(),
                density=count / total if total else None,
            )

    def _gates(self, features: Mapping[int, np.ndarray]) -> tuple[list[GateAnswer], int]:
        """The gates among these features, best first, and how many there are beyond them."""
        revision = (self._state.segments_ended, self._effects.revision)
        if self._judged is None or self._judged[0] != revision:
            judged = judge(self._state, self._effects)
            told = {pair: rows[rows["verdict"] != NONE] for pair, rows in judged.rows.items()}
            self._judged = revision, judged._replace(rows=told)
        judged = self._judged[1]
        among = {pair: gates_among(rows, *(features.get(layer, ()) for layer in pair)) for pair, rows in judged.rows.items()}
        every = np.concatenate([np.empty(0, GATE_ROW), *among.values()])
        place = np.empty(len(every), np.int64)
        place[first_order(every)] = np.arange(len(every))
        found, start = [], 0
        for pair, rows in among.items():
            at = place[start : start + len(rows)]
            start += len(rows)
            found += zip(at[at < MOST_GATES].tolist(), gate_answers(pair, rows[at < MOST_GATES], judged.needed), strict=True)
        return [gate for _, gate in sorted(found, key=lambda one: one[0])], max(0, len(every) - MOST_GATES)


def entries_of(batches: Sequence[SparseBatch], layer: int, limit: np.ndarray | None) -> Entries:
    """The activations of a layer in some batches, whose positions are numbers of tokens.

    Args:
        limit: float32 `[D]`, the thresholds of the layer; None: every activation is above its own.
    """
    token, feature, value = [], [], []
    for batch in batches:
        offsets, features, values = (column.cpu().numpy() for column in batch.layers[layer])
        token.append(np.repeat(batch.positions, np.diff(offsets)))
        feature.append(features.astype(np.int64))
        value.append(values)
    features, values = np.concatenate(feature), np.concatenate(value)
    active = np.ones(len(values), bool) if limit is None else values > limit[features]
    return Entries(np.concatenate(token), features, values, active)


def most_active(entries: Entries, token: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Features that are active at a token (None: at any), the most active first, ties by index.

    Returns:
        int64 `[n]` features, and int64 `[n]` the token of each one's largest activation, the first of equal ones.
    """
    here = entries.active if token is None else entries.active & (entries.token == token)
    feature, value, at = entries.feature[here], entries.value[here], entries.token[here]
    order = np.lexsort((at, -value, feature))
    feature, value, at = feature[order], value[order], at[order]
    _, first = np.unique(feature, return_index=True)
    best = first[np.lexsort((feature[first], -value[first]))]
    return feature[best], at[best]


def gates_among(rows: np.ndarray, up: Sequence[int] | np.ndarray, down: Sequence[int] | np.ndarray) -> np.ndarray:
    """Gates of a layer pair (`GATE_ROW`) whose child is one of `down`, and whose parents are of `up`; the negated parent of an
    AND-NOT need not be."""
    parents = rows["parents"]
    there = np.isin(parents, np.asarray(up)) | (parents < 0)
    there[:, 1] |= rows["kind"] == AND_NOT
    return rows[np.isin(rows["child"], np.asarray(down)) & there.all(axis=1)]
