"""Sums that come out the same bit for bit in any order: every product a whole number of a unit that belongs to its cell.

For a batch (one call of accumulate), with a peak p(f) = the largest value of feature f in it and e(f) the exponent of p(f), so that
2^(e-1) <= p < 2^e:

    a' = a / 2^e(i) and b' = b / 2^e(j), both in (0, 1): an exact shift of a float32
    q  = a'·b'·2^40 rounded to the nearest integer: a'·b' has 48 bits and is exact in float64
    products[i, j] += (Σ q) · 2^(e(i) + e(j) - 40), one float64 addition per cell and batch

Integer addition has no order, so Σ q has the same bits whichever thread, chunk or variant made it; the unit depends on the batch
alone.

Resolution: a product is off by at most 2^-41 · 2^(e(i) + e(j)), below 2^-39 of the product of the two peaks. It is right to 1e-6 of
itself where a·b is at least 2e-6 of p(i)·p(j), say both at 1/700 of their peak or more. What is smaller than that by far
counts as 0 in Σa·b (never in the counts); as p(i)·p(j) is at most √(Σa²Σb²), Pearson and the cosine change by less than n · 2^-39
for that: 1e-7 for the 65,536 tokens of a segment, and that only if every one of them were off by the most and to the same side.

A word of 64 bits holds a count beside the sum, so that one atomic does for both:

    JOINT   bits 0-47 Σ q, 48-55 tokens of half A, 56-63 tokens of half B    full after 255 tokens
    HALF    bits 0-51 Σ q, 52-63 tokens; a word for each half of a cell      full after 4,095 tokens
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.csr import Csr

SCALE_BITS = 40  # q <= 2^40
MOST_JOINT = (1 << 8) - 1  # tokens: 255 · 2^40 < 2^48
MOST_HALF = (1 << 12) - 1  # tokens: 4,095 · 2^40 < 2^52
MOST_TOKENS = 1 << 22  # of a batch: Σ q < 2^62
BLOCK = 1024

JOINT_SUM = tl.constexpr(48)
HALF_SUM = tl.constexpr(52)
JOINT_KEPT = tl.constexpr((1 << 48) - 1)
HALF_KEPT = tl.constexpr((1 << 52) - 1)
SCALE = tl.constexpr(float(1 << SCALE_BITS))
SMALLEST = tl.constexpr(2.0**-126)  # the smallest float32 that no unit flushes to 0: its sign still tells


class Scaled(NamedTuple):
    """One layer of a batch in units of its features' peaks."""

    values: Tensor
    """float32 [nnz]: a' of every entry, negative where the value is not above its feature's threshold"""
    units: Tensor
    """float64 [D]: 2^e of every feature, 1 where it is not in the batch"""
    sizes: Tensor
    """int32 [D]: entries of every feature"""


@triton.jit(do_not_specialize=["entries"])
def survey(features, values, entries, sizes, peaks, BLOCK: tl.constexpr):
    """Grid (entries / BLOCK,): how many entries every feature has, and the largest value.

    features int32, values float32 [entries] are read; sizes int32 [D] and peaks int32 [D], the bits of a float32 > 0 (they are
    ordered as the values are), 0 before, are shared by all programs.
    """
    entry = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = entry < entries
    feature = tl.load(features + entry, mask=there, other=0)
    bits = tl.load(values + entry, mask=there, other=0.0).to(tl.int32, bitcast=True)
    tl.atomic_add(sizes + feature, tl.full((BLOCK,), 1, tl.int32), mask=there, sem="relaxed")
    tl.atomic_max(peaks + feature, bits, mask=there, sem="relaxed")


@triton.jit(do_not_specialize=["entries"])
def scale_values(features, values, entries, units, thresholds, scaled, THRESHOLDED: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (entries / BLOCK,): writes a' of every entry to scaled float32 [entries], see `Scaled`; each program its own.

    features int32, values float32 [entries], units float64 [D]; thresholds float [D], read only where THRESHOLDED.
    """
    entry = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = entry < entries
    feature = tl.load(features + entry, mask=there, other=0)
    value = tl.load(values + entry, mask=there, other=0.0)
    unit = tl.load(units + feature, mask=there, other=1.0)
    share = tl.maximum((value.to(tl.float64) / unit).to(tl.float32), SMALLEST)
    if THRESHOLDED:
        threshold = tl.load(thresholds + feature, mask=there, other=0.0)
        share = tl.where(value > threshold, share, -share)
    tl.store(scaled + entry, share, mask=there)


@triton.jit
def fixed_product(a, b):
    """int64: q of the absolute values of two shares, float32 in (0, 1)."""
    return (tl.abs(a).to(tl.float64) * tl.abs(b).to(tl.float64) * SCALE + 0.5).to(tl.int64)


def units_of(peaks: Tensor) -> Tensor:
    """float64 [D]: 2^e of peaks float32 [D], 1 of a feature that is not there."""
    exponent = torch.frexp(peaks.to(torch.float64)).exponent  # in float64 no float32 is subnormal
    return (exponent.to(torch.int64) + 1023 << 52).view(torch.float64)


def scale(layer: Csr, width: int, thresholds: Tensor | None) -> Scaled:
    """A layer of `width` features in units of its peaks; two passes over its entries."""
    device, entries = layer.features.device, layer.features.shape[0]
    sizes = torch.zeros(width, dtype=torch.int32, device=device)
    peaks, scaled = torch.zeros_like(sizes), torch.empty_like(layer.values)
    grid = (triton.cdiv(entries, BLOCK),)
    constants: dict[str, Any] = {"BLOCK": BLOCK}
    survey[grid](layer.features, layer.values, entries, sizes, peaks, **constants)
    units = units_of(peaks.view(torch.float32))
    limits = layer.values if thresholds is None else thresholds
    constants["THRESHOLDED"] = thresholds is not None
    scale_values[grid](layer.features, layer.values, entries, units, limits, scaled, **constants)
    return Scaled(scaled, units, sizes)


def require_tokens(tokens: int) -> None:
    """ValueError where a batch has so many tokens that a sum could pass 63 bits."""
    if tokens > MOST_TOKENS:
        raise ValueError(f"a batch of {tokens} tokens: at most {MOST_TOKENS} are counted at a time on a GPU")
