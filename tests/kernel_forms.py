"""Every implementation of `compact`, `accumulate` and `count_gate_cells` that this machine can run, behind one interface for the
tests.

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
    from kernels.cpu import accumulate, compact, gate_cells

    return _run(operation, (compact.compact, accumulate.accumulate, gate_cells.count_gate_cells), arrays, "cpu")


def on_gpu(operation: str, arrays: Arrays) -> Arrays:
    from kernels.gpu import accumulate, compact, gate_cells

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return _run(operation, (compact.compact, accumulate.accumulate, gate_cells.count_gate_cells), arrays, device)


def _run(operation: str, kernels: tuple[Callable, Callable, Callable], arrays: Arrays, device: str) -> Arrays:
    """What `compact` makes, or the tables that the other two have added to: their last arguments."""
    compact, accumulate, count_gate_cells = kernels
    tensors = [None if array is None else torch.from_numpy(array.copy()).to(device) for array in arrays]
    if operation == "compact":
        return tuple(part.cpu().numpy() for part in compact(tensors[0]))
    up, down = Csr(*tensors[:3]), Csr(*tensors[3:6])
    if operation == "accumulate":
        accumulate(up, down, *tensors[6:])
        return tuple(table.cpu().numpy() for table in tensors[9:])
    up_thresholds, down_thresholds, up_width, parents, cells = tensors[6:]
    count_gate_cells(up, down, up_thresholds, down_thresholds, int(up_width), parents, cells)
    return (cells.cpu().numpy(),)


class Form:
    """One implementation: the three on CPU tensors, wherever it computes."""

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

    def count_gate_cells(
        self, up: Csr, down: Csr, up_thresholds, down_thresholds, up_width: int, parents: torch.Tensor, cells: torch.Tensor
    ) -> None:
        tensors = (*up, *down, up_thresholds, down_thresholds, torch.tensor(up_width), parents, cells)
        (added,) = self._run("count_gate_cells", tuple(None if tensor is None else tensor.numpy() for tensor in tensors))
        cells.copy_(torch.from_numpy(added))


@contextmanager
def triton_process() -> Iterator[Callable]:
    """Calls a function with some arguments where Triton runs: here on the GPU, or in an interpreter process that ends with the
    block; function, arguments and result must be picklable."""
    if torch.cuda.is_available():
        yield lambda function, *arguments: function(*arguments)
        return
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            process.submit(on_gpu, "compact", (np.zeros((0, 1), np.float32),)).result()  # starts it while the variable is set
            os.environ.pop("TRITON_INTERPRET")
            yield lambda function, *arguments: process.submit(function, *arguments).result()
    finally:
        os.environ.pop("TRITON_INTERPRET", None)
        if before is not None:
            os.environ["TRITON_INTERPRET"] = before


@contextmanager
def triton_form() -> Iterator[Form]:
    """Triton on the GPU, or in an interpreter process that ends with the block."""
    with triton_process() as call:
        yield Form("triton", lambda operation, arrays: call(on_gpu, operation, arrays))


def compiled_for_sm_90(kernel, arguments: dict[str, str], constants: dict, warps: int = 4) -> str:
    """The PTX; the cubin must be there too."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {name: arguments.get(name, "constexpr") for name in kernel.arg_names}
    built = triton.compile(ASTSource(kernel, types, constants), target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    assert len(built.asm["cubin"]) > 0
    return built.asm["ptx"]
