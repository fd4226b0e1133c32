"""accumulate with counts from histograms: `tl.histogram` adds in shared memory, the only atomics there that Triton has.

    columns of the batch (as in `rows`) ──program (row, tile of columns): one histogram a step, added up in registers──▶ counts
    the same batch ──rows, without counts──▶ products

A histogram has no weights, so the products go the way that they go in `rows`; the counts cost their atomics in shared memory, but
every tile looks at all entries of the row.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kernels.csr import Csr
from kernels.gpu.variants.rows import PLAN, Prepared, add, prepare

TILE = 2048  # columns: 4,096 bins are 16 KB
TOKENS, ENTRIES = 64, 64  # 4,096 updates in one step: as many as there are bins to clear and to read
SPLIT = 4096  # tokens of a row that one program counts


@triton.jit(do_not_specialize=["hot_rows", "parts"])
def count_tiles(
    order,
    starts,
    tokens,
    values,
    halves,
    offsets,
    features,
    scaled,
    counts,
    width,
    hot_rows,
    parts,
    SPLIT: tl.constexpr,
    TILE: tl.constexpr,
    TOKENS: tl.constexpr,
    ENTRIES: tl.constexpr,
):
    """Grid (hot_rows * parts + Du, width / TILE): program (job, c) adds the tokens of a row, or of SPLIT tokens of a hot one, to
    counts[row, c TILE : (c + 1) TILE]; of a hot row those are shared by its jobs. Jobs and arguments as in `rows.add_rows`."""
    job = tl.program_id(0)
    hot = job < hot_rows * parts
    row = tl.load(order + tl.where(hot, job // parts, job - hot_rows * parts))
    first = tl.load(starts + row)
    last = tl.load(starts + row + 1)
    mine = hot == (last - first > SPLIT)
    if hot:
        first += job % parts * SPLIT
        last = tl.minimum(last, first + SPLIT)
    if mine & (first < last):
        left = tl.program_id(1) * TILE
        found = tl.zeros((2 * TILE,), tl.int32)
        for start in range(first, last, TOKENS):
            at = start + tl.arange(0, TOKENS)
            here = at < last
            token = tl.load(tokens + at, mask=here, other=0)
            a = tl.load(values + at, mask=here, other=0.0)
            half = tl.load(halves + token, mask=here, other=0).to(tl.int32)
            begin = tl.load(offsets + token, mask=here, other=0)
            end = tl.load(offsets + token + 1, mask=here, other=0)
            for step in range(0, tl.max(end - begin, axis=0), ENTRIES):
                entry = begin[:, None] + step + tl.arange(0, ENTRIES)[None, :]
                there = entry < end[:, None]
                column = tl.load(features + entry, mask=there, other=0) - left
                b = tl.load(scaled + entry, mask=there, other=0.0)
                counted = (a[:, None] > 0) & (b > 0) & (column >= 0) & (column < TILE)
                place = tl.reshape(2 * column + half[:, None], (TOKENS * ENTRIES,))
                found += tl.histogram(place, 2 * TILE, mask=tl.reshape(counted, (TOKENS * ENTRIES,)))
        place = 2 * left + tl.arange(0, 2 * TILE)
        target = counts + 2 * row * width + place
        tl.atomic_add(target, found.to(counts.dtype.element_ty), mask=(place < 2 * width) & (found > 0), sem="relaxed")


def add_counts(batch: Prepared, counts: Tensor, tile: int = TILE, split: int = SPLIT) -> None:
    """The counts of a prepared batch alone."""
    height, width, _ = counts.shape
    hot_rows, parts = min(height, len(batch.columns.tokens) // (split + 1)), -(-batch.down.tokens // split)
    constants: dict[str, Any] = {"SPLIT": split, "TILE": tile, "TOKENS": TOKENS, "ENTRIES": ENTRIES, "num_warps": 8}
    grid = (hot_rows * parts + height, triton.cdiv(width, tile))
    count_tiles[grid](batch.order, *batch.columns, batch.halves, *batch.down, counts, width, hot_rows, parts, **constants)


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
    if len(up.features) and len(down.features):
        batch = prepare(up, down, halves, up_thresholds, down_thresholds, products.shape)
        add_counts(batch, counts)
        add(batch, counts, products, PLAN, counted=False)
