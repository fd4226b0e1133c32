"""Models and SAEs are found by name, put in order, and refused by name when they don't fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
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
