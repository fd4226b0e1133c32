"""Timings, and the rows that they become: `benchmarks/results/<benchmark>.jsonl`, one JSON object a line, appended and committed.

A row is data: what was measured on which sizes, p20 / p50 / p80, the ratio to a baseline and the distance to a bound that were
measured in the same run, peak memory, the machine and the versions. Tables and plots are made from the rows.

Fields that rows of any benchmark may have, and that plots and tables look for:

- `baseline`, `ratio`: what it is held against, and how many times as fast it is.
- `bound`, `bound_seconds`, `distance`: what can't be beaten here, how long that takes, and how many times as long this took.
- `goal`, `goal_ratio`: what it was to reach, and what it reached of that (1 and more: met).
- `missed`: why it was not measured; then `seconds` is null.
"""

import argparse
import datetime
import json
import logging
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch

RESULTS = Path(__file__).parent / "results"
RUN = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
"""Rows of one process have it in common: that is what a baseline, a bound or a first step was measured in."""
VERSIONED = ("torch", "triton", "numba", "numpy")


class Timing(NamedTuple):
    """Seconds of one call: 20th, 50th and 80th percentile of the repeats, and the median of the CPU time of the whole process."""

    p20: float
    p50: float
    p80: float
    cpu_p50: float
    repeats: int

    @classmethod
    def of(cls, wall: Sequence[float], cpu: Sequence[float]) -> "Timing":
        """Of one repeat or more."""
        cuts = statistics.quantiles(wall, n=10, method="inclusive") if len(wall) > 1 else [wall[0]] * 9
        return cls(cuts[1], statistics.median(wall), cuts[7], statistics.median(cpu), len(wall))


def measure(call: Callable[[], object], repeats: int, warmups: int = 1) -> Timing:
    """Times `repeats` calls after `warmups` that don't count (compilation, page faults of fresh tables)."""
    for _ in range(warmups):
        call()
    wall, cpu = [], []
    for _ in range(repeats):
        cpu_before, before = time.process_time(), time.perf_counter()
        call()
        wall.append(time.perf_counter() - before)
        cpu.append(time.process_time() - cpu_before)
    return Timing.of(wall, cpu)


def row(benchmark: str, variant: str, sizes: Mapping[str, int | float], timing: Timing | None, **more: object) -> dict[str, object]:
    """One row; `more` holds rates, the fields named above, and what else the benchmark has to say. No timing: not measured."""
    seconds = {} if timing is None else timing._asdict()
    return {
        "benchmark": benchmark,
        "variant": variant,
        "sizes": dict(sizes),
        "seconds": _rounded({key: value for key, value in seconds.items() if key != "repeats"}) or None,
        "repeats": 0 if timing is None else timing.repeats,
        **_rounded(more),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "machine": machine(),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONED}},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "run": RUN,
    }


def append(rows: list[dict[str, object]]) -> None:
    """Appends each row to the file of its benchmark."""
    RESULTS.mkdir(exist_ok=True)
    for one in rows:
        with (RESULTS / f"{one['benchmark']}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(one, ensure_ascii=False) + "\n")


def read() -> list[dict[str, Any]]:
    """All rows there are, file by file, in the order of their measuring."""
    lines = [line for path in sorted(RESULTS.glob("*.jsonl")) for line in path.read_text(encoding="utf-8").splitlines()]
    return [json.loads(line) for line in lines]


def newest(rows: Sequence[dict[str, Any]], benchmark: str, variant: str | None = None) -> list[dict[str, Any]]:
    """Rows of the last run of a benchmark; with a variant, of the last run that has it, and only those of that variant."""
    there = [one for one in rows if one["benchmark"] == benchmark and "run" in one and variant in (None, one["variant"])]
    return [one for one in there if one["run"] == max(one["run"] for one in there)]


def command(description: str | None, run: Callable[[bool], Iterable[dict[str, object]]]) -> None:
    """What the `main` of a benchmark does: measure, and append each row as it comes; those of a quick run are not kept.

    Args:
        description: its module's docstring.
        run: given whether it is a quick run, yields the rows.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works; nothing is written")
    quick = parser.parse_args().quick
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for one in run(quick):
        if not quick:
            append([one])


def machine() -> dict[str, object]:
    """What the numbers depend on: processor, cores, threads in use, and how busy the machine was with other things."""
    found: dict[str, object] = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_1min": round(os.getloadavg()[0], 1),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


@contextmanager
def one_core() -> Iterator[None]:
    """Pins this process to one core and torch to one thread, for a comparison per core."""
    threads, cores = torch.get_num_threads(), os.sched_getaffinity(0)
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)


def _rounded(values: Mapping[str, object]) -> dict[str, Any]:
    """Floats to four digits, in what lies inside as well."""
    return {
        key: float(f"{value:.4g}") if isinstance(value, float) else _rounded(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
    }


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()
