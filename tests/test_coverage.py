"""Do intervals hold their level on dependent streams that are read after every batch? The short form of `benchmarks.coverage`.

Every stream goes through the real state: activations token by token, in segments and micro-batches.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks import streams
from benchmarks.coverage import Coverage, cover, selected, summary
from benchmarks.state_sums import LAYERS, StateSums
from benchmarks.streams import Batch, ClusterSums, Setting, Stream
from engine.counts.clusters import CLUSTER_TOKENS
from engine.measures.intervals import MEASURES
from engine.measures.moments import COLUMNS, ROWS, SUMS, Moments, moments_of

SETTINGS = {
    "rare-and-dependent": Setting(0.01, 0.1, 0.1),
    "seldom-joint": Setting(0.05, 0.005, 0.1),
    "half-joint": Setting(0.05, 0.5, 0.02),
    "nearly-always-joint": Setting(0.05, 0.99, 0.1),
    "often-in-few-documents": Setting(0.2, 0.1, 0.3),
}


@pytest.fixture(scope="module")
def streamed() -> dict[str, dict[str, Coverage]]:
    return {name: cover(setting, pairs=60, documents=2000, every=50, seed=11) for name, setting in SETTINGS.items()}


@pytest.mark.parametrize("measure", MEASURES)
def test_intervals_that_are_read_after_every_batch_miss_in_at_most_6_percent_of_streams(
    streamed: dict[str, dict[str, Coverage]], measure: str
) -> None:
    total = summary([of[measure] for of in streamed.values()])
    assert total.streams >= 240, "intervals that never exist never miss"
    assert total.missed["interval"] <= 0.06
    assert total.missed["token Wald"] > 0.40, "these streams are no test of dependence"
    assert total.missed["plain sequence"] > total.missed["interval"], "the pseudo-documents are for something"


def test_intervals_of_ratios_in_the_middle_are_at_most_1_9_times_as_wide_as_clustered_wald(
    streamed: dict[str, dict[str, Coverage]],
) -> None:
    for measure in ("jaccard", "sufficiency", "necessity"):
        total = summary([of[measure] for of in streamed.values()])
        assert 1.0 < total.width <= 1.9, measure


def test_intervals_of_selected_pairs_miss_where_the_data_that_chose_them_is_used_and_hold_where_it_is_not() -> None:
    rounds = [selected(Setting(0.01, 0.3, 0.02), pairs=2000, top=10, documents=660, every=165, seed=seed) for seed in range(3)]
    chosen, readable, all_data, after = (sum(column) for column in zip(*rounds, strict=True))
    assert chosen == readable == 30, "an interval that does not exist misses nothing"
    assert all_data / chosen > 0.15
    assert after / chosen <= 0.05


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_the_stream_converges_to_the_truth_that_its_parameters_give(setting: Setting) -> None:
    stream, counted = Stream(setting, 100, 5), ClusterSums(100)
    for _ in range(10):
        counted.add(stream.batch(200))
    sums = dict(zip(SUMS, counted.moments().sums.sum(axis=0), strict=True))
    tokens, up, down, joint = (sums[name] for name in ("tokens", "up", "down", "joint"))
    a, b, aa, bb, ab = (sums[name] for name in ("a", "b", "aa", "bb", "ab"))
    found = {
        "jaccard": joint / (up + down - joint),
        "sufficiency": joint / up,
        "necessity": joint / down,
        "pearson": (tokens * ab - a * b) / math.sqrt((tokens * aa - a * a) * (tokens * bb - b * b)),
    }
    for measure, truth in setting.truth().items():
        # 200,000 documents: some 1.5 % of a ratio near 0, less in the middle.
        assert found[measure] == pytest.approx(truth, rel=0.05, abs=0.003), measure


def dense(batch: Batch) -> list[list[np.ndarray]]:
    """Per pair and document the activations of its two features at every token, float64 `[2, T]`."""
    positions, at, found = batch.positions(), 0, []
    for fires in batch.fires.tolist():
        found.append([])
        for length, count in zip(batch.lengths.tolist(), fires, strict=True):
            entries = slice(at, at + count)
            assert len(set(positions[entries].tolist())) == count, "one activation a token"
            activations = np.zeros((2, length))
            activations[:, positions[entries]] = batch.a[entries], batch.b[entries]
            found[-1].append(activations)
            at = entries.stop
    assert at == len(batch.a) == len(batch.b)
    return found


def by_definition(batches: list[Batch], pairs: int) -> Moments:
    """Moments from the activations at every token, documents cut at every `CLUSTER_TOKENS` of their tokens."""
    clusters: list[list[list[float]]] = [[] for _ in range(pairs)]
    for batch in batches:
        for pair, documents in enumerate(dense(batch)):
            for document in documents:
                for start in range(0, document.shape[1], CLUSTER_TOKENS):
                    a, b = document[:, start : start + CLUSTER_TOKENS]
                    up, down = a > 0, b > 0
                    clusters[pair].append([len(a), up.sum(), down.sum(), (up & down).sum(), a.sum(), b.sum(), a @ a, b @ b, a @ b])
    return Moments(*(np.stack(columns) for columns in zip(*map(moments_of, clusters), strict=True)))


def assert_same(have: Moments, want: Moments) -> None:
    """Counts and their products exactly, sums of activations to a relative 1e-9."""
    counts = SUMS.index("joint") + 1
    whole = np.maximum(ROWS, COLUMNS) < counts
    assert np.array_equal(have.documents, want.documents)
    assert np.array_equal(have.sums[:, :counts], want.sums[:, :counts])
    assert np.array_equal(have.squares[:, whole], want.squares[:, whole])
    for mine, expected in zip(have, want, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-9)


def test_the_accumulator_of_the_simulation_is_the_slow_definition_on_the_tokens_themselves() -> None:
    stream, counted = Stream(Setting(0.05, 0.3, 0.2), 3, 7), ClusterSums(3)
    batches = [stream.batch(documents) for documents in (1, 20, 0, 9)]
    for batch in batches:
        counted.add(batch)
    assert_same(counted.moments(), by_definition(batches, 3))


@pytest.mark.parametrize(
    ("segment_tokens", "micro_batch_tokens"),
    [(65_536, 4_096), (997, 128), (150, 1_000)],
    ids=["one-segment-a-batch", "documents-cut-by-segments", "segments-shorter-than-documents"],
)
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_the_state_has_the_moments_of_the_definition_at_every_reading(
    setting: Setting, segment_tokens: int, micro_batch_tokens: int
) -> None:
    pairs = 20
    stream, defined = Stream(setting, pairs, 3), ClusterSums(pairs)
    counted = StateSums(pairs, segment_tokens=segment_tokens, micro_batch_tokens=micro_batch_tokens)
    for documents in (1, 30, 0, 25):
        batch = stream.batch(documents)
        defined.add(batch)
        counted.add(batch)
        assert_same(counted.moments(), defined.moments())
    moments, state, every = counted.moments(), counted.state, np.arange(pairs)
    assert moments.sums[:, 0].tolist() == [state.tokens] * pairs, "tokens at which nothing fires count too"
    assert moments.sums[:, 1:4].T.tolist() == [
        *(layer.count.tolist() for layer in state.marginals),
        state.pairs[LAYERS].at(every, every).joint.tolist(),
    ], "of pairs that are watched from the start, the tables hold the same"


def test_a_document_that_is_longer_than_a_cluster_is_several_in_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MEDIAN_LENGTH", CLUSTER_TOKENS)
    monkeypatch.setattr(streams, "LENGTHS", (10, 5 * CLUSTER_TOKENS))
    stream, pairs = Stream(Setting(0.05, 0.3, 0.2), 3, 7), 3
    batches = [stream.batch(12) for _ in range(2)]
    assert sum((batch.lengths > CLUSTER_TOKENS).sum() for batch in batches) >= 8
    counted = StateSums(pairs, segment_tokens=10_000, micro_batch_tokens=3_000)
    for batch in batches:
        counted.add(batch)
    assert_same(counted.moments(), by_definition(batches, pairs))


def test_a_pair_that_is_chosen_on_the_way_has_the_moments_of_what_came_after() -> None:
    stream, counted, defined = Stream(Setting(0.05, 0.3, 0.2), 6, 9), StateSums(6, pinned=False), ClusterSums(6, pinned=False)
    chosen = [4, 1]
    for documents in (30, 20, 0, 25):
        batch = stream.batch(documents)
        for one in (counted, defined):
            one.add(batch)
            if documents == 20:
                one.choose(np.array(chosen))
    assert_same(counted.moments(), defined.moments())
    assert (counted.moments().sums[:, 0] > 0).nonzero()[0].tolist() == sorted(chosen)
    watched = counted.state.watched[LAYERS]
    assert (watched.counted_from == counted.state.tokens - counted.moments().sums[chosen, 0]).all()
