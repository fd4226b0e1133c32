"""Where the time of a batch goes on the demo: tokenise, forward, encode, compact, accumulate, end of segment, publish.

    python -m benchmarks.loop [--quick] [--documents N]

The engine's own parts do the work (inbox, ingest thread, log, encoder, state, publisher with a private Redis), in the order of
`engine.loop`, and every stage is timed where it is called. The demo's text is counted once; `share` of a stage is its part of the
time from the first batch to the last. Tokenising runs in a thread of its own beside the others: it is measured alone, before.

A row "stage: part" is within the stage. "together: intervals and contexts" is what they cost the loop, in the same run: the
strongest activations, what is summed by documents where segments end, and the choices of what is watched; "together: gates" their
tables, scores and choices. Their ratio is to the loop without them. That of "all of it" is to forward, encode and compact alone,
which are there without any statistics; the bound is the model's and the SAEs' matmuls at the rate of one of them, measured in the
same run. "publish" is what the loop does of it; "beside: publish" is the thread that does the rest meanwhile, by its own clocks.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

import torch

import engine.counts.state
import engine.loop
from benchmarks import rows
from engine.corpus.documents import body_check
from engine.corpus.inbox import Inbox
from engine.counts.clusters import cluster_segment
from engine.demo.text import CORPORA, demo_documents, sample_documents
from engine.encoder.encoder import ModelEncoder
from engine.loop import Loop
from engine.main import build
from engine.settings import load
from engine.supervisor import ENGINE_ENVIRONMENT
from engine.views.gate_choices import choose_gates
from engine.views.moment import Moment
from engine.views.publisher import Published, Told
from engine.views.records import StatusRecord
from engine.views.redis_server import PrivateRedis
from engine.views.siblings import choose_siblings

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

UPLOAD_DOCUMENTS = 500
QUICK_DOCUMENTS = 60
D_MODEL, BLOCKS, HOOKS, FEATURES = 128, 6, 7, 1_024  # of the demo
FLOP = 2 * (12 * D_MODEL**2 * BLOCKS + D_MODEL * FEATURES * HOOKS)  # per token, without attention's own products
LEAST_SHARE = 1e-4  # of the time: parts that have nothing to do at some place get no row for it


def lay_down(inbox: Inbox, documents: Iterator[str], corpus: str) -> None:
    """Put documents into the inbox as the API does, in uploads of 500."""
    while batch := list(itertools.islice(documents, UPLOAD_DOCUMENTS)):
        body = "".join(json.dumps({"text": text}) + "\n" for text in batch).encode()
        check = body_check("corpora", "application/x-ndjson", max_document_bytes=1 << 26, vocab_size=4096)
        with inbox.receive(corpus, "application/x-ndjson", "corpora", None, check) as receiving:
            receiving.write(body)
            receiving.commit()


def tokenise(loop: Loop, documents: int) -> float:
    """Seconds in which the ingest thread turns the whole inbox into sealed segments, with nothing beside it."""
    began = time.perf_counter()
    loop.ingest.start()
    number = 0
    counted = 0
    while counted < documents:
        segment = loop.corpus.next_segment(number, wait=1.0)
        loop.ingest.check()
        if segment is not None:
            counted += sum(piece.last for piece in segment.pieces)
            loop.ingest.consumed(number)
            number += 1
    return time.perf_counter() - began


class Times:
    """Wall and CPU seconds of the whole process, by stage."""

    def __init__(self) -> None:
        self.wall: defaultdict[str, float] = defaultdict(float)
        self.cpu: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Time what is done here."""
        began, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[stage] += time.perf_counter() - began
        self.cpu[stage] += time.process_time() - cpu

    def every(self, stage: str, call: Callable[P, R]) -> Callable[P, R]:
        """The same call, timed."""

        @wraps(call)
        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            with self.of(stage):
                return call(*args, **kwargs)

        return timed


def time_parts(loop: Loop, times: Times) -> None:
    """Have the parts of the state, and what the loop calls where a segment ends, time themselves."""
    for part in loop.state.parts():
        part.add = times.every(f"accumulate: {part.kind}", part.add)
        part.end_segment = times.every(f"end of segment: {part.kind}", part.end_segment)
    loop.state.end_segment = times.every("end of segment", loop.state.end_segment)
    loop.convergence.observe = times.every("convergence", loop.convergence.observe)
    loop.watch.choose = times.every("choose what is watched", loop.watch.choose)
    engine.counts.state.cluster_segment = times.every("end of segment: clusters", cluster_segment)
    engine.loop.choose_gates = times.every("choose gates", choose_gates)
    engine.loop.choose_siblings = times.every("choose siblings", choose_siblings)


def write_timed(loop: Loop, times: Times) -> None:
    """Have the publishing thread time its writing, by its own clock."""
    write = loop.publishing.publisher.write

    def timed(moment: Moment, told: Told, newer: Callable[[], StatusRecord | None] = lambda: None) -> Published:
        began, worked = time.perf_counter(), time.thread_time()
        done = write(moment, told, newer)
        times.wall["beside: publish"] += time.perf_counter() - began
        times.cpu["beside: publish"] += time.thread_time() - worked
        return done

    loop.publishing.publisher.write = timed


def count(loop: Loop) -> Times:
    """Count every sealed segment as `Loop.run` does."""
    times = Times()
    time_parts(loop, times)
    write_timed(loop, times)
    loop.publish = times.every("publish", loop.publish)
    loop.publishing.start()
    with times.of("all of it"):
        for number in range(loop.corpus.last + 1):
            segment = loop.corpus.read(number)
            for units in loop.micro_batch.batches(segment):
                encoded = loop.encoder.encode(segment, units)
                with times.of("accumulate"), loop.lock:
                    loop.state.add(encoded.batch, encoded.set_aside, encoded.projections)
                loop.batches.append(encoded.batch)
                if loop.publishing.due():
                    loop.publish("counting")
            loop.finish(segment)
    loop.publishing.stop()
    for seconds in (times.wall, times.cpu):
        # The parts end a segment in two threads: what that took is shared out by their own times.
        clusters = seconds["end of segment: clusters"]
        ended = sum(value for stage, value in seconds.items() if stage.startswith("end of segment: ")) - clusters
        share = (seconds["end of segment"] - clusters) / ended
        of_gates, of_siblings = (share * seconds[f"end of segment: {kind}"] for kind in ("gates", "siblings"))
        moments = seconds["end of segment"] - of_gates - of_siblings
        seconds["together: intervals and contexts"] = moments + seconds["accumulate: strongest"] + seconds["choose what is watched"]
        seconds["together: gates"] = seconds["accumulate: gate_tables"] + of_gates + seconds["choose gates"]
    return times


def run(quick: bool, most: int | None = None) -> list[dict]:
    """The rows: one per stage, and the whole; of at most so many documents of each corpus."""
    with tempfile.TemporaryDirectory() as folder:
        redis = PrivateRedis(Path(folder) / "redis")
        settings = load(data_dir=Path(folder), redis_url=redis.start())
        try:
            inbox = Inbox(Path(folder) / "inbox")
            texts = {corpus: list(itertools.islice(demo_documents(corpus), most)) for corpus in CORPORA} if not quick else {}
            texts["sample"] = [row.text for row in itertools.islice(sample_documents(), QUICK_DOCUMENTS if quick else None)]
            for corpus, documents in texts.items():
                lay_down(inbox, iter(documents), corpus)
            inbox.close()
            loop = build(settings, threading.Event())
            assert loop is not None  # nothing stops it
            documents = sum(map(len, texts.values()))
            alone = tokenise(loop, documents)
            times = count(loop)
            loop.ingest.stop()
            times.wall.update(cast(ModelEncoder, loop.encoder).seconds)
            tokens, segments = loop.state.tokens, loop.corpus.last + 1
            watched = sum(map(len, loop.state.watched.values()))
        finally:
            redis.stop()
    took = times.wall["all of it"]
    stages = [stage for stage in times.wall if ":" not in stage and stage != "all of it"]
    times.wall["the rest"] = took - sum(times.wall[stage] for stage in stages)
    times.wall["tokenise, alone"] = alone
    sizes = {"layers": HOOKS, "D": FEATURES, "tokens": tokens, "documents": documents, "segments": segments, "watched": watched}
    order = ["all of it", "tokenise, alone", *sorted(set(times.wall) - {"all of it", "tokenise, alone", "the rest"}), "the rest"]
    return [_row(stage, sizes, times, tokens) for stage in order if times.wall[stage] >= LEAST_SHARE * took]


def matmul_flop_per_second() -> float:
    """At which the encode of 2,048 tokens multiplies, with as many threads as the loop has."""
    residual, weights = torch.rand(2048, D_MODEL), torch.rand(D_MODEL, FEATURES)
    out = torch.empty(2048, FEATURES)
    return 2 * 2048 * D_MODEL * FEATURES / rows.measure(lambda: torch.mm(residual, weights, out=out), 20, warmups=3).p50


def _row(stage: str, sizes: dict[str, int], times: Times, tokens: int) -> dict:
    seconds, took = times.wall[stage], times.wall["all of it"]
    # The encoder's stages and what is left have no CPU time of their own: wall time stands there.
    once = rows.Timing(seconds, seconds, seconds, times.cpu.get(stage, seconds), 1)
    more: dict[str, object] = {"share": seconds / took, "microseconds_per_token": 1e6 * seconds / tokens}
    if stage.startswith("together"):
        cpu, all_cpu = times.cpu[stage], times.cpu["all of it"]
        more |= {"baseline": "the loop without them", "ratio": took / (took - seconds), "cpu_ratio": all_cpu / (all_cpu - cpu)}
    if stage == "all of it":
        alone = sum(times.wall[part] for part in ("forward", "encode", "compact"))
        bound = tokens * FLOP / matmul_flop_per_second()
        more |= {"tokens_per_second": tokens / took, "baseline": "forward, encode and compact alone", "ratio": took / alone}
        more |= {"bound": "model's and SAEs' matmuls at the rate of one", "bound_seconds": bound, "distance": took / bound}
    return rows.row("loop", stage, sizes, once, **more)


def main() -> None:
    """Measure, show, and append the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the shipped sample only, nothing is written")
    parser.add_argument("--documents", type=int, metavar="N", help="of each corpus at most (default: all)")
    options = parser.parse_args()
    quick = options.quick
    if missing := {name: value for name, value in ENGINE_ENVIRONMENT.items() if name not in os.environ}:
        # As the supervisor starts the engine; the allocator and OpenMP read theirs when a process starts.
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.loop", *sys.argv[1:]], {**os.environ, **missing})
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found = run(quick, options.documents)
    for one in found:
        log.info("%-28s %8.2f µs/token %6.1f %%", one["variant"], one["microseconds_per_token"], 100 * float(one["share"]))
    if not quick:
        rows.append(found)


if __name__ == "__main__":
    main()
