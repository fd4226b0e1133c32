"""Models and SAEs are found by name, put in order, and refused by name when they don't fit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_hub import TinyHub
from tiny_models import edit_cfg, edit_weights, make_gpt2, make_llama, make_neox, make_sae, make_saes, save_tokenizer

from engine.encoder.checks import fit
from engine.encoder.description import RunDescription
from engine.encoder.encoder import ModelEncoder
from engine.encoder.model import Model, load_model
from engine.encoder.pushed import PushedActivations
from engine.encoder.saes import load_saes
from engine.errors import DoesNotFit

PRE, MID, POST = "blocks.0.hook_resid_pre", "blocks.0.hook_resid_mid", "blocks.0.hook_resid_post"
NEXT, LAST = "blocks.1.hook_resid_pre", "blocks.2.hook_resid_post"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    make_gpt2(folder / "gpt2")
    make_llama(folder / "llama")
    make_neox(folder / "neox")
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load_model(str(folder / "gpt2"))


def refusal(action: Callable[[], Any]) -> str:
    with pytest.raises(DoesNotFit) as caught:
        action()
    return caught.value.message


def test_layers_come_in_the_order_of_the_model_whatever_their_folders_are_called(tmp_path: Path, model: Model) -> None:
    for name, hook in {"a": LAST, "b": POST, "c": NEXT, "d": MID, "e": PRE}.items():
        make_sae(tmp_path / name, hook)
    assert [sae.hook for sae in fit(model, load_saes(str(tmp_path))).saes] == [PRE, MID, POST, NEXT, LAST]


def test_a_glob_picks_the_saes_of_a_folder(tmp_path: Path, model: Model) -> None:
    make_saes(tmp_path / "wide", (PRE, NEXT), d_sae=128)
    make_saes(tmp_path / "narrow", (PRE, NEXT), d_sae=32)
    message = refusal(lambda: load_saes(str(tmp_path)))
    assert f"several SAEs at one hook point; choose one for each with {tmp_path}:GLOB" in message
    assert f"at {PRE}: narrow/{PRE}, wide/{PRE}; at {NEXT}: narrow/{NEXT}, wide/{NEXT}" in message
    assert [sae.config.d_sae for sae in load_saes(f"{tmp_path}:wide/*")] == [128, 128]
    assert [sae.config.d_sae for sae in load_saes(f"{tmp_path}:wide/{PRE},narrow/{NEXT}")] == [32, 128]
    message = refusal(lambda: load_saes(f"{tmp_path}:huge/*"))
    assert message.endswith(f"matches huge/*; it has narrow/{PRE}, narrow/{NEXT}, wide/{PRE}, wide/{NEXT}")


MISFITS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a hook point that isn't there": ({"metadata": {"hook_name": "blocks.9.hook_resid_pre"}}, {}, "doesn't have; it has blocks."),
    "another width": ({}, {"d_in": 40}, f"SAE at {NEXT} expects d_in 40, the model gives 48"),
    "another context size": (
        {"metadata": {"context_size": 32}},
        {},
        f"SAE at {NEXT} has context_size 32, SAE at {PRE} has 64: windows are the same for all layers, so they must agree",
    ),
    "another BOS": ({"metadata": {"prepend_bos": False}}, {}, f"SAE at {NEXT} has prepend_bos False, SAE at {PRE} has True"),
    "a misspelt hook name": (
        {"metadata": {"hook_nam": NEXT}, "drop": ["hook_name"]},
        {},
        'has the unknown field "hook_nam" in its cfg.json; it must be "hook_name"',
    ),
    "a misspelt context size": (
        {"metadata": {"contextsize": 64}, "drop": ["context_size"]},
        {},
        'has the unknown field "contextsize" in its cfg.json; it must be "context_size"',
    ),
    "a misspelt option": (
        {"aply_b_dec_to_input": False, "drop": ["apply_b_dec_to_input"]},
        {},
        'has the unknown field "aply_b_dec_to_input" in its cfg.json; it must be "apply_b_dec_to_input"',
    ),
    "no hook name": ({"drop": ["hook_name"]}, {}, 'has no "hook_name" in its cfg.json (a string is needed); it has '),
    "no BOS field": ({"drop": ["prepend_bos"]}, {}, 'has no "prepend_bos" in its cfg.json (true or false is needed); it has '),
    "no context size": (
        {"drop": ["context_size"]},
        {},
        'has no "context_size" in its metadata; add it there or give --context-size',
    ),
    "a word for a number": (
        {"metadata": {"context_size": "64"}},
        {},
        """has "context_size": '64' in its cfg.json; it must be a whole number""",
    ),
    "a transcoder": (
        {"architecture": "transcoder"},
        {},
        "it reads one place of the model and writes another; saestream takes standard",
    ),
    "a training class": ({"architecture": "batchtopk"}, {}, "save it with sae_lens' save_inference_model"),
    "negative activations": ({"architecture": "abstopk"}, {}, "its activations can be negative"),
    "an unknown kind": ({"architecture": "quantum"}, {}, "architecture 'quantum'; saestream takes standard, jumprelu, topk, gated"),
    "one attention head": ({"metadata": {"hook_head_index": 3}}, {}, f"at {NEXT} reads attention head 3 alone"),
    "attention heads": (
        {"reshape_activations": "hook_z", "metadata": {"hook_name": "blocks.1.attn.hook_z"}},
        {},
        "at blocks.1.attn.hook_z reshapes its input ('hook_z', one vector per attention head); saestream takes SAEs of one vector",
    ),
    "heads without saying so": (
        {"metadata": {"hook_name": "blocks.1.attn.hook_pattern"}},
        {},
        "hook point blocks.1.attn.hook_pattern gives [1, 4, 16, 16] for [1, 16] tokens; an SAE needs one vector per token",
    ),
    "a hook that is switched off": (
        {"metadata": {"hook_name": "blocks.1.attn.hook_result"}},
        {},
        "hook point blocks.1.attn.hook_result of SAE",
    ),
}


@pytest.mark.parametrize("case", MISFITS.values(), ids=MISFITS.keys())
def test_what_does_not_fit_is_named_with_what_would(
    tmp_path: Path, model: Model, case: tuple[dict[str, Any], dict[str, Any], str]
) -> None:
    edits, options, expected = case
    make_sae(tmp_path / "first", PRE)
    make_sae(tmp_path / "second", NEXT, **options)
    edit_cfg(tmp_path / "second", **edits)
    assert expected in refusal(lambda: fit(model, load_saes(str(tmp_path))))


def test_a_missing_hook_point_is_answered_with_close_ones(tmp_path: Path, model: Model) -> None:
    make_saes(tmp_path, (PRE, "blocks.1.hook_resid_prae"))
    assert "it has blocks.1.hook_resid_pre, " in refusal(lambda: fit(model, load_saes(str(tmp_path))))


def test_one_hook_point_under_two_names_is_noticed(tmp_path: Path, model: Model) -> None:
    make_saes(tmp_path, (PRE, "blocks.0.hook_in"))
    assert "are SAEs of one hook point" in refusal(lambda: fit(model, load_saes(str(tmp_path))))


def test_a_model_without_a_hook_point_that_others_have_is_refused(tmp_path: Path, folder: Path) -> None:
    make_saes(tmp_path, (PRE, MID), d_in=32)
    message = refusal(lambda: ModelEncoder.load(str(folder / "neox"), str(tmp_path)))
    assert f"belongs to hook point {MID}, which {folder / 'neox'} doesn't have" in message


def test_one_layer_is_not_enough(tmp_path: Path, model: Model) -> None:
    make_saes(tmp_path, (PRE,))
    assert refusal(lambda: fit(model, load_saes(str(tmp_path)))).endswith("needs SAEs at two hook points or more, got 1")


@pytest.mark.parametrize(("size", "own"), [(65, False), (1, False), (128, True)], ids=["too long", "too short", "the SAEs' own"])
def test_a_context_size_outside_the_model_is_refused(tmp_path: Path, model: Model, size: int, own: bool) -> None:
    make_saes(tmp_path, (PRE, NEXT), context_size=size if own else 64)
    message = refusal(lambda: fit(model, load_saes(str(tmp_path)), None if own else size))
    named = f"SAE at {PRE} has context_size" if own else "--context-size is"
    assert message == f"{named} {size}; {model.name} takes 2 to 64 tokens"


def test_a_given_context_size_stands_in_for_what_the_saes_lack_or_disagree_on(tmp_path: Path, model: Model) -> None:
    make_saes(tmp_path, (PRE, NEXT))
    edit_cfg(tmp_path / PRE, drop=["context_size"])
    edit_cfg(tmp_path / NEXT, metadata={"context_size": 20})
    assert fit(model, load_saes(str(tmp_path)), 48).context_size == 48


def test_saes_trained_without_bos_run_without_bos(tmp_path: Path, folder: Path) -> None:
    make_saes(tmp_path, (PRE, NEXT), prepend_bos=False)
    description = ModelEncoder.load(str(folder / "gpt2"), str(tmp_path)).describe()
    assert (description.prepend_bos, description.content_size, description.fingerprint["BOS"]) == (False, 64, "none")


def test_saes_that_need_a_bos_refuse_a_tokenizer_without_one(tmp_path: Path) -> None:
    make_gpt2(tmp_path / "gpt2")
    (tmp_path / "gpt2" / "tokenizer_config.json").unlink()
    save_tokenizer(tmp_path / "gpt2", bos=False)
    tokenizer = json.loads((tmp_path / "gpt2" / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["<zero>"] = vocabulary.pop("<|endoftext|>")
    (tmp_path / "gpt2" / "tokenizer.json").write_text(json.dumps(tokenizer))
    make_saes(tmp_path / "saes", (PRE, NEXT))
    message = refusal(lambda: ModelEncoder.load(str(tmp_path / "gpt2"), str(tmp_path / "saes")))
    assert f"SAE at {PRE} has prepend_bos true, but the tokenizer of" in message


def test_saes_of_centred_residuals_need_a_layer_norm(tmp_path: Path, folder: Path) -> None:
    centred = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    make_saes(tmp_path, (PRE, NEXT), d_in=32, metadata=centred)
    assert "need a model with LayerNorm" in refusal(lambda: ModelEncoder.load(str(folder / "llama"), str(tmp_path)))
    assert ModelEncoder.load(str(folder / "neox"), str(tmp_path)).saes[0].config.centred


def _without(pattern: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        for path in folder.glob(pattern):
            path.unlink()

    return remove


BROKEN_MODELS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no folder": (shutil.rmtree, "there is no such folder"),
    "no weights": (
        _without("*.safetensors"),
        "has no *.safetensors weights (pickled weights are never loaded); it has config.json",
    ),
    "no config": (_without("config.json"), "has no config.json, so it isn't a Hugging Face model; it has"),
    "no tokenizer": (_without("tokenizer*"), "has no tokenizer (tokenizer.json); it has config.json"),
    "an unknown architecture": (
        lambda folder: (folder / "config.json").write_text(
            '{"model_type": "perpetuum", "auto_map": {"AutoConfig": "code.Config"}}'
        ),
        "can't be loaded by TransformerBridge",
    ),
    "damaged weights": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 100),
        "can't be loaded by TransformerBridge",
    ),
}


@pytest.mark.parametrize("case", BROKEN_MODELS.values(), ids=BROKEN_MODELS.keys())
def test_a_model_folder_that_lacks_something_is_refused_by_name(
    tmp_path: Path, folder: Path, case: tuple[Callable[[Path], None], str]
) -> None:
    shutil.copytree(folder / "gpt2", tmp_path / "model")
    breaks, expected = case
    breaks(tmp_path / "model")
    message = refusal(lambda: load_model(str(tmp_path / "model")))
    assert message.startswith(f"model '{tmp_path / 'model'}'")
    assert expected in message


BROKEN_SAES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no SAE folder": (shutil.rmtree, "no SAE folder (with cfg.json and sae_weights.safetensors) in it"),
    "no weights": (lambda sae: (sae / "sae_weights.safetensors").unlink(), "can't be loaded by sae_lens"),
    "damaged weights": (lambda sae: (sae / "sae_weights.safetensors").write_bytes(b"\0" * 100), "can't be loaded by sae_lens"),
    "other shapes": (lambda sae: edit_cfg(sae, d_sae=7), "for StandardSAE: size mismatch for "),
    "broken JSON": (lambda sae: (sae / "cfg.json").write_text("{"), "its cfg.json can't be read: JSONDecodeError"),
}


@pytest.mark.parametrize("case", BROKEN_SAES.values(), ids=BROKEN_SAES.keys())
def test_an_sae_folder_that_lacks_something_is_refused_by_name(tmp_path: Path, case: tuple[Callable[[Path], Any], str]) -> None:
    make_sae(tmp_path / "sae", PRE)
    breaks, expected = case
    breaks(tmp_path / "sae")
    message = refusal(lambda: load_saes(str(tmp_path)))
    assert expected in message
    assert str(tmp_path) in message


def test_names_that_nothing_has_are_refused_without_the_network(tmp_path: Path) -> None:
    assert "there is no such folder" in refusal(lambda: load_saes("./nowhere"))
    message = refusal(lambda: load_saes("gpt2-smal-res-jb"))
    assert "neither a local folder nor one of the" in message
    assert "gpt2-small-res-jb" in message
    assert "'nobody/nothing' is neither a local folder nor a repository" in refusal(lambda: load_model("nobody/nothing"))
    assert "'nobody/nothing' is neither a local folder nor a repository" in refusal(lambda: load_saes("nobody/nothing"))


def test_the_fingerprint_follows_content_and_nothing_else(tmp_path: Path, folder: Path) -> None:
    saes = make_saes(tmp_path / "saes", (PRE, NEXT))
    base = ModelEncoder.load(str(folder / "gpt2"), str(saes)).describe().fingerprint
    shutil.copytree(folder / "gpt2", tmp_path / "moved")
    weights = load_file(tmp_path / "moved" / "model.safetensors")
    names = sorted(weights)
    index: dict[str, Any] = {"metadata": {}, "weight_map": {}}
    for shard, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{shard:05}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, tmp_path / "moved" / file, metadata={"format": "pt"})
        index["weight_map"] |= dict.fromkeys(part, file)
    (tmp_path / "moved" / "model.safetensors").unlink()
    (tmp_path / "moved" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert ModelEncoder.load(str(tmp_path / "moved"), str(saes)).describe().fingerprint == base


def test_the_fingerprint_says_what_differs(tmp_path: Path, folder: Path) -> None:
    def described(model: Path, saes: Path, **options: Any) -> dict[str, str]:
        return ModelEncoder.load(str(model), str(saes), **options).describe().fingerprint

    def differs(other: dict[str, str]) -> set[str]:
        return {key for key in base if base[key] != other[key]}

    saes = make_saes(tmp_path / "saes", (PRE, NEXT))
    base = described(folder / "gpt2", saes)
    shutil.copytree(folder / "gpt2", tmp_path / "model")
    edit_weights(tmp_path / "model" / "model.safetensors", "transformer.wpe.weight", (3, 3), 0.5)
    assert differs(described(tmp_path / "model", saes)) == {"model"}
    shutil.copytree(saes, tmp_path / "other-saes")
    edit_weights(tmp_path / "other-saes" / NEXT / "sae_weights.safetensors", "b_enc", 0, 0.25)
    assert differs(described(folder / "gpt2", tmp_path / "other-saes")) == {"SAEs"}
    edit_cfg(tmp_path / "other-saes" / NEXT, metadata={"hook_name": LAST})
    assert differs(described(folder / "gpt2", tmp_path / "other-saes")) == {"SAEs", "hook points"}
    assert differs(described(folder / "gpt2", saes, context_size=32)) == {"context size"}
    assert differs(described(folder / "gpt2", saes, include_special=True)) == {"special tokens"}


def test_a_description_survives_its_bytes(tmp_path: Path, folder: Path) -> None:
    saes = make_saes(tmp_path, (PRE, NEXT), metadata={"neuronpedia_id": "tiny/0-res"})
    description = ModelEncoder.load(str(folder / "gpt2"), str(saes)).describe()
    assert RunDescription.from_bytes(description.to_bytes()) == description
    assert description.dictionaries == [80, 88]
    assert description.layers[0].neuronpedia == "tiny/0-res"
    pushed = PushedActivations([6, 4]).describe()
    assert RunDescription.from_bytes(pushed.to_bytes()) == pushed
    assert (pushed.content_size, pushed.dictionaries, pushed.fingerprint) == (None, [6, 4], {"dictionaries": "6, 4"})


LEGACY = {"architecture": "standard", "activation_fn_str": "relu", "apply_b_dec_to_input": True, "normalize_activations": "none"}
RELEASE_HOOKS = [f"blocks.{i}.hook_resid_pre" for i in range(12)] + ["blocks.11.hook_resid_post"]

LOAD_BY_NAME = """
import json, sys, torch
torch.set_num_threads(2)
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
def by_name(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str], Path]:
    """What a program gets that loads by hub name: its results, what it asked the hub for, and the folder behind the hub."""
    root = tmp_path_factory.mktemp("hub")
    make_saes(root / "saes", (PRE, NEXT, LAST), architectures=("topk", "jumprelu", "gated"))
    make_gpt2(root / "twelve", layers=12, width=16, heads=2)
    for hook in RELEASE_HOOKS:
        make_release_sae(root / "release" / hook, hook, d_in=16, d_sae=24)
    for size in (768, 1536, 3072, 6144, 12288, 24576, 49152, 98304):
        make_release_sae(
            root / "splitting" / f"blocks.8.hook_resid_pre_{size}", "blocks.8.hook_resid_pre", d_in=4, d_sae=size // 64
        )
    shutil.copytree(folder / "gpt2", root / "pickled")
    weights = load_file(root / "pickled" / "model.safetensors")
    (root / "pickled" / "model.safetensors").unlink()
    torch.save(weights, root / "pickled" / "pytorch_model.bin")
    shutil.copytree(folder / "gpt2", root / "gpt2")
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
