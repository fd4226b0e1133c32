"""Cosines of decoder directions, for the pairs that are listed or asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from engine.views.records import DENSE_CELLS

_CHUNK_PAIRS = 1 << 14  # directions gathered at a time: 2 × 50 MB at d_model 768


class DecoderCosines:
    """Cosine of the decoder directions of upstream feature i and downstream feature j.

    The directions are those of the SAEs: they don't change while a run lasts.
    """

    def __init__(self, decoder_directions: Callable[[int], Tensor] | None, pairs: Sequence[tuple[int, int]]) -> None:
        """From `decoder_directions(layer) -> float [D, d_model]`, or None in a run without a model: every cosine is NaN then."""
        self._unit: dict[int, Tensor] = {}
        self._dense: dict[tuple[int, int], np.ndarray] = {}
        if decoder_directions is None:
            return
        for layer in sorted({layer for pair in pairs for layer in pair}):
            directions = decoder_directions(layer).detach().to(torch.float32)
            norms = directions.norm(dim=1, keepdim=True)
            self._unit[layer] = directions / torch.where(norms > 0, norms, torch.nan)
        for up, down in pairs:
            if len(self._unit[up]) * len(self._unit[down]) <= DENSE_CELLS:
                self._dense[up, down] = _clip(self._unit[up] @ self._unit[down].T)

    def dense(self, up: int, down: int) -> np.ndarray | None:
        """float32 `[Du, Dd]` of a layer pair small enough to be ranked by them, else None."""
        return self._dense.get((up, down))

    def of_pairs(self, up: int, down: int, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """float32 `[P]`: the cosines of P pairs, NaN without a model or where a direction is zero.

        Args:
            up, down: the layers.
            i, j: int `[P]`, features of them (broadcast to one shape).
        """
        i, j = np.broadcast_arrays(i, j)
        if (dense := self.dense(up, down)) is not None:
            return dense[i, j]
        cosines = np.full(i.shape, np.nan, np.float32)
        if up not in self._unit or down not in self._unit:
            return cosines
        for start in range(0, len(i), _CHUNK_PAIRS):
            part = slice(start, start + _CHUNK_PAIRS)
            ups = self._unit[up][torch.from_numpy(i[part].astype(np.int64)).to(self._unit[up].device)]
            downs = self._unit[down][torch.from_numpy(j[part].astype(np.int64)).to(self._unit[down].device)]
            cosines[part] = _clip((ups * downs).sum(dim=1))
        return cosines


def _clip(cosines: Tensor) -> np.ndarray:
    """To numpy; rounding must not leave [−1, 1]."""
    return cosines.clamp(-1.0, 1.0).cpu().numpy()
