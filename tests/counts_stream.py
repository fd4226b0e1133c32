"""A fixed stream of documents for the tests of the counts: small, with every awkward shape in it, and dense enough to compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass

import numpy as np
import torch

from engine.corpus.segment import Piece
from engine.counts.bounded import BoundedTable
from engine.counts.clusters import cluster_segment
from engine.counts.gate_tables import GateTables
from engine.counts.gates import NominatedGates
from engine.counts.part import StatePart
from engine.counts.shape import LayerPair, RunShape
from engine.counts.siblings import Siblings
from engine.counts.watched import Watched
from engine.encoder.batch import SparseBatch
from engine.encoder.encoded import SetAside
from engine.encoder.projections import DIRECTIONS, PairProjections
from kernels import Csr

DICTIONARIES = (7, 5, 11)
IN_ORDER = ("log_e", "score_sum", "score_squares")
PAIRS = ((0, 1), (1, 2), (0, 2))
LENGTHS = (4, 1, 0, 9, 1, 6, 17, 2, 0, 5, 12, 3)
"""Tokens of each document: empty and one-token ones are among them."""


@dataclass(frozen=True)
class Document:
    """One document: dense activations per layer float32 `[T, D]`, and what stands for it in a batch."""

    piece: Piece
    positions: np.ndarray
    layers: tuple[np.ndarray, ...]
    set_aside: tuple[SetAside, ...]


def documents(seed: int = 0, lengths: Sequence[int] = LENGTHS, dictionaries: Sequence[int] = DICTIONARIES) -> list[Document]:
    """Documents of two uploads. Values are from a coarse grid: maxima tie. Feature 0 of a layer never fires, feature 1 always."""
    rng = np.random.default_rng(seed)
    made, position = [], 100
    for number, length in enumerate(lengths):
        layers = []
        for size in dictionaries:
            dense = rng.choice(np.array([0.0, 0.0, 0.5, 1.0, 1.7, 3.1], np.float32), (length, size))
            dense[:, 0] = 0
            dense[:, 1] = np.maximum(dense[:, 1], 0.25)
            layers.append(dense)
        upload = "first" if number % 3 else "second"
        piece = Piece(upload, "corpus", number, None, number % 2, 0, length, True)
        aside = (SetAside(upload, number, number, f"NaN in document {number}"),) if number % 4 == 1 else ()
        made.append(Document(piece, np.arange(position, position + length), tuple(layers), aside))
        position += length
    return made


def sparse(dense: np.ndarray) -> Csr:
    """Dense activations `[T, D]` as CSR."""
    rows, features = np.nonzero(dense)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(dense)))]).astype(np.int32)
    return Csr(
        torch.from_numpy(offsets),
        torch.from_numpy(features.astype(np.int32)),
        torch.from_numpy(dense[rows, features].astype(np.float32)),
    )


def batch(group: Sequence[Document], dictionaries: Sequence[int] = DICTIONARIES) -> SparseBatch:
    """Some documents as one batch."""
    layers = [
        np.concatenate([np.empty((0, size), np.float32), *(document.layers[layer] for document in group)])
        for layer, size in enumerate(dictionaries)
    ]
    lengths = [len(document.positions) for document in group]
    return SparseBatch(
        tuple(sparse(dense) for dense in layers),
        np.concatenate([np.empty(0, np.int64), *(document.positions for document in group)]).astype(np.int64),
        np.repeat(np.arange(len(group), dtype=np.int32), lengths),
        tuple(document.piece for document in group),
    )


def set_aside(group: Sequence[Document]) -> list[SetAside]:
    """All that was set aside beside these documents."""
    return [item for document in group for item in document.set_aside]


def projections(group: Sequence[Document], pairs: Sequence[LayerPair] = PAIRS) -> list[PairProjections]:
    """What an encoder might have projected of these documents: every second one, in windows of 5 tokens."""
    found = []
    for up, down in pairs:
        parts = []
        for document in group:
            tokens, features = np.nonzero(document.layers[up])
            if document.piece.number % 2 == 0:
                rng, length = np.random.default_rng([document.piece.number, up, down]), len(document.positions)
                columns = [rng.standard_normal(len(tokens)).astype(np.float32) for _ in range(3)]
                activations = document.layers[up][tokens, features]
                parts.append(
                    PairProjections(
                        up,
                        down,
                        document.positions - np.arange(length) % 5,
                        rng.standard_normal((length, 2 * DIRECTIONS)).astype(np.float32),
                        tokens,
                        features.astype(np.int32),
                        activations,
                        np.abs(columns[0]) + np.float32(0.1),
                        *columns[1:],
                    )
                )
        if parts:
            before = np.cumsum([0, *(len(part.windows) for part in parts[:-1])])
            moved = [part._replace(tokens=part.tokens + first) for part, first in zip(parts, before, strict=True)]
            columns = zip(*(part[2:] for part in moved), strict=True)
            found.append(PairProjections(up, down, *map(np.concatenate, columns)))
    return found


def contents(part: StatePart) -> dict[str, object]:
    """The public attributes of a part, which are what it has counted; without e-values, which know an order (the log's)."""
    found = {name: value for name, value in vars(part).items() if not name.startswith("_") and name not in ("shape", "place")}
    if isinstance(part, NominatedGates):
        found["totals"] = {name: column for name, column in part.totals._asdict().items() if name not in IN_ORDER}
    if isinstance(part, BoundedTable):  # what it says of every pair, wherever its rows lie
        found = part.at(*np.indices(part.size).reshape(2, -1))._asdict()
        found |= {"weights": [part.downstream.weights, part.upstream.weights]}
    return found


def assert_equal(part: StatePart, expected: StatePart) -> None:
    """float64 sums to a relative 1e-6, everything else bit for bit (counts may be wider integers)."""
    _assert_equal(contents(part), contents(expected), part.name)


def _assert_equal(value: object, other: object, name: str) -> None:
    value, other = (vars(item) if is_dataclass(item) else item for item in (value, other))
    value, other = (torch.from_numpy(item) if isinstance(item, np.ndarray) else item for item in (value, other))
    if isinstance(value, list) and isinstance(other, list):
        value, other = dict(enumerate(value)), dict(enumerate(other))
    if isinstance(value, dict):
        assert isinstance(other, dict) and value.keys() == other.keys(), name
        for key, item in value.items():
            _assert_equal(item, other[key], f"{name}.{key}")
    elif not isinstance(value, torch.Tensor) or not isinstance(other, torch.Tensor):
        assert value == other, name
    elif value.dtype == torch.float64:
        torch.testing.assert_close(value, other, rtol=1e-6, atol=0, msg=name)
    elif value.dtype.is_floating_point:
        assert torch.equal(value, other), name
    else:
        assert torch.equal(value.long(), other.long()), name


def zero(kind: type[StatePart], shape: RunShape, place: tuple[int, ...]) -> StatePart:
    """A zero part that has something to count from the start: every pair is watched, every child has candidates and four gates, and
    every feature is the parent of siblings."""
    part = kind.zero(shape, place)
    if isinstance(part, Watched):
        up, down = (shape.dictionaries[layer] for layer in place)
        part.pin(*np.indices((up, down)).reshape(2, -1), position=0, tokens=0)
    children = np.arange(shape.dictionaries[place[1]] if len(place) == 2 else 0)
    if isinstance(part, GateTables):
        part.choose(children, (np.arange(shape.gate_candidates) + np.zeros_like(children)[:, None]).astype(np.int32) % 5, 0)
    if isinstance(part, NominatedGates):
        each, number = np.repeat(children, 4), np.tile(np.arange(4), len(children))
        parents = np.tile(np.array([[1, 2, -1], [2, 3, -1], [1, 4, -1], [2, 3, 4]], np.int32), (len(children), 1))
        part.nominate(each, number, number, parents, parents[:, 0], position=0, tokens=0)
    if isinstance(part, Siblings):
        up, down = (shape.dictionaries[layer] for layer in place)
        groups = [(parent, *range(parent % 2, min(down, parent % 2 + 8))) for parent in range(up)]
        part.choose(groups, [frozenset(group[1:]) for group in groups], tokens=0, limit=up)
    return part


def add(part: StatePart, group: Sequence[Document]) -> None:
    """Count some documents: as one batch, which is a segment."""
    one = batch(group, part.shape.dictionaries)
    part.add(one, set_aside(group))
    part.add_projections(projections(group))
    firsts = [int(document.positions[0]) if len(document.positions) else 0 for document in group]
    part.end_segment(cluster_segment([one], one.documents, firsts, part.shape))
