"""What a run of the GPU benchmarks has in common: device, sizes, time left, and the rows that it makes."""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from benchmarks import rows
from benchmarks.rows import Timing, row

log = logging.getLogger(__name__)


class Sizes(NamedTuple):
    """GPT-2 small with its SAEs, or something tiny."""

    features: int = 24_576
    width: int = 768
    heads: int = 12
    layers: int = 12
    vocabulary: int = 50_257
    context: int = 128
    active: int = 60
    tokens: int = 65_536
    dense_tokens: int = 8_192  # where something dense is made of them
    block: int = 16_384  # rows of a SAE's output at a time
    run_tokens: int = 10_000_000
    repeats: int = 10
    updates: int = 1 << 28  # of the atomics' bound
    copied: int = 1 << 32  # bytes of the bandwidth's bound
    plans: int = 99  # of `kernels.PLANS`


QUICK = Sizes(
    features=24,
    width=16,
    heads=2,
    layers=2,
    vocabulary=50,
    context=8,
    active=6,
    tokens=16,
    dense_tokens=16,
    block=16,
    run_tokens=16,
    repeats=1,
    updates=1 << 11,
    copied=1 << 16,
    plans=1,
)


@dataclass
class Run:
    """One run: `measured` makes a row of a call, what goes wrong is remembered, and nothing begins when the time is over."""

    device: torch.device
    sizes: Sizes
    seconds: float
    began: float = field(default_factory=time.monotonic)
    failed: list[str] = field(default_factory=list)
    bounds: dict[str, float] = field(default_factory=dict)
    """What was measured of the machine: bytes a second, updates a second, FLOP a second, each by its name."""

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def time(self, call: Callable[[], object], repeats: int | None = None) -> Timing:
        """Times a call until the GPU is done with it; the first one, which compiles, does not count."""

        def whole() -> None:
            call()
            self.synchronize()

        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        return rows.measure(whole, repeats or self.sizes.repeats)

    def add(self, benchmark: str, variant: str, sizes: dict[str, int], timing: Timing, **more: object) -> None:
        """Makes a row, logs it and appends it to the file of its benchmark at once: what comes later may fail."""
        if self.device.type == "cuda":
            more["gpu_memory_bytes"] = torch.cuda.max_memory_allocated()
        one = row(benchmark, variant, sizes, timing, **more)
        rows.append([one])
        told = {key: value for key, value in more.items() if isinstance(value, float)}
        told = {key: float(f"{value:.4g}") for key, value in told.items()}
        log.info("%s, %s: %.4g s %s", benchmark, variant, timing.p50, json.dumps(told))

    def arm(self, name: str, call: Callable[[], None], benchmark: str | None = None) -> None:
        """One arm after the other: an error ends one, not the run; it is told at the end, and in a row of the benchmark."""
        missed = None
        if time.monotonic() - self.began >= self.seconds:
            missed = f"not begun, the {self.seconds:.0f} s were over"
        else:
            try:
                call()
            except Exception as error:
                log.exception("%s", name)
                missed = f"{type(error).__name__}: {' '.join(str(error).splitlines()[:1])}"
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if missed is not None:
            self.failed.append(f"{name}: {missed}")
            if benchmark is not None:
                rows.append([row(benchmark, name, {}, None, missed=missed)])
