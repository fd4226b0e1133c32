"""accumulate on the CPU: the table row by row, each row written once per batch.

    up Csr ──▶ turned into columns: the tokens of each upstream feature, ascending
    down Csr ──▶ packed: index and value of an entry side by side (8 bytes, one stream)

    for each row i of the tables (an upstream feature), for each of its tokens, for each downstream entry of that token:
        thin row   (few updates)      cell of the table += …            cells of the next token are prefetched meanwhile
        thick row  (many per cell)    cell of a row buffer += …         the buffer is added to the table row at the end

Rows are independent: threads take ranges of rows, and nothing depends on how many there are. A row's sum runs over its tokens in
ascending order in float64, so the same batch gives the same bits.

What decided the design (one shared core, Xeon with 2 MB L2, D = 24,576, L0 = 60, T = 65,536, 218 M updates on 53 M distinct cells;
a C prototype beside other load, so differences below some 15 % mean nothing):

- The tables are far larger than any cache, so a thin row costs two cache misses per update. Straight to the table with prefetch:
  5.6–6.3 ns an update; by a row buffer and a list of touched cells: 12 ns per touched cell for the write-back alone. The rows of
  at most 1,000 tokens took 0.53 s (96 M updates) against 0.89 s.
- A thick row takes 2 to 3 ns an update in its buffer: count and product lie side by side in one 16-byte cell, and 393 kB fit in L2.
- Relabelling features by frequency, which packs the hot cells of the buffer into L1, showed no gain once rare features no longer go
  through the buffer (0.40–0.47 s against 0.41–0.64 s for all thick rows, within the noise): left out.
  A CPU with a smaller L2 may differ.
- Small batches repeat fewer cells: 50 µs a token at T = 512 against 17 at T = 65,536 (this code, CPU time). Prefetching across rows
  as well changed nothing there (52 µs); tables in huge pages, as numpy asks for and torch.zeros does not, took 10 % off.
- Float32 cells in the buffer would halve it, but a float32 running sum is off by 1e-5 after a thousand equal addends.
"""

from functools import partial
from itertools import pairwise

import numba
import numpy as np
from torch import Tensor

from kernels.cpu.prefetch import prefetch
from kernels.cpu.threads import run_split, threads_for
from kernels.csr import Csr

THICK = 2  # updates per cell of a row from which the buffer pays: adding it costs Dd x 1.1 ns, and saves 1.5–4 ns an update
TOKENS_AHEAD = 4  # tokens ahead for which the packed entries are prefetched: 4 x 480 bytes hide one trip to L3
WORDS_PER_LINE = 16
LEAST_PER_THREAD = 20_000  # updates: 0.1 ms, well above the 20 µs that a second thread costs


@numba.njit(nogil=True, cache=True)
def turn(
    offsets: np.ndarray,
    features: np.ndarray,
    values: np.ndarray,
    down_offsets: np.ndarray,
    thresholds: np.ndarray | None,
    starts: np.ndarray,
    tokens: np.ndarray,
    column_values: np.ndarray,
    updates: np.ndarray,
) -> bool:
    """Csr (offsets [T + 1], features, values [nnz]) to columns: a counting sort, tokens ascending within a feature.

    Writes starts int64 [Du + 1], tokens int32 [nnz], column_values float32 [nnz] (negative where not above the threshold) and
    updates int64 [Du], the increments that each row will get. False when a feature is out of range.
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
            feature, value = features[entry], values[entry]
            if thresholds is not None and not (value > thresholds[feature]):
                value = -value
            tokens[filled[feature]] = token
            column_values[filled[feature]] = value
            filled[feature] += 1
            updates[feature] += partners
    return True


@numba.njit(nogil=True, cache=True)
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


@numba.njit(nogil=True, cache=True)
def add_rows(
    first: int,
    last: int,
    starts: np.ndarray,
    tokens: np.ndarray,
    values: np.ndarray,
    updates: np.ndarray,
    offsets: np.ndarray,
    indices: np.ndarray,
    packed: np.ndarray,
    signs: bool | None,
    thick: int,
    counts: np.ndarray,
    products: np.ndarray,
) -> None:
    """Adds rows first … last - 1 of counts and products [Du, Dd].

    starts, tokens, values, updates: as `turn` wrote them; offsets int32 [T + 1], indices, packed [2 nnz]: the downstream entries;
    signs is None when no value is negative; thick: updates from which a row goes through the buffer.
    """
    width = counts.shape[1]
    buffer = np.zeros(0)
    for row in range(first, last):
        begin, end = starts[row], starts[row + 1]
        if begin == end:
            continue
        row_counts, row_products = counts[row], products[row]
        if updates[row] < thick:
            prefetch_cells(int(tokens[begin]), offsets, indices, row_counts, row_products)
            for column in range(begin, end):
                if column + 1 < end:
                    prefetch_cells(int(tokens[column + 1]), offsets, indices, row_counts, row_products)
                    prefetch_entries(column + 1 + TOKENS_AHEAD, end, tokens, offsets, indices)
                token, a = tokens[column], np.float64(values[column])
                for entry in range(offsets[token], offsets[token + 1]):
                    feature, b = indices[2 * entry], np.float64(packed[2 * entry + 1])
                    if signs is None:
                        row_counts[feature] += 1
                        row_products[feature] += a * b
                    else:
                        row_counts[feature] += (a > 0) & (b > 0)
                        row_products[feature] += abs(a * b)
            continue
        if len(buffer) == 0:
            buffer = np.zeros(2 * width)
        for column in range(begin, end):
            prefetch_entries(column + TOKENS_AHEAD, end, tokens, offsets, indices)
            token, a = tokens[column], np.float64(values[column])
            for entry in range(offsets[token], offsets[token + 1]):
                feature, b = indices[2 * entry], np.float64(packed[2 * entry + 1])
                if signs is None:
                    buffer[2 * feature] += a * b
                    buffer[2 * feature + 1] += 1.0
                else:
                    buffer[2 * feature] += abs(a * b)
                    buffer[2 * feature + 1] += (a > 0) & (b > 0)
        for feature in range(width):
            row_products[feature] += buffer[2 * feature]
            row_counts[feature] += np.int64(buffer[2 * feature + 1])
        buffer[:] = 0


@numba.njit(nogil=True, cache=True, inline="always")
def prefetch_cells(token: int, offsets: np.ndarray, indices: np.ndarray, row_counts: np.ndarray, row_products: np.ndarray) -> None:
    """The cells of both table rows (natural order, [Dd]) that this token will touch."""
    for entry in range(offsets[token], offsets[token + 1]):
        feature = indices[2 * entry]
        prefetch(row_counts, feature)
        prefetch(row_products, feature)


@numba.njit(nogil=True, cache=True, inline="always")
def prefetch_entries(column: int, end: int, tokens: np.ndarray, offsets: np.ndarray, indices: np.ndarray) -> None:
    """The packed downstream entries of the token in that column, if the row still has it."""
    if column < end:
        token = tokens[column]
        for word in range(2 * offsets[token], 2 * offsets[token + 1], WORDS_PER_LINE):
            prefetch(indices, word)


def accumulate(
    up: Csr, down: Csr, up_thresholds: Tensor | None, down_thresholds: Tensor | None, counts: Tensor, products: Tensor
) -> None:
    """See `kernels.accumulate`; ValueError also for offsets that do not span the entries and features out of range."""
    up_offsets, up_features, up_values = (part.numpy() for part in up)
    down_offsets, down_features, down_values = (part.numpy() for part in down)
    up_limits, down_limits = (None if limits is None else limits.numpy() for limits in (up_thresholds, down_thresholds))
    height, width = counts.shape
    _check_offsets("up", up_offsets, len(up_features))
    _check_offsets("down", down_offsets, len(down_features))

    starts, updates = np.zeros(height + 1, dtype=np.int64), np.zeros(height, dtype=np.int64)
    tokens, values = np.empty(len(up_features), dtype=np.int32), np.empty(len(up_features), dtype=np.float32)
    if not turn(up_offsets, up_features, up_values, down_offsets, up_limits, starts, tokens, values, updates):
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
    batch = (starts, tokens, values, updates, down_offsets, indices, packed, signs, THICK * width, counts.numpy(), products.numpy())
    run_split([partial(add_rows, first, last, *batch) for first, last in pairwise(bounds)])


def _check_offsets(name: str, offsets: np.ndarray, entries: int) -> None:
    if offsets[0] != 0 or offsets[-1] != entries or (len(offsets) > 1 and (offsets[1:] < offsets[:-1]).any()):
        raise ValueError(
            f"{name}.offsets must rise from 0 to {entries}, the number of entries; it runs {offsets[0]} … {offsets[-1]}"
        )
