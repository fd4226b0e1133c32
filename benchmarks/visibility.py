"""`python -m benchmarks.visibility DATA_DIR PORT SECONDS`: how long until a counted micro-batch is in a snapshot, seen from
outside, as JSON.

1. The engine is asked for a pair of features again and again, past the API, and answers from its running tables: N in the answer is
   what is counted, and was not at the question before. From the sending of that one on it may have been, so latencies are too long
   by up to the time between two questions.
2. A thread listens to the API's event stream: N of each snapshot, when it came.
"""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from engine.settings import Settings
from engine.views.connection import connect_async
from engine.views.keys import Keys
from engine.views.redis_server import SOCKET_NAME
from engine.views.requests import SimilarityRequest, ask

PAUSE_SECONDS = 0.01  # between two questions


class Visible(NamedTuple):
    """Seconds from the counting of each micro-batch to the snapshot that has it, in order; from one snapshot to the next; tokens
    per second."""

    latencies: list[float]
    between: list[float]
    tokens_per_second: float

    def quantile(self, share: float) -> float:
        """Seconds within which this share of the micro-batches was visible."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def watch(data_dir: Path, port: int, seconds: float) -> Visible:
    """Watch a server with a Redis of its own that counts, for so long."""
    ends = time.perf_counter() + seconds
    snapshots: list[tuple[float, int]] = []
    listening = threading.Thread(target=_listen, args=(port, ends, snapshots), daemon=True)
    listening.start()
    counted = asyncio.run(_ask(data_dir, ends))
    listening.join(timeout=30.0)
    latencies = []
    for began, tokens in counted[1:]:  # when the first was counted is not known
        seen = next((came for came, there in snapshots if there >= tokens), None)
        if seen is not None:
            latencies.append(max(0.0, seen - began))
        elif snapshots and ends - began > 5.0:
            raise RuntimeError(f"{tokens} tokens were counted, and not in a snapshot {ends - began:.1f} s later")
    came = [at for at, _ in snapshots]
    between = [after - before for before, after in itertools.pairwise(came)]
    rate = (counted[-1][1] - counted[0][1]) / (counted[-1][0] - counted[0][0]) if len(counted) > 1 else 0.0
    return Visible(latencies, between, rate)


async def _ask(data_dir: Path, ends: float) -> list[tuple[float, int]]:
    """(from when on it may have been counted, N) of every N that was seen."""
    keys = Keys(Settings().redis_prefix)
    counted: list[tuple[float, int]] = []
    async with connect_async(f"unix://{quote(str(data_dir / 'redis' / SOCKET_NAME))}") as client:
        before = time.perf_counter()
        while (sent := time.perf_counter()) < ends:
            answer = await ask(client, keys, SimilarityRequest((0, 0), (1, 0)))
            if not counted or answer.tokens > counted[-1][1]:
                counted.append((before, answer.tokens))
            before = sent
            await asyncio.sleep(PAUSE_SECONDS)
    return counted


def _listen(port: int, ends: float, snapshots: list[tuple[float, int]]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/v1/events", headers={"Accept": "text/event-stream"})
    answer = connection.getresponse()
    while time.perf_counter() < ends + 3.0:
        line = answer.readline()
        if not line:
            raise RuntimeError("the event stream has ended")
        if line.startswith(b"data:"):
            data = json.loads(line[5:])
            snapshots.append((time.perf_counter(), data["tokens"]))
            if time.perf_counter() > ends:
                break
    connection.close()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(watch(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))._asdict()))
