"""Graphs for the tests of relations, made from dense activations the slow way."""

from __future__ import annotations

import numpy as np

from engine.measures import MEASURES, PairCounts, estimates
from engine.measures.relations import Edges, FeatureGraph, LayerCounts, Pair


def counts_of(dense: np.ndarray) -> LayerCounts:
    """Marginals of a layer from its activations `[T, D]`."""
    values = dense.astype(np.float64)
    return LayerCounts((dense > 0).sum(0), values.sum(0), (values**2).sum(0))


def pair_counts(layers: list[np.ndarray], pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Joint counts int64 and Σab float64 `[Du, Dd]` of all pairs."""
    up, down = (layers[layer].astype(np.float64) for layer in pair)
    return ((up > 0).T.astype(np.int64) @ (down > 0).astype(np.int64)), up.T @ down


def values(layers: list[np.ndarray], pair: Pair, measure: str) -> np.ndarray:
    """float64 `[Du, Dd]`: the measure of all pairs, from the activations themselves where that is one line of numpy."""
    up, down = (layers[layer].astype(np.float64) for layer in pair)
    on_up, on_down = up > 0, down > 0
    joint = on_up.T.astype(float) @ on_down.astype(float)
    with np.errstate(all="ignore"):
        match measure:
            case "pearson":
                return np.corrcoef(up.T, down.T)[: up.shape[1], up.shape[1] :]
            case "phi":
                return np.corrcoef(on_up.T, on_down.T)[: up.shape[1], up.shape[1] :]
            case "jaccard":
                return joint / (on_up[:, :, None] | on_down[:, None, :]).sum(0)
            case "sufficiency":
                return joint / on_up.sum(0)[:, None]
            case "necessity":
                return joint / on_down.sum(0)
            case "lift":
                return joint * len(up) / np.outer(on_up.sum(0), on_down.sum(0))
            case "activation_cosine":
                return (up.T @ down) / np.outer(np.linalg.norm(up, axis=0), np.linalg.norm(down, axis=0))
    one, other = counts_of(layers[pair[0]]), counts_of(layers[pair[1]])
    joint, product = pair_counts(layers, pair)
    return estimates(
        PairCounts(
            len(up),
            *(side[:, None] if at == 0 else side[None, :] for side, at in ((one.count, 0), (other.count, 1))),
            joint,
            one.sum[:, None],
            other.sum[None, :],
            one.sum_of_squares[:, None],
            other.sum_of_squares[None, :],
            product,
        ),
        [measure],
    )[measure]


def graph_from(layers: list[np.ndarray], pairs: list[Pair], *, k: int, min_support: int) -> FeatureGraph:
    """The graph of what the publisher would list: for each feature the union of its k best partners by every measure."""
    edges = {}
    for pair in pairs:
        joint, product = pair_counts(layers, pair)
        listed = np.zeros(joint.shape, bool)
        for measure in MEASURES[:-1]:
            score = np.where(joint >= min_support, values(layers, pair, measure), np.nan)
            for line, marks in [*zip(score, listed, strict=True), *zip(score.T, listed.T, strict=True)]:
                best = np.argsort(-line, kind="stable")[:k]  # NaN last
                marks[best[np.isfinite(line[best])]] = True
        up, down = np.nonzero(listed)
        edges[pair] = Edges(
            up.astype(np.int32),
            down.astype(np.int32),
            joint[up, down],
            product[up, down],
            np.full(len(up), np.nan, np.float32),
            np.zeros(len(up), np.int64),
        )
    return FeatureGraph(len(layers[0]), [counts_of(layer) for layer in layers], edges, k, min_support)


def correlated(seed: int, sizes: tuple[int, ...] = (14, 17, 12), tokens: int = 400) -> list[np.ndarray]:
    """Activations float32 `[T, D]` per layer: noisy copies of the layer before, others at random, a dead and a rare one."""
    rng = np.random.default_rng(seed)
    layers: list[np.ndarray] = []
    for size in sizes:
        rate = rng.uniform(0.02, 0.4, size)
        dense = np.where(rng.random((tokens, size)) < rate, rng.gamma(2.0, 1.0, (tokens, size)), 0)
        if layers:
            before = layers[-1]
            for index in range(0, min(size, before.shape[1]), 2):
                kept = rng.random(tokens) < rng.uniform(0.4, 1.0)
                dense[:, index] = np.where(kept, before[:, (index * 3) % before.shape[1]] * rng.uniform(0.8, 1.2, tokens), 0)
        dense[:, 1] = 0
        dense[:, 3] = 0
        dense[rng.choice(tokens, 4, replace=False), 3] = 1
        layers.append(dense.astype(np.float32))
    return layers
