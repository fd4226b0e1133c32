"""The analysis worker's parts: whole snapshots out of a real Redis, lists read page by page, decoders in files."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from views_rig import PAIRS, Rig, cosines, counted, dense_activations, directions, private_redis, publish

from engine.analysis.decoders import Decoders, match
from engine.analysis.snapshot import SnapshotReader
from engine.analysis.worker import Worker
from engine.counts.state import State
from engine.encoder import decoder_file
from engine.encoder.decoder_file import read_decoder, vectors_of, write_decoders
from engine.encoder.saes import Sae
from engine.errors import BadInput, Gone, NotReady
from engine.measures.relations import LayerCounts
from engine.views.connection import connect
from engine.views.keys import Keys
from engine.views.lists import KEPT_SECONDS, Lists
from engine.views.records import Snapshot
from engine.views.redis_server import PrivateRedis
from engine.views.relation_answers import FlowAnswer
from engine.views.relations import AnalysisEnvelope, FlowRequest, Page
from engine.views.requests import open_reply
from tests.relation_graphs import counts_of, graph_from

FLOW = FlowRequest(measure="jaccard", threshold=0.1, min_support=2)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    with private_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def rig(server: PrivateRedis) -> Rig:
    connect(server.url).flushall()
    return Rig(server)


def reader_of(rig: Rig) -> SnapshotReader:
    settings = rig.settings
    return SnapshotReader(connect(settings.redis_url), Keys(settings.redis_prefix), settings.published_k, settings.min_support)


def test_a_snapshot_read_whole_holds_every_count_and_every_listed_pair_once(rig: Rig) -> None:
    layers = dense_activations(300)
    publish(rig.publisher(decoder=cosines()), counted(layers))
    whole = reader_of(rig).read()
    assert whole.graph.tokens == whole.snapshot.tokens == 300
    for found, dense in zip(whole.graph.layers, layers, strict=True):
        for column, expected in zip(found, LayerCounts(*counts_of(dense)), strict=True):
            np.testing.assert_allclose(column, expected, rtol=1e-6)
    expected = graph_from(layers, list(PAIRS), k=3, min_support=2)
    units = [rows / rows.norm(dim=1, keepdim=True) for rows in directions()]
    for pair in PAIRS:
        edges, without = whole.graph.edges[pair], expected.edges[pair]
        ids = edges.up.astype(int) * 100 + edges.down
        assert (np.diff(ids) > 0).all()
        # the lists of this run are ranked by decoder cosine as well, so they hold more
        at = np.searchsorted(ids, without.up.astype(int) * 100 + without.down)
        assert (edges.joint[at] == without.joint).all()
        np.testing.assert_allclose(edges.product[at], without.product, rtol=1e-6)
        dense = (units[pair[0]] @ units[pair[1]].T).numpy()
        np.testing.assert_allclose(edges.decoder_cosine, dense[edges.up, edges.down], rtol=1e-5)


def test_a_version_can_be_read_while_the_next_one_is_published_and_a_lost_one_is_read_anew(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two calls of one read, the engine publishes: once is no matter, twice takes the version away."""
    state, publisher, reader = State.zero((23, 17, 29), PAIRS), rig.publisher(), reader_of(rig)
    monkeypatch.setattr("engine.analysis.snapshot._CHUNK", 10)
    read_at, calls, published = reader._read_at, 0, []

    def one_more() -> str | None:
        state.add(_batch(dense_activations(40, seed=len(published)), first=40 * len(published)))
        published.append(publish(publisher, state).version)
        return published[-1]

    def with_publishes(times: int):
        def call(**arguments: object):
            nonlocal calls
            calls += 1
            if calls == 4:
                for _ in range(times):
                    one_more()
            return read_at(**arguments)

        return call

    first = one_more()
    reader._read_at = with_publishes(1)
    whole = reader.read()
    assert whole.snapshot.version == first != published[-1]
    assert whole.graph.tokens == 40 and all(layer.count.max() <= 40 for layer in whole.graph.layers)
    assert whole.graph.layers[0].count.sum() == (dense_activations(40, seed=0)[0] > 0).sum()
    calls = 0
    reader._read_at = with_publishes(2)
    whole = reader.read()
    assert whole.snapshot.version == published[-1] and whole.graph.tokens == 160
    assert whole.graph.layers[0].count.sum() == int(state.marginals[0].count.sum())


def _batch(layers: list[np.ndarray], first: int):
    from views_rig import as_batch

    return as_batch(layers, first)


def test_nothing_published_is_not_ready(rig: Rig) -> None:
    with pytest.raises(NotReady, match="not published a snapshot"):
        reader_of(rig).read()


def ask(rig: Rig, request: FlowRequest = FLOW, number: int = 0) -> FlowAnswer:
    """Put a question onto the queue and wait for the answer."""
    client, keys = connect(rig.settings.redis_url), Keys(rig.settings.redis_prefix)
    envelope = AnalysisEnvelope(id=f"q{number}", deadline=time.monotonic() + 30, request=request, page=Page(10))
    client.rpush(keys.analysis, msgspec.msgpack.encode(envelope))
    found = client.blpop([keys.reply(envelope.id)], timeout=4)
    assert found, "no answer"
    return open_reply(found[1], FlowAnswer)  # pyright: ignore


@pytest.fixture
def worker(rig: Rig, tmp_path: Path) -> Iterator[Worker]:
    stop = threading.Event()
    running = Worker(rig.settings.model_copy(update={"data_dir": tmp_path}), stop)
    thread = threading.Thread(target=running.run)
    thread.start()
    yield running
    stop.set()
    thread.join()


def test_the_worker_reads_again_only_when_there_is_news_and_the_pause_is_over(rig: Rig, worker: Worker) -> None:
    with pytest.raises(NotReady, match="not published"):
        ask(rig)
    publisher = rig.publisher()
    publish(publisher, counted(dense_activations(100)))
    first = ask(rig, number=1)
    assert first.snapshot.tokens == 100
    publish(publisher, counted(dense_activations(150)))
    worker._next_read = time.monotonic() + 3600
    assert ask(rig, number=2).snapshot.version == first.snapshot.version
    worker._next_read = 0.0
    assert ask(rig, number=3).snapshot.tokens == 150
    assert worker._next_read > time.monotonic() + 1  # a pause again


def test_a_question_that_is_none_or_comes_too_late_is_dropped_and_the_next_one_answered(rig: Rig, worker: Worker) -> None:
    publish(rig.publisher(), counted(dense_activations(100)))
    client, keys = connect(rig.settings.redis_url), Keys(rig.settings.redis_prefix)
    late = AnalysisEnvelope(id="late", deadline=time.monotonic() - 1, request=FLOW, page=Page(10))
    client.rpush(keys.analysis, b"nonsense", msgspec.msgpack.encode(late))
    assert ask(rig).pairs
    assert client.llen(keys.reply("late")) == 0


def test_another_run_in_the_same_redis_is_read_at_once_and_nothing_is_left_of_the_one_before(rig: Rig, worker: Worker) -> None:
    publish(rig.publisher(epoch=1_000), counted(dense_activations(100)))
    assert len(ask(rig).pairs) == 3
    other = Rig(rig.server, (5, 4))
    publish(other.publisher(epoch=2_000), counted(dense_activations(60, (5, 4)), [(0, 1)]))
    found = ask(rig, number=1)
    assert found.snapshot.tokens == 60 and [pair.up.features for pair in found.pairs] == [5]


def test_pages_of_a_list_stay_those_of_its_first_page() -> None:
    now = 0.0
    lists = Lists(clock=lambda: now)
    old, new = (Snapshot(version=version, tokens=9, published_at=0.0) for version in ("1-1", "1-2"))
    answer = FlowAnswer(
        hidden_share=0.5,
        hidden_factor=2.0,
        hidden_windows=10,
        measure="jaccard",
        threshold=0.1,
        min_support=2,
        lists=None,  # type: ignore[arg-type]  # not looked at here
        pairs=[],
        kind="passed",
        items=[],
        total=5,
        next=None,
        snapshot=None,  # type: ignore[arg-type]
    )
    made = []

    def make(items: list[str]):
        made.append(items)
        return answer, items

    first = lists.page(FLOW, Page(2), old, lambda: make(["a", "b", "c", "d", "e"]))
    again = lists.page(FLOW, Page(5), old, lambda: make(["never"]))
    assert (first.items, again.items, again.next, len(made)) == (["a", "b"], ["a", "b", "c", "d", "e"], None, 1)
    lists.page(FLOW, Page(2), new, lambda: make(["x"]))
    second = lists.page(FLOW, Page(2, first.next), new, lambda: make(["never"]))
    third = lists.page(FLOW, Page(2, second.next), new, lambda: make(["never"]))
    assert (second.items, third.items, third.next) == (["c", "d"], ["e"], None)
    assert second.snapshot.version == "1-1"
    for cursor in ("x", "0" * 24, f"{'0' * 24}-x"):
        with pytest.raises(BadInput, match="`next` of the page before"):
            lists.page(FLOW, Page(2, cursor), new, lambda: make([]))
    with pytest.raises(BadInput, match="another question"):
        lists.page(msgspec.structs.replace(FLOW, threshold=0.2), Page(2, first.next), new, lambda: make([]))
    now = KEPT_SECONDS + 1
    with pytest.raises(Gone, match="begin again"):
        lists.page(FLOW, Page(2, first.next), new, lambda: make([]))


def test_many_lists_push_the_oldest_out() -> None:
    lists, snapshot = Lists(), Snapshot(version="1-1", tokens=9, published_at=0.0)
    answer = FlowAnswer(
        hidden_share=0.5,
        hidden_factor=2.0,
        hidden_windows=10,
        measure="",
        threshold=0,
        min_support=0,
        lists=None,
        pairs=[],
        kind=None,
        items=[],
        total=0,
        next=None,
        snapshot=None,  # type: ignore[arg-type]
    )
    first = lists.page(FLOW, Page(1), snapshot, lambda: (answer, ["a", "b"]))
    for at in range(40):
        lists.page(msgspec.structs.replace(FLOW, threshold=0.2 + at / 100), Page(1), snapshot, lambda: (answer, ["a"]))
    with pytest.raises(Gone):
        lists.page(FLOW, Page(1, first.next), snapshot, lambda: (answer, []))


def test_the_worker_imports_no_torch() -> None:
    code = "import sys, engine.analysis.main; print([n for n in ('torch', 'transformers', 'sae_lens') if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


class _Weights:
    """What `vectors_of` reads of an SAE."""

    def __init__(self, rows: torch.Tensor, threshold: torch.Tensor | None) -> None:
        self.W_dec = rows
        if threshold is not None:
            self.threshold = threshold


def sae(rows: torch.Tensor, threshold: torch.Tensor | None = None) -> Sae:
    return Sae(config=None, sae=_Weights(rows, threshold))  # type: ignore[arg-type]  # the configuration is not read


@pytest.mark.parametrize(
    ("threshold", "kind"),
    [
        pytest.param(None, "cosine", id="no-thresholds"),
        pytest.param(torch.tensor([0.5, 2.0, 1.0]), "folded", id="per-feature"),
        pytest.param(torch.tensor(0.3), "folded", id="one-for-all"),
        pytest.param(torch.tensor([0.5, 0.0, 1.0]), "cosine", id="one-is-zero"),
    ],
)
def test_decoder_vectors_are_folded_by_their_thresholds_or_else_unit_directions(threshold: torch.Tensor | None, kind: str) -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]])
    vectors = vectors_of(sae(rows, threshold))
    assert vectors.kind == kind
    expected = [[0.6, 0.8], [0, 1], [0, 0]] if kind == "cosine" else (rows * threshold.reshape(-1, 1)).tolist()  # type: ignore[union-attr]
    np.testing.assert_allclose(vectors.rows, expected, rtol=1e-6)


def test_folding_makes_every_threshold_1_and_changes_nothing_of_what_an_sae_computes() -> None:
    generator = torch.Generator().manual_seed(0)
    encode, decode = torch.randn(6, 40, generator=generator), torch.randn(40, 6, generator=generator)
    theta = torch.rand(40, generator=generator) + 0.2
    x = torch.randn(50, 6, generator=generator)
    hidden = x @ encode
    plain = torch.where(hidden > theta, hidden, 0.0) @ decode
    folded = torch.where(hidden / theta > 1, hidden / theta, 0.0) @ torch.from_numpy(vectors_of(sae(decode, theta)).rows)
    torch.testing.assert_close(folded, plain)


def test_decoder_files_are_written_once_a_run_and_anew_for_another_or_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    monkeypatch.setattr(decoder_file.durable, "write_framed", _counting(decoder_file.durable.write_framed, written))
    saes = [sae(torch.eye(4)), sae(torch.eye(4) * 2, torch.ones(4))]
    for fingerprint, expected in (("a", 2), ("a", 2), ("b", 4)):
        write_decoders(tmp_path, saes, {"SAEs": fingerprint})
        assert len(written) == expected
    found = read_decoder(tmp_path, 1)
    assert found is not None and found.kind == "folded"
    np.testing.assert_array_equal(found.rows, np.eye(4) * 2)
    written[-1].write_bytes(b"nonsense")
    write_decoders(tmp_path, saes, {"SAEs": "b"})
    assert len(written) == 5
    assert read_decoder(tmp_path, 7) is None


def _counting(write, written: list[Path]):
    def call(path: Path, *arguments: object) -> int:
        written.append(path)
        return write(path, *arguments)

    return call


def test_layers_of_which_one_is_folded_are_matched_by_cosine(rig: Rig, tmp_path: Path) -> None:
    rows = torch.randn(9, 5, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    write_decoders(tmp_path, [sae(rows), sae(rows[order] * 3, torch.linspace(0.1, 2, 9))], {})
    found, reason = Decoders(tmp_path).matching(rig.description, (0, 1))
    assert found is not None and reason is None
    assert found.kind == "cosine" and (order[found.partner] == torch.arange(9)).all()
    assert found.total == pytest.approx(9, rel=1e-5)


def test_a_feature_without_a_direction_is_matched_to_nobody() -> None:
    up = np.array([[1, 0], [0, 0]], np.float32)
    assert match(up, np.eye(2, dtype=np.float32), "cosine").partner.tolist() == [0, -1]


def test_large_layers_are_matched_over_the_nearest_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    up = rng.normal(size=(60, 8)).astype(np.float32)
    order = rng.permutation(60)
    down = up[order] + rng.normal(scale=0.1, size=(60, 8)).astype(np.float32)
    every = match(up, down, "folded")
    monkeypatch.setattr("engine.analysis.decoders.DENSE_CELLS", 100)
    nearest = match(up, down, "folded")
    assert (order[nearest.partner] == np.arange(60)).all() and (nearest.partner == every.partner).all()
    assert nearest.total == pytest.approx(every.total, rel=1e-5) and nearest.candidates < every.candidates == 3_600
