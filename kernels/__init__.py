"""The operations that everything rests on: dense → sparse, sparse → pair tables, best k of every row and column, and the strongest
activations of every feature.

Each has one signature and several implementations: Triton for CUDA (`kernels.gpu`), numba for the CPU (`kernels.cpu`), and a slow
obvious reference (`kernels.reference`). `kernels.dispatch` picks by device.
"""

from kernels.cpu.best import BestCells
from kernels.cpu.strongest import StrongestLists
from kernels.csr import Csr
from kernels.dispatch import accumulate, compact

__all__ = ["BestCells", "Csr", "StrongestLists", "accumulate", "compact"]
