"""Known vulnerabilities of the pinned dependencies: status 1 and their names, where there are any.

The database is on the network. Where that can't be reached, or knows nothing of a package, it is said, and nothing fails: whoever
has no network must be able to lint.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMAND = ("--requirement", str(ROOT / "constraints.txt"), "--no-deps", "--disable-pip", "--progress-spinner", "off")


def main() -> int:
    """Audit what `constraints.txt` pins; the exit status."""
    audit = subprocess.run([sys.executable, "-m", "pip_audit", *COMMAND, "--format", "json"], capture_output=True, text=True)
    if not audit.stdout.strip():
        reason = audit.stderr.strip().splitlines() or ["it said nothing"]
        sys.stdout.write(f"Dependencies not audited, the database can't be reached: {reason[-1][:200]}\n")
        return 0
    found = json.loads(audit.stdout)["dependencies"]
    unknown = [one for one in found if "skip_reason" in one]
    vulnerable = [one for one in found if one.get("vulns")]
    for one in vulnerable:
        for fault in one["vulns"]:
            fixed = ", ".join(fault["fix_versions"]) or "no version yet"
            sys.stdout.write(f"{one['name']} {one['version']}: {fault['id']}, fixed in {fixed}\n")
    left = f", {len(unknown)} could not be looked up" if unknown else ""
    sys.stdout.write(f"{len(found) - len(unknown)} dependencies audited, {len(vulnerable)} of them vulnerable{left}\n")
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(main())
