"""accumulate row by row: the words of one upstream row are all that a program adds to, and they stay in L2.

    up Csr ──scale──▶ shares a' ──columns.turn──▶ the tokens of every feature
    down Csr ──scale──▶ shares b'
    program: takes the next row ──▶ for its tokens, adds words to its own slot ──▶ empties the slot into counts and products

An upstream feature fires on some tokens, and each of those has about 60 downstream entries: that many atomics, of one word that
holds a count and a fixed-point product (`fixed_point`). A slot of 24,576 words is 0.2 MB: those of all running programs stay in L2,
where the tables (9.7 GB a layer pair) do not. Whoever empties a slot has the whole sum of a cell, so the tables get one addition
per touched cell and batch, and the same bits whatever the order.

- Thin rows (at most 255 tokens) have JOINT words, thick ones HALF words, two a cell.
- A row with few updates for its width is emptied by walking its entries once more and exchanging each word for 0; any other by a
  sweep over the slot, which costs the same whatever there is in it.
- Hot rows, with more than 4,095 tokens, are split over several programs; their counts go straight to the table, their products
  to int64 sums that `add_sums` adds to the table at the end.
- Rows are handed out largest first, so that no long one begins when the others end.

Between adding to a slot and emptying it is a barrier of the program; loads bypass L1 (`.cg`), which atomics don't update.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.csr import Csr
from kernels.gpu.columns import Columns, turn
from kernels.gpu.fixed_point import (
    HALF_KEPT,
    HALF_SUM,
    JOINT_KEPT,
    JOINT_SUM,
    MOST_HALF,
    MOST_JOINT,
    SCALE,
    Scaled,
    fixed_product,
    require_tokens,
    scale,
)

SWEPT = 1024  # words of a slot that a program looks at in one step: two loads per thread under way at once
BLOCK = 1024


class Plan(NamedTuple):
    """How the work is cut; any of them gives the same bits."""

    thin: int = MOST_JOINT  # tokens up to which a row has joint words
    hot: int = MOST_HALF  # tokens from which on a row is split over programs
    swept: float = 0.5  # updates per cell of a row from which on its slot is swept
    tokens: int = 8  # tokens that a program looks at in one step …
    entries: int = 64  # … and downstream entries of each: 512 updates
    warps: int = 16  # one update per thread
    programs: int = 2  # programs per multiprocessor


PLAN = Plan()


class Prepared(NamedTuple):
    """A batch of one layer pair, ready to be added row by row."""

    up: Scaled
    columns: Columns
    order: Tensor
    """int64 [Du], upstream features by size, largest first"""
    down: Csr
    """with the values of `Scaled`"""
    down_units: Tensor
    """float64 [Dd]"""
    halves: Tensor


@triton.jit
def walk(
    first,
    last,
    tokens,
    values,
    halves,
    offsets,
    features,
    scaled,
    slot,
    joint,
    down_units,
    row_unit,
    row_counts,
    row_products,
    COUNTED: tl.constexpr,
    EMPTY: tl.constexpr,
    TOKENS: tl.constexpr,
    ENTRIES: tl.constexpr,
):
    """Goes through the updates of entries [first, last) of the columns: adds them to the words of the slot, or where EMPTY (only of
    joint words) exchanges the words for 0, so that of all updates of a cell the first one puts it."""
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
            feature = tl.load(features + entry, mask=there, other=0)
            if EMPTY:
                word = tl.atomic_xchg(slot + feature, tl.zeros((TOKENS, ENTRIES), tl.int64), mask=there, sem="relaxed")
                there = there & (word != 0)
                unit = row_unit * tl.load(down_units + feature, mask=there, other=1.0)
                put(row_counts, row_products, feature, word, word & 0, joint, unit, there, COUNTED)
            else:
                b = tl.load(scaled + entry, mask=there, other=0.0)
                word = fixed_product(a[:, None], b)
                if COUNTED:
                    shift = tl.where(joint, half * 8 + JOINT_SUM, half * 0 + HALF_SUM).to(tl.int64)
                    active = (a[:, None] > 0) & (b > 0)
                    word += active.to(tl.int64) << shift[:, None]
                place = tl.where(joint, feature, 2 * feature + half[:, None])
                tl.atomic_add(slot + place, word, mask=there, sem="relaxed")


@triton.jit
def sweep(slot, joint, width, down_units, row_unit, row_counts, row_products, COUNTED: tl.constexpr, SWEPT: tl.constexpr):
    """Empties a slot word by word."""
    words = tl.where(joint, 1, 2)
    for start in range(0, width, SWEPT):
        feature = start + tl.arange(0, SWEPT)
        place = slot + words * feature
        word = tl.load(place, mask=feature < width, other=0, cache_modifier=".cg")
        other = tl.load(place + 1, mask=(feature < width) & (words == 2), other=0, cache_modifier=".cg")
        tl.store(place, word & 0, mask=word != 0)
        tl.store(place + 1, word & 0, mask=other != 0)
        there = (word | other) != 0
        unit = row_unit * tl.load(down_units + feature, mask=there, other=1.0)
        put(row_counts, row_products, feature, word, other, joint, unit, there, COUNTED)


@triton.jit
def put(row_counts, row_products, feature, word, other, joint, unit, there, COUNTED: tl.constexpr):
    """Adds what the words of some cells hold to their row of the tables: of counts, and of products (float64) or sums (int64)."""
    if COUNTED:
        kind = row_counts.dtype.element_ty
        half_a = tl.where(joint, word >> JOINT_SUM & 255, word >> HALF_SUM & 4095)
        half_b = tl.where(joint, word >> JOINT_SUM + 8 & 255, other >> HALF_SUM & 4095)
        tl.atomic_add(row_counts + 2 * feature, half_a.to(kind), mask=there & (half_a > 0), sem="relaxed")
        tl.atomic_add(row_counts + 2 * feature + 1, half_b.to(kind), mask=there & (half_b > 0), sem="relaxed")
    kept = tl.where(joint, JOINT_KEPT, HALF_KEPT).to(tl.int64)
    total = (word & kept) + (other & kept)
    if row_products.dtype.element_ty == tl.float64:
        tl.atomic_add(row_products + feature, total.to(tl.float64) * unit, mask=there & (total > 0), sem="relaxed")
    else:
        tl.atomic_add(row_products + feature, total, mask=there & (total > 0), sem="relaxed")


@triton.jit(do_not_specialize=["jobs", "thin", "swept", "hot_rows", "parts"])
def add_rows(
    queue,
    jobs,
    order,
    starts,
    tokens,
    values,
    up_units,
    halves,
    offsets,
    features,
    scaled,
    down_units,
    slots,
    sums,
    counts,
    products,
    width,
    thin,
    swept,
    hot_rows,
    parts,
    HOT: tl.constexpr,
    COUNTED: tl.constexpr,
    TOKENS: tl.constexpr,
    ENTRIES: tl.constexpr,
    SWEPT: tl.constexpr,
):
    """Grid (programs,): program p takes jobs until there are none and owns slot p; a row of the tables belongs to its job, or if it
    is hot is shared by its jobs.

    Jobs are `parts` for each of the hot_rows largest rows, then one for each row; those that have nothing to do are passed over.
    queue int32 [1], the next job; order int64 [Du], rows by size, largest first; starts, tokens, values: `Columns`; up_units
    float64 [Du], down_units float64 [width]; halves uint8 [T]; offsets int32 [T + 1], features int32 and scaled float32 [nnz]:
    downstream; slots int64 [programs, 2 width], 0 before and after; sums int64 [hot_rows, width], 0 before; counts int32 or int64
    [Du, width, 2] (not touched unless COUNTED), products float64 [Du, width]. thin, swept: tokens up to which a row has joint
    words, from which on its slot is swept; HOT: tokens from which on a row is split.
    """
    slot = slots + tl.program_id(0).to(tl.int64) * 2 * width
    job = tl.atomic_add(queue, 1, sem="relaxed")
    while job < jobs:
        hot = job < hot_rows * parts
        rank = tl.where(hot, job // parts, job - hot_rows * parts)
        row = tl.load(order + rank)
        first = tl.load(starts + row)
        last = tl.load(starts + row + 1)
        size = last - first
        if hot:
            first += job % parts * HOT
            last = tl.minimum(last, first + HOT)
        if (hot == (size > HOT)) & (first < last):
            joint = size <= thin
            row_unit = tl.load(up_units + row) / SCALE
            row_counts = counts + 2 * row * width
            row_products = products + row * width
            walk(
                first,
                last,
                tokens,
                values,
                halves,
                offsets,
                features,
                scaled,
                slot,
                joint,
                down_units,
                row_unit,
                row_counts,
                row_products,
                COUNTED,
                False,
                TOKENS,
                ENTRIES,
            )
            tl.debug_barrier()
            if hot:
                row_sums = sums + rank.to(tl.int64) * width
                sweep(slot, joint, width, down_units, row_unit, row_counts, row_sums, COUNTED, SWEPT)
            elif joint & (size < swept):
                walk(
                    first,
                    last,
                    tokens,
                    values,
                    halves,
                    offsets,
                    features,
                    scaled,
                    slot,
                    joint,
                    down_units,
                    row_unit,
                    row_counts,
                    row_products,
                    COUNTED,
                    True,
                    TOKENS,
                    ENTRIES,
                )
            else:
                sweep(slot, joint, width, down_units, row_unit, row_counts, row_products, COUNTED, SWEPT)
            tl.debug_barrier()
        job = tl.atomic_add(queue, 1, sem="relaxed")


@triton.jit
def add_sums(order, starts, up_units, down_units, sums, products, width, HOT: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (hot rows, width / BLOCK): adds Σ q of a hot row to its products, each program its own cells; arguments as
    `add_rows`."""
    rank = tl.program_id(0).to(tl.int64)
    row = tl.load(order + rank)
    if tl.load(starts + row + 1) - tl.load(starts + row) > HOT:
        feature = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        there = feature < width
        total = tl.load(sums + rank * width + feature, mask=there, other=0)
        unit = tl.load(up_units + row) / SCALE * tl.load(down_units + feature, mask=there, other=1.0)
        cell = products + row * width + feature
        tl.store(cell, tl.load(cell, mask=there, other=0.0) + total.to(tl.float64) * unit, mask=there)


def prepare(
    up: Csr, down: Csr, halves: Tensor, up_thresholds: Tensor | None, down_thresholds: Tensor | None, shape: torch.Size
) -> Prepared:
    """A batch with at least one entry in either layer; shape is that of the products."""
    require_tokens(up.tokens)
    up_scaled, down_scaled = scale(up, shape[0], up_thresholds), scale(down, shape[1], down_thresholds)
    order = up_scaled.sizes.argsort(descending=True)
    down = down._replace(values=down_scaled.values)
    return Prepared(up_scaled, turn(up, up_scaled), order, down, down_scaled.units, halves)


def add(batch: Prepared, counts: Tensor, products: Tensor, plan: Plan, counted: bool = True) -> None:
    """Adds a batch to the tables; where not `counted` to the products alone."""
    height, width = products.shape
    tokens, entries, device = batch.down.tokens, len(batch.columns.tokens), products.device
    programs = plan.programs * multiprocessors(device)
    hot_rows = min(height, entries // (plan.hot + 1))  # there can't be more, and to ask how many there are would synchronise
    parts = -(-tokens // plan.hot)
    slots = torch.zeros(programs, 2 * width, dtype=torch.int64, device=device)
    sums = torch.zeros(hot_rows, width, dtype=torch.int64, device=device)
    partners = max(1, len(batch.down.features)) / tokens
    constants: dict[str, Any] = {"HOT": plan.hot, "COUNTED": counted, "TOKENS": plan.tokens, "ENTRIES": plan.entries}
    constants |= {"SWEPT": SWEPT, "num_warps": plan.warps}
    add_rows[(programs,)](
        torch.zeros(1, dtype=torch.int32, device=device),
        hot_rows * parts + height,
        batch.order,
        *batch.columns,
        batch.up.units,
        batch.halves,
        *batch.down,
        batch.down_units,
        slots,
        sums,
        counts,
        products,
        width,
        plan.thin,
        int(plan.swept * width / partners),
        hot_rows,
        parts,
        **constants,
    )
    if hot_rows:
        grid = (hot_rows, triton.cdiv(width, BLOCK))
        constants = {"HOT": plan.hot, "BLOCK": BLOCK}
        add_sums[grid](batch.order, batch.columns.starts, batch.up.units, batch.down_units, sums, products, width, **constants)


def scratch_bytes(up: Csr, down: Csr, products: Tensor, plan: Plan = PLAN) -> int:
    """Memory that `accumulate` takes beside the tables, at most."""
    height, width = products.shape
    entries = len(up.features)
    slots = 2 * plan.programs * multiprocessors(products.device)
    rows = slots + min(height, entries // (plan.hot + 1))
    sorting = 1 << 24  # what torch may take to order the rows
    return 8 * rows * width + 12 * entries + 4 * len(down.features) + 64 * (height + width) + sorting


def multiprocessors(device: torch.device) -> int:
    """Of a GPU; 1 of what interprets."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def accumulate(
    up: Csr,
    down: Csr,
    halves: Tensor,
    up_thresholds: Tensor | None,
    down_thresholds: Tensor | None,
    counts: Tensor,
    products: Tensor,
    plan: Plan = PLAN,
) -> None:
    """See `kernels.accumulate`. Features are not checked here (that would synchronise): a Csr from `compact` is always in range."""
    if len(up.features) and len(down.features):
        add(prepare(up, down, halves, up_thresholds, down_thresholds, products.shape), counts, products, plan)
