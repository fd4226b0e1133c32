"""What this machine can do at most, measured beside what is held against it, and the bounds that follow.

Rates of one core, on the tables that are counted into:

1. *stream*: every cell of a table is read, added to and written, in order. Memory bandwidth, both ways.
2. *line*: cells are added to row by row, in random order within a row, prefetched some ahead: the rate of touched cache lines. (In
   random order over the whole table it is ten times slower, for lack of a TLB that large: no kernel has to do that.)
3. *cell*: the downstream entries of a batch are added into one row's buffer that stays in L2: the rate of an update when nothing
   has to come from memory.

A batch must bring in every line that it touches, a row at the rate of lines or of a whole row's stream, whichever is less, and make
every update. Memory and core work at the same time, so the larger of the two is the bound (`PairWork.seconds`).
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np
from torch import Tensor

from kernels import Csr
from kernels.cpu.accumulate import Cells
from kernels.cpu.native import add_to_cell, prefetch

CELL_BYTES = 16  # two int32 counts and a float64 (`kernels.tables`)
CELLS_PER_LINE = 4
AHEAD = (16, 32, 64)  # cells prefetched ahead; the fastest is taken
MOST_CELLS = 1 << 22  # random cells that are touched
STREAMED = 1 << 27  # bytes: four times the largest L3 here, if the table has as many

BOUND = "every touched cache line from memory once, every update once, at the rates measured in this run; the larger of the two"


class Limits(NamedTuple):
    """Rates of one core on tables of `features` × `features` cells."""

    features: int
    stream: float
    """Bytes per second, read and written bytes both counted."""
    line: float
    """Seconds per cache line."""
    cell: float
    """Seconds per update in a row buffer."""

    def fields(self) -> dict[str, float]:
        """As a row has them."""
        return {
            "stream_bytes_per_second": self.stream,
            "line_seconds": self.line,
            "cell_seconds": self.cell,
        }


class PairWork(NamedTuple):
    """What has to be done for a batch of one layer pair, however it is done: distinct cache lines that each row touches, int64
    `[Du]`, and updates in all."""

    lines: np.ndarray
    updates: int

    @classmethod
    def of(cls, up: Csr, down: Csr, features: int) -> "PairWork":
        """Counted; `features` is the size of either dictionary."""
        offsets, entries, _ = (part.numpy() for part in up)
        order = np.argsort(entries, kind="stable")
        tokens = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))[order]
        starts = np.concatenate([[0], np.cumsum(np.bincount(entries, minlength=features))])
        lines = np.zeros(features, np.int64)
        updates = _touched(starts, tokens, down.offsets.numpy(), down.features.numpy(), lines)
        return cls(lines, updates)

    def seconds(self, limits: Limits) -> float:
        """The bound on one core."""
        row = 2 * CELL_BYTES * limits.features / limits.stream
        return max(float(np.minimum(self.lines * limits.line, row).sum()), self.updates * limits.cell)


def measure_limits(counts: Tensor, products: Tensor, down: Csr) -> Limits:
    """Measured on the tables of `zero_tables(D, D)`, whose cells change, and the entries of a batch."""
    features, table = products.shape[0], Cells.of(counts, products)
    flat_counts, flat_products = table.counts.reshape(-1), table.products.reshape(-1)
    part = flat_products[: STREAMED // flat_products.itemsize]
    repeats = max(1, STREAMED // part.nbytes)
    random = np.random.default_rng(0)
    touched = min(MOST_CELLS, features * features)
    rows = np.sort(random.integers(0, features, touched)).astype(np.uint64)
    cells = rows * np.uint64(features) + random.integers(0, features, touched).astype(np.uint64)
    entries, buffer = down.features.numpy(), np.zeros(2 * features)
    stream = fastest(_add_to_all, part, repeats)
    line = min(fastest(_add_to, cells, flat_counts, flat_products, ahead) for ahead in AHEAD)
    cell = fastest(_add_to_buffer, entries, buffer)
    streamed = 2 * repeats * part.nbytes
    return Limits(features, streamed / stream, line / touched, cell / len(entries))


def read_bytes_per_second(array: np.ndarray) -> float:
    """Bytes per second at which one core reads a contiguous array of numbers in order."""
    flat = array.reshape(-1)
    repeats = max(1, STREAMED // flat.nbytes)
    return repeats * flat.nbytes / fastest(_sum_of_all, flat, repeats)


def random_update_seconds(table: Tensor) -> float:
    """Seconds per random read-modify-write of a cell of an integer table, prefetched: for tables that fit in a cache."""
    flat = table.numpy().reshape(-1)
    cells = np.random.default_rng(0).integers(0, len(flat), MOST_CELLS).astype(np.uint64)
    return min(fastest(_add_one_to, cells, flat, ahead) for ahead in AHEAD) / len(cells)


def fastest(call: Callable[..., object], *given: object) -> float:
    """CPU seconds of the fastest of three calls, after one that compiles and brings in."""
    call(*given)
    seconds = []
    for _ in range(3):
        began = time.process_time()
        call(*given)
        seconds.append(time.process_time() - began)
    return min(seconds)


@numba.njit(nogil=True, cache=True)
def _touched(starts: np.ndarray, tokens: np.ndarray, offsets: np.ndarray, features: np.ndarray, lines: np.ndarray) -> int:
    """Writes the distinct lines of each row, whose tokens are tokens[starts[row] : starts[row + 1]]; returns the updates."""
    seen = np.full(len(lines) // CELLS_PER_LINE + 1, -1, np.int32)
    updates = 0
    for row in range(len(lines)):
        for at in range(starts[row], starts[row + 1]):
            token = tokens[at]
            updates += offsets[token + 1] - offsets[token]
            for entry in range(offsets[token], offsets[token + 1]):
                line = features[entry] // CELLS_PER_LINE
                lines[row] += seen[line] != row
                seen[line] = row
    return int(updates)


@numba.njit(nogil=True, cache=True)
def _add_to_all(cells: np.ndarray, repeats: int) -> None:
    for _ in range(repeats):
        for at in range(len(cells)):
            cells[at] += 1.0


@numba.njit(nogil=True, cache=True, fastmath=True)
def _sum_of_all(cells: np.ndarray, repeats: int) -> float:
    total = 0.0
    for _ in range(repeats):
        for at in range(len(cells)):
            total += cells[at]
    return total


@numba.njit(nogil=True, cache=True)
def _add_to(cells: np.ndarray, counts: np.ndarray, products: np.ndarray, ahead: int) -> None:
    last = len(cells) - 1
    for at in range(len(cells)):
        cell = cells[at]
        prefetch(products, np.uint64(2) * cells[min(at + ahead, last)])
        counts[np.uint64(4) * cell + np.uint64(2)] += 1
        products[np.uint64(2) * cell] += 0.5


@numba.njit(nogil=True, cache=True)
def _add_one_to(cells: np.ndarray, table: np.ndarray, ahead: int) -> None:
    last = len(cells) - 1
    for at in range(len(cells)):
        prefetch(table, cells[min(at + ahead, last)])
        table[cells[at]] += 1


@numba.njit(nogil=True, cache=True)
def _add_to_buffer(entries: np.ndarray, buffer: np.ndarray) -> None:
    for at in range(len(entries)):
        add_to_cell(buffer, np.uint64(entries[at]), 0.5, 1.0)
