"""Every relation from dense activations, with plain numpy: what the engine's answers are compared with.

Nothing here reads the engine's tables, lists or measures. The activations are those that the engine counted, laid out densely, a
few thousand tokens at a time; every pair of features is looked at, and definitions are written out. Slow and obvious.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file
from scipy.optimize import linear_sum_assignment

from engine.encoder.batch import SparseBatch

Pair = tuple[int, int]
Feature = tuple[int, int]

_CHUNK = 8_192  # tokens laid out densely at a time: 32 MiB of float32 at 1,024 features
MIN_SHARE = 0.05


class Activations:
    """All activations of a run in the order of the log.

    Attributes:
        tokens: N; sizes: features per layer.
    """

    def __init__(self, batches: Sequence[SparseBatch], sizes: Sequence[int]) -> None:
        positions = np.concatenate([batch.positions for batch in batches])
        place = np.empty(len(positions), np.int32)
        place[np.argsort(positions, kind="stable")] = np.arange(len(positions), dtype=np.int32)
        self.tokens, self.sizes = len(positions), tuple(sizes)
        self._layers = []
        for layer in range(len(sizes)):
            lengths = np.concatenate([np.diff(batch.layers[layer].offsets.numpy()) for batch in batches])
            features = np.concatenate([batch.layers[layer].features.numpy() for batch in batches])
            values = np.concatenate([batch.layers[layer].values.numpy() for batch in batches])
            token = np.repeat(place, lengths)
            by_token, by_feature = np.lexsort((features, token)), np.lexsort((token, features))
            self._layers.append(
                (
                    (token[by_token], features[by_token], values[by_token]),
                    (token[by_feature], np.searchsorted(features[by_feature], np.arange(sizes[layer] + 1))),
                )
            )

    def dense(self, layer: int, start: int, stop: int) -> np.ndarray:
        """float32 `[stop − start, D]`, the activations at some tokens."""
        (token, feature, value), _ = self._layers[layer]
        part = slice(*np.searchsorted(token, [start, stop]))
        rows = np.zeros((stop - start, self.sizes[layer]), np.float32)
        rows[token[part] - start, feature[part]] = value[part]
        return rows

    def active(self, layer: int, features: Sequence[int], start: int = 0) -> np.ndarray:
        """bool `[N − start, n]`: whether each of some features is active, at every token from `start` on."""
        _, (token, bounds) = self._layers[layer]
        columns = np.zeros((self.tokens, len(features)), bool)
        for column, feature in enumerate(features):
            columns[token[bounds[feature] : bounds[feature + 1]], column] = True
        return columns[start:]


class Tables(NamedTuple):
    """All pairs of one layer pair: active counts int64 `[Du]`, `[Dd]`, joint counts int64 `[Du, Dd]`, and measures float64
    `[Du, Dd]`, NaN where undefined."""

    up: np.ndarray
    down: np.ndarray
    joint: np.ndarray
    measures: dict[str, np.ndarray]


def tables(activations: Activations, pair: Pair) -> Tables:
    """Counts and measures of every pair of features of two layers."""
    sizes = tuple(activations.sizes[layer] for layer in pair)
    joint, product = np.zeros(sizes, np.int64), np.zeros(sizes)
    counts = [np.zeros(size, np.int64) for size in sizes]
    sums, squares = ([np.zeros(size) for size in sizes] for _ in range(2))
    for start in range(0, activations.tokens, _CHUNK):
        sides = [activations.dense(layer, start, min(start + _CHUNK, activations.tokens)) for layer in pair]
        on = [(side > 0).astype(np.float32) for side in sides]
        joint += (on[0].T @ on[1]).astype(np.int64)  # whole numbers below 2^24
        wide = [side.astype(np.float64) for side in sides]
        product += wide[0].T @ wide[1]
        for at in range(2):
            counts[at] += on[at].sum(axis=0, dtype=np.int64)
            sums[at] += wide[at].sum(axis=0)
            squares[at] += (wide[at] ** 2).sum(axis=0)
    n, up, down = activations.tokens, counts[0][:, None], counts[1][None]
    with np.errstate(all="ignore"):
        spread = [np.sqrt(n * square - total**2) for square, total in zip(squares, sums, strict=True)]
        measures = {
            "pearson": (n * product - np.outer(*sums)) / np.outer(*spread),
            "jaccard": joint / (up + down - joint),
            "necessity": joint / np.broadcast_to(down, joint.shape),
        }
    return Tables(counts[0], counts[1], joint, measures)


def scores(table: Tables, measure: str, threshold: float, min_support: int) -> np.ndarray:
    """float64 `[Du, Dd]`: the measure of the pairs at or above the threshold with the support, −inf elsewhere."""
    values = table.measures[measure]
    with np.errstate(invalid="ignore"):
        return np.where((values >= threshold) & (table.joint >= min_support), values, -np.inf)


def lineages(all_tables: Sequence[Tables], measure: str, threshold: float, min_support: int) -> set[tuple[Feature, ...]]:
    """Chains of mutual best partners over layers 0, 1, 2 …, live features that stay alone included."""
    following: dict[Feature, Feature] = {}
    for layer, table in enumerate(all_tables):
        score = scores(table, measure, threshold, min_support)
        for up, down in enumerate(score.argmax(axis=1).tolist()):
            if score[up, down] > -np.inf and score[:, down].argmax() == up:
                following[layer, up] = (layer + 1, down)
    led_to = set(following.values())
    counts = [all_tables[0].up, *(table.down for table in all_tables)]
    chains = set()
    for layer, count in enumerate(counts):
        for index in np.flatnonzero(count).tolist():
            if (layer, index) not in led_to:
                chain = [(layer, index)]
                while chain[-1] in following:
                    chain.append(following[chain[-1]])
                chains.add(tuple(chain))
    return chains


class Question(NamedTuple):
    """The conditions of a specialisation."""

    necessity: float
    coverage: float
    max_overlap: float
    min_support: int


def candidates(table: Tables, question: Question) -> dict[int, list[int]]:
    """Parent → the children that imply it and are neither too small nor all of it, largest first, where they could cover it."""
    found = {}
    for parent in range(len(table.up)):
        joint, whole = table.joint[parent], table.up[parent]
        kept = (joint >= question.necessity * table.down) & (joint >= question.min_support)
        children = np.flatnonzero(kept & (joint >= MIN_SHARE * whole) & (joint < question.coverage * whole))
        if len(children) >= 2 and joint[children].sum() >= question.coverage * whole:
            found[parent] = children[np.lexsort((children, -joint[children]))].tolist()
    return found


class Family(NamedTuple):
    """A parent's children that exclude each other, and what they do on its tokens: the largest shared part of two of them, the
    overlap of all and their coverage as shares of it."""

    children: list[int]
    shared: float
    overlap: float
    coverage: float


def family(
    activations: Activations, pair: Pair, parent: int, children: Sequence[int], max_overlap: float, start: int = 0
) -> Family | None:
    """Take the children in order, leaving out what overlaps too much, by the activations from a token on; None below two."""
    on = activations.active(pair[0], [parent], start)[:, 0]
    within = activations.active(pair[1], children, start)[on]
    taken: list[int] = []
    for at in range(len(children)):
        more = [*taken, at]
        parts = shared_parts(within[:, more])
        overlap = np.maximum(within[:, more].sum(axis=1) - 1, 0).sum()
        if max(parts, default=0.0) <= max_overlap and overlap <= max_overlap * len(within):
            taken = more
    if len(taken) < 2:
        return None
    kept = within[:, taken]
    overlap = np.maximum(kept.sum(axis=1) - 1, 0).sum() / len(kept)
    return Family([children[at] for at in taken], max(shared_parts(kept)), overlap, kept.any(axis=1).mean())


def shared_parts(within: np.ndarray) -> list[float]:
    """For each two columns of bool `[n, C]` the tokens of both over those of the smaller one."""
    pairs = [(a, b) for b in range(within.shape[1]) for a in range(b)]
    sizes = within.sum(axis=0)
    return [(within[:, a] & within[:, b]).sum() / min(sizes[a], sizes[b]) for a, b in pairs]


def matching(weight: np.ndarray) -> np.ndarray:
    """int64 `[Du]`: the partner of each upstream feature in the one-to-one pairing with the largest sum of the weights above 0."""
    gain = np.where(weight > 0, weight, 0.0)
    partner = np.full(len(gain), -1, np.int64)
    rows, columns = linear_sum_assignment(gain, maximize=True)
    kept = gain[rows, columns] > 0
    partner[rows[kept]] = columns[kept]
    return partner


def decoder_products(folders: Sequence[Path]) -> np.ndarray:
    """Inner products float64 `[Du, Dd]` of two SAEs' decoder vectors, each scaled by its feature's threshold (SAE Match's folding),
    read from their weight files."""
    sides = []
    for folder in folders:
        weights = load_file(folder / "sae_weights.safetensors")
        sides.append(weights["W_dec"].astype(np.float64) * weights["threshold"].astype(np.float64)[:, None])
    return sides[0] @ sides[1].T
