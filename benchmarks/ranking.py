"""Top-k: the best neighbours of every feature of a layer pair, in both directions, from a counted table.

    python -m benchmarks.ranking [--quick]

One core. "published lists" is what a publish does for a layer pair: the union of the top 20 by every measure that needs no decoder,
and by the four lower bounds. "by Jaccard" is one measure alone, in one pass over the table; against it what torch has: the measure
of every cell, dense, then `topk` along the rows and along the columns, a block of the table at a time. What can't be beaten is
reading the table's counts once, at the rate at which a core reads them in order, measured in the same run: products are needed only
where a count has the support.
"""

import logging
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.activations import pair_batch
from benchmarks.limits import read_bytes_per_second
from benchmarks.rows import command, measure, one_core, row
from benchmarks.segments import segment
from benchmarks.shapes import DEMO, GEMMA_16K, GPT2, TINY, Shape
from engine.counts.marginals import Marginals
from engine.counts.pairs import PairTable
from engine.counts.shape import RunShape
from engine.views.effects import PairEffects
from engine.views.ranking import Side, best_cells, rank_pair
from kernels import EFFECT_BINS

log = logging.getLogger(__name__)

TOKENS = {DEMO: 262_144, GPT2: 262_144, GEMMA_16K: 262_144}
BATCH = 65_536
K, MIN_SUPPORT = 20, 10  # the defaults of the settings
DESIGN_EFFECT = 2.0  # of every bound: tokens of a document are dependent
BLOCK_CELLS = 1 << 24
BASELINE = "torch topk of dense Jaccard"
BOUND = "the counts are read once, at the rate measured in this run"


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
        return cls(table, *map(Side.of, layers), tokens)

    def lists(self) -> object:
        """What a publish ranks."""
        features = len(self.up.count)
        rates = np.full(features, DESIGN_EFFECT, np.float32)
        effects = PairEffects(partial(np.full_like, fill_value=DESIGN_EFFECT), np.full(EFFECT_BINS, DESIGN_EFFECT), rates, rates)
        return rank_pair(*self, k=K, min_support=MIN_SUPPORT, effects=effects)

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


def ranking_rows(shape: Shape, tokens: int, batch: int, repeats: int) -> Iterator[dict[str, object]]:
    """All arms on one table."""
    counted = Counted.of(shape, tokens, batch)
    counts = counted.table.counts.numpy()
    bound = counts.nbytes / read_bytes_per_second(counts)
    supported = sum(int((counts[block].sum(axis=-1) >= MIN_SUPPORT).sum()) for block in counted.table.blocks())
    arms = {"published lists": counted.lists, "by Jaccard": counted.by_jaccard, BASELINE: counted.by_torch}
    timings = {variant: measure(arm, 1 if variant == BASELINE else repeats) for variant, arm in arms.items()}
    sizes = {"D": shape.features, "L0": shape.active, "tokens": tokens, "k": K, "cells_with_support": supported}
    for variant, timing in timings.items():
        more = {"shape": shape.name, "bound": BOUND, "bound_seconds": bound, "distance": timing.p50 / bound}
        if variant == "by Jaccard":
            more |= {"baseline": BASELINE, "ratio": timings[BASELINE].p50 / timing.p50}
        log.info(
            "top %d, %s, %s: %.2f s, %.2f ns a cell, %.1f times the bound",
            *(K, shape.name, variant, timing.p50, 1e9 * timing.p50 / shape.features**2, timing.p50 / bound),
        )
        yield row("ranking", variant, sizes, timing, **more)


def run(quick: bool) -> Iterator[dict[str, object]]:
    """All rows, shape by shape; `quick` is a tiny dictionary."""
    with one_core():
        for shape, tokens in {TINY: 2_048}.items() if quick else TOKENS.items():
            yield from ranking_rows(shape, tokens, min(tokens, BATCH), 2 if quick else 3)


if __name__ == "__main__":
    command(__doc__, run)
