"""`python -m kernels.warm`: compiles every CPU kernel for the types that the engine uses, into numba's cache.

The install runs it, so that the first batch of a new user does not wait some 15 s for the compiler.
"""

import itertools

import numpy as np
import torch

from kernels import (
    CELLS,
    SIBLINGS,
    BestCells,
    StrongestLists,
    accumulate,
    add_pairs,
    bounds,
    compact,
    feature_totals,
    half_lists,
    likely_children,
    make_runs,
    pearson_bounds,
    sibling_cells,
)


def warm() -> None:
    """Runs each kernel once on a batch of two tokens, in every combination of types."""
    batch = compact(torch.eye(2, 3))
    halves, active = torch.zeros(2, dtype=torch.uint8), np.zeros((3, 2), np.int64)
    for count_type, up_limited, down_limited in itertools.product((torch.int32, torch.int64), (False, True), (False, True)):
        counts, products = torch.zeros(3, 3, 2, dtype=count_type), torch.zeros(3, 3, dtype=torch.float64)
        for limit_type in (torch.float32, torch.float64):
            limits = torch.zeros(3, dtype=limit_type)
            up_limits, down_limits = (limits if limited else None for limited in (up_limited, down_limited))
            accumulate(batch, batch, halves, up_limits, down_limits, counts, products)
        half_lists(counts.numpy(), active, active, 1, 1, 1)
        likely_children(counts.numpy(), *(active[:, 0] for _ in range(4)))
    cell = np.zeros(1, np.int64)
    best, at = BestCells(1, 1, 1), (cell.astype(np.int32), cell.astype(np.int32), cell)
    best.offer(*at, np.zeros(1))
    best.offer_ratios(*at, (np.zeros(1), np.ones(1)), np.ones(1))
    best.offer_correlations(*at, np.zeros(1), np.ones(1))
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
    sibling_cells(runs, runs, pair, np.full((1, SIBLINGS), -1, np.int32), 2, np.zeros((1, CELLS), np.int64))


if __name__ == "__main__":
    warm()
