"""accumulate by sorting: every update becomes a cell and a product, equal cells come together, and each is added once.

    updates of some tokens ──torch.sort by cell──▶ runs of one cell ──differences of a cumulative sum──▶ counts, products

Plain torch, no kernel of ours: what the others are compared with. Products are fixed point (`fixed_point`), so that differences of
a cumulative sum are exact, even where it wraps. A sort reads and writes an update some ten times where an atomic goes to memory
once.
"""

import torch
from torch import Tensor

from kernels.csr import Csr
from kernels.gpu.fixed_point import SCALE_BITS, require_tokens, units_of

MOST_UPDATES = 1 << 24  # at a time: about 100 bytes each


def accumulate(
    up: Csr,
    down: Csr,
    halves: Tensor,
    up_thresholds: Tensor | None,
    down_thresholds: Tensor | None,
    counts: Tensor,
    products: Tensor,
    most_updates: int = MOST_UPDATES,
) -> None:
    """See `kernels.accumulate`. A token with more than `most_updates` updates goes alone; a batch in several parts is rounded once
    a part and cell."""
    require_tokens(up.tokens)
    up_units, a = shares(up, products.shape[0])
    down_units, b = shares(down, products.shape[1])
    limits = ((up, up_thresholds), (down, down_thresholds))
    a_active, b_active = (
        torch.ones_like(layer.features, dtype=torch.bool) if limit is None else layer.values > limit[layer.features]
        for layer, limit in limits
    )
    partners = down.offsets.diff().to(torch.int64)
    tokens = torch.repeat_interleave(torch.arange(up.tokens, device=a.device), up.offsets.diff().to(torch.int64))
    updates = partners[tokens]  # of each upstream entry
    done = torch.cat([updates.new_zeros(1), updates.cumsum(dim=0)])[up.offsets.to(torch.int64)].tolist()  # before each token
    first, width = 0, products.shape[1]
    while first < up.tokens:
        last = first + 1
        while last < up.tokens and done[last + 1] - done[first] <= most_updates:
            last += 1
        entries = slice(int(up.offsets[first]), int(up.offsets[last]))
        total = done[last] - done[first]
        upper = torch.repeat_interleave(torch.arange(len(a), device=a.device)[entries], updates[entries], output_size=total)
        before = updates[entries].cumsum(dim=0) - updates[entries] - down.offsets[tokens[entries]]
        lower = torch.arange(total, device=a.device) - torch.repeat_interleave(before, updates[entries], output_size=total)
        cell, sorting = torch.sort(up.features[upper].to(torch.int64) * width + down.features[lower])
        upper, lower = upper[sorting], lower[sorting]
        product = (a[upper] * b[lower] * 2.0**SCALE_BITS + 0.5).to(torch.int64)
        active = a_active[upper] & b_active[lower]
        in_b = halves[tokens[upper]] == 1
        found, ends = torch.unique_consecutive(cell, return_counts=True)
        ends = ends.cumsum(dim=0) - 1
        for half, mine in enumerate((active & ~in_b, active & in_b)):
            counts.view(-1)[2 * found + half] += runs(mine.to(torch.int64), ends).to(counts.dtype)
        unit = up_units[found // width] * down_units[found % width] / 2.0**SCALE_BITS
        products.view(-1)[found] += runs(product, ends).to(torch.float64) * unit
        first = last


def runs(values: Tensor, ends: Tensor) -> Tensor:
    """Sums of values int64 [n] over the runs that end at `ends`."""
    return torch.diff(values.cumsum(dim=0)[ends], prepend=values.new_zeros(1))


def shares(layer: Csr, width: int) -> tuple[Tensor, Tensor]:
    """2^e of every feature, float64 [width], and a' of every entry, float64 [nnz]: what `fixed_point.scale` gives."""
    features = layer.features.to(torch.int64)
    peaks = layer.values.new_zeros(width).scatter_reduce_(0, features, layer.values, "amax")
    units = units_of(peaks)
    smallest = 2.0**-126
    return units, (layer.values.to(torch.float64) / units[features]).to(torch.float32).clamp(min=smallest).to(torch.float64)
