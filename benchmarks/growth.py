"""Does the cost grow no faster than the work? The whole state, with every statistic in it, while one size grows.

    python -m benchmarks.growth [--quick] [tokens] [active] [pairs]

| what grows | steps | what stands |
|---|---|---|
| `tokens` | × 1, 4, 16 | a layer pair of 24,576, L0 60 |
| `active` (L0) | 20 → 120 | a layer pair of 24,576, 65,536 tokens |
| `pairs` | 1 → 66, all pairs of 12 layers | dictionaries of 2,048, L0 60, 16,384 tokens |

One core, micro-batches of 4,096 tokens, segments ended and no choices made; the first segment is counted once before, so that no
step pays for fresh memory. The work is updates: joint activations over all layer pairs, which grow with the square of L0. `growth`
is by how much the CPU seconds of counting have grown since the first step of the same run, over by how much the work has: 1 is
linear, less is better. The dictionary grows under a memory budget in `benchmarks.bounded`.
"""

import argparse
import logging
import time
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

from benchmarks.activations import chain
from benchmarks.rows import Timing, append, one_core, row
from benchmarks.segments import count, segment
from engine.counts.state import State, bytes_needed
from engine.errors import DoesNotFit

log = logging.getLogger(__name__)

MICRO_BATCH = 4_096
SEGMENT_TOKENS = 16_384


class Step(NamedTuple):
    """The sizes of one run."""

    layers: int
    features: int
    active: int
    tokens: int
    pairs: int = 1

    def sizes(self) -> dict[str, int]:
        return {"layers": self.layers, "D": self.features, "L0": self.active, "tokens": self.tokens, "layer_pairs": self.pairs}


def steps(quick: bool) -> dict[str, list[Step]]:
    """By what grows."""
    wide, tokens = (512, 1_024) if quick else (24_576, SEGMENT_TOKENS)
    narrow, layers = (256, 4) if quick else (2_048, 12)
    every_pair = layers * (layers - 1) // 2
    return {
        "tokens": [Step(2, wide, 60, times * tokens) for times in (1, 4, 16)],
        "active": [Step(2, wide, active, 4 * tokens) for active in (20, 40, 60, 80, 120)],
        "pairs": [Step(layers, narrow, 60, tokens, pairs) for pairs in (1, layers - 1, every_pair // 2, every_pair)],
    }


def grown(what: str, through: Sequence[Step]) -> Iterator[dict[str, object]]:
    """A row a step; one that does not fit says so."""
    first: tuple[float, float] | None = None
    for step in through:
        pairs = list(combinations(range(step.layers), 2))[: step.pairs]
        try:
            state = State.zero([step.features] * step.layers, pairs)
        except DoesNotFit as error:
            log.info("growth of %s, D = %d: %s", what, step.features, error.message)
            yield row("growth", what, step.sizes(), None, missed=error.message)
            continue
        stream = chain(step.tokens, step.features, step.active, step.layers)
        active = [layer.offsets.diff().long() for layer in stream]
        updates = sum(int((active[up] * active[down]).sum()) for up, down in pairs)
        length = min(SEGMENT_TOKENS, step.tokens)
        segments = [segment(stream, at, length, min(MICRO_BATCH, length)) for at in range(0, step.tokens, length)]
        count(state, segments[0])
        cpu, began = time.process_time(), time.perf_counter()
        for one in segments:
            count(state, one)
        timing = Timing.of([time.perf_counter() - began], [time.process_time() - cpu])
        first = first or (timing.cpu_p50, updates)
        growth = (timing.cpu_p50 / first[0]) / (updates / first[1])
        nanoseconds = 1e9 * timing.cpu_p50 / updates
        log.info("growth of %s, %s: %.1f ns an update, growth %.2f", what, step.sizes(), nanoseconds, growth)
        more = {"updates": updates, "updates_per_cpu_second": updates / timing.cpu_p50, "growth": growth}
        yield row("growth", what, step.sizes(), timing, **more, state_bytes=bytes_needed(state.shape))
        del state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works; nothing is written")
    parser.add_argument("grows", nargs="*", metavar="tokens|active|pairs", help="all of them by default")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    of = steps(options.quick)
    if unknown := set(options.grows) - set(of):
        parser.error(f"nothing is called {', '.join(unknown)}")
    with one_core():
        for what in options.grows or of:
            for one in grown(what, of[what]):
                if not options.quick:
                    append([one])


if __name__ == "__main__":
    main()
