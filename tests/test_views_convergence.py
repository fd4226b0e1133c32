"""The convergence series: its places, its values, and that a restart changes neither."""

from __future__ import annotations

import numpy as np
import pytest
from views_rig import DICTIONARIES, PAIRS, as_batch, counted, dense_activations

from engine.counts.state import State
from engine.errors import DamagedFile
from engine.measures import rbo
from engine.views.convergence import LIST_LENGTH, MIN_SUPPORT, Convergence
from engine.views.records import ConvergenceRecord

SEGMENTS = 30
SEGMENT_TOKENS = 20


def series(restart_after: tuple[int, ...] = ()) -> ConvergenceRecord:
    """Count segments one by one; after some of them everything goes through the checkpoint's bytes."""
    layers = dense_activations(SEGMENTS * SEGMENT_TOKENS)
    state, convergence = State.zero(DICTIONARIES, PAIRS), Convergence(PAIRS)
    for segment in range(SEGMENTS):
        part = slice(segment * SEGMENT_TOKENS, (segment + 1) * SEGMENT_TOKENS)
        state.add(as_batch([dense[part] for dense in layers], part.start))
        convergence.observe(state)
        if segment in restart_after:
            convergence = Convergence.load(convergence.save())
    return convergence.record()


def test_points_are_at_the_first_segment_end_past_each_quarter_power_of_two() -> None:
    wanted, last = [], -1
    for segment in range(1, SEGMENTS + 1):
        tokens = segment * SEGMENT_TOKENS
        place = max(k for k in range(200) if 2**k <= tokens**4)
        if place > last:
            wanted.append(tokens)
            last = place
    assert [point.tokens for point in series().points] == wanted
    assert len(wanted) < SEGMENTS


def test_a_series_is_the_same_whatever_was_restarted_in_between() -> None:
    assert series(restart_after=tuple(range(SEGMENTS))) == series()


def test_the_first_point_has_no_change_and_the_later_ones_the_mean_of_one_minus_rbo() -> None:
    layers = dense_activations(500)
    state, convergence = State.zero(DICTIONARIES, PAIRS), Convergence(PAIRS)

    def lists(tokens: int) -> list[list[int]]:
        a, b = layers[0][:tokens] > 0, layers[2][:tokens] > 0
        joint = a.T.astype(int) @ b
        value = joint / np.maximum(1, a.sum(0)[:, None] + b.sum(0)[None, :] - joint)
        return [
            [j for _, j in sorted((-row[j], j) for j in np.flatnonzero(support >= MIN_SUPPORT).tolist())[:LIST_LENGTH]]
            for row, support in zip(value, joint, strict=True)
        ]

    for part in (slice(0, 200), slice(200, 500)):
        state.add(as_batch([dense[part] for dense in layers], part.start))
        assert convergence.observe(state)
    one, two = convergence.record().points
    assert one.list_change == [None] * len(PAIRS)
    assert one.dead == [int((dense[:200] > 0).any(0).size - (dense[:200] > 0).any(0).sum()) for dense in layers]
    changes = [1 - rbo(now, then) for now, then in zip(lists(500), lists(200), strict=True) if now or then]
    assert two.list_change[PAIRS.index((0, 2))] == pytest.approx(np.mean(changes))


def test_lists_that_do_not_change_have_no_change_and_lists_that_nobody_has_none() -> None:
    layers = dense_activations(300)
    state, convergence = counted(layers), Convergence(PAIRS)
    for _ in range(MIN_SUPPORT):  # then every pair that was ever seen has the support
        state.merge(counted(layers))
    convergence.observe(state)
    state.merge(state)
    assert convergence.observe(state)
    assert convergence.record().points[1].list_change == pytest.approx([0.0, 0.0, 0.0])
    assert not convergence.observe(state)  # no more tokens: the same place

    empty = State.zero(DICTIONARIES, PAIRS)
    quiet = Convergence(PAIRS)
    assert not quiet.observe(empty)
    for _ in range(2):
        empty.add(as_batch([np.zeros((5, size), np.float32) for size in DICTIONARIES]))
        assert quiet.observe(empty)
    assert [point.list_change for point in quiet.record().points] == [[None] * 3] * 2


@pytest.mark.parametrize("saved", [b"", b"\x93\x02", b"something else"], ids=["empty", "cut", "foreign"])
def test_bytes_that_are_no_series_are_refused(saved: bytes) -> None:
    with pytest.raises(DamagedFile, match="convergence series"):
        Convergence.load(saved)
