"""The operations that everything rests on: dense → sparse, sparse → pair tables, best k of every row and column, moments of pairs.

compact and accumulate have one signature and three implementations: Triton for CUDA (`kernels.gpu`), numba for the CPU
(`kernels.cpu`), and a slow obvious reference (`kernels.reference`); `kernels.dispatch` picks by device. The others work on the
host.
"""

from kernels.cpu.best import BestCells
from kernels.cpu.moments import FeatureTotals, Runs, add_pairs, feature_totals, make_runs
from kernels.csr import Csr
from kernels.dispatch import accumulate, compact

__all__ = ["BestCells", "Csr", "FeatureTotals", "Runs", "accumulate", "add_pairs", "compact", "feature_totals", "make_runs"]
