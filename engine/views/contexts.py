"""Contexts: the window around a feature's strongest activation, encoded again, with the activations of other features beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.views.answers import name
from engine.views.requests import ContextAnswer, DocumentAnswer

if TYPE_CHECKING:
    from engine.encoder.batch import SparseBatch

SIDE_TOKENS = 64
"""Tokens shown to each side of the strongest one: a window of 128 is shown whole, a pushed frame of 4,096 is not."""


class Window(NamedTuple):
    """One unit of the log, encoded: its batch, and the token id of each of the batch's tokens (None in a run without a model)."""

    batch: SparseBatch
    tokens: np.ndarray | None


EncodeWindow = Callable[[int], Window | None]
"""Position in the log → the unit that holds it; None when its text is not kept any more."""


def context_of(
    feature: tuple[int, int],
    position: int,
    others: Sequence[tuple[int, int]],
    encode_window: EncodeWindow,
    decode: Callable[[int], str] | None,
) -> ContextAnswer | None:
    """The context of one feature.

    Args:
        feature: (layer, index).
        position: of its strongest activation in the log.
        others: features whose activations are given too.
        encode_window: see there.
        decode: token id → text.

    Returns:
        None when the log does not hold the position any more.
    """
    window = encode_window(position)
    if window is None:
        return None
    batch = window.batch
    (found,) = np.nonzero(batch.positions == position)
    if not len(found):
        return None
    at = int(found[0])
    shown = slice(max(0, at - SIDE_TOKENS), at + SIDE_TOKENS + 1)
    values = {name(other): _activations(batch, *other) for other in dict.fromkeys([feature, *others])}
    piece = batch.documents[int(batch.pieces[at])]
    texts = None
    if window.tokens is not None and decode is not None:
        texts = [decode(int(token)) for token in window.tokens[shown]]
    return ContextAnswer(
        feature=name(feature),
        activation=float(values[name(feature)][at]),
        position=at - shown.start,
        log_position=position,
        upload=piece.upload,
        corpus=piece.corpus,
        document=DocumentAnswer(number=piece.number, name=piece.name),
        tokens=texts,
        values={key: column[shown].tolist() for key, column in values.items()},
    )


def _activations(batch: SparseBatch, layer: int, index: int) -> np.ndarray:
    """float32 `[T]`: one feature's activation at each token."""
    offsets, features, values = (column.cpu().numpy() for column in batch.layers[layer])
    entries = np.flatnonzero(features == index)
    activations = np.zeros(batch.tokens, np.float32)
    activations[np.searchsorted(offsets, entries, side="right") - 1] = values[entries]
    return activations
