"""Windows of a real log, encoded again: segment by segment, a few at a time, and with a reason where the text is gone."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from engine.corpus.builder import ActivationBuilder
from engine.corpus.inbox import Manifest
from engine.corpus.log import CorpusLog
from engine.corpus.segment import LayerActivations, Segment
from engine.corpus.segment_file import segment_path
from engine.encoder.encoded import Encoded
from engine.encoder.pushed import PushedActivations
from engine.errors import Unknown
from engine.pace import MicroBatchSize
from engine.views.contexts import Chosen, EncodeFirst, Window, context_steps, encode_windows
from engine.views.requests import ContextsAnswer

FEATURES = 5
UNITS = (6, 1, 9, 4)
PER_SEGMENT = sum(UNITS)
SEGMENTS = 7  # more than the log holds in memory
DENSE = np.random.default_rng(0).integers(0, 5, (SEGMENTS * PER_SEGMENT, FEATURES)).astype(np.float32)


class Counted(PushedActivations):
    """The encoder of a run without a model, which remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__([FEATURES])
        self.calls: list[tuple[int, list[int]]] = []

    def encode(self, segment: Segment, units: np.ndarray) -> Encoded:
        self.calls.append((segment.number, units.tolist()))
        return super().encode(segment, units)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A log of 7 segments, in each 4 documents that are a unit each."""
    log, upload = CorpusLog(tmp_path), Manifest("u", "activations", "books", None, "", "application/x-msgpack", 0, 28, 0.0)
    for number in range(SEGMENTS):
        builder = ActivationBuilder(1)
        bounds = np.cumsum([0, *UNITS]) + number * PER_SEGMENT
        for at, (start, end) in enumerate(pairwise(bounds.tolist())):
            rows, features = np.nonzero(DENSE[start:end])
            offsets = np.searchsorted(rows, np.arange(end - start + 1)).astype(np.int32)
            layer = LayerActivations(offsets, features.astype(np.int32), DENSE[start:end][rows, features])
            builder.add(upload, 4 * number + at, f"d{at}", 0, 0, end - start, [layer], True)
        log.append(builder)
    return tmp_path


def at_once(encoder: Counted, most: int = 1_000) -> EncodeFirst:
    """At most so many tokens at a time."""
    return partial(MicroBatchSize(1.0, 1_000, start=most).encode_first, encoder.encode)


def windows(root: Path, positions: list[int], encoder: Counted, most: int = 1_000) -> dict[int, Window | str]:
    found: dict[int, Window | str] = {}
    for some in encode_windows(CorpusLog(root), at_once(encoder, most), positions):
        assert not found.keys() & some.keys()
        found |= some
    return found


def test_every_position_comes_with_the_whole_unit_that_holds_it(root: Path) -> None:
    found = windows(root, list(range(len(DENSE))), Counted())
    assert sorted(found) == list(range(len(DENSE)))
    for position, window in found.items():
        assert isinstance(window, Window)
        assert window.tokens is None
        begins = np.cumsum([0, *UNITS]) + position // PER_SEGMENT * PER_SEGMENT
        unit = int(np.searchsorted(begins, position, side="right")) - 1
        assert window.batch.positions[window.rows].tolist() == list(range(begins[unit], begins[unit + 1]))


def test_units_of_a_segment_are_encoded_together_and_once_as_many_as_fit(root: Path) -> None:
    positions = [PER_SEGMENT + 10, 0, 6, 1, 19, PER_SEGMENT + 10, 3 * PER_SEGMENT]
    together = Counted()
    windows(root, positions, together)
    assert together.calls == [(0, [0, 1, 3]), (1, [2]), (3, [0])]
    few = Counted()
    windows(root, positions, few, most=7)
    assert few.calls == [(0, [0, 1]), (0, [3]), (1, [2]), (3, [0])]


def test_where_the_text_is_gone_or_damaged_the_reason_says_so_and_the_others_come(root: Path) -> None:
    log = CorpusLog(root)
    segment_path(root, 1).unlink()
    path = segment_path(root, 2)
    content = bytearray(path.read_bytes())
    content[-30] ^= 1
    path.write_bytes(content)
    positions = [at * PER_SEGMENT + 2 for at in range(4)]
    found: dict[int, Window | str] = {}
    for some in encode_windows(log, at_once(Counted()), positions):
        found |= some
    assert found[positions[1]] == "the part of the corpus log that held this text is gone"
    assert found[positions[2]] == "the part of the corpus log that held this text is damaged"
    assert isinstance(found[positions[0]], Window) and isinstance(found[positions[3]], Window)


def test_a_position_that_was_never_sealed_is_an_error(root: Path) -> None:
    with pytest.raises(Unknown, match=f"position {len(DENSE)}"):
        windows(root, [0, len(DENSE)], Counted())


def test_contexts_are_cut_from_windows_that_share_a_batch(root: Path) -> None:
    features = [(0, 1), (0, 3)]
    chosen = [Chosen((0, 3), 1.0, at) for at in (19, 0, 7, 5 * PER_SEGMENT + 3)] + [Chosen((0, 1), 1.0, 7)]

    log, encoder = CorpusLog(root), Counted()
    steps = list(
        context_steps(features, chosen, len(DENSE), lambda positions: encode_windows(log, at_once(encoder), positions), None)
    )
    assert steps[:-1] == [None], "one call per segment, and the answer with the last"
    answer = steps[-1]
    assert isinstance(answer, ContextsAnswer) and answer.missing == []
    assert [(context.feature, context.log_position) for context in answer.contexts] == [
        (f"0:{one.feature[1]}", one.position) for one in chosen
    ]
    for context in answer.contexts:
        begins = context.log_position - context.position
        shown = DENSE[begins : begins + len(context.values["0:1"])]
        assert context.values == {"0:1": shown[:, 1].tolist(), "0:3": shown[:, 3].tolist()}
        assert len(shown) == UNITS[context.document.number % 4]


def test_a_window_that_is_set_aside_when_it_is_encoded_again_is_missing(tmp_path: Path) -> None:
    log, builder = CorpusLog(tmp_path), ActivationBuilder(1)
    layer = LayerActivations(np.arange(4, dtype=np.int32), np.zeros(3, np.int32), np.array([1, 2, np.nan], np.float32))
    upload = Manifest("u", "activations", "books", None, "", "application/x-msgpack", 0, 1, 0.0)
    builder.add(upload, 0, None, 0, 0, 3, [layer], True)
    log.append(builder)
    encoder = Counted()
    chosen = [Chosen((0, 0), 2.5, 1)]
    (answer,) = context_steps([(0, 0)], chosen, 9, lambda positions: encode_windows(log, at_once(encoder), positions), None)
    assert isinstance(answer, ContextsAnswer) and answer.contexts == []
    assert (answer.missing[0].activation, answer.missing[0].log_position) == (2.5, 1)
    assert "not finite" in answer.missing[0].reason
