"""The kernels at GPT-2's shapes, each beside what it replaces and what bounds it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.activations import PairBatch, pair_batch
from benchmarks.gpu.bounds import int8_product
from benchmarks.gpu.checks import moved, tables
from benchmarks.gpu.setting import Run
from benchmarks.rows import Timing
from kernels import Csr
from kernels.gpu import compact, encode
from kernels.gpu.accumulate import DEFAULT, VARIANTS
from kernels.gpu.variants import atomics, histogram, rows
from kernels.reference import densify

PAIRS = 11
GOAL = 4e6  # tokens a second over 11 layer pairs
PAPER = "dense float32 matmuls"
PLANS = {
    "8 warps": {"warps": 8},
    "8 warps, 4 programs": {"warps": 8, "programs": 4},
    "1 program": {"programs": 1},
    "4 programs": {"programs": 4},
    "16 tokens": {"tokens": 16},
    "32 entries, 16 tokens": {"tokens": 16, "entries": 32},
    "128 entries, 4 tokens": {"tokens": 4, "entries": 128},
    "all swept": {"swept": 0.0},
    "none swept": {"swept": 1e9},
    "no row is thin": {"thin": 0},
    "hot from 1,024": {"hot": 1024},
}


def measure_baselines(run: Run) -> None:
    """The dense ways and torch sparse on a few thousand tokens; per token they cost the same on more."""
    features = run.sizes.features
    batch = _batch(run, run.sizes.dense_tokens, run.sizes.active)
    a, b = (densify(part, features).to(torch.float32) for part in batch)
    for name, baseline in BASELINES.items():
        run.arm(name, partial(baseline, run, name, batch, a, b), "gpu_accumulate")


def _paper(run: Run, name: str, batch: PairBatch, a: Tensor, b: Tensor) -> None:
    a_active, b_active = (a > 0).to(torch.float32), (b > 0).to(torch.float32)
    counts, products = (torch.zeros(a.shape[1], b.shape[1], device=run.device) for _ in range(2))

    def add() -> None:
        counts.addmm_(a_active.T, b_active)
        products.addmm_(a.T, b)

    timing = run.time(add, 3)
    run.bounds[PAPER] = timing.p50 / len(a)
    _add(run, name, batch, timing, len(a))


def _bf16(run: Run, name: str, batch: PairBatch, a: Tensor, b: Tensor) -> None:
    left, right = ([part.to(torch.bfloat16) for part in ((layer > 0), layer)] for layer in (a, b))
    timing = run.time(lambda: [x.T @ y for x, y in zip(left, right, strict=True)], 3)
    _add(run, name, batch, timing, len(a))


def _int8(run: Run, name: str, batch: PairBatch, a: Tensor, b: Tensor) -> None:
    left, right = (a.T > 0).to(torch.int8).contiguous(), (b > 0).to(torch.int8)
    _add(run, name, batch, run.time(lambda: int8_product(left, right), 3), len(a))


def _sparse(run: Run, name: str, batch: PairBatch, a: Tensor, b: Tensor) -> None:
    left, right = a.T.contiguous().to_sparse_csr(), b.to_sparse_csr()
    _add(run, name, batch, run.time(lambda: left @ right, 3), len(a))


BASELINES = {
    PAPER: _paper,
    "dense bf16 matmuls, rounded": _bf16,
    "dense int8 matmul, counts alone": _int8,
    "torch sparse, products alone": _sparse,
}


@dataclass
class Adding:
    """A batch that is added to tables of its own size, and how many cells of them it touches (a part of the bound)."""

    run: Run
    batch: PairBatch
    found: tuple[Tensor, Tensor]
    cells: int = 0

    @property
    def arguments(self) -> tuple[Csr, Csr, Tensor, None, None, Tensor, Tensor]:
        """Of accumulate; documents of 512 tokens."""
        halves = (torch.arange(self.batch.up.tokens, device=self.run.device) // 512 % 2).to(torch.uint8)
        return self.batch.up, self.batch.down, halves, None, None, *self.found

    def count_cells(self) -> None:
        """By adding the batch to empty tables."""
        for table in self.found:
            table.zero_()
        VARIANTS[DEFAULT](*self.arguments)
        self.cells = int((self.found[0].amax(dim=-1) > 0).sum())

    def arm(self, name: str, call: Callable[..., object]) -> None:
        """A row of what takes the arguments of accumulate."""
        arguments = self.arguments
        self.run.arm(name, lambda: self.add(name, self.run.time(lambda: call(*arguments))), "gpu_accumulate")

    def add(self, name: str, timing: Timing) -> None:
        """The row of a timing."""
        _add(self.run, name, self.batch, timing, self.batch.up.tokens, self.cells)


def measure_accumulate(run: Run) -> None:
    """Every variant at L0 = 60, the default one at other sizes and under other plans; equal results at full size."""
    sizes = run.sizes
    found = tables(sizes.features, sizes.features, run.device)
    adding = Adding(run, _batch(run, sizes.tokens, sizes.active), found)
    run.arm("the full size", adding.count_cells)
    run.arm("equal counts and products at the full size", partial(_check_full_size, adding))
    for name, call in VARIANTS.items():
        adding.arm(name, call)
    adding.arm("atomics, four updates per thread", partial(atomics.accumulate, warps=4))
    batch, shape = adding.arguments[:5], found[1].shape
    prepared = rows.prepare(*batch, shape)
    adding.arm("rows, preparing", lambda *_: rows.prepare(*batch, shape))
    adding.arm("rows, adding", lambda *_: rows.add(prepared, *found, rows.PLAN))
    adding.arm("histogram, counts alone", lambda *_: histogram.add_counts(prepared, found[0]))
    for name, plan in list(PLANS.items())[: sizes.plans]:
        adding.arm(f"rows, {name}", partial(rows.accumulate, plan=rows.PLAN._replace(**plan)))
    for active, tokens in ((20, sizes.tokens), (120, sizes.tokens), (sizes.active, sizes.tokens // 8)):
        adding = Adding(run, _batch(run, tokens, min(active, sizes.features // 3)), found)
        run.arm(f"L0 = {active}, T = {tokens}", adding.count_cells)
        adding.arm(DEFAULT, VARIANTS[DEFAULT])


def _batch(run: Run, tokens: int, active: int) -> PairBatch:
    batch = pair_batch(tokens, run.sizes.features, active)
    return PairBatch(moved(batch.up, run.device), moved(batch.down, run.device))


def _check_full_size(adding: Adding) -> None:
    """The default variant against plain atomics, tables that hold one batch."""
    features = adding.run.sizes.features
    counts, products = tables(features, features, adding.run.device)
    atomics.accumulate(*adding.arguments[:5], counts, products)
    if not torch.equal(counts, adding.found[0]):
        raise ValueError(f"the counts of {DEFAULT} and atomics differ at full size")
    for mine, theirs in zip(adding.found[1].split(4096), products.split(4096), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)


def _add(run: Run, name: str, batch: PairBatch, timing: Timing, tokens: int, cells: int = 0) -> None:
    """`bound` is that of the default variant; memory's is to read and write 16 bytes of each touched cell."""
    updates = batch.updates
    bound = updates / run.bounds["int64 atomics, L2"]
    rate = tokens / timing.p50
    more: dict[str, object] = {"tokens_per_second": rate, "tokens_per_second_of_11_pairs": rate / PAIRS}
    more |= {"updates_per_second": updates / timing.p50, "goal": GOAL, "goal_ratio": rate / PAIRS / GOAL}
    more |= {"bound": "one int64 atomic an update in L2", "bound_seconds": bound, "distance": timing.p50 / bound}
    if cells:
        more |= {"cells": cells, "memory_bound_seconds": 32 * cells / run.bounds["bytes"]}
    if name != PAPER and PAPER in run.bounds:
        more |= {"baseline": PAPER, "ratio": run.bounds[PAPER] * rate}
    active = round(len(batch.up.features) / tokens)
    run.add("gpu_accumulate", name, {"D": run.sizes.features, "tokens": tokens, "L0": active}, timing, **more)


def measure_compact(run: Run) -> None:
    """One pass, two passes and torch nonzero on the same dense output; the bound is reading it once."""
    tokens, features = run.sizes.dense_tokens, run.sizes.features
    sparse = moved(pair_batch(tokens, features, run.sizes.active).up, run.device)
    dense = densify(sparse, features).to(torch.float32)

    def torch_way() -> tuple[Tensor, Tensor]:
        where = dense.nonzero()
        return where, dense[where[:, 0], where[:, 1]]

    arms = {
        "torch nonzero": torch_way,
        "two passes": lambda: compact.compact(dense, 1),
        "one pass": lambda: compact.compact(dense),
        "one pass, 128 places": lambda: compact.compact(dense, 128),
    }
    bound = 4 * dense.numel() / run.bounds["bytes"] * 2  # a copy reads half of what it moves
    first: float | None = None
    for name, call in arms.items():
        timing = run.time(call)
        first = first or timing.p50
        more: dict[str, object] = {
            "tokens_per_second": tokens / timing.p50,
            "baseline": "torch nonzero",
            "ratio": first / timing.p50,
        }
        more |= {"bound": "reading the dense output once", "bound_seconds": bound, "distance": timing.p50 / bound}
        run.add("gpu_compact", name, {"D": features, "tokens": tokens, "L0": run.sizes.active}, timing, **more)


def measure_encode(run: Run) -> None:
    """A matrix product and compact, and both in one kernel, in each precision."""
    sizes = run.sizes
    tokens, features = sizes.block, sizes.features
    generator = torch.Generator(device=run.device).manual_seed(0)
    residuals = torch.randn(tokens, sizes.width, device=run.device, generator=generator)
    weights = torch.randn(sizes.width, features, device=run.device, generator=generator) / sizes.width**0.5
    share = torch.tensor(sizes.active / features, device=run.device)
    bias = torch.special.ndtri(share).expand(features).contiguous()
    buffer = torch.empty(tokens, features, device=run.device)
    for name in ("float32", "tf32", "bf16"):
        if name == "bf16" and run.device.type != "cuda":
            continue  # the interpreter does not multiply it
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        dtype = torch.bfloat16 if name == "bf16" else torch.float32
        x, w = residuals.to(dtype), weights.to(dtype)

        precision = "tf32" if name == "tf32" else "ieee"
        bound = 2 * tokens * sizes.width * features / run.bounds[f"{name} product"]
        arms = {
            "product, then compact": lambda x=x, w=w: compact.compact(torch.add(x @ w, bias, out=buffer)),
            "fused": partial(encode.encode, x, w, bias, None, precision),
        }
        first: float | None = None
        for arm, call in arms.items():
            timing = run.time(call)
            first = first or timing.p50
            more: dict[str, object] = {"tokens_per_second": tokens / timing.p50, "dtype": name}
            more |= {"baseline": f"product, then compact, {name}", "ratio": first / timing.p50}
            more |= {"bound": f"the {name} product", "bound_seconds": bound, "distance": timing.p50 / bound}
            run.add("gpu_encode", f"{arm}, {name}", {"D": features, "d": sizes.width, "tokens": tokens}, timing, **more)
    torch.backends.cuda.matmul.allow_tf32 = False
