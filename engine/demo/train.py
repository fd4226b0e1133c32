"""Make the embedded default: `python -m engine.demo.train --out engine/demo`, offline, under an hour on two cores.

1. Read the documents of both corpora (`engine.demo.text`); one in twenty is held out.
2. Train the tokenizer and the model (`train_model`), save them in `model/`.
3. Load the model back from disk, capture its residuals, train an SAE per hook point (`train_saes`), save them in `saes/`.
4. Measure all of it on held-out documents, and write `REPORT.json`.

Everything starts from one seed. The text is what this installation carries, so other versions of the packages give other weights.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import random
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.logging import RichHandler

from engine.demo import text

log = logging.getLogger("engine.demo.train")

# MALLOC_…: without them glibc returns every large buffer to the kernel and takes it back a moment later, a factor of 3 to 5 in
# page faults. OMP_WAIT_POLICY: threads wait asleep. On cores shared with other work, two that spun at barriers spent 161 s of CPU
# time on an SAE that one thread trained in 34 s.
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
    "OMP_WAIT_POLICY": "PASSIVE",
}
# Of each corpus: 3.2 M tokens in all. The installation has three times that, and a run of 2.4 M tokens would not see the rest.
TRAIN_CHARACTERS = 6_500_000
HELD_OUT_TOKENS = 120_000
PACKAGES = ("torch", "transformers", "tokenizers", "sae-lens", "transformer-lens", "numpy", "scipy", "pandas")


def train(
    out: Path, model_tokens: int, sae_tokens: int, sae_samples: int, threads: int, seed: int, saes_only: bool = False
) -> dict[str, Any]:
    """Make the model and its SAEs in `out`, and return the report that `REPORT.json` holds.

    Args:
        out: receives `model/`, `saes/<hook name>/` and `REPORT.json`.
        model_tokens: tokens that the language model sees in training.
        sae_tokens: tokens whose residuals are kept in memory for the SAEs (3.6 kB each).
        sae_samples: tokens that each SAE sees in training (more than `sae_tokens`: several epochs).
        threads: torch's CPU threads.
        seed: of everything random.
        saes_only: keep the model that is in `out`, with what its report says of its training, and make the SAEs again.
    """
    import torch  # 2 s, and transformer_lens and sae_lens below 7 s: after the arguments are known to be right
    from tokenizers import Tokenizer

    from engine.demo import train_model, train_saes

    torch.set_num_threads(threads)
    started = time.monotonic()
    train_texts, test_texts = _split()
    model, path = out / "model", out / "REPORT.json"
    if not saes_only:
        tokenizer = train_model.train_tokenizer(train_texts)
        windows = train_model.windows_of(tokenizer, train_texts)
        log.info("%d documents, %.2f M tokens", len(train_texts), _count(windows) / 1e6)
        train_model.save(train_model.train_model(windows, model_tokens, seed), tokenizer, model)
        trained = {
            "documents": len(train_texts),
            "tokens_available": _count(windows),
            "tokens": model_tokens,
            "minutes": (time.monotonic() - started) / 60,
        }
        _write(path, {"model": trained})
    report: dict[str, Any] = {"model": json.loads(path.read_text(encoding="utf-8"))["model"]}
    begun = time.monotonic()
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    windows = train_model.windows_of(tokenizer, train_texts)
    test = {
        corpus: _first_tokens(train_model.windows_of(tokenizer, texts), HELD_OUT_TOKENS // 2, seed)
        for corpus, texts in test_texts.items()
    }
    report["model"] |= train_model.measure(model, windows, test)
    log.info("model: %s", _rounded(report["model"]))

    bridge = train_saes.TransformerBridge.boot_transformers(str(model), device="cpu")
    captured = train_saes.capture(bridge, _first_tokens(windows, sae_tokens, seed))
    held_out = train_saes.capture(bridge, [window for part in test.values() for window in part])
    report["saes"] = {}
    for hook in train_saes.HOOKS:
        folder = out / "saes" / hook
        train_saes.save_sae(train_saes.train_sae(hook, captured.pop(hook), sae_samples, seed), folder)
        report["saes"][hook] = train_saes.measure(train_saes.SAE.load_from_disk(folder), held_out[hook])
        log.info("%s: %s", hook, _rounded(report["saes"][hook]))
    report["sae_training"] = {"tokens": sae_tokens, "samples": sae_samples, "minutes": (time.monotonic() - begun) / 60}
    report["minutes"] = report["model"]["minutes"] + report["sae_training"]["minutes"]
    report["bytes"] = sum(file.stat().st_size for part in ("model", "saes") for file in (out / part).rglob("*.*") if file.is_file())
    report["versions"] = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    report["seed"], report["threads"] = seed, threads
    _write(path, report)
    return report


def main() -> None:
    """Parse the command line, put the environment in place, and train."""
    parser = argparse.ArgumentParser(description="Train the demo model and its SAEs from this installation's documentation.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model-tokens", type=int, default=2_400_000)
    parser.add_argument("--sae-tokens", type=int, default=460_000)
    parser.add_argument("--sae-samples", type=int, default=460_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--saes-only", action="store_true", help="keep the model in --out and make its SAEs again")
    arguments = parser.parse_args()
    if not ENVIRONMENT.keys() <= os.environ.keys():  # they are read when a process starts
        os.execve(sys.executable, [sys.executable, "-m", "engine.demo.train", *sys.argv[1:]], ENVIRONMENT | dict(os.environ))
    logging.basicConfig(level=logging.INFO, format="%(message)s", datefmt="[%X]", handlers=[RichHandler(show_path=False)])
    logging.getLogger("httpx").setLevel(logging.WARNING)
    report = train(**vars(arguments))
    log.info("done in %.1f minutes, %.1f MB", report["minutes"], report["bytes"] / 1e6)


def _split() -> tuple[list[str], dict[str, list[str]]]:
    """Training documents of both corpora in one list, and the held-out ones by corpus."""
    train_texts: list[str] = []
    test_texts: dict[str, list[str]] = {corpus: [] for corpus in text.CORPORA}
    for corpus in text.CORPORA:
        total = 0
        for document in text.documents(corpus):
            total += len(document)
            if total > TRAIN_CHARACTERS:
                break
            (test_texts[corpus] if text.held_out(document) else train_texts).append(document)
    return train_texts, test_texts


def _first_tokens(windows: list[Any], tokens: int, seed: int) -> list[Any]:
    """As many windows, in random order, as hold at most `tokens` tokens."""
    order = list(windows)
    random.Random(seed).shuffle(order)
    kept, total = [], 0
    for window in order:
        total += len(window) - 1
        if total > tokens:
            break
        kept.append(window)
    return kept


def _count(windows: list[Any]) -> int:
    return sum(len(window) - 1 for window in windows)


def _write(path: Path, report: dict[str, Any]) -> None:
    path.write_text(json.dumps(_rounded(report), indent=2) + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    """The report with four decimals: more would change with every run's threads."""
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
