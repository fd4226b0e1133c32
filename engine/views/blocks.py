"""Records of many features at once, and how one feature is cut out of them.

A publish writes all of a layer's neighbour lists anew while text is being counted, so they are written as few and large records
as can be: of each layer pair and direction, 256 features a record. One feature's rows are a slice, which Redis cuts out
(`engine.views.scripts.READ`). What belongs to a feature alone (its counts) stands once, in the record of its layer, and not in the
row of everyone that lists it: a reader keeps the layers' records while they are the newest, and joins.

    lists:{layer}:{other}:{block}      LISTED rows of each feature, by index of the neighbour
    intervals:{layer}:{other}:{block}  INTERVAL rows of each feature: its watched pairs, by index; changed where a segment ends
    strengths:{layer}:{block}          STRENGTHS, one row a feature
    layer:{layer}                      `LayerRecord`
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from engine.measures.strengths import STRENGTH_BINS
from engine.views.records import CONTEXT, CONTEXTS, Direction

BLOCK = 256
"""Features of one record."""

LISTED = np.dtype([("index", "<i4"), ("decoder_cosine", "<f4"), ("joint", "<i8"), ("joint_a", "<i8"), ("product", "<f8")])
"""A neighbour in a list (32 bytes): what `engine.views.records.NEIGHBOR` has of the pair."""

LISTED_WITH_ERRORS = np.dtype([*LISTED.descr, ("error", "<i8")])
"""The same from a table that may lack some (40 bytes): what may be missing of the joint count."""

STRENGTHS = np.dtype([("contexts", CONTEXT, CONTEXTS), ("histogram", "<i8", STRENGTH_BINS)])
"""How strongly a feature fires (608 bytes): its strongest activations, position −1 where there are fewer; and how often how
strongly."""

Packed = Sequence[bytes | memoryview]
"""A packed record in pieces: some lie in arrays of megabytes, and are copied once, on their way out."""

_BIN_STARTS = np.array([4**at for at in range(1, 32)])  # of joint counts; the first bin is below

_COLUMNS = {"count": "<i8", "count_a": "<i8", "sum": "<f8", "sum_of_squares": "<f8", "rate_effect": "<f4", "threshold": "<f4"}


class TableRecord(msgspec.Struct, frozen=True, array_like=True):
    """One layer that a layer has lists towards.

    Attributes:
        packed_effects: float32 `[EFFECT_BINS]`, design effects of ratios by joint count (bin b from 4^b on).
        packed_unlisted: int64 `[D]`, the most that the joint count of a feature can be with one that the table does not hold; empty
            where it holds all, and no joint count lacks anything.
    """

    layer: int
    direction: Direction
    packed_effects: memoryview
    packed_unlisted: memoryview = memoryview(b"")

    def effects(self) -> np.ndarray:
        """float32 `[EFFECT_BINS]`, without a copy."""
        return np.frombuffer(self.packed_effects, np.float32)

    def unlisted(self) -> np.ndarray | None:
        """int64 `[D]`, without a copy; None where the table holds all."""
        return np.frombuffer(self.packed_unlisted, np.int64) if len(self.packed_unlisted) else None

    @property
    def row(self) -> np.dtype:
        """The type of the rows of its lists."""
        return LISTED_WITH_ERRORS if len(self.packed_unlisted) else LISTED


class LayerRecord(msgspec.Struct, frozen=True, array_like=True):
    """What is known of the features of one layer alone: columns `[D]`, little-endian, see `FeatureRecord` for what they are.

    Attributes:
        layer: which.
        tables: one per layer pair that it is part of.
        columns: by name, count and count_a int64, sum and sum_of_squares float64, rate_effect and threshold float32.
    """

    layer: int
    tables: list[TableRecord]
    columns: dict[str, memoryview]

    def column(self, name: str) -> np.ndarray:
        """One of the columns, without a copy."""
        return np.frombuffer(self.columns[name], _COLUMNS[name])

    @staticmethod
    def pack(layer: int, tables: Sequence[TableRecord], columns: dict[str, np.ndarray]) -> bytes:
        """The packed record of these columns."""
        packed = {name: np.ascontiguousarray(columns[name], kind).view(np.uint8).data for name, kind in _COLUMNS.items()}
        return msgspec.msgpack.encode(LayerRecord(layer, list(tables), packed))


def effects_of(effects: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """float32, the design effects of ratios with these joint counts; `effects`: of a `TableRecord`."""
    return effects[np.searchsorted(_BIN_STARTS, joint, side="right")]


def pack_block(ends: np.ndarray, rows: np.ndarray) -> Packed:
    """A record of slices: n + 1 places as uint32, little-endian, then the slices.

    Args:
        ends: int64 `[n + 1]`, the row at which each slice begins, and at which the last one ends.
        rows: of any type, contiguous.
    """
    places = ((ends - ends[0]) * rows.itemsize + 4 * len(ends)).astype("<u4")
    return places.tobytes(), rows[ends[0] : ends[-1]].view(np.uint8).data


def open_block(packed: bytes | memoryview, size: int, kind: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a record of `size` slices, and how many each slice has: `[…]` of a type, int64 `[size]`."""
    places = np.frombuffer(packed, "<u4", size + 1).astype(np.int64)
    return np.frombuffer(packed, kind, offset=int(places[0])), np.diff(places) // kind.itemsize


def place_of(index: int) -> tuple[int, int]:
    """The block that a feature is in, and which slice of it is its own."""
    return divmod(index, BLOCK)


def blocks(features: int) -> Iterator[tuple[int, slice]]:
    """The blocks of a layer of so many features: number, and which."""
    for number, first in enumerate(range(0, features, BLOCK)):
        yield number, slice(first, min(first + BLOCK, features))


def ends_of(lengths: np.ndarray) -> np.ndarray:
    """int64 `[n + 1]`: where each of some slices begins."""
    return np.concatenate([[0], np.cumsum(lengths)])
