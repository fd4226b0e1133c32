"""project on a GPU: gather the directions of some entries, multiply, sum.

One window in 16 is projected, so this is no place for a kernel of its own: at 60 entries of 768 numbers a token some 12 kB a token
of the stream are written and read.
"""

import torch
from torch import Tensor

from kernels.csr import Csr

_ELEMENTS = 1 << 26  # gathered at once: 256 MiB


def project(sparse: Csr, directions: Tensor, vectors: Tensor) -> Tensor:
    """See `kernels.dispatch.project`."""
    lengths = sparse.offsets.diff().to(torch.int64)
    tokens = torch.repeat_interleave(torch.arange(sparse.tokens, device=lengths.device), lengths)
    out = torch.empty(vectors.shape[0], len(sparse.features), device=vectors.device)
    step = max(1, _ELEMENTS // directions.shape[1])
    for first in range(0, len(sparse.features), step):
        entries = slice(first, first + step)
        rows = directions.index_select(0, sparse.features[entries])
        for which, of_tokens in enumerate(vectors):
            out[which, entries] = (rows * of_tokens.index_select(0, tokens[entries])).sum(dim=1)
    return out
