"""The contexts of a snapshot: of every feature its strongest activations and where in the log they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class ContextLists(NamedTuple):
    """Of one layer: `CONTEXT [n]`, feature by feature, strongest first, and int64 `[D]` how many each has."""

    rows: np.ndarray
    lengths: np.ndarray


def contexts_of(strengths: Sequence[np.ndarray]) -> list[ContextLists]:
    """The contexts in `STRENGTHS [D]` of each layer."""
    found = []
    for of_layer in strengths:
        contexts = of_layer["contexts"]
        there = contexts["position"] >= 0
        found.append(ContextLists(contexts[there], there.sum(axis=1)))
    return found
