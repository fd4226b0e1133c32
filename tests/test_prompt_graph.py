"""Graphs of prompts from a running state: nodes by brute force, edges as of any pair, gates as published, and the queue."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from functools import partial
from itertools import product

import numpy as np
import pytest
from planted_gates import PAIRS as GATE_PAIRS
from planted_gates import SIZES as GATE_SIZES
from planted_gates import count as count_gates
from planted_gates import planted, segments
from views_rig import DICTIONARIES, PAIRS, Rig, as_batch, cosines, dense_activations, description, private_redis
from watched_state import watched_state

from engine.corpus.segment import Segment, TokenSegment
from engine.counts.state import State
from engine.encoder.encoded import Encoded
from engine.errors import BadValue, Conflict, NotReady, TooLarge, TooMany
from engine.measures.gate_tests import NONE
from engine.measures.gates import AND_NOT, PARENTS
from engine.pace import MicroBatchSize
from engine.views import live
from engine.views.decoder import DecoderCosines
from engine.views.effects import Effects
from engine.views.gate_answers import gate_answers
from engine.views.gate_records import judge
from engine.views.graph_answers import MOST_TOKENS, GraphAnswer, GraphRequest
from engine.views.live import LiveQueries
from engine.views.prompt_queries import MOST_GATES, PromptQueries
from engine.views.reader import Views
from engine.views.requests import SimilarityRequest
from engine.views.table_queries import TableQueries

VOCAB, SPECIAL, CONTENT = 60, 7, 10
PROMPT = "a prompt of 38 letters, each of it a one"
TOKENS = np.array([ord(letter) % VOCAB for letter in PROMPT], np.int32)


class Letters:
    """A tokenizer: a token a letter."""

    def encode(self, text: str) -> np.ndarray:
        return np.array([ord(letter) % VOCAB for letter in text], np.int32)


class Tables:
    """An encoder that looks a token's activations up; a special one is left out. It remembers what it was asked for."""

    def __init__(self, layers: list[np.ndarray] | None = None) -> None:
        self.layers = dense_activations(VOCAB, DICTIONARIES, seed=5) if layers is None else layers
        self.calls: list[list[int]] = []

    def encode(self, segment: Segment, units: np.ndarray) -> Encoded:
        assert isinstance(segment, TokenSegment)
        self.calls.append(segment.unit_tokens(units).tolist())
        bounds = segment.unit_bounds()
        index = np.concatenate([np.arange(bounds[unit], bounds[unit + 1]) for unit in units.tolist()])
        index = index[segment.tokens[index] != SPECIAL]
        batch = as_batch([layer[segment.tokens[index]] for layer in self.layers])
        batch.positions[:] = index
        return Encoded(batch, (), {})


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> State:
    return watched_state(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def effects(state: State) -> Effects:
    found = Effects(DICTIONARIES)
    found.update(state)
    return found


def queries(state: State, effects: Effects, encoder: Tables | None = None, most: int = 1_000) -> PromptQueries:
    encode = partial(MicroBatchSize(1.0, 1_000, start=most).encode_first, (encoder or Tables()).encode)
    decoders = cosines() if state.shape.dictionaries == DICTIONARIES else DecoderCosines(None, ())
    return PromptQueries(state, encode, CONTENT, Letters(), lambda token: f"<{token}>", decoders, effects)


def answer(asked: PromptQueries, request: GraphRequest) -> GraphAnswer:
    *between, found = asked.steps(asked.prepare(request))
    assert isinstance(found, GraphAnswer) and not any(between)
    return found


@pytest.mark.parametrize("token", [None, 0, 21, 37], ids=["any", "first", "middle", "last-window"])
def test_nodes_are_the_most_active_features_of_the_token_with_their_activations(
    state: State, effects: Effects, token: int | None
) -> None:
    found = answer(queries(state, effects), GraphRequest(PROMPT, token, per_layer=6))
    assert found.tokens == [f"<{one}>" for one in TOKENS.tolist()] and found.token == token
    dropped = 0
    for layer, table in enumerate(Tables().layers):
        values = np.where(TOKENS[:, None] == SPECIAL, 0, table[TOKENS])
        score = values.max(axis=0) if token is None else values[token]
        active = np.flatnonzero(score)
        best = active[np.lexsort((active, -score[active]))]
        dropped += max(0, len(best) - 6)
        nodes = [node for node in found.nodes if node.layer == layer]
        assert [node.index for node in nodes] == best[:6].tolist()
        for node in nodes:
            assert node.activations == values[:, node.index].tolist()
            assert node.activation == node.activations[node.peak] == score[node.index]
            assert node.peak == (values[:, node.index].argmax() if token is None else token)
            assert node.density == int(state.marginals[layer].count[node.index]) / state.tokens
            assert node.feature == f"{layer}:{node.index}"
    assert found.dropped.nodes == dropped > 0 or token is not None


def test_a_feature_is_active_above_its_own_threshold_and_shown_with_all_its_activations(effects: Effects) -> None:
    thresholds = [
        np.random.default_rng(layer).uniform(0.5, 5.0, size).astype(np.float32) for layer, size in enumerate(DICTIONARIES)
    ]
    mine = State.zero(DICTIONARIES, PAIRS, thresholds)
    found = answer(queries(mine, effects), GraphRequest(PROMPT, per_layer=100))
    below = 0
    for layer, table in enumerate(Tables().layers):
        values = np.where(TOKENS[:, None] == SPECIAL, 0, table[TOKENS])
        nodes = {node.index: node for node in found.nodes if node.layer == layer}
        assert sorted(nodes) == np.flatnonzero((values > thresholds[layer]).any(axis=0)).tolist()
        for index, node in nodes.items():
            assert node.activations == values[:, index].tolist()
            below += sum(0 < value <= thresholds[layer][index] for value in node.activations)
    assert below > 10


def test_the_prompt_is_cut_like_a_document_and_encoded_as_many_windows_at_a_time_as_fit(state: State, effects: Effects) -> None:
    whole, few = Tables(), Tables()
    together = answer(queries(state, effects, whole), GraphRequest(PROMPT))
    apart = queries(state, effects, few, most=20)
    steps = list(apart.steps(apart.prepare(GraphRequest(PROMPT))))
    assert len(PROMPT) == 40 and whole.calls == [[10, 10, 10, 10]] and few.calls == [[10, 10], [10, 10]]
    assert steps[0] is None and steps[1] == together


def test_a_token_that_is_not_counted_is_shown_and_named_and_nothing_is_active_at_it(state: State, effects: Effects) -> None:
    prompt = f"ab{chr(SPECIAL + VOCAB)}cd"
    found = answer(queries(state, effects), GraphRequest(prompt, per_layer=100))
    assert found.left_out == [2] and found.tokens[2] == f"<{SPECIAL}>"
    assert {node.activations[2] for node in found.nodes} == {0.0} and {len(node.activations) for node in found.nodes} == {5}
    assert answer(queries(state, effects), GraphRequest(prompt, 2)).nodes == []


@pytest.mark.parametrize(
    ("measure", "least"),
    [("jaccard", 0.1), ("pearson", 0.0), ("lift", 1.1), ("decoder_cosine", 0.2), ("sufficiency", 0.0)],
)
def test_edges_are_all_pairs_of_nodes_with_value_and_support_as_similarity_gives_them(
    state: State, effects: Effects, measure: str, least: float
) -> None:
    request = GraphRequest(PROMPT, 5, measure, least, 12, per_layer=100)
    found = answer(queries(state, effects), request)
    tables = TableQueries(description(), state, threading.Lock(), cosines(), effects)
    expected = {}
    for up, down in PAIRS:
        sides = ([(node.layer, node.index) for node in found.nodes if node.layer == layer] for layer in (up, down))
        for one, other in product(*sides):
            pair = tables.similarity(SimilarityRequest(one, other))
            told = pair.measures[measure]
            if told.estimate is not None and told.estimate >= least and pair.counts.joint >= 12:
                expected[pair.up, pair.down] = (told.estimate, told.lower, told.upper, told.status, pair.counts.joint)
    assert {(e.up, e.down): (e.value, e.lower, e.upper, e.status, e.joint) for e in found.edges} == expected
    values = [edge.value for edge in found.edges]
    assert len(values) > 10 and values == sorted(values, reverse=True) and found.dropped.edges == 0
    statuses = {edge.status for edge in found.edges}
    assert statuses == ({"ok", "heuristic"} if measure in ("jaccard", "pearson", "sufficiency") else {"insufficient"})
    few = answer(queries(state, effects), GraphRequest(PROMPT, 5, measure, least, 12, per_layer=100, edges=5))
    assert few.edges == found.edges[:5] and few.dropped.edges == len(values) - 5
    none = answer(queries(state, effects), GraphRequest(PROMPT, 5, measure, least, 12, per_layer=100, edges=0))
    assert none.edges == [] and none.dropped.edges == len(values)


@pytest.fixture(scope="module")
def gated() -> tuple[State, Effects]:
    """A state with gates of every kind, judged."""
    state, effects, place = State.zero(GATE_SIZES, GATE_PAIRS), Effects(GATE_SIZES), -1
    for segment in segments(planted()):
        place, _ = count_gates(state, segment, place)
    effects.update(state)
    return state, effects


def half_active() -> Tables:
    """Every feature is active at about half of the tokens."""
    rng = np.random.default_rng(2)
    return Tables([np.where(rng.random((VOCAB, size)) < 0.5, 1.0, 0.0).astype(np.float32) for size in GATE_SIZES])


def test_gates_are_those_among_the_nodes_and_a_negated_parent_need_not_be_one(gated: tuple[State, Effects]) -> None:
    state, effects = gated
    asked = queries(state, effects, half_active())
    judged, seen = judge(state, effects), set()
    for token in (None, *range(len(PROMPT))):
        found = answer(asked, GraphRequest(PROMPT, token, per_layer=100))
        nodes = {node.feature for node in found.nodes}
        expected = []
        for pair, rows in judged.rows.items():
            for at, row in enumerate(rows):
                parents = [f"{pair[0]}:{one}" for one in row["parents"][: PARENTS[row["kind"]]]]
                needed = parents[:1] if row["kind"] == AND_NOT else parents
                if row["verdict"] != NONE and f"{pair[1]}:{row['child']}" in nodes and nodes.issuperset(needed):
                    expected += gate_answers(pair, rows[at : at + 1], judged.needed)
                    seen.add((row["kind"], nodes.issuperset(parents)))
        assert sorted(found.gates, key=str) == sorted(expected, key=str)
        order = [(gate.verdict == "gate", gate.f1) for gate in found.gates]
        assert order == sorted(order, reverse=True) and found.dropped.gates == max(0, len(expected) - MOST_GATES)
    assert {kind for kind, _ in seen} == {0, 1, 2, 3} and (AND_NOT, False) in seen


def test_gates_beyond_the_limit_are_counted(gated: tuple[State, Effects], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = queries(*gated, half_active())
    everything = answer(asked, GraphRequest(PROMPT, per_layer=100))
    monkeypatch.setattr("engine.views.prompt_queries.MOST_GATES", 2)
    few = answer(asked, GraphRequest(PROMPT, per_layer=100))
    assert few.gates == everything.gates[:2] and few.dropped.gates == len(everything.gates) - 2 > 0


def test_before_the_first_token_there_are_nodes_and_nothing_is_known_of_them() -> None:
    found = answer(queries(State.zero(DICTIONARIES, PAIRS), Effects(DICTIONARIES)), GraphRequest(PROMPT))
    assert found.snapshot.version == "live-0" and found.edges == [] and found.gates == []
    assert found.nodes and {node.density for node in found.nodes} == {None}


@pytest.mark.parametrize(
    ("request_", "error", "says"),
    [
        pytest.param(GraphRequest("x" * (MOST_TOKENS + 1)), TooLarge, "257 tokens: at most 256", id="too-long"),
        pytest.param(GraphRequest("abc", 3), BadValue, "token = 3: the prompt has tokens 0 to 2", id="token-behind-the-end"),
        pytest.param(GraphRequest(""), BadValue, "no tokens", id="no-tokens"),
    ],
)
def test_what_its_tokens_show_to_be_wrong_is_refused_before_the_encoder_is_called(
    state: State, effects: Effects, request_: GraphRequest, error: type[Exception], says: str
) -> None:
    encoder = Tables()
    with pytest.raises(error, match=says):
        queries(state, effects, encoder).prepare(request_)
    queries(state, effects, encoder).prepare(GraphRequest("x" * MOST_TOKENS))
    assert encoder.calls == []


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with private_redis(tmp_path_factory.mktemp("redis")) as server:
        yield Rig(server)


@pytest.fixture
def engine(rig: Rig, state: State, effects: Effects) -> Iterator[LiveQueries]:
    """The query thread; the main loop's part is the test's."""
    found = LiveQueries(rig.settings, rig.description, state, threading.Lock())
    found.prompts = queries(state, effects)
    found.start()
    yield found
    found.stop()


def no_windows(positions) -> Iterator:
    raise AssertionError("no context is asked for")


def test_so_many_prompts_wait_and_the_next_one_is_refused_until_one_is_answered(
    rig: Rig, engine: LiveQueries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MOST_PROMPTS", 2)

    async def look(views: Views) -> list[GraphAnswer]:
        waiting = [asyncio.create_task(views.live(GraphRequest(f"prompt {at}"))) for at in range(2)]
        while engine.pending.qsize() < 2:
            await asyncio.sleep(0.01)
        with pytest.raises(TooMany, match="2 prompts wait") as refused:
            await views.live(GraphRequest("one more"))
        assert refused.value.retry_after == 1
        with pytest.raises(BadValue, match="no tokens"):  # what is wrong is never worth waiting for
            await views.live(GraphRequest(""))
        assert engine.answer_pending(no_windows) == 2
        again = asyncio.create_task(views.live(GraphRequest("one more")))
        while not engine.pending.qsize():
            await asyncio.sleep(0.01)
        assert engine.answer_pending(no_windows) == 1
        return [*await asyncio.gather(*waiting), await again]

    assert [len(found.tokens) for found in rig.read(look)] == [8, 8, 8]


def test_a_prompt_that_nobody_waits_for_any_more_is_not_encoded_and_makes_room(
    rig: Rig, engine: LiveQueries, state: State, effects: Effects
) -> None:
    encoder = Tables()
    engine.prompts = queries(state, effects, encoder)
    with pytest.raises(NotReady, match="did not answer within"):
        rig.read(lambda views: views.live(GraphRequest(PROMPT), 0.3))
    assert engine.pending.qsize() == 1 and len(engine._waiting_prompts) == 1
    assert engine.answer_pending(no_windows) == 0
    assert encoder.calls == [] and not engine._waiting_prompts


def test_a_run_without_a_model_has_no_graphs(rig: Rig, engine: LiveQueries) -> None:
    engine.prompts = None
    with pytest.raises(Conflict, match="no model"):
        rig.read(lambda views: views.live(GraphRequest(PROMPT)))
