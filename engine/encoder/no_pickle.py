"""No pickle is opened, whatever the libraries that load models and SAEs would do with one.

sae_lens reads some old releases with `torch.load`, and transformers falls back to it where a folder has no safetensors of the name
that it looks for. Even with `weights_only` that interprets a program that somebody else wrote.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch

from engine.errors import DoesNotFit


@contextmanager
def safetensors_only(what: str) -> Iterator[None]:
    """While the context lasts `torch.load` refuses; `what` is loaded in it.

    Raises:
        DoesNotFit: it was called.
    """

    def refuse(file: Any, *_: Any, **__: Any) -> NoReturn:
        raise DoesNotFit(f"{what} has weights as a pickle ({file}), which is never opened: convert them to safetensors")

    load, torch.load = torch.load, refuse
    try:
        yield
    finally:
        torch.load = load
