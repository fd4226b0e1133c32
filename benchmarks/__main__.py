"""`python -m benchmarks [--quick] [NAME…]`: benchmarks one after the other, each in a process of its own; all of them by default.

Rows are appended to `benchmarks/results/`; `make plots` makes the README's pictures and table of them. `--quick` runs everything
at small sizes, to see that it works, and writes nothing.
"""

import argparse
import logging
import subprocess
import sys
import time

log = logging.getLogger(__name__)

BENCHMARKS = (
    # how fast
    "compact",
    "accumulate",
    "share",
    "gate_kernels",
    "ranking",
    "publishing",
    "growth",
    "bounded",
    "loop",
    "api_load",
    "page",
    "gate_size",
    # how right
    "coverage",
    "gates",
)


def main() -> int:
    """Run what is asked for to the end, also when one of them fails; then say which did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works; nothing is written")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all by default")
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    failed = []
    for name in options.names or BENCHMARKS:
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if options.quick else [])])
        log.info("── %s: %s, %.0f s\n", name, "failed" if done.returncode else "done", time.perf_counter() - began)
        if done.returncode:
            failed.append(name)
    if failed:
        log.error("failed: %s", ", ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
