"""The kernels of gates, on one core: truth tables against the pair counts of the same batch, and the scores of nominated gates.

    python -m benchmarks.gate_kernels [--quick]

- count_gate_cells against accumulate of the same batch (the truth tables may cost at most what the pair counts do), parents being
  the features that are most often active with each child: a few frequent features are parents of nearly all. Its bound: every
  increment that it makes, at the rate of random cells of that table, measured in the same run.
- score_gates with four gates of every child, one of each kind, parents by F1, over documents of median 22 tokens as in the demo
  and 800.
"""

import logging
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.accumulate import empty_tables, halves_of
from benchmarks.activations import PairBatch, pair_batch, tokens_of
from benchmarks.limits import random_update_seconds
from benchmarks.rows import command, measure, one_core, row
from benchmarks.shapes import DEMO, GPT2, TINY, Shape
from kernels import Gates, GateTotals, accumulate, block_masks, count_gate_cells, cut_blocks, make_runs, score_gates

log = logging.getLogger(__name__)

GATE_PARENTS = 6
SEGMENT_TOKENS = 65_536
SIZES = {DEMO: (2_048, 8_192, SEGMENT_TOKENS), GPT2: (512, 4_096, SEGMENT_TOKENS)}
QUICK_SIZES = {TINY: (512, 2_048)}
BOUND = "every increment, at the rate of random cells of that table measured in this run"


def leading_partners(counts: Tensor, batch: PairBatch, by_f1: bool, count: int) -> Tensor:
    """int32 [Dd, count]: of each child the upstream features that are most often active with it, or have the highest F1."""
    up, down = (torch.bincount(part.features.to(torch.int64), minlength=counts.shape[0]).to(torch.float32) for part in batch)
    found = []
    for first in range(0, counts.shape[1], 256):
        score = counts[:, first : first + 256].sum(dim=-1).to(torch.float32)
        if by_f1:
            score = 2 * score / (up[:, None] + down[None, first : first + 256]).clamp(min=1)
        found.append(score.topk(count, dim=0).indices.T)
    return torch.cat(found).to(torch.int32).contiguous()


def cell_rows(shape: Shape, sizes: tuple[int, ...], repeats: int) -> tuple[list[dict], PairBatch, Tensor]:
    """accumulate and count_gate_cells on the same batches; also the largest batch and the gates' likeliest parents."""
    features, active = shape.features, shape.active
    tables, whole = empty_tables(features), pair_batch(max(sizes), features, active)
    accumulate(whole.up, whole.down, halves_of(max(sizes)), None, None, *tables)
    parents = leading_partners(tables[0], whole, False, GATE_PARENTS)
    likely = leading_partners(tables[0], whole, True, 4)
    cells = torch.zeros(features, 2 << GATE_PARENTS, dtype=torch.int32)
    children = torch.bincount(parents.reshape(-1).to(torch.int64), minlength=features)
    update_seconds = random_update_seconds(cells)
    rows = []
    for size in sizes:
        batch = PairBatch(*(tokens_of(part, 0, size) for part in whole))
        count = partial(count_gate_cells, batch.up, batch.down, None, None, features, parents, cells.zero_())
        count()
        bound = int(cells.sum()) * update_seconds
        arms = {"accumulate": partial(accumulate, *batch, halves_of(size), None, None, *tables), "count_gate_cells": count}
        timings = {variant: measure(arm, repeats) for variant, arm in arms.items()}
        cost = timings["count_gate_cells"].cpu_p50 / timings["accumulate"].cpu_p50
        for variant, timing in timings.items():
            more: dict[str, object] = {"shape": shape.name, "seconds_per_token": timing.p50 / size}
            if variant == "count_gate_cells":
                more |= {"baseline": "accumulate", "cost_by_cpu_time": cost, "most_children": int(children.max())}
                more |= {"bound": BOUND, "bound_seconds": bound, "distance": timing.p50 / bound}
            rows.append(row("gates", variant, {"D": features, "tokens": size, "L0": active, "m": GATE_PARENTS}, timing, **more))
        log.info(
            "gate cells, D = %d, T = %d: %.2f µs a token, %.2f times what accumulate costs, %.1f times the bound",
            *(features, size, timings["count_gate_cells"].p50 / size * 1e6, cost, timings["count_gate_cells"].p50 / bound),
        )
    return rows, whole, likely


def document_lengths(tokens: int, median: int) -> np.ndarray:
    """int64: log-normal with σ = 1, at most a cluster of 4,096; the last is cut so that all of them are `tokens`."""
    lengths = np.clip(np.random.default_rng(0).lognormal(np.log(median), 1.0, tokens), 1, 4096).astype(np.int64)
    ends = np.minimum(np.cumsum(lengths), tokens)
    kept = int(np.searchsorted(ends, tokens)) + 1
    return np.diff(ends[:kept], prepend=0)


def score_rows(shape: Shape, batch: PairBatch, parents: Tensor, repeats: int) -> Iterator[dict]:
    """block_masks of a layer and score_gates of a layer pair on a segment, four gates of every child."""
    features, tokens = shape.features, batch.up.tokens
    kinds = np.tile(np.arange(4, dtype=np.uint8), features)
    slots = np.tile(np.array([[0, 1, 2], [0, 2, 3], [1, 3, 2], [0, 1, 2]]), (features, 1))
    child = np.repeat(np.arange(features, dtype=np.int32), 4)
    named = parents.numpy()[child[:, None], slots]
    best = named[:, 0].copy()
    named[kinds != 3, 2] = -1
    gates = Gates(kinds, named, child, best)
    for median in (22, 800):
        lengths = document_lengths(tokens, median)
        cluster, blocks = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths), cut_blocks(lengths)
        runs = []
        for part in batch:
            offsets, entries, values = (array.numpy() for array in part)
            runs.append(make_runs(np.arange(tokens), cluster, offsets.astype(np.int64), entries, values, None, features))
        half, special = (np.arange(len(lengths)) % 2).astype(np.uint8), np.full(len(lengths), -1, np.int32)
        up, down = (block_masks(one, blocks) for one in runs)
        totals = GateTotals.zero(len(kinds))
        timings = {
            "block_masks": measure(partial(block_masks, runs[0], blocks), repeats),
            "score_gates": measure(partial(score_gates, up, down, gates, blocks, half, special, totals, (0.5, 0.25)), repeats),
        }
        sizes = {"D": features, "tokens": tokens, "L0": shape.active, "documents": len(lengths), "blocks": len(blocks.tokens)}
        for variant, timing in timings.items():
            scored: dict[str, int] = {"gates": len(kinds)} if variant == "score_gates" else {}
            yield row("gates", variant, sizes | scored, timing, shape=shape.name, seconds_per_token=timing.p50 / tokens)
        log.info(
            "gate scores, D = %d, %d documents: %.2f µs a token and layer pair, %.1f µs a gate; masks %.2f µs a token and layer",
            *(features, len(lengths), timings["score_gates"].p50 / tokens * 1e6, timings["score_gates"].p50 / len(kinds) * 1e6),
            timings["block_masks"].p50 / tokens * 1e6,
        )


def run(quick: bool) -> Iterator[dict[str, object]]:
    """The demo's shape and GPT-2's; `quick` is a tiny one."""
    with one_core():
        for shape, sizes in (QUICK_SIZES if quick else SIZES).items():
            rows, batch, parents = cell_rows(shape, sizes, 2 if quick else 5)
            yield from rows
            yield from score_rows(shape, batch, parents, 2 if quick else 5)


if __name__ == "__main__":
    command(__doc__, run)
