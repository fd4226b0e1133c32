"""What is hidden, from the state through a real Redis to the reader and to the analysis worker."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from views_rig import PAIRS, Rig, cosines, counted, dense_activations, description, private_redis, publish

from engine.analysis import flow
from engine.analysis.snapshot import SnapshotReader
from engine.counts.state import State
from engine.encoder.description import RunDescription
from engine.errors import Unknown
from engine.measures.hidden import hidden
from engine.views.connection import connect
from engine.views.hidden import BLOCK, HIDDEN, HiddenRecord, HiddenRecords, hidden_answer, why_not
from engine.views.keys import Keys
from engine.views.redis_server import PrivateRedis
from engine.views.relations import FlowRequest

LARGE = (2 * BLOCK + 19, 40, 30)  # three records of the first layer, the last one short


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    with private_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def rig(server: PrivateRedis) -> Rig:
    connect(server.url).flushall()
    return Rig(server)


def with_hidden(state: State, seed: int = 0, least: int = 0) -> State:
    """A state with hidden sums of any numbers; features with an index divisible by 5 were never active in a sampled window."""
    rng = np.random.default_rng(seed)
    for part in state.hidden.values():
        size = len(part.counts)
        part.counts[:, 1] = rng.integers(max(1, least), 300, size)
        part.counts[:, 0] = part.counts[:, 1] + rng.integers(0, 300, size)
        w, e = rng.gamma(4.0, 10.0, size), rng.normal(5.0, 20.0, size)
        squares = [rng.gamma(4.0, 10.0, size) for _ in range(4)]
        part.sums[:] = np.stack([w, e, rng.normal(40.0, 20.0, size), squares[0], squares[1], squares[2], w * w / 80], axis=1)
        part.chance[:] = rng.normal(0.0, 5.0, part.chance.shape)
        part.counts[::5], part.sums[::5], part.chance[::5] = 0, 0, 0
    return state


def expected(state: State, pair: tuple[int, int]) -> np.ndarray:
    part = state.hidden[pair]
    rows = np.empty(len(part.counts), HIDDEN)
    for name, column in hidden(part.counts, part.sums, part.chance)._asdict().items():
        rows[name] = column
    return rows


def same(found: np.ndarray | np.void, wanted: np.ndarray | np.void) -> bool:
    return all(np.array_equal(found[name], wanted[name], equal_nan=True) for name in HIDDEN.names or ())


def reader_of(rig: Rig) -> SnapshotReader:
    settings = rig.settings
    return SnapshotReader(connect(settings.redis_url), Keys(settings.redis_prefix), settings.published_k, settings.min_support)


def test_a_feature_is_read_with_its_row_toward_every_downstream_layer_from_one_snapshot(rig: Rig) -> None:
    state = with_hidden(counted(dense_activations(300)))
    publish(rig.publisher(decoder=cosines()), state)
    for layer, index, downs in ((0, 7, [1, 2]), (0, 5, [1, 2]), (1, 3, [2]), (2, 4, [])):
        snapshot, record, rows = rig.read(lambda views, at=(layer, index): views.feature_with_hidden(*at))
        assert (record.layer, record.index, record.tokens) == (layer, index, snapshot.tokens)
        assert list(rows) == downs
        for down, row in rows.items():
            assert same(row, expected(state, (layer, down))[index])
    with pytest.raises(Unknown):
        rig.read(lambda views: views.feature_with_hidden(0, 99))


def test_the_worker_reads_all_rows_of_the_snapshot(server: PrivateRedis) -> None:
    connect(server.url).flushall()
    rig = Rig(server, LARGE)
    state = with_hidden(counted(dense_activations(120, LARGE)))
    publish(rig.publisher(), state)
    whole = reader_of(rig).read()
    assert list(whole.hidden) == sorted(PAIRS)
    for pair, rows in whole.hidden.items():
        assert same(rows, expected(state, pair))


def test_only_records_whose_features_were_active_in_a_sampled_window_are_written_again() -> None:
    state = with_hidden(State.zero(LARGE, PAIRS))
    records = HiddenRecords(Keys("x:"))
    assert len(list(records.changed(state, False))) == 3 * 2 + 1  # (0, 1) and (0, 2) in three records, (1, 2) in one
    assert list(records.changed(state, False)) == []
    state.hidden[0, 2].counts[BLOCK + 3] += 1
    ((key, packed),) = records.changed(state, False)
    assert key == "x:record:hidden:0-2:1"
    record = msgspec.msgpack.decode(packed, type=HiddenRecord)
    assert (record.up, record.down, record.first) == (0, 2, BLOCK)
    assert same(record.rows(), expected(state, (0, 2))[BLOCK : 2 * BLOCK])
    assert len(list(records.changed(state, True))) == 7


def test_after_redis_was_wiped_everything_is_published_again(rig: Rig) -> None:
    state = with_hidden(counted(dense_activations(300)))
    publisher = rig.publisher(decoder=cosines())
    publish(publisher, state)
    connect(rig.server.url).flushall()
    publish(publisher, state)
    assert same(reader_of(rig).read().hidden[0, 1], expected(state, (0, 1)))


def run_of_widths(*widths: int | None, model: str = "tiny") -> RunDescription:
    run = description()
    layers = [msgspec.structs.replace(layer, width=width) for layer, width in zip(run.layers, widths, strict=True)]
    return msgspec.structs.replace(run, layers=layers, model=model)


def test_answers_say_why_there_is_nothing() -> None:
    row = np.zeros(1, HIDDEN)[0]
    pushed = hidden_answer(run_of_widths(None, None, None, model=""), (0, 3), 1, row)
    assert pushed.error_share is None and pushed.baseline is None
    assert pushed.reason is not None and "no model" in pushed.reason
    mixed = run_of_widths(48, 192, 48)
    assert hidden_answer(mixed, (0, 3), 1, row).reason == (
        "layers 0 and 1 have residuals of 48 and 192 numbers: a direction of one is none of the other"
    )
    never = hidden_answer(mixed, (0, 3), 2, row)
    assert never.reason == "feature 0:3 was not active in the windows that are looked at, one in 16 of the text"
    assert why_not(mixed, 0, 2) is None


def test_an_answer_holds_the_numbers_of_its_row_and_an_interval_where_there_is_one() -> None:
    state = with_hidden(State.zero((40, 5), ((0, 1),)))
    rows = expected(state, (0, 1))
    statuses = set()
    for index, row in enumerate(rows):
        answer = hidden_answer(run_of_widths(8, 8, 8), (0, index), 1, row)
        assert (answer.tokens, answer.windows) == (row["tokens"], row["windows"])
        if not row["tokens"]:
            continue
        statuses.add(answer.status)
        assert answer.error_share == row["error_share"] and answer.stream_share == row["stream_share"]
        assert answer.feature_share == pytest.approx(float(row["stream_share"]) - float(row["error_share"]))
        assert answer.baseline is not None and answer.baseline.decoder == row["decoder"]
        if answer.status == "ok":
            assert answer.lower == row["lower"] and answer.upper == row["upper"] and answer.reason is None
        else:
            assert answer.lower is None and answer.reason is not None and "100" in answer.reason
    assert statuses == {"ok", "insufficient"}


LIMITS = [(0.5, 2.0, 10), (0.1, 1.0, 1), (0.3, 4.0, 150)]


@pytest.mark.parametrize(("share", "factor", "windows"), LIMITS, ids=["defaults", "lenient", "strict"])
def test_flow_counts_disappeared_features_that_are_hidden_as_a_loop_does(
    rig: Rig, share: float, factor: float, windows: int
) -> None:
    state = with_hidden(counted(dense_activations(300)))
    publish(rig.publisher(decoder=cosines()), state)
    read = reader_of(rig).read()
    whole = dataclasses.replace(read, run=run_of_widths(48, 48, 48))
    request = FlowRequest(
        measure="jaccard", threshold=0.25, min_support=2, hidden_share=share, hidden_factor=factor, hidden_windows=windows
    )
    answer, _ = flow.flow(whole, request)
    assert (answer.hidden_share, answer.hidden_factor, answer.hidden_windows) == (share, factor, windows)
    for pair, found in zip(sorted(PAIRS), answer.pairs, strict=True):
        part, up = state.hidden[pair], whole.graph.layers[pair[0]].count
        gone = {item.feature for item in flow.flow(whole, replace(request, pair, "disappeared"))[1]}
        enough, hid = [], []
        for index in range(len(part.counts)):
            if up[index] and part.counts[index, 1] >= windows:
                w, e = part.sums[index, :2]
                baseline = max(np.sqrt(np.mean(side**2)) for side in part.chance[index].reshape(2, 8)) / w
                enough.append((index, e / w))
                if f"{pair[0]}:{index}" in gone and e / w >= share and e / w >= factor * baseline:
                    hid.append((e / w, f"{pair[0]}:{index}"))
        of_gone = [value for index, value in enough if f"{pair[0]}:{index}" in gone]
        assert found.hidden.reason is None
        assert found.hidden.all is not None and found.hidden.disappeared is not None
        assert (found.hidden.all.features, found.hidden.disappeared.features) == (len(enough), len(of_gone))
        assert found.hidden.all.error_share == pytest.approx(np.median([value for _, value in enough]), rel=1e-5)
        assert found.hidden.disappeared.error_share == pytest.approx(np.median(of_gone), rel=1e-5)
        assert found.hidden.hidden is not None and found.hidden.hidden.count == len(hid)
        items = flow.flow(whole, replace(request, pair, "hidden"))[1]
        assert [item.feature for item in items] == [name for _, name in sorted(hid, reverse=True)]
        assert [item.error_share for item in items] == pytest.approx([value for value, _ in sorted(hid, reverse=True)], rel=1e-5)
        assert all(item.error_share is None for item in flow.flow(whole, replace(request, pair, "appeared"))[1])
    if windows < 100:
        assert sum(pair.hidden.hidden.count for pair in answer.pairs if pair.hidden.hidden) > 0


def replace(request: FlowRequest, pair: tuple[int, int], kind: str) -> FlowRequest:
    return msgspec.structs.replace(request, pair=pair, kind=kind)


def test_flow_says_why_a_layer_pair_has_no_medians(rig: Rig) -> None:
    publish(rig.publisher(decoder=cosines()), counted(dense_activations(300)))
    read = reader_of(rig).read()
    whole = dataclasses.replace(read, run=run_of_widths(48, 192, 48))
    answer, _ = flow.flow(whole, FlowRequest(measure="jaccard", threshold=0.25, min_support=2))
    by_pair = dict(zip(sorted(PAIRS), (pair.hidden for pair in answer.pairs), strict=True))
    assert by_pair[0, 1].all is None and by_pair[0, 1].hidden is None
    assert "48 and 192" in (by_pair[0, 1].reason or "")
    looked = by_pair[0, 2].all  # of equal width, and nothing was sampled yet
    assert looked is not None and (looked.features, looked.error_share) == (0, None)
