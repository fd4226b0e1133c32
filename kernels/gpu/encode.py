"""encode and compact in one kernel: the dense output of an SAE is never written.

    residuals [T, d_in], weights [d_in, D] ──encode_slots: a tile [64 tokens, 128 features] of the product, plus bias, where it is
    above its threshold──▶ slots [T, PLACES], in the order in which tiles end, and lengths int32 [T]
    lengths ──cumsum──▶ offsets [T + 1];  slots ──order_slots: by feature──▶ features, values [nnz]

For SAEs whose activation is relu(x·W + b) (ReLU) or that where it is above a threshold and else 0 (JumpReLU). Tiles of one
token run in any order and take places by a counter; after the ordering nothing of that is left.

A GEMM of Triton adds in another order than cuBLAS: activations differ from `torch.mm` in the last bits, and with them, rarely, what
is active. That is why it is a choice (and part of the fingerprint of a run), even in float32.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.csr import Csr
from kernels.gpu.compact import PLACES, offsets_of

BLOCK_T, BLOCK_D, BLOCK_K = 64, 128, 32
GROUP = 8  # tiles of tokens that go through the weights together, so that both operands come from L2


@triton.jit
def encode_slots(
    residuals,
    weights,
    bias,
    thresholds,
    lengths,
    slot_features,
    slot_values,
    tokens,
    inner,
    width,
    JUMP: tl.constexpr,
    PRECISION: tl.constexpr,
    PLACES: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Grid (tiles of tokens x tiles of features,): program p computes one tile and appends what is active in it to the slots of its
    tokens, shared with the other tiles of them.

    residuals [tokens, inner], weights [inner, width], both float32 or bfloat16; bias float32 [width]; thresholds float32 [width],
    read only where JUMP; lengths int32 [tokens], 0 before; slot_features int32, slot_values float32 [tokens, PLACES]. PRECISION:
    how float32 is multiplied.
    """
    across = tl.cdiv(width, BLOCK_D)
    down = tl.cdiv(tokens, BLOCK_T)
    group = tl.program_id(0) // (GROUP * across)
    rows = tl.minimum(down - group * GROUP, GROUP)
    inside = tl.program_id(0) % (GROUP * across)
    token = (group * GROUP + inside % rows) * BLOCK_T + tl.arange(0, BLOCK_T)
    feature = inside // rows * BLOCK_D + tl.arange(0, BLOCK_D)
    here, there = token < tokens, feature < width
    row = token.to(tl.int64)
    hidden = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
    for start in range(0, inner, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        x = tl.load(residuals + row[:, None] * inner + k[None, :], mask=here[:, None] & (k < inner)[None, :], other=0.0)
        w = tl.load(
            weights + k.to(tl.int64)[:, None] * width + feature[None, :], mask=(k < inner)[:, None] & there[None, :], other=0.0
        )
        hidden = tl.dot(x, w, hidden, input_precision=PRECISION)
    hidden += tl.load(bias + feature, mask=there, other=0.0)[None, :]
    # NaN is not <= anything: it comes through, to be found.
    dropped = hidden <= 0
    if JUMP:
        dropped = dropped | (hidden <= tl.load(thresholds + feature, mask=there, other=0.0)[None, :])
    active = tl.where(dropped | ~here[:, None] | ~there[None, :], 0, 1)
    found = tl.sum(active, axis=1)
    before = tl.atomic_add(lengths + token, found, mask=found > 0, sem="relaxed")
    place = before[:, None] + tl.cumsum(active, axis=1) - 1
    slot = row[:, None] * PLACES + place
    kept = (active == 1) & (place < PLACES)
    tl.store(slot_features + slot, (token * 0)[:, None] + feature[None, :], mask=kept)
    tl.store(slot_values + slot, hidden, mask=kept)


@triton.jit
def order_slots(offsets, slot_features, slot_values, features, values, PLACES: tl.constexpr, STEP: tl.constexpr):
    """Grid (T,): program t moves its row of the slots to features, values [offsets[t] : offsets[t + 1]], which it owns, each entry
    to the place that is the number of smaller features in the row."""
    token = tl.program_id(0).to(tl.int64)
    start = tl.load(offsets + token)
    length = tl.load(offsets + token + 1) - start
    place = tl.arange(0, PLACES)
    there = place < length
    feature = tl.load(slot_features + token * PLACES + place, mask=there, other=0)
    value = tl.load(slot_values + token * PLACES + place, mask=there, other=0.0)
    smaller = tl.zeros((PLACES,), tl.int32)
    for first in range(0, length, STEP):
        other = first + tl.arange(0, STEP)
        theirs = tl.load(slot_features + token * PLACES + other, mask=other < length, other=0x7FFFFFFF)
        smaller += tl.sum((theirs[None, :] < feature[:, None]).to(tl.int32), axis=1)
    tl.store(features + start + smaller, feature, mask=there)
    tl.store(values + start + smaller, value, mask=there)


def encode(
    residuals: Tensor, weights: Tensor, bias: Tensor, thresholds: Tensor | None, precision: str = "ieee", places: int = PLACES
) -> Csr:
    """Active features of some tokens, straight from the residuals.

    residuals [T, d_in], T > 0, weights [d_in, D], contiguous, both float32 or both bfloat16; bias, thresholds float32 [D], None for
    a ReLU; precision says how float32 is multiplied: "ieee" or "tf32". Returns a Csr of T tokens with every relu(x·W + b) that is
    not <= 0 (and not <= its threshold), NaN included. places, a power of two, is how many of a token there may be at first: where
    there are more the batch is encoded again with room for them.
    """
    tokens, width, inner = residuals.shape[0], weights.shape[1], weights.shape[0]
    tile: dict[str, Any] = {"BLOCK_T": BLOCK_T, "BLOCK_D": BLOCK_D, "BLOCK_K": BLOCK_K, "GROUP": GROUP, "num_warps": 8}
    tile |= {"JUMP": thresholds is not None, "PRECISION": precision}
    grid = (triton.cdiv(tokens, BLOCK_T) * triton.cdiv(width, BLOCK_D),)
    limits = bias if thresholds is None else thresholds
    while True:
        lengths = torch.zeros(tokens, dtype=torch.int32, device=residuals.device)
        slots = lengths.new_empty(tokens, places), bias.new_empty(tokens, places)
        room: dict[str, Any] = {"PLACES": places}
        encode_slots[grid](residuals, weights, bias, limits, lengths, *slots, tokens, inner, width, **tile, **room)
        offsets, entries, longest = offsets_of(lengths)
        if longest <= places:
            break
        places = 1 << (longest - 1).bit_length()
    found = Csr(offsets, offsets.new_empty(entries), bias.new_empty(entries))
    room["STEP"] = min(32, places)
    order_slots[(tokens,)](offsets, *slots, found.features, found.values, **room)
    return found
