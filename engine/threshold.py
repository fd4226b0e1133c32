"""Above which activation a feature is active: one number for all features, or a share of each one's own maximum."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

FORMS = (
    "must be a number of at least 0 (absolute, for example 0.5), or a share of each feature's maximum between 0 and 1 followed by "
    "max (relative, for example 0.2max)"
)


class Threshold(msgspec.Struct, frozen=True):
    """What the setting `threshold` says.

    Attributes:
        kind: `absolute`: every feature is active above `value`; `relative`: above `value` times its own maximum, which a
            calibration pass over the start of the log finds (`engine.calibration`).
        value: at least 0 where absolute, in (0, 1) where relative.
    """

    kind: Literal["absolute", "relative"] = "absolute"
    value: float = 0.0

    @classmethod
    def parse(cls, given: object) -> Threshold:
        """0.5, "0.5" or "0.2max".

        Raises:
            ValueError: anything else, as the settings' validation wants it; the message names the two forms.
        """
        if isinstance(given, Threshold):
            return given
        if isinstance(given, bool) or not isinstance(given, int | float | str):
            raise ValueError(FORMS)
        text = str(given).strip()
        relative = text.endswith("max")
        try:
            value = float(text.removesuffix("max"))
        except ValueError:
            raise ValueError(FORMS) from None
        if not (0 < value < 1 if relative else 0 <= value < math.inf):
            raise ValueError(FORMS)
        return cls("relative" if relative else "absolute", value)

    def __str__(self) -> str:
        """The form that `parse` reads; the fingerprint of a run holds it."""
        number = repr(self.value).removesuffix(".0")
        return f"{number}max" if self.kind == "relative" else number
