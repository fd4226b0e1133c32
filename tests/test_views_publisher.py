"""Publishing: never a mix, only what changed, and everything again after whatever happens to Redis."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import redis
from views_rig import DICTIONARIES, Rig, as_batch, counted, dense_activations, private_redis, publish, status, uniform

from engine.counts.state import State
from engine.errors import BadValue, NotReady, Unknown
from engine.views import blocks
from engine.views import publisher as publishing
from engine.views.connection import connect
from engine.views.convergence import Convergence
from engine.views.records import (
    CONTEXTS,
    ConvergenceRecord,
    FeatureRecord,
    SetAsideRecord,
    Snapshot,
    UploadRecord,
    Version,
)
from engine.views.redis_server import PrivateRedis

ALL = [(layer, index) for layer, size in enumerate(DICTIONARIES) for index in range(size)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    with private_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def rig(server: PrivateRedis) -> Rig:
    connect(server.url).flushall()
    return Rig(server)


def read_all(rig: Rig) -> tuple[Snapshot, list[FeatureRecord | None]]:
    return rig.read(lambda views: views.features(ALL))


def numbers(record: FeatureRecord | None) -> bytes:
    """All that a record says."""
    return msgspec.msgpack.encode(record)


def assert_uniform(snapshot: Snapshot, records: list[FeatureRecord | None]) -> None:
    """Every number that `uniform` set is the snapshot's."""
    for record in records:
        assert record is not None
        assert {record.count, record.sum, record.sum_of_squares, record.max_position} == {snapshot.tokens}
        assert record.contexts()["position"].tolist() == [snapshot.tokens] * CONTEXTS
        for table in record.tables:
            rows = table.rows()
            assert len(rows)
            for column in ("count", "joint", "sum", "sum_of_squares", "product"):
                assert (rows[column] == snapshot.tokens).all()


class Readers:
    """Threads that read 50 features at a time, again and again, and check every answer."""

    def __init__(self, rig: Rig, threads: int = 3) -> None:
        self.rig, self.reads, self.failures = rig, 0, []
        self.versions: set[str] = set()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._read, args=(seed,)) for seed in range(threads)]

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert not self.failures, self.failures[0]

    def _read(self, seed: int) -> None:
        chance = random.Random(seed)

        async def look(views):
            latest = (0, 0)
            while not self._stop.is_set():
                try:
                    snapshot, records = await views.features(chance.choices(ALL, k=50))
                except NotReady:
                    continue
                assert_uniform(snapshot, records)
                version = Version.parse(snapshot.version)
                assert version >= latest, "an older snapshot after a newer one"
                latest = version
                self.versions.add(snapshot.version)
                self.reads += 1

        try:
            self.rig.read(look)
        except (AssertionError, redis.RedisError) as error:
            self.failures.append(error)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many records and many calls to Redis per publish, so that readers come in between."""
    monkeypatch.setattr(blocks, "BLOCK", 5)
    monkeypatch.setattr(publishing, "_CHUNK_BYTES", 5_000)


def test_readers_never_see_a_mix_of_two_snapshots(rig: Rig, small_chunks: None) -> None:
    state, publisher = State.zero(DICTIONARIES), rig.publisher()
    with Readers(rig) as readers:
        tokens = 10
        while tokens < 60 or readers.reads < 200 or len(readers.versions) < 20:
            assert tokens < 5_000, "the readers never came in between"
            tokens += 1
            uniform(state, tokens)
            assert publish(publisher, state).written == sum(DICTIONARIES)
    assert readers.reads >= 200


def test_readers_never_see_a_mix_while_redis_is_wiped_again_and_again(rig: Rig, small_chunks: None) -> None:
    state, publisher, wiped = State.zero(DICTIONARIES), rig.publisher(), threading.Event()
    client, chance = connect(rig.server.url), random.Random(5)

    def wipe() -> None:
        while not wiped.is_set():
            client.flushall()
            wiped.wait(chance.random() * 0.2)  # a publish beside the readers takes some 30 ms

    thread = threading.Thread(target=wipe)
    thread.start()
    broken = whole = 0
    with Readers(rig, threads=2) as readers:
        tokens = 10
        while broken < 10 or whole < 10 or readers.reads < 50:
            assert tokens < 20_000, f"{broken} broken, {whole} whole publishes, {readers.reads} reads"
            tokens += 1
            uniform(state, tokens)
            if publish(publisher, state).version is None:
                broken += 1
                assert publisher.problem == "Redis was wiped or restarted while a snapshot was being published"
            else:
                whole += 1
        wiped.set()
        thread.join()
        uniform(state, tokens + 1)
        while publish(publisher, state).version is None:
            pass
        snapshot, records = read_all(rig)
        assert snapshot.tokens == tokens + 1
        assert_uniform(snapshot, records)


def after_calls(script, calls: int, then: Callable[[], None]):
    """The same script, but that something happens after some calls."""
    made = 0

    def call(**arguments):
        nonlocal made
        answer = script(**arguments)
        made += 1
        if made == calls:
            then()
        return answer

    return call


def lose_connection() -> None:
    raise redis.ConnectionError("Connection reset by peer")


@pytest.mark.parametrize("script", ["_write", "_commit"])
def test_a_connection_lost_in_a_publish_leaves_the_old_snapshot_or_the_new_one_whole(
    rig: Rig, small_chunks: None, script: str
) -> None:
    state, publisher = State.zero(DICTIONARIES), rig.publisher()
    for tokens in (11, 12):
        uniform(state, tokens)
        publish(publisher, state)
    real = getattr(publisher, script)
    setattr(publisher, script, after_calls(real, 3 if script == "_write" else 1, lose_connection))
    uniform(state, 13)
    assert publish(publisher, state).version is None
    assert publisher.problem == "the views can't be published: Redis does not answer"
    assert publisher.tokens == -1
    snapshot, records = read_all(rig)
    assert snapshot.tokens == (12 if script == "_write" else 13)  # a commit is done when its answer is lost
    assert_uniform(snapshot, records)
    setattr(publisher, script, real)
    uniform(state, 14)
    assert publish(publisher, state).written == sum(DICTIONARIES)
    assert publisher.problem is None
    snapshot, records = read_all(rig)
    assert snapshot.tokens == 14
    assert_uniform(snapshot, records)


def test_a_redis_that_is_killed_and_started_empty_gets_everything_again_and_counting_never_notices(
    tmp_path: Path,
) -> None:
    with private_redis(tmp_path) as server:
        rig = Rig(server)
        state, publisher = counted(dense_activations(100)), rig.publisher()
        publish(publisher, state)
        before = read_all(rig)[1]
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while server.alive():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert publish(publisher, state).version is None
        assert "Redis does not answer" in (publisher.problem or "")
        publisher.beat(status(state))
        server.start()
        assert publish(publisher, state).written == sum(DICTIONARIES)
        assert publisher.problem is None
        assert [numbers(one) for one in read_all(rig)[1]] == [numbers(one) for one in before]


def test_a_wipe_while_idle_is_found_by_the_next_heartbeat(rig: Rig) -> None:
    state, publisher = counted(dense_activations(100)), rig.publisher()
    publish(publisher, state)
    assert publish(publisher, state).written == 0  # nothing new: a heartbeat
    connect(rig.server.url).flushall()
    assert not publisher.beat(status(state))
    assert not publisher.has(state)
    assert publish(publisher, state).written == sum(DICTIONARIES)
    assert read_all(rig)[0].tokens == 100
    assert rig.read(lambda views: views.run()) == rig.description


def test_a_wipe_while_idle_is_found_by_the_next_publish_of_the_same_state(rig: Rig) -> None:
    state, publisher = counted(dense_activations(100)), rig.publisher()
    publish(publisher, state)
    connect(rig.server.url).flushall()
    assert publish(publisher, state).written == sum(DICTIONARIES)
    assert read_all(rig)[0].tokens == 100


def test_a_segment_that_ends_after_its_last_token_was_published_is_published_too(rig: Rig) -> None:
    state, publisher = counted(dense_activations(100)), rig.publisher()
    first = publish(publisher, state)
    assert publish(publisher, state).version == first.version  # nothing new
    state.end_segment([], [], [])
    second = publish(publisher, state)
    assert second.version != first.version and second.tokens == first.tokens
    assert second.written == 0 and second.bytes > 0, "intervals, gates and effects, but nobody fired"
    assert publish(publisher, state).version == second.version


def test_only_changed_records_are_rewritten_and_all_are_as_if_all_had_been(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 8)
    layers = dense_activations(300)
    layers[2][:, 20:] = 0  # these partners of nobody, so that something can stay unchanged
    layers[0][:, 15:] = 0
    state, publisher = counted(layers), rig.publisher()
    publish(publisher, state)
    more = dense_activations(1, seed=9)
    for dense in more:
        dense[:] = 0
    more[2][0, 25] = 1.0  # one feature fires, once, alone
    state.add(as_batch(more, first=300))
    done = publish(publisher, state)
    assert 1 <= done.written < done.features / 2
    fresh = Rig(rig.server, redis_prefix="fresh:")
    assert publish(fresh.publisher(), state).written == done.features
    snapshot, records = read_all(rig)
    assert snapshot.tokens == 301
    assert [numbers(one) for one in records] == [numbers(one) for one in read_all(fresh)[1]]


@pytest.mark.parametrize("seed", range(3))
def test_many_small_publishes_end_in_the_records_of_a_single_one(rig: Rig, seed: int) -> None:
    state, publisher = counted(dense_activations(200, seed=seed)), rig.publisher()
    publish(publisher, state)
    first = 200
    for at in range(8):
        more = dense_activations(3, seed=100 * seed + at)
        state.add(as_batch(more, first=first))
        first += 3
        publish(publisher, state)
    fresh = Rig(rig.server, redis_prefix="fresh:")
    publish(fresh.publisher(), state)
    assert [numbers(one) for one in read_all(rig)[1]] == [numbers(one) for one in read_all(fresh)[1]]


def test_a_restarted_engine_goes_on_with_later_versions_even_when_its_clock_was_set_back(rig: Rig) -> None:
    state = State.zero(DICTIONARIES)
    uniform(state, 50)
    first = publish(rig.publisher(epoch=2_000), state).version
    uniform(state, 40)  # from its checkpoint, which is behind what was published
    behind = rig.publisher(epoch=1_500)
    second = publish(behind, state).version
    assert first is not None
    assert second is not None
    assert Version.parse(second) > Version.parse(first)
    snapshot, records = read_all(rig)
    assert snapshot.version == second
    assert_uniform(snapshot, records)


def test_an_engine_that_another_one_replaced_stops_publishing_and_says_why(rig: Rig) -> None:
    state, old = State.zero(DICTIONARIES), rig.publisher(epoch=1_000)
    uniform(state, 20)
    publish(old, state)
    uniform(state, 30)
    publish(rig.publisher(epoch=2_000), state)
    for tokens in (21, 22):
        uniform(state, tokens)
        assert publish(old, state).version is None
        old.beat(status(state))
    assert "another engine, started later" in (old.problem or "")
    assert "saestream:" in (old.problem or "")
    snapshot, records = read_all(rig)
    assert snapshot.tokens == 30
    assert_uniform(snapshot, records)


def test_another_run_in_the_same_redis_shows_nothing_of_the_one_before(rig: Rig) -> None:
    publish(rig.publisher(epoch=1_000), counted(dense_activations(100)))
    smaller = Rig(rig.server, (5, 4))
    publisher, state = smaller.publisher(epoch=2_000), State.zero((5, 4))
    publisher.beat(status(state))
    with pytest.raises(NotReady, match="not published a snapshot"):
        smaller.read(lambda views: views.feature(0, 0))
    uniform(state, 30)
    publish(publisher, state)
    assert smaller.read(lambda views: views.feature(0, 4))[1].count == 30
    for feature in [(0, 5), (2, 0), (0, -1)]:
        with pytest.raises(Unknown, match="there is no"):
            smaller.read(lambda views, feature=feature: views.feature(*feature))
    layers = {key for key in connect(rig.server.url).scan_iter("saestream:record:layer:*")}
    assert {key.rpartition(b":")[0] for key in layers} == {b"saestream:record:layer:0", b"saestream:record:layer:1"}


def test_a_feature_that_never_fired_has_a_record_with_empty_tables(rig: Rig) -> None:
    publish(rig.publisher(), counted(dense_activations(100)))
    _, record = rig.read(lambda views: views.feature(1, 0))
    assert (record.count, record.max, record.max_position, len(record.contexts())) == (0, 0.0, -1, 0)
    assert [(table.layer, table.direction, len(table.rows())) for table in record.tables] == [
        (0, "upstream", 0),
        (2, "downstream", 0),
    ]


def test_a_record_holds_the_strongest_activations_of_different_documents(rig: Rig) -> None:
    layers, publisher = dense_activations(120), rig.publisher()
    state = State.zero(DICTIONARIES)
    for number in range(12):
        state.add(as_batch([dense[10 * number : 10 * number + 10] for dense in layers], 10 * number, number=number))
    publish(publisher, state)
    for (layer, index), record in zip(ALL, read_all(rig)[1], strict=True):
        assert record is not None
        best = [
            (10 * at + int(chunk.argmax()), float(chunk.max())) for at, chunk in enumerate(layers[layer][:, index].reshape(12, 10))
        ]
        best = sorted((one for one in best if one[1] > 0), key=lambda one: (-one[1], one[0]))[:CONTEXTS]
        assert record.contexts().tolist() == best
        assert (record.max_position, record.max) == (best[0] if best else (-1, 0.0))


def test_a_feature_is_written_anew_when_only_its_strongest_activations_or_its_list_have_changed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 4)
    state, publisher = counted(dense_activations(120)), rig.publisher()
    publish(publisher, state)
    state.segments_ended += 1  # as what is changed here, nothing else tells
    state.strongest[1].position[9, 5] = 77
    assert publish(publisher, state).written == 4
    assert 77 in rig.read(lambda views: views.feature(1, 9))[1].contexts()["position"]
    lists = [len(table.rows()) for table in rig.read(lambda views: views.feature(0, 1))[1].tables]
    state.segments_ended += 1
    state.pairs[0, 1].counts[1] = 0
    assert publish(publisher, state).written >= 4
    now = [len(table.rows()) for table in rig.read(lambda views: views.feature(0, 1))[1].tables]
    assert now[0] == 0 < lists[0] and now[1] == lists[1]


def test_status_uploads_and_convergence_come_with_the_snapshot_and_heartbeats_between(rig: Rig) -> None:
    state, publisher = counted(dense_activations(100)), rig.publisher()
    one = UploadRecord(id="a", state="counting", tokens_received=120, tokens_counted=100)
    two = UploadRecord(id="b", state="queued")
    series = ConvergenceRecord(pairs=[(0, 1)], points=[])
    assert rig.read(lambda views: views.status()) is None
    assert rig.read(lambda views: views.snapshot()) is None
    publisher.publish(state, status(state), [one, two], series)
    assert rig.read(lambda views: views.uploads()) == {"a": one, "b": two}
    assert rig.read(lambda views: views.convergence()) == series
    assert rig.read(lambda views: views.newest_point()) is None
    assert rig.read(lambda views: views.status()) == status(state)
    observed = Convergence([(0, 1)])
    assert observed.observe(state)
    longer = observed.record()  # a segment ended just after the snapshot of its last token
    assert publisher.publish(state, status(state), [one, two], longer).written == 0
    assert rig.read(lambda views: views.convergence()) == longer
    assert rig.read(lambda views: views.newest_point()) == (longer.pairs, longer.points[-1])
    later = msgspec.structs.replace(two, state="failed", error="broken", set_aside=SetAsideRecord(documents=1, tokens=3))
    publisher.beat(msgspec.structs.replace(status(state), state="idle"), [one, later])
    assert rig.read(lambda views: views.uploads(["b", "unheard-of"])) == {"b": later}
    assert rig.read(lambda views: views.uploads([])) == {}
    found = rig.read(lambda views: views.status())
    assert found is not None
    assert found.state == "idle"


def test_more_than_a_hundred_features_are_not_read_at_once(rig: Rig) -> None:
    with pytest.raises(BadValue, match="101 features in one read: at most 100"):
        rig.read(lambda views: views.features([(0, 0)] * 101))
