"""What the statistics cost beside the model: compact of 12 layers and accumulate of 11 pairs per token, on one core.

    python -m benchmarks.share [--quick]

Against 703 MFLOP per token (GPT-2 small up to the last hook point and 12 encoders of 24,576 features) at the matmul rate that is
measured in the same run, in batches of two sizes: the fewer tokens, the fewer cells repeat.
"""

import logging
from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.accumulate import empty_tables, halves_of
from benchmarks.activations import dense_output, pair_batch
from benchmarks.rows import command, measure, one_core, row
from benchmarks.shapes import GPT2, TINY
from kernels import accumulate, compact

log = logging.getLogger(__name__)

MODEL_FLOP = 703e6  # per token
D_MODEL = 768
MATMUL_TOKENS = 1_024
MICRO_BATCH = 512  # tokens that a CPU pushes through GPT-2 and its SAEs in some seconds: the engine counts batches of this order
SEGMENT_TOKENS = 65_536


def run(quick: bool) -> Iterator[dict[str, object]]:
    """A row a batch size; `quick` is a tiny dictionary."""
    shape, sizes = (TINY, (256, 1_024)) if quick else (GPT2, (MICRO_BATCH, SEGMENT_TOKENS))
    repeats = 2 if quick else 5
    with one_core():
        residual, weights = torch.rand(MATMUL_TOKENS, D_MODEL), torch.rand(D_MODEL, shape.features)
        out = torch.empty(MATMUL_TOKENS, shape.features)
        matmul = measure(partial(torch.mm, residual, weights, out=out), repeats)
        flop_per_second = 2 * MATMUL_TOKENS * D_MODEL * shape.features / matmul.p50
        model = MODEL_FLOP / flop_per_second
        encoded = dense_output(MICRO_BATCH, shape.features, shape.active)
        compacting = shape.layers * measure(partial(compact, encoded), 2 * repeats).p50 / MICRO_BATCH
        tables = empty_tables(shape.features)
        for size in sizes:
            batch = pair_batch(size, shape.features, shape.active)
            timing = measure(partial(accumulate, *batch, halves_of(size), None, None, *tables), repeats)
            counting = (shape.layers - 1) * timing.p50 / size
            share = (compacting + counting) / model
            log.info("statistics, T = %d: %.1f %% of model + encode at %.0f GFLOP/s", size, 100 * share, flop_per_second / 1e9)
            yield row(
                "share",
                f"compact of {shape.layers} layers + accumulate of {shape.layers - 1} pairs",
                {"D": shape.features, "d_model": D_MODEL, "tokens": size, "L0": shape.active},
                timing,
                matmul_flop_per_second=flop_per_second,
                baseline="model + encode, 703 MFLOP per token at the measured matmul rate",
                model_seconds_per_token=model,
                compact_seconds_per_token=compacting,
                accumulate_seconds_per_token=counting,
                share=share,
            )


if __name__ == "__main__":
    command(__doc__, run)
