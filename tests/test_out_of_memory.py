"""A GPU that runs out of memory while the engine counts: less at a time, and every token counted once.

No GPU is needed for it: PyTorch's own error is raised where one would raise it, in the bundled model's encoder and loop.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from service import Service
from torch import Tensor

from benchmarks.loop import lay_down
from engine.corpus.inbox import Inbox
from engine.corpus.segment import Segment
from engine.counts.checkpoint import Cursor
from engine.counts.state import State
from engine.demo.text import sample_documents
from engine.encoder.encoder import ModelEncoder
from engine.errors import DoesNotFit
from engine.loop import Loop
from engine.main import build
from engine.pace import MicroBatchSize
from engine.settings import load
from engine.views.redis_server import PrivateRedis

DOCUMENTS = 50
OUT_OF_MEMORY = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@dataclass
class Rig:
    """A loop of the bundled model that has sealed a segment and counted nothing."""

    loop: Loop
    encoder: ModelEncoder
    segment: Segment
    wanted: State
    """What counting it at once gives."""

    def fresh(self) -> Loop:
        """The loop before it has counted anything, its first micro-batch far larger than it may become."""
        self.loop.state, self.loop.batches = State.of_shape(self.loop.state.shape), []
        self.loop.cursor = Cursor(self.segment.number, 0)
        self.loop.micro_batch = MicroBatchSize(0.25, 65_536, start=4096)
        self.loop.between = lambda: None
        return self.loop


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("memory")
    redis = PrivateRedis(folder / "redis")
    settings = load(data_dir=folder, redis_url=redis.start())
    try:
        inbox = Inbox(folder / "inbox")
        lay_down(inbox, (row.text for row in list(sample_documents())[:DOCUMENTS]), "text")
        inbox.close()
        loop = build(settings, threading.Event())
        assert loop is not None
        loop.ingest.start()
        segment = loop.corpus.next_segment(0, wait=30.0)
        loop.ingest.stop()
        assert segment is not None
        encoder = cast(ModelEncoder, loop.encoder)
        encoded = encoder.encode(segment, segment.unit_order)
        wanted = State.of_shape(loop.state.shape)
        wanted.add(encoded.batch, encoded.set_aside, encoded.projections)
        yield Rig(loop, encoder, segment, wanted)
    finally:
        redis.stop()


@dataclass
class Limited:
    """The bundled encoder on a GPU that holds so many tokens at a time."""

    encoder: ModelEncoder
    most: int
    refused: int = 0

    def encode(self, segment: Segment, units: np.ndarray):
        encoded = self.encoder.encode(segment, units)
        if encoded.batch.tokens > self.most:
            self.refused += 1
            raise OUT_OF_MEMORY
        return encoded


def assert_every_token_is_counted_once(loop: Loop, wanted: State) -> None:
    assert loop.state.tokens == wanted.tokens == sum(batch.tokens for batch in loop.batches)
    for found, right in zip(loop.state.marginals, wanted.marginals, strict=True):
        assert torch.equal(found.by_half, right.by_half)
    for place, table in wanted.pairs.items():
        assert torch.equal(loop.state.pairs[place].counts, table.counts)
        torch.testing.assert_close(loop.state.pairs[place].products, table.products, rtol=1e-6, atol=0)


def test_a_batch_that_does_not_fit_is_encoded_again_in_smaller_ones_and_counted_once(rig: Rig) -> None:
    loop = rig.fresh()
    loop.encoder = limited = Limited(rig.encoder, most=300)
    assert loop.count(rig.segment)
    assert limited.refused >= 2  # of all tokens, half of them, …
    assert loop.micro_batch.most <= 300
    assert_every_token_is_counted_once(loop, rig.wanted)


def test_a_batch_whose_counting_finds_no_memory_is_counted_once_too(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = rig.fresh()
    loop.encoder = rig.encoder
    last = list(loop.state.parts())[-1]
    fits = last.make_room

    def make_room(batch) -> None:
        if batch.tokens > 300:
            raise OUT_OF_MEMORY
        fits(batch)

    monkeypatch.setattr(last, "make_room", make_room)
    assert loop.count(rig.segment)
    assert_every_token_is_counted_once(loop, rig.wanted)


def test_a_forward_pass_that_does_not_fit_becomes_smaller(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = rig.fresh()
    loop.encoder = rig.encoder
    taps: Callable[[Tensor], list[Tensor | None]] = rig.encoder._taps

    def small(rows: Tensor) -> list[Tensor | None]:
        if rows.numel() > 600:
            raise OUT_OF_MEMORY
        return taps(rows)

    monkeypatch.setattr(rig.encoder, "_taps", small)
    monkeypatch.setattr(rig.encoder, "_positions", rig.encoder._positions)
    assert loop.count(rig.segment)
    assert_every_token_is_counted_once(loop, rig.wanted)


def test_what_a_checkpoint_has_counted_of_a_segment_is_recalled_in_smaller_batches_too(rig: Rig) -> None:
    loop = rig.fresh()
    loop.encoder = rig.encoder
    loop.stop.set()
    assert not loop.count(rig.segment)  # one micro-batch, and stopped
    loop.stop.clear()
    loop.batches, loop.encoder = [], Limited(rig.encoder, most=300)
    assert loop.count(rig.segment)
    assert_every_token_is_counted_once(loop, rig.wanted)


def test_contexts_and_prompts_are_encoded_in_smaller_batches_too_and_the_running_one_is_counted_once(rig: Rig) -> None:
    loop = rig.fresh()
    loop.encoder = rig.encoder
    positions = rig.segment.first_position + np.arange(0, rig.segment.token_count, 40)
    found: set[int] = set()

    def ask() -> None:
        loop.encoder = limited = Limited(rig.encoder, most=300)
        if not found:
            for some in loop.encode_windows(positions.tolist()):
                found.update(some)
            assert limited.refused >= 2

    loop.between = ask
    assert loop.count(rig.segment)
    assert found == set(positions.tolist()) and loop.micro_batch.most <= 300
    assert_every_token_is_counted_once(loop, rig.wanted)


def test_a_window_that_does_not_fit_alone_is_an_error_that_says_so(rig: Rig) -> None:
    loop = rig.fresh()
    loop.encoder = Limited(rig.encoder, most=0)
    with pytest.raises(DoesNotFit, match=r"one window of \d+ tokens needs more memory than the GPU has left: CUDA out of memory"):
        loop.count(rig.segment)
    assert loop.state.tokens == 0


def test_a_gpu_that_is_not_there_is_refused_by_the_command_with_what_works(tmp_path: Path) -> None:
    service = Service(tmp_path / "data", "--device", "cuda", "--dictionary", "8,8", environment={"CUDA_VISIBLE_DEVICES": ""})
    process = service.launch()
    assert process.wait(60) == 3
    assert "--device cuda: PyTorch finds no GPU on this machine; use --device cpu" in service.log()
    assert "Traceback" not in service.log()
