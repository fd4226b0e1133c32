"""The batch by feature: a counting sort of the entries of a Csr on the device.

    sizes int32 [D] ──cumsum──▶ starts int32 [D + 1] ──fill: a place for each entry by a counter per feature──▶ tokens, values

Counters are taken in no order, and so the entries of a feature lie in none: it may only be used for what has no order, as exact
sums have. That saves the second sort key.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.csr import Csr
from kernels.gpu.fixed_point import Scaled

ENTRIES = 64  # about 60 features are active in a token


class Columns(NamedTuple):
    """Active tokens of every feature; those of feature i are the entries `starts[i] : starts[i + 1]`."""

    starts: Tensor
    """int32 [D + 1]"""
    tokens: Tensor
    """int32 [nnz], each token of a feature once, in no order"""
    values: Tensor
    """float32 [nnz], as in `Scaled`"""


@triton.jit
def fill(offsets, features, scaled, free, tokens, values, ENTRIES: tl.constexpr):
    """Grid (T,): program t gives each entry of token t the next free place of its feature.

    offsets int32 [T + 1], features int32 [nnz], scaled float32 [nnz] are read; free int32 [D], the first free place of every
    feature, is shared by all programs; tokens int32 [nnz] and values float32 [nnz] are written, each element once.
    """
    token = tl.program_id(0)
    end = tl.load(offsets + token + 1)
    for start in range(tl.load(offsets + token), end, ENTRIES):
        entry = start + tl.arange(0, ENTRIES)
        there = entry < end
        feature = tl.load(features + entry, mask=there, other=0)
        value = tl.load(scaled + entry, mask=there, other=0.0)
        place = tl.atomic_add(free + feature, tl.full((ENTRIES,), 1, tl.int32), mask=there, sem="relaxed")
        tl.store(tokens + place, tl.zeros((ENTRIES,), tl.int32) + token, mask=there)
        tl.store(values + place, value, mask=there)


def turn(layer: Csr, scaled: Scaled) -> Columns:
    """The entries of a layer by feature."""
    starts = torch.nn.functional.pad(scaled.sizes.cumsum(dim=0, dtype=torch.int32), (1, 0))
    columns = Columns(starts, torch.empty_like(layer.features), torch.empty_like(layer.values))
    free = starts[:-1].clone()
    constants: dict[str, Any] = {"ENTRIES": ENTRIES, "num_warps": 2}
    fill[(layer.tokens,)](layer.offsets, layer.features, scaled.values, free, columns.tokens, columns.values, **constants)
    return columns
