"""The one place that picks an implementation: by the device of the tensors, nothing else.

Triton is imported when the first CUDA tensor arrives, numba when the first CPU tensor does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernels.csr import Csr

if TYPE_CHECKING:
    from torch import Tensor


def compact(dense: Tensor) -> Csr:
    """The active features of a SAE's dense output.

    dense: float32 [T, D], contiguous. Returns a Csr of T tokens with every entry that is not <= 0, features ascending within a
    token; NaN and +inf come through, so that the caller can find them. ValueError names what does not fit.
    """
    from kernels.checks import check_dense

    check_dense(dense)
    if dense.device.type == "cuda":
        from kernels.gpu.compact import compact as implementation
    else:
        from kernels.cpu.compact import compact as implementation
    return implementation(dense)


def accumulate(
    up: Csr,
    down: Csr,
    halves: Tensor,
    up_thresholds: Tensor | None,
    down_thresholds: Tensor | None,
    counts: Tensor,
    products: Tensor,
) -> None:
    """Adds a batch of T tokens to the tables of one layer pair, in place.

    counts[i, j, h] (int32 or int64 [Du, Dd, 2]) grows by the number of tokens of half h (`halves` uint8 [T], each 0 or 1) with
    a > up_thresholds[i] and b > down_thresholds[j]; products[i, j] (float64 [Du, Dd]) by the sum of a·b over all tokens. Thresholds
    are float [Du] and [Dd]; None means all zero and is the fast path, because every value of a Csr is > 0. Values must be finite.
    Counts are exact in any order of batches, products within 1e-6 of float64 (on a GPU as far as `kernels.gpu.fixed_point` says);
    the same batch gives the same bits. The caller promotes int32 tables before 2^31 - 1. ValueError names what does not fit.
    """
    from kernels.checks import check_tables

    check_tables(up, down, halves, up_thresholds, down_thresholds, counts, products)
    if counts.device.type == "cuda":
        from kernels.gpu.accumulate import accumulate as implementation
    else:
        from kernels.cpu.accumulate import accumulate as implementation
    implementation(up, down, halves, up_thresholds, down_thresholds, counts, products)


def reserve(up: Csr, down: Csr, products: Tensor) -> None:
    """Sees that `accumulate` of this batch will find the memory it needs beside the tables, which the allocator keeps for it.

    torch.cuda.OutOfMemoryError where there is too little; on the CPU, which needs some bytes an entry, nothing to do.
    """
    if products.device.type == "cuda":
        import torch

        from kernels.gpu.accumulate import scratch_bytes

        torch.empty(scratch_bytes(up, down, products), dtype=torch.uint8, device=products.device)


def count_gate_cells(
    up: Csr,
    down: Csr,
    up_thresholds: Tensor | None,
    down_thresholds: Tensor | None,
    up_width: int,
    parents: Tensor,
    cells: Tensor,
) -> None:
    """Adds a batch of T tokens to the truth tables of one layer pair's children (downstream features), in place.

    parents int32 [Dd, m], 1 <= m <= 8, names up to m candidate parents (upstream features, in [0, up_width)) of each child, −1 for
    none; thresholds float [up_width] and [Dd] as in `accumulate`, None means all zero. cells[j, x] (int32 or int64 [Dd, 2^(m+1)])
    grows by the number of tokens whose index is x: bit s is set where parent s of child j is active, bit m where j is. Cell 0,
    nothing active, is never touched: it is what is missing from the number of tokens. Exact for any split of the tokens into
    batches. ValueError names what does not fit.
    """
    from kernels.checks import check_gate_cells

    check_gate_cells(up, down, up_thresholds, down_thresholds, up_width, parents, cells)
    if cells.device.type == "cuda":
        from kernels.gpu.gate_cells import count_gate_cells as implementation
    else:
        from kernels.cpu.gate_cells import count_gate_cells as implementation
    implementation(up, down, up_thresholds, down_thresholds, up_width, parents, cells)


def project(sparse: Csr, directions: Tensor, vectors: Tensor) -> Tensor:
    """Inner products of each active feature's direction with vectors of its token.

    sparse: T tokens of a layer of D features (its values are not used); directions: float32 [D, d]; vectors: float32 [V, T, d].
    Returns float32 [V, nnz]: directions[feature] · vectors[v, token] of every entry. ValueError names what does not fit.
    """
    from kernels.checks import check_projection

    check_projection(sparse, directions, vectors)
    if vectors.device.type == "cuda":
        from kernels.gpu.project import project as implementation
    else:
        from kernels.cpu.project import project as implementation
    return implementation(sparse, directions, vectors)
