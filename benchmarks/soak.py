"""A server under everything at once for half an hour: does it stay right, quick and of one size?

    python -m benchmarks.soak [--minutes 30] [--readers 50] [--uploaders 5] [--subscribers 20] [--pause 0.5]

1. A server of its own on the bundled model, its settings the defaults; a batch of each corpus is counted before the clock starts.
2. Uploaders send batches of the demo's text, each with a key and every tenth a second time, as fast as it is counted (they rest
   while more than 60,000 tokens wait). Readers ask one route after the other, with a pause of half a second in the mean.
   Subscribers follow the events, and half of them reconnect now and then with the last id they saw.
3. Every few seconds: anonymous memory (`RssAnon`) of each process.
4. In the end everything sent must be counted once.

Nothing may be refused but with 429, no event may be missing or come twice, and the anonymous memory of each process must be flat:
the median of the last third of the time within 5 % of that of the middle third. Printed as a table and written as a row, whose
`seconds` are from request to answer of all reads. Exit status 1 when something of that does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import rows
from engine.demo.text import CORPORA, demo_documents
from tests.service import Service, serving

log = logging.getLogger(__name__)

PROCESSES = {"api.cli": "supervisor", "redis-server": "Redis", "engine.main": "engine", "api.server": "API", "analysis": "analysis"}
FLAT = 0.05
QUEUE = 60_000  # tokens that wait before uploaders rest: some ten seconds of counting, so that the engine always has text
TEXTS = 3_000  # documents of a corpus, sent over and over
DOCUMENTS = 40  # of an upload: some 6,000 tokens
SAMPLE_SECONDS = 2.0
REPEAT_EVERY, RECONNECT_EVERY = 10, 40
PROMPTS = ["Return the sum of array elements.", "If the file does not exist, an error is raised.", "a tuple of ints, optional"]


@dataclass
class Seen:
    """What clients met with, and what the processes weighed."""

    until: float
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # by kind of request
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)  # documents by corpus
    events: int = 0
    memory: dict[str, list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))  # process → time, bytes

    @property
    def over(self) -> bool:
        return time.monotonic() > self.until

    def met(self, kind: str, status: int, seconds: float, text: str) -> None:
        """An answer. Only 429 is a refusal that a client must expect."""
        self.seconds[kind].append(seconds)
        self.statuses[status] += 1
        if status not in (200, 202, 304, 429):
            self.fault(f"{kind}: {status} {text[:200]}")

    def fault(self, text: str) -> None:
        self.wrong.append(text)
        log.warning("%s", text)


Asks = Callable[[random.Random, list[int]], tuple[str, str, dict[str, Any], Any]]


def routes() -> list[Asks]:
    """What readers ask: kind, path, query and JSON body, drawn for a run with layers of these sizes."""

    def feature(rng: random.Random, sizes: list[int], layers: slice = slice(None)) -> tuple[int, int]:
        layer = rng.choice(range(len(sizes))[layers])
        return layer, rng.randrange(sizes[layer])

    def of(rng: random.Random, sizes: list[int], end: str = "", **query: Any) -> tuple[str, str, dict[str, Any], Any]:
        layer, index = feature(rng, sizes, slice(1, -1))
        return f"feature{end}", f"/v1/features/{layer}/{index}{end}", query, None

    def similarity(rng: random.Random, sizes: list[int]) -> tuple[str, str, dict[str, Any], Any]:
        layer, index = feature(rng, sizes, slice(-1))
        return "similarity", "/v1/similarity", {"up": f"{layer}:{index}", "down": f"{layer + 1}:{index}"}, None

    return [
        lambda rng, sizes: of(rng, sizes),
        lambda rng, sizes: of(rng, sizes, "/neighbors"),
        lambda rng, sizes: of(rng, sizes, "/neighbors", k=50, measure="pearson", direction="upstream"),
        lambda rng, sizes: of(rng, sizes, "/gates"),
        lambda rng, sizes: of(rng, sizes, "/contexts"),
        similarity,
        similarity,
        lambda rng, sizes: ("status", "/v1/status", {}, None),
        lambda rng, sizes: ("convergence", "/v1/convergence", {}, None),
        lambda rng, sizes: ("corpora", "/v1/corpora", {}, None),
        lambda rng, sizes: ("flow", "/v1/flow", {"threshold": rng.choice([0.3, 0.4, 0.5])}, None),
        lambda rng, sizes: ("lineages", "/v1/lineages", {"limit": 50}, None),
        lambda rng, sizes: ("communities", "/v1/communities", {"limit": 20}, None),
        lambda rng, sizes: ("gates", "/v1/gates", {"limit": 50}, None),
        lambda rng, sizes: ("compare", "/v1/compare", {"a": CORPORA[0], "b": CORPORA[1], "limit": 20}, None),
        lambda rng, sizes: ("search", "/v1/search", {"q": rng.choice(["array", "return", "file"])}, None),
        lambda rng, sizes: ("graph", "/v1/graph", {}, {"prompt": rng.choice(PROMPTS)}),
        lambda rng, sizes: ("metrics", "/metrics", {}, None),
    ]


async def read(client: httpx.AsyncClient, seen: Seen, rng: random.Random, pause: float, sizes: list[int]) -> None:
    """One reader."""
    asks = routes()
    while not seen.over:
        kind, path, query, body = rng.choice(asks)(rng, sizes)
        began = time.perf_counter()
        try:
            answer = await (client.get(path, params=query) if body is None else client.post(path, json=body))
            seen.met(kind, answer.status_code, time.perf_counter() - began, answer.text)
        except httpx.HTTPError as error:
            seen.fault(f"{kind}: {error!r}")
        await asyncio.sleep(rng.expovariate(1 / pause))


async def upload(client: httpx.AsyncClient, seen: Seen, number: int) -> None:
    """One uploader: its corpus is one of the two, its batches follow one another."""
    corpus = CORPORA[number % len(CORPORA)]
    for at, batch in enumerate(batches(corpus)):
        status = (await client.get("/v1/status")).json()
        while status["queue_tokens"] > QUEUE and not seen.over:
            await asyncio.sleep(1.0)
            status = (await client.get("/v1/status")).json()
        if seen.over:
            return
        body = "".join(json.dumps({"text": text}) + "\n" for text in batch).encode()
        headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": f"{number}-{at}"}
        for expected in (202, 200)[: 2 if at % REPEAT_EVERY == 0 else 1]:
            while True:
                began = time.perf_counter()
                answer = await client.post("/v1/corpora", params={"name": corpus}, content=body, headers=headers)
                seen.met("upload", answer.status_code, time.perf_counter() - began, answer.text)
                if answer.status_code != 429:
                    break
                await asyncio.sleep(float(answer.headers["retry-after"]))
            if answer.status_code != expected:
                seen.fault(f"upload {number}-{at}: {answer.status_code} instead of {expected}")
        seen.sent[corpus] += len(batch)
        await asyncio.sleep(1.0)  # status is a second old: a burst would be sent before it shows


@cache
def texts_of(corpus: str) -> list[str]:
    """Some of the demo's text; it takes a while to gather."""
    return list(itertools.islice(demo_documents(corpus), TEXTS))


def batches(corpus: str) -> Iterator[list[str]]:
    """That text over and over, a batch at a time."""
    texts = itertools.cycle(texts_of(corpus))
    while True:
        yield list(itertools.islice(texts, DOCUMENTS))


async def subscribe(client: httpx.AsyncClient, seen: Seen, reconnects: bool) -> None:
    """One subscriber: every event follows on the one before."""
    last: str | None = None
    while not seen.over:
        headers = {"Last-Event-ID": last} if last else {}
        async with client.stream("GET", "/v1/events", headers=headers, timeout=60.0) as response:
            if response.status_code != 200:
                seen.fault(f"events: {response.status_code}")
            kind, here = "", 0
            async for line in response.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    kind = value
                elif name == "id":
                    if last is not None and _number(value) != _number(last) + 1:
                        seen.fault(f"events: {value} follows {last}")
                    last, here, seen.events = value, here + 1, seen.events + 1
                elif not line and kind == "reset":
                    seen.fault(f"events: reset at {last}")
                if seen.over or (reconnects and here >= RECONNECT_EVERY):
                    break


def _number(version: str) -> int:
    return int(version.partition("-")[2])


async def weigh(service: Service, seen: Seen) -> None:
    """Sample the anonymous memory of every process, and notice one that was started anew."""
    assert service.process is not None
    root = psutil.Process(service.process.pid)
    known: dict[str, int] = {}
    while not seen.over:
        for process in [root, *root.children()]:
            try:
                name = next(name for part, name in PROCESSES.items() if any(part in word for word in process.cmdline()))
                weight = rss_anon(process.pid)
            except (StopIteration, OSError, psutil.NoSuchProcess):
                continue
            if known.setdefault(name, process.pid) != process.pid:
                seen.fault(f"{name} was started anew")
                known[name] = process.pid
            seen.memory[name].append((time.monotonic(), weight))
        await asyncio.sleep(SAMPLE_SECONDS)


def rss_anon(pid: int) -> int:
    """Bytes of anonymous memory that are resident: what a process holds itself, without files that it maps."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


async def soak(service: Service, seen: Seen, options: argparse.Namespace) -> None:
    """All clients until the time is over."""
    sizes = [layer["features"] for layer in service.get("/v1/status")["layers"]]
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=service.http.base_url, timeout=90.0, limits=limits) as client:
        tasks = [
            weigh(service, seen),
            *(read(client, seen, random.Random(at), options.pause, sizes) for at in range(options.readers)),
            *(upload(client, seen, at) for at in range(options.uploaders)),
            *(subscribe(client, seen, at % 2 == 0) for at in range(options.subscribers)),
        ]
        await asyncio.gather(*tasks)


def settle(service: Service, seen: Seen) -> int:
    """Wait until all is counted and see that it is what was sent; the tokens."""
    deadline = time.monotonic() + 600
    while (status := service.get("/v1/status"))["queue_tokens"] or status["lag_tokens"]:
        if time.monotonic() > deadline:
            seen.fault(f"not counted after 10 minutes: {status['queue_tokens']} tokens wait")
            break
        time.sleep(1.0)
    for corpus in service.get("/v1/corpora")["items"]:
        if (corpus["documents"], corpus["documents_counted"]) != (seen.sent[corpus["name"]],) * 2:
            seen.fault(f"{corpus['name']}: {seen.sent[corpus['name']]} documents sent, {corpus}")
    return status["tokens"]


def growth(samples: list[tuple[float, int]], first: float, last: float) -> tuple[int, int, int]:
    """Median bytes of the first, the middle and the last third of a time."""
    third = (last - first) / 3
    parts = [[b for t, b in samples if first + at * third <= t <= first + (at + 1) * third] for at in range(3)]
    return tuple(int(statistics.median(part)) if part else 0 for part in parts)  # type: ignore[return-value]


def quantiles(values: list[float]) -> tuple[float, float]:
    """Median and 99th percentile."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("readers", 50), ("uploaders", 5), ("subscribers", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--pause", type=float, default=0.5, help="mean seconds between the reads of one reader")
    parser.add_argument("--no-row", action="store_true", help="print only")
    parser.add_argument("--keep", type=Path, help="data directory to use and to keep; a temporary one by default")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends with us
    with tempfile.TemporaryDirectory() as folder, serving(options.keep or Path(folder), environment={}) as service:
        seen = Seen(until=0.0)
        for corpus in CORPORA:
            service.until_counted(service.feed(texts_of(corpus)[:DOCUMENTS], corpus, wait="visible"))
            seen.sent[corpus] += DOCUMENTS
        began = time.monotonic()
        seen.until = began + 60 * options.minutes
        asyncio.run(soak(service, seen, options))
        ended = time.monotonic()
        cpu = {name: sum(process.cpu_times()[:2]) for name, process in _processes(service)}
        tokens = settle(service, seen)
    return report(seen, options, began, ended, tokens, cpu)


def _processes(service: Service) -> Iterator[tuple[str, psutil.Process]]:
    for part, name in PROCESSES.items():
        if (process := service.child(part)) is not None:
            yield name, process


def report(seen: Seen, options: argparse.Namespace, began: float, ended: float, tokens: int, cpu: dict[str, float]) -> int:
    """Print what was seen, write the row; the exit status."""
    console, memory = Console(), {name: growth(samples, began, ended) for name, samples in seen.memory.items()}
    table = Table(
        "process", "first third", "middle third", "last third", "change", "CPU", title=f"RssAnon over {options.minutes:g} minutes"
    )
    for name, (first, middle, last) in memory.items():
        change = last / middle - 1 if middle else 0.0
        if abs(change) > FLAT:
            seen.fault(f"the memory of {name} is not flat: {change:+.1%}")
        share = f"{cpu.get(name, 0.0) / (ended - began):.0%}"
        table.add_row(name, *(f"{size / 1e6:.1f} MB" for size in (first, middle, last)), f"{change:+.1%}", share)
    console.print(table)
    table = Table("request", "answers", "p50", "p99", title="From request to answer")
    for kind, seconds in sorted(seen.seconds.items()):
        p50, p99 = quantiles(seconds)
        table.add_row(kind, f"{len(seconds):,}", f"{1e3 * p50:.0f} ms", f"{1e3 * p99:.0f} ms")
    console.print(table)
    reads = [second for kind, seconds in seen.seconds.items() if kind != "upload" for second in seconds]
    (_, p99), cuts = quantiles(reads), statistics.quantiles(reads, n=10, method="inclusive")
    refused = seen.statuses[429]
    console.print(
        f"{len(reads):,} reads, {len(seen.seconds['upload']):,} uploads, {seen.events:,} events, {refused:,} refused with 429, "
        f"{tokens:,} tokens counted ({tokens / (ended - began):,.0f}/s); faults: {len(seen.wrong)}"
    )
    for text, count in Counter(seen.wrong).most_common(20):
        console.print(f"  {count} × {text}", markup=False, highlight=False)
    sizes = {name: getattr(options, name) for name in ("minutes", "readers", "uploaders", "subscribers", "pause")}
    timing = rows.Timing(cuts[1], statistics.median(reads), cuts[7], cpu.get("API", 0.0) / len(reads), len(reads))
    row = rows.row(
        "soak",
        "demo",
        sizes,
        timing,
        p99=p99,
        p99_by_request={kind: float(f"{quantiles(seconds)[1]:.3g}") for kind, seconds in seen.seconds.items()},
        tokens_per_second=tokens / (ended - began),
        uploads=len(seen.seconds["upload"]),
        events=seen.events,
        refused_429=refused,
        faults=len(seen.wrong),
        anonymous_memory={
            name: {"first": first, "middle": middle, "last": last, "change": round(last / middle - 1, 4) if middle else None}
            for name, (first, middle, last) in memory.items()
        },
    )
    if not options.no_row:
        rows.append([row])
    return int(bool(seen.wrong))


if __name__ == "__main__":
    sys.exit(main())
