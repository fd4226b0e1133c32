"""The tokenizer of a run in a file, for processes that must not load its model."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from engine import durable

TOKENIZER = "tokenizer.json"
"""Name of the file in the data directory, in the format of the tokenizers library."""


def write_tokenizer(path: Path, tokenizer: Tokenizer) -> None:
    """Write it where another one, or none, is.

    Raises:
        StorageFault: the disk fails.
    """
    content = tokenizer.to_str().encode()
    if not path.exists() or path.read_bytes() != content:
        durable.write_file(path, [content])
