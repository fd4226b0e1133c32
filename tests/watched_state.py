"""A state with watched pairs: 400 documents of two corpora, and a choice after 100 of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.corpus.segment import Piece
from engine.counts.state import State
from engine.encoder.batch import SparseBatch
from engine.views.watch import Watch
from tests.views_rig import DICTIONARIES, PAIRS, as_batch, dense_activations

DOCUMENTS, LENGTH = 400, 30
CHOSEN_AT = 100
"""Documents after which pairs are chosen."""


def segment(numbers: range) -> tuple[SparseBatch, list[Piece]]:
    """Some documents of two corpora; each with activations of its own."""
    layers = [np.concatenate([activations(number)[layer] for number in numbers]) for layer in range(len(DICTIONARIES))]
    whole = as_batch(layers, numbers.start * LENGTH)
    pieces = [Piece("u", corpus(number), number, None, number % 2, 0, LENGTH, True) for number in numbers]
    places = np.repeat(np.arange(len(pieces), dtype=np.int32), LENGTH)
    return SparseBatch(whole.layers, whole.positions, places, tuple(pieces)), pieces


def corpus(number: int) -> str:
    return "code" if number % 3 else "prose"


def activations(number: int) -> list[np.ndarray]:
    return dense_activations(LENGTH, seed=number)


def count(state: State, numbers: range) -> None:
    batch, pieces = segment(numbers)
    state.add(batch)
    state.end_segment([batch], pieces, [number * LENGTH for number in numbers])


def watched_state(folder: Path) -> State:
    """100 documents, a choice and one pin, 300 more; the pins go into the folder."""
    state = State.zero(DICTIONARIES, PAIRS)
    watch = Watch(folder / "watch", 120, PAIRS)
    count(state, range(CHOSEN_AT))
    watch.choose(state, CHOSEN_AT * LENGTH)
    watch.pin([(0, 0, 1, 3)], 1)
    watch.begin(state, 1, CHOSEN_AT * LENGTH, state.tokens)
    count(state, range(CHOSEN_AT, DOCUMENTS))
    return state
