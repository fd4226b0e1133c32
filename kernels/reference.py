"""The slow, obvious form of every kernel: what the fast ones are tested against, with the same signatures.

Everything is done densely and in float64, so memory is T x D and Du x Dd: small shapes only.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from kernels.csr import Csr


def compact(dense: Tensor) -> Csr:
    """Every entry of `dense` (float32 [T, D]) that is not <= 0, in order."""
    kept = ~(dense <= 0)
    tokens, features = kept.nonzero(as_tuple=True)
    offsets = torch.zeros(dense.shape[0] + 1, dtype=torch.int32, device=dense.device)
    offsets[1:] = kept.sum(dim=1).cumsum(dim=0)
    return Csr(offsets, features.to(torch.int32), dense[tokens, features])


def densify(sparse: Csr, features: int) -> Tensor:
    """float64 [T, features] with the values of `sparse` and zeros."""
    dense = torch.zeros(sparse.tokens, features, dtype=torch.float64, device=sparse.values.device)
    lengths = sparse.offsets.diff().to(torch.int64)
    rows = torch.repeat_interleave(torch.arange(sparse.tokens, device=lengths.device), lengths)
    dense[rows, sparse.features.to(torch.int64)] = sparse.values.to(torch.float64)
    return dense


def accumulate(
    up: Csr,
    down: Csr,
    halves: Tensor,
    up_thresholds: Tensor | None,
    down_thresholds: Tensor | None,
    counts: Tensor,
    products: Tensor,
) -> None:
    """Adds the tokens of half h on which both are above their thresholds to counts[:, :, h], the sums of a·b to products."""
    a = densify(up, counts.shape[0])
    b = densify(down, counts.shape[1])
    a_active = a > (0 if up_thresholds is None else up_thresholds.to(torch.float64))
    b_active = b > (0 if down_thresholds is None else down_thresholds.to(torch.float64))
    # Joint counts are below 2^53, so the float64 product is exact.
    for half in (0, 1):
        mine = (halves == half)[:, None]
        counts[:, :, half] += ((a_active & mine).to(torch.float64).T @ b_active.to(torch.float64)).to(counts.dtype)
    products += a.T @ b


def count_gate_cells(
    up: Csr,
    down: Csr,
    up_thresholds: Tensor | None,
    down_thresholds: Tensor | None,
    up_width: int,
    parents: Tensor,
    cells: Tensor,
) -> None:
    """Adds to cells[j, x], x > 0, the tokens on which the candidate parents and j itself are active just as the bits of x say."""
    a = densify(up, up_width)
    b = densify(down, cells.shape[0])
    a_active = a > (0 if up_thresholds is None else up_thresholds.to(torch.float64))
    b_active = b > (0 if down_thresholds is None else down_thresholds.to(torch.float64))
    slots = parents.shape[1]
    for child in range(cells.shape[0]):
        index = b_active[:, child].to(torch.int64) << slots
        for slot, parent in enumerate(parents[child].tolist()):
            if parent >= 0:
                index += a_active[:, parent].to(torch.int64) << slot
        cells[child, 1:] += torch.bincount(index, minlength=cells.shape[1])[1:].to(cells.dtype)


def project(sparse: Csr, directions: Tensor, vectors: Tensor) -> Tensor:
    """All products float64 [V, T, D], and of them those of the entries; float32 as the others give them."""
    products = vectors.to(torch.float64) @ directions.to(torch.float64).T
    lengths = sparse.offsets.diff().to(torch.int64)
    tokens = torch.repeat_interleave(torch.arange(sparse.tokens, device=lengths.device), lengths)
    return products[:, tokens, sparse.features.to(torch.int64)].to(torch.float32)


def best_cells(
    up: np.ndarray, down: np.ndarray, cells: np.ndarray, scores: np.ndarray, rows: int, columns: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ids int64 [rows, k] and [columns, k] of the k best cells of each, best first, ties to the first offered, −1 where fewer."""
    found = []
    for groups, size in ((up, rows), (down, columns)):
        best = np.full((size, k), -1, dtype=np.int64)
        for group in range(size):
            offered = [at for at in np.flatnonzero(groups == group) if scores[at] > -np.inf]  # false for NaN
            offered.sort(key=lambda at: -scores[at])
            best[group, : len(offered[:k])] = cells[offered[:k]]
        found.append(best)
    return found[0], found[1]


def sibling_cells(up: np.ndarray, down: np.ndarray, parents: np.ndarray, children: np.ndarray) -> np.ndarray:
    """Truth tables int64 [G, 512] of groups, from what is active, bool [T, Du] and [T, Dd]; children [G, 8] with −1 for none."""
    cells = np.zeros((len(parents), 512), np.int64)
    for group, (parent, slots) in enumerate(zip(parents, children, strict=True)):
        for token in range(len(up)):
            mask = sum(1 << slot for slot, child in enumerate(slots) if child >= 0 and down[token, child])
            cells[group, mask + 256 * bool(up[token, parent])] += 1
    return cells


def likely_children(
    counts: np.ndarray, least: np.ndarray, most: np.ndarray, needed: np.ndarray, covered: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and joint count int64 of the cells in [least, most) of their row and at least what their column needs, of rows
    with two or more of them that add up to `covered`."""
    joint = counts.sum(axis=2, dtype=np.int64)
    kept = (joint >= least[:, None]) & (joint < most[:, None]) & (joint >= needed)
    kept &= ((kept.sum(axis=1) >= 2) & ((joint * kept).sum(axis=1) >= covered))[:, None]
    row, column = np.nonzero(kept)
    return row, column, joint[row, column]


def strongest(entries: Iterable[tuple[int, float, int, int]], features: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """values float32, positions int64 and documents int64, each [features, k], of entries (feature, value, position, document).

    Per feature the best entry of each document, and of those the k best: by value, of equal ones the smaller position first.
    """
    best: list[dict[int, tuple[float, int]]] = [{} for _ in range(features)]
    for feature, value, position, document in entries:
        ranked = (-value, position)
        best[feature][document] = min(ranked, best[feature].get(document, ranked))
    values, positions = np.zeros((features, k), np.float32), np.full((features, k), -1, np.int64)
    documents = np.zeros((features, k), np.int64)
    for feature, of_documents in enumerate(best):
        ranking = sorted((ranked, document) for document, ranked in of_documents.items())[:k]
        for at, ((negative, position), document) in enumerate(ranking):
            values[feature, at], positions[feature, at], documents[feature, at] = -negative, position, document
    return values, positions, documents
