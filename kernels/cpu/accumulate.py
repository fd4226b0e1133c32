"""accumulate on the CPU: the table row by row, each row written once per batch.

    up Csr ──▶ turned into columns: the tokens of each upstream feature, ascending
    down Csr ──▶ packed: index and value of an entry side by side (8 bytes, one stream)

    for each row i of the tables (an upstream feature), for each of its tokens, for each downstream entry of that token:
        thin row   (few updates)      cell of the table += …            cells of the tokens to come are prefetched meanwhile
        thick row  (many per cell)    cell of a row buffer += …         the buffer is added to the table row at the end

Rows are independent: threads take ranges of rows, and nothing depends on how many there are. A row's sum runs over its tokens in
ascending order in float64, so the same batch gives the same bits.

What decided the design (one shared core, Xeon with 2 MB L2, D = 24,576, L0 = 60, T = 65,536, 218 M updates on 53 M distinct cells;
differences below some 10 % mean nothing):

- The tables are far larger than any cache, so a thin row costs a cache miss per update: one, because counts and product lie side
  by side (`kernels.tables`). Straight to the table with prefetch: 4–5.5 ns an update with two tables, 2.3–3.7 so; by a row buffer
  and a list of touched cells: 12 ns per touched cell for the write-back alone. THICK from 0.25 to 2 made no difference.
- A thick row takes 2 ns an update in its buffer: count and product lie side by side in one 16-byte cell that is added to in one
  operation, and 393 kB fit in L2.
- The same loops in C are no faster, so there is no compiled extension: gcc 12 -O3 -march=native makes 155 / 252 / 314 million
  updates a second at L0 = 20 / 60 / 120 where numba makes 231 / 395 / 541, and 245 against 241 in batches of 512 tokens (an EPYC,
  AVX-512, D = 12,288, T = 32,768 and for L0 = 120 16,384; CPU time beside other programs).
- A table whose columns are ordered by frequency would share the lines of the hot cells: 28 M instead of 46 M cache lines in thin
  rows, 0.70 s instead of 0.80 for the batch, and 32 instead of 51 µs a token at T = 512, where little is touched twice. Not done:
  every reader of a table would have to know the order.
- Small batches repeat fewer cells: 51 µs a token at T = 512, 31 at 4,096, 12 at 65,536. Prefetching across rows as well changed
  nothing there; tables in huge pages, as numpy asks for and torch.zeros does not, took 10 % off.
- Float32 cells in the buffer would halve it, but a float32 running sum is off by 1e-5 after a thousand equal addends.
"""

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from torch import Tensor

from kernels.cpu.compiled import compiled
from kernels.cpu.native import add_to_cell, prefetch
from kernels.cpu.threads import run_split, threads_for
from kernels.csr import Csr
from kernels.tables import side_by_side, spaced

THICK = 2  # updates per cell of a row from which the buffer pays: adding it costs Dd x 1.1 ns, and saves 1.5–4 ns an update
# Indices are unsigned throughout: a signed one may count from the end, and asking that for every access took a fifth of the time.
ONE, TWO = np.uint64(1), np.uint64(2)
CELLS_AHEAD = np.uint64(2)  # tokens ahead for which cells are prefetched: one is 20 cells at L0 = 20, too few to hide a miss
TOKENS_AHEAD = np.uint64(4)  # tokens ahead of that for which the packed entries are: 4 x 480 bytes hide one trip to L3
WORDS_PER_LINE = np.uint64(16)
HALF_BITS = 26  # in the buffer a token of half A counts 1 and one of half B 2^26: float64 holds both counts exactly
MOST_TOKENS = 1 << HALF_BITS
HALF_B = float(MOST_TOKENS)
LEAST_PER_THREAD = 20_000  # updates: 0.1 ms, well above the 20 µs that a second thread costs


class Cells(NamedTuple):
    """The rows of a pair table, flat: half h of column j is at counts[row, count_step · j + first_half + h], its product at
    products[row, product_step · j]."""

    counts: np.ndarray
    count_step: int
    first_half: int
    products: np.ndarray
    product_step: int

    @classmethod
    def of(cls, counts: Tensor, products: Tensor) -> "Cells":
        """Of int32 or int64 [Du, Dd, 2] and float64 [Du, Dd], contiguous or as `kernels.tables` makes them."""
        height, width = products.shape
        if not spaced(products):
            return cls(counts.numpy().reshape(height, 2 * width), 2, 0, products.numpy(), 1)
        both = np.lib.stride_tricks.as_strided(products.numpy(), (height, 2 * width), (16 * width, 8))
        if side_by_side(counts, products):
            return cls(both.view(np.int32), 4, 2, both, 2)
        return cls(counts.numpy().reshape(height, 2 * width), 2, 0, both, 2)


@compiled()
def turn(
    offsets: np.ndarray,
    features: np.ndarray,
    values: np.ndarray,
    down_offsets: np.ndarray,
    thresholds: np.ndarray | None,
    starts: np.ndarray,
    columns: np.ndarray,
    column_values: np.ndarray,
    updates: np.ndarray,
) -> bool:
    """Csr (offsets [T + 1], features, values [nnz]) to columns: a counting sort, tokens ascending within a feature.

    Writes starts int64 [Du + 1]; the token of entry e to columns[2 e] (uint32) and its value to column_values[2 e + 1] (float32,
    negative where not above the threshold), two views of one memory; and updates int64 [Du], the increments that each row will
    get. False when a feature is out of range.
    """
    width = len(updates)
    for feature in features:
        if feature < 0 or feature >= width:
            return False
        starts[feature + 1] += 1
    for feature in range(width):
        starts[feature + 1] += starts[feature]
    filled = starts[:-1].copy()
    for token in range(len(offsets) - 1):
        partners = down_offsets[token + 1] - down_offsets[token]
        for entry in range(offsets[token], offsets[token + 1]):
            feature, value = np.uint64(features[entry]), values[entry]
            if thresholds is not None and not (value > thresholds[feature]):
                value = -value
            slot = np.uint64(filled[feature])
            columns[TWO * slot] = token
            column_values[TWO * slot + ONE] = value
            filled[feature] = slot + ONE
            updates[feature] += partners
    return True


@compiled()
def pack(
    features: np.ndarray, values: np.ndarray, thresholds: np.ndarray | None, width: int, indices: np.ndarray, packed: np.ndarray
) -> bool:
    """Writes feature and value of entry e to indices[2 e] (uint32) and packed[2 e + 1] (float32), two views of one memory.

    The value is negative where it is not above its threshold. False when a feature is out of range.
    """
    for entry in range(len(features)):
        feature, value = features[entry], values[entry]
        if feature < 0 or feature >= width:
            return False
        if thresholds is not None and not (value > thresholds[feature]):
            value = -value
        indices[2 * entry] = feature
        packed[2 * entry + 1] = value
    return True


@compiled()
def add_rows(
    first: int,
    last: int,
    starts: np.ndarray,
    columns: np.ndarray,
    column_values: np.ndarray,
    updates: np.ndarray,
    offsets: np.ndarray,
    indices: np.ndarray,
    packed: np.ndarray,
    halves: np.ndarray,
    signs: bool | None,
    thick: int,
    width: int,
    cells: "Cells",
) -> None:
    """Adds rows first … last - 1 of a table of `width` columns.

    starts, columns, column_values, updates: as `turn` wrote them; offsets int32 [T + 1], indices, packed [2 nnz]: the downstream
    entries; halves uint8 [T]; signs is None when no value is negative; thick: updates from which a row goes through the buffer.
    """
    counts, products = cells.counts, cells.products
    count_step, first_half, product_step = np.uint64(cells.count_step), np.uint64(cells.first_half), np.uint64(cells.product_step)
    apart = cells.first_half == 0
    buffer = np.zeros(0)
    for row in range(first, last):
        begin, end = np.uint64(starts[row]), np.uint64(starts[row + 1])
        if begin == end:
            continue
        row_counts, row_products = counts[row], products[row]
        if updates[row] < thick:
            for column in range(begin, min(begin + CELLS_AHEAD, end)):
                prefetch_cells(columns[TWO * column], offsets, indices, row_counts, count_step, row_products, product_step, apart)
            for column in range(begin, end):
                if column + CELLS_AHEAD < end:
                    coming = columns[TWO * (column + CELLS_AHEAD)]
                    prefetch_cells(coming, offsets, indices, row_counts, count_step, row_products, product_step, apart)
                    prefetch_entries(column + CELLS_AHEAD + TOKENS_AHEAD, end, columns, offsets, indices)
                token, a = columns[TWO * column], np.float64(column_values[TWO * column + ONE])
                half = np.uint64(halves[token]) + first_half
                for entry in range(np.uint64(offsets[token]), np.uint64(offsets[token + ONE])):
                    feature, b = indices[TWO * entry], np.float64(packed[TWO * entry + ONE])
                    if signs is None:
                        row_counts[count_step * feature + half] += 1
                        row_products[product_step * feature] += a * b
                    else:
                        row_counts[count_step * feature + half] += (a > 0) & (b > 0)
                        row_products[product_step * feature] += abs(a * b)
            continue
        if len(buffer) == 0:
            buffer = np.zeros(2 * width)
        for column in range(begin, end):
            prefetch_entries(column + TOKENS_AHEAD, end, columns, offsets, indices)
            token, a = columns[TWO * column], np.float64(column_values[TWO * column + ONE])
            one = HALF_B if halves[token] else 1.0
            for entry in range(np.uint64(offsets[token]), np.uint64(offsets[token + ONE])):
                feature, b = indices[TWO * entry], np.float64(packed[TWO * entry + ONE])
                if signs is None:
                    add_to_cell(buffer, feature, a * b, one)
                else:
                    add_to_cell(buffer, feature, abs(a * b), one * ((a > 0) & (b > 0)))
        for feature in range(np.uint64(width)):
            row_products[product_step * feature] += buffer[TWO * feature]
            both = np.int64(buffer[TWO * feature + ONE])
            half_a = count_step * feature + first_half
            row_counts[half_a] += both & (MOST_TOKENS - 1)
            row_counts[half_a + ONE] += both >> HALF_BITS
        buffer[:] = 0


@compiled(inline="always")
def prefetch_cells(
    token: int,
    offsets: np.ndarray,
    indices: np.ndarray,
    row_counts: np.ndarray,
    count_step: np.uint64,
    row_products: np.ndarray,
    product_step: np.uint64,
    apart: bool,
) -> None:
    """The cells of a table row that this token will touch; `apart`: its counts are elsewhere."""
    for entry in range(np.uint64(offsets[token]), np.uint64(offsets[token + ONE])):
        feature = indices[TWO * entry]
        prefetch(row_products, product_step * feature)
        if apart:
            prefetch(row_counts, count_step * feature)


@compiled(inline="always")
def prefetch_entries(column: np.uint64, end: np.uint64, columns: np.ndarray, offsets: np.ndarray, indices: np.ndarray) -> None:
    """The packed downstream entries of the token in that column, if the row still has it."""
    if column < end:
        token = columns[TWO * column]
        for word in range(TWO * np.uint64(offsets[token]), TWO * np.uint64(offsets[token + ONE]), WORDS_PER_LINE):
            prefetch(indices, word)


def accumulate(
    up: Csr,
    down: Csr,
    halves: Tensor,
    up_thresholds: Tensor | None,
    down_thresholds: Tensor | None,
    counts: Tensor,
    products: Tensor,
) -> None:
    """See `kernels.accumulate`; ValueError also for offsets that do not span the entries and features out of range."""
    up_offsets, up_features, up_values = (part.numpy() for part in up)
    down_offsets, down_features, down_values = (part.numpy() for part in down)
    up_limits, down_limits = (None if limits is None else limits.numpy() for limits in (up_thresholds, down_thresholds))
    height, width = products.shape
    if up.tokens >= MOST_TOKENS:
        raise ValueError(f"a batch of {up.tokens} tokens: at most {MOST_TOKENS - 1} are counted at a time")
    check_offsets("up", up_offsets, len(up_features))
    check_offsets("down", down_offsets, len(down_features))

    starts, updates = np.zeros(height + 1, dtype=np.int64), np.zeros(height, dtype=np.int64)
    columns = np.empty(2 * len(up_features), dtype=np.uint32)
    column_values = columns.view(np.float32)
    if not turn(up_offsets, up_features, up_values, down_offsets, up_limits, starts, columns, column_values, updates):
        raise ValueError(f"up.features has values from {up_features.min()} to {up_features.max()}, they must be in [0, {height})")
    indices = np.empty(2 * len(down_features), dtype=np.uint32)
    packed = indices.view(np.float32)
    if not pack(down_features, down_values, down_limits, width, indices, packed):
        raise ValueError(
            f"down.features has values from {down_features.min()} to {down_features.max()}, they must be in [0, {width})"
        )

    signs = None if up_limits is None and down_limits is None else True
    done = np.cumsum(updates)
    total = int(done[-1]) if height else 0
    threads = threads_for(total, LEAST_PER_THREAD)
    bounds = [0, *(int(np.searchsorted(done, total * part // threads)) for part in range(1, threads)), height]
    entries = (starts, columns, column_values, updates, down_offsets, indices, packed, halves.numpy())
    cells = Cells.of(counts, products)
    run_split([partial(add_rows, first, last, *entries, signs, THICK * width, width, cells) for first, last in pairwise(bounds)])


def check_offsets(name: str, offsets: np.ndarray, entries: int) -> None:
    if offsets[0] != 0 or offsets[-1] != entries or (len(offsets) > 1 and (offsets[1:] < offsets[:-1]).any()):
        raise ValueError(
            f"{name}.offsets must rise from 0 to {entries}, the number of entries; it runs {offsets[0]} … {offsets[-1]}"
        )
