"""One BatchTopK sparse autoencoder for each hook point of the demo model, trained by sae_lens and measured as it will be used.

1. The saved model is loaded by `TransformerBridge`, as anyone's, and its residuals at all hook points are captured for a few
   hundred thousand tokens, one document per window; BOS is left out.
2. `SAETrainer` trains a `BatchTopKTrainingSAE` on them, in random order; only the top-k itself is replaced by a partition.
3. It is saved for inference (sae_lens makes it a JumpReLU with one threshold), weights in fp16.
4. What is reported is measured on the SAE loaded back from disk, on documents that nothing was trained on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata
from sae_lens.training.sae_trainer import SAETrainer
from safetensors.torch import load_file, save_file
from torch import nn
from transformer_lens.model_bridge import TransformerBridge

from engine.demo.train_model import CONTEXT, D_MODEL, N_LAYER, batches

log = logging.getLogger(__name__)

HOOKS: tuple[str, ...] = (*(f"blocks.{i}.hook_resid_pre" for i in range(N_LAYER)), f"blocks.{N_LAYER - 1}.hook_resid_post")
D_SAE = 1024
K = 16
BATCH = 1024
# With 450 steps from data. At blocks.1.hook_resid_pre, the hardest, 4e-4 leaves 3 % dead and explains 0.92; 8e-4 and twice the
# steps explain 0.97, but leave 12 % dead: features that lose the top-k more and more often.
LEARNING_RATE = 4e-4
SEEDING_TOKENS = 20_000
MODEL_NAME = "saestream-demo"


class PartitionBatchTopK(nn.Module):
    """sae_lens' BatchTopK by `numpy.partition` instead of a flat `torch.topk`, which is 12 times slower on a CPU."""

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = k

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Keep the `k · samples` largest positive entries of `hidden [samples, d_sae]`; the others become 0."""
        active = hidden.relu()
        kept = int(self.k * active.shape[:-1].numel())
        positive = active.detach()[active.detach() > 0].numpy()
        if positive.size <= kept:
            return active
        threshold = float(np.partition(positive, positive.size - kept)[positive.size - kept])
        return active * (active.detach() >= threshold)


@torch.no_grad()
def capture(model: TransformerBridge, windows: Sequence[np.ndarray], hooks: Sequence[str] = HOOKS) -> dict[str, torch.Tensor]:
    """Residuals at `hooks`: for each a float32 tensor `[tokens, d_model]`, the same tokens in the same order, without BOS."""
    total = sum(len(window) - 1 for window in windows)
    store = {name: torch.empty(total, D_MODEL) for name in hooks}
    at = 0
    for tokens, lengths in batches(windows, None):
        inside = torch.arange(tokens.shape[1]) < lengths[:, None]
        inside[:, 0] = False
        end = at + int(inside.sum())

        # The Bridge calls a hook by its canonical name, not by the one that was asked for: bind ours.
        def keep(value: torch.Tensor, hook: Any, name: str, rows: slice, inside: torch.Tensor) -> None:
            store[name][rows] = value[inside]

        wanted: list[tuple[str | Callable[..., Any], Callable[..., Any]]] = [
            (name, partial(keep, name=name, rows=slice(at, end), inside=inside)) for name in hooks
        ]
        model.run_with_hooks(tokens, fwd_hooks=wanted, return_type=None, prepend_bos=False)
        at = end
    if at != total:
        raise RuntimeError(f"captured {at} tokens, expected {total}")
    return store


def train_sae(hook: str, activations: torch.Tensor, samples: int, seed: int) -> BatchTopKTrainingSAE:
    """Train one SAE on `activations [tokens, d_model]`, drawing `samples` rows in epochs of random order."""
    torch.manual_seed(seed)
    metadata = SAEMetadata(
        model_name=MODEL_NAME,
        hook_name=hook,
        context_size=CONTEXT,
        prepend_bos=True,
        model_class_name="TransformerBridge",
        dataset_path="engine.demo.text",
    )
    config = BatchTopKTrainingSAEConfig(
        d_in=D_MODEL,
        d_sae=D_SAE,
        k=K,
        normalize_activations="expected_average_only_in",
        apply_b_dec_to_input=True,
        topk_threshold_lr=0.02,
        aux_loss_coefficient=0.0,  # reviving the dead did not help in so short a run: 2.4 % dead without, 3.3 % with it
        metadata=metadata,
    )
    sae = BatchTopKTrainingSAE(config)
    sae.activation_fn = PartitionBatchTopK(K)
    _start_from_data(sae, activations, seed)
    trainer = SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=samples,
            train_batch_size_samples=BATCH,
            lr=LEARNING_RATE,
            lr_warm_up_steps=30,
            lr_decay_steps=samples // BATCH // 3,
            lr_end=LEARNING_RATE / 20,
            feature_sampling_window=100,
            n_batches_for_norm_estimate=20,
            logger=LoggingConfig(log_to_wandb=False),
        ),
        sae=sae,
        data_provider=_rows(activations, seed),
    )
    return trainer.fit()


@torch.no_grad()
def _start_from_data(sae: BatchTopKTrainingSAE, activations: torch.Tensor, seed: int) -> None:
    """Put the decoder bias at the mean and every feature on a token, chosen by k-means++ seeding among directions.

    Dead features of `blocks.1.hook_resid_pre` after runs of 390 to 586 steps: 36 and 73 % (learning rates 1.5e-3, 5e-4) from
    sae_lens' own start (random directions, decoder norm 0.1, bias 0); 21 % (4e-4) from data with decoder norm 1 and encoder
    norm 0.25; 3 % with encoder norm 1, which is used. Those residuals lie around a mean of half their norm and in few directions.
    """
    generator = torch.Generator().manual_seed(seed)
    points = activations[torch.randperm(len(activations), generator=generator)[:SEEDING_TOKENS]]
    scale = D_MODEL**0.5 / points.norm(dim=1).mean()  # sae_lens' `expected_average_only_in`, in whose units it trains
    mean = points.mean(0)
    directions = nn.functional.normalize(points - mean, dim=1)
    far = torch.full((len(directions),), 2.0)
    rows = []
    for _ in range(D_SAE):
        row = int(torch.multinomial(far, 1, generator=generator))
        rows.append(row)
        far = torch.minimum(far, (1 - directions @ directions[row]).clamp_min(1e-6))
    sae.W_dec.copy_(directions[rows])
    sae.W_enc.copy_(directions[rows].T)
    sae.b_dec.copy_(mean * scale)


def save_sae(sae: BatchTopKTrainingSAE, folder: Path) -> None:
    """Write an ordinary sae_lens folder (`cfg.json`, `sae_weights.safetensors`), weights in fp16; it loads as float32."""
    weights, _ = sae.save_inference_model(folder)
    save_file({name: value.half().contiguous() for name, value in load_file(weights).items()}, weights)


@torch.no_grad()
def measure(sae: SAE[Any], activations: torch.Tensor) -> dict[str, float]:
    """What an SAE does to `activations [tokens, d_model]`.

    Returns:
        `l0`: mean active features per token. `explained_variance`: 1 − Σ‖x − x̂‖² / Σ‖x − mean‖².
        `dead_share`: share of features that fired on none of these tokens. `dense_share`: on more than one in ten.
    """
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.int64)
    error = 0.0
    for part in activations.split(4096):
        encoded = sae.encode(part)
        fired += (encoded > 0).sum(0)
        error += float((sae.decode(encoded) - part).double().pow(2).sum())
    centred = activations.double() - activations.double().mean(0)
    return {
        "l0": float(fired.sum()) / len(activations),
        "explained_variance": 1 - error / float(centred.pow(2).sum()),
        "dead_share": float((fired == 0).double().mean()),
        "dense_share": float((fired > len(activations) / 10).double().mean()),
    }


def _rows(activations: torch.Tensor, seed: int) -> Iterator[torch.Tensor]:
    """Batches `[BATCH, d_model]` in random order, epoch after epoch, without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.randperm(len(activations), generator=generator).split(BATCH):
            if len(rows) == BATCH:
                yield activations[rows]
