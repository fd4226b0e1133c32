"""Checks and measures every GPU kernel in one run of under 8 minutes, on a machine that has torch, triton, numpy and numba.

    python -m benchmarks.gpu [--out FOLDER] [--seconds 450]
    python -m benchmarks.gpu --quick --interpret        tiny sizes in Triton's interpreter, on a CPU: does the script itself work?

1. Checks: every kernel against the reference at small odd shapes, and sums bit for bit at one that keeps the GPU busy.
2. Bounds: memory bandwidth, atomics, matrix products.
3. accumulate: all variants, plans and sizes, beside dense float32, bf16 and int8 products and torch sparse.
4. compact and the fused encode, beside torch.
5. End to end: a transformer of GPT-2's size with random weights, twelve SAEs and eleven layer pairs, in tf32, bf16 and float32.

Rows go to FOLDER (by default $OUT or, without it, benchmarks/results) as soon as they are measured. Exit status 1 where a check or
an arm failed; which ones is told last.
"""

import argparse
import logging
import os
import sys
from functools import partial
from pathlib import Path


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT"), help="folder of the rows")
    parser.add_argument("--seconds", type=float, default=450, help="nothing begins after so long")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; rows are written only with --out")
    parser.add_argument("--interpret", action="store_true", help="on the CPU, in Triton's interpreter")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if arguments.interpret:
        os.environ["TRITON_INTERPRET"] = "1"  # before a kernel is decorated

    import torch

    from benchmarks import rows
    from benchmarks.gpu.setting import QUICK, Run, Sizes

    if not arguments.interpret and not torch.cuda.is_available():
        parser.error("PyTorch finds no GPU on this machine; --quick --interpret tries the script without one")
    if arguments.out is not None:
        rows.RESULTS = Path(arguments.out)
    elif arguments.quick:
        rows.append = lambda _: None
    from benchmarks.gpu import bounds, checks, end_to_end, kernels

    device = torch.device("cpu" if arguments.interpret else "cuda")
    run = Run(device, QUICK if arguments.quick else Sizes(), arguments.seconds)
    for part in (
        checks.check_accumulate,
        checks.check_sums,
        checks.check_compact,
        checks.check_encode,
        checks.check_gates_and_projections,
        bounds.measure_bounds,
        bounds.measure_products,
        kernels.measure_baselines,
        kernels.measure_accumulate,
        kernels.measure_compact,
        kernels.measure_encode,
        end_to_end.measure_end_to_end,
    ):
        run.arm(part.__name__, partial(part, run))
    for failure in run.failed:
        logging.error("FAILED %s", failure)
    logging.info("%d failures", len(run.failed))
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
