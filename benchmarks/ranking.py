"""Top-k: the best neighbours of every feature of a layer pair, in both directions, from a counted table.

    python -m benchmarks.ranking [--quick]

One core, by its CPU time. "cells taken" is what a publish does while nothing counts: a copy of the cells with support. "published
lists" is what it does with them beside the counting: the union of the top 20 by every measure that needs no decoder, and by the
four lower bounds, as the first time, when nothing is known of the last ones. "where it stands" is the same without a copy. "by
Jaccard" is one measure alone, in one pass over the table; against it what torch has: the measure of every cell, dense, then
`topk` along the rows and along the columns, a block of the table at a time.

What can't be beaten: the table is read once, and the cheapest score, Jaccard, is computed of every cell with support for each of
the measures and held against what its row and its column keep; both at the rate measured in the same run on the same table, the
larger of the two.
"""

import logging
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from benchmarks.activations import pair_batch
from benchmarks.limits import fastest, read_bytes_per_second
from benchmarks.rows import command, measure, one_core, row
from benchmarks.segments import segment
from benchmarks.shapes import DEMO, GEMMA_16K, GPT2, TINY, Shape
from engine.counts.marginals import Marginals
from engine.counts.pairs import PairTable
from engine.counts.shape import RunShape
from engine.views.effects import PairEffects
from engine.views.ranking import Side, best_cells, rank_cells, rank_pair, take_cells
from kernels import EFFECT_BINS, RANKED, Supported
from kernels.cpu.accumulate import Cells

log = logging.getLogger(__name__)

TOKENS = {DEMO: 262_144, GPT2: 262_144, GEMMA_16K: 262_144}
BATCH = 65_536
K, MIN_SUPPORT = 20, 10  # the defaults of the settings
DESIGN_EFFECT = 2.0  # of every bound: tokens of a document are dependent
BLOCK_CELLS = 1 << 24
BASELINE = "torch topk of dense Jaccard"
BOUND = "the table read once, or a score of every cell with support for each measure, at the rates measured in this run"
SCORED = 1 << 22  # cells with support that the rate of scores is measured on


class Counted(NamedTuple):
    """A layer pair after some tokens."""

    table: PairTable
    up: Side
    down: Side
    tokens: int

    @classmethod
    def of(cls, shape: Shape, tokens: int, batch: int) -> "Counted":
        """Through the state's own parts."""
        run = RunShape.of([shape.features] * 2)
        table, layers = PairTable.zero(run, (0, 1)), [Marginals.zero(run, (layer,)) for layer in (0, 1)]
        stream = pair_batch(tokens, shape.features, shape.active)
        for one in segment(stream, 0, tokens, batch).batches:
            for part in (table, *layers):
                part.add(one)
        up, down = map(Side.of, layers)
        return cls(table, up, down, tokens)

    def effects(self) -> PairEffects:
        """The same for all."""
        rates = np.full(len(self.up.count), DESIGN_EFFECT, np.float32)
        return PairEffects(partial(np.full_like, fill_value=DESIGN_EFFECT), np.full(EFFECT_BINS, DESIGN_EFFECT), rates, rates)

    def taken(self) -> Supported:
        """What is taken out of the table."""
        cells = take_cells(self.table, MIN_SUPPORT, 1 << 40)
        if not isinstance(cells, Supported):
            raise TypeError(f"{type(cells).__name__} was taken out of a dense table")
        return cells

    def where_it_stands(self) -> object:
        """The published lists, from the table itself."""
        return rank_pair(*self, k=K, min_support=MIN_SUPPORT, effects=self.effects())

    def by_jaccard(self) -> tuple[np.ndarray, np.ndarray]:
        """int64 [D, K] each: the ids of the best cells of every row and of every column, −1 where there are fewer."""
        found = best_cells(*self, ["jaccard"], K, MIN_SUPPORT)["jaccard"]
        return found.rows, found.columns

    def by_torch(self) -> tuple[Tensor, Tensor]:
        """float32 [D, K] each: the best Jaccard indices of every row and of every column, −1 where there are fewer."""
        counts = self.table.counts
        up, down = (torch.from_numpy(side.count).to(torch.float32) for side in (self.up, self.down))
        step = max(K, BLOCK_CELLS // len(up))

        def best(dim: int) -> Tensor:
            found = []
            for first in range(0, len(up), step):
                part = slice(first, first + step)
                where = (part, slice(None)) if dim == 1 else (slice(None), part)
                joint = counts[where].sum(dim=2).to(torch.float32)
                jaccard = joint / (up[where[0], None] + down[None, where[1]] - joint)
                jaccard[joint < MIN_SUPPORT] = -1.0
                found.append(jaccard.topk(K, dim=dim).values)
            return torch.cat(found, dim=1 - dim)

        return best(1), best(0).T


def score_seconds(counted: Counted) -> float:
    """Seconds in which a score is computed of a cell with support and held against two numbers."""
    found = []
    for cells in counted.table.supported(MIN_SUPPORT):
        found.append((cells.up, cells.down, cells.joint))
        if sum(len(up) for up, *_ in found) > SCORED:
            break
    cells = [np.concatenate(column) for column in zip(*found, strict=True)]
    up, down = (side.count.astype(np.float64) for side in (counted.up, counted.down))
    kept = np.full(len(up), 2.0)  # more than a score can be
    return fastest(_scores, *cells, up, down, kept, kept.copy()) / len(cells[0])


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _scores(up, down, joint, n_up, n_down, of_row, of_column):
    above = 0
    for at in range(len(up)):
        i, j, both = np.uint64(up[at]), np.uint64(down[at]), np.float64(joint[at])
        score = both / (n_up[i] + n_down[j] - both)
        above += (score > of_row[i]) | (score > of_column[j])
    return above


def ranking_rows(shape: Shape, tokens: int, batch: int, repeats: int) -> Iterator[dict[str, object]]:
    """All arms on one table."""
    counted = Counted.of(shape, tokens, batch)
    cells = Cells.of(counted.table.counts, counted.table.products).products
    read, score = cells.nbytes / read_bytes_per_second(cells), score_seconds(counted)
    taken = counted.taken()
    supported = len(taken.joint)
    ranked = partial(rank_cells, taken, *counted[1:], k=K, by_cosine=False, effects=counted.effects())
    arms = {
        "cells taken": counted.taken,
        "published lists": ranked,
        "where it stands": counted.where_it_stands,
        "by Jaccard": counted.by_jaccard,
        BASELINE: counted.by_torch,
    }
    timings = {variant: measure(arm, 1 if variant == BASELINE else repeats) for variant, arm in arms.items()}
    sizes = {"D": shape.features, "L0": shape.active, "tokens": tokens, "k": K, "cells_with_support": supported}
    for variant, timing in timings.items():
        scored = {"cells taken": 0, "by Jaccard": 1, BASELINE: 1}.get(variant, len(RANKED) - 1)  # without decoder cosine
        bound = max(0.0 if variant == "published lists" else read, score * supported * scored)
        more = {"shape": shape.name, "bound": BOUND, "bound_seconds": bound, "distance": timing.cpu_p50 / bound}
        if variant == "by Jaccard":
            more |= {"baseline": BASELINE, "ratio": timings[BASELINE].cpu_p50 / timing.cpu_p50}
        log.info(
            "top %d, %s, %s: %.2f s, %.2f ns a cell, %.1f times the bound",
            *(K, shape.name, variant, timing.cpu_p50, 1e9 * timing.cpu_p50 / shape.features**2, timing.cpu_p50 / bound),
        )
        yield row("ranking", variant, sizes, timing, **more)


def run(quick: bool) -> Iterator[dict[str, object]]:
    """All rows, shape by shape; `quick` is a tiny dictionary."""
    with one_core():
        for shape, tokens in {TINY: 2_048}.items() if quick else TOKENS.items():
            yield from ranking_rows(shape, tokens, min(tokens, BATCH), 2 if quick else 3)


if __name__ == "__main__":
    command(__doc__, run)
