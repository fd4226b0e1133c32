"""What is kept of compiled kernels: never the form that a function had before an update."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import kernels

RUN = """
import numpy as np
from kernels.cpu import similarities
counts = np.ones((9, 1))
counts[0] = 4.0
found = similarities.similarities(counts, ["jaccard"])
print(found[0, 0], len(similarities._measure.stats.cache_hits))
"""


def jaccard(folder: Path) -> tuple[float, int]:
    """A Jaccard index by a copy of the kernels, and how many forms of the kernel were there already."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", RUN], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    value, hits = done.stdout.split()
    return float(value), int(hits)


def test_a_kernel_is_compiled_anew_when_a_file_that_it_calls_has_changed_and_only_then(tmp_path: Path) -> None:
    source = Path(kernels.__file__).parent
    shutil.copytree(source, tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    assert jaccard(tmp_path) == (1.0, 0)
    assert jaccard(tmp_path) == (1.0, 1)
    best = tmp_path / "kernels" / "cpu" / "best.py"
    text = best.read_text()
    changed = text.replace("return min(max(numerator / denominator, low), high)", "return 0.25")
    assert changed != text
    best.write_text(changed)
    assert jaccard(tmp_path) == (0.25, 0)
    assert jaccard(tmp_path) == (0.25, 1)
