"""Sums over the tokens and over the windows at which a feature is active, entry by entry.

    entries (token, feature, values) in the order of the tokens ──▶ sums per feature
                                     └─ per window: sums of two values ──▶ their squares and product, per feature

A window's sums are kept per feature while its entries come, with a list of the features that it touched; where it ends they are
squared, added, and set to zero again. So each entry costs the same however many features there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kernels.cpu.compiled import compiled

WINDOW_SUMS = ("written", "error", "stream", "error_squared", "error_error", "error_written", "written_written")
"""Columns of `sums`: Σw, Σe, Σx, Σe² over entries; ΣE², ΣEW, ΣW² over windows, with E = Σe and W = Σw of the window."""


def add_window_sums(
    windows: np.ndarray,
    chance: np.ndarray,
    tokens: np.ndarray,
    features: np.ndarray,
    values: Sequence[np.ndarray],
    counts: np.ndarray,
    sums: np.ndarray,
    chance_sums: np.ndarray,
) -> None:
    """Adds n entries at T tokens to the sums of D features, in place.

    Args:
        windows: int64 `[T]`, the window of each token; the tokens of a window follow each other.
        chance: float32 `[T, K]`, numbers of each token, whatever is active there.
        tokens: int64 `[n]`, ascending, the token of each entry; features: int32 `[n]`.
        values: three arrays float32 `[n]`: w > 0, e and x.
        counts: int64 `[D, 2]`, tokens and windows with an entry.
        sums: float64 `[D, 7]`, in the order of `WINDOW_SUMS`.
        chance_sums: float64 `[D, K]`, over the tokens of the entries.

    Raises:
        ValueError: arrays of other types or shapes, or a token or feature that there is not.
    """
    size, total = len(counts), len(features)
    wanted: dict[str, tuple[np.ndarray, Any, tuple[int, ...]]] = {
        "windows": (windows, np.int64, (len(windows),)),
        "chance": (chance, np.float32, (len(windows), chance_sums.shape[1])),
        "tokens": (tokens, np.int64, (total,)),
        "features": (features, np.int32, (total,)),
        **{f"values[{at}]": (array, np.float32, (total,)) for at, array in enumerate(values)},
        "counts": (counts, np.int64, (size, 2)),
        "sums": (sums, np.float64, (size, len(WINDOW_SUMS))),
        "chance_sums": (chance_sums, np.float64, (size, chance_sums.shape[1])),
    }
    for name, (array, kind, shape) in wanted.items():
        if array.dtype != kind or array.shape != shape:
            raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, it must be {np.dtype(kind)} {list(shape)}")
    for name, array, end in (("tokens", tokens, len(windows)), ("features", features, size)):
        if total and (array.min() < 0 or array.max() >= end):
            raise ValueError(f"{name} holds {array.min()} to {array.max()}, every one must be in [0, {end})")
    written, error, stream = values
    _add(windows, chance, tokens, features, written, error, stream, counts, sums, chance_sums)


_compile = compiled()


@_compile
def _add(windows, chance, tokens, features, written, error, stream, counts, sums, chance_sums):
    here = np.zeros((len(counts), 2))
    touched = np.empty(len(features), np.int64)
    filled = 0
    for entry in range(len(features)):
        token, feature = tokens[entry], features[entry]
        if entry and windows[token] != windows[tokens[entry - 1]]:
            _end_window(here, touched, filled, counts, sums)
            filled = 0
        w, e = np.float64(written[entry]), np.float64(error[entry])
        if here[feature, 1] == 0.0:
            touched[filled] = feature
            filled += 1
        here[feature, 0] += e
        here[feature, 1] += w
        counts[feature, 0] += 1
        sums[feature, 0] += w
        sums[feature, 1] += e
        sums[feature, 2] += np.float64(stream[entry])
        sums[feature, 3] += e * e
        for which in range(chance.shape[1]):
            chance_sums[feature, which] += np.float64(chance[token, which])
    _end_window(here, touched, filled, counts, sums)


@_compile
def _end_window(here, touched, filled, counts, sums):
    for at in range(filled):
        feature = touched[at]
        e, w = here[feature, 0], here[feature, 1]
        counts[feature, 1] += 1
        sums[feature, 4] += e * e
        sums[feature, 5] += e * w
        sums[feature, 6] += w * w
        here[feature, 0] = 0.0
        here[feature, 1] = 0.0
