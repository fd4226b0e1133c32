"""The state: everything counted so far, as parts that keep one contract (`engine.counts.part`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Self, cast

import torch

from engine.counts import memory
from engine.counts.bounded import BoundedTable
from engine.counts.clusters import SegmentClusters, cluster_segment
from engine.counts.corpora import CorpusMarginals
from engine.counts.gate_tables import GateTables
from engine.counts.gates import NominatedGates
from engine.counts.hidden import HiddenSums
from engine.counts.histograms import Histograms
from engine.counts.ledger import Ledger
from engine.counts.marginals import Marginals
from engine.counts.pairs import PairTable
from engine.counts.part import Place, StatePart
from engine.counts.shape import INT32_LIMIT, LayerPair, RunShape, Thresholds
from engine.counts.siblings import Siblings
from engine.counts.strongest import Strongest
from engine.counts.watched import Watched
from engine.errors import DoesNotFit
from kernels.cpu.threads import run_each

if TYPE_CHECKING:
    from engine.corpus.segment import Piece
    from engine.encoder.batch import SparseBatch
    from engine.encoder.encoded import SetAside
    from engine.encoder.projections import PairProjections


class State:
    """Per layer marginals, of all and per corpus, and strongest activations; per layer pair a table, watched pairs, gates, sibling
    groups and sums of projected errors; the ledger.

    Attributes:
        shape: what is counted.
        marginals: one `Marginals` per layer.
        corpora: one `CorpusMarginals` per layer.
        strongest: one `Strongest` per layer.
        histograms: one `Histograms` per layer.
        pairs: (up, down) → `PairTable`, or `BoundedTable` where the shape says so.
        watched: (up, down) → `Watched`.
        gate_tables: (up, down) → `GateTables`.
        gates: (up, down) → `NominatedGates`.
        hidden: (up, down) → `HiddenSums`.
        siblings: (up, down) → `Siblings`.
        ledger: the `Ledger`.
        segments_ended: segments that this object was told the end of: where sums over documents have changed.
    """

    def __init__(self, shape: RunShape, parts: Sequence[StatePart]) -> None:
        """Parts as `parts()` lists them: every registered kind at each of its places, in that order."""
        expected = [(kind, place) for kind, _, place in layout(shape)]
        if [(part.kind, part.place) for part in parts] != expected:
            raise ValueError(f"a state of this shape consists of {expected}, got {[part.name for part in parts]}")
        self.shape = shape
        self._parts = tuple(parts)
        self.marginals = tuple(part for part in parts if isinstance(part, Marginals))
        self.strongest = tuple(part for part in parts if isinstance(part, Strongest))
        self.histograms = tuple(part for part in parts if isinstance(part, Histograms))
        self.corpora = tuple(part for part in parts if isinstance(part, CorpusMarginals))
        self.watched = {cast(LayerPair, part.place): part for part in parts if isinstance(part, Watched)}
        self.gate_tables = {cast(LayerPair, part.place): part for part in parts if isinstance(part, GateTables)}
        self.gates = {cast(LayerPair, part.place): part for part in parts if isinstance(part, NominatedGates)}
        self.hidden = {cast(LayerPair, part.place): part for part in parts if isinstance(part, HiddenSums)}
        self.siblings = {cast(LayerPair, part.place): part for part in parts if isinstance(part, Siblings)}
        tables = {part.place: part for part in parts if isinstance(part, PairTable | BoundedTable)}
        self.pairs = {pair: tables[pair] for pair in shape.pairs}
        self.segments_ended = 0
        (self.ledger,) = (part for part in parts if isinstance(part, Ledger))

    @classmethod
    def zero(
        cls,
        dictionaries: Sequence[int],
        pairs: Sequence[LayerPair] | None = None,
        threshold: Thresholds = 0.0,
        device: str | torch.device = "cpu",
        *,
        count_limit: int = INT32_LIMIT,
        available: int | None = None,
    ) -> Self:
        """The state before any token.

        Args:
            dictionaries: features per layer.
            pairs: layer pairs (up, down); None = the adjacent ones.
            threshold: a feature is active where its activation is above this: one number, or an array `[D]` per layer.
            device: where the tables are, "cpu" or "cuda".
            count_limit: int32 pair counts become int64 before one could pass this.
            available: bytes of memory there are; None = ask the machine.

        Raises:
            BadInput: a size, pair or threshold that no run can have.
            DoesNotFit: the tables need more memory than there is.
        """
        return cls.of_shape(RunShape.of(dictionaries, pairs, threshold, device, count_limit), available=available)

    @classmethod
    def of_shape(cls, shape: RunShape, *, available: int | None = None) -> Self:
        """The zero state of a shape; errors as `zero`."""
        cls.require_memory(shape, available=available)
        return cls(shape, [part.zero(shape, place) for _, part, place in layout(shape)])

    @staticmethod
    def require_memory(shape: RunShape, *, available: int | None = None) -> None:
        """Raise `DoesNotFit` when a state of this shape needs more memory than there is."""
        sizes = ", ".join(map(str, shape.dictionaries))
        what = f"the statistics of {len(shape.pairs)} layer pairs over dictionaries of {sizes} features"
        hosted = sum(
            BoundedTable.bytes_at(shape, place) for place in BoundedTable.places(shape)
        )  # on the host, whatever the device
        advice = (
            "" if shape.bounded else "; --memory-budget 8GB, or what there is, keeps the strongest partners of each feature only"
        )
        if shape.device.type == "cpu" or not hosted:
            memory.require(bytes_needed(shape), shape.device, what, available, advice)
        else:
            memory.require(bytes_needed(shape) - hosted, shape.device, what, available, advice)
            memory.require(hosted, "cpu", f"the bounded tables of {len(shape.bounded)} layer pairs", available)

    @property
    def tokens(self) -> int:
        """N: tokens that entered the statistics."""
        return self.ledger.tokens

    def parts(self) -> Iterator[StatePart]:
        """All parts, in a fixed order."""
        return iter(self._parts)

    def add(self, batch: SparseBatch, set_aside: Sequence[SetAside] = (), projections: Sequence[PairProjections] = ()) -> None:
        """Count a batch, and what was projected beside it, in every part.

        Raises:
            DoesNotFit: the batch has another number of layers, or a table that must become int64 no longer fits the memory.
                Nothing of the batch is counted then.
        """
        if len(batch.layers) != len(self.shape.dictionaries):
            raise DoesNotFit(f"a batch of {len(batch.layers)} layers for a state of {len(self.shape.dictionaries)}")
        self.make_room(batch)
        for part in self._parts:
            part.add(batch, set_aside)
        if projections:
            for part in self._parts:
                part.add_projections(projections)

    def make_room(self, batch: SparseBatch) -> None:
        """Have every part get the memory that it needs to count a batch.

        Raises:
            DoesNotFit: as `add`.
            torch.cuda.OutOfMemoryError: there is too little on the GPU; nothing was counted.
        """
        for part in self._parts:
            part.make_room(batch)

    def end_segment(
        self, batches: Sequence[SparseBatch], pieces: Sequence[Piece], positions: Sequence[int]
    ) -> list[SegmentClusters]:
        """A segment was added whole: count what is summed over its documents. Returns its clusters, for what is chosen there.

        Args:
            batches: all of its batches, in any order.
            pieces: the pieces of documents that it consists of.
            positions: position in the log of each piece's first token.
        """
        self.segments_ended += 1
        self.ledger.finish(pieces)
        segment = cluster_segment(batches, pieces, positions, self.shape)
        run_each([partial(part.end_segment, segment) for part in self._parts])
        return segment

    def merge(self, other: State) -> None:
        """Add what another state of the same shape has counted; it stays as it is.

        Raises:
            DoesNotFit: dictionaries, pairs or thresholds differ.
        """
        if not self.shape.same_counts_as(other.shape):
            raise DoesNotFit(
                f"states can be merged when dictionaries, layer pairs and thresholds are equal: {_words(self.shape)} and "
                f"{_words(other.shape)}"
            )
        for mine, theirs in zip(self._parts, other._parts, strict=True):
            mine.merge(theirs)


def layout(shape: RunShape) -> list[tuple[str, type[StatePart], Place]]:
    """Every part that a state of this shape has: kind, class, place. Sorted by kind, then in the order of the places."""
    kinds = sorted(StatePart.registered.items())
    return [(kind, part, place) for kind, part in kinds for place in part.places(shape)]


def bytes_needed(shape: RunShape) -> int:
    """Memory in bytes of a zero state of this shape (pair counts as int32)."""
    return sum(part.bytes_at(shape, place) for _, part, place in layout(shape))


def _words(shape: RunShape) -> str:
    thresholds = ["0" if array is None else f"{float(array.min()):g}…{float(array.max()):g}" for array in shape.thresholds]
    return f"dictionaries {list(shape.dictionaries)} with pairs {list(shape.pairs)} and thresholds {thresholds}"
