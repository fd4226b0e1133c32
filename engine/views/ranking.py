"""Which neighbours are published: the best by every measure, of every feature, in both directions.

Over one layer pair, in chunks that stay in the cache:

1. Cells with a joint count of at least `min_support`, row by row: the only ones that anything is computed for.
2. Every measure of them, offered to the running top lists of their row (neighbours downstream of i) and column (upstream of j).
3. At the end the union of each feature's lists over the measures, in the order of the indices.

A table is never copied as a whole, so its size does not matter to memory, and one on a GPU sends over only what has the support.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from engine.measures import MEASURES, PairCounts, estimates
from engine.measures.bounds import pearson_effective, ratios_of
from engine.views.records import INTERVAL_MEASURES
from kernels import BestCells

if TYPE_CHECKING:
    from engine.counts.marginals import Marginals
    from engine.counts.pairs import PairTable
    from engine.views.effects import PairEffects

_BLOCK_CELLS = 1 << 20  # of the table looked through at a time
_CHUNK_CELLS = (
    1 << 15
)  # whose measures are computed at a time: a million take twice as long each, their temporaries leave the cache


class Side(NamedTuple):
    """Marginals of a layer as numpy arrays `[D]`: active count int64, Σa and Σa² float64, and the active count of half A."""

    count: np.ndarray
    sum: np.ndarray
    sum_of_squares: np.ndarray
    count_a: np.ndarray

    @classmethod
    def of(cls, part: Marginals) -> Side:
        """A copy of a layer's marginals."""
        total, squares = part.sum.cpu().numpy().copy(), part.sum_of_squares.cpu().numpy().copy()
        return cls(part.count.cpu().numpy(), total, squares, part.by_half[:, 0].cpu().numpy().copy())


class Cells(NamedTuple):
    """Cells of a pair table: row, column, joint count, that of half A, Σab and decoder cosine (NaN where unknown) of each."""

    up: np.ndarray  # int32 [n]
    down: np.ndarray  # int32 [n]
    joint: np.ndarray  # int64 [n]
    joint_a: np.ndarray  # int64 [n]
    product: np.ndarray  # float64 [n]
    decoder_cosine: np.ndarray  # float32 [n]


class Lists(NamedTuple):
    """The published neighbours of a layer's features in one direction: feature f has the cells `offsets[f]` to `offsets[f + 1]`."""

    offsets: np.ndarray  # int64 [D + 1]
    cells: Cells


class Ranking(NamedTuple):
    """Both directions of a layer pair: the lists of its upstream features, and those of its downstream features."""

    downstream: Lists
    upstream: Lists


def rank_pair(
    table: PairTable,
    up: Side,
    down: Side,
    tokens: int,
    *,
    k: int,
    min_support: int,
    cosines: np.ndarray | None = None,
    effects: PairEffects | None = None,
) -> Ranking:
    """The published neighbours of one layer pair.

    Args:
        table: counts and products of the pair.
        up, down: marginals of its layers.
        tokens: N.
        k: how many by each measure; ties go to the smaller index.
        min_support: smallest joint count.
        cosines: float32 `[Du, Dd]` decoder cosines; None leaves that measure out of the ranking, and NaN in the cells.
        effects: design effects, for the rankings by lower bound; None leaves those out.

    Returns:
        For each feature the union of the top k by each measure, and by the lower bound of each that has one, by index; fewer where
        fewer have the support.
    """
    # n·n_ij / (n_i·n_j), the lift, orders a row as the necessity does, and a column as the sufficiency.
    left_out = {"lift"} if cosines is not None else {"lift", "decoder_cosine"}
    measures = [measure for measure in MEASURES if measure not in left_out]
    best = best_cells(table, up, down, tokens, measures, k, min_support, cosines, effects)
    width = len(down.count)
    by_row = _union([found.rows for found in best])
    by_column = _union([found.columns for found in best])
    by_column = by_column[np.argsort(by_column % width, kind="stable")]
    downstream, upstream = (_cells(table, ids, cosines) for ids in (by_row, by_column))
    return Ranking(Lists(_offsets(downstream.up, len(up.count)), downstream), Lists(_offsets(upstream.down, width), upstream))


def top_lists(table: PairTable, up: Side, down: Side, tokens: int, *, measure: str, k: int, min_support: int) -> np.ndarray:
    """int32 `[Du, k]`: the k best downstream features of every upstream one by a measure, best first; −1 where there are fewer."""
    (found,) = best_cells(table, up, down, tokens, [measure], k, min_support)
    return np.where(found.rows >= 0, found.rows % len(down.count), -1).astype(np.int32)


def best_cells(
    table: PairTable,
    up: Side,
    down: Side,
    tokens: int,
    measures: Sequence[str],
    k: int,
    min_support: int,
    cosines: np.ndarray | None = None,
    effects: PairEffects | None = None,
) -> list[BestCells]:
    """The top lists of one layer pair by each of the measures, and with `effects` by the lower bounds of jaccard, sufficiency,
    necessity and Pearson (which must be among the measures). The id of a cell is row · Dd + column, of no cell −1."""
    best = [BestCells(len(up.count), len(down.count), k) for _ in measures]
    bounded = [BestCells(len(up.count), len(down.count), k) for _ in INTERVAL_MEASURES if effects is not None]
    for ids, joint, product in _supported(table, min_support):
        i, j = _row_and_column(ids, len(down.count))
        counts = PairCounts(
            tokens=tokens,
            up=up.count[i],
            down=down.count[j],
            joint=joint,
            up_sum=up.sum[i],
            down_sum=down.sum[j],
            up_sumsq=up.sum_of_squares[i],
            down_sumsq=down.sum_of_squares[j],
            product=product,
            decoder_cosine=np.nan if cosines is None else cosines[i, j],
        )
        values = estimates(counts, measures)
        for found, scores in zip(best, values.values(), strict=True):
            found.offer(i, j, ids, scores)
        if effects is not None:
            successes, deff = joint.astype(np.float64), effects.ratios(joint).astype(np.float64)
            for found, (_, trials) in zip(bounded[:3], ratios_of(counts), strict=True):
                found.offer_ratios(i, j, ids, (successes, trials), deff)
            effective = pearson_effective(counts, np.maximum(effects.up[i], effects.down[j]))
            bounded[3].offer_correlations(i, j, ids, values["pearson"], effective)
    return [*best, *bounded]


def _supported(table: PairTable, min_support: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Id int64, joint count and Σab float64 of the cells that have the support, in the order of ids, chunk by chunk."""
    width = table.products.shape[1]
    for block in table.blocks_of(max(1, _BLOCK_CELLS // width)):
        by_half, products = table.counts[block].reshape(-1, 2), table.products[block].reshape(-1)
        if by_half.device.type == "cpu":
            halves = by_half.numpy()
            counts = halves[:, 0] + halves[:, 1]
            at = np.flatnonzero(counts >= min_support)
            joint, product = counts[at], products.numpy()[at]
        else:
            counts = by_half.sum(dim=1)
            chosen = (counts >= min_support).nonzero().squeeze(1)
            at, joint, product = (column.cpu().numpy() for column in (chosen, counts[chosen], products[chosen]))
        ids = at + block.start * width
        for start in range(0, len(ids), _CHUNK_CELLS):
            part = slice(start, start + _CHUNK_CELLS)
            yield ids[part], joint[part], product[part]


def _cells(table: PairTable, ids: np.ndarray, cosines: np.ndarray | None) -> Cells:
    """The cells with these ids, in their order."""
    i, j = _row_and_column(ids, table.products.shape[1])
    halves = table.halves((i, j)).astype(np.int64)
    if table.products.device.type == "cpu":
        product = table.products.numpy()[i, j]
    else:
        product = table.products[torch.from_numpy(i), torch.from_numpy(j)].cpu().numpy()
    cosine = np.full(len(ids), np.nan, np.float32) if cosines is None else cosines[i, j]
    return Cells(i, j, halves.sum(axis=1), halves[:, 0], product, cosine)


def _union(lists: Sequence[np.ndarray]) -> np.ndarray:
    """Ids int64 that occur in any of the lists, ascending, each once. By sorting: `np.unique` hashes, six times as slow here."""
    ids = np.sort(np.concatenate([found.reshape(-1) for found in lists]))
    ids = ids[np.searchsorted(ids, 0) :]
    return ids[np.concatenate([[True], ids[1:] != ids[:-1]])] if len(ids) else ids


def _row_and_column(ids: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """int32 each. By 32-bit division where the ids allow it, three times as fast."""
    if not len(ids) or ids.max() < 1 << 32:
        ids = ids.astype(np.uint32)
    row, column = np.divmod(ids, ids.dtype.type(width))
    return row.astype(np.int32), column.astype(np.int32)


def _offsets(groups: np.ndarray, size: int) -> np.ndarray:
    """int64 `[size + 1]`: where each group begins among cells that are sorted by group."""
    offsets = np.zeros(size + 1, np.int64)
    np.cumsum(np.bincount(groups, minlength=size), out=offsets[1:])
    return offsets
