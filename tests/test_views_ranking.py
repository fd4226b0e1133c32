"""Published and live neighbours against a dense sort of every measure."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from views_rig import DICTIONARIES, PAIRS, Rig, cosines, counted, dense_activations, directions, private_redis, publish

from engine.counts import pairs
from engine.counts.state import State
from engine.errors import BadValue, Unknown
from engine.measures import MEASURES, PairCounts, estimates
from engine.views import ranking
from engine.views.answers import NeighborsAnswer
from engine.views.decoder import DecoderCosines
from engine.views.effects import PairEffects
from engine.views.live import LiveQueries
from engine.views.ranking import CELL_BYTES, Side, rank_cells, rank_pair, take_cells, top_lists
from engine.views.records import INTERVAL_MEASURES, Direction
from engine.views.requests import NeighborsRequest, SimilarityRequest
from kernels import Supported

TOKENS = 400


@pytest.fixture(scope="module")
def dense() -> list[np.ndarray]:
    return dense_activations(TOKENS)


@pytest.fixture(scope="module")
def state(dense: list[np.ndarray]) -> State:
    return counted(dense)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, state: State) -> Iterator[Rig]:
    with private_redis(tmp_path_factory.mktemp("redis")) as server:
        rig = Rig(server)
        assert publish(rig.publisher(decoder=cosines()), state).written == sum(DICTIONARIES)
        yield rig


@pytest.fixture(scope="module")
def live(rig: Rig, state: State) -> LiveQueries:
    return LiveQueries(rig.settings, rig.description, state, threading.Lock(), cosines())


def dense_counts(dense: list[np.ndarray], up: int, down: int) -> PairCounts:
    """`[Du, Dd]` of everything, straight from the activations."""
    a, b = dense[up].astype(np.float64), dense[down].astype(np.float64)
    unit = [(w / w.norm(dim=1, keepdim=True)).numpy() for w in directions()]
    return PairCounts(
        tokens=len(a),
        up=(a > 0).sum(0)[:, None],
        down=(b > 0).sum(0)[None, :],
        joint=(a > 0).T.astype(np.int64) @ (b > 0),
        up_sum=a.sum(0)[:, None],
        down_sum=b.sum(0)[None, :],
        up_sumsq=(a * a).sum(0)[:, None],
        down_sumsq=(b * b).sum(0)[None, :],
        product=a.T @ b,
        decoder_cosine=unit[up] @ unit[down].T,
    )


def expected(
    dense: list[np.ndarray], feature: tuple[int, int], direction: Direction, measure: str, k: int, support: int
) -> list[tuple[str, float]]:
    """The k best by a full sort: value falling, then layer and index rising; undefined ones and those without support left out."""
    layer, index = feature
    found = []
    for up, down in PAIRS:
        if (up if direction == "downstream" else down) != layer:
            continue
        counts = dense_counts(dense, up, down)
        scores = np.broadcast_to(estimates(counts, [measure])[measure], np.shape(counts.joint))
        other = down if direction == "downstream" else up
        line = scores[index] if direction == "downstream" else scores[:, index]
        joint = np.asarray(counts.joint)[index] if direction == "downstream" else np.asarray(counts.joint)[:, index]
        found += [(-line[j], other, j) for j in np.flatnonzero((joint >= support) & np.isfinite(line)).tolist()]
    return [(f"{other}:{j}", -score) for score, other, j in sorted(found)[:k]]


def assert_same(answer: NeighborsAnswer, wanted: list[tuple[str, float]]) -> None:
    """Same values in the same order; names too, but where values differ by rounding alone."""
    assert [row.estimate for row in answer.neighbors] == pytest.approx([value for _, value in wanted], rel=1e-6, abs=1e-7)
    gaps = np.abs(np.diff([value for _, value in wanted])) < 1e-6
    for at, (row, (name, _)) in enumerate(zip(answer.neighbors, wanted, strict=True)):
        near_tie = (at > 0 and gaps[at - 1]) or (at < len(gaps) and gaps[at]) or at == len(wanted) - 1
        assert near_tie or row.feature == name


@pytest.mark.parametrize("measure", MEASURES)
def test_published_neighbours_are_those_of_a_dense_sort(rig: Rig, dense: list[np.ndarray], measure: str) -> None:
    async def look(views):
        return [
            (
                feature,
                direction,
                await views.neighbors(*feature, direction=direction, measure=measure, k=3, min_support=2, **published),
            )
            for layer, size in enumerate(DICTIONARIES)
            for index in range(0, size, 3)
            for feature in [(layer, index)]
            for direction in ("downstream", "upstream")
            if any(pair[direction == "upstream"] == layer for pair in PAIRS)
        ]

    published = {"published_k": 3, "published_support": 2}
    answers = rig.read(look)
    assert len(answers) > 20
    for feature, direction, answer in answers:
        assert answer.snapshot.tokens == TOKENS
        assert not answer.snapshot.version.startswith("live-")
        assert_same(answer, expected(dense, feature, direction, measure, 3, 2))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("direction", ["downstream", "upstream"])
def test_live_neighbours_are_those_of_a_dense_sort_at_any_length_and_support(
    live: LiveQueries, dense: list[np.ndarray], measure: str, direction: Direction
) -> None:
    layer = 0 if direction == "downstream" else 2
    for index in range(0, 12, 3):
        answer = live.tables.neighbors(NeighborsRequest((layer, index), direction, measure, 1000, 25))
        assert answer.snapshot.version == f"live-{TOKENS}"
        assert_same(answer, expected(dense, (layer, index), direction, measure, 1000, 25))


def test_a_live_pair_has_every_measure_of_the_dense_activations_and_a_reason_where_there_is_none(
    live: LiveQueries, dense: list[np.ndarray]
) -> None:
    counts = dense_counts(dense, 0, 2)
    values = {name: np.broadcast_to(value, (DICTIONARIES[0], DICTIONARIES[2])) for name, value in estimates(counts).items()}
    for i, j in [(5, 11), (22, 28), (1, 3), (0, 4)]:
        answer = live.tables.similarity(SimilarityRequest((0, i), (2, j)))
        assert (answer.up, answer.down, answer.tokens) == (f"0:{i}", f"2:{j}", TOKENS)
        assert answer.counts.joint == np.asarray(counts.joint)[i, j]
        assert tuple(answer.measures) == MEASURES
        for measure, found in answer.measures.items():
            if np.isfinite(values[measure][i, j]):
                assert found.estimate == pytest.approx(values[measure][i, j], rel=1e-6, abs=1e-7)
                assert (found.reason is None) == (measure not in INTERVAL_MEASURES), "nothing is known of design effects here"
            else:
                assert found.estimate is None
                assert "feature 0:0 never fired" in (found.reason or "")
            assert (found.lower, found.upper, found.interval_estimate, found.counted_from) == (None, None, None, None)
            assert found.status == "insufficient"


def test_without_a_model_the_decoder_cosine_is_null_with_a_reason(rig: Rig, state: State) -> None:
    queries = LiveQueries(rig.settings, rig.description, state, threading.Lock())
    found = queries.tables.similarity(SimilarityRequest((0, 5), (1, 5))).measures["decoder_cosine"]
    assert found.estimate is None
    assert "no model" in (found.reason or "")
    assert queries.tables.neighbors(NeighborsRequest((0, 5), "downstream", "decoder_cosine")).neighbors == []


def test_a_pair_too_large_for_dense_cosines_has_those_of_its_listed_cells(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = cosines()
    monkeypatch.setattr("engine.views.decoder.DENSE_CELLS", 10)
    monkeypatch.setattr("engine.views.decoder._CHUNK_PAIRS", 7)
    sparse = DecoderCosines(lambda layer: directions()[layer], PAIRS)
    i, j = np.arange(17).repeat(29), np.tile(np.arange(29), 17)
    assert sparse.dense(1, 2) is None
    np.testing.assert_allclose(sparse.of_pairs(1, 2, i, j), dense.of_pairs(1, 2, i, j), atol=1e-6)


def sides(state: State, up: int, down: int) -> list[Side]:
    parts = (state.marginals[up], state.marginals[down])
    return [Side.of(part) for part in parts]


@pytest.mark.parametrize("known", [False, True], ids=["neither-cosines-nor-effects", "cosines-and-effects"])
def test_a_table_that_is_taken_apart_and_one_that_is_ranked_where_it_stands_have_the_same_lists(
    state: State, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    effects = PairEffects(np.ones_like, np.linspace(1, 9, 32), np.full(23, 3.0, np.float32), np.full(29, np.nan, np.float32))
    table, dense = state.pairs[0, 2], cosines().dense(0, 2) if known else None
    more: dict = {"k": 3, "effects": effects if known else None}
    monkeypatch.setattr(pairs, "_RANKED_CELLS", 29 * 4)
    whole = rank_pair(table, *sides(state, 0, 2), TOKENS, min_support=2, cosines=dense, **more)
    taken = take_cells(table, 2, 1 << 20, dense)
    assert isinstance(taken, Supported)
    row = np.repeat(np.arange(23), np.diff(taken.offsets))
    for one, other in zip(whole, rank_cells(taken, *sides(state, 0, 2), TOKENS, by_cosine=known, **more), strict=True):
        np.testing.assert_array_equal(one.offsets, other.offsets)
        columns = (row, taken.column, taken.joint, taken.joint_a, taken.product, np.zeros(len(row)), taken.cosine)
        for column, same in zip(one.cells, columns, strict=True):
            np.testing.assert_array_equal(column, same[other.cells])


def test_a_table_on_a_gpu_is_taken_apart_like_one_on_the_host(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    table, dense = state.pairs[0, 2], cosines().dense(0, 2)
    here = take_cells(table, 2, 1 << 20, dense)
    monkeypatch.setattr(pairs, "_RANKED_CELLS", 29 * 4)
    monkeypatch.setattr(ranking, "_on_host", lambda table: False)
    there = take_cells(table, 2, 1 << 20, dense)
    assert isinstance(here, Supported) and isinstance(there, Supported)
    for column, same in zip(here, there, strict=True):
        assert column.dtype == same.dtype and same.flags.c_contiguous
        np.testing.assert_array_equal(column, same)
    assert take_cells(table, 2, CELL_BYTES * len(here.joint) - 1, dense) is None
    monkeypatch.undo()
    assert take_cells(table, 2, CELL_BYTES * len(here.joint) - 1, dense) is None


@pytest.mark.parametrize("support", [1, 10**6], ids=["every-cell", "no-cell-has-the-support"])
def test_lists_hold_only_cells_with_the_support(state: State, support: int) -> None:
    found = rank_pair(state.pairs[0, 1], *sides(state, 0, 1), TOKENS, k=50, min_support=support)
    supported = int((state.pairs[0, 1].counts.sum(dim=2) >= support).sum())
    assert len(found.downstream.cells.joint) == len(found.upstream.cells.joint) == supported


def test_ties_go_to_the_smaller_index(state: State) -> None:
    tied = State.zero((4, 30), [(0, 1)])
    tied.marginals[0].by_half.fill_(25)
    tied.marginals[1].by_half.fill_(25)
    tied.pairs[0, 1].counts.fill_(10)
    lists = top_lists(tied.pairs[0, 1], *sides(tied, 0, 1), 100, measure="jaccard", k=5, min_support=1)
    assert lists.tolist() == [[0, 1, 2, 3, 4]] * 4
    found = rank_pair(tied.pairs[0, 1], *sides(tied, 0, 1), 100, k=3, min_support=1)
    assert found.upstream.cells.up.tolist() == [0, 1, 2] * 30


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (NeighborsRequest((0, 1), "sideways"), "direction = 'sideways'.*downstream, upstream"),  # type: ignore[arg-type]
        (NeighborsRequest((0, 1), measure="cosine"), "measure = 'cosine'.*jaccard"),
        (NeighborsRequest((0, 1), k=0), "k = 0: it must be between 1 and 1,000"),
        (NeighborsRequest((0, 1), k=1001), "k = 1001"),
        (NeighborsRequest((0, 1), min_support=0), "min_support = 0"),
        (NeighborsRequest((0, 1), rank="best"), "rank = 'best': it must be 'lower' or 'estimate'"),
        (NeighborsRequest((0, 1), measure="lift", rank="lower"), "lift has no lower bound.*jaccard, sufficiency"),
        (NeighborsRequest((2, 1)), r"feature 2:1 has no downstream neighbours.*0→1, 1→2, 0→2"),
    ],
    ids=["direction", "measure", "k-zero", "k-too-large", "support-zero", "unknown-rank", "rank-lower", "last-layer-downstream"],
)
def test_a_ranking_that_can_not_be_is_refused_with_what_can(live: LiveQueries, request_: NeighborsRequest, message: str) -> None:
    with pytest.raises(BadValue, match=message):
        live.tables.neighbors(request_)


@pytest.mark.parametrize(
    ("up", "down", "message"),
    [
        ((0, 23), (1, 0), "no feature 0:23: layer 0 .* has features 0 to 22"),
        ((3, 0), (1, 0), "no layer 3: this run has layers 0 to 2"),
        ((1, 0), (0, 0), "layers 1→0 are no layer pair of this run; it has 0→1, 1→2, 0→2"),
    ],
    ids=["index", "layer", "pair"],
)
def test_a_pair_that_the_run_does_not_have_is_unknown(live: LiveQueries, up, down, message: str) -> None:
    with pytest.raises(Unknown, match=message):
        live.tables.similarity(SimilarityRequest(up, down))
