"""Streams of dependent documents whose true similarities are known in closed form, and what counts them.

In a document the rate of either feature of a pair is drawn from a beta distribution and which of them fires from a Dirichlet
distribution, both of the setting's intra-document correlation; lengths are log-normal, and the activations of a document have a
common gain. Everything is a function of the seed.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np

from engine.measures.moments import COLUMNS, ROWS, SUMS, Moments

UP_ONLY = 0.7  # of the tokens with one of the two: sufficiency and necessity must not be the same number
MEDIAN_LENGTH, LENGTH_SPREAD, LENGTHS = 150, 0.8, (10, 2000)  # log-normal, cut: mean 205; no document is more than one cluster
GAIN_SPREAD, SHAPE = 0.5, 2.0  # log-normal gain of a document; gamma activations, exponential in the tail as those of SAEs are


class Setting(NamedTuple):
    """Rate of "one of the two fires", share of those tokens at which both do, intra-document correlation of either."""

    rate: float
    ratio: float
    icc: float

    def truth(self) -> dict[str, float]:
        """The value of each measure that a stream of this setting converges to."""
        both = self.rate * self.ratio
        up = both + self.rate * (1 - self.ratio) * UP_ONLY
        down = both + self.rate * (1 - self.ratio) * (1 - UP_ONLY)
        gain, gain_squared = math.exp(GAIN_SPREAD**2 / 2), math.exp(2 * GAIN_SPREAD**2)
        mean, square, product = gain * SHAPE, gain_squared * SHAPE * (SHAPE + 1) * 13 / 12, gain_squared * SHAPE * (SHAPE + 1)
        spread_up, spread_down = (p * square - (p * mean) ** 2 for p in (up, down))
        return {
            "jaccard": self.ratio,
            "sufficiency": both / up,
            "necessity": both / down,
            "pearson": (both * product - up * down * mean**2) / math.sqrt(spread_up * spread_down),
        }


class Batch(NamedTuple):
    """Some documents, all pairs of features: the tokens at which a pair fires, pair by pair and document by document.

    Attributes:
        lengths: int64 `[D]`, tokens of each document.
        fires: int64 `[P, D]`, at how many of them one of the pair's features fires.
        a, b: float32 `[fires.sum()]`, the activations there, in the order of `fires`; 0 where only the other fires.
    """

    lengths: np.ndarray
    fires: np.ndarray
    a: np.ndarray
    b: np.ndarray

    def positions(self) -> np.ndarray:
        """int64 `[fires.sum()]`: the token of its document at which each entry is: a burst, from another place for each pair."""
        fires = self.fires.reshape(-1)
        rank = np.arange(len(self.a)) - np.repeat(np.cumsum(fires) - fires, fires)
        pair, document = np.divmod(np.repeat(np.arange(fires.size), fires), self.fires.shape[1])
        length = self.lengths[document]
        return (rank + pair * 7919 + document * 104_729) % length


class Stream:
    """Pairs of features over one stream of documents; independent of each other but for the documents' lengths."""

    def __init__(self, setting: Setting, pairs: int, seed: int) -> None:
        """A stream from its first document."""
        self._setting, self._pairs = setting, pairs
        self._rng = np.random.default_rng([seed, *(round(1e6 * value) for value in setting)])

    def batch(self, documents: int) -> Batch:
        """The next so many documents."""
        rng, (rate, ratio, icc) = self._rng, self._setting
        lengths = np.exp(rng.normal(math.log(MEDIAN_LENGTH), LENGTH_SPREAD, documents)).clip(*LENGTHS).astype(np.int64)
        weight = 1 / icc - 1
        here = rng.beta(rate * weight, (1 - rate) * weight, (self._pairs, documents))
        fires = rng.binomial(lengths, here)
        some = fires[fires > 0]
        shares = np.array([ratio, (1 - ratio) * UP_ONLY, (1 - ratio) * (1 - UP_ONLY)])
        parts = rng.standard_gamma(weight * shares, (len(some), 3))
        parts /= parts.sum(axis=1, keepdims=True)
        both = rng.binomial(some, parts[:, 0])
        not_both = np.maximum(parts[:, 1] + parts[:, 2], 1e-300)
        up_only = rng.binomial(some - both, np.minimum(parts[:, 1] / not_both, 1.0))
        gain = np.exp(rng.normal(0.0, GAIN_SPREAD, len(some))).astype(np.float32)
        kinds = np.stack([both, up_only, some - both - up_only], axis=1).reshape(-1)
        up, down = (np.repeat(np.tile(np.array(fires_in, np.float32), len(some)), kinds) for fires_in in ((1, 1, 0), (1, 0, 1)))
        level = np.repeat(gain, some) * rng.standard_gamma(SHAPE, len(up), dtype=np.float32)
        a, b = (fired * level * (rng.random(len(level), dtype=np.float32) + np.float32(0.5)) for fired in (up, down))
        return Batch(lengths, fires, a, b)


class Accumulator(Protocol):
    """What is put to the test: takes batches of documents, and has the moments of each watched pair at any time."""

    def __init__(self, pairs: int, pinned: bool = True) -> None:
        """Nothing counted, of so many pairs: all are watched from the first token on, or none before `choose`."""
        ...

    def add(self, batch: Batch) -> None:
        """Count some whole documents."""
        ...

    def choose(self, pairs: np.ndarray) -> None:
        """Watch these, int `[n]`, from this place on."""
        ...

    def moments(self) -> Moments:
        """Of all P pairs, over what was added since each is watched."""
        ...


class ClusterSums:
    """Moments by their definition: the nine sums of every document, then their outer products. No document is cut in clusters."""

    def __init__(self, pairs: int, pinned: bool = True) -> None:
        """Nothing counted, of so many pairs: all are watched from the first token on, or none before `choose`."""
        self._moments = Moments.zero(pairs)
        self._watched = np.full(pairs, pinned)

    def add(self, batch: Batch) -> None:
        """Count some whole documents."""
        fires = batch.fires.reshape(-1)
        at = np.flatnonzero(fires)
        documents = np.zeros((fires.size, len(SUMS)))
        documents[:, 0] = np.tile(batch.lengths, batch.fires.shape[0])
        if len(at):
            starts = (np.cumsum(fires) - fires)[at]
            a, b = batch.a.astype(np.float64), batch.b.astype(np.float64)
            columns = (a > 0, b > 0, (a > 0) & (b > 0), a, b, a * a, b * b, a * b)
            for column, values in enumerate(columns, start=1):
                documents[at, column] = np.add.reduceat(values.astype(np.float64), starts)
        documents = documents.reshape(*batch.fires.shape, len(SUMS))
        squares = documents.swapaxes(1, 2) @ documents
        up, down = documents[..., 1] > 0, documents[..., 2] > 0
        active = (documents[..., 6] > 0) | (documents[..., 7] > 0)
        informative = np.stack([part.sum(axis=1) for part in (up, down, up | down, active)], axis=-1)
        watched = self._watched[:, None]
        added = Moments(documents.sum(axis=1) * watched, squares[:, ROWS, COLUMNS] * watched, informative * watched)
        self._moments = self._moments.merged(added)

    def choose(self, pairs: np.ndarray) -> None:
        """Watch these, int `[n]`, from this place on."""
        self._watched[pairs] = True

    def moments(self) -> Moments:
        """Of all P pairs, over what was added since each is watched."""
        return self._moments
