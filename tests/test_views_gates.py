"""Records of gates: of one state with the features, written when they changed, and read whole or by feature."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest

from engine.analysis.snapshot import SnapshotReader
from engine.counts.state import State
from engine.measures.gate_tests import GATE, verdicts
from engine.measures.gates import explained_bits, gate_counts
from engine.views.connection import connect
from engine.views.effects import Effects
from engine.views.gate_answers import gate_answers
from engine.views.gate_records import BLOCK, GATE_ROW, GateRecords, GatesRecord, Needed, judge
from engine.views.gate_waiting import waiting
from engine.views.keys import Keys
from engine.views.publisher import Publisher
from engine.views.records import ConvergenceRecord
from engine.views.redis_server import PrivateRedis
from tests.planted_gates import PAIRS, PLANTED, SEGMENT, SIZES, count, planted, segments
from tests.views_rig import Rig, private_redis, status

DENSE = planted()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    with private_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def rig(server: PrivateRedis) -> Rig:
    connect(server.url).flushall()
    return Rig(server, SIZES)


class Run:
    """A state that is counted segment by segment, with its effects."""

    def __init__(self) -> None:
        self.state, self.effects, self.place = State.zero(SIZES, PAIRS), Effects(SIZES), -1
        self.left = segments(DENSE)

    def go_on(self, number: int = 1000) -> None:
        for _, segment in zip(range(number), self.left, strict=False):
            before = self.place
            self.place, _ = count(self.state, segment, self.place)
            if self.place > before:
                self.effects.update(self.state)


@pytest.fixture(scope="module")
def whole() -> Run:
    run = Run()
    run.go_on()
    return run


def publisher_of(rig: Rig, run: Run, epoch: int = 1_000) -> Publisher:
    return Publisher(rig.settings, rig.description, epoch, None, run.effects)


def publish(publisher: Publisher, state: State) -> None:
    publisher.publish(state, status(state), [], ConvergenceRecord(pairs=[], points=[]))


def reader_of(rig: Rig) -> SnapshotReader:
    settings = rig.settings
    return SnapshotReader(connect(settings.redis_url), Keys(settings.redis_prefix), settings.published_k, settings.min_support)


def same(found: np.ndarray, wanted: np.ndarray) -> bool:
    return len(found) == len(wanted) and all(
        np.array_equal(found[name], wanted[name], equal_nan=True) for name in GATE_ROW.names or ()
    )


def test_rows_are_the_gates_with_verdicts_over_all_layer_pairs(whole: Run) -> None:
    judged = judge(whole.state, whole.effects)
    assert judged.children == SIZES[1] + SIZES[2]
    kinds, log_e, owners, bits = [], [], [], []
    for pair, offset in (((0, 1), 0), ((1, 2), SIZES[1])):
        rows, gates = judged.rows[pair], whole.state.gates[pair]
        assert rows["child"].tolist() == sorted(gates.children.tolist()) and len(rows) == len(gates)
        assert (rows["cells"].sum(axis=1) == rows["tokens"]).all() and (rows["cells"] >= 0).all()
        assert (rows["tokens"] == whole.state.tokens - rows["counted_from"]).all()
        counts = gate_counts(gates.kinds, gates.totals.cells)
        kinds.append(gates.kinds)
        log_e.append(gates.totals.log_e)
        owners.append(gates.children + offset)
        bits.append(explained_bits(gates.kinds, counts, gates.tokens, 6, whole.effects.of_gates(pair, counts.child)))
    every = [np.concatenate(column) for column in (kinds, log_e, owners, bits)]
    said = verdicts(every[0], every[1], every[2], every[3], judged.children)
    assert np.concatenate([rows["verdict"] for rows in judged.rows.values()]).tolist() == said.tolist()
    assert (said == GATE).sum() == len(PLANTED)
    accepted = math.log(8 * judged.children / 0.05)
    assert judged.needed == pytest.approx((accepted - math.log(len(PLANTED) + 1), accepted))


def test_gates_that_come_in_parts_and_from_a_checkpoint_know_the_tokens_they_were_judged_on() -> None:
    """A reload in the middle: what is published is what one pass publishes."""
    one, other = Run(), Run()
    one.go_on(9)
    other.go_on(6)
    for pair, part in other.state.gates.items():
        header, arrays = part.arrays()
        again = type(part).from_arrays(other.state.shape, pair, header, arrays)
        for name, value in vars(again).items():
            setattr(part, name, value)
    other.go_on(3)
    expected, found = judge(one.state, one.effects), judge(other.state, other.effects)
    assert any(len(rows) for rows in expected.rows.values())
    for pair, rows in expected.rows.items():
        assert same(found.rows[pair], rows)


def test_a_feature_is_read_with_the_records_of_its_upstream_layers(rig: Rig, whole: Run) -> None:
    publish(publisher_of(rig, whole), whole.state)
    judged = judge(whole.state, whole.effects)
    for (layer, index), upstream in (((1, 3), [0]), ((2, 0), [1]), ((0, 4), [])):
        snapshot, record, records = rig.read(lambda views, at=(layer, index): views.gates(*at))
        assert (record.layer, record.index, record.tokens) == (layer, index, snapshot.tokens) == (layer, index, whole.state.tokens)
        assert [one.up for one in records] == upstream
        for one in records:
            pair = (one.up, layer)
            assert same(one.rows(), judged.rows[pair]) and one.needed == judged.needed
            tables = whole.state.gate_tables[pair]
            assert one.parents().tolist() == tables.parents.tolist() and one.since().tolist() == tables.counted_from.tolist()
            assert one.nominations().tolist() == whole.state.gates[pair].nominations.tolist()


def test_the_worker_reads_all_gates_of_the_snapshot(rig: Rig, whole: Run) -> None:
    publish(publisher_of(rig, whole), whole.state)
    judged, read = judge(whole.state, whole.effects), reader_of(rig).read()
    assert list(read.gates) == list(judged.rows) and (read.needed, read.children) == judged[1:]
    assert all(same(read.gates[pair], rows) for pair, rows in judged.rows.items())


def test_only_blocks_that_changed_are_written_again(whole: Run) -> None:
    records = GateRecords(Keys("x:"), whole.effects)
    assert [key for key, _ in records.changed(whole.state, False)] == ["x:record:gates:0-1:0", "x:record:gates:1-2:0"]
    assert list(records.changed(whole.state, False)) == []
    whole.effects.revision += 1  # something was looked at again, and nothing of it is different
    assert list(records.changed(whole.state, False)) == []
    whole.state.gates[1, 2].nominations[3] += 1
    whole.effects.revision += 1
    ((key, packed),) = records.changed(whole.state, False)
    whole.state.gates[1, 2].nominations[3] -= 1
    record = msgspec.msgpack.decode(packed, type=GatesRecord)
    assert key == "x:record:gates:1-2:0" and (record.up, record.down, record.first) == (1, 2, 0)
    assert len(list(records.changed(whole.state, True))) == 2


def test_layers_of_more_than_a_block_are_written_block_by_block() -> None:
    state = State.zero((8, 2 * BLOCK + 5), ((0, 1),))
    children = np.array([0, BLOCK - 1, BLOCK, 2 * BLOCK + 4])
    parents = np.tile(np.array([3, 5, -1]), (4, 1))
    state.gates[0, 1].nominate(children, np.zeros(4), np.zeros(4), parents, np.full(4, 3), position=0, tokens=0)
    found = {
        key: msgspec.msgpack.decode(packed, type=GatesRecord)
        for key, packed in GateRecords(Keys(""), Effects((8, 517))).changed(state, False)
    }
    assert [found[f"record:gates:0-1:{at}"].rows()["child"].tolist() for at in range(3)] == [[0, 255], [256], [516]]
    assert [len(record.parents()) for record in found.values()] == [256, 256, 5]


def test_readers_see_features_and_gates_of_one_state_while_it_is_counted_and_published(rig: Rig) -> None:
    run = Run()
    run.go_on(3)
    publisher = publisher_of(rig, run)
    publish(publisher, run.state)
    seen: list[tuple[int, int]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            _, record, records = rig.read(lambda views: views.gates(1, 0))
            rows = records[0].rows()
            if len(rows):
                seen.append((record.tokens, int((rows["counted_from"] + rows["tokens"])[0])))

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        for _ in range(12):
            run.go_on(1)
            publish(publisher, run.state)
        done.set()
        reading.result()
    assert len({tokens for tokens, _ in seen}) > 1
    assert all(tokens == covered for tokens, covered in seen)


@pytest.mark.parametrize("script", ["_write", "_commit"])
def test_a_publish_that_breaks_off_leaves_the_gates_of_the_old_snapshot(
    rig: Rig, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run()
    run.go_on(6)
    publisher = publisher_of(rig, run)
    publish(publisher, run.state)
    before, rows = run.state.tokens, judge(run.state, run.effects).rows
    run.go_on(1)
    calls, real = [0], getattr(publisher, script)

    def broken(**call: object) -> object:
        calls[0] += 1
        writes_gates = any("gates:" in str(key) for key in call["keys"])  # type: ignore[union-attr]  # a list
        if script == "_commit" or writes_gates:
            if script == "_write":
                real(**call)  # it arrives, and its answer is lost
            raise ConnectionError("gone")
        return real(**call)

    monkeypatch.setattr(publisher, script, broken)
    publish(publisher, run.state)
    monkeypatch.undo()
    assert publisher.problem is not None and calls[0]
    snapshot, _, records = rig.read(lambda views: views.gates(1, 0))
    assert snapshot.tokens == before and same(records[0].rows(), rows[0, 1])
    publish(publisher, run.state)
    snapshot, _, records = rig.read(lambda views: views.gates(1, 0))
    assert snapshot.tokens == before + SEGMENT and same(records[0].rows(), judge(run.state, run.effects).rows[0, 1])


def test_after_redis_was_wiped_gates_are_published_again(rig: Rig, whole: Run) -> None:
    publisher = publisher_of(rig, whole)
    publish(publisher, whole.state)
    connect(rig.server.url).flushall()
    publish(publisher, whole.state)
    assert same(reader_of(rig).read().gates[0, 1], judge(whole.state, whole.effects).rows[0, 1])


def record_of(rows: np.ndarray, parents: list[int], since: int = 0) -> GatesRecord:
    columns = (rows, np.array([[*parents, *[-1] * 6][:6]], np.int32), np.array([since]), np.array([len(rows)]))
    packed = [memoryview(column.tobytes()) for column in columns]
    return GatesRecord(0, 1, 0, packed[0], packed[1], packed[2], packed[3], 6, Needed(9.0, 10.0), 20)


def test_what_a_feature_waits_for_is_told_step_by_step() -> None:
    feature, none = (1, 0), np.zeros(0, GATE_ROW)
    assert "never fired" in str(waiting(feature, 0, [record_of(none, [])], None))
    assert "fired on 1 token; no upstream feature" in str(waiting(feature, 1, [record_of(none, [])], None))
    assert "only 0:7 is significantly related" in str(waiting(feature, 9, [record_of(none, [7])], None))
    assert "its 2 candidate parents are counted since token 4,096" in str(
        waiting(feature, 90, [record_of(none, [7, 3], 4_096)], None)
    )
    judged = np.zeros(1, GATE_ROW)
    judged["parents"], judged["log_e"] = [3, 7, -1], [2.0, 3.0, 1.0, 0.0]
    told = str(waiting(feature, 90, [record_of(judged, [7, 3])], None))
    best = "the best evidence so far is E = 2.72, and E = 10^3.9 is needed"
    assert told == f"1 gate of feature 1:0 is being judged: {best}; verdict=any shows them"


def test_a_gate_of_which_nothing_was_counted_yet_has_nulls_with_reasons() -> None:
    fresh = np.zeros(1, GATE_ROW)
    fresh["parents"], fresh["lower"], fresh["upper"] = [3, 7, -1], np.nan, np.nan
    (gate,) = gate_answers((0, 1), fresh, Needed(9.0, 10.0), cells=True)
    assert (gate.precision, gate.recall, gate.f1, gate.mcc, gate.quasi, gate.best_parent.f1) == (None,) * 6
    assert (gate.gain.estimate, gate.gain.lower, gate.gain.upper, gate.gain.status) == (None, None, None, "insufficient")
    assert gate.gain.reason == "0 documents since the gate was nominated, worth 0 of equal weight: an interval needs 100 and 50"
    assert gate.reason == "the evidence so far is E = 1, and E = 10^3.9 is needed"
    assert [half.f1 for half in gate.halves] == [None, None]
    assert gate.cells is not None and [cell.active for cell in gate.cells[::2]] == [[], ["0:3"], ["0:7"], ["0:3", "0:7"]]
