"""Every implementation of `compact` and `accumulate` that this machine can run, behind one interface for the tests.

numba runs here. Triton runs on the GPU where there is one; elsewhere in Triton's interpreter, which has to be chosen before triton
is imported, so it lives in a process of its own.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch

from kernels import Csr

Arrays = tuple[np.ndarray | None, ...]


def on_cpu(operation: str, arrays: Arrays) -> Arrays:
    from kernels.cpu import accumulate, compact

    return _run({"compact": compact.compact, "accumulate": accumulate.accumulate}[operation], arrays, "cpu")


def on_gpu(operation: str, arrays: Arrays) -> Arrays:
    from kernels.gpu import accumulate, compact

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return _run({"compact": compact.compact, "accumulate": accumulate.accumulate}[operation], arrays, device)


def _run(kernel: Callable, arrays: Arrays, device: str) -> Arrays:
    tensors = [None if array is None else torch.from_numpy(array.copy()).to(device) for array in arrays]
    if len(tensors) == 1:
        return tuple(part.cpu().numpy() for part in kernel(tensors[0]))
    kernel(Csr(*tensors[:3]), Csr(*tensors[3:6]), *tensors[6:])
    return tuple(table.cpu().numpy() for table in tensors[9:])


class Form:
    """One implementation: `compact` and `accumulate` on CPU tensors, wherever it computes."""

    def __init__(self, name: str, run: Callable[[str, Arrays], Arrays]) -> None:
        self.name = name
        self._run = run

    def compact(self, dense: torch.Tensor) -> Csr:
        return Csr(*(torch.from_numpy(array) for array in self._run("compact", (dense.numpy(),))))

    def accumulate(
        self, up: Csr, down: Csr, halves, up_thresholds, down_thresholds, counts: torch.Tensor, products: torch.Tensor
    ) -> None:
        tensors = (*up, *down, halves, up_thresholds, down_thresholds, counts, products)
        added = self._run("accumulate", tuple(None if tensor is None else tensor.numpy() for tensor in tensors))
        counts.copy_(torch.from_numpy(added[0]))
        products.copy_(torch.from_numpy(added[1]))


@contextmanager
def triton_form() -> Iterator[Form]:
    """Triton on the GPU, or in an interpreter process that ends with the block."""
    if torch.cuda.is_available():
        yield Form("triton", on_gpu)
        return
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            process.submit(on_gpu, "compact", (np.zeros((0, 1), np.float32),)).result()  # starts it while the variable is set
            os.environ.pop("TRITON_INTERPRET")
            yield Form("triton", lambda operation, arrays: process.submit(on_gpu, operation, arrays).result())
    finally:
        os.environ.pop("TRITON_INTERPRET", None)
        if before is not None:
            os.environ["TRITON_INTERPRET"] = before
