"""What the kernels that work on the host demand of their arrays. Without torch, as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from kernels.cpu.best import Features
    from kernels.cpu.gates import BlockMasks, Blocks, Gates, GateTotals


def check_cells(
    up: np.ndarray,
    down: np.ndarray,
    cells: np.ndarray,
    joint: np.ndarray,
    product: np.ndarray,
    cosine: np.ndarray | None,
    rows: int,
    columns: int,
) -> None:
    """The arguments of `BestCells.offer`."""
    wanted = {"up": (up, np.int32), "down": (down, np.int32), "cells": (cells, np.int64), "joint": (joint, np.int64)}
    wanted |= {"product": (product, np.float64)} | ({} if cosine is None else {"cosine": (cosine, np.float32)})
    for name, (array, kind) in wanted.items():
        _check_array(name, array, kind, up.shape)
    for name, array, size in (("up", up, rows), ("down", down, columns)):
        if len(array) and (array.min() < 0 or array.max() >= size):
            raise ValueError(f"{name} holds {array.min()} to {array.max()}, every one must be in [0, {size})")


def check_pair_rows(first: int, counts: np.ndarray, rows: int, columns: int) -> None:
    """The arguments of `CandidateLists.offer`."""
    kind = np.int64 if counts.dtype == np.int64 else np.int32
    _check_array("counts", counts, kind, (len(counts), columns, 2))
    if first < 0 or first + len(counts) > rows:
        raise ValueError(f"counts are of rows {first} to {first + len(counts) - 1}, there are rows 0 to {rows - 1}")


def check_table(counts: np.ndarray, products: np.ndarray, cosines: np.ndarray | None, least: int) -> None:
    """The arguments of `supported_cells`."""
    kind = np.int64 if counts.dtype == np.int64 else np.int32
    _check_array("counts", counts, kind, (*products.shape, 2), contiguous=False)  # they may lie side by side: `kernels.tables`
    _check_array("products", products, np.float64, counts.shape[:2], contiguous=False)
    if cosines is not None:
        _check_array("cosines", cosines, np.float32, counts.shape[:2])
    if least < 1:
        raise ValueError(f"least is {least}, it must be at least 1")


def check_ranking(measures: Sequence[str], ranked: Sequence[str], k: int) -> None:
    """What every ranking is asked for."""
    if k < 1:
        raise ValueError(f"k is {k}, it must be at least 1")
    unknown = [measure for measure in measures if measure not in ranked]
    if unknown:
        raise ValueError(f"measures holds {unknown[0]!r}, every one must be one of {', '.join(ranked)}")


def check_features(name: str, features: Features) -> None:
    """The features of a layer, as `BestCells` takes them."""
    shape = features.count.shape
    _check_array(f"{name}.count", features.count, np.int64, shape)
    _check_array(f"{name}.sum", features.sum, np.float64, shape)
    _check_array(f"{name}.sum_of_squares", features.sum_of_squares, np.float64, shape)
    if features.effect is not None and features.effect.shape != shape:
        raise ValueError(f"{name}.effect has shape {list(features.effect.shape)}, it must be {list(shape)}")


def check_trials(
    successes: np.ndarray, trials: np.ndarray, deff: np.ndarray | float, alpha: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The arguments of `bounds`, as flat float64 arrays of one length."""
    s, n = np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    effects = np.asarray(deff, dtype=np.float64)
    if n.shape != s.shape:
        raise ValueError(f"trials has shape {n.shape}, it must be {s.shape}")
    if effects.shape not in ((), s.shape):
        raise ValueError(f"deff has shape {effects.shape}, it must be one number or {s.shape}")
    _check_each("trials", n, np.isfinite(n) & (n >= 0), "at least 0")
    _check_each("successes", s, (s >= 0) & (s <= n), "in [0, trials]")
    _check_each("deff", effects, np.isfinite(effects) & (effects >= 1), "at least 1")
    check_alpha(alpha)
    return s.reshape(-1), n.reshape(-1), np.broadcast_to(effects, s.shape).reshape(-1)


def check_correlations(r: np.ndarray, n_effective: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """The arguments of `pearson_bounds`, as flat float64 arrays of one length."""
    values, n = np.asarray(r, dtype=np.float64), np.asarray(n_effective, dtype=np.float64)
    if n.shape != values.shape:
        raise ValueError(f"n_effective has shape {n.shape}, it must be {values.shape}")
    _check_each("r", values, ~(np.abs(values) > 1), "in [-1, 1]")  # NaN where the correlation is undefined
    _check_each("n_effective", n, np.isfinite(n) & (n >= 0), "at least 0")
    check_alpha(alpha)
    return values.reshape(-1), n.reshape(-1)


def check_alpha(alpha: float) -> None:
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha is {alpha}, it must be between 0 and 1, both not included")


def _check_each(name: str, values: np.ndarray, right: np.ndarray, wanted: str) -> None:
    if not right.all():
        raise ValueError(f"{name} holds {values[~right].reshape(-1)[0]}, every one must be {wanted}")


def check_lists(values: np.ndarray, positions: np.ndarray, documents: np.ndarray) -> None:
    """The arrays of `StrongestLists`: all [D, k]."""
    if values.ndim != 2 or values.shape[1] < 1:
        raise ValueError(f"values has shape {list(values.shape)}, it must be [D, k] with k of at least 1")
    _check_array("values", values, np.float32, values.shape)
    _check_array("positions", positions, np.int64, values.shape)
    _check_array("documents", documents, np.int64, values.shape)


def check_entries(
    offsets: np.ndarray, features: np.ndarray, values: np.ndarray, positions: np.ndarray, documents: np.ndarray
) -> None:
    """The arguments of `StrongestLists.offer`; features out of range are for the kernel to find."""
    tokens = len(positions)
    _check_array("offsets", offsets, np.int32, (tokens + 1,))
    _check_array("features", features, np.int32, (int(offsets[-1]),))
    _check_array("values", values, np.float32, (int(offsets[-1]),))
    _check_array("positions", positions, np.int64, (tokens,))
    _check_array("documents", documents, np.int64, (tokens,))


def check_blocks(blocks: Blocks, clusters: int | None) -> None:
    """`Blocks` of n tokens, with `clusters` clusters where that is known."""
    count, tokens = len(blocks.tokens), len(blocks.of_token)
    _check_array("blocks.of_token", blocks.of_token, np.int32, (tokens,))
    _check_array("blocks.bit", blocks.bit, np.uint8, (tokens,))
    _check_array("blocks.tokens", blocks.tokens, np.int32, (count,))
    _check_array("blocks.cluster", blocks.cluster, np.int32, (count,))
    _check_range("blocks.of_token", blocks.of_token, 0, count)
    _check_range("blocks.bit", blocks.bit, 0, 32)
    _check_range("blocks.tokens", blocks.tokens, 1, 33)
    _check_each("blocks.cluster", blocks.cluster[1:], np.diff(blocks.cluster) >= 0, "at least the one before")
    if clusters is not None:
        _check_range("blocks.cluster", blocks.cluster, 0, clusters)


def check_masks(name: str, masks: BlockMasks, blocks: int) -> None:
    """`BlockMasks` over so many blocks."""
    features, runs = len(masks.starts) - 1, len(masks.blocks)
    _check_array(f"{name}.starts", masks.starts, np.int64, (features + 1,))
    _check_array(f"{name}.blocks", masks.blocks, np.int32, (runs,))
    _check_array(f"{name}.masks", masks.masks, np.uint32, (runs,))
    if masks.starts[0] != 0 or masks.starts[-1] != runs or (np.diff(masks.starts) < 0).any():
        raise ValueError(
            f"{name}.starts must rise from 0 to {runs}, the number of runs; it runs {masks.starts[0]} … {masks.starts[-1]}"
        )
    _check_range(f"{name}.blocks", masks.blocks, 0, blocks)


def check_gates(gates: Gates, up_width: int, down_width: int) -> None:
    """`Gates` between layers of so many features."""
    count = len(gates.kinds)
    _check_array("gates.kinds", gates.kinds, np.uint8, (count,))
    _check_array("gates.parents", gates.parents, np.int32, (count, 3))
    _check_array("gates.children", gates.children, np.int32, (count,))
    _check_array("gates.best", gates.best, np.int32, (count,))
    _check_range("gates.kinds", gates.kinds, 0, 4)
    three = gates.kinds == 3
    _check_range("gates.parents", gates.parents[:, :2], 0, up_width)
    _check_range("gates.parents (third of 2-of-3)", gates.parents[three, 2], 0, up_width)
    _check_each("gates.parents (third of two)", gates.parents[~three, 2], gates.parents[~three, 2] == -1, "-1")
    _check_range("gates.children", gates.children, 0, down_width)
    _check_range("gates.best", gates.best, 0, up_width)


def check_totals(totals: GateTotals, gates: int, half: np.ndarray, special: np.ndarray, prior: tuple[float, float]) -> None:
    """`GateTotals` of so many gates, what is known of the C clusters, and the prior of bets."""
    shapes: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
        "cells": (np.int64, (gates, 16)),
        **{name: (np.float64, (gates, 4)) for name in ("log_e", "score_sum", "score_squares")},
        "sums": (np.float64, (gates, 2, 5)),
        "squares": (np.float64, (gates, 15)),
        "documents": (np.int64, (gates,)),
        "deciding": (np.int64, (gates,)),
    }
    for name, (kind, shape) in shapes.items():
        _check_array(f"totals.{name}", getattr(totals, name), kind, shape)
    _check_array("cluster_half", half, np.uint8, half.shape)
    _check_array("cluster_special", special, np.int32, half.shape)
    _check_range("cluster_half", half, 0, 2)
    _check_range("cluster_special", special, -1, 2**31)
    if not (prior[0] >= 0 and prior[1] > 0):
        raise ValueError(f"prior is {prior}, it must be at least 0 and more than 0")


def _check_range(name: str, values: np.ndarray, low: int, high: int) -> None:
    if values.size and (values.min() < low or values.max() >= high):
        raise ValueError(f"{name} holds {values.min()} to {values.max()}, every one must be in [{low}, {high})")


def _check_array(name: str, array: np.ndarray, kind: type[np.generic], shape: tuple[int, ...], *, contiguous: bool = True) -> None:
    if array.dtype != kind:
        raise ValueError(f"{name} is {array.dtype}, it must be {np.dtype(kind)}")
    if array.shape != shape:
        raise ValueError(f"{name} has shape {list(array.shape)}, it must be {list(shape)}")
    if contiguous and not array.flags.c_contiguous:
        raise ValueError(f"{name} is not contiguous (strides {list(array.strides)}), it must be")
