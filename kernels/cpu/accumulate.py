"""accumulate on the CPU: row by row of the table."""

import numba
import numpy as np
from torch import Tensor

from kernels.csr import Csr


@numba.njit(nogil=True, cache=True)
def add(uo, uf, uv, do, df, dv, ut, dt, counts, products):
    for t in range(len(uo) - 1):
        for p in range(uo[t], uo[t + 1]):
            i = uf[p]
            a = np.float64(uv[p])
            on = True if ut is None else a > ut[i]
            for q in range(do[t], do[t + 1]):
                j = df[q]
                b = np.float64(dv[q])
                products[i, j] += a * b
                if on and (True if dt is None else b > dt[j]):
                    counts[i, j] += 1


def accumulate(
    up: Csr, down: Csr, up_thresholds: Tensor | None, down_thresholds: Tensor | None, counts: Tensor, products: Tensor
) -> None:
    """See `kernels.accumulate`."""
    add(
        *(x.numpy() for x in (*up, *down)),
        None if up_thresholds is None else up_thresholds.numpy(),
        None if down_thresholds is None else down_thresholds.numpy(),
        counts.numpy(),
        products.numpy(),
    )
