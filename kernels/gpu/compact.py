"""compact on a GPU: one pass over the dense output.

    dense float32 [T, D] ──fill_slots──▶ slots [T, PLACES] and how much is active of each token, lengths int32 [T]
    lengths ──cumsum──▶ offsets [T + 1];  slots ──pack──▶ features, values [nnz]

A program owns one token, so a token's entries come out in ascending order without sorting, and nothing is shared between programs.
The dense output is read once: what is active goes to a row of PLACES slots, for how much of it there is before a token is not known
yet, and from there to its place: 1 kB a token written and read again, where a second pass reads 98 kB. A token with more than
PLACES active features has only the first ones in its slots; then the dense output is read again (`write_active`), which any result
could be got by. One device synchronisation, for the length of the result and the longest token.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.csr import Csr

BLOCK = 1024  # features a program looks at in one step: 8 loads per thread with 4 warps
PLACES = 256  # four times L0 = 60; the densest tokens of GPT-2's SAEs have about 200


@triton.jit
def fill_slots(dense, lengths, slot_features, slot_values, width, PLACES: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (T,): program t finds the entries of token t that are not <= 0, and puts the first PLACES into its row of the slots.

    dense float32 [T, width] is read; lengths int32 [T], slot_features int32 and slot_values float32 [T, PLACES] are written, by
    each program its row: as much of it as there is.
    """
    token = tl.program_id(0).to(tl.int64)
    filled = 0
    for start in range(0, width, BLOCK):
        feature = start + tl.arange(0, BLOCK)
        # NaN <= 0 is false: compare the other way round and negate, and let lanes beyond the row count as inactive.
        value = tl.load(dense + token * width + feature, mask=feature < width, other=0.0)
        active = tl.where(value <= 0, 0, 1)
        place = filled + tl.cumsum(active, axis=0) - 1
        kept = (active == 1) & (place < PLACES)
        tl.store(slot_features + token * PLACES + place, feature, mask=kept)
        tl.store(slot_values + token * PLACES + place, value, mask=kept)
        filled += tl.sum(active, axis=0)
    tl.store(lengths + token, filled)


@triton.jit
def pack(offsets, slot_features, slot_values, features, values, PLACES: tl.constexpr):
    """Grid (T,): program t moves its row of the slots to features, values [offsets[t] : offsets[t + 1]], which it owns."""
    token = tl.program_id(0).to(tl.int64)
    start = tl.load(offsets + token)
    place = tl.arange(0, PLACES)
    there = place < tl.load(offsets + token + 1) - start
    tl.store(features + start + place, tl.load(slot_features + token * PLACES + place, mask=there, other=0), mask=there)
    tl.store(values + start + place, tl.load(slot_values + token * PLACES + place, mask=there, other=0.0), mask=there)


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
        place = filled + tl.cumsum(active, axis=0) - 1
        tl.store(features + place, feature, mask=active == 1)
        tl.store(values + place, value, mask=active == 1)
        filled += tl.sum(active, axis=0)


def compact(dense: Tensor, places: int = PLACES) -> Csr:
    """Every entry of `dense` (float32 [T, D], contiguous, CUDA) that is not <= 0, as a Csr on the same device.

    places, a power of two, is how many of a token are found with one pass; 0 takes two passes.
    """
    tokens, width = dense.shape
    if tokens == 0 or width == 0:
        offsets = torch.zeros(tokens + 1, dtype=torch.int32, device=dense.device)
        return Csr(offsets, offsets.new_empty(0), dense.new_empty(0))
    block = min(BLOCK, triton.next_power_of_2(width))
    lengths = torch.empty(tokens, dtype=torch.int32, device=dense.device)
    slots = lengths.new_empty(tokens, places), dense.new_empty(tokens, places)
    constants: dict[str, Any] = {"PLACES": places}
    fill_slots[(tokens,)](dense, lengths, *slots, width, BLOCK=block, **constants)
    offsets, entries, longest = offsets_of(lengths)
    found = Csr(offsets, offsets.new_empty(entries), dense.new_empty(entries))
    if longest > places:
        write_active[(tokens,)](dense, *found, width, BLOCK=block)
    else:
        pack[(tokens,)](offsets, *slots, *found[1:], **constants)
    return found


def offsets_of(lengths: Tensor) -> tuple[Tensor, int, int]:
    """Offsets int32 [T + 1] of tokens with so many entries (int32 [T], T > 0), their number, and the most of one token.

    Synchronises. ValueError where there are more than a Csr holds.
    """
    ends = lengths.cumsum(dim=0)  # int64
    entries, longest = torch.stack([ends[-1], lengths.max()]).tolist()
    if entries > 2**31 - 1:
        raise ValueError(f"dense has {entries} active entries, a Csr holds at most 2147483647: give it in smaller batches")
    return torch.nn.functional.pad(ends, (1, 0)).to(torch.int32), entries, longest
