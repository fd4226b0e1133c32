"""`make lint` looks for known vulnerabilities, and passes where it can't."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[1] / ".ci" / "audit.py"
SOUND = {"name": "sound", "version": "1.0", "vulns": []}
FAULTY = {"name": "faulty", "version": "2.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]}
UNKNOWN = {"name": "unknown", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("found", "status", "says"),
    [
        pytest.param([SOUND, SOUND], 0, "2 dependencies audited, 0 of them vulnerable\n", id="nothing known"),
        pytest.param([SOUND, FAULTY], 1, "faulty 2.0: PYSEC-1, fixed in 2.1\n2 dependencies audited, 1 of them", id="vulnerable"),
        pytest.param([SOUND, UNKNOWN], 0, "1 dependencies audited, 0 of them vulnerable, 1 could not be looked up", id="unknown"),
        pytest.param(None, 0, "Dependencies not audited, the database can't be reached: no network", id="no network"),
    ],
)
def test_what_the_database_says_decides(tmp_path: Path, found: object, status: int, says: str) -> None:
    """In place of pip-audit, which needs a network."""
    answer = f"print({json.dumps({'dependencies': found})!r})" if found else "import sys; sys.exit('no network')"
    (tmp_path / "pip_audit.py").write_text(answer)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run([sys.executable, str(AUDIT)], capture_output=True, text=True, timeout=60, env=environment)
    assert ended.returncode == status and says in ended.stdout, ended.stdout + ended.stderr
