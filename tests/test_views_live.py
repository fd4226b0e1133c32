"""Live requests through a real Redis: from the API's side to the engine's thread, and for contexts to its main loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from views_rig import DICTIONARIES, Rig, as_batch, counted, dense_activations, private_redis, publish

from engine.counts.state import State
from engine.errors import BadValue, NotReady, TooMany, Unknown
from engine.views import live, requests
from engine.views.connection import connect
from engine.views.contexts import SIDE_TOKENS, Found, Window
from engine.views.live import LiveQueries
from engine.views.reader import Views
from engine.views.requests import ContextsAnswer, SimilarityRequest, ask

TOKENS = 300
DENSE = dense_activations(TOKENS)


@pytest.fixture(scope="module")
def state() -> State:
    return counted(DENSE)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, state: State) -> Iterator[Rig]:
    with private_redis(tmp_path_factory.mktemp("redis")) as server:
        rig = Rig(server)
        publish(rig.publisher(), state)
        yield rig


@contextmanager
def answering(rig: Rig, state: State, lock: threading.Lock | None = None, decode=str) -> Iterator[LiveQueries]:
    """The query thread, running."""
    queries = LiveQueries(rig.settings, rig.description, state, lock or threading.Lock(), decode=decode)
    queries.start()
    try:
        yield queries
    finally:
        queries.stop()


@contextmanager
def main_loop(queries: LiveQueries, windows) -> Iterator[None]:
    """A main loop with nothing to count."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.is_set():
            queries.wait(10.0)
            queries.answer_pending(windows)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        queries._woken.set()
        thread.join()


def windows_of(positions: Sequence[int]) -> Iterator[Found]:
    """The units of 100 tokens that hold these positions, one after the other."""
    for first in sorted({position // 100 * 100 for position in positions}):
        batch = as_batch([dense[first : first + 100] for dense in DENSE], first)
        window = Window(batch, slice(0, 100), np.arange(first, first + 100))
        yield {position: window for position in positions if position // 100 * 100 == first}


def test_a_pair_and_neighbours_off_the_published_defaults_are_answered_by_the_engine(rig: Rig, state: State) -> None:
    async def look(views: Views):
        pair = await views.similarity((0, 22), (2, 28))
        published = {"published_k": 3, "published_support": 2}
        more = await views.neighbors(0, 22, k=15, min_support=2, **published)
        other = await views.neighbors(0, 22, k=3, min_support=5, **published)
        default = await views.neighbors(0, 22, k=3, min_support=2, **published)
        return pair, more, other, default

    with answering(rig, state):
        pair, more, other, default = rig.read(look)
    joint = int(((DENSE[0][:, 22] > 0) & (DENSE[2][:, 28] > 0)).sum())
    assert pair.counts.joint == joint
    assert pair.snapshot.version == more.snapshot.version == other.snapshot.version == f"live-{TOKENS}"
    assert len(more.neighbors) == 15
    assert more.neighbors[:3] == default.neighbors
    assert default.snapshot.version == "1000-1"


def test_errors_of_the_engine_arrive_as_what_they_are(rig: Rig, state: State) -> None:
    with answering(rig, state):
        with pytest.raises(Unknown, match="layers 2→0 are no layer pair"):
            rig.read(lambda views: views.similarity((2, 0), (0, 0)))
        with pytest.raises(Unknown, match="no feature 2:29"):
            rig.read(lambda views: views.similarity((1, 0), (2, 29)))
    with answering(rig, state) as queries, main_loop(queries, windows_of), pytest.raises(BadValue, match="17 features"):
        rig.read(lambda views: views.contexts([(0, 1)] * 17))


def test_a_defect_of_ours_is_answered_without_its_text_and_ends_nothing(
    rig: Rig, state: State, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(positions: Sequence[int]) -> Iterator[Found]:
        raise ZeroDivisionError("the secret of the defect")
        yield {}

    with answering(rig, state) as queries:
        with main_loop(queries, broken), pytest.raises(Exception, match="the engine failed on this request") as error:
            rig.read(lambda views: views.contexts([(0, 5)]))
        assert "secret" not in str(error.value)
        assert "the secret of the defect" in caplog.text
        connect(rig.server.url).rpush("saestream:requests", b"\xff not a request")
        assert rig.read(lambda views: views.similarity((0, 1), (1, 1))).tokens == TOKENS


def test_without_an_engine_a_request_times_out_and_leaves_nothing_behind(rig: Rig) -> None:
    with pytest.raises(NotReady, match=r"did not answer within 0\.05 s"):
        rig.read(lambda views: views.similarity((0, 1), (1, 1), timeout=0.05))
    assert connect(rig.server.url).llen("saestream:requests") == 0


def test_a_full_queue_is_refused_at_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MOST_WAITING", 2)
    client = connect(rig.server.url)
    client.rpush("saestream:requests", b"one", b"two")
    with pytest.raises(TooMany, match="2 requests wait"):
        rig.read(lambda views: views.similarity((0, 1), (1, 1), timeout=30))
    assert client.lrange("saestream:requests", 0, -1) == [b"one", b"two"]
    client.delete("saestream:requests")


def test_more_requests_for_the_main_loop_than_it_could_take_are_refused_and_the_others_answered(
    rig: Rig, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MOST_PENDING", 2)

    async def ask_four(views: Views) -> list[Any]:
        waiting = [asyncio.ensure_future(views.contexts([(0, 5)], timeout=20)) for _ in range(4)]
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 2:
            more, _ = await asyncio.wait(set(waiting) - done, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        assert {type(one.exception()) for one in done} == {TooMany}
        with main_loop(queries, lambda positions: iter([{position: "gone" for position in positions}])):
            return await asyncio.gather(*(set(waiting) - done))

    with answering(rig, state) as queries:
        answered = rig.read(ask_four)
    assert len(answered) == 2 and all(answer.missing for answer in answered)


def test_answers_wait_for_counting_and_are_from_whole_micro_batches(rig: Rig, state: State) -> None:
    mine = counted(DENSE)
    lock = threading.Lock()
    more = as_batch(dense_activations(50, seed=4), TOKENS)

    async def look(views: Views) -> int:
        asked = asyncio.ensure_future(views.similarity((0, 1), (1, 1)))
        await asyncio.sleep(0.1)  # the request is in the engine's hands while it counts
        assert not asked.done()
        mine.add(more)
        lock.release()
        return (await asked).tokens

    with answering(rig, mine, lock):
        lock.acquire()
        assert rig.read(look) == TOKENS + 50


def test_many_requests_at_once_are_all_answered(rig: Rig, state: State) -> None:
    async def look(views: Views):
        return await asyncio.gather(*(views.similarity((0, i % 23), (1, i % 17)) for i in range(100)))

    with answering(rig, state):
        found = rig.read(look)
    assert [(one.up, one.down) for one in found] == [(f"0:{i % 23}", f"1:{i % 17}") for i in range(100)]


def test_a_context_shows_the_window_of_the_strongest_activation_with_every_requested_feature(rig: Rig, state: State) -> None:
    features = [(0, 22), (1, 9), (2, 0)]
    with answering(rig, state, decode=lambda token: f"<{token}>") as queries, main_loop(queries, windows_of):
        found: ContextsAnswer = rig.read(lambda views: views.contexts(features))
    assert [context.feature for context in found.contexts] == ["0:22", "1:9"]  # 2:0 never fired
    for context, (layer, index) in zip(found.contexts, features, strict=False):
        strongest = int(DENSE[layer][:, index].argmax())
        first = max(strongest // 100 * 100, strongest - SIDE_TOKENS)
        last = min(strongest // 100 * 100 + 100, strongest + SIDE_TOKENS + 1)
        assert (context.log_position, context.position) == (strongest, strongest - first)
        assert context.activation == pytest.approx(float(DENSE[layer][:, index].max()))
        assert context.tokens == [f"<{token}>" for token in range(first, last)]
        assert set(context.values) == {"0:22", "1:9", "2:0"}
        for (other, feature), name in zip(features, ("0:22", "1:9", "2:0"), strict=True):
            np.testing.assert_allclose(context.values[name], DENSE[other][first:last, feature])
        assert (context.upload, context.corpus) == ("upload-1", "corpus")
        assert (context.document.number, context.document.name) == (7, "a name")


def test_a_position_that_the_log_lost_has_no_context_and_a_reason(rig: Rig, state: State) -> None:
    def gone(positions: Sequence[int]) -> Iterator[Found]:
        yield dict.fromkeys(positions, "it is gone")

    with answering(rig, state) as queries, main_loop(queries, gone):
        answer = rig.read(lambda views: views.contexts([(0, 5)]))
    assert answer.contexts == []
    (missing,) = answer.missing
    assert (missing.feature, missing.log_position, missing.reason) == ("0:5", int(DENSE[0][:, 5].argmax()), "it is gone")
    assert missing.activation == DENSE[0][:, 5].max()


def documents_of_ten() -> State:
    """The same activations as documents of 10 tokens each."""
    state = State.zero(DICTIONARIES)
    for first in range(0, TOKENS, 10):
        state.add(as_batch([dense[first : first + 10] for dense in DENSE], first, number=first))
    return state


def test_the_k_strongest_contexts_of_each_feature_come_in_the_order_of_the_request(rig: Rig) -> None:
    state, features = documents_of_ten(), [(1, 9), (0, 22)]
    with answering(rig, state) as queries, main_loop(queries, windows_of):
        answer = rig.read(lambda views: views.contexts(features, 5))
        for k in (0, 9):
            with pytest.raises(BadValue, match=f"k = {k}: of each feature the 1 to 8"):
                rig.read(lambda views, k=k: views.contexts(features, k))
    expected = [(f"{layer}:{index}", at) for layer, index in features for at in state.strongest[layer].position[index, :5].tolist()]
    assert [(context.feature, context.log_position) for context in answer.contexts] == expected
    for context in answer.contexts:
        assert context.values[context.feature][context.position] == context.activation
        layer, index = map(int, context.feature.split(":"))
        assert context.activation == DENSE[layer][context.log_position, index]
    assert answer.missing == []


def test_a_request_for_many_windows_holds_up_neither_the_loop_nor_another_request(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_PENDING_SECONDS", 1e-9)  # a turn is over after one step
    state = documents_of_ten()

    async def look(views: Views, queries: LiveQueries):
        asked = []
        for features, k in (([(0, 22), (1, 9), (2, 11)], 8), ([(0, 5)], 1)):
            asked.append(asyncio.create_task(views.contexts(features, k)))
            while queries.pending.qsize() < len(asked):
                await asyncio.sleep(0.01)
        many, few = asked
        assert queries.answer_pending(windows_of) == 0, "the first turn begins the first request"
        assert queries.answer_pending(windows_of) == 1, "the second answers the other one"
        one = await few
        while queries.answer_pending(windows_of) == 0:
            assert queries._woken.is_set(), "what is left keeps an idle loop awake"
        return await many, one

    with answering(rig, state) as queries:
        many, few = rig.read(lambda views: look(views, queries))
    assert (len(many.contexts), len(few.contexts)) == (24, 1)


def test_pushed_activations_have_contexts_without_text(rig: Rig, state: State) -> None:
    def textless(positions: Sequence[int]) -> Iterator[Found]:
        for found in windows_of(positions):
            yield {position: window._replace(tokens=None) for position, window in found.items() if isinstance(window, Window)}

    with answering(rig, state) as queries, main_loop(queries, textless):
        (context,) = rig.read(lambda views: views.contexts([(0, 22)])).contexts
    assert context.tokens is None
    assert len(context.values["0:22"]) > 50


def test_a_context_request_wakes_an_idle_loop(rig: Rig, state: State) -> None:
    began = time.monotonic()
    with answering(rig, state) as queries, main_loop(queries, windows_of):  # which sleeps 10 s at a time
        rig.read(lambda views: views.contexts([(0, 5)], timeout=8.0))
    assert time.monotonic() - began < 10


def test_the_query_thread_outlives_a_redis_that_is_restarted(tmp_path, state: State) -> None:
    with private_redis(tmp_path) as server:
        rig = Rig(server)
        with answering(rig, state):
            assert rig.read(lambda views: views.similarity((0, 1), (1, 1))).tokens == TOKENS
            assert server.pid is not None
            process = server._process
            assert process is not None
            process.kill()
            process.wait()
            server.start()
            assert rig.read(lambda views: ask(views.client, views.keys, SimilarityRequest((0, 1), (1, 1)), 20.0)).tokens == TOKENS


def test_thresholds_and_int64_tables_are_read_as_they_are(rig: Rig) -> None:
    mine = State.zero(DICTIONARIES, [(0, 1)], 1.5)
    mine.add(as_batch(DENSE))
    mine.pairs[0, 1].promote()
    assert mine.pairs[0, 1].counts.dtype == torch.int64
    with answering(rig, mine):
        found = rig.read(lambda views: views.similarity((0, 22), (1, 16)))
    assert found.counts.joint == int(((DENSE[0][:, 22] > 1.5) & (DENSE[1][:, 16] > 1.5)).sum())


def test_what_can_not_be_answered_in_time_at_the_pace_of_late_is_refused_at_once(rig: Rig, state: State) -> None:
    waiting: list[int] = []

    def slowly(positions: Sequence[int]) -> Iterator[Found]:
        waiting.append(queries.waiting)
        time.sleep(0.3)  # so that all forty have come before the first of them are late, on a busy machine too
        yield from windows_of(positions)

    async def one(views: Views) -> ContextsAnswer:
        return await views.contexts([(0, 1)], 1)

    async def crowd(views: Views) -> list[object]:
        # All of a feature that has contexts: what needs no encoder is answered at once, and the pace with it.
        asked = [views.contexts([(0, 1)], 1, timeout=3.0) for _ in range(40)]
        return await asyncio.gather(*asked, return_exceptions=True)

    with answering(rig, state) as queries, main_loop(queries, slowly):
        for _ in range(5):
            rig.read(one)
        assert waiting == [1] * 5  # who is being answered waits too, for whoever comes next
        found = rig.read(crowd)
        refused = [answer for answer in found if isinstance(answer, TooMany)]
        assert len(refused) > 10 and all("wait for the engine's turn" in error.message for error in refused)
        assert all(1 <= (error.retry_after or 0) <= 30 for error in refused)
        assert any(isinstance(answer, ContextsAnswer) for answer in found)
        assert rig.read(one).contexts  # who comes later is not refused for what is past
