"""The API under load while the engine counts, and how soon a counted micro-batch is visible.

    python -m benchmarks.api_load [--quick] [--rounds N] [--seconds S]

1. `saestream serve` on the demo with one torch thread, fed the demo's text; measured after the first 40,000 tokens are counted.
2. Requests per second of one client (`http_load`, 16 connections) for answers of `addresses` features, each as likely as the
   others, and of a bare Litestar handler in a process of its own that answers the same bytes from memory: in turns, in the same
   run, the engine counting in both. The goal is half of its rate. A newer snapshot comes about every half second, and each answer
   must be made anew for it once: the more addresses there are, the fewer answers are sent again.
3. "visible" is from the counting of a micro-batch to the snapshot that has it (`visibility`), without load and under that of all
   arms; the goal is one second for 99 of 100.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks import rows
from benchmarks.http_load import Load, load
from benchmarks.visibility import Visible
from engine.demo.text import CORPORA, demo_documents, sample_documents
from tests.service import Service, eventually, free_port, serving

log = logging.getLogger(__name__)

CONNECTIONS = 16
WARM_TOKENS, QUICK_TOKENS = 40_000, 2_000
UPLOAD_DOCUMENTS = 500
LAYERS, FEATURES = 6, 1_024  # of the demo, but for the last layer, which has no downstream neighbours
GOAL_OF_BARE, GOAL_VISIBLE = 0.5, 1.0


class Arm(NamedTuple):
    """What is asked for: `{}` is the feature, and of how many."""

    variant: str
    path: str
    addresses: int


ARMS = (
    Arm("neighbours of 50 features", "/v1/features/{}/neighbors", 50),
    Arm("answers of 50 features", "/v1/features/{}", 50),
    Arm("neighbours of all features", "/v1/features/{}/neighbors", LAYERS * FEATURES),
)


def feed(service: Service, quick: bool) -> None:
    """Upload the demo's text, in uploads of 500 documents."""
    texts = [[row.text for row in sample_documents()]] if quick else [list(demo_documents(corpus)) for corpus in CORPORA]
    for documents in map(iter, texts):
        while batch := list(itertools.islice(documents, UPLOAD_DOCUMENTS)):
            service.feed(batch)


def counting(service: Service) -> None:
    """Nothing is measured beside an engine that has nothing to do.

    Raises:
        RuntimeError: it has counted everything.
    """
    if service.get("/v1/status")["state"] != "counting":
        raise RuntimeError("the engine has counted all text before the end: fewer rounds, or shorter ones")


@contextlib.contextmanager
def bare(port: int, bodies: dict[str, bytes], folder: Path) -> Iterator[None]:
    """The other server, while it runs."""
    file = folder / "bodies"
    file.write_bytes(msgspec.msgpack.encode(bodies))
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.bare_server", str(port), str(file)])
    try:
        eventually("the bare server answers", lambda: _answers(port, next(iter(bodies))))
        yield
    finally:
        process.kill()
        process.wait()


def _answers(port: int, path: str) -> bool:
    try:
        return load(port, [path], 0.01, 1).requests > 0
    except OSError:
        return False


class Watching:
    """`visibility` in a process of its own."""

    def __init__(self, service: Service, seconds: float) -> None:
        command = [sys.executable, "-m", "benchmarks.visibility", str(service.data_dir), str(service.port), str(seconds)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)

    def seen(self) -> Visible:
        """What it has seen, at its end."""
        out, _ = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError("the visibility of what was counted could not be watched")
        return Visible(**json.loads(out))


def measure_arm(
    service: Service, arm: Arm, rounds: int, seconds: float, folder: Path, seen: list[Visible]
) -> Iterator[dict[str, object]]:
    """The rows of one arm: ours and the bare handler. What was visible beside such a load is added to `seen`."""
    features = [f"{layer}/{index}" for layer in range(LAYERS) for index in range(FEATURES)]
    paths = [arm.path.format(feature) for feature in random.Random(1).sample(features, arm.addresses)]
    bodies = {path: service.http.get(path).content for path in paths[: min(len(paths), 200)]}
    port = free_port()
    ours: list[Load] = []
    others: list[Load] = []
    with bare(port, bodies, folder):
        for at in range(rounds):
            counting(service)
            others.append(load(port, list(bodies), seconds, CONNECTIONS, seed=at))
            counting(service)
            ours.append(load(service.port, paths, seconds, CONNECTIONS, seed=at))
            counting(service)
            watching = Watching(service, seconds + 1.0)  # not while rates are compared
            load(service.port, paths, seconds, CONNECTIONS, seed=rounds + at)
            seen.append(watching.seen())
    for variant, rounds_of, other in ((arm.variant, ours, others), (f"bare: {arm.variant}", others, None)):
        total = sum(rounds_of[1:], rounds_of[0])
        sizes = {"addresses": arm.addresses, "connections": CONNECTIONS}
        more: dict[str, object] = {"requests_per_second": total.rate, "p99": total.quantile(0.99)}
        more["bytes"] = total.bytes // total.requests
        if other is not None:
            ratio = total.rate / sum(other[1:], other[0]).rate
            more |= {"baseline": "a bare Litestar handler that answers the same bytes from memory", "ratio": ratio}
            more |= {"goal": f"{GOAL_OF_BARE:g} of it", "goal_ratio": ratio / GOAL_OF_BARE}
        log.info("%-36s %7.0f requests/s  p50 %6.1f ms  p99 %6.1f ms", variant, total.rate, *_ms(total))
        yield rows.row("api", variant, sizes, rows.Timing.of(total.latencies, total.latencies), **more)


def visible_row(variant: str, seen: Sequence[Visible], sizes: dict[str, int]) -> dict[str, object]:
    """How soon micro-batches were visible."""
    rate = sum(one.tokens_per_second for one in seen) / len(seen)
    all_of_it = Visible([x for one in seen for x in one.latencies], [x for one in seen for x in one.between], rate)
    p99, between = all_of_it.quantile(0.99), sorted(all_of_it.between)
    log.info("%-36s p50 %.2f s  p99 %.2f s  of %d micro-batches", variant, all_of_it.quantile(0.5), p99, len(all_of_it.latencies))
    more = {"p99": p99, "between_snapshots": between[len(between) // 2], "tokens_per_second": rate}
    more |= {"goal": f"p99 within {GOAL_VISIBLE:g} s", "goal_ratio": GOAL_VISIBLE / p99}
    return rows.row("api", variant, sizes, rows.Timing.of(all_of_it.latencies, all_of_it.latencies), **more)


def _ms(one: Load) -> tuple[float, float]:
    return 1e3 * one.quantile(0.5), 1e3 * one.quantile(0.99)


def run(quick: bool, rounds: int = 2, seconds: float = 4.0) -> Iterator[dict[str, object]]:
    """All rows."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"SAESTREAM_THREADS": "1"}
        with serving(Path(folder) / "run", environment=environment) as service:
            feed(service, quick)
            warm = QUICK_TOKENS if quick else WARM_TOKENS
            eventually("enough is counted", lambda: service.get("/v1/status")["tokens"] >= warm, 120.0)
            counting(service)
            alone = Watching(service, 2.0 if quick else 5 * seconds).seen()
            yield visible_row("visible: no load", [alone], {"connections": 0})
            loaded: list[Visible] = []
            for arm in ARMS:
                yield from measure_arm(service, arm, rounds, seconds, Path(folder), loaded)
            yield visible_row("visible: under load", loaded, {"connections": CONNECTIONS})


def main() -> None:
    """Measure, show, and append the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the shipped sample and one short round, nothing is written")
    parser.add_argument("--rounds", type=int, default=2, help="of each arm; the demo's text lasts for two minutes")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each round")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    began = time.perf_counter()
    rounds, seconds = (1, 1.0) if options.quick else (options.rounds, options.seconds)
    for one in run(options.quick, rounds, seconds):
        if not options.quick:
            rows.append([one])
    log.info("%.0f s", time.perf_counter() - began)


if __name__ == "__main__":
    main()
