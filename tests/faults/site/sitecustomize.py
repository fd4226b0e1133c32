"""Python runs this at the start of every process that has this folder on its path: a server under test, and nothing else."""

import os

if "SAESTREAM_FAULTS" in os.environ:
    from tests.faults.injection import install

    install()
