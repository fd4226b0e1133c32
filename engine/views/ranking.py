"""Which neighbours are published: the best by every measure, of every feature, in both directions.

Cells with a joint count of at least `min_support` are the only ones that anything is computed for. They are taken out of a table
while nothing counts into it (`take_cells`), and ranked when it has changed long since (`rank_cells`, `rank_bounded`), line by line:
`kernels.listed_cells`. Where there is no memory for so many, the table is ranked where it stands (`rank_pair`), block by block:

1. Each cell is offered, by every measure, to the running top lists of its row (neighbours downstream of i) and column (upstream of
   j): `kernels.BestCells`.
2. At the end the union of each feature's lists over the measures, in the order of the indices.

In a bounded table a cell's count may lack some: it is ranked by what is sure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.counts.joint_table import PairCells
from engine.counts.pairs import PairTable
from engine.views.records import INTERVAL_MEASURES
from kernels import RANKED, BestCells, Features, Listed, Separators, Supported, TopCells, listed_cells, supported_cells

if TYPE_CHECKING:
    from engine.counts.joint_table import JointTable
    from engine.counts.marginals import Marginals
    from engine.views.effects import PairEffects

CELL_BYTES = 80
"""Of a cell with the support while it is taken out of a table, at most; 40 of them are kept. Ranking takes 120 more, of one table
after the other."""

BOUNDS = tuple(f"{measure}_lower" for measure in INTERVAL_MEASURES)
"""What a ranking by lower bound is called in `kernels.RANKED`."""


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
    """Cells of a pair table: row, column, joint count, that of half A, Σab, what may be missing of the joint count, and decoder
    cosine (NaN where unknown) of each."""

    up: np.ndarray  # int32 [n]
    down: np.ndarray  # int32 [n]
    joint: np.ndarray  # int64 [n]
    joint_a: np.ndarray  # int64 [n]
    product: np.ndarray  # float64 [n]
    error: np.ndarray  # int64 [n]
    decoder_cosine: np.ndarray  # float32 [n]


class Lists(NamedTuple):
    """The published neighbours of a layer's features in one direction: feature f has the cells `offsets[f]` to `offsets[f + 1]`,
    and with a feature that the table does not hold it was active at most `unlisted[f]` times (0: it holds all)."""

    offsets: np.ndarray  # int64 [D + 1]
    cells: Cells
    unlisted: np.ndarray  # int64 [D]


class Ranking(NamedTuple):
    """Both directions of a layer pair: the lists of its upstream features, and those of its downstream features."""

    downstream: Lists
    upstream: Lists


class Bounded(NamedTuple):
    """What can be listed of a bounded table: its cells, in no order, and how often a pair that it does not hold was active, at most
    (`JointTable.unlisted`), by upstream and by downstream feature."""

    cells: PairCells
    unlisted: tuple[np.ndarray, np.ndarray]


def take_cells(table: JointTable, min_support: int, room: int, cosines: np.ndarray | None = None) -> Supported | Bounded | None:
    """A copy of what can be listed of a table; None where it is larger than `room`.

    Args:
        table: nothing may count into it meanwhile.
        min_support: smallest joint count.
        room: bytes.
        cosines: float32 `[Du, Dd]` decoder cosines, where they are known.
    """
    most = room // CELL_BYTES
    if isinstance(table, PairTable) and _on_host(table):
        return supported_cells(table.counts.numpy(), table.products.numpy(), min_support, cosines, most)
    parts, size = [], 0
    for cells in table.supported(min_support):
        size += len(cells.up)
        if size > most:
            return None
        parts.append(cells)
    taken = PairCells(*map(np.concatenate, zip(*parts, strict=True)))
    del parts
    if isinstance(table, PairTable):
        return _row_by_row(taken, table.size[0], cosines)
    return Bounded(taken, (table.unlisted(downstream=True), table.unlisted(downstream=False)))


def _on_host(table: PairTable) -> bool:
    return table.products.device.type == "cpu"


def _row_by_row(cells: PairCells, rows: int, cosines: np.ndarray | None) -> Supported:
    """Cells that are in the order of their rows and columns, as what is ranked."""
    cosine = np.full(len(cells.up), np.nan, np.float32) if cosines is None else cosines[cells.up, cells.down]
    joint_a = np.ascontiguousarray(cells.counts[:, 0])
    return Supported(_offsets(cells.up, rows), cells.down, cells.joint, joint_a, cells.products, cosine)


def rank_cells(
    cells: Supported,
    up: Side,
    down: Side,
    tokens: int,
    *,
    k: int,
    by_cosine: bool,
    effects: PairEffects | None = None,
    separators: Separators | None = None,
) -> tuple[Listed, Listed]:
    """What `rank_pair` finds, downstream and upstream, from cells that were taken.

    Args:
        cells: of the same state as the marginals.
        up, down, tokens, k, effects: see `rank_pair`.
        by_cosine: whether decoder cosines are ranked by.
        separators: what was kept from the last ranking of this table.
    """
    by_bin = None if effects is None else effects.by_bin
    return listed_cells(cells, *_features(up, down, effects), tokens, _measures(by_cosine, effects), k, by_bin, separators)


def rank_bounded(
    taken: Bounded,
    up: Side,
    down: Side,
    tokens: int,
    *,
    k: int,
    cosines: np.ndarray | None = None,
    effects: PairEffects | None = None,
    separators: Separators | None = None,
) -> Ranking:
    """What `rank_pair` finds, from the cells of a bounded table that were taken; the arguments are those of `rank_cells`, and
    decoder cosines as `rank_pair` takes them."""
    cells = taken.cells.take(np.lexsort((taken.cells.down, taken.cells.up)))
    rows = _row_by_row(cells, len(up.count), cosines)
    lists = []
    found = rank_cells(rows, up, down, tokens, k=k, by_cosine=cosines is not None, effects=effects, separators=separators)
    for listed, unlisted in zip(found, taken.unlisted, strict=True):
        at = listed.cells
        i, j, joint = cells.up[at], cells.down[at], rows.joint[at]
        error = may_be_missing(cells.errors[at], joint, up.count[i], down.count[j])
        lists.append(
            Lists(listed.offsets, Cells(i, j, joint, rows.joint_a[at], rows.product[at], error, rows.cosine[at]), unlisted)
        )
    return Ranking(*lists)


def rank_pair(
    table: JointTable,
    up: Side,
    down: Side,
    tokens: int,
    *,
    k: int,
    min_support: int,
    cosines: np.ndarray | None = None,
    effects: PairEffects | None = None,
) -> Ranking:
    """The published neighbours of one layer pair, from a table of any size, anywhere, that stands still.

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
    measures = _measures(cosines is not None, effects)
    best = best_cells(table, up, down, tokens, measures, k, min_support, cosines, effects).values()
    width = len(down.count)
    by_row = _union([found.rows for found in best])
    by_column = _union([found.columns for found in best])
    by_column = by_column[np.argsort(by_column % width, kind="stable")]
    downstream, upstream = (_cells(table, ids, up.count, down.count, cosines) for ids in (by_row, by_column))
    return Ranking(
        Lists(_offsets(downstream.up, len(up.count)), downstream, table.unlisted(downstream=True)),
        Lists(_offsets(upstream.down, width), upstream, table.unlisted(downstream=False)),
    )


def top_lists(table: JointTable, up: Side, down: Side, tokens: int, *, measure: str, k: int, min_support: int) -> np.ndarray:
    """int32 `[Du, k]`: the k best downstream features of every upstream one by a measure, best first; −1 where there are fewer."""
    found = best_cells(table, up, down, tokens, [measure], k, min_support)[measure]
    return np.where(found.rows >= 0, found.rows % len(down.count), -1).astype(np.int32)


def best_cells(
    table: JointTable,
    up: Side,
    down: Side,
    tokens: int,
    measures: Sequence[str],
    k: int,
    min_support: int,
    cosines: np.ndarray | None = None,
    effects: PairEffects | None = None,
) -> dict[str, TopCells]:
    """The top lists of one layer pair by each of some of `kernels.RANKED`; without `effects` those by a lower bound are empty. The
    id of a cell is row · Dd + column, of no cell −1."""
    best = BestCells(*_features(up, down, effects), tokens, measures, k, None if effects is None else effects.by_bin)
    for cells in table.supported(min_support):
        ids = cells.up.astype(np.int64) * len(down.count) + cells.down
        cosine = None if cosines is None else cosines[cells.up, cells.down]
        best.offer(cells.up, cells.down, ids, cells.joint, cells.products, cosine)
    return best.found


def _measures(by_cosine: bool, effects: PairEffects | None) -> list[str]:
    """What is ranked by."""
    left_out = (() if by_cosine else ("decoder_cosine",)) + (BOUNDS if effects is None else ())
    return [measure for measure in RANKED if measure not in left_out]


def _features(up: Side, down: Side, effects: PairEffects | None) -> tuple[Features, Features]:
    rates = (None, None) if effects is None else (effects.up, effects.down)
    of_up, of_down = (
        Features(side.count, side.sum, side.sum_of_squares, of_side) for side, of_side in zip((up, down), rates, strict=True)
    )
    return of_up, of_down


def may_be_missing(errors: np.ndarray, joint: np.ndarray, up: np.ndarray | int, down: np.ndarray | int) -> np.ndarray:
    """int64: what may be missing of joint counts, from the errors of a table and the active counts: a pair is active together at
    most as often as either of its features is."""
    return np.minimum(errors, np.minimum(up, down) - joint)


def _cells(table: JointTable, ids: np.ndarray, up: np.ndarray, down: np.ndarray, cosines: np.ndarray | None) -> Cells:
    """The cells with these ids, in their order; up, down: active counts of the features."""
    found = table.at(*_row_and_column(ids, len(down)))
    i, j, joint = found.up, found.down, found.joint
    cosine = np.full(len(ids), np.nan, np.float32) if cosines is None else cosines[i, j]
    error = found.errors if table.exact else may_be_missing(found.errors, joint, up[i], down[j])
    return Cells(i, j, joint, found.counts[:, 0], found.products, error, cosine)


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
