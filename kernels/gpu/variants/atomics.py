"""accumulate on a GPU: the outer product of every token's two lists, added to the tables by atomics.

    up Csr, down Csr ──▶ program (token t, share s): tiles of [BLOCK_UP, BLOCK_DOWN] entry pairs ──▶ counts, products

About 60 x 60 pairs per token: one program takes every SHARES-th stripe of upstream entries and walks all downstream entries. All
programs write the same tables, so every update is atomic; `relaxed`, because nothing is read from the tables while they grow and
acquire-release order would flush for nothing. Counts are integers and come out the same whatever the order; float64 products
differ in the last bits from run to run.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kernels.csr import Csr

BLOCK_UP, BLOCK_DOWN = 8, 64  # 60 downstream entries fit one tile
WARPS = 16  # 512 pairs are one per thread: with several, Triton 3.6 and 3.7 lay them out for wider stores than an atomic is
SHARES = 4  # programs per token: 262,144 for a segment, and a token with several hundred features is not one program's burden


@triton.jit
def add_pairs(
    up_offsets,
    up_features,
    up_values,
    down_offsets,
    down_features,
    down_values,
    halves,
    up_thresholds,
    down_thresholds,
    counts,
    products,
    width,
    THRESHOLDED_UP: tl.constexpr,
    THRESHOLDED_DOWN: tl.constexpr,
    BLOCK_UP: tl.constexpr,
    BLOCK_DOWN: tl.constexpr,
):
    """Grid (T, SHARES): program (t, s) owns the upstream stripes s, s + SHARES, … of token t; the tables are shared by all.

    up_offsets, down_offsets int32 [T + 1]; *_features int32 [nnz], *_values float32 [nnz]; *_thresholds float [Du], [width], read
    only where THRESHOLDED_*; halves uint8 [T]; counts int32 or int64 [Du, width, 2], products float64 [Du, width].
    """
    token = tl.program_id(0)
    up_end = tl.load(up_offsets + token + 1)
    down_start = tl.load(down_offsets + token)
    down_end = tl.load(down_offsets + token + 1)
    half = tl.load(halves + token)
    one = tl.full((BLOCK_UP, BLOCK_DOWN), 1, counts.dtype.element_ty)
    first = tl.load(up_offsets + token) + tl.program_id(1) * BLOCK_UP
    for up_start in range(first, up_end, BLOCK_UP * tl.num_programs(1)):
        up_entry = up_start + tl.arange(0, BLOCK_UP)
        up_there = up_entry < up_end
        i = tl.load(up_features + up_entry, mask=up_there, other=0)
        a = tl.load(up_values + up_entry, mask=up_there, other=0.0)
        up_active = up_there
        if THRESHOLDED_UP:
            up_active = up_there & (a > tl.load(up_thresholds + i, mask=up_there, other=0.0))
        for start in range(down_start, down_end, BLOCK_DOWN):
            down_entry = start + tl.arange(0, BLOCK_DOWN)
            down_there = down_entry < down_end
            j = tl.load(down_features + down_entry, mask=down_there, other=0)
            b = tl.load(down_values + down_entry, mask=down_there, other=0.0)
            down_active = down_there
            if THRESHOLDED_DOWN:
                down_active = down_there & (b > tl.load(down_thresholds + j, mask=down_there, other=0.0))
            cell = (
                i.to(tl.int64)[:, None] * width + j[None, :]
            )  # int64: 24,576 x 24,576 cells are still below 2^31, a wider table is not
            product = a.to(tl.float64)[:, None] * b.to(tl.float64)[None, :]
            tl.atomic_add(counts + 2 * cell + half, one, mask=up_active[:, None] & down_active[None, :], sem="relaxed")
            tl.atomic_add(products + cell, product, mask=up_there[:, None] & down_there[None, :], sem="relaxed")


def accumulate(
    up: Csr,
    down: Csr,
    halves: Tensor,
    up_thresholds: Tensor | None,
    down_thresholds: Tensor | None,
    counts: Tensor,
    products: Tensor,
    warps: int = WARPS,
) -> None:
    """See `kernels.accumulate`. Features are not checked here (that would synchronise): a Csr from `compact` is always in range."""
    if up.tokens == 0 or up.features.shape[0] == 0 or down.features.shape[0] == 0:
        return
    constants: dict[str, Any] = {
        "THRESHOLDED_UP": up_thresholds is not None,
        "THRESHOLDED_DOWN": down_thresholds is not None,
        "BLOCK_UP": BLOCK_UP,
        "BLOCK_DOWN": BLOCK_DOWN,
        "num_warps": warps,
    }
    add_pairs[(up.tokens, SHARES)](
        *up,
        *down,
        halves,
        up.values if up_thresholds is None else up_thresholds,
        down.values if down_thresholds is None else down_thresholds,
        counts,
        products,
        counts.shape[1],
        **constants,
    )
