"""`python -m kernels.warm`: compiles every CPU kernel for the types that the engine uses, into numba's cache.

The install runs it, so that the first batch of a new user does not wait some 15 s for the compiler.
"""

import itertools
from functools import partial

import numpy as np
import torch

from kernels import (
    CELLS,
    RANKED,
    SIBLINGS,
    BestCells,
    CandidateLists,
    Features,
    Gates,
    GateTotals,
    StrongestLists,
    accumulate,
    add_pairs,
    add_window_sums,
    block_masks,
    bounds,
    compact,
    count_gate_cells,
    cut_blocks,
    feature_totals,
    half_lists,
    likely_children,
    listed_cells,
    make_runs,
    mask_jaccard,
    pearson_bounds,
    project,
    score_gates,
    sibling_cells,
    silencers,
    supported_cells,
)
from kernels.cpu.bounded import BoundedRows
from kernels.tables import together, zero_tables


def warm() -> None:
    """Runs each kernel once on a batch of two tokens, in every combination of types."""
    batch = compact(torch.eye(2, 3))
    halves, active = torch.zeros(2, dtype=torch.uint8), np.zeros((3, 2), np.int64)
    for count_type, up_limited, down_limited in itertools.product((torch.int32, torch.int64), (False, True), (False, True)):
        counts, products = zero_tables(3, 3)
        counts = counts.to(count_type)
        for limit_type in (torch.float32, torch.float64):
            limits = torch.zeros(3, dtype=limit_type)
            up_limits, down_limits = (limits if limited else None for limited in (up_limited, down_limited))
            accumulate(batch, batch, halves, up_limits, down_limits, counts, products)
            cells, parents = torch.zeros(3, 4, dtype=count_type), torch.zeros(3, 1, dtype=torch.int32)
            count_gate_cells(batch, batch, up_limits, down_limits, 3, parents, cells)
        for arena in (False, True):
            rows = BoundedRows(3, 3, 1, 1)
            if arena:
                rows.widen()
            rows.add(batch, batch, halves, limits if up_limited else None, limits if down_limited else None)
            rows.merge(BoundedRows(3, 3, 1, 1))
            cell = np.zeros(1, np.int64)
            for look in (partial(rows.find, cell, cell), partial(rows.has, cell, cell), partial(rows.rows, cell)):
                look()
            rows.unpack(0, 0, 1, rows.packed(0, 0, 1))
        half_lists(counts.numpy(), active, active, 1, 1, 1)
        CandidateLists(active[:, 0], active[:, 0], np.arange(3), 1, np.ones(1), 3.5, 1).offer(0, together(counts.numpy()))
        CandidateLists(active[:, 0], active[:, 0], np.arange(3), 1, np.ones(1), 3.5, 1).offer_cells(
            *(np.zeros(1, np.int32),) * 2, *(np.zeros(1, np.int64),) * 2
        )
        likely_children(counts.numpy(), *(active[:, 0] for _ in range(4)))
    one = np.ones(1, np.float32)
    added = np.zeros((1, 2), np.int64), np.zeros((1, 7)), np.zeros((1, 1))
    add_window_sums(np.zeros(1, np.int64), one[None], np.zeros(1, np.int64), np.zeros(1, np.int32), (one, one, one), *added)
    project(batch, torch.zeros(3, 4), torch.zeros(1, 2, 4))
    cell = np.zeros(1, np.int64)
    one, three = (Features(np.ones(size, np.int64), np.zeros(size), np.zeros(size)) for size in (1, 3))
    index = np.zeros(1, np.int32)
    BestCells(one, one, 1, RANKED, 1).offer(index, index, cell, cell, np.zeros(1), np.zeros(1, np.float32))
    for count_type in (torch.int32, torch.int64):
        counts, products = zero_tables(3, 3)
        counts += 1
        cells = supported_cells(counts.to(count_type).numpy(), products.numpy(), 1, np.zeros((3, 3), np.float32))
        listed_cells(cells, three, three, 1, RANKED, 1)
    bounds(cell, cell, 1.0)
    pearson_bounds(np.zeros(1), np.zeros(1))
    lists = StrongestLists.empty(3, 1)
    lists.offer(batch.offsets.numpy(), batch.features.numpy(), batch.values.numpy(), np.arange(2), np.zeros(2, np.int64))
    lists.merge(StrongestLists.empty(3, 1))
    offsets, features, values = (part.numpy() for part in batch)
    clusters, pair = np.zeros(2, np.int32), np.zeros(1, np.int32)
    for thresholds in (None, np.zeros(3, np.float32)):
        runs = make_runs(np.arange(2), clusters, offsets.astype(np.int64), features, values, thresholds, 3)
    totals = feature_totals(runs, np.full(1, 2.0), np.full(1, -1, np.int32))
    moments = np.zeros((1, 9)), np.zeros((1, 45)), np.zeros((1, 4), np.int64)
    add_pairs(runs, runs, totals, totals, pair, pair, np.full(1, 2.0), np.full(1, -1, np.int32), 2, *moments)
    blocks = cut_blocks(np.full(1, 2))
    masks, gates = block_masks(runs, blocks), Gates(np.zeros(1, np.uint8), np.array([[0, 1, -1]], np.int32), pair, pair)
    score_gates(masks, masks, gates, blocks, np.zeros(1, np.uint8), np.full(1, -1, np.int32), GateTotals.zero(1))
    mask_jaccard(masks, cell, cell)
    silencers(np.arange(2), (offsets.astype(np.int64), features, values), None, runs, runs, cell, cell, 3.5, 1)
    sibling_cells(runs, runs, pair, np.full((1, SIBLINGS), -1, np.int32), 2, np.zeros((1, CELLS), np.int64))


if __name__ == "__main__":
    warm()
