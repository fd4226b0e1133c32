"""What else makes the two statistics of a batch of one layer pair: the baselines of accumulate.

Each takes a `PairBatch` and D and returns counts and products `[D, D]`, or what stands for them. The sparse ones make the products
of the batch alone, as sparse matrices, which is the best that can be said for them: they would still have to be added to what was
counted before, and none of them counts the halves apart.
"""

import warnings

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from benchmarks.activations import PairBatch
from kernels import Csr
from kernels.reference import densify


class DenseMatmuls:
    """The paper's way: counts by A_active.T @ B_active, products by A.T @ B, dense float32, added in place (`addmm_`, its fastest
    form). It costs the same whatever is active."""

    name = "dense float32 matmuls"

    def __init__(self, batch: PairBatch, features: int) -> None:
        self._up, self._down = (densify(part, features).to(torch.float32) for part in batch)
        self.counts, self.products = torch.zeros(features, features), torch.zeros(features, features)

    def __call__(self) -> tuple[Tensor, Tensor]:
        self.counts.addmm_((self._up > 0).to(torch.float32).T, (self._down > 0).to(torch.float32))
        self.products.addmm_(self._up.T, self._down)
        return self.counts, self.products


class ScipySparse:
    """`A.T @ B` of scipy.sparse: int32 ones for the counts, float64 values for the products."""

    name = "scipy.sparse A.T @ B"

    def __init__(self, batch: PairBatch, features: int) -> None:
        self._batch, self._features = batch, features

    def __call__(self) -> tuple[sparse.csc_array, sparse.csc_array]:
        counts = self._matrix(self._batch.up, np.int32).T @ self._matrix(self._batch.down, np.int32)
        return counts, self._matrix(self._batch.up, None).T @ self._matrix(self._batch.down, None)

    def _matrix(self, part: Csr, ones: type | None) -> sparse.csr_array:
        offsets, features, values = (column.numpy() for column in part)
        entries = values.astype(np.float64) if ones is None else np.ones(len(values), ones)
        return sparse.csr_array((entries, features, offsets), shape=(part.tokens, self._features))


class TorchSparse:
    """`torch.sparse.mm` of CSR matrices, float32 (it has none of integers; MKL does it), A transposed first."""

    name = "torch.sparse.mm"

    def __init__(self, batch: PairBatch, features: int) -> None:
        self._batch, self._features = batch, features

    def __call__(self) -> tuple[Tensor, Tensor]:
        return self._product(ones=True), self._product(ones=False)

    def _product(self, ones: bool) -> Tensor:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)
            up, down = (self._matrix(part, ones) for part in self._batch)
            return torch.sparse.mm(up.t().to_sparse_csr(), down)

    def _matrix(self, part: Csr, ones: bool) -> Tensor:
        values = torch.ones_like(part.values) if ones else part.values
        size = (part.tokens, self._features)
        return torch.sparse_csr_tensor(part.offsets, part.features, values, size=size, check_invariants=False)
