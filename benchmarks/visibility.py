"""`python -m benchmarks.visibility PORT SECONDS`: how long it takes until a counted micro-batch is in a published snapshot, seen
from outside, as JSON.

1. A thread asks for a pair of features again and again, which is answered from the running tables: N in the answer is what is
   counted, and was not at the question before. From the sending of that one on it may have been, so latencies are too long by up to
   the time between two questions.
2. Another one listens to the event stream: N of each snapshot, when it came.
"""

from __future__ import annotations

import http.client
import itertools
import json
import sys
import threading
import time
from typing import NamedTuple

PAUSE_SECONDS = 0.02  # between two questions: each takes the server 3 ms


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


def watch(port: int, seconds: float) -> Visible:
    """Watch a server that counts, for so long."""
    ends = time.perf_counter() + seconds
    snapshots: list[tuple[float, int]] = []
    listening = threading.Thread(target=_listen, args=(port, ends, snapshots), daemon=True)
    listening.start()
    counted = _ask(port, ends)
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


def _ask(port: int, ends: float) -> list[tuple[float, int]]:
    """(from when on it may have been counted, N) of every N that was seen."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    counted: list[tuple[float, int]] = []
    before = time.perf_counter()
    while (sent := time.perf_counter()) < ends:
        connection.request("GET", "/v1/similarity?up=0:0&down=1:0")
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"a live question was answered {answer.status}: {body[:200]!r}")
        tokens = json.loads(body)["tokens"]
        if not counted or tokens > counted[-1][1]:
            counted.append((before, tokens))
        before = sent
        time.sleep(PAUSE_SECONDS)
    connection.close()
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
    sys.stdout.write(json.dumps(watch(int(sys.argv[1]), float(sys.argv[2]))._asdict()))
