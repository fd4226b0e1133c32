"""Publishing beside the counting: what was taken is what is shown, whatever is counted, wiped or stopped meanwhile."""

from __future__ import annotations

import random
import threading
import weakref
from collections.abc import Iterator

import msgspec
import pytest
from test_views_publisher import Readers, assert_uniform, read_all
from views_rig import DICTIONARIES, PAIRS, Rig, counted, dense_activations, private_redis, publish, status, uniform

from engine.counts.state import State
from engine.errors import NotReady
from engine.views import blocks
from engine.views import publisher as publishing
from engine.views.connection import connect
from engine.views.publisher import Publisher, Told
from engine.views.publishing import TAKING_SHARE, Publishing
from engine.views.ranking import Ranking
from engine.views.records import ConvergenceRecord, UploadRecord
from engine.views.redis_server import PrivateRedis
from kernels import Supported


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    with private_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def rig(server: PrivateRedis, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """Many small records and many calls a publish."""
    monkeypatch.setattr(blocks, "BLOCK", 5)
    monkeypatch.setattr(publishing, "_CHUNK_BYTES", 5_000)
    connect(server.url).flushall()
    return Rig(server)


@pytest.fixture
def thread(rig: Rig) -> Iterator[Publishing]:
    running = Publishing(rig.publisher(), rig.settings.publish_interval, threads=1)
    running.start()
    yield running
    running.stop()


def told(state: State) -> Told:
    return Told(status(state), [], ConvergenceRecord(pairs=[], points=[]))


def hand_over(thread: Publishing, state: State) -> None:
    """As the loop does."""
    thread.put(thread.publisher.take(state), told(state))


def until_due(thread: Publishing) -> None:
    while not thread.due(idle=True):
        thread.check()


class Gate:
    """A publisher's writing calls, of which each waits to be let through."""

    def __init__(self, publisher: Publisher) -> None:
        self.reached, self.open = threading.Semaphore(0), threading.Semaphore(0)
        self._write = publisher._write
        publisher._write = self  # type: ignore[assignment]  # a call like the script's

    def __call__(self, **arguments):
        self.reached.release()
        self.open.acquire()
        return self._write(**arguments)

    def let_all_through(self) -> None:
        self.open.release(1_000_000)


def test_readers_see_the_moment_that_was_taken_while_counting_goes_on(rig: Rig, thread: Publishing) -> None:
    state = State.zero(DICTIONARIES)
    with Readers(rig) as readers:
        tokens = 10
        while tokens < 200 or readers.reads < 200 or len(readers.versions) < 20:
            assert tokens < 200_000, "the readers never came in between"
            tokens += 1
            uniform(state, tokens)  # also while a moment before is being written
            if thread.due(idle=True):
                hand_over(thread, state)
    assert readers.reads >= 200


def test_readers_never_see_a_mix_while_redis_is_wiped_again_and_again_beside_the_thread(rig: Rig, thread: Publishing) -> None:
    state, ended, client, chance = State.zero(DICTIONARIES), threading.Event(), connect(rig.server.url), random.Random(7)

    def wipe() -> None:
        while not ended.is_set():
            client.flushall()
            ended.wait(chance.random() * 0.2)

    wiping = threading.Thread(target=wipe)
    wiping.start()
    broken = whole = 0
    with Readers(rig, threads=2) as readers:
        tokens = 10
        while broken < 10 or whole < 10 or readers.reads < 50:
            assert tokens < 20_000, f"{broken} broken, {whole} whole publishes, {readers.reads} reads"
            tokens += 1
            uniform(state, tokens)
            until_due(thread)
            hand_over(thread, state)
            if tokens % 3 == 0:
                thread.finish()
                thread.beat(told(state))
            thread.finish()
            broken, whole = (broken + 1, whole) if thread.publisher.last.version is None else (broken, whole + 1)
        ended.set()
        wiping.join()
        for _ in range(2):  # the first may find out that the last wipe took what was there
            until_due(thread)
            uniform(state, tokens := tokens + 1)
            hand_over(thread, state)
            thread.finish()
        assert thread.publisher.problem is None
        snapshot, records = read_all(rig)
        assert snapshot.tokens == tokens
        assert_uniform(snapshot, records)


def test_a_snapshot_that_is_being_written_when_the_engine_stops_is_left_unseen_and_the_next_engine_publishes_everything(
    rig: Rig, thread: Publishing
) -> None:
    state = State.zero(DICTIONARIES)
    uniform(state, 20)
    hand_over(thread, state)
    thread.finish()
    gate = Gate(thread.publisher)
    uniform(state, 21)
    hand_over(thread, state)
    gate.reached.acquire()  # its first call is on its way
    stopping = threading.Thread(target=thread.stop)
    stopping.start()
    while not thread.publisher.abandon.is_set():
        pass
    gate.let_all_through()
    stopping.join()
    assert not gate.reached.acquire(blocking=False), "it has written on although it was told to stop"
    assert thread.publisher.last.version is None and thread.publisher.problem is None
    snapshot, records = read_all(rig)
    assert snapshot.tokens == 20
    assert_uniform(snapshot, records)
    assert not thread.publisher.beat(status(state))  # the last word of an engine that stops
    assert publish(rig.publisher(epoch=2_000), state).written == sum(DICTIONARIES)
    snapshot, records = read_all(rig)
    assert snapshot.tokens == 21
    assert_uniform(snapshot, records)


def test_nothing_is_taken_while_something_is_being_written_and_the_pause_follows_from_what_it_cost(
    rig: Rig, thread: Publishing
) -> None:
    state = counted(dense_activations(100))
    gate = Gate(thread.publisher)
    assert thread.due() and thread.due(idle=True)
    hand_over(thread, state)
    assert not thread.due(idle=True)
    gate.reached.acquire()
    assert not thread.free and not thread.due() and not thread.due(idle=True)
    assert thread.due(ahead=60.0), "one may wait"
    moment = thread.publisher.take(state)
    thread.put(moment, told(state))
    assert not thread.due(ahead=60.0)
    gate.let_all_through()
    thread.finish()
    assert thread.free and thread.publisher.last.version is not None
    assert thread.interval >= TAKING_SHARE**-1 * 0.5 * moment.seconds
    assert thread.interval >= rig.settings.publish_interval
    slow = Publishing(rig.publisher(epoch=2_000), 3_600.0, threads=1)
    slow.start()
    hand_over(slow, state)
    slow.finish()
    assert slow.interval == 3_600.0 and not slow.due() and not slow.due(idle=True)
    assert slow.due(ahead=3_601.0) and not slow.due(ahead=1.0)
    slow.stop()


def test_a_moment_that_holds_changes_only_is_not_written_where_all_must_be(rig: Rig, thread: Publishing) -> None:
    state = counted(dense_activations(100))
    hand_over(thread, state)
    thread.finish()
    moment = thread.publisher.take(counted(dense_activations(120)))
    assert not moment.whole
    connect(rig.server.url).flushall()
    thread.beat(told(state))  # finds out
    thread.finish()
    thread.put(moment, told(state))
    thread.finish()
    assert thread.publisher.last.version is None
    with pytest.raises(NotReady, match="not published a snapshot"):
        read_all(rig)
    until_due(thread)
    hand_over(thread, state)
    thread.finish()
    assert read_all(rig)[0].tokens == 100


def test_what_was_taken_is_let_go_once_it_is_written(rig: Rig, thread: Publishing) -> None:
    state = counted(dense_activations(100))
    moment = thread.publisher.take(state)
    taken = [weakref.ref(table.column) for table in moment.tables.values() if isinstance(table, Supported)]
    taken += [weakref.ref(rows) for rows in moment.strengths]
    assert len(taken) == len(PAIRS) + len(DICTIONARIES)
    thread.put(moment, told(state))
    del moment
    thread.finish()
    until_due(thread)
    thread.beat(told(state))  # the thread has something else in its hands
    thread.finish()
    assert [one() for one in taken] == [None] * len(taken)


def test_without_room_for_a_copy_tables_are_ranked_where_they_stand_and_the_snapshot_is_the_same(rig: Rig) -> None:
    state = counted(dense_activations(100))
    assert publish(rig.publisher(epoch=1), state).written == sum(DICTIONARIES)

    def lists() -> list[tuple]:
        return [(table.layer, table.direction, bytes(table.packed)) for record in read_all(rig)[1] for table in record.tables]

    before = lists()
    publisher = rig.publisher(epoch=2, memory_budget=1_000)
    assert all(isinstance(table, Ranking) for table in publisher.take(state).tables.values())
    assert publish(publisher, state).written == sum(DICTIONARIES)
    assert lists() == before


def test_heartbeats_tell_the_uploads_and_do_not_wait_for_a_snapshot(rig: Rig, thread: Publishing) -> None:
    state = counted(dense_activations(100))
    hand_over(thread, state)
    thread.finish()
    upload = UploadRecord(id="a", state="counting", tokens_received=120, tokens_counted=100)
    thread.beat(told(state)._replace(uploads=[upload]))
    thread.finish()
    assert rig.read(lambda views: views.uploads()) == {"a": upload}
    gate = Gate(thread.publisher)
    hand_over(thread, counted(dense_activations(120)))
    gate.reached.acquire()
    for tokens in (121, 122):  # what is told while it is being written is told with its next call, if it is the newest
        thread.beat(Told(msgspec.structs.replace(status(state), tokens=tokens)))
    gate.open.release()
    gate.reached.acquire()
    told_meanwhile = rig.read(lambda views: views.status())
    assert told_meanwhile is not None and told_meanwhile.tokens == 122
    assert read_all(rig)[0].tokens == 100
    thread.beat(Told(msgspec.structs.replace(status(state), tokens=123)))
    gate.let_all_through()
    thread.finish()
    last = rig.read(lambda views: views.status())
    assert last is not None and last.tokens == 123 and read_all(rig)[0].tokens == 120


def test_what_ends_the_thread_is_raised_where_the_loop_looks(rig: Rig, thread: Publishing) -> None:
    state = counted(dense_activations(100))
    moment = thread.publisher.take(state)
    moment.tables.clear()
    moment.effects[0, 1] = None  # type: ignore[assignment]  # a defect
    object.__setattr__(moment, "tables", {(0, 1): None})
    thread.put(moment, told(state))
    with pytest.raises(AttributeError):
        thread.finish()
    with pytest.raises(AttributeError):
        thread.check()
