"""What the tests of views share: small states, descriptions, a publisher over a real Redis, and a reader for ordinary functions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from engine.corpus.segment import Piece
from engine.counts.state import State
from engine.encoder.batch import SparseBatch
from engine.encoder.description import LayerDescription, RunDescription
from engine.settings import Settings
from engine.views.connection import connect_async
from engine.views.decoder import DecoderCosines
from engine.views.publisher import Publisher
from engine.views.reader import Views
from engine.views.records import ConvergenceRecord, StatusRecord
from engine.views.redis_server import PrivateRedis
from kernels import Csr

T = TypeVar("T")

DICTIONARIES = (23, 17, 29)
PAIRS = ((0, 1), (1, 2), (0, 2))


@contextmanager
def private_redis(directory: Path) -> Iterator[PrivateRedis]:
    server = PrivateRedis(directory)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def description(dictionaries: Sequence[int] = DICTIONARIES) -> RunDescription:
    layers = [LayerDescription(layer=at, hook=f"blocks.{at}.hook_resid_pre", features=size) for at, size in enumerate(dictionaries)]
    return RunDescription(model="tiny", saes="tiny", layers=layers, fingerprint={"dictionaries": str(list(dictionaries))})


def dense_activations(tokens: int, dictionaries: Sequence[int] = DICTIONARIES, seed: int = 0) -> list[np.ndarray]:
    """float32 `[T, D]` per layer: features of very different frequency, correlated across layers; feature 0 never fires."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, 6, tokens)
    layers = []
    for size in dictionaries:
        rate = np.where(np.arange(size)[None, :] % 6 == topic[:, None], 0.6, 0.05 + 0.3 * (np.arange(size) / size) ** 3)
        values = rng.gamma(2.0, 1.0, (tokens, size)).astype(np.float32) + 0.01
        dense = np.where(rng.random((tokens, size)) < rate, values, 0).astype(np.float32)
        dense[:, 0] = 0
        layers.append(dense)
    return layers


def as_batch(layers: Sequence[np.ndarray], first: int = 0, upload: str = "upload-1", number: int = 7, half: int = 0) -> SparseBatch:
    """Dense activations as one batch of one document of a half, at position `first` of the log."""
    tokens = len(layers[0])
    piece = Piece(upload, "corpus", number, "a name", half, 0, tokens, True)
    sparse = []
    for dense in layers:
        rows, features = np.nonzero(dense)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=tokens))]).astype(np.int32)
        sparse.append(
            Csr(torch.from_numpy(offsets), torch.from_numpy(features.astype(np.int32)), torch.from_numpy(dense[rows, features]))
        )
    return SparseBatch(tuple(sparse), np.arange(first, first + tokens), np.zeros(tokens, np.int32), (piece,))


def counted(layers: Sequence[np.ndarray], pairs: Sequence[tuple[int, int]] = PAIRS) -> State:
    """The state of these activations."""
    state = State.zero([dense.shape[1] for dense in layers], pairs)
    state.add(as_batch(layers))
    return state


def directions(dictionaries: Sequence[int] = DICTIONARIES) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(size, 8, generator=generator) for size in dictionaries]


def cosines(dictionaries: Sequence[int] = DICTIONARIES, pairs: Sequence[tuple[int, int]] = PAIRS) -> DecoderCosines:
    return DecoderCosines(lambda layer: directions(dictionaries)[layer], pairs)


def uniform(state: State, tokens: int) -> None:
    """Make every number of a state tell its token count, so that a mix of two states shows."""
    state.ledger.tokens_by_half = [tokens, 0]
    for part in state.marginals:
        part.by_half[:, 0] = tokens
        part.sum.fill_(tokens)
        part.sum_of_squares.fill_(tokens)
    for part in state.strongest:
        part.position.fill_(tokens)
    for table in state.pairs.values():
        table.counts[:, :, 0] = tokens
        table.products.fill_(tokens)


def status(state: State) -> StatusRecord:
    return StatusRecord(
        state="counting",
        tokens=state.tokens,
        tokens_per_second=0.0,
        queue_tokens=0,
        layers=[],
        pairs=list(state.pairs),
        checkpoint=None,
        memory_bytes=0,
        problem=None,
        updated_at=0.0,
    )


class Rig:
    """A publisher of small runs into one Redis."""

    def __init__(self, server: PrivateRedis, dictionaries: Sequence[int] = DICTIONARIES, **settings: object) -> None:
        self.server = server
        self.description = description(dictionaries)
        given = {"redis_url": server.url, "published_k": 3, "min_support": 2, "publish_interval": 0.001, **settings}
        self.settings = Settings.model_validate(given)

    def publisher(self, epoch: int = 1_000, decoder: DecoderCosines | None = None, **settings: object) -> Publisher:
        return Publisher(self.settings.model_copy(update=settings), self.description, epoch, decoder)

    def read(self, look: Callable[[Views], Awaitable[T]]) -> T:
        """Run a coroutine over the views."""

        async def run() -> T:
            client = connect_async(self.server.url)
            try:
                return await look(Views(client, self.settings.redis_prefix))
            finally:
                await client.aclose()

        return asyncio.run(run())


def publish(publisher: Publisher, state: State):
    """Publish a state with nothing beside it."""
    return publisher.publish(state, status(state), [], ConvergenceRecord(pairs=[], points=[]))
