"""What the kernels that work on the host demand of their arrays. Without torch, as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from kernels.cpu.best import Features


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
    if not np.all(right):
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


def _check_array(name: str, array: np.ndarray, kind: type[np.generic], shape: tuple[int, ...]) -> None:
    if array.dtype != kind:
        raise ValueError(f"{name} is {array.dtype}, it must be {np.dtype(kind)}")
    if array.shape != shape:
        raise ValueError(f"{name} has shape {list(array.shape)}, it must be {list(shape)}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} is not contiguous (strides {list(array.strides)}), it must be")
