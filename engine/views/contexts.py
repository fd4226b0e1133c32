"""Contexts: windows around features' strongest activations, encoded again, with the activations of other features beside them.

1. `encode_windows` finds the units of the log that hold some positions, and encodes those of one segment together, as many at a
   time as a micro-batch takes.
2. `context_steps` cuts the contexts out of what comes, one call of the encoder per step: between two steps its caller may count.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.corpus.segment import TokenSegment
from engine.errors import DamagedFile, DroppedSegment
from engine.views.answers import Feature, live_snapshot, name
from engine.views.requests import ContextAnswer, ContextsAnswer, DocumentAnswer, MissingAnswer

if TYPE_CHECKING:
    from engine.corpus.log import CorpusLog
    from engine.corpus.segment import Segment
    from engine.encoder.batch import SparseBatch
    from engine.encoder.encoded import Encoded

log = logging.getLogger(__name__)

SIDE_TOKENS = 64
"""Tokens shown to each side of the strongest one: a window of 128 is shown whole, a pushed frame of 4,096 is not."""


class Window(NamedTuple):
    """One unit of the log, encoded: the rows that it has in a batch, and the token id of each row of the batch (None in a run
    without a model)."""

    batch: SparseBatch
    rows: slice
    tokens: np.ndarray | None


Found = Mapping[int, Window | str]
"""Position in the log → the window that holds it, or the reason why there is none."""

EncodeWindows = Callable[[Sequence[int]], Iterator[Found]]
"""Positions in the log → their windows, some with each call of the encoder; every position comes exactly once."""


class Chosen(NamedTuple):
    """One of a feature's strongest activations: its value, and where its token is in the log."""

    feature: Feature
    value: float
    position: int


EncodeFirst = Callable[["Segment", np.ndarray], tuple[int, "Encoded"]]
"""Units of a segment → how many of the first ones were encoded, as many as fit, and what they are encoded to."""


def encode_windows(corpus: CorpusLog, encode: EncodeFirst, positions: Sequence[int]) -> Iterator[Found]:
    """The units that hold these positions, encoded again.

    Args:
        corpus, encode: of the run.
        positions: in the log.

    Raises:
        Unknown: a position that the log never held.
    """
    left = np.unique(np.asarray(positions, np.int64))
    while len(left):
        try:
            segment = corpus.read(corpus.locate(int(left[0])).segment)
        except (FileNotFoundError, DamagedFile) as error:
            log.warning("no context at position %d: %s", left[0], error)
            fate = "is gone" if isinstance(error, FileNotFoundError) else "is damaged"
            if isinstance(error, DroppedSegment):
                fate = "was dropped: this run keeps the newest text only, within its disk quota"
            yield {int(left[0]): f"the part of the corpus log that held this text {fate}"}
            left = left[1:]
            continue
        end = segment.first_position + segment.token_count
        here, left = left[left < end], left[left >= end]
        bounds = segment.unit_bounds()
        unit = np.searchsorted(bounds, here - segment.first_position, side="right") - 1
        units = np.unique(unit)
        while len(units):
            count, encoded = encode(segment, units)
            taken, units = units[:count], units[count:]
            batch = encoded.batch
            index = batch.positions - segment.first_position
            tokens = segment.tokens[index] if isinstance(segment, TokenSegment) else None
            rows = {one: _run_of((bounds[one] <= index) & (index < bounds[one + 1])) for one in taken.tolist()}
            yield {at: Window(batch, rows[of], tokens) for at, of in zip(here.tolist(), unit.tolist(), strict=True) if of in rows}


def context_steps(
    features: Sequence[Feature],
    chosen: Sequence[Chosen],
    tokens: int,
    windows: EncodeWindows,
    decode: Callable[[int], str] | None,
) -> Iterator[ContextsAnswer | None]:
    """None after each call of the encoder while there is more to encode, and the answer at last.

    Args:
        features: whose activations every context gives.
        chosen: what contexts are wanted of, in the order of the answer.
        tokens: N of the state that they were chosen from.
        windows: encodes them.
        decode: token id → text; None in a run without a model.
    """
    found: dict[Chosen, ContextAnswer | MissingAnswer] = {}
    waiting = {one.position for one in chosen}
    if waiting:
        for some in windows(sorted(waiting)):
            for one in chosen:
                if one.position in some:
                    found[one] = context_at(one, some[one.position], features, decode)
            waiting -= some.keys()
            if waiting:
                yield None
    answers = [found[one] for one in chosen]
    yield ContextsAnswer(
        contexts=[one for one in answers if isinstance(one, ContextAnswer)],
        missing=[one for one in answers if isinstance(one, MissingAnswer)],
        snapshot=live_snapshot(tokens),
    )


def context_at(
    chosen: Chosen, window: Window | str, features: Sequence[Feature], decode: Callable[[int], str] | None
) -> ContextAnswer | MissingAnswer:
    """What is around a token: at most 64 tokens to each side, with the activations of the features; or why there is nothing."""
    if isinstance(window, str):
        return _missing(chosen, window)
    batch, rows = window.batch, window.rows
    (at,) = np.nonzero(batch.positions[rows] == chosen.position)
    if not len(at):
        return _missing(chosen, "encoded again, its window has no such token: an activation in it is not finite")
    at = rows.start + int(at[0])
    shown = slice(max(rows.start, at - SIDE_TOKENS), min(rows.stop, at + SIDE_TOKENS + 1))
    values = {name(feature): activations_of(batch, feature, shown) for feature in dict.fromkeys([chosen.feature, *features])}
    piece = batch.documents[int(batch.pieces[at])]
    texts = None
    if window.tokens is not None and decode is not None:
        texts = [decode(int(token)) for token in window.tokens[shown]]
    return ContextAnswer(
        feature=name(chosen.feature),
        activation=float(values[name(chosen.feature)][at - shown.start]),
        position=at - shown.start,
        log_position=chosen.position,
        upload=piece.upload,
        corpus=piece.corpus,
        document=DocumentAnswer(number=piece.number, name=piece.name),
        tokens=texts,
        values={key: column.tolist() for key, column in values.items()},
    )


def _missing(chosen: Chosen, reason: str) -> MissingAnswer:
    return MissingAnswer(feature=name(chosen.feature), activation=chosen.value, log_position=chosen.position, reason=reason)


def _run_of(mask: np.ndarray) -> slice:
    """The run of true entries as a slice; an empty one where there is none."""
    (inside,) = np.nonzero(mask)
    return slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0)


def activations_of(batch: SparseBatch, feature: Feature, rows: slice) -> np.ndarray:
    """float32: one feature's activation at each of these rows."""
    layer, index = feature
    offsets, features, values = batch.layers[layer]
    bounds = offsets[rows.start : rows.stop + 1].cpu().numpy()
    inside = slice(int(bounds[0]), int(bounds[-1]))
    entries = np.flatnonzero(features[inside].cpu().numpy() == index)
    activations = np.zeros(rows.stop - rows.start, np.float32)
    activations[np.searchsorted(bounds - bounds[0], entries, side="right") - 1] = values[inside].cpu().numpy()[entries]
    return activations
