"""A transformer of GPT-2's size with random weights, and an SAE per layer whose features fire as often as real ones do.

Plain torch, no model library. Weights are drawn as GPT-2's are before training. An encoder's columns are random directions, scaled
so that pre-activations have a standard deviation of 1, and its biases are such that feature j fires on the share of tokens that
`benchmarks.activations` gives its rank; half of the directions are those of the layer before, so that half of the features follow
one.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.activations import frequencies
from benchmarks.gpu.setting import Sizes

SAMPLE = 64  # windows from which means and deviations are taken


class Gpt2:
    """GPT-2 up to its last hook point."""

    def __init__(self, sizes: Sizes, device: torch.device, dtype: torch.dtype) -> None:
        self.sizes, self.dtype = sizes, dtype
        self._generator = torch.Generator(device=device).manual_seed(0)
        d = sizes.width
        self.embedding, self.position = self._weights(sizes.vocabulary, d), self._weights(sizes.context, d)
        shapes = {"qkv": (3 * d, d), "out": (d, d), "up": (4 * d, d), "down": (d, 4 * d)}
        self.blocks = [{name: self._weights(*shape) for name, shape in shapes.items()} for _ in range(sizes.layers - 1)]

    def _weights(self, *shape: int) -> Tensor:
        device = self._generator.device
        return torch.randn(*shape, device=device, generator=self._generator).mul_(0.02).to(self.dtype)

    def residuals(self, tokens: Tensor) -> list[Tensor]:
        """Residual stream before every block, [windows · context, d] each, from token ids int64 [windows, context]."""
        windows, context = tokens.shape
        x = self.embedding[tokens] + self.position[:context]
        found = [x.flatten(0, 1)]
        for block in self.blocks:
            heads = F.linear(F.layer_norm(x, x.shape[-1:]), block["qkv"]).view(windows, context, 3, self.sizes.heads, -1)
            q, k, v = heads.permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
            x = x + F.linear(mixed, block["out"])
            hidden = F.gelu(F.linear(F.layer_norm(x, x.shape[-1:]), block["up"]), approximate="tanh")
            x = x + F.linear(hidden, block["down"])
            found.append(x.flatten(0, 1))
        return found

    def draw(self, windows: int) -> Tensor:
        """Random token ids int64 [windows, context]."""
        shape = (windows, self.sizes.context)
        return torch.randint(self.sizes.vocabulary, shape, device=self._generator.device, generator=self._generator)


def encoders(model: Gpt2) -> list[tuple[Tensor, Tensor]]:
    """Per layer weights [d, D] in the model's dtype and biases float32 [D]."""
    sizes = model.sizes
    device = model.embedding.device
    generator = torch.Generator(device=device).manual_seed(1)
    share = torch.from_numpy(np.random.default_rng(2).permutation(frequencies(sizes.features, sizes.active)))
    heights = torch.special.ndtri(share).to(device, torch.float32)
    found = []
    directions = torch.randn(sizes.width, sizes.features, device=device, generator=generator)
    for residuals in model.residuals(model.draw(SAMPLE)):
        fresh = torch.randn(sizes.width, sizes.features // 2, device=device, generator=generator)
        directions = torch.cat([directions[:, : sizes.features - fresh.shape[1]], fresh], dim=1)
        hidden = residuals.float() @ directions
        deviation = hidden.std(dim=0)
        weights = (directions / deviation).to(model.dtype).contiguous()
        found.append((weights, heights - hidden.mean(dim=0) / deviation))
    return found
