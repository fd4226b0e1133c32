"""The bins in which activations are counted by strength, the same for every feature of every run."""

from __future__ import annotations

import numpy as np

_LOWEST, _OCTAVES, STEP_BITS = -6, 16, 2
STRENGTH_BINS = _OCTAVES << STEP_BITS
STRENGTHS = np.outer(2.0 ** np.arange(_LOWEST, _LOWEST + _OCTAVES), [1.0, 1.25, 1.5, 1.75]).ravel()[: STRENGTH_BINS - 1]
"""float64 `[STRENGTH_BINS - 1]`, edges of the bins of activations, four to an octave: 2^-6, 1.25·2^-6, … 1.5·2^9. Bin 0 is below
all of them, bin b from edge b − 1 on, the last one open above. The same for every run: activations of public SAEs are of the order
of 0.1 to 100. In a float32 the exponent and the first `STEP_BITS` bits of the mantissa say which bin it is in."""
