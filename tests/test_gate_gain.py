"""The interval of a gate's gain against its recipe with real rows, and how often it misses."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.gate_gain import SHARES, GainSetting, cover, documents
from engine.measures.gate_gain import COLUMNS, GAIN_SUMS, PACKED, ROWS, gain_interval, plain_interval
from engine.measures.intervals import sequence_width


def moments(clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    squares = np.zeros(15)
    for x in clusters:
        squares += [x[row] * x[column] for row, column in zip(ROWS, COLUMNS, strict=True)]
    return clusters.sum(axis=0), squares, int((clusters[:, [1, 3, 4]] > 0).any(axis=1).sum())


def by_formula(clusters: np.ndarray, pseudo: bool) -> tuple[float, float, float]:
    """A and U of both predictors document by document, the pseudo-documents as two more, one linearised term for each."""
    tp_g, n_g, tp_p, n_p, child = clusters.T.astype(float)
    a = [2 * tp_g, 2 * tp_p]
    u = [n_g + child, n_p + child]
    gain = a[0].sum() / u[0].sum() - a[1].sum() / u[1].sum()
    n = int(((n_g > 0) | (n_p > 0) | (child > 0)).sum())
    if pseudo:
        for at, agrees in enumerate(([1, 0], [0, 1])):
            z = (u[at] ** 2).sum() / u[at].sum()
            a[at], u[at] = np.append(a[at], [z * agree for agree in agrees]), np.append(u[at], [z, z])
    f = [a[at].sum() / u[at].sum() for at in (0, 1)]
    terms = (a[0] - f[0] * u[0]) / u[0].sum() - (a[1] - f[1] * u[1]) / u[1].sum()
    half = math.sqrt((terms**2).sum()) * float(sequence_width(n))
    lower, upper = f[0] - f[1] - half, f[0] - f[1] + half
    return (gain, min(max(lower, -1.0), gain), max(min(upper, 1.0), gain)) if pseudo else (gain, lower, upper)


@pytest.mark.parametrize("name", SHARES)
def test_the_interval_is_that_of_two_more_documents(name: str) -> None:
    clusters = documents(GainSetting(0.02, *SHARES[name], 0.1), 1, 1200, np.random.default_rng(1))[0]
    sums, squares, n = moments(clusters)
    found = gain_interval(sums, squares, n)
    assert found.sufficient
    np.testing.assert_allclose([found.estimate, found.lower, found.upper], by_formula(clusters, True), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(plain_interval(sums, squares, n), by_formula(clusters, False), rtol=1e-9, atol=1e-12)
    assert found.documents == n and PACKED[4, 4] == 14 and len(GAIN_SUMS) == 5


def test_many_gates_at_once_are_each() -> None:
    clusters = documents(GainSetting(0.02, *SHARES["loose"], 0.1), 5, 1200, np.random.default_rng(2))
    parts = [moments(one) for one in clusters]
    found = gain_interval(*(np.array(column) for column in zip(*parts, strict=True)))
    for at, part in enumerate(parts):
        assert [column[at] for column in found] == [float(column) for column in gain_interval(*part)]


def test_a_gate_that_is_its_parent_gains_nothing_and_its_interval_has_a_width() -> None:
    clusters = documents(GainSetting(0.02, 0.9, 0.0, 0.0, 0.1, 0.1, 0.1), 1, 1200, np.random.default_rng(3))[0]
    clusters[:, 2:4] = clusters[:, :2]
    sums, squares, n = moments(clusters)
    found = gain_interval(sums, squares, n)
    assert found.estimate == 0.0 and found.lower < -0.01 and found.upper > 0.01
    assert plain_interval(sums, squares, n)[2] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("case", ["no documents", "99 documents", "one document weighs all"])
def test_too_little_data_has_no_interval(case: str) -> None:
    clusters = documents(GainSetting(0.05, *SHARES["loose"], 0.02), 1, 99, np.random.default_rng(4))[0]
    if case == "no documents":
        clusters = clusters[:0]
    if case == "one document weighs all":
        clusters = np.concatenate([clusters, clusters, 10_000 * clusters[clusters[:, 4] > 0][:1]])
    found = gain_interval(*moments(clusters))
    assert not found.sufficient and all(math.isnan(end) for end in (found.estimate, found.lower, found.upper))


def test_intervals_that_are_read_again_and_again_miss_in_few_gates() -> None:
    found = cover(GainSetting(0.02, *SHARES["98 % gate"], 0.1), 150, 1000, 50, 1)
    assert found.gates > 140 and found.missed <= 0.05 * found.gates
    assert found.plain_width < found.width < 2 * found.plain_width
