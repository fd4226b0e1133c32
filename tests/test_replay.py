"""How long an engine that was killed shows nothing: until more is counted than it had told, or as much and the log has no more."""

from __future__ import annotations

import pytest

from engine.corpus.ingest import AHEAD
from engine.counts.checkpoint import Cursor
from engine.recovery import Replay

SEALED = 5  # segments of 100 tokens; the checkpoint has counted two of them


@pytest.mark.parametrize(
    ("standing", "over"),
    [
        pytest.param(0, Cursor(SEALED - AHEAD, 0), id="Redis is new: all but what ingest may be ahead"),
        pytest.param(350, Cursor(3, 6), id="in the middle of a segment"),
        pytest.param(400, Cursor(4, 1), id="where a segment ends, whose uploads may have been told as counted"),
        pytest.param(430, Cursor(4, 4), id="in the last segment"),
    ],
)
def test_it_is_over_when_more_is_counted_than_was_told(standing: int, over: Cursor) -> None:
    replay = Replay(200, standing, SEALED)
    places = [Cursor(segment, units) for segment in range(2, SEALED) for units in range(11)]  # of 10 tokens each
    gone_on = [place for place in places if replay.goes_on(100 * place.segment + 10 * place.units, place)]
    assert gone_on == places[: places.index(over)]


def test_a_log_that_is_counted_whole_has_no_more_to_come_and_less_of_it_has() -> None:
    assert Replay(0, 0, 0).goes_on(0, Cursor(0, 0))  # before the loop has looked whether there is anything
    assert not Replay(0, 0, 0).goes_on(0, Cursor(0, 0), idle=True)
    assert Replay(200, 500, SEALED).goes_on(500, Cursor(4, 10))
    assert not Replay(200, 500, SEALED).goes_on(500, Cursor(5, 0), idle=True)
    assert Replay(200, 501, SEALED).goes_on(500, Cursor(5, 0), idle=True)  # the rest was damaged and is not sealed again yet


def test_once_over_it_does_not_begin_again() -> None:
    replay = Replay(200, 300, SEALED)
    assert replay.goes_on(300, Cursor(3, 0))
    replay.end(300)
    assert not replay.goes_on(300, Cursor(3, 0))
