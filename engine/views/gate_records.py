"""Gates as records: of each layer pair, 256 children a record, with their candidates and every gate that is judged of them.

1. Where a segment has ended, all gates of all layer pairs are judged together (`judge`): control of false discoveries is over the
   whole run, so a verdict in one layer pair depends on what is known in the others.
2. The records whose content is not what was sent last are written, into the snapshot that shows the features of the same state.

Gates are counted where segments end, so their numbers cover `tokens` since the nomination, which can be less than the snapshot's.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from engine.measures.gate_gain import gain_interval
from engine.measures.gate_nominations import MOST_NOMINATIONS
from engine.measures.gate_tests import ALPHA, GATE, JOINT, verdicts
from engine.measures.gates import explained_bits, gate_counts
from engine.views.keys import Keys

if TYPE_CHECKING:
    from engine.counts.state import State
    from engine.views.effects import Effects

BLOCK = 256
"""Children of one record: with four gates each, the most there can be, it holds 320 kB, which one look-up of a feature reads."""

GATE_ROW = np.dtype(
    [
        ("child", "<i4"),
        ("kind", "u1"),
        ("number", "u1"),
        ("verdict", "u1"),
        ("parents", "<i4", 3),
        ("best", "<i4"),
        ("counted_from", "<i8"),
        ("tokens", "<i8"),
        ("cells", "<i8", 16),
        ("sums", "<f8", (2, 5)),
        ("lower", "<f8"),
        ("upper", "<f8"),
        ("documents", "<i4"),
        ("effective", "<f8"),
        ("deciding", "<i4"),
        ("log_e", "<f8", 4),
    ]
)
"""One nominated gate (311 bytes): as in `engine.counts.gates.NominatedGates` the child, its place, kind, parents and best single
parent, tokens since, cells (cell 0 too, which is what the others leave of the tokens), sums over documents by half; the ends of the
gain's interval with the documents behind it (NaN where there are too few); deciding documents, log E by test, and the verdict."""


class Needed(NamedTuple):
    """log E at which one more gate, and one more joint action, would be accepted just now."""

    gate: float
    joint: float


class GatesRecord(msgspec.Struct, frozen=True, array_like=True):
    """Children `first` to `first + n − 1` of layer `down`, with layer `up`.

    Attributes:
        packed: rows of `GATE_ROW`, by child, then by place.
        packed_parents: int32 `[n, m]`, candidate parents, −1 behind the last; packed_since: int64 `[n]`, tokens that were counted
            when they were chosen; packed_nominations: int64 `[n]`, gates that each child has been given so far.
        candidates: m.
        needed: see `Needed`.
        children: of all layer pairs; false discoveries are controlled over 8 gates of each.
    """

    up: int
    down: int
    first: int
    packed: memoryview
    packed_parents: memoryview
    packed_since: memoryview
    packed_nominations: memoryview
    candidates: int
    needed: Needed
    children: int

    def rows(self) -> np.ndarray:
        """The gates, `GATE_ROW [G]`, without a copy."""
        return np.frombuffer(self.packed, GATE_ROW)

    def parents(self) -> np.ndarray:
        """int32 `[n, m]`, without a copy."""
        return np.frombuffer(self.packed_parents, np.int32).reshape(-1, self.candidates)

    def since(self) -> np.ndarray:
        """int64 `[n]`, without a copy."""
        return np.frombuffer(self.packed_since, np.int64)

    def nominations(self) -> np.ndarray:
        """int64 `[n]`, without a copy."""
        return np.frombuffer(self.packed_nominations, np.int64)


class Judged(NamedTuple):
    """All gates of a run: layer pair → `GATE_ROW [G]`; what one more needs; children of all layer pairs."""

    rows: dict[tuple[int, int], np.ndarray]
    needed: Needed
    children: int


def judge(state: State, effects: Effects) -> Judged:
    """Every gate with its verdict as it is now. Nothing may count meanwhile."""
    found, explained, offset = {}, [], 0
    owners = []
    for pair, gates in state.gates.items():
        totals, rows = gates.totals, np.zeros(len(gates), GATE_ROW)
        rows["child"], rows["number"], rows["kind"] = gates.children, gates.number, gates.kinds
        for name in ("parents", "best", "counted_from", "tokens"):
            rows[name] = getattr(gates, name)
        for name in ("cells", "sums", "log_e", "deciding"):
            rows[name] = getattr(totals, name)
        rows["cells"][:, 0] = gates.tokens - totals.cells[:, 1:].sum(axis=1)
        gain = gain_interval(totals.sums.sum(axis=1), totals.squares, totals.documents)
        for name in ("lower", "upper", "documents", "effective"):
            rows[name] = getattr(gain, name)
        counts = gate_counts(gates.kinds, totals.cells)
        effect = effects.of_gates(pair, counts.child)
        explained.append(explained_bits(gates.kinds, counts, gates.tokens, state.shape.gate_candidates, effect))
        owners.append(gates.children.astype(np.int64) + offset)
        offset += len(gates.nominations)
        found[pair] = rows
    every = np.concatenate([np.empty(0, GATE_ROW), *found.values()])
    owner, bits = (np.concatenate([np.empty(0), *columns]) for columns in (owners, explained))
    said = verdicts(every["kind"], every["log_e"], owner.astype(np.int64), bits, offset)
    ends = np.cumsum([len(rows) for rows in found.values()])
    for rows, of_pair in zip(found.values(), np.split(said, ends[:-1]) if len(ends) else [], strict=True):
        rows["verdict"] = of_pair
    most = math.log(MOST_NOMINATIONS * max(offset, 1) / ALPHA)
    return Judged(found, Needed(*(most - math.log(1 + int((said == verdict).sum())) for verdict in (GATE, JOINT))), offset)


class GateRecords:
    """What was published of one engine's gates, and what of it has changed."""

    def __init__(self, keys: Keys, effects: Effects) -> None:
        """Keys of the run, and the design effects that the loop keeps up to date."""
        self._keys = keys
        self._effects = effects
        self._revision: tuple[int, int] | None = None
        self._sent: dict[str, bytes] = {}  # digests

    def changed(self, state: State, everything: bool) -> Iterator[tuple[str, bytes]]:
        """(key, packed record) of the blocks that are not what they were at the last call; of all of them if `everything`."""
        revision = (state.segments_ended, self._effects.revision)
        if revision == self._revision and not everything:
            return
        self._revision = revision
        judged = judge(state, self._effects)
        encode = msgspec.msgpack.Encoder().encode
        for pair, rows in judged.rows.items():
            tables, nominations = state.gate_tables[pair], state.gates[pair].nominations
            for first in range(0, len(nominations), BLOCK):
                block = slice(first, min(first + BLOCK, len(nominations)))
                start, end = np.searchsorted(rows["child"], [block.start, block.stop])
                columns = (rows[start:end], tables.parents[block], tables.counted_from[block], nominations[block])
                packed = encode(
                    GatesRecord(
                        *pair,
                        first,
                        *(memoryview(column.tobytes()) for column in columns),
                        candidates=tables.parents.shape[1],
                        needed=judged.needed,
                        children=judged.children,
                    )
                )
                key, digest = self._keys.gates(*pair, first // BLOCK), hashlib.blake2b(packed, digest_size=16).digest()
                if everything or self._sent.get(key) != digest:
                    self._sent[key] = digest
                    yield key, packed
