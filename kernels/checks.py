"""What every kernel demands of its arguments, checked once in front of all implementations.

A kernel writes through raw pointers: a wrong dtype or a view with strides would not fail but corrupt a table. Each check raises
ValueError that names the argument, what it is and what it must be.
"""

import torch
from torch import Tensor

from kernels.csr import Csr
from kernels.tables import side_by_side, spaced

MOST_PARENTS = 8  # candidate parents of a child: a table of 512 cells
MAX_ENTRIES = 2**31 - 1  # offsets are int32: a batch of 65,536 tokens stays below up to L0 = 32,767


def check_tensor(
    name: str,
    tensor: Tensor,
    dtypes: tuple[torch.dtype, ...],
    shape: tuple[int | None, ...],
    device: torch.device,
    strided: bool = False,
) -> None:
    """`shape` has None where any length will do; `strided`: its strides are known to be what a kernel can do with."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} is a {type(tensor).__name__}, it must be a tensor")
    if tensor.dtype not in dtypes:
        raise ValueError(f"{name} is {_short(tensor.dtype)}, it must be {' or '.join(map(_short, dtypes))}")
    right = len(shape) == tensor.ndim and all(want is None or want == have for want, have in zip(shape, tensor.shape, strict=True))
    if not right:
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise ValueError(f"{name} has shape {list(tensor.shape)}, it must be [{wanted}]")
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, it must be on {device} like the other arguments")
    if not (strided or tensor.is_contiguous()):
        raise ValueError(f"{name} is not contiguous (strides {list(tensor.stride())}), it must be")


def check_dense(dense: Tensor) -> None:
    """float32 [T, D] with at most 2^31 - 1 entries that could be kept."""
    check_tensor("dense", dense, (torch.float32,), (None, None), dense.device)


def check_csr(name: str, sparse: Csr, device: torch.device, tokens: int | None = None) -> None:
    """Types and lengths of the three arrays; the kernels themselves refuse features out of range where that costs nothing."""
    check_tensor(f"{name}.offsets", sparse.offsets, (torch.int32,), (None if tokens is None else tokens + 1,), device)
    if sparse.offsets.shape[0] == 0:
        raise ValueError(f"{name}.offsets is empty, it must have one entry more than there are tokens")
    check_tensor(f"{name}.features", sparse.features, (torch.int32,), (None,), device)
    check_tensor(f"{name}.values", sparse.values, (torch.float32,), (sparse.features.shape[0],), device)


def check_tables(
    up: Csr,
    down: Csr,
    halves: Tensor,
    up_thresholds: Tensor | None,
    down_thresholds: Tensor | None,
    counts: Tensor,
    products: Tensor,
) -> None:
    """All arguments of `accumulate`."""
    device = counts.device
    on_host = device.type == "cpu" and counts.ndim == 3 and products.ndim == 2
    together = on_host and side_by_side(counts, products)
    check_tensor("counts", counts, (torch.int32, torch.int64), (None, None, 2), device, together)
    features_up, features_down, _ = counts.shape
    check_tensor("products", products, (torch.float64,), (features_up, features_down), device, on_host and spaced(products))
    check_csr("up", up, device)
    check_csr("down", down, device, tokens=up.tokens)
    check_tensor("halves", halves, (torch.uint8,), (up.tokens,), device)
    if device.type == "cpu" and up.tokens and int(halves.max()) > 1:
        raise ValueError(f"halves holds {int(halves.max())}, every one must be 0 or 1")
    if up_thresholds is not None:
        check_tensor("up_thresholds", up_thresholds, (torch.float32, torch.float64), (features_up,), device)
    if down_thresholds is not None:
        check_tensor("down_thresholds", down_thresholds, (torch.float32, torch.float64), (features_down,), device)


def check_gate_cells(
    up: Csr,
    down: Csr,
    up_thresholds: Tensor | None,
    down_thresholds: Tensor | None,
    up_width: int,
    parents: Tensor,
    cells: Tensor,
) -> None:
    """All arguments of `count_gate_cells`; on the CPU also that every parent is a feature or −1."""
    device = cells.device
    check_tensor("parents", parents, (torch.int32,), (None, None), device)
    children, slots = parents.shape
    if not 1 <= slots <= MOST_PARENTS:
        raise ValueError(f"parents has {slots} columns, it must have 1 to {MOST_PARENTS}")
    check_tensor("cells", cells, (torch.int32, torch.int64), (children, 2 << slots), device)
    check_csr("up", up, device)
    check_csr("down", down, device, tokens=up.tokens)
    if up_thresholds is not None:
        check_tensor("up_thresholds", up_thresholds, (torch.float32, torch.float64), (up_width,), device)
    if down_thresholds is not None:
        check_tensor("down_thresholds", down_thresholds, (torch.float32, torch.float64), (children,), device)
    if device.type == "cpu" and children and not -1 <= int(parents.min()) <= int(parents.max()) < up_width:
        raise ValueError(
            f"parents holds {int(parents.min())} to {int(parents.max())}, every one must be in [0, {up_width}), or -1 for none"
        )


def check_projection(sparse: Csr, directions: Tensor, vectors: Tensor) -> None:
    """All arguments of `project`."""
    device = vectors.device
    check_tensor("directions", directions, (torch.float32,), (None, None), device)
    check_csr("sparse", sparse, device)
    check_tensor("vectors", vectors, (torch.float32,), (None, sparse.tokens, directions.shape[1]), device)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
