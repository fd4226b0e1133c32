"""A model or SAE folder from somewhere else can be refused or wrong; it can't run anything."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import edit_cfg, make_gpt2, make_saes

from engine.encoder.encoder import ModelEncoder
from engine.encoder.model import load_model
from engine.encoder.no_pickle import safetensors_only
from engine.encoder.saes import load_saes
from engine.errors import DoesNotFit

ROOT = Path(__file__).parents[1]
PRE, NEXT = "blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre"

CODE = """
from pathlib import Path
Path({canary!r}).write_text("ran")
from transformers import GPT2LMHeadModel, GPT2Config, PreTrainedTokenizerFast
class Model(GPT2LMHeadModel): pass
class Config(GPT2Config): model_type = "hostile"
class Tokenizer(PreTrainedTokenizerFast): pass
"""


class Payload:
    """Pickled, it writes a file when it is opened."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.canary, "ran")


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("honest")
    make_gpt2(folder / "model")
    make_saes(folder / "saes", (PRE, NEXT))
    return folder


@pytest.fixture
def folder(honest: Path, tmp_path: Path) -> Path:
    return shutil.copytree(honest, tmp_path / "hostile")


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file that is written when anything of the folder runs."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "code of the folder has run"


def pickled(path: Path, canary: Path) -> None:
    path.write_bytes(pickle.dumps({"W_enc": Payload(canary)}))


def refusal(action: Callable[[], Any]) -> str:
    with pytest.raises(DoesNotFit) as caught:
        action()
    return caught.value.message


def test_the_payload_of_these_tests_does_run_when_it_is_opened(tmp_path: Path) -> None:
    pickled(tmp_path / "p", tmp_path / "canary")
    pickle.loads((tmp_path / "p").read_bytes())
    assert (tmp_path / "canary").read_text() == "ran"


@pytest.mark.parametrize("name", ["sae_weights.pt", "ae.pt", "pytorch_model.bin", "sae_weights.pkl", "params.npz"])
def test_an_sae_whose_weights_are_a_pickle_is_refused(folder: Path, canary: Path, name: str) -> None:
    (folder / "saes" / PRE / "sae_weights.safetensors").unlink()
    pickled(folder / "saes" / PRE / name, canary)
    assert PRE in refusal(lambda: load_saes(str(folder / "saes")))


def test_a_pickle_that_is_called_safetensors_is_refused(folder: Path, canary: Path) -> None:
    pickled(folder / "saes" / PRE / "sae_weights.safetensors", canary)
    assert "can't be loaded" in refusal(lambda: load_saes(str(folder / "saes")))
    pickled(folder / "model" / "model.safetensors", canary)
    assert "can't be loaded" in refusal(lambda: load_model(str(folder / "model")))


def test_a_pickle_beside_safetensors_is_never_opened(folder: Path, canary: Path) -> None:
    for path in (folder / "saes" / PRE / "sae_weights.pt", folder / "model" / "pytorch_model.bin"):
        pickled(path, canary)
    assert len(ModelEncoder.load(str(folder / "model"), str(folder / "saes")).saes) == 2


def test_a_model_whose_safetensors_are_not_the_ones_that_are_looked_for_is_refused(folder: Path, canary: Path) -> None:
    """transformers would go on to the pickle."""
    (folder / "model" / "model.safetensors").rename(folder / "model" / "other.safetensors")
    pickled(folder / "model" / "pytorch_model.bin", canary)
    assert "pytorch_model.bin), which is never opened" in refusal(lambda: load_model(str(folder / "model")))


def test_no_library_opens_a_pickle_while_weights_are_loaded(tmp_path: Path, canary: Path) -> None:
    pickled(tmp_path / "weights.pt", canary)
    with safetensors_only("SAE x"):
        assert "SAE x has weights as a pickle" in refusal(lambda: torch.load(tmp_path / "weights.pt", weights_only=False))
    with pytest.raises(Exception, match="weights_only"):
        torch.load(tmp_path / "weights.pt")


def hostile_code(folder: Path, canary: Path, file: str, auto_map: dict[str, str], **fields: Any) -> None:
    (folder / "hostile.py").write_text(CODE.format(canary=str(canary)))
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**config, "auto_map": auto_map, **fields}))


def test_code_that_comes_with_a_model_of_a_known_kind_is_not_run(folder: Path, canary: Path) -> None:
    auto_map = {"AutoConfig": "hostile.Config", "AutoModelForCausalLM": "hostile.Model", "AutoModel": "hostile.Model"}
    hostile_code(folder / "model", canary, "config.json", auto_map)
    assert load_model(str(folder / "model")).d_model == 48


@pytest.mark.parametrize(
    ("file", "auto_map", "fields"),
    [
        pytest.param("config.json", {"AutoConfig": "hostile.Config"}, {"model_type": "hostile"}, id="model"),
        pytest.param(
            "tokenizer_config.json",
            {"AutoTokenizer": ["hostile.Tokenizer", "hostile.Tokenizer"]},
            {"tokenizer_class": "Tokenizer"},
            id="tokenizer",
        ),
    ],
)
def test_a_model_that_needs_its_own_code_is_refused_or_does_without(
    folder: Path, canary: Path, file: str, auto_map: dict[str, Any], fields: dict[str, Any]
) -> None:
    hostile_code(folder / "model", canary, file, auto_map, **fields)
    try:
        assert load_model(str(folder / "model")).vocab_size == 257
    except DoesNotFit as error:
        assert "model" in error.message


def test_a_tokenizer_template_is_never_rendered(folder: Path, canary: Path) -> None:
    template = f"{{{{ cycler.__init__.__globals__.os.system('touch {canary}') }}}}"
    (folder / "model" / "chat_template.jinja").write_text(template)
    path = folder / "model" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
    assert load_model(str(folder / "model")).bos_id == 0


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("file", "content"),
    [
        pytest.param("cfg.json", DEEP, id="deep-configuration"),
        pytest.param("cfg.json", '{"architecture": "../../evil"}', id="architecture-that-is-a-path"),
        pytest.param("sae_weights.safetensors", b"\xff" * 8 + b"{}", id="header-of-16-EiB"),
        pytest.param("sae_weights.safetensors", (10**8).to_bytes(8, "little") + b"[" * 100_000, id="deep-header"),
        pytest.param("sae_weights.safetensors", b"", id="no-header"),
    ],
)
def test_a_broken_or_bloated_sae_folder_is_refused_by_name(folder: Path, file: str, content: str | bytes) -> None:
    path = folder / "saes" / PRE / file
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert PRE in refusal(lambda: load_saes(str(folder / "saes")))


def test_an_sae_that_declares_a_terabyte_of_features_is_refused_before_it_takes_memory(folder: Path) -> None:
    edit_cfg(folder / "saes" / PRE, d_sae=10**10)
    assert PRE in refusal(lambda: load_saes(str(folder / "saes")))


def test_an_sae_whose_tensors_are_of_another_shape_is_refused(folder: Path) -> None:
    path = folder / "saes" / PRE / "sae_weights.safetensors"
    save_file({name: value.reshape(-1)[:7].clone() for name, value in load_file(path).items()}, path)
    assert PRE in refusal(lambda: load_saes(str(folder / "saes")))


FORBIDDEN = {
    "trust_remote_code": r"trust_remote_code\s*=\s*(?!False)",
    "weights_only": r"weights_only\s*=\s*(?!True)",
    "torch.load": r"torch\.load\(",
    "pickle": r"^\s*(import|from)\s+(pickle|cPickle|dill|cloudpickle|joblib|shelve|marshal)\b",
    "numpy pickles": r"allow_pickle\s*=\s*(?!False)",
    "eval": r"(?<![\w.])(eval|exec|compile|__import__)\(",
    "shell": r"shell\s*=\s*True|os\.system\(|os\.popen\(",
    "yaml": r"yaml\.(unsafe_)?load\(",
}


@pytest.mark.parametrize("pattern", FORBIDDEN.values(), ids=FORBIDDEN)
def test_our_code_has_no_way_to_run_what_it_loads(pattern: str) -> None:
    sources = [path for part in ("engine", "api", "kernels") for path in (ROOT / part).rglob("*.py")]
    assert len(sources) > 150
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert not found
