"""`python -m benchmarks.gpu`, the one script for a GPU machine, tried in Triton's interpreter at tiny sizes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import rows
from benchmarks.gpu.setting import QUICK, Run

ABSENT = ("sae_lens", "transformer_lens", "redis", "litestar", "msgspec", "transformers", "pydantic", "typer", "scipy")
"""That machine has torch, triton, numpy and numba."""

CODE = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({ABSENT!r}))  # to import one of them is an ImportError
runpy.run_module("benchmarks.gpu", run_name="__main__", alter_sys=True)
"""


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    # An empty environment variable hides a GPU that is there.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, env=environment)


def test_it_checks_and_measures_everything_without_the_libraries_that_a_gpu_machine_lacks(tmp_path: Path) -> None:
    ended = script("--quick", "--interpret", "--out", str(tmp_path))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in tmp_path.iterdir()}
    assert set(found) == {"gpu_bounds", "gpu_accumulate", "gpu_compact", "gpu_encode", "gpu_end_to_end"}
    variants = {row["variant"] for row in found["gpu_accumulate"]}
    assert variants >= {
        "atomics",
        "packed",
        "rows",
        "histogram",
        "sorting",
        "dense float32 matmuls",
        "torch sparse, products alone",
    }
    assert [row["variant"] for row in found["gpu_end_to_end"]] == ["tf32", "tf32, fused", "float32"]
    for row in (row for those in found.values() for row in those):
        assert row["seconds"]["p50"] > 0
    for row in found["gpu_end_to_end"]:
        assert 0 < row["share"] < 1
        assert set(row["stages"]) == {"forward", "encode", "compact", "accumulate"}


def test_without_a_gpu_it_says_what_can_be_done() -> None:
    ended = script()
    assert ended.returncode == 2
    assert "PyTorch finds no GPU on this machine; --quick --interpret tries the script without one" in ended.stderr


def test_what_is_not_begun_in_time_is_a_failure() -> None:
    run = Run(torch.device("cpu"), QUICK, 0.0)
    run.arm("first", pytest.fail)
    assert run.failed == ["first: not begun, the 0 s were over"]


def test_an_arm_that_fails_ends_no_other_and_has_a_row_that_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    run, done = Run(torch.device("cpu"), QUICK, 60.0), []

    def fails() -> None:
        raise ValueError("3 of 4 differ")

    run.arm("first", fails, "gpu_accumulate")
    run.arm("second", lambda: done.append("second"))
    assert done == ["second"]
    assert run.failed == ["first: ValueError: 3 of 4 differ"]
    row = json.loads((tmp_path / "gpu_accumulate.jsonl").read_text())
    assert (row["variant"], row["seconds"], row["missed"]) == ("first", None, "ValueError: 3 of 4 differ")
