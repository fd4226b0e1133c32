"""accumulate on a GPU: which of the variants is used.

`rows`, by reasoning: no GPU has measured them yet (`python -m benchmarks.gpu` does). Its sums replay bit for bit, it adds one word
an update where `atomics` adds two, and its words stay in L2 where the others' go to memory; `packed` needs another word for every
cell, `histogram` reads every entry once a tile, and `sorting` moves each update some ten times.
"""

from collections.abc import Callable
from types import MappingProxyType

from kernels.gpu.variants import atomics, histogram, packed, rows, sorting

VARIANTS: MappingProxyType[str, Callable[..., None]] = MappingProxyType(
    {
        "atomics": atomics.accumulate,
        "packed": packed.accumulate,
        "rows": rows.accumulate,
        "histogram": histogram.accumulate,
        "sorting": sorting.accumulate,
    }
)
DEFAULT = "rows"
accumulate, scratch_bytes = VARIANTS[DEFAULT], rows.scratch_bytes
