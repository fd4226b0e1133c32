"""Records of what is hidden in the next layer's SAE error: of each layer pair, 256 upstream features a record.

They hold measures and not sums, unlike those of features: a share is over the feature's own tokens, so it does not change where N
does, and 52 bytes a feature are written where sums and baselines are 200.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engine.encoder.description import RunDescription
from engine.measures.hidden import hidden
from engine.views.keys import Keys

if TYPE_CHECKING:
    from engine.counts.state import State

BLOCK = 256
"""Features of one record: 13 kB, which one look-up of a feature reads."""

HIDDEN = np.dtype(
    [
        ("tokens", "<i8"),
        ("windows", "<i8"),
        ("written", "<f4"),
        ("error_share", "<f4"),
        ("stream_share", "<f4"),
        ("random", "<f4"),
        ("decoder", "<f4"),
        ("spread", "<f4"),
        ("lower", "<f4"),
        ("upper", "<f4"),
        ("effective", "<f4"),
    ]
)
"""One upstream feature (52 bytes), see `engine.measures.hidden.HiddenMeasures`."""


class HiddenRecord(msgspec.Struct, frozen=True, array_like=True):
    """Features `first` to `first + n − 1` of layer `up` in the error of layer `down`; `packed`: rows of `HIDDEN`."""

    up: int
    down: int
    first: int
    packed: memoryview

    def rows(self) -> np.ndarray:
        """The rows, `HIDDEN [n]`, without a copy."""
        return np.frombuffer(self.packed, HIDDEN)


class HiddenRecords:
    """What was published of one engine's state, and what of it has changed."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._tokens: dict[tuple[int, int], np.ndarray] = {}

    def changed(self, state: State, everything: bool) -> Iterator[tuple[str, bytes]]:
        """(key, packed record) of the blocks that are not what they were at the last call; of all of them if `everything`."""
        encode = msgspec.msgpack.Encoder().encode
        for pair, part in state.hidden.items():
            tokens = part.counts[:, 0].copy()
            dirty = np.ones(len(tokens), bool) if everything or pair not in self._tokens else tokens != self._tokens[pair]
            self._tokens[pair] = tokens
            for first in range(0, len(tokens), BLOCK):
                block = slice(first, first + BLOCK)
                if dirty[block].any():
                    found = hidden(part.counts[block], part.sums[block], part.chance[block])
                    rows = np.empty(len(found.tokens), HIDDEN)
                    for name, column in found._asdict().items():
                        rows[name] = column
                    record = HiddenRecord(*pair, first, memoryview(rows.tobytes()))
                    yield self._keys.hidden(*pair, first // BLOCK), encode(record)


def why_not(run: RunDescription, up: int, down: int) -> str | None:
    """Why nothing is known of a layer pair, as a sentence for the reader; None where something can be."""
    if not run.model:
        return "this run has no model: what is in the residual stream is not known of activations that are pushed"
    widths = run.layers[up].width, run.layers[down].width
    if widths[0] != widths[1]:
        return (
            f"layers {up} and {down} have residuals of {widths[0]} and {widths[1]} numbers: a direction of one is none of the other"
        )
    return None
