"""Publishing, by step: the publisher against a real redis-server on this machine.

    python -m benchmarks.publishing [--quick]

1. A state of a shape is counted from a synthetic stream, its segments ended and the choices made that belong to their ends.
2. "everything" is the first publish of a publisher: every record. "after 512 tokens" is the next one, after a micro-batch more.
   The steps are those that the publisher itself reports; only "all of it" has CPU time, and that is the publisher's, not Redis'.
3. The baseline of the writing: records of the same number and size set by a plain pipeline, 256 a time, on the same server.
   (How far the sweep is from its bound: `benchmarks.ranking`.)
"""

import logging
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.activations import chain
from benchmarks.rows import Timing, command, row
from benchmarks.segments import count, segment
from benchmarks.shapes import DEMO, GPT2, TINY, Shape
from engine.counts.state import State
from engine.settings import Settings
from engine.views.connection import connect
from engine.views.effects import Effects
from engine.views.publisher import Published, Publisher
from engine.views.records import ConvergenceRecord
from engine.views.redis_server import PrivateRedis
from engine.views.watch import Watch
from kernels import Csr
from tests.views_rig import description, status

log = logging.getLogger(__name__)

SEGMENT_TOKENS, MICRO_BATCH = 65_536, 512
TOKENS = 131_072
PAIR_OF_GPT2 = GPT2._replace(layers=2)  # one layer pair: all eleven take 106 GB
BASELINE = "a plain pipeline of as many bytes"


def counted(stream: Sequence[Csr], shape: Shape, tokens: int, segment_tokens: int, folder: Path) -> tuple[State, Effects]:
    """The state of a stream's first segments, with watched pairs and design effects."""
    state = State.zero([shape.features] * shape.layers)
    watch, effects = Watch(folder / "watch", 100_000, state.shape.pairs), Effects(state.shape.dictionaries)
    for first in range(0, tokens, segment_tokens):
        count(state, segment(stream, first, segment_tokens, min(segment_tokens, 8 * MICRO_BATCH)))
        watch.choose(state, state.tokens)
        effects.update(state)
    return state, effects


def publish_rows(shape: Shape, tokens: int, segment_tokens: int, repeats: int) -> Iterator[dict[str, object]]:
    """Publishes of everything, then after a micro-batch each."""
    with tempfile.TemporaryDirectory() as folder:
        more = repeats * MICRO_BATCH
        stream = chain(tokens + more, shape.features, shape.active, shape.layers)
        state, effects = counted(stream, shape, tokens, segment_tokens, Path(folder))
        redis = PrivateRedis(Path(folder) / "redis")
        settings = Settings.model_validate({"redis_url": redis.start(), "publish_interval": 0.001})
        run = description(state.shape.dictionaries)
        try:
            first = [_published(Publisher(settings, run, epoch, None, effects), state) for epoch in range(1, repeats + 1)]
            publisher = Publisher(settings, run, repeats + 1, None, effects)
            _published(publisher, state)
            later = []
            for batch in segment(stream, tokens, more, MICRO_BATCH).batches:
                state.add(batch)
                later.append(_published(publisher, state))
            plain = [_plain_write(settings, first[0][0]) for _ in range(repeats)]
        finally:
            redis.stop()
        yield from _rows("everything", shape, tokens, first, Timing.of(plain, plain))
        yield from _rows(f"after {MICRO_BATCH} tokens", shape, tokens, later, None)


def _published(publisher: Publisher, state: State) -> tuple[Published, float, float]:
    """What a publish did, and its wall and CPU seconds."""
    cpu, began = time.process_time(), time.perf_counter()
    done = publisher.publish(state, status(state), [], ConvergenceRecord(pairs=[], points=[]))
    if done.version is None:
        raise RuntimeError(f"nothing was published: {publisher.problem}")
    return done, time.perf_counter() - began, time.process_time() - cpu


def _plain_write(settings: Settings, like: Published) -> float:
    """Seconds in which a pipeline sets as many values of the same mean size."""
    value = b"x" * (like.bytes // like.written)
    with connect(settings.redis_url) as client:
        began = time.perf_counter()
        for first in range(0, like.written, 256):
            pipe = client.pipeline(transaction=False)
            for key in range(first, min(first + 256, like.written)):
                pipe.set(f"plain:{key}", value)
            pipe.execute()
        took = time.perf_counter() - began
        client.unlink(*(f"plain:{key}" for key in range(like.written)))
    return took


def _rows(
    what: str, shape: Shape, tokens: int, done: list[tuple[Published, float, float]], plain: Timing | None
) -> Iterator[dict[str, object]]:
    """All of it, and each step."""
    last = done[-1][0]
    sizes = {"layers": shape.layers, "D": shape.features, "L0": shape.active, "tokens": tokens, "features": last.features}
    about = {"shape": shape.name, "written": last.written, "bytes": last.bytes}
    yield _logged(what, sizes, Timing.of([wall for _, wall, _ in done], [cpu for *_, cpu in done]), about)
    by_step = defaultdict(list)
    for one, _, _ in done:
        for step, seconds in one.seconds.items():
            by_step[step].append(seconds)
    for step, seconds in by_step.items():
        timing, more = Timing.of(seconds, seconds), {}
        if step == "write" and plain is not None:
            more = {"baseline": BASELINE, "ratio": plain.p50 / timing.p50}
        yield _logged(f"{what}: {step}", sizes, timing, about | more)


def _logged(variant: str, sizes: dict[str, int], timing: Timing, more: dict) -> dict[str, object]:
    log.info("publish, %s, %s: %.1f ms, %d records", more["shape"], variant, 1e3 * timing.p50, more["written"])
    return row("publish", variant, sizes, timing, **more)


def run(quick: bool) -> Iterator[dict[str, object]]:
    """All rows; `quick` is a tiny shape."""
    if quick:
        yield from publish_rows(TINY, 2_048, 2_048, 2)
        return
    for shape, repeats in ((DEMO, 5), (PAIR_OF_GPT2, 2)):
        yield from publish_rows(shape, TOKENS, SEGMENT_TOKENS, repeats)


if __name__ == "__main__":
    command(__doc__, run)
