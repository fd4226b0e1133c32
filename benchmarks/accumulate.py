"""accumulate, the pair counts of a batch of one layer pair: against what else makes them, the goals, and the machine.

    python -m benchmarks.accumulate [--quick]

- Baselines (`benchmarks.pair_products`) get the same batch on the same core. The dense matmuls cost the same whatever is active and
  are timed once a dictionary on fewer tokens, per token.
- The bound is that of `benchmarks.limits`, of the same batch and measured in the same run.
- Goals are updates (joint activations, Σ_t |up_t|·|down_t|) per second and core at T = 65,536, both statistics.
- One layer pair of each shape: pairs are counted one after the other, so that the others cost the same again (`benchmarks.growth`).
"""

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import psutil
import torch
from torch import Tensor

from benchmarks.activations import PairBatch, pair_batch
from benchmarks.limits import BOUND, Limits, PairWork, measure_limits
from benchmarks.pair_products import DenseMatmuls, ScipySparse, TorchSparse
from benchmarks.rows import Timing, command, measure, one_core, row
from benchmarks.shapes import DEMO, GEMMA_16K, GPT2, TINY, WIDE_1M, WIDE_65K, Shape
from kernels import accumulate
from kernels.tables import zero_tables

log = logging.getLogger(__name__)

DOCUMENT_TOKENS = 512  # of one half, then as many of the other
GOAL_TOKENS = 65_536
GOALS = {20: 82e6, 60: 217e6, 120: 294e6}
"""By L0: updates per second that a core is to make in numba."""
EXTENSION_GOALS = {20: 208e6, 60: 355e6, 120: 399e6}
"""The same of a compiled extension, if that is worth its build."""


class Case(NamedTuple):
    """A batch of one layer pair of a shape, with another L0 than the shape's perhaps, and how many cores may count it."""

    shape: Shape
    active: int
    tokens: int
    cores: int = 1
    against: bool = False
    """Whether the sparse baselines are timed on it."""

    def sizes(self) -> dict[str, int]:
        return {"D": self.shape.features, "L0": self.active, "tokens": self.tokens, "layer_pairs": 1}


CASES = (
    Case(DEMO, 16, 2_048, against=True),
    Case(DEMO, 16, GOAL_TOKENS, against=True),
    Case(GPT2, 60, 512, against=True),
    Case(GPT2, 60, 4_096, against=True),
    *(Case(GPT2, active, GOAL_TOKENS, against=True) for active in GOALS),
    Case(GPT2, 60, GOAL_TOKENS, cores=2),
    Case(GEMMA_16K, 80, GOAL_TOKENS, against=True),
    Case(WIDE_65K, 80, 8_192, against=True),
    Case(WIDE_1M, 80, 8_192, against=True),
)
QUICK = (Case(TINY, 12, 1_024, against=True), Case(TINY, 12, 1_024, cores=2))
DENSE_TOKENS = {DEMO: 8_192, TINY: 512}
DENSE_DEFAULT = 1_024


def empty_tables(features: int) -> tuple[Tensor, Tensor]:
    """int32 [features, features, 2] and float64 [features, features], written once so that no timing pays for page faults."""
    counts, products = zero_tables(features, features)
    return counts.fill_(1).zero_(), products.fill_(1).zero_()


def halves_of(tokens: int) -> Tensor:
    """uint8 [tokens]."""
    return (torch.arange(tokens) // DOCUMENT_TOKENS % 2).to(torch.uint8)


def shape_rows(shape: Shape, cases: list[Case], repeats: int) -> Iterator[dict[str, object]]:
    """The dense matmuls once, then every case of a shape with its baselines."""
    if 2 * shape.table_bytes > psutil.virtual_memory().total:  # half of it at most: the batch and the machine need some, too
        yield from _wide_rows(shape, cases)
        return
    with one_core():
        dense = _dense_timing(shape, max(1, repeats // 2))
    tokens = DENSE_TOKENS.get(shape, DENSE_DEFAULT)
    log.info("%s, %s: %.1f tokens/s", shape.name, DenseMatmuls.name, tokens / dense.p50)
    tables, limits = empty_tables(shape.features), None
    for case in cases:
        batch = pair_batch(case.tokens, shape.features, case.active)
        with one_core():
            if limits is None:
                limits = measure_limits(*tables, batch.down)
                yield row("limits", "one core", {"D": shape.features}, None, **limits.fields())
                yield _dense_row(shape, tokens, dense, limits)
            others = _sparse_rows(case, batch, limits) if case.against else {}
        yield from others.values()
        yield _own_row(case, batch, tables, limits, {DenseMatmuls.name: dense.p50 / tokens * case.tokens}, others, repeats)


def _own_row(
    case: Case,
    batch: PairBatch,
    tables: tuple[Tensor, Tensor],
    limits: Limits,
    seconds: dict[str, float],
    others: dict[str, dict],
    repeats: int,
) -> dict[str, object]:
    """Ours, with the ratios to all baselines."""
    add = partial(accumulate, batch.up, batch.down, halves_of(case.tokens), None, None, *tables)
    with one_core() if case.cores == 1 else nullcontext():
        timing = measure(add, repeats)
    seconds |= {name: other["seconds"]["p50"] for name, other in others.items()}
    ratios = {name: took / timing.p50 for name, took in seconds.items()}
    rate, goals = batch.updates / timing.p50, {}
    if case.tokens == GOAL_TOKENS and case.cores == 1 and case.shape == GPT2:
        goals = {"goal": f"{GOALS[case.active] / 1e6:.0f} million updates/s a core", "goal_ratio": rate / GOALS[case.active]}
        goals["extension_goal_ratio"] = rate / EXTENSION_GOALS[case.active]
    log.info(
        "%s, L0 = %d, T = %d, %d cores: %.0f M updates/s (%.0f by CPU time), %s, goal %s",
        *(case.shape.name, case.active, case.tokens, case.cores, rate / 1e6, batch.updates / timing.cpu_p50 / 1e6),
        ", ".join(f"{ratio:.1f} times {name}" for name, ratio in ratios.items()),
        goals.get("goal_ratio"),
    )
    more = _more(case, batch, timing, limits) | goals
    return row(
        *("accumulate", "numba" if case.cores == 1 else f"numba, {case.cores} cores", case.sizes(), timing),
        **more,
        baseline=DenseMatmuls.name,
        ratio=ratios[DenseMatmuls.name],
        ratios=ratios,
    )


def _more(case: Case, batch: PairBatch, timing: Timing, limits: Limits) -> dict[str, object]:
    """Rates, and the distance to the bound."""
    bound = PairWork.of(*batch, case.shape.features).seconds(limits) / case.cores
    return {
        "shape": case.shape.name,
        "tokens_per_second": case.tokens / timing.p50,
        "updates_per_second": batch.updates / timing.p50,
        "updates_per_cpu_second": batch.updates / timing.cpu_p50,
        "bound": BOUND,
        "bound_seconds": bound,
        "distance": timing.p50 / bound,
    }


def _sparse_rows(case: Case, batch: PairBatch, limits: Limits | None) -> dict[str, dict]:
    """One row of either sparse product; without limits they have no bound."""
    found = {}
    for product in (ScipySparse, TorchSparse):
        timing = measure(product(batch, case.shape.features), 1, warmups=0)
        rate = {"shape": case.shape.name, "tokens_per_second": case.tokens / timing.p50}
        more = _more(case, batch, timing, limits) if limits else rate
        log.info("%s, L0 = %d, T = %d, %s: %.2f s", case.shape.name, case.active, case.tokens, product.name, timing.p50)
        found[product.name] = row("accumulate", product.name, case.sizes(), timing, **more)
    return found


def _dense_timing(shape: Shape, repeats: int) -> Timing:
    batch = pair_batch(DENSE_TOKENS.get(shape, DENSE_DEFAULT), shape.features, shape.active)
    return measure(DenseMatmuls(batch, shape.features), repeats)


def _dense_row(shape: Shape, tokens: int, timing: Timing, limits: Limits) -> dict[str, object]:
    case, batch = Case(shape, shape.active, tokens), pair_batch(tokens, shape.features, shape.active)
    return row("accumulate", DenseMatmuls.name, case.sizes(), timing, **_more(case, batch, timing, limits))


def _wide_rows(shape: Shape, cases: list[Case]) -> Iterator[dict[str, object]]:
    """A shape whose dense table this machine can't hold: the sparse baselines, and why there is nothing of ours here."""
    why = f"a dense table of one layer pair takes {shape.table_bytes / 1e9:,.0f} GB: see the rows of bounded tables"
    for case in cases:
        with one_core():
            yield from _sparse_rows(case, pair_batch(case.tokens, shape.features, case.active), None).values()
        log.info("%s: %s", shape.name, why)
        yield row("accumulate", "numba", case.sizes(), None, shape=shape.name, missed=why)


def run(quick: bool) -> Iterator[dict[str, object]]:
    """All rows, shape by shape; `quick` is a tiny dictionary."""
    cases = QUICK if quick else CASES
    for shape in dict.fromkeys(case.shape for case in cases):
        yield from shape_rows(shape, [case for case in cases if case.shape == shape], 2 if quick else 5)


if __name__ == "__main__":
    command(__doc__, run)
