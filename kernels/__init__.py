"""What everything rests on: dense → sparse, sparse → pair tables, best k of every row and column, strongest activations, moments
of pairs, siblings and their truth tables, top lists of the two halves, bounds.

compact and accumulate have one signature and three implementations: Triton for CUDA (`kernels.gpu`), numba for the CPU
(`kernels.cpu`), and a slow obvious reference (`kernels.reference`); `kernels.dispatch` picks by device. The others work on the
host. torch is imported where a tensor is, so that a process without one can use the bounds.
"""

from kernels.cpu.best import BestCells
from kernels.cpu.bounds import ALPHA, PEARSON_LEAST_EFFECT, bounds, pearson_bounds
from kernels.cpu.half_lists import half_lists
from kernels.cpu.moments import FeatureTotals, Runs, add_pairs, feature_totals, make_runs
from kernels.cpu.siblings import CELLS, SIBLINGS, likely_children, sibling_cells
from kernels.cpu.strongest import StrongestLists
from kernels.csr import Csr
from kernels.dispatch import accumulate, compact

__all__ = [
    "ALPHA",
    "CELLS",
    "PEARSON_LEAST_EFFECT",
    "SIBLINGS",
    "BestCells",
    "Csr",
    "FeatureTotals",
    "Runs",
    "StrongestLists",
    "accumulate",
    "add_pairs",
    "bounds",
    "compact",
    "feature_totals",
    "half_lists",
    "likely_children",
    "make_runs",
    "pearson_bounds",
    "sibling_cells",
]
