"""compact on a GPU: count, prefix-sum, write.

    dense float32 [T, D] ──count_active──▶ lengths int32 [T] ──cumsum──▶ offsets [T + 1] ──write_active──▶ features, values [nnz]

Two reads of the dense output and one device synchronisation (the length of the result). A program owns one token, so a token's
entries come out in ascending order without sorting, and nothing is shared between programs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.csr import Csr

BLOCK = 1024  # features a program looks at in one step: 8 loads per thread with 4 warps


@triton.jit
def count_active(dense, lengths, width, BLOCK: tl.constexpr):
    """Grid (T,): program t counts the entries of token t that are not <= 0.

    dense float32 [T, width] is read; lengths int32 [T] is written, one element by each program.
    """
    token = tl.program_id(0).to(tl.int64)
    total = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, width, BLOCK):
        feature = start + tl.arange(0, BLOCK)
        # NaN <= 0 is false: compare the other way round and negate, and let lanes beyond the row count as inactive.
        value = tl.load(dense + token * width + feature, mask=feature < width, other=0.0)
        total += tl.where(value <= 0, 0, 1)
    tl.store(lengths + token, tl.sum(total, axis=0))


@triton.jit
def write_active(dense, offsets, features, values, width, BLOCK: tl.constexpr):
    """Grid (T,): program t writes the entries of token t to features, values [offsets[t] : offsets[t + 1]], which it owns.

    dense float32 [T, width] and offsets int32 [T + 1] are read; features int32 [nnz], values float32 [nnz] are written.
    """
    token = tl.program_id(0).to(tl.int64)
    filled = tl.load(offsets + token)
    for start in range(0, width, BLOCK):
        feature = start + tl.arange(0, BLOCK)
        value = tl.load(dense + token * width + feature, mask=feature < width, other=0.0)
        active = tl.where(value <= 0, 0, 1)
        slot = filled + tl.cumsum(active, axis=0) - 1
        tl.store(features + slot, feature, mask=active == 1)
        tl.store(values + slot, value, mask=active == 1)
        filled += tl.sum(active, axis=0)


def compact(dense: Tensor) -> Csr:
    """Every entry of `dense` (float32 [T, D], contiguous, CUDA) that is not <= 0, as a Csr on the same device."""
    tokens, width = dense.shape
    offsets = torch.zeros(tokens + 1, dtype=torch.int32, device=dense.device)
    if tokens == 0 or width == 0:
        return Csr(offsets, offsets.new_empty(0), dense.new_empty(0))
    block = min(BLOCK, triton.next_power_of_2(width))
    lengths = torch.empty(tokens, dtype=torch.int32, device=dense.device)
    count_active[(tokens,)](dense, lengths, width, BLOCK=block)
    ends = lengths.cumsum(dim=0)  # int64
    entries = int(ends[-1])
    if entries > 2**31 - 1:
        raise ValueError(f"dense has {entries} active entries, a Csr holds at most 2147483647: give it in smaller batches")
    offsets[1:] = ends
    features, values = offsets.new_empty(entries), dense.new_empty(entries)
    write_active[(tokens,)](dense, offsets, features, values, width, BLOCK=block)
    return Csr(offsets, features, values)
