"""Events: resumed after an id without loss or repetition, and `reset` when that can't be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from views_rig import DICTIONARIES, Rig, private_redis, publish, uniform

from engine.counts.state import State
from engine.views.connection import connect
from engine.views.publisher import Publisher
from engine.views.reader import Views
from engine.views.records import Event


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with private_redis(tmp_path_factory.mktemp("redis")) as server:
        yield Rig(server)


@pytest.fixture
def publisher(rig: Rig) -> Publisher:
    connect(rig.server.url).flushall()
    return rig.publisher()


def publish_all(publisher: Publisher, tokens: Sequence[int]) -> list[str]:
    """The versions of the snapshots with these token counts."""
    state, versions = State.zero(DICTIONARIES), []
    for count in tokens:
        uniform(state, count)
        done = publish(publisher, state)
        assert done.version is not None
        versions.append(done.version)
    return versions


async def first(views: Views, after: str | None, count: int, heartbeat: float = 15.0) -> list[Event | None]:
    """The first events of a stream."""
    stream, found = views.events(after, heartbeat), []
    async for event in stream:
        found.append(event)
        if len(found) == count:
            break
    await stream.aclose()  # type: ignore[attr-defined]
    return found


def told(events: list[Event | None]) -> list[tuple[str, str, int]]:
    return [(event.kind, event.id, event.snapshot.tokens) for event in events if event is not None]


def test_a_stream_begins_with_the_newest_snapshot(rig: Rig, publisher: Publisher) -> None:
    versions = publish_all(publisher, [5, 6, 7])
    assert told(rig.read(lambda views: first(views, None, 1))) == [("snapshot", versions[2], 7)]


def test_a_stream_resumes_with_the_first_event_after_the_last_one_seen(rig: Rig, publisher: Publisher) -> None:
    versions = publish_all(publisher, [5, 6, 7, 8])
    expected = [("snapshot", versions[2], 7), ("snapshot", versions[3], 8)]
    assert told(rig.read(lambda views: first(views, versions[1], 2))) == expected


def test_a_stream_follows_what_is_published_while_it_is_open(rig: Rig, publisher: Publisher) -> None:
    seen: list[Event | None] = []
    state = State.zero(DICTIONARIES)

    async def follow(views: Views) -> None:
        stream = views.events(None)
        for tokens in (5, 6, 7):
            uniform(state, tokens)
            publish(publisher, state)
            seen.append(await anext(stream))  # type: ignore[arg-type]
        await stream.aclose()  # type: ignore[attr-defined]

    rig.read(follow)
    assert [(kind, tokens) for kind, _, tokens in told(seen)] == [("snapshot", 5), ("snapshot", 6), ("snapshot", 7)]


def test_a_snapshot_that_comes_just_after_a_look_is_no_reset(
    rig: Rig, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions, state, newest = publish_all(publisher, [5]), State.zero(DICTIONARIES), Views._newest_event
    uniform(state, 5)

    async def later(views: Views):
        """Between the look at what is new and the look at what is there."""
        if state.tokens < 7:
            uniform(state, state.tokens + 1)
            publish(publisher, state)
        return await newest(views)

    monkeypatch.setattr(Views, "_newest_event", later)
    seen = told(rig.read(lambda views: first(views, versions[0], 2)))
    assert [(kind, tokens) for kind, _, tokens in seen] == [("snapshot", 6), ("snapshot", 7)]


@pytest.mark.parametrize("after", ["17-4", "not an id", "9999999999999-1"], ids=["long-gone", "no-id", "of-the-future"])
def test_an_id_that_is_not_kept_gets_a_reset_with_the_newest_snapshot(rig: Rig, publisher: Publisher, after: str) -> None:
    versions = publish_all(publisher, [5, 6])
    assert told(rig.read(lambda views: first(views, after, 1))) == [("reset", versions[1], 6)]


def test_a_reader_whose_next_event_was_trimmed_gets_a_reset(rig: Rig, publisher: Publisher) -> None:
    versions = publish_all(publisher, [5, 6, 7, 8])
    connect(rig.server.url).xtrim("saestream:events", maxlen=1, approximate=False)
    assert told(rig.read(lambda views: first(views, versions[0], 1))) == [("reset", versions[3], 8)]
    # …but one that saw all that was trimmed has lost nothing.
    assert told(rig.read(lambda views: first(views, versions[2], 1))) == [("snapshot", versions[3], 8)]


def test_a_restarted_engine_begins_with_a_reset_and_its_ids_go_on_rising(rig: Rig, publisher: Publisher) -> None:
    versions = publish_all(publisher, [5, 6])
    restarted = publish_all(rig.publisher(epoch=5_000), [4, 7])
    expected = [("reset", restarted[1], 7)]
    assert told(rig.read(lambda views: first(views, versions[1], 1))) == expected


def test_an_open_stream_survives_a_wiped_redis_with_a_reset(rig: Rig, publisher: Publisher) -> None:
    state = State.zero(DICTIONARIES)

    async def follow(views: Views) -> list[Event | None]:
        stream = views.events(None)
        uniform(state, 5)
        publish(publisher, state)
        seen = [await anext(stream)]  # type: ignore[arg-type]
        connect(rig.server.url).flushall()
        uniform(state, 6)
        while publish(publisher, state).version is None:  # the tick that finds the wipe, and the one after it
            pass
        seen.append(await anext(stream))  # type: ignore[arg-type]
        await stream.aclose()  # type: ignore[attr-defined]
        return seen

    assert [(kind, tokens) for kind, _, tokens in told(rig.read(follow))] == [("snapshot", 5), ("reset", 6)]


def test_a_quiet_stream_gives_heartbeats(rig: Rig, publisher: Publisher) -> None:
    versions = publish_all(publisher, [5])
    assert rig.read(lambda views: first(views, versions[0], 2, heartbeat=0.01)) == [None, None]
