"""The engine's own state as what the streams of `benchmarks.gates` go through: counted, chosen and judged as in a run.

Documents go in as pushed activations do: one piece each, a segment a batch, choices at its end where the engine makes them.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.gate_recipe import Gates
from benchmarks.gate_streams import Layer, Segment
from engine.corpus.segment import Piece
from engine.counts.state import State
from engine.encoder.batch import SparseBatch
from engine.views.convergence import Convergence
from engine.views.effects import Effects
from engine.views.gate_choices import choose_gates
from engine.views.gate_records import judge
from kernels import Csr

PAIR = (0, 1)


class Engine:
    """One layer pair of a `State`, which is `state`."""

    def __init__(self, up: int, down: int) -> None:
        """Nothing counted."""
        self.state = State.zero((up, down))
        self._convergence = Convergence([PAIR])
        self._effects = Effects((up, down))
        self._position = 0

    def add(self, segment: Segment) -> None:
        """Count a segment, and choose at its end what is to be chosen there."""
        state, lengths = self.state, segment.lengths.tolist()
        pieces = [
            Piece("stream", "stream", segment.first_document + at, None, int(half), 0, length, True)
            for at, (half, length) in enumerate(zip(segment.halves, lengths, strict=True))
        ]
        starts = self._position + np.concatenate([[0], np.cumsum(segment.lengths)])
        tokens = int(segment.lengths.sum())
        batch = SparseBatch(
            (_csr(segment.up), _csr(segment.down)),
            np.arange(self._position, self._position + tokens),
            np.repeat(np.arange(len(pieces), dtype=np.int32), segment.lengths),
            tuple(pieces),
        )
        state.add(batch)
        clusters = state.end_segment([batch], pieces, starts[:-1].tolist())
        self._position += tokens
        if self._convergence.observe(state, ["stream"]):
            choose_gates(state, clusters, self._position)
            self._effects.update(state)

    def candidates(self) -> np.ndarray:
        """int32 `[Dd, m]`."""
        return self.state.gate_tables[PAIR].parents

    def gates(self) -> Gates:
        """All nominated gates that are live, with their verdicts now."""
        gates = self.state.gates[PAIR]
        verdict = judge(self.state, self._effects).rows[PAIR]["verdict"]
        return Gates(gates.children.astype(np.int64), gates.kinds, gates.parents.astype(np.int64), verdict)


def _csr(layer: Layer) -> Csr:
    return Csr(*(torch.from_numpy(np.ascontiguousarray(part)) for part in layer))
