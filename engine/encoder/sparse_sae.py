"""Residuals → active features of one SAE, without the dense passes that would be thrown away.

    x [T, d_in] ──blocks of rows──▶ x·W_enc + b in one buffer ──▶ what the architecture does ──▶ compact ──▶ Csr

sae_lens' `encode` makes three to six arrays [T, d_sae] of which `compact` reads one. Here the pre-activations stay in one buffer
that is reused, a ReLU is left to `compact` (which drops what is not > 0), and a TopK never becomes dense at all. Each step is
chosen so that the result is that of `encode` bit for bit, NaN and infinities included; the tests hold all architectures to that.

Rows go through the GEMM in multiples of 16: with fewer another kernel runs, whose last bits differ (8e-6, measured), and then the
same token would get other activations in another micro-batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from engine.encoder.saes import Sae
from kernels import Csr, compact

ROWS = 16
# Entries of the buffer. 2^20 float32 are 4 MB: they stay in the cache from the GEMM to the scan. A GPU wants larger GEMMs.
_ENTRIES = {"cpu": 1 << 20, "cuda": 1 << 27}
_FUSED = ("standard", "jumprelu")
_LEAST_ROWS = 128  # also where the dictionary is so large that the buffer grows: a GEMM of fewer rows reads the weights too often


class SparseSae:
    """One SAE as the encoder uses it.

    Attributes:
        seconds: time spent in `encode` so far: "encode" (GEMM and activation function) and "compact". On a GPU only launches
            are measured.
    """

    def __init__(self, sae: Sae, fused: bool = False) -> None:
        """
        Args:
            sae: the SAE.
            fused: on a GPU, where it has a plain ReLU or JumpReLU, encode and compact in one kernel (`kernels.gpu.encode`): no
                dense output is written, and the last bits of the activations are others.
        """
        self._sae = sae.sae
        self._fused = fused and sae.config.architecture in _FUSED and isinstance(self._sae.activation_fn, nn.ReLU)
        self._centred = sae.config.centred
        self._rows = max(_LEAST_ROWS, _ENTRIES[self._sae.W_enc.device.type] // sae.config.d_sae // ROWS * ROWS)
        self._thresholds = _thresholds(self._sae) if sae.config.architecture == "jumprelu" else None
        self._buffer = torch.empty(0 if self._fused else self._rows, sae.config.d_sae, device=self._sae.W_enc.device)
        self._activate = _activation(sae.config.architecture, self._sae)
        self.seconds = {"encode": 0.0, "compact": 0.0}

    def encode(self, residuals: Tensor) -> Csr:
        """Active features of some tokens.

        Args:
            residuals: float32 `[T, d_in]`, T ≥ 1.

        Returns:
            A `Csr` of T tokens with every activation that is not ≤ 0: NaN and +inf too, so that the caller finds them.
        """
        with torch.inference_mode():
            if self._centred:  # what TransformerLens' center_writing_weights does to the residual stream of a LayerNorm model
                residuals = residuals - residuals.mean(dim=-1, keepdim=True)
            if self._fused:
                return self._encode_fused(residuals)
            return join([self._block(block) for block in residuals.split(self._rows)])

    def _encode_fused(self, residuals: Tensor) -> Csr:
        from kernels.gpu.encode import encode

        began = time.perf_counter()
        sae = self._sae  # a token's activations depend on no other row there, whatever the shape: nothing to pad
        sparse = encode(sae.process_sae_in(residuals).contiguous(), sae.W_enc.contiguous(), sae.b_enc, self._thresholds)
        self.seconds["encode"] += time.perf_counter() - began
        return sparse

    def _block(self, residuals: Tensor) -> Csr:
        began = time.perf_counter()
        tokens = len(residuals)
        # A GPU picks its GEMM by the shape, so there all blocks have the same one.
        rows = self._rows if residuals.is_cuda else -(-tokens // ROWS) * ROWS
        if rows > tokens:
            residuals = nn.functional.pad(residuals, (0, 0, 0, rows - tokens))
        active = self._activate(residuals, self._buffer[:rows])
        encoded = time.perf_counter()
        sparse = compact(active[:tokens]) if isinstance(active, Tensor) else _first_tokens(active, tokens)
        self.seconds["encode"] += encoded - began
        self.seconds["compact"] += time.perf_counter() - encoded
        return sparse


def join(parts: list[Csr]) -> Csr:
    """The rows of several `Csr`s of one layer, one after the other; at least one part."""
    if len(parts) == 1:
        return parts[0]
    offsets, filled = [parts[0].offsets[:1]], 0
    for part in parts:
        offsets.append(part.offsets[1:] + filled)
        filled += len(part.features)
    return Csr(torch.cat(offsets), torch.cat([part.features for part in parts]), torch.cat([part.values for part in parts]))


def _activation(architecture: str, sae: Any) -> Callable[[Tensor, Tensor], Tensor | Csr]:
    """What turns `[rows, d_in]` into activations, by way of a buffer `[rows, d_sae]`."""
    if not isinstance(sae.activation_fn, nn.ReLU) and architecture != "topk":
        return lambda x, buffer: sae.encode(x).contiguous()  # an SAE with an activation function of its own
    match architecture:
        case "standard":
            return lambda x, buffer: _before(sae, x, buffer)
        case "jumprelu":
            # relu(h) · (h > threshold) without the ReLU: filling what is not above keeps NaN.
            thresholds = _thresholds(sae)

            def jump(x: Tensor, buffer: Tensor) -> Tensor:
                hidden = _before(sae, x, buffer)
                return hidden.masked_fill_(hidden <= thresholds, 0)

            return jump
        case "gated":
            magnitudes = sae.W_enc * sae.r_mag.exp()

            def gate(x: Tensor, buffer: Tensor) -> Tensor:
                x = sae.process_sae_in(x)
                opened = (x @ sae.W_enc).add_(sae.b_gate) > 0
                return torch.mm(x, magnitudes, out=buffer).add_(sae.b_mag).relu_().mul_(opened)  # −inf · 0 would be NaN

            return gate
        case "topk":
            norms = sae.W_dec.norm(dim=-1) if sae.cfg.rescale_acts_by_decoder_norm else None

            def largest(x: Tensor, buffer: Tensor) -> Csr:
                hidden = _before(sae, x, buffer)
                return _top(hidden if norms is None else hidden.mul_(norms), sae.cfg.k)

            return largest
        case _:
            return lambda x, buffer: sae.encode(x).contiguous()


def _thresholds(sae: Any) -> Tensor:
    """Of a JumpReLU; one of NaN is never passed."""
    return sae.threshold.nan_to_num(nan=float("inf"), posinf=float("inf"), neginf=float("-inf"))


def _before(sae: Any, x: Tensor, buffer: Tensor) -> Tensor:
    """Pre-activations `[rows, d_sae]`, in the buffer."""
    return torch.mm(sae.process_sae_in(x), sae.W_enc, out=buffer).add_(sae.b_enc)


def _top(hidden: Tensor, k: int) -> Csr:
    """The k largest entries of each row that are not ≤ 0."""
    values, features = hidden.topk(k, dim=-1, sorted=False)
    features, order = features.sort(dim=-1)
    values = values.gather(-1, order)
    kept = ~(values <= 0)
    offsets = nn.functional.pad(kept.sum(dim=-1).cumsum(dim=0), (1, 0))
    return Csr(offsets.int(), features[kept].int(), values[kept])


def _first_tokens(sparse: Csr, tokens: int) -> Csr:
    end = int(sparse.offsets[tokens])
    return Csr(sparse.offsets[: tokens + 1], sparse.features[:end], sparse.values[:end])
