"""What features are said to be about: a text for each, from a file of JSON lines that the run's settings name.

A line is `{"feature": "3:17", "text": "…"}`, or one of a Neuronpedia export, `{"modelId": "gpt2-small", "layer": "5-res-jb",
"index": "17", "description": "…"}`, which is that of the run's SAE with this Neuronpedia id. Of several of one feature the first
stands. Other keys are passed over, and so are explanations of other models' and SAEs' features.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from api.parameters import parse_feature
from engine.encoder.description import LayerDescription
from engine.errors import BadInput

LONGEST = 2_000
"""Characters of one explanation, at most: the rest is cut off."""


class _Line(msgspec.Struct):
    feature: str | None = None
    text: str | None = None
    model: str | None = msgspec.field(default=None, name="modelId")
    layer: str | None = None
    index: str | int | None = None
    description: str | None = None


class Explanations:
    """The texts of one file; none without a file."""

    def __init__(self, path: Path | None) -> None:
        """Read it.

        Raises:
            BadInput: there is no such file, or a line that is none of the two kinds, named.
        """
        self._of_features: dict[tuple[int, int], str] = {}
        self._of_neuronpedia: dict[tuple[str, int], str] = {}
        if path is None:
            return
        number, decode = 0, msgspec.json.Decoder(_Line).decode
        try:
            with path.open("rb") as file:
                for line in file:
                    number += 1
                    if line.strip():
                        self._take(decode(line))
        except OSError as error:
            raise BadInput(f"explanations = {str(path)!r}: {error.strerror}") from error
        except (ValueError, BadInput) as error:  # msgspec's errors are ValueErrors
            said = error.message if isinstance(error, BadInput) else str(error)
            raise BadInput(f"explanations = {str(path)!r}, line {number}: {said}") from error

    def _take(self, line: _Line) -> None:
        if line.feature is not None and line.text is not None:
            self._of_features.setdefault(parse_feature(line.feature, "feature"), line.text[:LONGEST])
        elif line.model is not None and line.layer is not None and line.index is not None and line.description is not None:
            self._of_neuronpedia.setdefault((f"{line.model}/{line.layer}", int(line.index)), line.description[:LONGEST])
        else:
            raise ValueError("it needs feature and text, or modelId, layer, index and description")

    def of(self, layer: LayerDescription, index: int) -> str | None:
        """The text of a feature, or None."""
        own = self._of_features.get((layer.layer, index))
        return own if own is not None or layer.neuronpedia is None else self._of_neuronpedia.get((layer.neuronpedia, index))
