"""Where the time of a batch goes on the demo: tokenise, forward, encode, compact, accumulate, publish.

    python -m benchmarks.loop [--quick]

The engine's own parts do the work (inbox, ingest thread, log, encoder, state, publisher with a private Redis), in the order of
`engine.loop`, and every stage is timed where it is called. The demo's text is counted once; `share` of a stage is its part of the
time from the first batch to the last. Tokenising runs in a thread of its own beside the others: it is measured alone, before.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from benchmarks import rows
from engine.corpus.documents import body_check
from engine.corpus.inbox import Inbox
from engine.demo.text import CORPORA, demo_documents, sample_documents
from engine.encoder.encoder import ModelEncoder
from engine.loop import Loop
from engine.main import build
from engine.settings import load
from engine.views.redis_server import PrivateRedis

log = logging.getLogger(__name__)

UPLOAD_DOCUMENTS = 500


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


def count(loop: Loop) -> tuple[dict[str, float], float]:
    """Count every sealed segment as `Loop.run` does; seconds per stage, and from the first batch to the last."""
    stages = {"accumulate": 0.0, "publish": 0.0}
    began = time.perf_counter()
    for number in range(loop.corpus.last + 1):
        segment = loop.corpus.read(number)
        for units in loop.micro_batch.batches(segment):
            encoded = loop.encoder.encode(segment, units)
            loop.batches.append(encoded.batch)
            before = time.perf_counter()
            with loop.lock:
                loop.state.add(encoded.batch, encoded.set_aside)
            stages["accumulate"] += time.perf_counter() - before
            if loop.publisher.due():
                before = time.perf_counter()
                loop.publish("counting")
                stages["publish"] += time.perf_counter() - before
        loop.finish(segment)
    took = time.perf_counter() - began
    return stages, took


def run(quick: bool) -> list[dict]:
    """The rows: one per stage, and the whole."""
    with tempfile.TemporaryDirectory() as folder:
        redis = PrivateRedis(Path(folder) / "redis")
        settings = load(data_dir=Path(folder), redis_url=redis.start())
        try:
            inbox = Inbox(Path(folder) / "inbox")
            texts = {corpus: list(demo_documents(corpus)) for corpus in CORPORA} if not quick else {}
            texts["sample"] = [row.text for row in sample_documents()]
            for corpus, documents in texts.items():
                lay_down(inbox, iter(documents), corpus)
            inbox.close()
            loop = build(settings, threading.Event())
            assert loop is not None  # nothing stops it
            documents = sum(map(len, texts.values()))
            alone = tokenise(loop, documents)
            stages, took = count(loop)
            loop.ingest.stop()
            stages |= cast(ModelEncoder, loop.encoder).seconds
            tokens = loop.state.tokens
        finally:
            redis.stop()
    sizes = {"layers": 7, "D": 1024, "tokens": tokens, "documents": documents}
    found = [_row("all of it", sizes, took, took, tokens), _row("tokenise, alone", sizes, alone, took, tokens)]
    other = took - sum(stages.values())
    return found + [_row(stage, sizes, seconds, took, tokens) for stage, seconds in [*stages.items(), ("the rest", other)]]


def _row(stage: str, sizes: dict[str, int], seconds: float, took: float, tokens: int) -> dict:
    once = rows.Timing(seconds, seconds, seconds, seconds, 1)
    return rows.row("loop", stage, sizes, once, share=seconds / took, microseconds_per_token=1e6 * seconds / tokens)


def main() -> None:
    """Measure, show, and append the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the shipped sample only, nothing is written")
    quick = parser.parse_args().quick
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found = run(quick)
    for one in found:
        log.info("%-16s %8.2f µs/token %6.1f %%", one["variant"], one["microseconds_per_token"], 100 * float(one["share"]))
    if not quick:
        rows.append(found)


if __name__ == "__main__":
    main()
