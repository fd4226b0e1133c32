"""What everything rests on: dense → sparse, sparse → pair tables, best k of every row and column, strongest activations, moments
of pairs, truth tables of gates and of siblings, scores of gates, top lists of the two halves, bounds, projections of tokens and
their sums.

compact, accumulate, count_gate_cells and project have one signature and three implementations: for CUDA (`kernels.gpu`), numba for
the CPU (`kernels.cpu`), and a slow obvious reference (`kernels.reference`); `kernels.dispatch` picks by device. The others work on
the host. torch is imported where a tensor is, so that a process without one can use the bounds.
"""

from kernels.cpu.best import EFFECT_BINS, RANKED, BestCells, Features, TopCells
from kernels.cpu.bounds import ALPHA, PEARSON_LEAST_EFFECT, bounds, pearson_bounds
from kernels.cpu.gate_choice import mask_jaccard, silencers
from kernels.cpu.gate_pairs import CandidateLists, Ranked
from kernels.cpu.gates import (
    BET_PRIOR,
    FEWEST_CANDIDATES,
    MOST_CANDIDATES,
    BlockMasks,
    Blocks,
    Gates,
    GateTotals,
    block_masks,
    cut_blocks,
    score_gates,
)
from kernels.cpu.half_lists import half_lists
from kernels.cpu.listed import Listed, Separators, Supported, listed_cells, supported_cells
from kernels.cpu.moments import FeatureTotals, Runs, add_pairs, feature_totals, make_runs
from kernels.cpu.siblings import CELLS, SIBLINGS, likely_children, sibling_cells
from kernels.cpu.similarities import SIMILARITIES, similarities
from kernels.cpu.strongest import StrongestLists
from kernels.cpu.window_sums import WINDOW_SUMS, add_window_sums
from kernels.csr import Csr
from kernels.dispatch import accumulate, compact, count_gate_cells, project, reserve

__all__ = [
    "ALPHA",
    "BET_PRIOR",
    "CELLS",
    "EFFECT_BINS",
    "FEWEST_CANDIDATES",
    "MOST_CANDIDATES",
    "PEARSON_LEAST_EFFECT",
    "RANKED",
    "SIBLINGS",
    "SIMILARITIES",
    "WINDOW_SUMS",
    "BestCells",
    "BlockMasks",
    "Blocks",
    "CandidateLists",
    "Csr",
    "FeatureTotals",
    "Features",
    "GateTotals",
    "Gates",
    "Listed",
    "Ranked",
    "Runs",
    "Separators",
    "StrongestLists",
    "Supported",
    "TopCells",
    "accumulate",
    "add_pairs",
    "add_window_sums",
    "block_masks",
    "bounds",
    "compact",
    "count_gate_cells",
    "cut_blocks",
    "feature_totals",
    "half_lists",
    "likely_children",
    "listed_cells",
    "make_runs",
    "mask_jaccard",
    "pearson_bounds",
    "project",
    "reserve",
    "score_gates",
    "sibling_cells",
    "silencers",
    "similarities",
    "supported_cells",
]
