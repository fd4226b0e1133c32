"""What the commands share: where they print, how they reach the server, and how a feature is written."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from api.client import Client
from engine.errors import BadInput

console = Console()
complaints = Console(stderr=True)

Url = Annotated[str, typer.Option("--url", envvar="SAESTREAM_URL", help="address of the running server")]
DEFAULT_URL = "http://127.0.0.1:8000"


def patient(url: str) -> Client:
    """A client that waits as long as the server does for its analysis worker."""
    return Client(url, timeout=75.0)


def feature_of(text: str) -> tuple[int, int]:
    """`"3:17"` → (3, 17).

    Raises:
        BadInput: another form, which is named.
    """
    layer, _, index = text.partition(":")
    if not (layer.isdigit() and index.isdigit()):
        raise BadInput(f"feature {text!r}: must be layer:index, e.g. 3:17")
    return int(layer), int(index)
