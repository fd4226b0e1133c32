"""Models and SAEs load by hub name: the real client against a small local hub."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_hub import TinyHub
from tiny_models import make_gpt2, make_sae, make_saes

from engine.encoder.encoder import ModelEncoder

PRE, NEXT, LAST = "blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre", "blocks.2.hook_resid_post"

LEGACY = {"architecture": "standard", "activation_fn_str": "relu", "apply_b_dec_to_input": True, "normalize_activations": "none"}
RELEASE_HOOKS = [f"blocks.{i}.hook_resid_pre" for i in range(12)] + ["blocks.11.hook_resid_post"]

LOAD_BY_NAME = """
import json, sys, torch
from engine.encoder.encoder import ModelEncoder
from engine.encoder.saes import load_saes
from engine.errors import DoesNotFit

def tried(action):
    try:
        return action()
    except DoesNotFit as error:
        return error.message

def described(model, saes):
    return ModelEncoder.load(model, saes).describe().to_dict()

print(json.dumps({
    "repository": tried(lambda: described("acme/tiny-gpt2", "acme/tiny-saes")),
    "glob": tried(lambda: [sae.hook for sae in load_saes("acme/tiny-saes:*.2.*")]),
    "release": tried(lambda: described("acme/twelve-layers", "gpt2-small-res-jb")),
    "centred": tried(lambda: [sae.config.centred for sae in load_saes("gpt2-small-res-jb:blocks.[01].*")]),
    "several": tried(lambda: load_saes("gpt2-small-res-jb-feature-splitting")),
    "chosen": tried(lambda: [sae.config.d_sae for sae in load_saes("gpt2-small-res-jb-feature-splitting:*_1536")]),
    "pickled": tried(lambda: described("acme/pickled", "acme/tiny-saes")),
    "missing": tried(lambda: described("acme/nothing", "acme/tiny-saes")),
    "no saes": tried(lambda: load_saes("acme/tiny-gpt2")),
}))
"""


def make_release_sae(folder: Path, hook: str, **fields: Any) -> None:
    """An SAE as the releases of 2024 have it: one flat `cfg.json`, written before sae_lens had metadata."""
    make_sae(folder, hook, **fields)
    own = json.loads((folder / "cfg.json").read_text())
    flat = {
        "d_in": own["d_in"],
        "d_sae": own["d_sae"],
        "dtype": "float32",
        "hook_point": hook,
        "context_size": 64,
        "model_name": "x",
    }
    (folder / "cfg.json").write_text(json.dumps({**LEGACY, **flat}))


@pytest.fixture(scope="module")
def by_name(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str], Path]:
    """What a program gets that loads by hub name: its results, what it asked the hub for, and the folder behind the hub."""
    root = tmp_path_factory.mktemp("hub")
    make_gpt2(root / "gpt2")
    make_saes(root / "saes", (PRE, NEXT, LAST), architectures=("topk", "jumprelu", "gated"))
    make_gpt2(root / "twelve", layers=12, width=16, heads=2)
    for hook in RELEASE_HOOKS:
        make_release_sae(root / "release" / hook, hook, d_in=16, d_sae=24)
    for size in (768, 1536, 3072, 6144, 12288, 24576, 49152, 98304):
        make_release_sae(
            root / "splitting" / f"blocks.8.hook_resid_pre_{size}", "blocks.8.hook_resid_pre", d_in=4, d_sae=size // 64
        )
    shutil.copytree(root / "gpt2", root / "pickled")
    weights = load_file(root / "pickled" / "model.safetensors")
    (root / "pickled" / "model.safetensors").unlink()
    torch.save(weights, root / "pickled" / "pytorch_model.bin")
    (root / "gpt2" / "onnx").mkdir()
    (root / "gpt2" / "onnx" / "decoder.json").write_text("{}")
    repositories = {
        "acme/tiny-gpt2": root / "gpt2",
        "acme/tiny-saes": root / "saes",
        "acme/twelve-layers": root / "twelve",
        "acme/pickled": root / "pickled",
        "jbloom/GPT2-Small-SAEs-Reformatted": root / "release",
        "jbloom/GPT2-Small-Feature-Splitting-Experiment-Layer-8": root / "splitting",
    }
    with TinyHub(repositories) as hub:
        done = subprocess.run(
            [sys.executable, "-c", LOAD_BY_NAME],
            env=hub.environment(root / "cache"),
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), hub.requests, root


def test_a_hub_name_loads_what_the_folder_behind_it_loads(by_name: tuple[dict[str, Any], list[str], Path]) -> None:
    results, _, root = by_name
    local = ModelEncoder.load(str(root / "gpt2"), str(root / "saes")).describe().to_dict()
    assert results["repository"] == {**local, "model": "acme/tiny-gpt2", "saes": "acme/tiny-saes"}
    assert results["glob"] == [LAST]


def test_a_release_of_sae_lens_loads_by_its_name(by_name: tuple[dict[str, Any], list[str], Path]) -> None:
    results, _, _ = by_name
    assert [layer["hook"] for layer in results["release"]["layers"]] == RELEASE_HOOKS
    assert results["release"]["layers"][3]["neuronpedia"] == "gpt2-small/3-res-jb"
    assert results["release"]["prepend_bos"] is True
    assert results["centred"] == [True, True]


def test_a_release_with_several_saes_per_hook_point_lists_them(by_name: tuple[dict[str, Any], list[str], Path]) -> None:
    results, _, _ = by_name
    assert "choose one for each with gpt2-small-res-jb-feature-splitting:GLOB" in results["several"]
    assert "at blocks.8.hook_resid_pre: blocks.8.hook_resid_pre_768, blocks.8.hook_resid_pre_1536, " in results["several"]
    assert results["chosen"] == [24]


def test_what_the_hub_lacks_is_said(by_name: tuple[dict[str, Any], list[str], Path]) -> None:
    results, _, _ = by_name
    assert results["missing"].startswith("'acme/nothing' is neither a local folder nor a repository that the hub gives: ")
    assert results["no saes"].startswith("--saes acme/tiny-gpt2: the repository has no SAE folder")


def test_pickles_code_and_copies_in_other_formats_are_never_fetched(by_name: tuple[dict[str, Any], list[str], Path]) -> None:
    results, requests, _ = by_name
    assert "has no *.safetensors weights (pickled weights are never loaded)" in results["pickled"]
    assert not [path for path in requests if path.endswith((".bin", ".pt", ".py")) or "onnx" in path]
