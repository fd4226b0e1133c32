"""The size of a micro-batch follows the machine's speed within its limits."""

import numpy as np
import pytest

from engine import pace
from engine.corpus.segment import Piece, TokenSegment
from engine.pace import MicroBatchSize, Rate


def test_a_micro_batch_settles_at_the_size_that_takes_the_wanted_time() -> None:
    size = MicroBatchSize(seconds=0.25, most=65_536)
    for _ in range(20):
        size.took(size.tokens, size.tokens / 9_000)  # 9,000 tokens/s
    assert size.tokens == pytest.approx(0.25 * 9_000, rel=0.01)


def test_a_micro_batch_never_grows_past_the_memory_or_shrinks_under_one_unit() -> None:
    size = MicroBatchSize(seconds=0.25, most=4_096)
    for _ in range(20):
        size.took(size.tokens, 1e-6)
    assert size.tokens == 4_096
    for _ in range(20):
        size.took(size.tokens, 1e6)
    assert size.tokens == 64
    assert size.fit(np.array([5_000, 5_000])) == 1


def test_units_are_taken_while_they_fit_whole() -> None:
    size = MicroBatchSize(seconds=0.25, most=4_096, start=100)
    assert size.fit(np.array([40, 40, 20, 1])) == 3
    assert size.fit(np.array([40, 40, 21, 1])) == 2


def test_what_is_done_between_micro_batches_does_not_make_them_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    tokens = 100_000
    segment = TokenSegment(
        number=0,
        first_position=0,
        pieces=(Piece("u", "c", 0, None, 0, 0, tokens, True),),
        tokens=np.zeros(tokens, np.int32),
        window_offsets=np.arange(0, tokens + 1, 100, dtype=np.int32),
        window_pieces=np.zeros(tokens // 100, np.int32),
    )
    size = MicroBatchSize(seconds=0.25, most=4_096)
    for units in size.batches(segment):
        now[0] += 100 * len(units) / 9_000
        with size.elsewhere():
            now[0] += 3.0
    assert size.tokens == pytest.approx(0.25 * 9_000, rel=0.01)


def test_a_short_batch_at_the_end_of_a_segment_does_not_change_the_size() -> None:
    size = MicroBatchSize(seconds=0.25, most=4_096, start=1_000)
    size.took(10, 1.0)
    assert size.tokens == 1_000


def test_the_rate_is_zero_when_nothing_was_counted() -> None:
    assert Rate().per_second() == 0.0
