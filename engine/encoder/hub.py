"""Snapshots of hub repositories: the files of a model or of SAEs, never pickles or code.

Nothing here needs torch. `HF_ENDPOINT`, `HF_HOME` and `HF_HUB_OFFLINE` work as in every program that uses huggingface_hub.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError

from engine.errors import DoesNotFit

UNLOADABLE = (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError, SafetensorError)
"""What transformers, transformer_lens, sae_lens and the hub's client raise on files that are missing, damaged or strange."""

log = logging.getLogger(__name__)

# Weights as pickles (`*.bin`, `*.pt`) and code (`*.py`) are never fetched: loading them could run what somebody else wrote.
MODEL_FILES = ("*.safetensors", "*.json", "*.model", "*.txt")
# Repositories keep copies in other formats in folders (`onnx/`, `original/`); the model itself is always at the top.
NOT_MODEL_FILES = ("*/*",)


def snapshot(repository: str, files: Sequence[str], ignored: Sequence[str] = ()) -> Path:
    """Download `files` (glob patterns) of a hub repository, or find them in the local cache.

    Returns:
        The folder of the snapshot.

    Raises:
        DoesNotFit: there is no such repository, or the hub can't be reached and the cache doesn't have it.
    """
    from huggingface_hub import snapshot_download  # 0.4 s: not for those who only use local folders

    try:
        return Path(snapshot_download(repository, allow_patterns=list(files), ignore_patterns=list(ignored)))
    except (OSError, ValueError) as error:  # every error of the hub's client is one of these: no such name, no access, no network
        log.debug("snapshot of %s failed", repository, exc_info=error)
        raise DoesNotFit(
            f"{repository!r} is neither a local folder nor a repository that the hub gives: {first_line(error)}"
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's text with its class: what fits into a message of ours. A heading takes the next line with it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    shown = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__
