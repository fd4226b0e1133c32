"""Every kernel against the reference, on the device, before anything is measured: small odd shapes, then one large enough for
races.

A check that fails is an error of the run; what it would have been compared with is not measured less for it.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.activations import PairBatch, pair_batch
from benchmarks.gpu.setting import Run
from kernels import Csr, reference
from kernels.gpu import compact, encode, gate_cells, project
from kernels.gpu.accumulate import VARIANTS, scratch_bytes
from kernels.gpu.variants import rows, sorting

PLANS = (
    rows.PLAN,
    rows.PLAN._replace(thin=0),
    rows.PLAN._replace(thin=2, hot=3),
    rows.PLAN._replace(swept=0.0),
    rows.PLAN._replace(swept=1e3, tokens=16, entries=32, warps=8, programs=4),
)


def shapes(run: Run) -> Iterator[tuple[int, int, int, float]]:
    """Tokens, upstream and downstream features, share that is active: prime, one token, above a block and a multiple of 16 (for
    which other code is made), everything, nothing, hot."""
    yield 11, 7, 70, 0.4
    if run.device.type == "cuda":
        yield from (
            (23, 19, 45, 0.3),
            (1, 37, 70, 0.5),
            (9, 64, 1040, 1.0),
            (300, 5, 131, 0.4),
            (7, 37, 70, 0.0),
            (5000, 3, 5, 0.9),
        )


def dense(tokens: int, features: int, active: float, seed: int) -> Tensor:
    """float32 [tokens, features], negative where a feature is not active."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(tokens, features, generator=generator) + 0.01
    return torch.where(torch.rand(tokens, features, generator=generator) < active, values, -values)


def moved(sparse: Csr, device: torch.device) -> Csr:
    """The same on a device."""
    return Csr(*(part.to(device) for part in sparse))


def tables(up: int, down: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Empty ones."""
    return torch.zeros(up, down, 2, dtype=torch.int32, device=device), torch.zeros(up, down, dtype=torch.float64, device=device)


def require_equal(what: str, found: Tensor, wanted: Tensor) -> None:
    """ValueError where they are not, bit for bit (NaN equals NaN)."""
    found, wanted = found.cpu(), wanted.cpu()
    different = ~((found == wanted) | (found.isnan() & wanted.isnan()))
    if different.any():
        raise ValueError(f"{what}: {int(different.sum())} of {different.numel()} differ from the reference")


def check_accumulate(run: Run) -> None:
    """All variants and plans at small shapes, with and without thresholds."""
    for tokens, up_width, down_width, active in shapes(run):
        up, down = dense(tokens, up_width, active, 0), dense(tokens, down_width, active, 1)
        batch = PairBatch(reference.compact(up), reference.compact(down))
        halves = (torch.arange(tokens) // 3 % 2).to(torch.uint8)
        for limits in ((None, None), (torch.linspace(0, 1, up_width), torch.linspace(1, 0, down_width))):
            wanted = tables(up_width, down_width, torch.device("cpu"))
            reference.accumulate(*batch, halves, *limits, *wanted)
            there = PairBatch(moved(batch.up, run.device), moved(batch.down, run.device))
            up_limit, down_limit = (None if limit is None else limit.to(run.device) for limit in limits)
            forms = [(name, call, {}) for name, call in VARIANTS.items()]
            plans = PLANS if run.device.type == "cuda" else PLANS[2:3]
            forms += [(f"rows with {plan}", rows.accumulate, {"plan": plan}) for plan in plans]
            for name, call, options in forms:
                found = tables(up_width, down_width, run.device)
                call(*there, halves.to(run.device), up_limit, down_limit, *found, **options)
                what = f"accumulate, {name}, T = {tokens}, {up_width} x {down_width}"
                require_equal(f"{what}: counts", found[0], wanted[0])
                torch.testing.assert_close(
                    found[1].cpu(), wanted[1], rtol=1e-6, atol=0, msg=lambda text, what=what: f"{what}: {text}"
                )


def check_sums(run: Run) -> None:
    """A batch that keeps the whole GPU busy: fixed-point sums of `rows` are those of `sorting`, bit for bit, every time, under
    every plan; and it takes no more memory than it says."""
    tokens, features, active = (8_192, 3_001, 60) if run.device.type == "cuda" else (20, 13, 5)
    batch = PairBatch(*(moved(part, run.device) for part in pair_batch(tokens, features, active)))
    halves = (torch.arange(tokens, device=run.device) // 50 % 2).to(torch.uint8)
    wanted = tables(features, features, run.device)
    sorting.accumulate(*batch, halves, None, None, *wanted, most_updates=1 << 62)
    split = rows.PLAN._replace(thin=100, hot=200)
    for plan in (rows.PLAN, rows.PLAN, rows.PLAN, split, rows.PLAN._replace(swept=0.0, programs=4)):
        found = tables(features, features, run.device)
        if run.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        rows.accumulate(*batch, halves, None, None, *found, plan)
        if run.device.type == "cuda" and plan is rows.PLAN:
            taken, said = torch.cuda.max_memory_allocated() - before, scratch_bytes(*batch, found[1])
            if taken > said:
                raise ValueError(f"accumulate took {taken} bytes beside the tables, it says {said}")
        require_equal(f"accumulate of {tokens} tokens, {plan}: counts", found[0], wanted[0])
        require_equal(f"accumulate of {tokens} tokens, {plan}: products", found[1], wanted[1])


def check_compact(run: Run) -> None:
    """One pass, two passes, and a NaN."""
    for tokens, width, active in ((7, 1100, 0.3), (1, 1, 1.0), (65, 2049, 0.02)):
        values = dense(tokens, width, active, 2)
        values[0, 0] = torch.nan
        for places in (16, compact.PLACES):
            found = compact.compact(values.to(run.device), places)
            for name, part, wanted in zip(Csr._fields, found, reference.compact(values), strict=True):
                require_equal(f"compact of [{tokens}, {width}] with {places} places: {name}", part, wanted)


def check_encode(run: Run) -> None:
    """ReLU and JumpReLU in every precision; what lies as near a threshold as the precision goes may be either."""
    precise = (("ieee", torch.float32, 1e-4), ("tf32", torch.float32, 0.1))
    if run.device.type == "cuda":  # the interpreter does not multiply bfloat16
        precise += (("ieee", torch.bfloat16, 0.3),)
    generator = torch.Generator().manual_seed(3)
    x, weights = torch.randn(70, 33, generator=generator), torch.randn(33, 150, generator=generator)
    bias = torch.randn(150, generator=generator)
    for thresholds in (None, torch.rand(150, generator=generator)):
        hidden = x.double() @ weights.double() + bias
        limit = torch.zeros(150) if thresholds is None else thresholds
        for precision, dtype, near in precise:
            jump = None if thresholds is None else thresholds.to(run.device)
            given = x.to(run.device, dtype), weights.to(run.device, dtype)
            found = encode.encode(*given, bias.to(run.device), jump, precision, 16)
            clear = (hidden - limit).abs() > near
            values = reference.densify(Csr(*(part.cpu() for part in found)), 150)
            require_equal(f"encode, {precision} {dtype}: what is active", (values > 0)[clear], (hidden > limit)[clear])
            torch.testing.assert_close(values[clear], hidden.where(hidden > limit, 0)[clear], rtol=near, atol=near)


def check_gates_and_projections(run: Run) -> None:
    """The two kernels that are not measured here."""
    up, down = reference.compact(dense(70, 19, 0.4, 4)), reference.compact(dense(70, 45, 0.4, 5))
    parents = torch.randint(-1, 19, (45, 6), generator=torch.Generator().manual_seed(6), dtype=torch.int32)
    wanted = torch.zeros(45, 128, dtype=torch.int32)
    reference.count_gate_cells(up, down, None, None, 19, parents, wanted)
    found = torch.zeros_like(wanted, device=run.device)
    there = moved(up, run.device), moved(down, run.device)
    gate_cells.count_gate_cells(*there, None, None, 19, parents.to(run.device), found)
    require_equal("count_gate_cells", found, wanted)
    directions, vectors = torch.rand(19, 33), torch.rand(2, 70, 33)
    products = project.project(there[0], directions.to(run.device), vectors.to(run.device))
    torch.testing.assert_close(products.cpu(), reference.project(up, directions, vectors), rtol=1e-5, atol=1e-5)
