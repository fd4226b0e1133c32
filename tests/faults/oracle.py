"""The counts of a list of documents, as obviously as possible: sparse matrices multiplied, one upload after the other.

Nothing of the engine's counting, log or checkpoints is used.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_array, vstack


@dataclass(frozen=True)
class Document:
    """What its half is made of (its text, or the name of pushed activations), and per layer float32 `[T, D]`."""

    identity: bytes
    layers: tuple[csr_array, ...]

    @property
    def tokens(self) -> int:
        return self.layers[0].shape[0]

    @property
    def half(self) -> int:
        return hashlib.blake2b(self.identity).digest()[0] & 1


@dataclass
class Oracle:
    """Dictionary sizes and layer pairs of the run.

    Attributes:
        tokens: int64 `[2]`, of either half. uploads, corpora: tokens of each by name. documents: of each upload.
        counts: per layer int64 `[D, 2]`. sums, squares: per layer float64 `[D]`.
        corpus_counts: corpus → per layer int64 `[D]`.
        joint: (up, down) → int64 `[Du, Dd, 2]`. products: (up, down) → float64 `[Du, Dd]`.
    """

    sizes: Sequence[int]
    pairs: Sequence[tuple[int, int]]
    tokens: np.ndarray = field(default_factory=lambda: np.zeros(2, np.int64))
    uploads: Counter[str] = field(default_factory=Counter)
    documents: Counter[str] = field(default_factory=Counter)
    corpora: Counter[str] = field(default_factory=Counter)
    corpus_counts: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.counts = [np.zeros((size, 2), np.int64) for size in self.sizes]
        self.sums = [np.zeros(size) for size in self.sizes]
        self.squares = [np.zeros(size) for size in self.sizes]
        self.joint = {(up, down): np.zeros((self.sizes[up], self.sizes[down], 2), np.int64) for up, down in self.pairs}
        self.products = {(up, down): np.zeros((self.sizes[up], self.sizes[down])) for up, down in self.pairs}

    def add(self, upload: str, corpus: str, documents: Sequence[Document]) -> None:
        """An upload is counted: all of it, once."""
        here = self.corpus_counts.setdefault(corpus, [np.zeros(size, np.int64) for size in self.sizes])
        for half in (0, 1):
            chosen = [document for document in documents if document.half == half]
            if not chosen:
                continue
            tokens = sum(document.tokens for document in chosen)
            self.tokens[half] += tokens
            self.uploads[upload] += tokens
            self.documents[upload] += len(chosen)
            self.corpora[corpus] += tokens
            layers = [vstack(layer).astype(np.float64).tocsr() for layer in zip(*(one.layers for one in chosen), strict=True)]
            active = [(layer > 0).astype(np.int64) for layer in layers]
            for at, (value, on) in enumerate(zip(layers, active, strict=True)):
                fired = on.sum(axis=0)
                self.counts[at][:, half] += fired
                here[at] += fired
                self.sums[at] += value.sum(axis=0)
                self.squares[at] += value.power(2).sum(axis=0)
            for up, down in self.pairs:
                self.joint[up, down][:, :, half] += (active[up].T @ active[down]).toarray()
                self.products[up, down] += (layers[up].T @ layers[down]).toarray()
