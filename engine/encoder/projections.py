"""Is what a feature wrote still in the stream at the next hook point, and in that layer's features or in its SAE's error?

For a layer pair (up, down), a token and an upstream feature i that is active there with activation a:

1. What it wrote is the vector w·d̂ᵢ in the space of its hook point: d̂ᵢ its decoder row as a unit vector, w = a·‖dᵢ‖ (w = a
   where the SAE divides by the norms itself, as a TopK SAE with `rescale_acts_by_decoder_norm` does), times what
   `run_time_activation_norm_fn_in` had divided the token's residual by.
2. At the downstream hook point x is the residual that the SAE reads (centred where the SAE was trained so), x̂ its reconstruction
   from the activations with every bias and normalisation undone, e = x − x̂ its reconstruction error.
3. e·d̂ᵢ and x·d̂ᵢ are given out beside w: relative to w they are the shares of what was written that lie in the error, and in the
   stream at all. x̂·d̂ᵢ is their difference.
4. How much of e falls on directions that have nothing to do with the feature: e·r for `DIRECTIONS` unit vectors r that are uniform
   on the sphere, and for as many decoder rows of the upstream SAE (as unit vectors; 0 at tokens at which their feature is active).
   Both are drawn once, with a fixed seed: their sums over a feature's tokens then show what the same sum of e·d̂ᵢ would be by
   chance. The second baseline is the stricter one, since errors lie where decoders do (1.8 times the first on the demo).

That a feature that disappears may be in the next SAE's error is from Balcells et al. 2024, arXiv 2410.08869; they give medians over
features of (e·d̂ᵢ) relative to the activation.

It needs the dense residual, so it is done for one window in 16: of every 16 consecutive windows of a document one is drawn, by a
hash of upload, document and group. A document of up to 16 windows has at most one of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kernels import Csr, project

if TYPE_CHECKING:
    from engine.corpus.segment import TokenSegment
    from engine.encoder.saes import Sae

ONE_IN = 16
"""Windows per window that is projected: this takes 1 % of the loop on the demo, and all of them would take 16 times as much."""

DIRECTIONS = 8
"""Directions of each baseline: the root mean square over 8 is within a quarter of that over all of them (one standard deviation),
and costs 64 bytes a feature."""

_SEED = 20241011


class PairProjections(NamedTuple):
    """One layer pair at the sampled tokens of a batch: T tokens, and n entries, one per token and active upstream feature.

    Attributes:
        up, down: the layers.
        windows: int64 `[T]`, the window of each token, as the position in the log of its first token; all tokens of a window follow
            each other.
        chance: float32 `[T, 2 · DIRECTIONS]`, e·r for the uniform directions, then for the decoder rows.
        tokens: int64 `[n]`, ascending, which of the T tokens.
        features: int32 `[n]`.
        activations: float32 `[n]`, > 0, whatever the threshold.
        written: float32 `[n]`, w > 0. A feature with a decoder row of length 0 writes nothing and has no entries.
        error, stream: float32 `[n]`, e·d̂ and x·d̂.
    """

    up: int
    down: int
    windows: np.ndarray
    chance: np.ndarray
    tokens: np.ndarray
    features: np.ndarray
    activations: np.ndarray
    written: np.ndarray
    error: np.ndarray
    stream: np.ndarray

    def at(self, entries: np.ndarray) -> PairProjections:
        """The entries that a mask or an index chooses, of the same tokens."""
        return PairProjections(*self[:4], *(column[entries] for column in self[4:]))


def sampled(segment: TokenSegment, windows: np.ndarray, content: int) -> np.ndarray:
    """bool `[U]`: which of these windows are projected; a function of the document and the window's place in it.

    Args:
        segment: whose windows they are.
        windows: int `[U]`, indexes of units.
        content: tokens of a window, see `engine.corpus.windows.content_size`.
    """
    chosen = np.zeros(len(windows), bool)
    for at, window in enumerate(windows.tolist()):
        number = int(segment.window_pieces[window])
        piece = segment.pieces[number]
        start = piece.start + segment.first_position + int(segment.window_offsets[window]) - segment.piece_positions[number]
        group, place = divmod(start // content, ONE_IN)
        drawn = hashlib.blake2b(f"{piece.upload}/{piece.number}/{group}".encode(), digest_size=1).digest()[0]
        chosen[at] = drawn % ONE_IN == place
    return chosen


class ErrorProjector:
    """Projects the errors of the downstream SAEs of some layer pairs.

    Attributes:
        pairs: those whose two hook points have the same width; of others nothing can be said.
        chance: per upstream layer, what its errors are projected on besides, see `ChanceDirections`.
    """

    def __init__(self, saes: Sequence[Sae], pairs: Sequence[tuple[int, int]]) -> None:
        """SAEs in the order of the layers."""
        self.pairs = tuple(pair for pair in pairs if saes[pair[0]].config.d_in == saes[pair[1]].config.d_in)
        self._decoders = {layer: _Decoder(saes[layer]) for layer in sorted({layer for pair in self.pairs for layer in pair})}
        self.chance = {layer: ChanceDirections.of(self._decoders[layer]) for layer in sorted({up for up, _ in self.pairs})}

    def project(self, residuals: Sequence[Tensor], layers: Sequence[Csr], windows: np.ndarray) -> tuple[PairProjections, ...]:
        """Project T tokens.

        Args:
            residuals: per layer float32 `[T, d]`.
            layers: per layer the active features of these tokens.
            windows: int64 `[T]`, the window of each token.

        Returns:
            One per layer pair of `pairs`.
        """
        with torch.inference_mode():
            vectors = {}
            for layer in sorted({down for _, down in self.pairs}):
                read = self._decoders[layer].read(residuals[layer])
                vectors[layer] = torch.stack([read - self._decoders[layer].reconstruct(read, layers[layer]), read])
            return tuple(self._pair(pair, residuals[pair[0]], layers[pair[0]], vectors[pair[1]], windows) for pair in self.pairs)

    def _pair(self, pair: tuple[int, int], residuals: Tensor, active: Csr, vectors: Tensor, windows: np.ndarray) -> PairProjections:
        decoder, chance = self._decoders[pair[0]], self.chance[pair[0]]
        features = active.features.long()
        lengths, size = active.offsets.diff(), len(features)
        tokens = torch.arange(active.tokens, device=features.device).repeat_interleave(lengths, output_size=size)
        products = project(active, decoder.rows, vectors).mul_(decoder.inverse_norms[features])
        written = active.values * decoder.lengths[features]
        scale = decoder.scale(residuals)
        if scale is not None:
            written = written * scale[tokens]
        by_chance = vectors[0] @ chance.directions
        slots = chance.slots[features]
        drawn = torch.flatten(torch.nonzero(slots))
        by_chance[tokens[drawn], slots[drawn]] = 0
        columns: tuple[Tensor, ...] = (tokens, active.features, active.values, written, products[0], products[1])
        wrote = written > 0
        if not bool(wrote.all()):
            columns = tuple(column[wrote] for column in columns)
        return PairProjections(*pair, windows, by_chance.cpu().numpy(), *(column.cpu().numpy() for column in columns))


class ChanceDirections(NamedTuple):
    """The directions of the two baselines.

    Attributes:
        directions: float32 `[d, 2 · DIRECTIONS]`, unit columns: uniform on the sphere, then decoder rows. Columns of zeros where an
            SAE has fewer rows than that.
        slots: int64 `[D]`, for a feature whose row was drawn its column, else 0 (which is a uniform direction's).
    """

    directions: Tensor
    slots: Tensor

    @classmethod
    def of(cls, decoder: _Decoder) -> ChanceDirections:
        """Drawn with a fixed seed, so that a run that goes on tomorrow projects on the same ones."""
        chance = np.random.default_rng(_SEED)
        uniform = chance.standard_normal((DIRECTIONS, decoder.rows.shape[1]))
        uniform /= np.linalg.norm(uniform, axis=1, keepdims=True)
        directed = torch.flatten(torch.nonzero(decoder.inverse_norms)).cpu().numpy()
        drawn = torch.from_numpy(chance.permutation(directed)[:DIRECTIONS]).to(decoder.rows.device)
        directions = torch.zeros(2 * DIRECTIONS, decoder.rows.shape[1], device=decoder.rows.device)
        directions[:DIRECTIONS] = torch.from_numpy(uniform)
        directions[DIRECTIONS : DIRECTIONS + len(drawn)] = decoder.rows[drawn] * decoder.inverse_norms[drawn, None]
        slots = torch.zeros(len(decoder.rows), dtype=torch.int64, device=decoder.rows.device)
        slots[drawn] = torch.arange(DIRECTIONS, DIRECTIONS + len(drawn), device=slots.device)
        return cls(directions.T.contiguous(), slots)


class _Decoder:
    """One SAE's decoder in the space of its hook point.

    Attributes:
        rows: float32 `[D, d]`, the SAE's own memory.
        inverse_norms: float32 `[D]`, 1/‖dᵢ‖, 0 where the row is.
        lengths: float32 `[D]`, what an activation of 1 adds along d̂ᵢ, before the normalisation is undone.
    """

    def __init__(self, sae: Sae) -> None:
        self._sae: Any = sae.sae
        self._centred = sae.config.centred
        self.rows: Tensor = sae.sae.W_dec.detach()
        norms = self.rows.norm(dim=1)
        self.inverse_norms = torch.where(norms > 0, 1 / norms, 0)
        self._divides = bool(getattr(sae.sae.cfg, "rescale_acts_by_decoder_norm", False))
        self.lengths = (norms > 0).to(norms.dtype) if self._divides else norms

    def read(self, residuals: Tensor) -> Tensor:
        """`[T, d]`: what the SAE reads of the residuals."""
        return residuals - residuals.mean(dim=-1, keepdim=True) if self._centred else residuals

    def reconstruct(self, read: Tensor, active: Csr) -> Tensor:
        """`[T, d]`: what sae_lens' `decode` makes of the activations, from the active features alone."""
        self._sae.run_time_activation_norm_fn_in(read)  # it keeps what `…_out` undoes
        weights = active.values * self.inverse_norms[active.features.long()] if self._divides else active.values
        total = nn.functional.embedding_bag(
            active.features, self.rows, active.offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
        )
        return self._sae.run_time_activation_norm_fn_out(total + self._sae.b_dec)

    def scale(self, residuals: Tensor) -> Tensor | None:
        """float32 `[T]`: what each token's residual was divided by before it was encoded; None where nothing was done to it."""
        match self._sae.cfg.normalize_activations:
            case "layer_norm":
                self._sae.run_time_activation_norm_fn_in(self.read(residuals))
                return self._sae.ln_std[:, 0]
            case "constant_norm_rescale":
                self._sae.run_time_activation_norm_fn_in(self.read(residuals))
                return 1 / self._sae.x_norm_coeff[:, 0]
            case _:
                return None
