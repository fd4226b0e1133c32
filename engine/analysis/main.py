"""The analysis worker's process: lower its priority, answer until SIGTERM.

python -m engine.analysis.main       with the settings in SAESTREAM_RUN_SETTINGS, as `engine.supervisor` starts it
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

from engine import logs
from engine.analysis.worker import Worker
from engine.settings import Settings
from engine.supervisor import SETTINGS_VARIABLE

NICENESS = 10
"""A tenth of the weight of the engine's threads: enough to read a snapshot before the engine has published two more."""


def main() -> int:
    """Answer questions; the exit status is 0 after SIGTERM."""
    settings = Settings.model_validate_json(os.environ[SETTINGS_VARIABLE])
    logs.setup("analysis", settings.log_format, settings.log_requests)
    os.nice(NICENESS)
    stop = threading.Event()

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_sigterm)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the supervisor turns it into SIGTERM for us
    Worker(settings, stop).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
