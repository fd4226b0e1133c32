"""Intervals in records, live answers and rankings, against the moments of whole documents."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from views_rig import DICTIONARIES, PAIRS, Rig, description, private_redis, publish
from watched_state import CHOSEN_AT, DOCUMENTS, LENGTH, activations, corpus, watched_state

from engine.counts.state import State
from engine.errors import BadValue, DamagedFile, Unknown
from engine.measures import PairCounts
from engine.measures.bounds import tempered_bounds
from engine.measures.intervals import intervals
from engine.measures.moments import Moments, moments_of
from engine.views.answers import NeighborsAnswer, SimilarityAnswer
from engine.views.effects import Effects
from engine.views.live import LiveQueries
from engine.views.publisher import Publisher
from engine.views.records import INTERVAL_MEASURES
from engine.views.requests import NeighborsRequest, SimilarityRequest
from engine.views.watch import Watch


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> State:
    return watched_state(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def effects(state: State) -> Effects:
    found = Effects(DICTIONARIES)
    found.update(state)
    return found


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, state: State, effects: Effects) -> Iterator[Rig]:
    with private_redis(tmp_path_factory.mktemp("redis")) as server:
        rig = Rig(server, published_k=5)
        publish(Publisher(rig.settings, rig.description, 1_000, None, effects), state)
        yield rig


@pytest.fixture(scope="module")
def live(rig: Rig, state: State, effects: Effects) -> LiveQueries:
    return LiveQueries(rig.settings, rig.description, state, threading.Lock(), effects=effects)


def moments(up: tuple[int, int], down: tuple[int, int], numbers: range, only: str | None = None) -> Moments:
    """Of one pair, over some documents, from their dense activations."""
    clusters = []
    for number in numbers:
        if only is None or corpus(number) == only:
            dense = activations(number)
            a, b = dense[up[0]][:, up[1]].astype(np.float64), dense[down[0]][:, down[1]].astype(np.float64)
            counts = ((a > 0).sum(), (b > 0).sum(), ((a > 0) & (b > 0)).sum())
            clusters.append((len(a), *counts, a.sum(), b.sum(), a @ a, b @ b, a @ b))
    return moments_of(clusters)


def test_the_interval_of_a_watched_pair_is_that_of_the_documents_after_it_was_chosen(state: State, live: LiveQueries) -> None:
    watched = state.watched[0, 1]
    checked = 0
    for i, j in list(zip(watched.up.tolist(), watched.down.tolist(), strict=True))[1::5]:
        answer = live.tables.similarity(SimilarityRequest((0, i), (1, j)))
        wanted = intervals(moments((0, i), (1, j), range(CHOSEN_AT, DOCUMENTS)), INTERVAL_MEASURES)
        for measure in INTERVAL_MEASURES:
            found, expected = answer.measures[measure], wanted[measure]
            assert found.counted_from == CHOSEN_AT * LENGTH
            assert found.documents == expected.documents
            if expected.sufficient:
                assert (found.status, found.method) == ("ok", "anytime")
                assert (found.lower, found.interval_estimate, found.upper) == pytest.approx(
                    (float(expected.lower), float(expected.estimate), float(expected.upper)), rel=1e-5
                )
                assert found.lower is not None and found.upper is not None and 0 < found.upper - found.lower < 1
                checked += 1
            else:
                assert (found.status, found.lower) == ("insufficient", None)
                assert f"{found.documents} informative documents" in (found.reason or "")
    assert checked > 10


def test_a_pair_that_never_fires_is_watched_when_it_is_pinned_and_says_that_it_has_no_documents(live: LiveQueries) -> None:
    found = live.tables.similarity(SimilarityRequest((0, 0), (1, 3))).measures
    assert found["sufficiency"].estimate is None and "0:0 never fired" in (found["sufficiency"].reason or "")
    assert found["necessity"].status == "ok" and found["necessity"].lower == 0


def unwatched(state: State) -> tuple[int, int]:
    everything = np.indices((DICTIONARIES[0], DICTIONARIES[1])).reshape(2, -1)
    missing = np.flatnonzero(state.watched[0, 1].find(*everything) < 0)
    joint = state.pairs[0, 1].at(*everything[:, missing]).joint
    return tuple(everything[:, missing[np.argmax(joint)]].tolist())


def test_any_other_pair_has_tempered_bounds_marked_as_heuristic(state: State, live: LiveQueries, effects: Effects) -> None:
    i, j = unwatched(state)
    answer = live.tables.similarity(SimilarityRequest((0, i), (1, j)))
    total = moments((0, i), (1, j), range(DOCUMENTS)).sums
    counts = PairCounts(*(np.array([value]) for value in (total[0], *total[1:4], *total[4:])))
    effect = effects.ratios((0, 1), np.array([answer.counts.joint]))
    rate = np.array([max(effects.rates[0][i], effects.rates[1][j])])
    for measure in INTERVAL_MEASURES:
        found = answer.measures[measure]
        lower, upper = tempered_bounds(measure, counts, effect, rate)
        assert (found.status, found.method, found.counted_from) == ("heuristic", "tempered", None)
        assert (found.lower, found.upper) == pytest.approx((lower[0], upper[0]), rel=1e-5)
        assert found.lower < found.estimate < found.upper  # type: ignore[operator]
    assert answer.measures["lift"].status == "insufficient" and answer.measures["lift"].lower is None


def test_one_corpus_of_a_watched_pair(state: State, live: LiveQueries) -> None:
    i, j = int(state.watched[0, 1].up[7]), int(state.watched[0, 1].down[7])
    for name in ("code", "prose"):
        answer = live.tables.similarity(SimilarityRequest((0, i), (1, j), name))
        wanted = moments((0, i), (1, j), range(CHOSEN_AT, DOCUMENTS), name)
        assert answer.corpus == name and answer.tokens == wanted.sums[0]
        assert [answer.counts.up, answer.counts.down, answer.counts.joint] == wanted.sums[1:4].tolist()
        found = answer.measures["jaccard"]
        assert found.estimate == pytest.approx(wanted.sums[3] / (wanted.sums[1] + wanted.sums[2] - wanted.sums[3]))
        assert found.documents == wanted.documents[2]
    with pytest.raises(Unknown, match=r"corpus = 'poems'.*code, prose"):
        live.tables.similarity(SimilarityRequest((0, i), (1, j), "poems"))
    with pytest.raises(BadValue, match=r"are not watched.*POST /v1/watch"):
        i, j = unwatched(state)
        live.tables.similarity(SimilarityRequest((0, i), (1, j), "code"))


@pytest.mark.parametrize("measure", INTERVAL_MEASURES)
@pytest.mark.parametrize(("feature", "direction"), [((0, 11), "downstream"), ((1, 9), "upstream"), ((1, 9), "downstream")])
def test_a_list_is_ranked_by_the_lower_bounds_of_all_pairs(
    rig: Rig, live: LiveQueries, feature: tuple[int, int], direction: str, measure: str
) -> None:
    everything = live.tables.neighbors(NeighborsRequest(feature, direction, measure, 100, 2))  # type: ignore[arg-type]
    assert everything.rank == "lower"
    bounds = {}
    for row in everything.neighbors:
        other = tuple(map(int, row.feature.split(":")))
        up, down = (feature, other) if direction == "downstream" else (other, feature)
        found: SimilarityAnswer = live.tables.similarity(SimilarityRequest(up, down))
        assert row.estimate == found.measures[measure].estimate
        assert (row.lower, row.upper, row.status) == tuple(
            getattr(found.measures[measure], name) for name in ("lower", "upper", "status")
        )
        own = PairCounts(*(np.array([value]) for value in moments(up, down, range(DOCUMENTS)).sums))
        effects = live.tables._effects
        rate = np.array([max(effects.rates[up[0]][up[1]], effects.rates[down[0]][down[1]])])
        bounds[row.feature] = tempered_bounds(measure, own, effects.ratios((up[0], down[0]), own.joint), rate)[0][0]  # type: ignore[arg-type]
    order = [bounds[row.feature] for row in everything.neighbors]
    assert order == sorted(order, reverse=True)
    published = rig.read(
        lambda views: views.neighbors(
            *feature,
            direction=direction,
            measure=measure,
            k=5,
            min_support=2,
            published_k=5,
            published_support=2,  # type: ignore[arg-type]
        )
    )
    assert not published.snapshot.version.startswith("live")
    assert published.neighbors == everything.neighbors[:5]
    assert {row.status for row in published.neighbors} >= {"ok"}


def test_a_pair_seen_a_few_times_does_not_lead_by_the_lower_bound_although_its_estimate_does(rig: Rig, effects: Effects) -> None:
    state = State.zero((3, 40), [(0, 1)])
    state.marginals[0].by_half[0] = 500
    state.marginals[1].by_half[:, :] = 450
    state.pairs[0, 1].counts[0, :, :] = 300
    state.marginals[1].by_half[7] = 5
    state.pairs[0, 1].counts[0, 7] = 5  # always together, ten times
    state.ledger.tokens_by_half = [5000, 5000]
    with_effects = Effects((3, 40))
    with_effects.rates = tuple(np.ones(size, np.float32) for size in (3, 40))
    with_effects._ratios[0, 1] = (effects._ratios[0, 1][0],) * 2
    queries = LiveQueries(rig.settings, description((3, 40)), state, threading.Lock(), effects=with_effects)
    answers = {
        rank: queries.tables.neighbors(NeighborsRequest((0, 0), "downstream", "necessity", 40, 10, rank))
        for rank in ("lower", "estimate")
    }
    assert answers["estimate"].neighbors[0].feature == "1:7"
    assert answers["lower"].neighbors[0].feature != "1:7"


def test_the_two_halves_and_the_certified_leaders_of_a_list(live: LiveQueries) -> None:
    answer: NeighborsAnswer = live.tables.neighbors(NeighborsRequest((0, 11), "downstream", "jaccard", 5, 2))
    assert answer.split_half_rbo is not None and 0.3 < answer.split_half_rbo <= 1
    assert answer.certified_k is not None and answer.status in ("converging", "certified")
    lower = [row.lower for row in answer.neighbors]
    assert len(lower) == 5 and answer.certified_k <= 5
    other = live.tables.neighbors(NeighborsRequest((0, 11), "downstream", "necessity", 5, 2))
    assert other.certified_k is None and "sufficiency" in (other.certified_reason or "")


def test_pins_are_durable_bounded_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "watch"
    watch = Watch(path, 9, PAIRS)  # three a layer pair
    assert watch.pin([(0, 1, 1, 1), (0, 1, 1, 1), (0, 2, 2, 5)], 4) == 2
    assert watch.pin([(0, 1, 1, 1)], 5) == 0
    with pytest.raises(BadValue, match=r"3 pairs: layers 0→1 would have 4 pinned pairs, and at most 3"):
        watch.pin([(0, 1, 1, 2), (0, 1, 1, 3), (0, 1, 1, 4)], 5)
    again = Watch(path, 9, PAIRS)
    assert again.pinned == {(0, 1, 1, 1), (0, 2, 2, 5)}
    state = State.zero(DICTIONARIES, PAIRS)
    again.begin(state, 3, 100, 90)
    assert not len(state.watched[0, 1])
    again.begin(state, 4, 200, 180)
    assert state.watched[0, 1].counted_from.tolist() == [180] and state.watched[0, 2].pinned.tolist() == [True]
    whole = path.read_bytes()
    path.write_bytes(b"?" + whole[1:])
    assert Watch(path, 9, PAIRS).pinned == again.pinned, "it is there twice"
    path.write_text("[{")
    with pytest.raises(DamagedFile, match="watch is cut off"):
        Watch(path, 9, PAIRS)
