"""What gates cost at the size of GPT-2 small's dictionaries: `python -m benchmarks.gate_size [--quick]`.

1. Memory: gate tables and nominated gates of 11 layer pairs, four gates of every child, which is the most there can be: resident
   memory before and after all of it is written.
2. Time: one layer pair through the engine's own state. Four segments of 65,536 tokens shaped like real SAEs' activations are
   counted, and candidates and nominations chosen after each; per token, what the gates take beside what the pair counts take.
   One thread, so that both arms share nothing. Needs 12 GB.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import numpy as np
import psutil

from benchmarks import rows
from benchmarks.activations import pair_batch
from benchmarks.segments import count, segment
from engine.counts.gate_tables import GateTables
from engine.counts.gates import PLACES, NominatedGates
from engine.counts.shape import RunShape
from engine.counts.state import State
from engine.views.gate_choices import choose_gates

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

LAYERS, FEATURES, L0 = 12, 24_576, 60
TOKENS, SEGMENTS = 65_536, 4
MICRO_BATCH = 4_096


def memory_row(features: int) -> dict[str, object]:
    """Resident memory that the gates of all layer pairs take when every place is taken."""
    shape = RunShape.of([features] * LAYERS, None, 0.0, "cpu", 2**31 - 1)
    process, began = psutil.Process(), time.perf_counter()
    before = process.memory_info().rss
    children = np.repeat(np.arange(features, dtype=np.int32), PLACES)
    number = np.tile(np.arange(PLACES, dtype=np.uint8), features)
    parents = np.tile(np.array([[0, 1, -1]], np.int32), (len(children), 1))
    kept = []
    for pair in shape.pairs:
        tables, gates = GateTables.zero(shape, pair), NominatedGates.zero(shape, pair)
        tables.parents[:], tables.counted_from[:] = 1, 1
        tables.cells.fill_(1)
        zeros = np.zeros(len(children), np.uint8)
        gates.nominate(children, number, zeros, parents, parents[:, 0], position=1, tokens=1)
        for total in gates.totals:
            total[:] = 1
        kept += [tables, gates]
    used = process.memory_info().rss - before
    took = time.perf_counter() - began
    log.info("memory of %d layer pairs: %.0f MB", len(shape.pairs), used / 1e6)
    sizes = {"layers": LAYERS, "D": features, "m": shape.gate_candidates, "gates": len(children) * len(shape.pairs)}
    return rows.row("gates", "memory of all gate tables and gates", sizes, rows.Timing(took, took, took, took, 1), bytes=used)


def time_rows(features: int, tokens: int) -> list[dict[str, object]]:
    """CPU seconds a token of one layer pair: the pair counts, and each part of the gates."""
    state = State.zero((features, features))
    cpu: dict[str, float] = defaultdict(float)
    for part in state.parts():
        part.add = _timed(cpu, part.kind, part.add)
        part.end_segment = _timed(cpu, f"{part.kind}: end of segment", part.end_segment)
    with rows.one_core():
        stream = pair_batch(SEGMENTS * tokens, features, L0)
        for number in range(SEGMENTS):
            clusters = count(state, segment(stream, number * tokens, tokens, MICRO_BATCH))
            _timed(cpu, "choose gates", choose_gates)(state, clusters, state.tokens)
    gates = len(state.gates[0, 1])
    found = []
    for variant, parts in {
        "pair counts": ("pairs",),
        "gate tables": ("gate_tables",),
        "gate scores": ("gates: end of segment",),
        "choice of candidates and gates": ("choose gates",),
    }.items():
        seconds = sum(cpu[part] for part in parts) / state.tokens
        ratio = seconds / (cpu["pairs"] / state.tokens)
        log.info("%s: %.2f µs a token and layer pair, %.2f times the pair counts", variant, seconds * 1e6, ratio)
        sizes = {"D": features, "L0": L0, "tokens": state.tokens, "gates": gates, "choices": SEGMENTS}
        timing = rows.Timing(seconds, seconds, seconds, seconds, 1)
        found.append(rows.row("gates", f"a layer pair: {variant}", sizes, timing, baseline="pair counts", ratio=ratio))
    return found


def _timed(cpu: dict[str, float], stage: str, call: Callable[P, T]) -> Callable[P, T]:
    """The same call, which adds its CPU time to a stage."""

    def timed(*args: P.args, **kwargs: P.kwargs) -> T:
        began = time.process_time()
        try:
            return call(*args, **kwargs)
        finally:
            cpu[stage] += time.process_time() - began

    return timed


def run(quick: bool) -> Iterator[dict[str, object]]:
    """All rows; `quick` is a sixteenth of features and tokens."""
    features, tokens = (FEATURES // 16, TOKENS // 16) if quick else (FEATURES, TOKENS)
    yield memory_row(features)
    yield from time_rows(features, tokens)


if __name__ == "__main__":
    rows.command(__doc__ or "", run)
