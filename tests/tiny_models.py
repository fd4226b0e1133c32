"""Tiny Hugging Face models and sae_lens SAEs for tests: real folders, real classes, other shapes than the demo's, made in a moment.

Not a test: `from tiny_models import make_gpt2, make_saes, segment_of` works in every test file, because pytest puts this folder on
the path. transformers and sae_lens are imported inside, so that importing this file costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from engine.corpus.segment import ActivationSegment, LayerActivations, Piece, TokenSegment
from engine.corpus.windows import cut_windows

VOCAB = 257
BOS_ID = 0
CONTEXT = 64
ARCHITECTURES = ("standard", "jumprelu", "topk", "gated", "batchtopk")


def save_tokenizer(folder: Path, *, bos: bool = True) -> None:
    """A byte-level tokenizer without merges: one token a byte (ids 1 … 256), `<|endoftext|>` is token 0."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<|endoftext|>": BOS_ID} | {char: i + 1 for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special: dict[str, Any] = (
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"} if bos else {}
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def make_gpt2(folder: Path, *, layers: int = 3, width: int = 48, heads: int = 4, context: int = CONTEXT, seed: int = 0) -> Path:
    """A random GPT-2 with its tokenizer, as an ordinary folder."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=VOCAB, n_positions=context, n_embd=width, n_layer=layers, n_head=heads, **_SPECIAL)
    return _save(GPT2LMHeadModel, config, folder, seed)


def make_llama(folder: Path, *, layers: int = 2, width: int = 32, context: int = CONTEXT, seed: int = 0) -> Path:
    """A random Llama: RMSNorm, rotary positions, two query heads to a key head."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB,
        max_position_embeddings=context,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        **_SPECIAL,
    )
    return _save(LlamaForCausalLM, config, folder, seed)


def make_neox(folder: Path, *, layers: int = 2, width: int = 32, context: int = CONTEXT, seed: int = 0) -> Path:
    """A random GPT-NeoX (Pythia): attention and MLP in parallel, so it has no `hook_resid_mid`."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=VOCAB,
        max_position_embeddings=context,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        **_SPECIAL,
    )
    return _save(GPTNeoXForCausalLM, config, folder, seed)


# Weights this large give residuals of about 1 per entry, so that activations are far from 0 and from each other.
_SPECIAL: dict[str, Any] = {"bos_token_id": BOS_ID, "eos_token_id": BOS_ID, "initializer_range": 0.3}


def _save(model_class: Any, config: Any, folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    model_class(config).eval().save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def make_sae(
    folder: Path,
    hook: str,
    *,
    architecture: str = "standard",
    d_in: int = 48,
    d_sae: int = 96,
    context_size: int = CONTEXT,
    prepend_bos: bool = True,
    seed: int = 0,
    metadata: Mapping[str, Any] | None = None,
    **options: Any,
) -> Path:
    """A random SAE of one of `ARCHITECTURES`, saved as sae_lens saves it; a few of its features fire on a token of a tiny model.

    `metadata` is added to the SAE's metadata, `options` to its configuration.
    """
    import sae_lens
    from sae_lens.saes.sae import SAEMetadata

    torch.manual_seed(seed)
    own = SAEMetadata(hook_name=hook, context_size=context_size, prepend_bos=prepend_bos, model_name="tiny", **(metadata or {}))
    shape: dict[str, Any] = {"d_in": d_in, "d_sae": d_sae, "metadata": own, **options}
    match architecture:
        case "standard":
            sae: Any = sae_lens.StandardSAE(sae_lens.StandardSAEConfig(**shape))
        case "jumprelu":
            sae = sae_lens.JumpReLUSAE(sae_lens.JumpReLUSAEConfig(**shape))
        case "topk":
            sae = sae_lens.TopKSAE(sae_lens.TopKSAEConfig(**{"k": 5, **shape}))
        case "gated":
            sae = sae_lens.GatedSAE(sae_lens.GatedSAEConfig(**shape))
        case "batchtopk":
            sae = sae_lens.BatchTopKTrainingSAE(sae_lens.BatchTopKTrainingSAEConfig(**{"k": 5, **shape}))
        case _:
            raise ValueError(f"architecture {architecture!r}: one of {', '.join(ARCHITECTURES)}")
    with torch.no_grad():
        for name, value in sae.named_parameters():
            match name:
                case "W_enc" | "W_dec":
                    value.copy_(torch.randn(value.shape) / d_in**0.5)
                case "threshold":
                    value.copy_(torch.rand(value.shape))
                case "r_mag":
                    value.copy_(torch.randn(value.shape) * 0.2)
                case "b_enc" | "b_gate" | "b_mag":
                    value.copy_(torch.randn(value.shape) * 0.1 - 0.5)
                case _:
                    value.copy_(torch.randn(value.shape) * 0.1)
        if architecture == "batchtopk":
            sae.topk_threshold.fill_(0.7)
            sae.save_inference_model(folder)
        else:
            sae.save_model(folder)
    return folder


def make_saes(
    folder: Path, hooks: Sequence[str], *, architectures: Sequence[str] = ("standard",), seed: int = 0, **options: Any
) -> Path:
    """One SAE folder per hook point, with the architectures in turn; dictionaries of different sizes unless `d_sae` is given."""
    for place, hook in enumerate(hooks):
        sizes = {"d_sae": 80 + 8 * place} | options
        make_sae(folder / hook, hook, architecture=architectures[place % len(architectures)], seed=seed + place, **sizes)
    return folder


def edit_cfg(folder: Path, *, metadata: Mapping[str, Any] | None = None, drop: Sequence[str] = (), **fields: Any) -> None:
    """Change `cfg.json` of an SAE folder: set fields and metadata, drop names from both."""
    path = folder / "cfg.json"
    config = json.loads(path.read_text())
    config |= fields
    config["metadata"] |= metadata or {}
    for name in drop:
        config.pop(name, None)
        config["metadata"].pop(name, None)
    path.write_text(json.dumps(config))


def edit_weights(path: Path, name: str, index: Any, value: float) -> None:
    """Set some entries of one tensor of a safetensors file."""
    weights = load_file(path)
    weights[name][index] = value
    save_file(weights, path, metadata={"format": "pt"})


def segment_of(
    documents: Sequence[Sequence[int]], *, content: int = CONTEXT - 1, uploads: Sequence[str] | None = None, first_position: int = 0
) -> TokenSegment:
    """A segment of whole documents, given as token ids; `uploads` names each document's upload (`upload` by default)."""
    names = list(uploads) if uploads is not None else ["upload"] * len(documents)
    pieces = tuple(
        Piece(upload, "corpus", number, None, number % 2, 0, len(tokens), True)
        for number, (upload, tokens) in enumerate(zip(names, documents, strict=True))
    )
    offsets, window_pieces = cut_windows(np.array([len(tokens) for tokens in documents], dtype=np.int64), content)
    tokens = np.concatenate([np.zeros(0, np.int32), *(np.asarray(document, dtype=np.int32) for document in documents)])
    return TokenSegment(
        number=0,
        first_position=first_position,
        pieces=pieces,
        tokens=tokens,
        window_offsets=offsets,
        window_pieces=window_pieces,
    )


def random_documents(seed: int = 0, *, lengths: Sequence[int] = (1, 3, 15, 16, 40, 63, 64, 150, 7, 31)) -> list[list[int]]:
    """Documents of random ordinary tokens, of the given lengths."""
    rng = np.random.default_rng(seed)
    return [rng.integers(1, VOCAB, length).tolist() for length in lengths]


def pushed_segment(frames: Sequence[Sequence[np.ndarray]], *, first_position: int = 0) -> ActivationSegment:
    """A segment of pushed activations: each frame is one document and one unit, given as a dense float32 `[T, D]` per layer."""
    pieces = tuple(Piece("push", "corpus", n, f"doc-{n}", n % 2, 0, len(frame[0]), True) for n, frame in enumerate(frames))
    layers = []
    for layer in range(len(frames[0])):
        dense = np.concatenate([frame[layer] for frame in frames])
        active = ~(dense <= 0)
        rows, features = np.nonzero(active)
        offsets = np.concatenate(([0], np.cumsum(active.sum(axis=1)))).astype(np.int64)
        layers.append(LayerActivations(offsets, features.astype(np.int32), dense[rows, features]))
    bounds = np.cumsum([0, *(len(frame[0]) for frame in frames)]).astype(np.int32)
    return ActivationSegment(
        number=0,
        first_position=first_position,
        pieces=pieces,
        layers=tuple(layers),
        unit_offsets=bounds,
        unit_pieces=np.arange(len(frames), dtype=np.int32),
    )
