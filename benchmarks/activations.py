"""Synthetic sparse activations shaped like those of real SAEs, without a model.

    frequency of each feature ──▶ active tokens of each feature ──▶ values ──▶ Csr sorted by token

- HEAD features fire on 10–40 % of tokens, as the position and newline features of GPT-2's SAEs do.
- The others follow a Zipf-Mandelbrot tail: frequency of rank r is 0.1 · (q / (q + r))^1.6, with q solved so that L0 features are
  active per token. At 24,576 features and L0 = 60 that is q = 353 and a rarest feature on one token in 9,000.
- Half of the downstream features copy an upstream one: active where it is (90 % of its tokens), at a noisy multiple of its value.
- Feature indices are shuffled, as nothing orders a dictionary by frequency.
"""

from typing import NamedTuple

import numpy as np
import torch

from kernels import Csr

HEAD = 8
TAIL_EXPONENT = 1.6
COPIED = 0.5
KEPT = 0.9  # share of its parent's tokens on which a copying feature fires


class PairBatch(NamedTuple):
    """T tokens of one layer pair."""

    up: Csr
    down: Csr

    @property
    def updates(self) -> int:
        """Joint activations: increments of the pair table, Σ_t |up_t|·|down_t|."""
        return int((self.up.offsets.diff().to(torch.int64) * self.down.offsets.diff().to(torch.int64)).sum())


def frequencies(features: int, active: float) -> np.ndarray:
    """float64 [features], falling: the share of tokens on which each feature fires; sums to `active`."""
    head = np.geomspace(0.4, 0.1, HEAD)
    ranks = np.arange(features - HEAD)
    low, high = 1e-6, 1e9
    for _ in range(200):  # bisection in log q: the sum rises with q
        q = np.sqrt(low * high)
        tail = 0.1 * (q / (q + ranks)) ** TAIL_EXPONENT
        low, high = (q, high) if head.sum() + tail.sum() < active else (low, q)
    return np.concatenate([head, tail])


def layer(tokens: int, frequency: np.ndarray, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per feature: ascending active tokens int32, and values float32 from a log-normal with median 1."""
    columns = []
    for share in frequency:
        where = np.unique(rng.integers(0, tokens, rng.binomial(tokens, share), dtype=np.int32))
        columns.append((where, rng.lognormal(0.0, 0.7, len(where)).astype(np.float32)))
    return columns


def copies(columns: list[tuple[np.ndarray, np.ndarray]], fresh: list, rng: np.random.Generator) -> list:
    """`fresh` with half of its features replaced by noisy copies of the upstream feature of the same rank."""
    copied = []
    for (where, values), own in zip(columns, fresh, strict=True):
        if rng.random() < COPIED:
            kept = rng.random(len(where)) < KEPT
            noise = rng.lognormal(0.0, 0.2, int(kept.sum())).astype(np.float32)
            own = (where[kept], values[kept] * noise)
        copied.append(own)
    return copied


def to_csr(columns: list[tuple[np.ndarray, np.ndarray]], tokens: int, rng: np.random.Generator) -> Csr:
    """Shuffles the feature indices and sorts by token, then feature."""
    names = rng.permutation(len(columns)).astype(np.int32)
    where = np.concatenate([column[0] for column in columns])
    values = np.concatenate([column[1] for column in columns])
    features = np.repeat(names, [len(column[0]) for column in columns])
    order = np.argsort(where.astype(np.int64) * len(columns) + features, kind="stable")
    offsets = np.zeros(tokens + 1, dtype=np.int32)
    offsets[1:] = np.cumsum(np.bincount(where, minlength=tokens))
    return Csr(torch.from_numpy(offsets), torch.from_numpy(features[order]), torch.from_numpy(values[order]))


def chain(tokens: int, features: int, active: float, layers: int, seed: int = 0) -> list[Csr]:
    """T tokens of some layers, each of which copies half of the one before it; the same for the same arguments."""
    rng = np.random.default_rng(seed)
    frequency = frequencies(features, active)
    columns = [layer(tokens, frequency, rng)]
    while len(columns) < layers:
        columns.append(copies(columns[-1], layer(tokens, frequency, rng), rng))
    return [to_csr(one, tokens, rng) for one in columns]


def pair_batch(tokens: int, features: int, active: float, seed: int = 0) -> PairBatch:
    """A batch of one layer pair, the same for the same arguments."""
    return PairBatch(*chain(tokens, features, active, 2, seed))


def tokens_of(part: Csr, first: int, count: int) -> Csr:
    """Some tokens of a layer."""
    low, high = int(part.offsets[first]), int(part.offsets[first + count])
    return Csr(part.offsets[first : first + count + 1] - low, part.features[low:high], part.values[low:high])


def dense_output(tokens: int, features: int, active: float, seed: int = 0) -> torch.Tensor:
    """float32 [tokens, features] as a SAE encodes it: before ReLU most entries are negative."""
    (sparse,) = chain(tokens, features, active, 1, seed)
    dense = -torch.rand(tokens, features, generator=torch.Generator().manual_seed(seed))
    rows = torch.repeat_interleave(torch.arange(tokens), sparse.offsets.diff().to(torch.int64))
    dense[rows, sparse.features.to(torch.int64)] = sparse.values
    return dense
