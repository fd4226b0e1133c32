"""What the machine can do at best, measured in the same run: memory bandwidth, atomics, matrix products."""

from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl

from benchmarks.gpu.setting import Run

BLOCK = 512

int8_product = torch._int_mm  # type: ignore  # not exported, and the only one there is


@triton.jit
def add_anywhere(table, places, BLOCK: tl.constexpr):
    """Grid (updates / BLOCK,): adds 1 to a place that a hash of the update's number chooses; one update per thread with 16 warps.

    table [places], a power of two, shared by all.
    """
    update = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    place = (update * 0x5851F42D4C957F2D >> 24) & (places - 1)
    tl.atomic_add(table + place, tl.full((BLOCK,), 1, table.dtype.element_ty), sem="relaxed")


def measure_bounds(run: Run) -> None:
    """Rows of `gpu_bounds`; also puts them into `run.bounds`."""
    sizes = run.sizes
    _measure_copy(run)
    constants: dict[str, Any] = {"BLOCK": BLOCK, "num_warps": 16}
    for dtype, name in ((torch.int32, "int32"), (torch.int64, "int64"), (torch.float64, "float64")):
        for where, log_places in (("L2", 21), ("memory", 29)):
            places = 1 << (log_places if run.device.type == "cuda" else 10)
            table = torch.zeros(places, dtype=dtype, device=run.device)
            grid = (sizes.updates // BLOCK,)
            timing = run.time(partial(add_anywhere[grid], table, places, **constants))
            if int(table.sum()) != (timing.repeats + 1) * sizes.updates:
                raise ValueError(f"{name} atomics lost updates: {int(table.sum())} of {(timing.repeats + 1) * sizes.updates}")
            rate = run.bounds[f"{name} atomics, {where}"] = sizes.updates / timing.p50
            run.add("gpu_bounds", f"{name} atomics, {where}", {"places": places}, timing, updates_per_second=rate)


def _measure_copy(run: Run) -> None:
    copied = run.sizes.copied
    source = torch.empty(copied, dtype=torch.uint8, device=run.device).fill_(1)
    target = torch.empty_like(source)
    timing = run.time(lambda: target.copy_(source))
    run.bounds["bytes"] = 2 * copied / timing.p50
    run.add("gpu_bounds", "copy", {"bytes": copied}, timing, bytes_per_second=run.bounds["bytes"])


def measure_products(run: Run) -> None:
    """Rows of matrix products of an encode's shape: what model and encode are bounded by."""
    sizes = run.sizes
    rows, inner, width = sizes.dense_tokens, sizes.width, sizes.features
    a, b = torch.rand(rows, inner, device=run.device), torch.rand(inner, width, device=run.device)
    for name in ("float32", "tf32", "bf16", "int8"):
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        if name == "int8":
            x, y = (part.mul(100).to(torch.int8) for part in (a, b))
            call = partial(int8_product, x, y)
        else:
            dtype = torch.bfloat16 if name == "bf16" else torch.float32
            call = partial(torch.mm, a.to(dtype), b.to(dtype))
        timing = run.time(call)
        rate = run.bounds[f"{name} product"] = 2 * rows * inner * width / timing.p50
        run.add("gpu_bounds", f"{name} product", {"M": rows, "K": inner, "N": width}, timing, flop_per_second=rate)
    torch.backends.cuda.matmul.allow_tf32 = False
