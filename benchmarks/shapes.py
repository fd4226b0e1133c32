"""The models that is measured for: how many hook points, how large their dictionaries, how many features are active at a token."""

from typing import NamedTuple


class Shape(NamedTuple):
    """`layers` dictionaries of `features`, `active` of which fire at a token (L0)."""

    name: str
    layers: int
    features: int
    active: int

    @property
    def table_bytes(self) -> int:
        """Of a dense pair table: an int32 for either half and a float64 per cell."""
        return 16 * self.features**2


DEMO = Shape("demo", 8, 1_024, 16)
GPT2 = Shape("GPT-2 small", 12, 24_576, 60)
GEMMA_16K = Shape("Gemma Scope 16k", 26, 16_384, 80)
WIDE_65K = Shape("65k", 26, 65_536, 80)
WIDE_1M = Shape("1M", 26, 1_048_576, 80)
SHAPES = (DEMO, GPT2, GEMMA_16K, WIDE_65K, WIDE_1M)
TINY = Shape("tiny", 3, 256, 12)
"""For quick runs."""
