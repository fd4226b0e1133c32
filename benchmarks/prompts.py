"""Prompts' graphs and search on a running server of the bundled model, by the clock of a client.

    saestream demo --once && saestream serve &
    python -m benchmarks.prompts [--url http://127.0.0.1:8000]

1. Idle: prompts of several lengths, the largest answer there is, and searches; the first one builds the index.
2. The demo's sample (27,000 tokens) is counted without prompts, then again while a client sends one prompt after the other: how
   long each takes, and what is left of the tokens per second.

Appends rows to `benchmarks/results/`. The server counts the sample twice more for it.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from typing import Any

import httpx

from benchmarks.rows import Timing, append, measure, row
from engine.demo.text import sample_documents

log = logging.getLogger(__name__)

SENTENCE = "Return a tuple of ints, or None if the array has no axis of that name; raise ValueError otherwise. "
PROMPTS = {"a sentence": {"prompt": SENTENCE}, "250 tokens": {"prompt": SENTENCE * 10}}
LARGEST = {"250 tokens, largest answer": {"prompt": SENTENCE * 10, "per_layer": 200, "edges": 5000}}
SEARCHES = ("array", "the", "tuple", "return", "value", "int", "axis", "function", "string", "list", "none", "object", "type")


def ask(client: httpx.Client, body: dict[str, Any]) -> Any:
    """One prompt's graph."""
    answer = client.post("/v1/graph", json=body)
    answer.raise_for_status()
    return answer.json()


def search(client: httpx.Client, q: str) -> Any:
    """The first page of a search."""
    return client.get("/v1/search", params={"q": q}).raise_for_status().json()


def idle(client: httpx.Client, sizes: dict[str, int]) -> list[dict[str, object]]:
    """Rows of prompts and searches while nothing is counted."""
    rows = []
    for name, body in {**PROMPTS, **LARGEST}.items():
        found = ask(client, body)
        more = {"nodes": len(found["nodes"]), "edges": len(found["edges"]), "gates": len(found["gates"])}
        timing = measure(lambda body=body: ask(client, body), 20)
        rows.append(row("prompts", f"idle: {name}", {**sizes, "prompt": len(found["tokens"])}, timing, **more))
    began = time.perf_counter()
    found = search(client, SEARCHES[0])
    took = time.perf_counter() - began
    first = Timing(took, took, took, 0.0, 1)
    rows.append(row("prompts", "search: the first one", sizes, first, contexts=found["searched"], features=found["total"]))
    words = iter(SEARCHES[1:])  # a list that was made is kept: each word once
    rows.append(row("prompts", "search: further words", sizes, measure(lambda: search(client, next(words)), len(SEARCHES) - 2)))
    return rows


def feed(client: httpx.Client, prompts: bool) -> tuple[float, list[float]]:
    """Seconds until the sample is counted, and those of each prompt that was answered meanwhile."""
    body = "".join(json.dumps({"text": document.text}) + "\n" for document in sample_documents())
    headers = {"Content-Type": "application/x-ndjson"}
    began = time.perf_counter()
    upload = (
        client.post("/v1/corpora", params={"name": "prompts"}, content=body.encode(), headers=headers).raise_for_status().json()
    )
    seconds: list[float] = []
    while client.get(f"/v1/uploads/{upload['id']}").json()["state"] != "counted":
        before = time.perf_counter()
        if prompts:
            ask(client, PROMPTS["a sentence"])
            seconds.append(time.perf_counter() - before)
        else:
            time.sleep(0.05)
    return time.perf_counter() - began, seconds


def counting(client: httpx.Client, sizes: dict[str, int]) -> list[dict[str, object]]:
    """Rows of prompts while text is counted."""
    alone, _ = feed(client, False)
    together, seconds = feed(client, True)
    cuts = sorted(seconds)
    at = [cuts[int(share * (len(cuts) - 1))] for share in (0.2, 0.5, 0.8, 1.0)]
    timing = Timing(at[0], at[1], at[2], 0.0, len(cuts))
    more = {"most_seconds": at[3], "baseline": "the sample without prompts", "ratio": together / alone}
    return [row("prompts", "counting: a sentence, one after the other", sizes, timing, seconds_counting=together, **more)]


def main() -> None:
    """Measure everything, and append the rows."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    with httpx.Client(base_url=parser.parse_args().url, timeout=120) as client:
        status = client.get("/v1/status").raise_for_status().json()
        sizes = {"layers": len(status["layers"]), "D": status["layers"][0]["features"], "tokens": status["tokens"]}
        rows = idle(client, sizes) + counting(client, sizes)
    append(rows)
    for one in rows:
        log.info("%s: %s", one["variant"], one["seconds"])


if __name__ == "__main__":
    main()
