"""From token ids to tables: a forward pass, twelve encoders, compact, and accumulate over eleven layer pairs.

Each precision is a run of its own, over up to 10 M tokens (the paper's run) or as many as its time allows. `share` is what the
statistics (compact and accumulate; accumulate alone where encode and compact are one kernel) take of all. At its end the sum of a
table must be the number of updates that were made.
"""

import itertools
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.checks import tables
from benchmarks.gpu.model import Gpt2, encoders
from benchmarks.gpu.setting import Run
from benchmarks.rows import Timing
from kernels import Csr
from kernels.gpu import compact, encode
from kernels.gpu.accumulate import DEFAULT, accumulate

STAGES = ("forward", "encode", "compact", "accumulate")
GOAL_SECONDS = 60.0  # for 10 M tokens
ARMS = {"tf32": 75.0, "bf16": 60.0, "tf32, fused": 30.0, "float32": 30.0}  # seconds of each at most


class Stages:
    """Seconds by stage: on a GPU from events, which don't make it wait."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []  # an event, or seconds

    def mark(self, stage: str) -> None:
        """What comes until the next mark belongs to this stage."""
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((stage, event))
        else:
            self._marks.append((stage, time.perf_counter()))

    def seconds(self) -> dict[str, float]:
        """After a synchronisation."""
        total: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        for (stage, begin), (_, end) in itertools.pairwise(self._marks):
            if stage in total:
                total[stage] += begin.elapsed_time(end) / 1000 if self._cuda else end - begin
        return total


def sparse_of(residuals: Tensor, weights: Tensor, bias: Tensor, buffer: Tensor, stages: Stages, fused: bool, precision: str) -> Csr:
    """One layer, in blocks of as many rows as the buffer has."""
    found = []
    for rows in residuals.split(len(buffer)):
        stages.mark("encode")
        if fused:
            found.append(encode.encode(rows, weights, bias, None, precision))
            continue
        dense = torch.add(torch.mm(rows, weights), bias, out=buffer[: len(rows)])
        stages.mark("compact")
        found.append(compact.compact(dense))
    if len(found) == 1:
        return found[0]
    lengths = torch.cat([part.offsets.diff() for part in found])
    offsets = torch.nn.functional.pad(lengths.cumsum(dim=0, dtype=torch.int32), (1, 0))
    return Csr(offsets, torch.cat([part.features for part in found]), torch.cat([part.values for part in found]))


def measure_end_to_end(run: Run) -> None:
    """The rows of `gpu_end_to_end`; the tables of all layer pairs are made once."""
    pairs = [tables(run.sizes.features, run.sizes.features, run.device) for _ in range(run.sizes.layers - 1)]
    for name, seconds in ARMS.items():
        if name == "bf16" and run.device.type != "cuda":
            continue  # the interpreter does not multiply it
        run.arm(name, partial(measure_arm, run, name, seconds, pairs), "gpu_end_to_end")
    torch.backends.cuda.matmul.allow_tf32 = False


@torch.inference_mode()
def measure_arm(run: Run, name: str, seconds: float, pairs: list[tuple[Tensor, Tensor]]) -> None:
    """One precision."""
    sizes = run.sizes
    precision, _, fused = name.partition(", ")
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    model = Gpt2(sizes, run.device, torch.bfloat16 if precision == "bf16" else torch.float32)
    saes = encoders(model)
    buffer = torch.empty(min(sizes.block, sizes.tokens), sizes.features, device=run.device)
    halves = (torch.arange(sizes.tokens, device=run.device) // sizes.context % 2).to(torch.uint8)
    for counts, products in pairs:
        counts.zero_()
        products.zero_()
    updates = torch.zeros((), dtype=torch.int64, device=run.device)
    active = 0
    stages, times, cpu = Stages(run.device), [], []
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for step in range(-1, -(-sizes.run_tokens // sizes.tokens)):
        if step == 0:  # the one before compiled the kernels and chose the products; it is counted, but not timed
            stages, times, cpu = Stages(run.device), [], []
        at, cpu_at = time.perf_counter(), time.process_time()
        stages.mark("forward")
        residuals = model.residuals(model.draw(sizes.tokens // sizes.context))
        layers = []
        for rows, (weights, bias) in zip(residuals, saes, strict=True):
            layers.append(sparse_of(rows, weights, bias, buffer, stages, bool(fused), "tf32" if precision == "tf32" else "ieee"))
        stages.mark("accumulate")
        for up, down, table in zip(layers, layers[1:], pairs, strict=False):
            accumulate(up, down, halves, None, None, *table)
        stages.mark("")
        active += sum(len(layer.features) for layer in layers)
        updates += (layers[0].offsets.diff().to(torch.int64) * layers[1].offsets.diff()).sum()
        run.synchronize()
        times.append(time.perf_counter() - at)
        cpu.append(time.process_time() - cpu_at)
        if sum(times) > seconds:
            break
    tokens = len(times) * sizes.tokens
    counted = sum(int(part.sum(dtype=torch.int64)) for part in pairs[0][0].split(4096))
    if counted != int(updates):
        raise ValueError(f"end to end, {name}: {int(updates)} updates were made, the table of the first layer pair holds {counted}")
    spent = stages.seconds()
    rate = tokens / sum(times)
    statistics = spent["accumulate"] + spent["compact"]
    l0 = active / (tokens + sizes.tokens) / sizes.layers
    run.add(
        "gpu_end_to_end",
        name,
        {"D": sizes.features, "layers": sizes.layers, "tokens": tokens, "batch": sizes.tokens},
        Timing.of(times, cpu),
        dtype=precision,
        accumulate=DEFAULT,
        L0=l0,
        tokens_per_second=rate,
        seconds_of_10_million_tokens=1e7 / rate,
        goal=GOAL_SECONDS,
        goal_ratio=GOAL_SECONDS * rate / 1e7,
        share=statistics / sum(spent.values()),
        stages=spent,
    )
