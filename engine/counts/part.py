"""The contract that every part of the state keeps: zero, add, merge, save, load.

A part is a fold over the corpus: `zero`, then `add` of every batch. Whatever way the batches are split over states, in whatever
order they come, and however the states are merged, saved and loaded on the way, integers are bit-identical to one pass and float
sums equal to a relative 1e-6. `tests/test_counts_contract.py` finds all registered parts and holds each to that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from engine.counts.shape import RunShape
from engine.durable import read_framed, write_framed
from engine.errors import DamagedFile

if TYPE_CHECKING:
    from engine.counts.clusters import SegmentClusters
    from engine.encoder.batch import SparseBatch
    from engine.encoder.encoded import SetAside
    from engine.encoder.projections import PairProjections

Place = tuple[int, ...]
"""Where in the run a part belongs: `()` once, `(layer,)` per layer, `(up, down)` per layer pair."""

MAGIC = b"SAESPART"


class StatePart(ABC):
    """One part of the state at one place of the run. A concrete subclass names its `kind` and is registered by that."""

    kind: ClassVar[str]
    registered: ClassVar[dict[str, type[StatePart]]] = {}

    shape: RunShape
    place: Place

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kind" in cls.__dict__:
            if cls.kind in StatePart.registered:
                raise TypeError(
                    f"two state parts are of kind {cls.kind!r}: {StatePart.registered[cls.kind].__name__} and {cls.__name__}"
                )
            StatePart.registered[cls.kind] = cls

    @property
    def name(self) -> str:
        """The part's name and that of its file: `marginals-3`, `pairs-3-4`, `ledger`."""
        return self.name_at(self.place)

    @classmethod
    def name_at(cls, place: Place) -> str:
        """The name of such a part at a place."""
        return "-".join([cls.kind, *map(str, place)])

    @classmethod
    @abstractmethod
    def places(cls, shape: RunShape) -> Sequence[Place]:
        """The places at which a run of this shape has such a part."""

    @classmethod
    @abstractmethod
    def bytes_at(cls, shape: RunShape, place: Place) -> int:
        """Memory in bytes that the part needs there when it is zero."""

    @classmethod
    @abstractmethod
    def zero(cls, shape: RunShape, place: Place) -> Self:
        """The part before any token."""

    def make_room(self, batch: SparseBatch) -> None:
        """Take the memory that `add` of this batch will need; `DoesNotFit` when there is none. Called for every part before any
        part adds, so that a batch is counted in all of them or in none."""
        return

    @abstractmethod
    def add(self, batch: SparseBatch, set_aside: Sequence[SetAside] = ()) -> None:
        """Count one batch, and what the encoder set aside while it made it."""

    def add_projections(self, projections: Sequence[PairProjections]) -> None:
        """Count what the encoder gave beside a batch that was added, see `engine.encoder.projections`."""
        return

    def end_segment(self, segment: Sequence[SegmentClusters]) -> None:
        """Count what is summed by clusters: a segment is whole, these are its corpora, and all of its batches were added."""
        return

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Add what another part of the same kind, shape and place has counted; `other` stays as it is."""

    @abstractmethod
    def save(self, path: Path) -> int:
        """Write the part durably to a file and return its size in bytes."""

    @classmethod
    @abstractmethod
    def load(cls, shape: RunShape, place: Place, path: Path) -> Self:
        """Read a part back; `DamagedFile` when the file is not exactly what `save` wrote."""


class FramedPart(StatePart):
    """A part that is small enough to be saved as a few named arrays in one frame file.

    `version` is that of its header and arrays: a file of another one is refused, whatever its arrays look like.
    """

    version: ClassVar[int] = 1

    @abstractmethod
    def arrays(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The part as a small header and arrays on the host."""

    @classmethod
    @abstractmethod
    def from_arrays(cls, shape: RunShape, place: Place, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        """The part that `arrays` described."""

    def save(self, path: Path) -> int:
        header, arrays = self.arrays()
        return write_framed(path, MAGIC, self.version, {**header, "part": self.name}, arrays)

    @classmethod
    def load(cls, shape: RunShape, place: Place, path: Path) -> Self:
        header, arrays = read_framed(path, MAGIC, {cls.version})
        require(path, "part", header.get("part"), cls.name_at(place))
        return cls.from_arrays(shape, place, header, arrays)


def require(path: Path, what: str, found: object, expected: object) -> None:
    """Raise `DamagedFile` naming the file, what it holds and what it must hold, unless the two are equal."""
    if found != expected:
        raise DamagedFile(f"{path}: its {what} is {found!r}, must be {expected!r}")
