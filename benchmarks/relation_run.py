"""The demo model over one corpus with the engine's own parts, ready to be asked as the API and the analysis worker ask."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks.brute_force import Activations
from benchmarks.loop import lay_down, tokenise
from engine.analysis.decoders import Decoders
from engine.analysis.snapshot import SnapshotReader, Whole
from engine.corpus.inbox import Inbox
from engine.encoder.decoder_file import DECODERS
from engine.loop import Loop
from engine.main import build
from engine.settings import load
from engine.views.connection import connect, connect_async
from engine.views.keys import Keys
from engine.views.reader import Views
from engine.views.redis_server import PrivateRedis

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """One corpus, counted and published.

    Attributes:
        corpus: its name; documents: how many there are.
        whole: the snapshot as the analysis worker has it; decoders: the decoders that it matches by.
        activations: all that was counted.
    """

    corpus: str
    documents: int
    whole: Whole
    decoders: Decoders
    activations: Activations
    loop: Loop
    redis_url: str
    redis_prefix: str

    @property
    def tokens(self) -> int:
        """N."""
        return self.whole.graph.tokens

    def ask(self, question: Callable[[Views], Awaitable[T]]) -> T:
        """Ask the engine as the API does, through Redis; it answers from here."""

        async def through_redis() -> T:
            client = connect_async(self.redis_url)
            try:
                return await question(Views(client, self.redis_prefix))
            finally:
                await client.aclose()

        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(lambda: asyncio.run(through_redis()))
            while not answer.done():
                self.loop.live.wait(0.01)
                self.loop.live.answer_pending(self.loop.encode_windows)
            return answer.result()


@contextmanager
def counted(corpus: str, texts: Sequence[str], segment_tokens: int = 65_536) -> Iterator[Run]:
    """Count these documents as one corpus, in the order of `engine.loop`, and publish; the engine is there until the end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        redis = PrivateRedis(folder / "redis")
        # Two threads wait for each other at every layer: beside other programs that takes ten times as long as one alone.
        settings = load(data_dir=folder, redis_url=redis.start(), segment_tokens=segment_tokens, threads=1)
        loop = None
        try:
            inbox = Inbox(folder / "inbox")
            lay_down(inbox, iter(texts), corpus)
            inbox.close()
            loop = build(settings, threading.Event())
            assert loop is not None  # nothing stops it
            tokenise(loop, len(texts))
            loop.publishing.start()
            batches = []
            for number in range(loop.corpus.last + 1):
                segment = loop.corpus.read(number)
                for units in loop.micro_batch.batches(segment):
                    encoded = loop.encoder.encode(segment, units)
                    loop.state.add(encoded.batch, encoded.set_aside, encoded.projections)
                    loop.batches.append(encoded.batch)
                batches += loop.batches
                loop.finish(segment)
            loop.publishing.finish()
            loop.publish("idle")
            loop.publishing.finish()
            loop.live.start()
            assert settings.redis_url is not None
            client, keys = connect(settings.redis_url), Keys(settings.redis_prefix)
            whole = SnapshotReader(client, keys, settings.published_k, settings.min_support).read()
            activations = Activations(batches, loop.description.dictionaries)
            decoders = Decoders(folder / DECODERS)
            yield Run(corpus, len(texts), whole, decoders, activations, loop, settings.redis_url, settings.redis_prefix)
        finally:
            if loop is not None:
                loop.publishing.stop()
                loop.ingest.stop()
                loop.live.stop()
            redis.stop()
