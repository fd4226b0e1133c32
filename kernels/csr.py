"""Sparse activations of one layer: what `compact` makes and `accumulate` reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Csr(NamedTuple):
    """Active features of T tokens of one layer with D features, token by token.

    The entries of token t are `offsets[t] : offsets[t + 1]`. About 60 of 24,576 features are active per token of a GPT-2 SAE, so
    this is 0.5 kB a token where the dense output is 98 kB.
    """

    offsets: Tensor
    """int32 [T + 1], from 0 to nnz, never falling"""
    features: Tensor
    """int32 [nnz], strictly increasing within a token, 0 <= feature < D"""
    values: Tensor
    """float32 [nnz], > 0 (`compact` also lets NaN and +inf through, so that they can be found)"""

    @property
    def tokens(self) -> int:
        """T, the number of tokens."""
        return self.offsets.shape[0] - 1
