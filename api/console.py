"""What the commands share: where they print, how they reach the server, and how a feature is written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from api.client import Client
from engine.errors import BadInput
from engine.supervisor import KEY_VARIABLE

# Control characters, which a terminal obeys, as pictures of them; and what turns the direction of text around it.
_SHOWN = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"}
_SHOWN |= {0x7F: 0x2421, **dict.fromkeys((*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD)}


class SafeConsole(Console):
    """Prints what comes from a corpus, a model or a server without doing what is written in it.

    Rich leaves escape characters in a text as they are: a document could clear the screen, or put words into a terminal's input.
    And it reads a name in brackets as one of its own styles.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, **options})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As Rich's, with control characters in a text made visible; those of Rich's own are no text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(segment.text.translate(_SHOWN), segment.style)


console = SafeConsole()
complaints = SafeConsole(stderr=True)

Url = Annotated[str, typer.Option("--url", envvar="SAESTREAM_URL", help="address of the running server")]
DEFAULT_URL = "http://127.0.0.1:8000"
Key = Annotated[
    str | None, typer.Option("--api-key", envvar=KEY_VARIABLE, help="where the server needs one; `ps` does not see the variable")
]


def patient(url: str, api_key: str | None) -> Client:
    """A client that waits as long as the server does for its analysis worker."""
    return Client(url, api_key, timeout=75.0)


def feature_of(text: str) -> tuple[int, int]:
    """`"3:17"` → (3, 17).

    Raises:
        BadInput: another form, which is named.
    """
    layer, _, index = text.partition(":")
    if not (layer.isdigit() and index.isdigit()):
        raise BadInput(f"feature {text!r}: must be layer:index, e.g. 3:17")
    return int(layer), int(index)
