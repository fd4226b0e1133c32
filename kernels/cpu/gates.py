"""Gates on the host: where features fire by block, and what nominated gates come to over the blocks of a segment.

    lengths of clusters          ──▶ Blocks: every cluster cut into blocks of at most 32 consecutive tokens
    Runs of a layer, Blocks      ──▶ BlockMasks: per feature the blocks in which it is active, one bit a token
    BlockMasks of two layers, Gates ──▶ GateTotals: cells, betting scores, sums over clusters (`kernels.cpu.gate_scores`)

Cells and sums are integers, exact in any order. Bets depend on the order of the blocks: the same blocks in the same segments give
the same bits.
"""

from typing import NamedTuple

import numpy as np

from kernels.cpu.compiled import compiled
from kernels.cpu.gate_layout import lay_out
from kernels.cpu.gate_scores import score
from kernels.cpu.moments import Runs
from kernels.host_checks import check_blocks, check_gates, check_masks, check_totals

BLOCK_TOKENS = 32  # a block of a feature is one uint32; and long enough: chance brings most pairs together within 32 tokens
QUARTER = 4
FEWEST_CANDIDATES, MOST_CANDIDATES = 2, 8
"""Candidate parents of a child: a gate has two parents, and a truth table of 9 candidates would have 1,024 cells a child."""
BET_PRIOR = (0.5, 0.25)
"""Σs and Σs² that bets begin with: those of one score of ½, which is what two tokens with one parent each give. Any prior is valid;
with (½, 1) the first dozen of such scores were bet on at half of what they allow, and 55 of 60 OR gates were found, not 59."""
AND, OR, AND_NOT, TWO_OF_THREE = range(4)


class Blocks(NamedTuple):
    """The n tokens of a segment, ordered by cluster, cut into B blocks; no block reaches across clusters."""

    of_token: np.ndarray
    """int32 [n]: the block of each token, not falling."""
    bit: np.ndarray
    """uint8 [n]: its place in the block."""
    tokens: np.ndarray
    """int32 [B]: how many tokens each has, 1 to 32."""
    cluster: np.ndarray
    """int32 [B]: the cluster of each, not falling."""


class BlockMasks(NamedTuple):
    """Where the D features of a layer are active (above their thresholds), by block. A run is one feature in one block."""

    starts: np.ndarray
    """int64 [D + 1]: the runs of feature f are starts[f] … starts[f + 1] - 1."""
    blocks: np.ndarray
    """int32 [R], ascending within a feature."""
    masks: np.ndarray
    """uint32 [R], never 0: bit t is the t-th token of the block."""


class Gates(NamedTuple):
    """G nominated gates of one layer pair."""

    kinds: np.ndarray
    """uint8 [G]: AND, OR, AND_NOT (parents[0] and not parents[1]), TWO_OF_THREE."""
    parents: np.ndarray
    """int32 [G, 3]: upstream features; the third is −1 but for TWO_OF_THREE."""
    children: np.ndarray
    """int32 [G]: downstream features."""
    best: np.ndarray
    """int32 [G]: the best single parent, an upstream feature, which need not be one of the gate's."""


class GateTotals(NamedTuple):
    """What G gates have come to since they were nominated."""

    cells: np.ndarray
    """int64 [G, 16]: tokens by [p0] + 2[p1] + 4[p2] + 8[child]; cell 0 is left alone, it is what is missing from the tokens."""
    log_e: np.ndarray
    """float64 [G, 4]: log of the e-value of each test: T1 of each parent in order, then T2. Gates of two parents have three."""
    score_sum: np.ndarray
    """float64 [G, 4]: Σ s of each test."""
    score_squares: np.ndarray
    """float64 [G, 4]: Σ s²."""
    sums: np.ndarray
    """float64 [G, 2, 5]: by half, Σ x over clusters, x = (gate and child, gate, best parent and child, best parent, child)."""
    squares: np.ndarray
    """float64 [G, 15]: Σ x xᵀ, upper triangle row by row, both halves."""
    documents: np.ndarray
    """int64 [G]: clusters in which gate, best parent or child is active."""
    deciding: np.ndarray
    """int64 [G]: clusters with a token at which gate and best parent disagree and the child is with the gate; for AND with a token
    at which both parents and the child are active."""

    @classmethod
    def zero(cls, gates: int) -> "GateTotals":
        """Nothing seen: E = 1."""
        return cls(
            np.zeros((gates, 16), np.int64),
            *(np.zeros((gates, 4)), np.zeros((gates, 4)), np.zeros((gates, 4))),
            *(np.zeros((gates, 2, 5)), np.zeros((gates, 15))),
            *(np.zeros(gates, np.int64), np.zeros(gates, np.int64)),
        )


def cut_blocks(lengths: np.ndarray) -> Blocks:
    """Cuts clusters of L tokens into blocks of min(⌈L/4⌉, 32) consecutive ones, the last of each cluster shorter.

    At least a quarter of a short document, so that it has blocks to compare within; at most a mask.

    Args:
        lengths: int64 [C], tokens of each cluster, in the order of the segment; 0 for one without a token.
    """
    lengths = np.asarray(lengths, np.int64)
    size = np.minimum(-(-lengths // QUARTER), BLOCK_TOKENS)
    blocks = -(-lengths // np.maximum(size, 1))
    cluster = np.repeat(np.arange(len(lengths)), blocks)
    number = np.arange(len(cluster)) - np.repeat(np.cumsum(blocks) - blocks, blocks)
    tokens = np.minimum(size[cluster], lengths[cluster] - number * size[cluster])
    of_token = np.repeat(np.arange(len(cluster)), tokens)
    bit = np.arange(len(of_token)) - np.repeat(np.cumsum(tokens) - tokens, tokens)
    return Blocks(of_token.astype(np.int32), bit.astype(np.uint8), tokens.astype(np.int32), cluster.astype(np.int32))


def block_masks(runs: Runs, blocks: Blocks) -> BlockMasks:
    """Where the features of a layer are active, by block.

    Args:
        runs: of the layer; its tokens are in the order of the segment, an entry below its threshold is negative.
        blocks: of the same segment.

    Raises:
        ValueError: blocks of fewer tokens than the runs have.
    """
    check_blocks(blocks, None)
    if len(runs.tokens) and runs.tokens.max() >= len(blocks.of_token):
        raise ValueError(f"blocks has {len(blocks.of_token)} tokens, the runs need {runs.tokens.max() + 1}")
    entries = runs.entries[runs.starts]  # where each feature begins
    starts, found, masks = (
        np.zeros(len(entries), np.int64),
        np.empty(len(runs.tokens), np.int32),
        np.empty(len(runs.tokens), np.uint32),
    )
    count = _block_masks(entries, runs.tokens, runs.values, blocks.of_token, blocks.bit, starts, found, masks)
    return BlockMasks(starts, found[:count].copy(), masks[:count].copy())


@compiled()
def _block_masks(entries, tokens, values, block_of, bit_of, starts, blocks, masks):
    run = -1
    for feature in range(len(entries) - 1):
        current = -1
        for entry in range(entries[feature], entries[feature + 1]):
            if not values[entry] > 0:
                continue
            token = tokens[entry]
            if block_of[token] != current:
                current = block_of[token]
                run += 1
                blocks[run], masks[run] = current, 0
            masks[run] |= np.uint32(1) << np.uint32(bit_of[token])
        starts[feature + 1] = run + 1
    return run + 1


def score_gates(
    up: BlockMasks,
    down: BlockMasks,
    gates: Gates,
    blocks: Blocks,
    cluster_half: np.ndarray,
    cluster_special: np.ndarray,
    totals: GateTotals,
    prior: tuple[float, float] = BET_PRIOR,
) -> np.ndarray:
    """Adds the blocks of a segment to the totals of G gates of one layer pair, in place.

    Within a block and the tokens of a test's stratum (n tokens, r of them with x, k with y, n₁₁ with both): s = σ(n₁₁ − r k/n) and
    c = r k/n − max(0, r + k − n) for σ = +1, min(r, k) − r k/n for σ = −1; then log E += ln(1 + λs) with
    λ = min(max(0, (prior[0] + Σs)/(prior[1] + Σs²)), 0.9/c), Σ over the blocks before (`engine.measures.gate_tests` has the strata
    and the source).

    Args:
        up, down: masks of the layer pair over the same blocks; gates: any order, those of a child side by side read less memory.
        cluster_half: uint8 [C], 0 or 1.
        cluster_special: int32 [C], −1, or the row of the result that a cluster goes to instead of sums, squares, documents and
            deciding. Cells, scores and e-values need no cluster: they take every block as it comes.
        totals: of the gates.
        prior: Σs and Σs² that bets begin with.

    Returns:
        float64 [K, G, 6]: x of each of the K special clusters (K is the largest row + 1), and 1.0 where it has a deciding token.

    Raises:
        ValueError: names what does not fit.
    """
    check_blocks(blocks, len(cluster_half))
    check_masks("up", up, len(blocks.tokens))
    check_masks("down", down, len(blocks.tokens))
    check_gates(gates, len(up.starts) - 1, len(down.starts) - 1)
    check_totals(totals, len(gates.kinds), cluster_half, cluster_special, prior)
    carried = np.zeros((int(cluster_special.max(initial=-1)) + 1, len(gates.kinds), 6))
    if len(gates.kinds) and len(blocks.tokens):
        up_rows, up_row_of = _rows(gates.parents, gates.best, len(up.starts) - 1)
        down_rows, down_row_of = _rows(gates.children, gates.children, len(down.starts) - 1)
        clusters = (blocks.cluster, cluster_half, cluster_special)
        slots = np.stack([*up_row_of[gates.parents].T, down_row_of[gates.children], up_row_of[gates.best]], axis=1)
        score(
            lay_out(*up, up_rows, *clusters),
            lay_out(*down, down_rows, *clusters),
            *(gates.kinds, slots, blocks.tokens, *clusters),
            tuple(totals),
            carried,
            prior,
        )
    return carried


def _rows(first: np.ndarray, second: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """int64: the features that occur, ascending, and per feature its place among them; −1 reads the last, which is −1."""
    used = np.zeros(width + 1, bool)
    used[first.reshape(-1)] = used[second] = True
    used[width] = False
    rows = np.flatnonzero(used)
    row_of = np.full(width + 1, -1, np.int64)
    row_of[rows] = np.arange(len(rows))
    return rows, row_of
