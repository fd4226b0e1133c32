"""`python -m benchmarks.kernels [--quick]`: the kernels against what they replace, one core each, both arms in the same run.

- accumulate against the paper's way: counts by A_active.T @ B_active, products by A.T @ B, dense float32, added in place
  (`addmm_`, its fastest form). The dense arm costs the same whatever is active and is timed on fewer tokens, per token.
- compact against torch `nonzero` on the same dense output, with and without the ReLU that a SAE's encode contains.
- Gates: count_gate_cells against accumulate of the same batch (the truth tables may cost at most what the pair counts do), parents
  being the features that are most often active with each child: a few frequent features are parents of nearly all. score_gates
  with four gates of every child, one of each kind, parents by F1, over documents of median 22 tokens as in the demo and 800.
- The share: compact of 12 layers and accumulate of 11 pairs per token, against 703 MFLOP per token (GPT-2 small up to the last
  hook point and 12 encoders of 24,576 features) at the matmul rate that is measured in the same run.
"""

import argparse
import logging
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.activations import PairBatch, dense_output, pair_batch
from benchmarks.rows import Timing, append, measure, one_core, row
from kernels import Csr, Gates, GateTotals, accumulate, block_masks, compact, count_gate_cells, cut_blocks, make_runs, score_gates
from kernels.reference import densify

log = logging.getLogger(__name__)

PAPER = "dense float32 matmuls"
MODEL_FLOP = 703e6  # per token
LAYERS, PAIRS = 12, 11
D_MODEL = 768
DOCUMENT_TOKENS = 512  # of one half, then as many of the other
GATE_PARENTS = 6
SEGMENT_TOKENS = 65_536
MICRO_BATCH = 512  # tokens that a CPU pushes through GPT-2 and its SAEs in some seconds: the engine counts batches of this order


def empty_tables(features: int) -> tuple[Tensor, Tensor]:
    """int32 [features, features, 2] and float64 [features, features], written once so that no timing pays for page faults. numpy
    asks for huge pages."""
    counts = torch.from_numpy(np.zeros((features, features, 2), np.int32))
    products = torch.from_numpy(np.zeros((features, features)))
    return counts.fill_(1).zero_(), products.fill_(1).zero_()


def paper_seconds_per_token(tokens: int, features: int, repeats: int) -> tuple[Timing, float]:
    """The dense way on one batch; p50 of the seconds per token beside the timing of a call."""
    batch = pair_batch(tokens, features, 60)
    a, b = (densify(part, features).to(torch.float32) for part in batch)
    counts, products = torch.ones(features, features), torch.ones(features, features)

    def add() -> None:
        counts.addmm_((a > 0).to(torch.float32).T, (b > 0).to(torch.float32))
        products.addmm_(a.T, b)

    timing = measure(add, repeats)
    return timing, timing.p50 / tokens


def accumulate_rows(tokens: int, dense_tokens: int, features: int, repeats: int) -> tuple[list[dict], dict[int, float]]:
    """The paper's way, then L0 = 20, 60, 120 and one small batch; also our seconds per token at L0 = 60 by batch size."""
    paper, paper_token = paper_seconds_per_token(dense_tokens, features, max(1, repeats // 2))
    sizes = {"D": features, "tokens": dense_tokens}
    rows = [row("accumulate", PAPER, sizes, paper, tokens_per_second=1 / paper_token)]
    log.info("%s: %.1f tokens/s", PAPER, 1 / paper_token)
    at_60: dict[int, float] = {}
    tables = empty_tables(features)
    for active, size in ((20, tokens), (60, tokens), (120, tokens), (60, MICRO_BATCH)):
        batch = pair_batch(size, features, active)
        add = partial(accumulate, batch.up, batch.down, halves_of(size), None, None, *tables)
        timing = measure(add, repeats)
        rate = size / timing.p50
        ratio = paper_token * rate
        cpu_ratio = paper.cpu_p50 / dense_tokens / (timing.cpu_p50 / size)
        log.info("accumulate L0 = %d, T = %d: %.0f tokens/s, %.0f times (%.0f by CPU time)", active, size, rate, ratio, cpu_ratio)
        rows.append(
            row(
                "accumulate",
                "numba",
                {"D": features, "tokens": size, "L0": active},
                timing,
                tokens_per_second=rate,
                updates_per_second=batch.updates / timing.p50,
                baseline=PAPER,
                ratio=ratio,
                ratio_by_cpu_time=cpu_ratio,
            )
        )
        if active == 60:
            at_60[size] = timing.p50 / size
    return rows, at_60


def compact_rows(tokens: int, features: int, repeats: int) -> tuple[list[dict], float]:
    """Rows for compact and torch nonzero; also our seconds per token."""
    encoded = dense_output(tokens, features, 60)  # before the ReLU
    positive = torch.relu(encoded)

    def torch_way(dense: Tensor) -> tuple[Tensor, Tensor]:
        where = dense.nonzero()
        return where, dense[where[:, 0], where[:, 1]]

    arms = {
        "torch nonzero": lambda: torch_way(positive),
        "numba": lambda: compact(positive),
        "relu + torch nonzero": lambda: torch_way(torch.relu(encoded)),
        "numba, relu included": lambda: compact(encoded),
    }
    baselines = {"numba": "torch nonzero", "numba, relu included": "relu + torch nonzero"}
    timings = {variant: measure(arm, repeats) for variant, arm in arms.items()}
    rows = []
    for variant, timing in timings.items():
        more: dict[str, object] = {"tokens_per_second": tokens / timing.p50}
        if variant in baselines:
            baseline = timings[baselines[variant]]
            more |= {"baseline": baselines[variant], "ratio": baseline.p50 / timing.p50}
            more |= {"ratio_by_cpu_time": baseline.cpu_p50 / timing.cpu_p50}
        log.info("compact, %s: %.1f µs a token", variant, timing.p50 / tokens * 1e6)
        rows.append(row("compact", variant, {"D": features, "tokens": tokens, "L0": 60}, timing, **more))
    return rows, timings["numba, relu included"].p50 / tokens


def halves_of(tokens: int) -> Tensor:
    """uint8 [tokens]."""
    return (torch.arange(tokens) // DOCUMENT_TOKENS % 2).to(torch.uint8)


def first_tokens(batch: PairBatch, tokens: int) -> PairBatch:
    """The head of a batch: the same features, and so the same parents."""

    def head(part: Csr) -> Csr:
        end = int(part.offsets[tokens])
        return Csr(part.offsets[: tokens + 1], part.features[:end], part.values[:end])

    return PairBatch(head(batch.up), head(batch.down))


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


def gate_cell_rows(features: int, active: int, sizes: tuple[int, ...], repeats: int) -> tuple[list[dict], PairBatch, Tensor]:
    """accumulate and count_gate_cells on the same batches; also the largest batch and the gates' likeliest parents."""
    tables, whole = empty_tables(features), pair_batch(max(sizes), features, active)
    accumulate(whole.up, whole.down, halves_of(max(sizes)), None, None, *tables)
    parents = leading_partners(tables[0], whole, False, GATE_PARENTS)
    likely = leading_partners(tables[0], whole, True, 4)
    cells = torch.zeros(features, 2 << GATE_PARENTS, dtype=torch.int32)
    children = torch.bincount(parents.reshape(-1).to(torch.int64), minlength=features)
    rows = []
    for size in sizes:
        batch = first_tokens(whole, size)
        arms = {
            "accumulate": partial(accumulate, batch.up, batch.down, halves_of(size), None, None, *tables),
            "count_gate_cells": partial(count_gate_cells, batch.up, batch.down, None, None, features, parents, cells),
        }
        timings = {variant: measure(arm, repeats) for variant, arm in arms.items()}
        cost = timings["count_gate_cells"].cpu_p50 / timings["accumulate"].cpu_p50
        for variant, timing in timings.items():
            more: dict[str, object] = {"seconds_per_token": timing.p50 / size}
            if variant == "count_gate_cells":
                more |= {"baseline": "accumulate", "cost_by_cpu_time": cost, "most_children": int(children.max())}
            rows.append(row("gates", variant, {"D": features, "tokens": size, "L0": active, "m": GATE_PARENTS}, timing, **more))
        log.info(
            "gate cells, D = %d, T = %d: %.2f µs a token, %.2f times what accumulate costs",
            features,
            size,
            timings["count_gate_cells"].p50 / size * 1e6,
            cost,
        )
    return rows, whole, likely


def document_lengths(tokens: int, median: int) -> np.ndarray:
    """int64: log-normal with σ = 1, at most a cluster of 4,096; the last is cut so that all of them are `tokens`."""
    lengths = np.clip(np.random.default_rng(0).lognormal(np.log(median), 1.0, tokens), 1, 4096).astype(np.int64)
    ends = np.minimum(np.cumsum(lengths), tokens)
    kept = int(np.searchsorted(ends, tokens)) + 1
    return np.diff(ends[:kept], prepend=0)


def gate_score_rows(batch: PairBatch, features: int, active: int, parents: Tensor, repeats: int) -> list[dict]:
    """block_masks of a layer and score_gates of a layer pair on a segment, four gates of every child."""
    tokens, kinds = batch.up.tokens, np.tile(np.arange(4, dtype=np.uint8), features)
    slots = np.tile(np.array([[0, 1, 2], [0, 2, 3], [1, 3, 2], [0, 1, 2]]), (features, 1))
    child = np.repeat(np.arange(features, dtype=np.int32), 4)
    named = parents.numpy()[child[:, None], slots]
    best = named[:, 0].copy()
    named[kinds != 3, 2] = -1
    gates, rows = Gates(kinds, named, child, best), []
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
        sizes = {"D": features, "tokens": tokens, "L0": active, "documents": len(lengths), "blocks": len(blocks.tokens)}
        for variant, timing in timings.items():
            scored: dict[str, int] = {"gates": len(kinds)} if variant == "score_gates" else {}
            rows.append(row("gates", variant, sizes | scored, timing, seconds_per_token=timing.p50 / tokens))
        log.info(
            "gate scores, D = %d, %d documents: %.2f µs a token and layer pair, %.1f µs a gate; masks %.2f µs a token and layer",
            features,
            len(lengths),
            timings["score_gates"].p50 / tokens * 1e6,
            timings["score_gates"].p50 / len(kinds) * 1e6,
            timings["block_masks"].p50 / tokens * 1e6,
        )
    return rows


def gate_rows(quick: bool, features: int, repeats: int) -> list[dict]:
    """The demo's shape and GPT-2's."""
    rows = []
    for width, active, sizes in ((1024, 15, (2048, 8192, SEGMENT_TOKENS)), (features, 60, (MICRO_BATCH, 4096, SEGMENT_TOKENS))):
        kept = tuple(size for size in sizes if size < SEGMENT_TOKENS) if quick else sizes
        found, batch, parents = gate_cell_rows(width, active, kept, repeats)
        rows += found + gate_score_rows(batch, width, active, parents, repeats)
    return rows


def share_rows(compact_token: float, accumulate_token: dict[int, float], features: int, repeats: int) -> list[dict]:
    """Compact of 12 layers and accumulate of 11 pairs, in batches of each size, as a share of model + encode at the matmul rate."""
    tokens = 1024
    residual, weights = torch.rand(tokens, D_MODEL), torch.rand(D_MODEL, features)
    out = torch.empty(tokens, features)
    timing = measure(lambda: torch.mm(residual, weights, out=out), repeats)
    flop_per_second = 2 * tokens * D_MODEL * features / timing.p50
    model_token = MODEL_FLOP / flop_per_second
    rows = []
    for size, pair_token in accumulate_token.items():
        share = (LAYERS * compact_token + PAIRS * pair_token) / model_token
        log.info("statistics, T = %d: %.1f %% of model + encode at %.0f GFLOP/s", size, 100 * share, flop_per_second / 1e9)
        rows.append(
            row(
                "share",
                "compact of 12 layers + accumulate of 11 pairs",
                {"D": features, "d_model": D_MODEL, "tokens": size, "matmul_tokens": tokens},
                timing,
                matmul_flop_per_second=flop_per_second,
                baseline="model + encode, 703 MFLOP per token at the measured matmul rate",
                model_seconds_per_token=model_token,
                compact_seconds_per_token=LAYERS * compact_token,
                accumulate_seconds_per_token=PAIRS * pair_token,
                share=share,
            )
        )
    return rows


def run(quick: bool) -> list[dict]:
    """All rows; `quick` is a sixth of the dictionary and a tenth of the tokens, to see that everything works."""
    features = 4096 if quick else 24_576
    repeats = 3 if quick else 5
    with one_core():
        compacted, compact_token = compact_rows(512, features, 2 * repeats)
        added, accumulate_token = accumulate_rows(6_144 if quick else 65_536, 256 if quick else 1_024, features, repeats)
        shared = share_rows(compact_token, accumulate_token, features, repeats)
        return [*compacted, *added, *shared, *gate_rows(quick, features, repeats)]


def main() -> None:
    """Runs, logs what it finds, and appends the rows (not those of a quick run)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing is written")
    quick = parser.parse_args().quick
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rows = run(quick)
    if not quick:
        append(rows)


if __name__ == "__main__":
    main()
