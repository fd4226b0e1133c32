"""The engine's half of a run for the API's tests: a real state, publisher and query thread over a small synthetic stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from api_rig import DICTIONARIES, RUN

from engine.corpus.segment import Piece
from engine.counts.state import State
from engine.encoder.batch import SparseBatch
from engine.settings import Settings
from engine.views.connection import connect
from engine.views.contexts import Found, Window
from engine.views.convergence import Convergence
from engine.views.decoder import DecoderCosines
from engine.views.live import LiveQueries
from engine.views.publisher import Publisher
from engine.views.records import (
    CheckpointStatus,
    LayerStatus,
    StatusRecord,
    UploadRecord,
)
from kernels import Csr

PAIRS = ((0, 1), (1, 2))
NEVER = (0, 5)  # never fires


def directions(layer: int) -> torch.Tensor:
    """Decoder directions `[D, 4]`."""
    return torch.randn(DICTIONARIES[layer], 4, generator=torch.Generator().manual_seed(layer))


def dense(tokens: int, seed: int) -> list[np.ndarray]:
    """Activations float32 `[T, D]` per layer; layer l+1 follows layer l with noise, feature 0:5 never fires, 0:4 always does."""
    rng = np.random.default_rng(seed)
    first = np.where(rng.random((tokens, DICTIONARIES[0])) < 0.3, rng.integers(1, 9, (tokens, DICTIONARIES[0])) / 4, 0)
    first[:, NEVER[1]], first[:, 4] = 0, 1
    layers = [first]
    for size in DICTIONARIES[1:]:
        follow = layers[-1][:, np.arange(size) % layers[-1].shape[1]]
        noise = np.where(rng.random((tokens, size)) < 0.1, 0.25, 0)
        layers.append(np.where(rng.random((tokens, size)) < 0.8, follow, 0) + noise)
    return [layer.astype(np.float32) for layer in layers]


def sparse(rows: np.ndarray) -> Csr:
    """Dense activations `[T, D]` as CSR."""
    at, features = np.nonzero(rows)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(at, minlength=len(rows)))]).astype(np.int32)
    return Csr(*(torch.from_numpy(part) for part in (offsets, features.astype(np.int32), rows[at, features])))


def batch_of(layers: list[np.ndarray], number: int, first: int) -> SparseBatch:
    """One document as a batch whose first token has position `first`."""
    tokens = len(layers[0])
    piece = Piece("U", "corpus", number, f"document <i>{number}</i>", 0, 0, tokens, True)
    positions = np.arange(first, first + tokens)
    return SparseBatch(tuple(sparse(rows) for rows in layers), positions, np.zeros(tokens, np.int32), (piece,))


class Engine:
    """Counts when it is told to, publishes when it is told to, and answers live queries all the time."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.state = State.zero(DICTIONARIES, PAIRS)
        self.convergence = Convergence(PAIRS)
        self.lock = threading.Lock()
        self.rows: list[list[np.ndarray]] = []
        self.uploads: list[UploadRecord] = []
        self.lost: set[int] = set()  # chunks whose text is not there any more
        assert settings.redis_url is not None
        self.redis = connect(settings.redis_url)
        cosines = DecoderCosines(directions, PAIRS)
        self.publisher = Publisher(settings, RUN, int(time.time() * 1000), cosines)
        self.live = LiveQueries(settings, RUN, self.state, self.lock, cosines, decode=lambda token: f" <b>{token}</b>")
        self.live.start()
        self._stop = threading.Event()
        self._loop = threading.Thread(target=self._answer)
        self._loop.start()

    def _answer(self) -> None:
        """The main loop's part of answering: contexts."""
        while not self._stop.is_set():
            self.live.wait(0.05)
            self.live.answer_pending(self.windows)

    def windows(self, positions: Sequence[int]) -> Iterator[Found]:
        """The chunks of the stream that hold these positions, encoded, with their token ids."""
        first = 0
        for number, layers in enumerate(self.rows):
            tokens = len(layers[0])
            here = [position for position in positions if first <= position < first + tokens]
            if number in self.lost:
                yield {position: "this chunk is gone" for position in here}
            elif here:
                chunk = Window(batch_of(layers, number, first), slice(0, tokens), np.arange(first, first + tokens) % 100)
                yield dict.fromkeys(here, chunk)
            first += tokens

    @property
    def seen(self) -> list[np.ndarray]:
        """Everything counted so far, dense, per layer: what answers are compared with."""
        return [np.concatenate(layer) for layer in zip(*self.rows, strict=True)]

    def count(self, tokens: int = 200) -> None:
        layers = dense(tokens, seed=len(self.rows))
        batch = batch_of(layers, len(self.rows), self.state.tokens)
        self.rows.append(layers)
        with self.lock:
            self.state.add(batch)

    def status(self, state: str = "counting", **changes: object) -> StatusRecord:
        layers = [
            LayerStatus(layer=layer, hook=f"blocks.{layer}.hook_resid_pre", features=size, dead=int((part.count == 0).sum()))
            for layer, (size, part) in enumerate(zip(DICTIONARIES, self.state.marginals, strict=True))
        ]
        values: dict[str, object] = {
            "state": state,
            "tokens": self.state.tokens,
            "tokens_per_second": 1234.5,
            "queue_tokens": 0,
            "layers": layers,
            "pairs": list(PAIRS),
            "checkpoint": CheckpointStatus(tokens=self.state.tokens, saved_at=time.time(), seconds=0.2),
            "memory_bytes": 1 << 20,
            "problem": None,
            "updated_at": time.time(),
            "caught_up_at": 0.0 if {"tokens", "queue_tokens"} & changes.keys() else time.time(),
        }
        return StatusRecord(**{**values, **changes})  # type: ignore[arg-type]

    def publish(self, state: str = "counting", **changes: object) -> str:
        """Publish what is counted; the version."""
        self.convergence.observe(self.state)
        convergence = self.convergence.record()
        published = self.publisher.publish(self.state, self.status(state, **changes), self.uploads, convergence)
        if self.publisher.problem:  # Redis was restarted: found out at one tick, published anew at the next
            published = self.publisher.publish(self.state, self.status(state, **changes), self.uploads, convergence)
        assert self.publisher.problem is None, self.publisher.problem
        return published.version or ""

    def close(self) -> None:
        self._stop.set()
        self._loop.join()
        self.live.stop()
        self.redis.close()
