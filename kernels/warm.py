"""`python -m kernels.warm`: compiles every CPU kernel for the types that the engine uses, into numba's cache.

The install runs it, so that the first batch of a new user does not wait some 15 s for the compiler.
"""

import itertools

import numpy as np
import torch

from kernels import BestCells, accumulate, compact


def warm() -> None:
    """Runs each kernel once on a batch of two tokens, in every combination of types."""
    batch = compact(torch.eye(2, 3))
    halves = torch.zeros(2, dtype=torch.uint8)
    for count_type, up_limited, down_limited in itertools.product((torch.int32, torch.int64), (False, True), (False, True)):
        counts, products = torch.zeros(3, 3, 2, dtype=count_type), torch.zeros(3, 3, dtype=torch.float64)
        for limit_type in (torch.float32, torch.float64):
            limits = torch.zeros(3, dtype=limit_type)
            up_limits, down_limits = (limits if limited else None for limited in (up_limited, down_limited))
            accumulate(batch, batch, halves, up_limits, down_limits, counts, products)
    cell = np.zeros(1, np.int64)
    BestCells(1, 1, 1).offer(cell.astype(np.int32), cell.astype(np.int32), cell, np.zeros(1))


if __name__ == "__main__":
    warm()
