"""Explanations of features: both kinds of lines, whose they are, and files that can't be read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from api_rig import settings_for

from api.explanations import LONGEST, Explanations
from engine.encoder.description import LayerDescription
from engine.errors import BadInput

NAMED = LayerDescription(layer=3, hook="blocks.3.hook_resid_pre", features=100, neuronpedia="gpt2-small/3-res-jb")
OTHER = LayerDescription(layer=4, hook="blocks.4.hook_resid_pre", features=100)


def exported(index: Any, description: str, layer: str = "3-res-jb", model: str = "gpt2-small") -> dict[str, Any]:
    return {"modelId": model, "layer": layer, "index": index, "description": description, "typeName": "oai_token-act-pair"}


def written(folder: Path, *lines: Any) -> Path:
    path = folder / "explanations.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_feature_has_the_text_of_its_name_or_of_its_neuronpedia_id(tmp_path: Path) -> None:
    found = Explanations(
        written(
            tmp_path,
            {"feature": "4:7", "text": "plurals"},
            "",
            {"feature": "4:7", "text": "a second opinion"},
            exported("17", "the word <b>array</b>"),
            exported(18, "x" * (LONGEST + 5)),
            exported("7", "of another SAE", layer="4-res-jb"),
            exported("19", "of another model", model="gemma-2-2b"),
            exported("20", "of the export"),
            {"feature": "3:20", "text": "by hand"},
        )
    )
    assert found.of(OTHER, 7) == "plurals"
    assert found.of(NAMED, 17) == "the word <b>array</b>"
    assert found.of(NAMED, 18) == "x" * LONGEST
    assert found.of(NAMED, 7) is found.of(NAMED, 19) is found.of(OTHER, 17) is None
    assert found.of(NAMED, 20) == "by hand"


def test_without_a_file_there_is_none() -> None:
    assert Explanations(None).of(NAMED, 17) is None


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2: Input data was truncated"),
        ('{"feature": "3", "text": "x"}', "line 2: feature = '3': a feature is written layer:index"),
        ('{"feature": "3:1"}', "line 2: it needs feature and text, or modelId, layer, index and description"),
        (json.dumps(exported("seven", "x")), "line 2: invalid literal for int"),
        ('{"feature": "3:1", "text": 5}', "line 2: Expected `str"),
        ("[1]", "line 2: Expected `object`"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, line: str, says: str) -> None:
    path = written(tmp_path, {"feature": "3:1", "text": "good"}, line)
    with pytest.raises(BadInput) as refused:
        Explanations(path)
    assert str(path) in refused.value.message and says in refused.value.message


def test_bytes_that_are_no_text_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b'{"feature": "3:1", "text": "\xff"}')
    with pytest.raises(BadInput, match="line 1"):
        Explanations(tmp_path / "bytes")
    with pytest.raises(BadInput, match="No such file"):
        Explanations(tmp_path / "none.jsonl")


def test_the_api_refuses_to_start_with_a_broken_file_and_says_which(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, "unix:///nowhere.sock").model_copy(update={"explanations": written(tmp_path, "{")})
    ended = subprocess.run(
        [sys.executable, "-m", "api.server"],
        env={**os.environ, "SAESTREAM_RUN_SETTINGS": settings.model_dump_json()},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 3 and "explanations.jsonl', line 1" in ended.stderr + ended.stdout
