"""The three operations that everything rests on: dense → sparse, sparse → pair tables, best k of each group.

Each has one signature and several implementations: Triton for CUDA (`kernels.gpu`), numba for the CPU (`kernels.cpu`), and a slow
obvious reference (`kernels.reference`). `kernels.dispatch` picks by device.
"""

from kernels.csr import Csr
from kernels.dispatch import accumulate, compact, segmented_topk

__all__ = ["Csr", "accumulate", "compact", "segmented_topk"]
