"""The data-free matching of a layer pair, computed once: decoders don't change while a run lasts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.encoder.decoder_file import Vectors, read_decoder
from engine.encoder.description import RunDescription
from engine.measures.matching import assign, assign_all, nearest
from engine.views.records import DENSE_CELLS

Pair = tuple[int, int]

_K = 20
# Of larger layers: edges × features that the assignment may take, as in `engine.analysis.answers`. 3 partners at 24,576 features.
_WORK = 4_000_000_000


@dataclass(frozen=True)
class DecoderMatching:
    """A matching by decoders alone.

    Attributes:
        partner: int64 `[Du]`, the downstream partner of each upstream feature, −1 without one.
        kind: what the vectors are.
        total: sum of the inner products of the pairs.
        candidates: pairs that it was chosen from.
    """

    partner: np.ndarray
    kind: Vectors
    total: float
    candidates: int


class Decoders:
    """Data-free matchings of one run, from the files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Pair, DecoderMatching] = {}

    def matching(self, run: RunDescription, pair: Pair) -> tuple[DecoderMatching | None, str | None]:
        """The matching of a layer pair, or why there is none."""
        if not run.model:
            return None, "this run has no model, so there are no decoders to match by"
        if pair not in self._known:
            up, down = (read_decoder(self._folder, layer) for layer in pair)
            if up is None or down is None:
                return None, "the engine has not written the decoders yet"
            same = up.kind == down.kind
            rows = [side.rows if same else _unit(side.rows) for side in (up, down)]
            self._known[pair] = match(rows[0], rows[1], up.kind if same else "cosine")
        return self._known[pair], None


def match(up: np.ndarray, down: np.ndarray, kind: Vectors) -> DecoderMatching:
    """Match decoder vectors, float32 `[Du, d_model]` and `[Dd, d_model]`: over all pairs of small layers, else over the nearest
    candidates of each feature."""
    sizes = len(up), len(down)
    if sizes[0] * sizes[1] <= DENSE_CELLS:
        products = up.astype(np.float64) @ down.T.astype(np.float64)
        partner = assign_all(products)
        paired = np.flatnonzero(partner >= 0)
        return DecoderMatching(partner, kind, float(products[paired, partner[paired]].sum()), products.size)
    k = max(1, min(_K, _WORK // (sum(sizes) * max(sizes))))
    candidates = nearest(up, down, k)
    chosen = assign(candidates.up, candidates.down, candidates.product, sizes)
    partner = np.full(sizes[0], -1, np.int64)
    partner[candidates.up[chosen]] = candidates.down[chosen]
    return DecoderMatching(partner, kind, float(candidates.product[chosen].sum(dtype=np.float64)), len(candidates.up))


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
