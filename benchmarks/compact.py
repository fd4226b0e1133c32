"""compact, a SAE's dense output to its active features: against torch `nonzero`, with and without the ReLU that encode contains.

    python -m benchmarks.compact [--quick]

One core. What can't be beaten is reading the dense output once, at the rate at which a core reads it in order, measured in the same
run; the batches are larger than the caches. The goal is three times as fast as `nonzero`.
"""

import logging
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.activations import dense_output
from benchmarks.limits import read_bytes_per_second
from benchmarks.rows import command, measure, one_core, row
from benchmarks.shapes import DEMO, GEMMA_16K, GPT2, TINY, WIDE_1M, WIDE_65K, Shape
from kernels import compact

log = logging.getLogger(__name__)

TOKENS = {DEMO: 16_384, GPT2: 512, GEMMA_16K: 1_024, WIDE_65K: 512, WIDE_1M: 64}
"""Of a batch of each shape: 50 to 270 MB of dense output."""
GOAL = 3.0
BASELINES = {"numba": "torch nonzero", "numba, relu included": "relu + torch nonzero"}
BOUND = "the dense output is read once, at the rate measured in this run"


def torch_way(dense: Tensor) -> tuple[Tensor, Tensor]:
    """Token and feature of every entry that is not 0, int64 [nnz, 2], and its value."""
    where = dense.nonzero()
    return where, dense[where[:, 0], where[:, 1]]


def compact_rows(shape: Shape, tokens: int, repeats: int) -> Iterator[dict[str, object]]:
    """Both ways, without and with ReLU."""
    encoded = dense_output(tokens, shape.features, shape.active)  # before the ReLU
    positive = torch.relu(encoded)
    bound = encoded.nbytes / read_bytes_per_second(encoded.numpy())
    arms = {
        "torch nonzero": lambda: torch_way(positive),
        "numba": lambda: compact(positive),
        "relu + torch nonzero": lambda: torch_way(torch.relu(encoded)),
        "numba, relu included": lambda: compact(encoded),
    }
    timings = {variant: measure(arm, repeats) for variant, arm in arms.items()}
    for variant, timing in timings.items():
        more: dict[str, object] = {"shape": shape.name, "tokens_per_second": tokens / timing.p50}
        more |= {"bound": BOUND, "bound_seconds": bound, "distance": timing.p50 / bound}
        if variant in BASELINES:
            ratio = timings[BASELINES[variant]].p50 / timing.p50
            more |= {"baseline": BASELINES[variant], "ratio": ratio, "goal": f"{GOAL:.0f} times it", "goal_ratio": ratio / GOAL}
        log.info(
            "compact, %s, %s: %.1f µs a token, %.1f times the bound",
            *(shape.name, variant, timing.p50 / tokens * 1e6, timing.p50 / bound),
        )
        yield row("compact", variant, {"D": shape.features, "tokens": tokens, "L0": shape.active}, timing, **more)


def run(quick: bool) -> Iterator[dict[str, object]]:
    """All rows, shape by shape; `quick` is a tiny dictionary."""
    with one_core():
        for shape, tokens in {TINY: 256}.items() if quick else TOKENS.items():
            yield from compact_rows(shape, tokens, 2 if quick else 10)


if __name__ == "__main__":
    command(__doc__, run)
