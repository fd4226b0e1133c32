"""`python -m benchmarks [--quick]`: every benchmark, one after the other, each in a process of its own."""

import subprocess
import sys

BENCHMARKS = (
    "benchmarks.kernels",
    "benchmarks.loop",
    "benchmarks.coverage",
    "benchmarks.gates",
    "benchmarks.gate_size",
    "benchmarks.page",
)

for module in BENCHMARKS:
    subprocess.run([sys.executable, "-m", module, *sys.argv[1:]], check=True)
