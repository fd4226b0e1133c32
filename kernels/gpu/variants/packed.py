"""accumulate token by token with one atomic an update: a JOINT word (`fixed_point`) per cell of the table.

    255 tokens ──add──▶ words int64 [Du, Dd] ──the same updates again: exchange each word for 0──▶ counts, products
    … and the next 255 tokens

A joint word is full after 255 tokens, so a batch of 65,536 is 257 rounds of two launches; nothing overflows, whatever is active.
The whole sum of a cell and round is added at once by whoever exchanges its word, and rounds follow each other: the same batch gives
the same bits, rounded once a round. Costs 8 bytes of memory a cell beside the tables (4.8 GB at 24,576 x 24,576), and an exchange
for every addition; `rows` needs neither.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.csr import Csr
from kernels.gpu.fixed_point import JOINT_KEPT, JOINT_SUM, MOST_JOINT, SCALE, fixed_product, require_tokens, scale

BLOCK_UP, BLOCK_DOWN = 8, 64  # 60 downstream entries fit one tile; 512 pairs are one per thread with 16 warps
WARPS = 16
SHARES = 4  # programs per token: 1,020 a round


@triton.jit(do_not_specialize=["first"])
def add_words(
    first,
    up_offsets,
    up_features,
    up_scaled,
    down_offsets,
    down_features,
    down_scaled,
    halves,
    up_units,
    down_units,
    words,
    counts,
    products,
    width,
    EMPTY: tl.constexpr,
    BLOCK_UP: tl.constexpr,
    BLOCK_DOWN: tl.constexpr,
):
    """Grid (tokens of the round, SHARES): program (t, s) owns the upstream stripes s, s + SHARES, … of token first + t; the words
    and tables are shared by all.

    Adds the updates to the words, or where EMPTY exchanges the words for 0 and adds what they held to the tables. *_offsets int32
    [T + 1]; *_features int32 and *_scaled float32 [nnz]; *_units float64 [Du], [width]; halves uint8 [T]; words int64 [Du, width];
    counts int32 or int64 [Du, width, 2]; products float64 [Du, width].
    """
    token = first + tl.program_id(0)
    up_end = tl.load(up_offsets + token + 1)
    down_end = tl.load(down_offsets + token + 1)
    shift = tl.load(halves + token).to(tl.int64) * 8 + JOINT_SUM
    begin = tl.load(up_offsets + token) + tl.program_id(1) * BLOCK_UP
    for up_start in range(begin, up_end, BLOCK_UP * tl.num_programs(1)):
        up_entry = up_start + tl.arange(0, BLOCK_UP)
        up_there = up_entry < up_end
        i = tl.load(up_features + up_entry, mask=up_there, other=0)
        a = tl.load(up_scaled + up_entry, mask=up_there, other=0.0)
        for start in range(tl.load(down_offsets + token), down_end, BLOCK_DOWN):
            down_entry = start + tl.arange(0, BLOCK_DOWN)
            down_there = down_entry < down_end
            j = tl.load(down_features + down_entry, mask=down_there, other=0)
            cell = i.to(tl.int64)[:, None] * width + j[None, :]
            there = up_there[:, None] & down_there[None, :]
            if EMPTY:
                word = tl.atomic_xchg(words + cell, tl.zeros((BLOCK_UP, BLOCK_DOWN), tl.int64), mask=there, sem="relaxed")
                half_a, half_b, total = word >> JOINT_SUM & 255, word >> JOINT_SUM + 8 & 255, word & JOINT_KEPT
                kind = counts.dtype.element_ty
                tl.atomic_add(counts + 2 * cell, half_a.to(kind), mask=there & (half_a > 0), sem="relaxed")
                tl.atomic_add(counts + 2 * cell + 1, half_b.to(kind), mask=there & (half_b > 0), sem="relaxed")
                unit = tl.load(up_units + i, mask=up_there, other=1.0)[:, None] / SCALE
                unit = unit * tl.load(down_units + j, mask=down_there, other=1.0)[None, :]
                tl.atomic_add(products + cell, total.to(tl.float64) * unit, mask=there & (total > 0), sem="relaxed")
            else:
                b = tl.load(down_scaled + down_entry, mask=down_there, other=0.0)
                active = (a > 0)[:, None] & (b > 0)[None, :]
                word = fixed_product(a[:, None], b[None, :]) + (active.to(tl.int64) << shift)
                tl.atomic_add(words + cell, word, mask=there, sem="relaxed")


def accumulate(
    up: Csr,
    down: Csr,
    halves: Tensor,
    up_thresholds: Tensor | None,
    down_thresholds: Tensor | None,
    counts: Tensor,
    products: Tensor,
) -> None:
    """See `kernels.accumulate`. Features are not checked here (that would synchronise): a Csr from `compact` is always in range."""
    require_tokens(up.tokens)
    if not (len(up.features) and len(down.features)):
        return
    up_scaled, down_scaled = scale(up, products.shape[0], up_thresholds), scale(down, products.shape[1], down_thresholds)
    words = torch.zeros(products.shape, dtype=torch.int64, device=products.device)
    layers = (*up[:2], up_scaled.values, *down[:2], down_scaled.values)
    tables = (up_scaled.units, down_scaled.units, words, counts, products)
    constants: dict[str, Any] = {"BLOCK_UP": BLOCK_UP, "BLOCK_DOWN": BLOCK_DOWN, "num_warps": WARPS}
    for first in range(0, up.tokens, MOST_JOINT):
        grid = (min(MOST_JOINT, up.tokens - first), SHARES)
        for empty in (False, True):
            constants["EMPTY"] = empty
            add_words[grid](first, *layers, halves, *tables, products.shape[1], **constants)
