"""Do intervals hold their level on dependent streams that are read after every batch? The short form of `benchmarks.coverage`."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.coverage import Coverage, cover, selected, summary
from benchmarks.streams import ClusterSums, Setting, Stream
from engine.measures.intervals import MEASURES
from engine.measures.moments import SUMS, Moments, moments_of

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


def test_the_accumulator_of_the_simulation_is_the_slow_definition_on_the_tokens_themselves() -> None:
    stream, counted = Stream(Setting(0.05, 0.3, 0.2), 3, 7), ClusterSums(3)
    clusters: list[list[np.ndarray]] = [[], [], []]
    for documents in (1, 20, 0, 9):
        batch = stream.batch(documents)
        counted.add(batch)
        positions, at = batch.positions(), 0
        for pair in range(3):
            for document in range(documents):
                a, b = np.zeros((2, int(batch.lengths[document])))
                entries = slice(at, at + int(batch.fires[pair, document]))
                assert len(set(positions[entries].tolist())) == batch.fires[pair, document], "one activation a token"
                a[positions[entries]], b[positions[entries]] = batch.a[entries], batch.b[entries]
                up, down = a > 0, b > 0
                sums = [len(a), up.sum(), down.sum(), (up & down).sum(), a.sum(), b.sum(), a @ a, b @ b, a @ b]
                clusters[pair].append(np.array(sums, np.float64))
                at = entries.stop
        assert at == len(batch.a) == len(batch.b)
    expected = Moments(*(np.stack(columns) for columns in zip(*map(moments_of, clusters), strict=True)))
    for have, want in zip(counted.moments(), expected, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-12)
