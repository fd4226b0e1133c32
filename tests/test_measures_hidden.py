"""Shares of what a feature wrote, their baselines and intervals."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import BadValue
from engine.measures.hidden import FACTOR, SHARE, WINDOWS, HiddenMeasures, check_hidden, hidden, is_hidden
from engine.measures.intervals import MIN_DOCUMENTS, sequence_width


def sums_of(written: np.ndarray, error: np.ndarray, stream: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """counts `[1, 2]` and sums `[1, 7]` of one feature's tokens, which lie in windows of these lengths."""
    window = np.repeat(np.arange(len(lengths)), lengths)
    e, w = (np.bincount(window, column, len(lengths)) for column in (error, written))
    sums = [written.sum(), error.sum(), stream.sum(), (error**2).sum(), (e * e).sum(), (e * w).sum(), (w * w).sum()]
    return np.array([[len(written), len(lengths)]]), np.array([sums])


def one(found: HiddenMeasures) -> dict[str, float]:
    return {name: float(column[0]) for name, column in found._asdict().items()}


def test_shares_and_spread_are_what_they_say() -> None:
    rng = np.random.default_rng(0)
    written, error, stream = rng.gamma(2.0, 1.0, 50), rng.normal(0.4, 1.0, 50), rng.normal(1.3, 1.0, 50)
    chance = rng.normal(0.0, 3.0, 16)
    counts, sums = sums_of(written, error, stream, np.full(10, 5))
    found = one(hidden(counts, sums, chance[None]))
    assert (found["tokens"], found["windows"]) == (50, 10)
    assert found["written"] == pytest.approx(written.mean())
    assert found["error_share"] == pytest.approx(error.mean() / written.mean())
    assert found["stream_share"] == pytest.approx(stream.mean() / written.mean())
    assert found["spread"] == pytest.approx(error.std() / written.mean())
    assert found["random"] == pytest.approx(np.sqrt(np.mean(chance[:8] ** 2)) / written.sum())
    assert found["decoder"] == pytest.approx(np.sqrt(np.mean(chance[8:] ** 2)) / written.sum())
    assert np.isnan(found["lower"]) and np.isnan(found["upper"])  # 10 windows


def test_a_feature_that_was_never_active_has_nothing_but_zero_counts() -> None:
    found = one(hidden(np.zeros((1, 2), np.int64), np.zeros((1, 7)), np.zeros((1, 16))))
    assert (found.pop("tokens"), found.pop("windows"), found.pop("effective")) == (0, 0, 0)
    assert all(np.isnan(value) for value in found.values())


def test_the_interval_is_that_of_the_windows_with_a_pseudo_window_on_each_side() -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 9, 300)
    written = rng.gamma(2.0, 1.0, lengths.sum())
    error = 0.3 * written + rng.normal(0, 1, lengths.sum())
    counts, sums = sums_of(written, error, error, lengths)
    found = one(hidden(counts, sums, np.zeros((1, 16))))
    window = np.repeat(np.arange(300), lengths)
    e, w = np.bincount(window, error), np.bincount(window, written)
    z = (w**2).sum() / w.sum()
    e, w = np.append(e, [z, 0]), np.append(w, [z, z])
    ratio = e.sum() / w.sum()
    half = np.sqrt(((e - ratio * w) ** 2).sum()) / w.sum() * float(sequence_width(300))
    assert found["lower"] == pytest.approx(ratio - half)
    assert found["upper"] == pytest.approx(ratio + half)
    assert found["lower"] < found["error_share"] < found["upper"]
    assert found["effective"] == pytest.approx(w[:-2].sum() ** 2 / (w[:-2] ** 2).sum())


@pytest.mark.parametrize(("share", "scale"), [(0.0, 0.5), (0.25, 1.0), (0.9, 2.0)])
def test_intervals_read_again_and_again_miss_the_truth_in_at_most_5_percent_of_streams(share: float, scale: float) -> None:
    """400 streams of 1,500 windows, read every 50; a window has its own level, so tokens in it are dependent."""
    rng = np.random.default_rng(2)
    streams, windows, step = 400, 1_500, 50
    tokens = 1 + rng.poisson(rng.gamma(1.0, 3.0, (streams, windows)))
    w = rng.gamma(2.0 * tokens, 1.0)
    e = share * w + scale * (tokens * rng.normal(0, 0.5, w.shape) + np.sqrt(tokens) * rng.normal(0, 1, w.shape))
    missed = np.zeros(streams, bool)
    sums = np.zeros((streams, 7))
    counts = np.zeros((streams, 2), np.int64)
    intervals = 0
    for first in range(0, windows, step):
        part = slice(first, first + step)
        ep, wp = e[:, part], w[:, part]
        counts += np.stack([tokens[:, part].sum(1), np.full(streams, step)], axis=1)
        sums += np.stack(
            [wp.sum(1), ep.sum(1), ep.sum(1), (ep**2).sum(1), (ep**2).sum(1), (ep * wp).sum(1), (wp**2).sum(1)], axis=1
        )
        found = hidden(counts, sums, np.zeros((streams, 16)))
        intervals += int(np.isfinite(found.lower).sum())
        assert np.isfinite(found.lower).any() == (first + step >= MIN_DOCUMENTS)
        missed |= (found.lower > share) | (found.upper < share)
    assert intervals > 20 * streams
    assert missed.mean() <= 0.05


def test_hidden_needs_share_and_baseline_and_windows() -> None:
    shares = np.array([0.6, 0.49, 0.6, 0.6, np.nan, -0.9])
    baselines = np.array([0.3, 0.1, 0.31, 0.1, np.nan, 0.1])
    windows = np.array([10, 10, 10, 9, 0, 10])
    assert is_hidden(shares, baselines, windows, SHARE, FACTOR, WINDOWS).tolist() == [True, False, False, False, False, False]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param((0.0, 2.0, 10), "hidden_share = 0: it must be a number above 0", id="share 0"),
        pytest.param((float("nan"), 2.0, 10), "hidden_share = nan", id="share NaN"),
        pytest.param((float("inf"), 2.0, 10), "hidden_share = inf", id="share infinite"),
        pytest.param((0.5, 0.5, 10), "hidden_factor = 0.5: it must be at least 1", id="factor below 1"),
        pytest.param((0.5, 2.0, 0), "hidden_windows = 0: it must be at least 1", id="no windows"),
    ],
)
def test_what_nothing_can_be_called_hidden_by_is_refused(given: tuple[float, float, int], message: str) -> None:
    with pytest.raises(BadValue, match=message):
        check_hidden(*given)
