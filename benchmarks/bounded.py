"""`python -m benchmarks.bounded [--quick] [ROW …]`: pair tables under a memory budget, one core. Rows:

- recall: GPT-2's shape (24,576 features, L0 = 60), 1,024 partners a row: speed against the dense table of the same run, whether the
  bounds hold for every pair, and for how many features with at least 100 activations all of the true ten largest partners are held.
- width: one layer pair of 16k to 1M features under the same budget: cost per token.
- million: three layers of 2^20 features in 20 GB, every statistic of a state, in a process whose memory is looked at.

Activations as in `benchmarks.activations`. A part of the stream is drawn once and counted several times: what grows is the counts,
what is dear is the same.
"""

import argparse
import logging
import subprocess
import sys
import time

import numpy as np
import psutil
import torch

from benchmarks.activations import PairBatch, chain, pair_batch
from benchmarks.rows import Timing, append, measure, one_core, row
from benchmarks.segments import DOCUMENT_TOKENS, sparse_batch
from engine.counts import budget
from engine.counts.bounded import BoundedTable
from engine.counts.pairs import PairTable
from engine.counts.shape import RowSlots, RunShape
from engine.counts.state import State
from engine.encoder.batch import SparseBatch

log = logging.getLogger(__name__)

ROWS = ("recall", "width", "million")
LEADERS, LEAST_ACTIVE = 10, 100
WIDTH_BUDGET = 4 * 10**9
MILLION, MILLION_BUDGET = 1 << 20, 20 * 10**9


def recall_rows(quick: bool) -> list[dict]:
    """The bounded table against the dense one on the same batches."""
    features, kept, tokens, times = (4_096, 256, 8_192, 3) if quick else (24_576, 1_024, 65_536, 4)
    pair, shape = (0, 1), RunShape.of([features, features])
    dense = PairTable.zero(shape, pair)
    table = BoundedTable.zero(shape.with_bounded({pair: RowSlots(kept, 4 * kept)}), pair)
    size = BoundedTable.bytes_at(table.shape, pair)
    seconds: dict[str, list[float]] = {"dense": [], "bounded": []}
    updates = 0
    active = np.zeros(features, np.int64)
    for number in range(times):
        drawn = pair_batch(tokens, features, 60, seed=number)
        batch, updates = sparse_batch(drawn, number * tokens), drawn.updates
        # The frequencies are those of every draw, the features that have them not: they are named by their rank instead.
        active += np.bincount(drawn.up.features.numpy(), minlength=features)
        for name, part in (("dense", dense), ("bounded", table)):
            began = time.process_time()
            part.add(batch)
            if isinstance(part, BoundedTable):
                part.count_gathered()
            seconds[name].append(time.process_time() - began)
    joint = dense.counts.numpy().sum(axis=2)
    complete, held, violated = 0, np.flatnonzero(active >= LEAST_ACTIVE), 0
    everyone = np.arange(features)
    for feature in range(features):
        cells = table.at(np.full(features, feature), everyone)
        violated += int(((cells.joint > joint[feature]) | (joint[feature] > cells.joint + cells.errors)).sum())
        if active[feature] >= LEAST_ACTIVE:
            leaders = np.argsort(-joint[feature], kind="stable")[:LEADERS]
            complete += bool(table.downstream.has(np.full(LEADERS, feature), leaders).all())
    errors = table.downstream.bounds / np.maximum(active, 1)
    timing = _timing(seconds["bounded"])
    share = complete / max(1, len(held))
    log.info(
        "recall: all of the true ten held for %.2f %% of %d features, %d of %d bounds violated",
        100 * share,
        len(held),
        violated,
        features**2,
    )
    return [
        row(
            "bounded",
            "recall",
            {"D": features, "L0": 60, "tokens": tokens * times, "kept": kept},
            timing,
            updates_per_second=updates / timing.p50,
            baseline="the dense table, same batches",
            ratio=timing.p50 / _timing(seconds["dense"]).p50,
            both_directions=True,
            table_bytes=size,
            dense_bytes=PairTable.bytes_at(shape, pair),
            features_with_100=len(held),
            true_ten_held=share,
            bounds_violated=violated,
            mean_bound_share=float(errors[held].mean()) if len(held) else 0.0,
        )
    ]


def width_rows(quick: bool) -> list[dict]:
    """One layer pair, wider and wider, in the same memory."""
    rows, tokens = [], 4_096 if quick else 65_536
    for features in (4_096, 16_384) if quick else (16_384, 65_536, 262_144, MILLION):
        shape = RunShape.of([features, features])
        fitted = budget.fit(shape, WIDTH_BUDGET)
        drawn = pair_batch(tokens, features, 60)
        table = State.of_shape(fitted).pairs[0, 1]
        batch = sparse_batch(drawn, 0)

        def add(table: PairTable | BoundedTable = table, batch: SparseBatch = batch) -> None:
            table.add(batch)
            if isinstance(table, BoundedTable):
                table.count_gathered()

        timing = measure(add, 3)
        (layout,) = budget.layouts(fitted)
        log.info(
            "width %d: %s, kept %s, %.1f µs of CPU a token", features, layout.layout, layout.kept, timing.cpu_p50 / tokens * 1e6
        )
        rows.append(
            row(
                "bounded",
                "width",
                {"D": features, "L0": 60, "tokens": tokens, "budget": WIDTH_BUDGET},
                timing,
                layout=layout.layout,
                kept=layout.kept or features,
                table_bytes=layout.bytes,
                seconds_per_token=timing.cpu_p50 / tokens,
                updates_per_second=drawn.updates / timing.cpu_p50,
            )
        )
        del table, add, batch, drawn
    return rows


def million_rows(quick: bool) -> list[dict]:
    """A whole state of three very wide layers."""
    features, amount, tokens, times = (65_536, 10**9, 4_096, 2) if quick else (MILLION, MILLION_BUDGET, 65_536, 4)
    process = psutil.Process()
    layers = chain(tokens, features, 60, 3)
    before = process.memory_info().rss
    shape = budget.fit(RunShape.of([features] * 3), amount)
    state = State.of_shape(shape)
    seconds, most = [], 0
    for number in range(times):
        batch = sparse_batch(layers, number * tokens)
        began = time.process_time()
        state.add(batch)
        state.end_segment([batch], batch.documents, [int(piece.number) * DOCUMENT_TOKENS for piece in batch.documents])
        for table in state.pairs.values():
            table.exact  # noqa: B018  (counts what was gathered)
        seconds.append(time.process_time() - began)
        most = max(most, process.memory_info().rss)
        log.info(
            "million: segment %d took %.1f s of CPU, %.2f GB beside the activations", number, seconds[-1], (most - before) / 1e9
        )
    timing = _timing(seconds)
    pairs = PairBatch(layers[0], layers[1]).updates + PairBatch(layers[1], layers[2]).updates
    return [
        row(
            "bounded",
            "million",
            {"D": features, "layers": 3, "L0": 60, "tokens": tokens * times, "budget": amount},
            timing,
            kept=min(table.kept or 0 for table in budget.layouts(shape)),
            state_bytes_used=most - before,
            tokens_per_second=tokens / timing.p50,
            updates_per_second=pairs / timing.p50,
        )
    ]


def _timing(seconds: list[float]) -> Timing:
    """CPU seconds of calls that each had other work, the first of them with fresh memory."""
    low, middle, high = np.quantile(seconds, [0.2, 0.5, 0.8])
    return Timing(float(low), float(middle), float(high), float(middle), len(seconds))


def main() -> None:
    """Runs, logs what it finds, and appends the rows (not those of a quick run)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing is written")
    parser.add_argument("rows", nargs="*", default=ROWS, metavar="ROW", help=", ".join(ROWS))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if len(options.rows) > 1:  # each in a process of its own: one needs nearly all the memory there is
        for name in options.rows:
            subprocess.run([sys.executable, "-m", "benchmarks.bounded", name, *(["--quick"] if options.quick else [])], check=True)
        return
    makers = {"recall": recall_rows, "width": width_rows, "million": million_rows}
    torch.set_num_threads(1)
    with one_core():
        found = makers[options.rows[0]](options.quick)
        if not options.quick:
            append(found)


if __name__ == "__main__":
    main()
