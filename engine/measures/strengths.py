"""The bins in which activations are counted by strength, the same for every feature of every run."""

from __future__ import annotations

import numpy as np

_LOWEST, _OCTAVES = -6, 16
STRENGTH_BINS = 2 * _OCTAVES
STRENGTHS = np.sort(np.outer([1.0, 1.5], 2.0 ** np.arange(_LOWEST, _LOWEST + _OCTAVES)).ravel())[: STRENGTH_BINS - 1]
"""float64 `[STRENGTH_BINS - 1]`, edges of the bins of activations: 2^-6, 1.5·2^-6, 2^-5, … 2^9. Bin 0 is below all of them, bin b
from edge b − 1 on, the last one open above. The same for every run: activations of public SAEs are of the order of 0.1 to 100."""
