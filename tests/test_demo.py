"""The embedded default: what is shipped loads as anyone's model and SAEs would, and does what its report says."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from engine.demo import text

DEMO = Path(text.__file__).parent
HOOKS = [*(f"blocks.{i}.hook_resid_pre" for i in range(6)), "blocks.5.hook_resid_post"]


@pytest.fixture(scope="module")
def model():
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(str(DEMO / "model"), device="cpu")


@pytest.fixture(scope="module")
def windows(model):
    from engine.demo.train_model import windows_of

    return windows_of(model.tokenizer.backend_tokenizer, [document.text for document in text.sample_documents()])


@pytest.fixture(scope="module")
def residuals(model, windows):
    from engine.demo.train_saes import capture

    return capture(model, windows)


def test_the_model_folder_loads_through_transformer_lens_in_float32_with_its_own_tokenizer(model) -> None:
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DEMO / "model")
    assert next(model.parameters()).dtype == torch.float32
    assert (model.cfg.n_layers, model.cfg.d_model, model.cfg.n_ctx) == (6, 128, 128)
    assert (len(tokenizer), tokenizer.bos_token_id, tokenizer.bos_token) == (4096, 0, "<|endoftext|>")
    assert model.to_tokens("Return the number of items.")[0, 0] == tokenizer.bos_token_id


@pytest.mark.parametrize("prose", ["Return the sorted list.", "π ≈ 3.14 – naïve\n\tcafé 🤗", "  two  spaces "])
def test_the_tokenizer_gives_back_every_text_exactly(prose: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DEMO / "model")
    assert tokenizer.decode(tokenizer(prose, add_special_tokens=False)["input_ids"]) == prose


def test_the_model_predicts_held_out_text_far_better_than_token_frequencies_do(windows) -> None:
    from transformers import GPT2LMHeadModel

    from engine.demo.train_model import perplexity

    report = json.loads((DEMO / "REPORT.json").read_text())
    model = GPT2LMHeadModel.from_pretrained(DEMO / "model", dtype="float32").eval()
    assert perplexity(model, windows) < report["model"]["unigram_perplexity"] / 6
    assert report["model"]["perplexity"] < report["model"]["unigram_perplexity"] / 6


@pytest.mark.parametrize("hook", HOOKS)
def test_every_sae_loads_through_sae_lens_and_is_sparse_faithful_and_alive(hook: str, residuals) -> None:
    from sae_lens import SAE

    from engine.demo.train_saes import measure

    sae = SAE.load_from_disk(DEMO / "saes" / hook)
    assert (sae.cfg.d_in, sae.cfg.d_sae, sae.cfg.dtype) == (128, 1024, "float32")
    assert sae.cfg.metadata.hook_name == hook
    assert (sae.cfg.metadata.context_size, sae.cfg.metadata.prepend_bos) == (128, True)
    measured = measure(sae, residuals[hook])
    assert 8 <= measured["l0"] <= 30
    assert measured["explained_variance"] > 0.7
    # The sample has 1 % of the report's tokens, so rare features don't show in it: the dead share is the report's.
    assert json.loads((DEMO / "REPORT.json").read_text())["saes"][hook]["dead_share"] < 0.1


def test_what_is_shipped_takes_at_most_16_megabytes() -> None:
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file() and path.suffix != ".pyc") <= 16_000_000


def test_the_sample_is_small_fixed_distinct_and_from_both_corpora() -> None:
    sample = text.sample_documents()
    assert 200 <= len(sample) <= 400
    assert (DEMO / "sample.jsonl").stat().st_size <= 150_000
    assert {document.package for document in sample} == set(text.CORPORA)
    assert len({document.text for document in sample}) == len({document.id for document in sample}) == len(sample)
    assert all(text.held_out(document.text) for document in sample)


@pytest.mark.parametrize("corpus", text.CORPORA)
def test_demo_text_is_bounded_distinct_varied_and_the_same_every_time(corpus: str) -> None:
    demo = list(text.demo_documents(corpus))
    assert 0.98 * text.DEMO_CHARACTERS < sum(map(len, demo)) <= text.DEMO_CHARACTERS
    assert len(set(demo)) == len(demo)
    assert demo == list(islice(text.documents(corpus), len(demo)))
    assert not any(">>>" in line.strip()[:3] for document in demo for line in document.splitlines())
    packages = {document.package for document in islice(text.sourced_documents(corpus), 300)}
    assert len(packages) >= 5


def test_the_two_corpora_have_different_content() -> None:
    first, second = (set(islice(text.documents(corpus), 2_000)) for corpus in text.CORPORA)
    assert len(first & second) <= 2


def test_an_unknown_corpus_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"wikipedia.*python-docs, numeric-docs"):
        text.documents("wikipedia")


def test_reading_the_text_imports_neither_torch_nor_the_packages_that_are_read() -> None:
    code = (
        "import sys; from engine.demo import text; next(text.documents('numeric-docs')); text.sample_documents(); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'scipy', 'pandas')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=DEMO.parents[1], check=False).returncode == 0
