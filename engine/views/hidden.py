"""What is hidden in the next layer's SAE error, as records (of each layer pair, 256 upstream features a record) and as answers.

Records hold measures and not sums, unlike those of features: a share is over the feature's own tokens, so it does not change
where N does, and 52 bytes a feature are written where sums and baselines are 200.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from engine.encoder.description import RunDescription
from engine.measures.hidden import hidden
from engine.measures.intervals import MIN_DOCUMENTS, MIN_EFFECTIVE
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


class HiddenBaselineAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the error share would be by chance: root mean square over 8 directions, uniform on the sphere (`random`) and decoder
    rows of the feature's own layer (`decoder`)."""

    random: float
    decoder: float


class HiddenAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the feature wrote, at the hook point of a downstream layer: over the tokens of one window in 16 at which it is active,
    along its decoder direction, relative to its activation times the norm of its decoder row.

    Attributes:
        layer: the downstream layer.
        tokens, windows: what the numbers are from.
        written: mean of activation × norm, in the units of the residual stream.
        error_share: part of it that is in the reconstruction error of that layer's SAE; lower, upper: its interval, clustered by
            window and valid at all times, with status "ok".
        stream_share: part that is in the residual stream at all; feature_share: part that the SAE reconstructs, the difference.
        baseline: what error_share is by chance.
        spread: standard deviation of error_share over single tokens.
        reason: why the numbers, or the interval, are null.
    """

    layer: int
    tokens: int
    windows: int
    written: float | None = None
    error_share: float | None = None
    lower: float | None = None
    upper: float | None = None
    status: Literal["ok", "insufficient"] = "insufficient"
    stream_share: float | None = None
    feature_share: float | None = None
    baseline: HiddenBaselineAnswer | None = None
    spread: float | None = None
    reason: str | None


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


def hidden_answer(run: RunDescription, feature: tuple[int, int], down: int, row: np.void) -> HiddenAnswer:
    """From a `HIDDEN` row of a feature, toward one downstream layer."""
    tokens, windows = int(row["tokens"]), int(row["windows"])
    reason = why_not(run, feature[0], down)
    if not tokens:
        never = f"feature {feature[0]}:{feature[1]} was not active in the windows that are looked at, one in 16 of the text"
        return HiddenAnswer(layer=down, tokens=0, windows=0, reason=reason or never)
    lower, upper, error, stream = (float(row[column]) for column in ("lower", "upper", "error_share", "stream_share"))
    bounded = math.isfinite(lower)
    if not bounded:
        weight = f"{windows:,} windows, worth {float(row['effective']):,.0f} of equal weight"
        reason = f"{weight}: an interval needs {MIN_DOCUMENTS} and {MIN_EFFECTIVE}"
    return HiddenAnswer(
        layer=down,
        tokens=tokens,
        windows=windows,
        written=float(row["written"]),
        error_share=error,
        lower=lower if bounded else None,
        upper=upper if bounded else None,
        status="ok" if bounded else "insufficient",
        stream_share=stream,
        feature_share=stream - error,
        baseline=HiddenBaselineAnswer(random=float(row["random"]), decoder=float(row["decoder"])),
        spread=float(row["spread"]),
        reason=reason,
    )
