"""count_gate_cells on a GPU: one bit a token, 32 tokens at a time.

    up, down Csr ──mark──▶ bits int32 [W, D]: bit t of bits[w, f] is token 32 w + t of the chunk, for each of the two layers
    bits, parents ──count_cells──▶ program (children, word): where one slot alone is active, bits counted by slot and added once;
                                   where several are, the index of each token, added one by one

The slots of a child are its parents and last itself. Words lead in `bits`, so that programs that run side by side read one row of
24,576 words, which stays in L2, and the child's own word without gaps. The programs of all words write the same cells, so every
update is atomic; `relaxed`, because nothing is read from the cells while they grow. Counts are integers and come out the same
whatever the order.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.csr import Csr

CHUNK_WORDS = 256  # 8,192 tokens: 25 MB of bits per layer of 24,576 features, which L2 holds in part
BLOCK_ENTRIES = 64  # about 60 are active
BLOCK_CHILDREN = 16  # x 32 tokens: 4 indices per thread with 4 warps


@triton.jit
def mark(offsets, features, values, thresholds, bits, first, width, THRESHOLDED: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (tokens of the chunk,): program t sets bit t % 32 of row t // 32 for the active features of token first + t.

    offsets int32 [T + 1], features int32 [nnz], values float32 [nnz], thresholds float [width], read only where THRESHOLDED; bits
    int32 [W, width], zero before, each word shared by 32 programs.
    """
    at = tl.program_id(0)
    row = bits + (at // 32).to(tl.int64) * width
    bit = tl.full((BLOCK,), 1, tl.int32) << (at % 32)
    end = tl.load(offsets + first + at + 1)
    for start in range(tl.load(offsets + first + at), end, BLOCK):
        entry = start + tl.arange(0, BLOCK)
        active = entry < end
        feature = tl.load(features + entry, mask=active, other=0)
        if THRESHOLDED:
            value = tl.load(values + entry, mask=active, other=0.0)
            active = active & (value > tl.load(thresholds + feature, mask=active, other=0.0))
        tl.atomic_or(row + feature, bit, mask=active, sem="relaxed")


@triton.jit
def ones(word):
    """How many bits of each int32 are set: by pairs, fours, eights, and all bytes added up in the highest one."""
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    return (word * 0x01010101) >> 24


@triton.jit
def count_cells(up_bits, down_bits, parents, cells, up_width, children, M: tl.constexpr, CELLS: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (blocks of children, W): program (c, w) adds the 32 tokens of word w to the cells of its children, shared with all w.

    up_bits int32 [W, up_width], down_bits int32 [W, children], parents int32 [children, M], cells int32 or int64 [children,
    CELLS], CELLS = 2^(M + 1).
    """
    child = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = child < children
    word = tl.program_id(1).to(tl.int64)
    up_row = up_bits + word * up_width
    own = tl.load(down_bits + word * children + child, mask=there, other=0)
    table = cells + child.to(tl.int64) * CELLS
    once, several = own, own & 0
    for slot in tl.static_range(M):  # type: ignore  # unrolled, so that all loads are under way together; typed as no iterator
        parent = tl.load(parents + child * M + slot, mask=there, other=-1)
        active = tl.load(up_row + parent, mask=parent >= 0, other=0)
        several = several | (once & active)
        once = once | active
    alone = ones(own & ~several)
    tl.atomic_add(table + (1 << M), alone.to(cells.dtype.element_ty), mask=alone > 0, sem="relaxed")
    token = tl.arange(0, 32)
    index = ((own[:, None] >> token[None, :]) & 1) << M
    for slot in tl.static_range(M):  # type: ignore  # unrolled, so that all loads are under way together; typed as no iterator
        parent = tl.load(parents + child * M + slot, mask=there, other=-1)
        active = tl.load(up_row + parent, mask=parent >= 0, other=0)
        alone = ones(active & ~several)
        tl.atomic_add(table + (1 << slot), alone.to(cells.dtype.element_ty), mask=alone > 0, sem="relaxed")
        index = index | (((active[:, None] >> token[None, :]) & 1) << slot)
    counted = ((several[:, None] >> token[None, :]) & 1) == 1
    one = tl.full((BLOCK, 32), 1, cells.dtype.element_ty)
    tl.atomic_add(table[:, None] + index, one, mask=counted, sem="relaxed")


def count_gate_cells(
    up: Csr,
    down: Csr,
    up_thresholds: Tensor | None,
    down_thresholds: Tensor | None,
    up_width: int,
    parents: Tensor,
    cells: Tensor,
) -> None:
    """See `kernels.count_gate_cells`. Features and parents are not checked here (that would synchronise)."""
    children = cells.shape[0]
    if up.tokens == 0 or children == 0:
        return
    words = min(CHUNK_WORDS, -(-up.tokens // 32))
    up_bits = torch.empty(words, up_width, dtype=torch.int32, device=cells.device)
    down_bits = torch.empty(words, children, dtype=torch.int32, device=cells.device)
    constants: dict[str, Any] = {"M": parents.shape[1], "CELLS": cells.shape[1], "BLOCK": BLOCK_CHILDREN}
    for first in range(0, up.tokens, 32 * words):
        tokens = min(32 * words, up.tokens - first)
        for sparse, limits, bits in ((up, up_thresholds, up_bits), (down, down_thresholds, down_bits)):
            bits.zero_()
            chosen: dict[str, Any] = {"THRESHOLDED": limits is not None, "BLOCK": BLOCK_ENTRIES}
            mark[(tokens,)](*sparse, sparse.values if limits is None else limits, bits, first, bits.shape[1], **chosen)
        grid = (triton.cdiv(children, BLOCK_CHILDREN), words)
        count_cells[grid](up_bits, down_bits, parents, cells, up_width, children, **constants)
