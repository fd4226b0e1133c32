"""The record of a layer pair's sibling groups, as MessagePack in Redis; versioned and read like the records of features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engine.measures.siblings import SLOTS, SiblingGroups

if TYPE_CHECKING:
    from engine.counts.siblings import Siblings

_TYPES = {"parent": "<i4", "children": "<i4", "counted_from": "<i8", "group": "<i4", "cell": "<i2", "tokens": "<i8"}


class SiblingRecord(msgspec.Struct, frozen=True, array_like=True):
    """The groups of one layer pair, from the state of a snapshot; arrays packed as bytes, little-endian.

    Attributes:
        up, down: the layer pair.
        parent: int32 `[G]`; children: int32 `[G, 8]`; counted_from: int64 `[G]`.
        group, cell, tokens: int32, int16 and int64 `[n]`, the cells that are not 0 (`engine.counts.siblings.Siblings`).
    """

    up: int
    down: int
    parent: memoryview
    children: memoryview
    counted_from: memoryview
    group: memoryview
    cell: memoryview
    tokens: memoryview


def pack_siblings(part: Siblings) -> bytes:
    """The packed `SiblingRecord` of a part of the state."""
    group, cell = np.nonzero(part.cells)
    columns = (part.parent, part.children, part.counted_from, group, cell, part.cells[group, cell])
    packed = [
        np.ascontiguousarray(column, kind).reshape(-1).view(np.uint8).data
        for column, kind in zip(columns, _TYPES.values(), strict=True)
    ]
    return msgspec.msgpack.encode(SiblingRecord(part.place[0], part.place[1], *packed))


def unpack_siblings(packed: bytes) -> tuple[tuple[int, int], SiblingGroups]:
    """The layer pair of a record, and its groups."""
    record = msgspec.msgpack.decode(packed, type=SiblingRecord)
    columns = {name: np.frombuffer(getattr(record, name), kind) for name, kind in _TYPES.items()}
    groups = SiblingGroups.of(
        columns["parent"],
        columns["children"].reshape(-1, SLOTS),
        columns["counted_from"],
        (columns["group"], columns["cell"], columns["tokens"]),
    )
    return (record.up, record.down), groups
