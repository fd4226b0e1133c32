"""The slow, obvious form of what `kernels.cpu.gates` does: token by token, gate by gate. Without torch, small shapes only."""

import math

import numpy as np

from kernels.cpu.gates import AND, AND_NOT, OR, TWO_OF_THREE, BlockMasks, Blocks, Gates, GateTotals
from kernels.cpu.moments import Runs


def block_masks(runs: Runs, blocks: Blocks) -> BlockMasks:
    """Every active entry sets its bit; what comes out is sorted by feature, then block."""
    found: dict[tuple[int, int], int] = {}
    for feature in range(len(runs.starts) - 1):
        for entry in range(runs.entries[runs.starts[feature]], runs.entries[runs.starts[feature + 1]]):
            if runs.values[entry] > 0:
                token = runs.tokens[entry]
                at = feature, int(blocks.of_token[token])
                found[at] = found.get(at, 0) | 1 << int(blocks.bit[token])
    keys = sorted(found)
    starts = np.searchsorted([feature for feature, _ in keys], np.arange(len(runs.starts)))
    masks = np.array([found[key] for key in keys], np.uint32)
    return BlockMasks(starts.astype(np.int64), np.array([block for _, block in keys], np.int32), masks)


def active_tokens(masks: BlockMasks, feature: int, blocks: Blocks) -> list[np.ndarray]:
    """bool [tokens of the block], of every block."""
    active = [np.zeros(tokens, bool) for tokens in blocks.tokens]
    for run in range(masks.starts[feature], masks.starts[feature + 1]):
        block = masks.blocks[run]
        active[block] = np.array([bool(masks.masks[run] >> token & 1) for token in range(blocks.tokens[block])])
    return active


def holds(kind: int, parents: list[np.ndarray]) -> np.ndarray:
    """bool: the tokens at which the gate holds, by its parents' activity."""
    return {
        AND: parents[0] & parents[1],
        OR: parents[0] | parents[1],
        AND_NOT: parents[0] & ~parents[1],
        TWO_OF_THREE: sum(part.astype(int) for part in parents) >= 2,
    }[kind]


def part_scores(stratum: np.ndarray, x: np.ndarray, y: np.ndarray, sign: int) -> tuple[float, float]:
    """s and c of the tokens of a block that are of the stratum."""
    n, r, k, joint = (int((stratum & of).sum()) for of in (stratum, x, y, x & y))
    if n == 0:
        return 0.0, 0.0
    expected = r * k / n
    return sign * (joint - expected), expected - max(0, r + k - n) if sign > 0 else min(r, k) - expected


def test_parts(kind: int, a: np.ndarray, b: np.ndarray, c: np.ndarray, y: np.ndarray) -> list[list[tuple]]:
    """Of each test the parts that are summed: stratum, x, y, sign."""
    return {
        AND: [[(b, a, y, 1)], [(a, b, y, 1)], [(~y, a, b, -1)]],
        OR: [[(~b, a, y, 1)], [(~a, b, y, 1)], [(y, a, b, -1)]],
        AND_NOT: [[(~b, a, y, 1)], [(a, b, y, -1)], [(~y, a, b, 1)]],
        TWO_OF_THREE: [
            [(b ^ c, a, y, 1)],
            [(a ^ c, b, y, 1)],
            [(a ^ b, c, y, 1)],
            [(~y, a, b, -1), (~y, a, c, -1), (~y, b, c, -1)],
        ],
    }[kind]


def score_gates(
    up: BlockMasks,
    down: BlockMasks,
    gates: Gates,
    blocks: Blocks,
    cluster_half: np.ndarray,
    cluster_special: np.ndarray,
    totals: GateTotals,
    prior: tuple[float, float],
) -> np.ndarray:
    """Adds every block and every cluster as the definitions read."""
    carried = np.zeros((int(cluster_special.max(initial=-1)) + 1, len(gates.kinds), 6))
    for gate, (kind, parents, child, best) in enumerate(zip(*gates, strict=True)):
        tokens_of = [active_tokens(up, parent, blocks) for parent in parents if parent >= 0]
        child_of, best_of = active_tokens(down, child, blocks), active_tokens(up, best, blocks)
        x = np.zeros((len(cluster_half), 5))
        decides = np.zeros(len(cluster_half), bool)
        for block, cluster in enumerate(blocks.cluster):
            y, leader = child_of[block], best_of[block]
            a, b, c = ([*(of[block] for of in tokens_of), np.zeros_like(y)])[:3]
            gated = holds(kind, [a, b, c])
            for token in range(blocks.tokens[block]):
                cell = a[token] + 2 * b[token] + 4 * c[token] + 8 * y[token]
                if cell > 0:
                    totals.cells[gate, cell] += 1
            for test, parts in enumerate(test_parts(kind, a, b, c, y)):
                score, loss = (sum(part) for part in zip(*(part_scores(*part) for part in parts), strict=True))
                bet = max(0.0, (prior[0] + totals.score_sum[gate, test]) / (prior[1] + totals.score_squares[gate, test]))
                if loss > 0:
                    bet = min(bet, 0.9 / loss)
                totals.log_e[gate, test] += math.log1p(bet * score)
                totals.score_sum[gate, test] += score
                totals.score_squares[gate, test] += score * score
            x[cluster] += [(gated & y).sum(), gated.sum(), (leader & y).sum(), leader.sum(), y.sum()]
            decides[cluster] |= (gated & y if kind == AND else (gated != leader) & (y == gated)).any()
        for cluster in range(len(cluster_half)):
            row = cluster_special[cluster]
            if row >= 0:
                carried[row, gate, :5] += x[cluster]
                carried[row, gate, 5] = max(carried[row, gate, 5], float(decides[cluster]))
                continue
            totals.sums[gate, cluster_half[cluster]] += x[cluster]
            totals.squares[gate] += np.outer(x[cluster], x[cluster])[np.triu_indices(5)]
            totals.documents[gate] += x[cluster][[1, 3, 4]].any()
            totals.deciding[gate] += decides[cluster]
    return carried
