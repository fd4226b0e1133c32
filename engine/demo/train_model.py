"""The demo's tokenizer and language model: byte-level BPE and a GPT-2 of 6 layers × 128, trained on `engine.demo.text`.

1. BPE of 4,096 tokens over all training documents; `<|endoftext|>` is token 0, and is BOS, EOS and padding at once.
2. A document becomes windows of BOS and up to 127 tokens, never shared with another document: as at inference.
3. Windows of similar length make a batch of `BATCH_POSITIONS` positions, padded on the right; padding has no loss.
4. AdamW, warm-up and cosine. The activation function trains as torch's fused tanh-GELU and is saved as `gelu_new`, which is the
   same function written out in several passes over memory.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

log = logging.getLogger(__name__)

BOS = "<|endoftext|>"
BOS_ID = 0
VOCABULARY = 4096
CONTEXT = 128
N_LAYER, N_HEAD, D_MODEL = 6, 4, 128
# Few tokens, so many small steps: 2.4 M tokens are 1,200 steps.
BATCH_POSITIONS = 2048
PEAK_LEARNING_RATE = 3e-3
WARM_UP_STEPS = 100
# Windows are sorted by length inside a pool of this many, so that a batch has little padding and an epoch is still shuffled.
POOL = 2048


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Byte-level BPE (GPT-2's pre-tokenizer) with `VOCABULARY` tokens; `<|endoftext|>` is token 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[BOS], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.token_to_id(BOS) != BOS_ID:
        raise RuntimeError(f"{BOS} is token {tokenizer.token_to_id(BOS)}, expected {BOS_ID}")
    return tokenizer


def windows_of(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """One document per window: int64 arrays `[1 + n]` with BOS first and 1 ≤ n ≤ `CONTEXT` − 1 tokens of one document."""
    # A copy, since these are settings of the tokenizer: TransformerBridge.to_tokens, for one, leaves padding switched on.
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True  # a literal <|endoftext|> in a text is text
    windows: list[np.ndarray] = []
    for encoded in tokenizer.encode_batch(list(texts), add_special_tokens=False):
        ids = np.asarray(encoded.ids, dtype=np.int64)
        for start in range(0, len(ids), CONTEXT - 1):
            windows.append(np.concatenate(([BOS_ID], ids[start : start + CONTEXT - 1])))
    return windows


def batches(windows: Sequence[np.ndarray], rng: np.random.Generator | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One pass over `windows` in batches of at most `BATCH_POSITIONS` positions.

    Args:
        windows: from `windows_of`.
        rng: shuffles windows and batches; None keeps batches in order of length.

    Yields:
        tokens int64 `[rows, length]`, padded on the right with `BOS_ID`; lengths int64 `[rows]` (BOS included).
    """
    order = np.arange(len(windows)) if rng is None else rng.permutation(len(windows))
    pool = len(windows) if rng is None else POOL
    for first in range(0, len(order), pool):
        part = sorted(order[first : first + pool].tolist(), key=lambda i: len(windows[i]))
        cuts: list[list[int]] = [[]]
        for index in part:  # ascending, so this window is the batch's longest
            if (len(cuts[-1]) + 1) * len(windows[index]) > BATCH_POSITIONS:
                cuts.append([])
            cuts[-1].append(index)
        for at in range(len(cuts)) if rng is None else rng.permutation(len(cuts)):
            rows = [windows[index] for index in cuts[at]]
            tokens = np.full((len(rows), max(map(len, rows))), BOS_ID, dtype=np.int64)
            for row, window in zip(tokens, rows, strict=True):
                row[: len(window)] = window
            yield torch.from_numpy(tokens), torch.tensor([len(window) for window in rows])


def train_model(windows: Sequence[np.ndarray], total_tokens: int, seed: int) -> GPT2LMHeadModel:
    """Train the model on about `total_tokens` tokens of `windows` (as many passes as that takes); float32, on the CPU."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = GPT2LMHeadModel(_config("gelu_pytorch_tanh"))
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=PEAK_LEARNING_RATE,
        betas=(0.9, 0.98),
        fused=True,
    )
    model.train()
    seen, step, started, averaged = 0, 0, time.monotonic(), math.log(VOCABULARY)
    while seen < total_tokens:
        for tokens, lengths in batches(windows, rng):
            progress = min(1.0, seen / total_tokens)
            rate = PEAK_LEARNING_RATE * min(1.0, (step + 1) / WARM_UP_STEPS) * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss, count = _loss(model, tokens, lengths)
            (loss / count).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            seen, step = seen + count, step + 1
            averaged += 0.03 * (loss.item() / count - averaged)
            if step % 100 == 0:
                speed = seen / (time.monotonic() - started)
                log.info("model: step %d, %.2f M tokens, loss %.3f, %.0f tokens/s", step, seen / 1e6, averaged, speed)
            if seen >= total_tokens:
                break
    return model.eval()


@torch.no_grad()
def perplexity(model: GPT2LMHeadModel, windows: Sequence[np.ndarray]) -> float:
    """exp(mean cross-entropy in nats) of every token after BOS, one document per window."""
    sums = [_loss(model, tokens, lengths) for tokens, lengths in batches(windows, None)]
    return math.exp(sum(loss.item() for loss, _ in sums) / sum(count for _, count in sums))


def measure(folder: Path, train: Sequence[np.ndarray], test: Mapping[str, Sequence[np.ndarray]]) -> dict[str, Any]:
    """Perplexities of the model that was saved in `folder`, on windows that it was not trained on, by corpus and together."""
    model = GPT2LMHeadModel.from_pretrained(folder, dtype="float32").eval()
    together = [window for part in test.values() for window in part]
    return {
        "held_out_tokens": sum(len(window) - 1 for window in together),
        "perplexity": perplexity(model, together),
        "perplexity_by_corpus": {corpus: perplexity(model, part) for corpus, part in test.items()},
        "unigram_perplexity": unigram_perplexity(train, together),
    }


def unigram_perplexity(train: Sequence[np.ndarray], test: Sequence[np.ndarray]) -> float:
    """The baseline: token frequencies of `train` (add-one smoothed), measured on the same tokens as `perplexity`."""
    counts = 1.0 + np.bincount(np.concatenate([window[1:] for window in train]), minlength=VOCABULARY)
    nats = -np.log(counts / counts.sum())
    return math.exp(float(np.mean(nats[np.concatenate([window[1:] for window in test])])))


def save(model: GPT2LMHeadModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write an ordinary Hugging Face folder: config, fp16 weights, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = GPT2LMHeadModel(_config("gelu_new"))
    plain.load_state_dict(model.state_dict())
    plain.half().save_pretrained(folder)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=BOS,
        unk_token=BOS,
        pad_token=BOS,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    wrapped.save_pretrained(folder)


def _config(activation: str) -> GPT2Config:
    options: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "tie_word_embeddings": True}
    return GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=D_MODEL,
        n_layer=N_LAYER,
        n_head=N_HEAD,
        activation_function=activation,
        bos_token_id=BOS_ID,
        eos_token_id=BOS_ID,
        pad_token_id=BOS_ID,
        **options,
    )


def _loss(model: GPT2LMHeadModel, tokens: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Summed cross-entropy (nats) of tokens 1 … length − 1 of each row, and how many those are.

    Right padding needs no attention mask: attention is causal, and padding has no loss.
    """
    real = torch.arange(1, tokens.shape[1]) < lengths[:, None]
    hidden = model.transformer(input_ids=tokens).last_hidden_state[:, :-1][real]
    logits = model.lm_head(hidden)
    return functional.cross_entropy(logits, tokens[:, 1:][real], reduction="sum"), int(real.sum())
