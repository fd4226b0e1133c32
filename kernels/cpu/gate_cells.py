"""count_gate_cells on the CPU: one bit a token, 64 tokens at a time.

    up, down Csr ──▶ bits: a row of uint64 words per candidate parent and per child, bit t of word w is token 64 w + t of the chunk

    for each child, over its at most m + 1 rows (its *slots*: the parents, and last itself):
        one slot active on a token          what is left of the slot's number of tokens
        only slots that fire often active   the words ANDed for every set of such slots, bits counted, inclusion and exclusion
        any others                          token by token: the index from one bit of each slot's word

The first two need no look at single tokens, and they are nearly all. The dearest parents are those most often active with each
child: a few of them then have nearly all children, and a child has one active on every token. With these, at 24,576 features and
L0 = 60 as well as at 1,024 and 15, this takes 0.5 to 0.7 of the time of `accumulate` in batches of 2,048 tokens and more, and as
long in batches of 512; with parents that resemble their child, 0.3 to 0.5.

Children are independent: threads take ranges of them, and nothing depends on how many there are.
"""

from functools import partial
from itertools import pairwise

import numpy as np
from torch import Tensor

from kernels.cpu.accumulate import check_offsets
from kernels.cpu.compiled import compiled
from kernels.cpu.native import ones, trailing_zeros
from kernels.cpu.threads import run_split, threads_for
from kernels.csr import Csr

CHUNK_WORDS = 128  # 8,192 tokens: 50 MB of bits at 2 x 24,576 features
# A slot is counted by sets while that would add fewer words of sets than SLOT_WORDS times its tokens. Looking at a token of two
# slots takes some 6 ns, ANDing and counting a word of a set 0.2, and every set 60 words' worth before its first (with 20, batches
# of 512 tokens took a fifth longer).
SLOT_WORDS, SET_WORDS = 12, 60
LEAST_PER_THREAD = 100_000  # words of slots
ZERO, ONE, WORD_BITS, LAST_BIT = np.uint64(0), np.uint64(1), np.uint64(6), np.uint64(63)


@compiled()
def number_rows(parents: np.ndarray, row_of: np.ndarray, rows: np.ndarray) -> int:
    """Gives every candidate parent a row, in the order of their first child, and returns how many have one.

    row_of int32 [Du], −1 on entry; rows int32 [Dd, m + 1]: the rows of each child's slots. Row 0 stays empty, for a parent that is
    not there; the rows of the children follow those of the parents.
    """
    children, slots = parents.shape
    count = 1
    for child in range(children):
        for slot in range(slots):
            parent = parents[child, slot]
            if parent < 0:
                rows[child, slot] = 0
                continue
            if row_of[parent] < 0:
                row_of[parent] = count
                count += 1
            rows[child, slot] = row_of[parent]
    for child in range(children):
        rows[child, slots] = count + child
    return count


@compiled()
def mark(
    first: int,
    last: int,
    offsets: np.ndarray,
    features: np.ndarray,
    values: np.ndarray,
    thresholds: np.ndarray | None,
    row_of: np.ndarray | None,
    row: int,
    bits: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Sets the bit of every active entry of tokens first … last - 1 in its feature's row, and counts them per row.

    A feature's row is row_of[feature], none where that is negative; without row_of it is row + feature. bits uint64 [R, W], counts
    int64 [R].
    """
    for token in range(first, last):
        at = np.uint64(token - first)
        word, bit = at >> WORD_BITS, ONE << (at & LAST_BIT)
        for entry in range(offsets[token], offsets[token + 1]):
            feature = features[entry]
            own = row + feature if row_of is None else row_of[feature]
            if own < 0 or (thresholds is not None and not (values[entry] > thresholds[feature])):
                continue
            bits[np.uint64(own), word] |= bit
            counts[np.uint64(own)] += 1


@compiled()
def add_children(first: int, last: int, rows: np.ndarray, bits: np.ndarray, counts: np.ndarray, cells: np.ndarray) -> None:
    """Adds the chunk (bits uint64 [R, W], counts int64 [R]) to cells [Dd, 2^(m+1)] of children first … last - 1."""
    words, slots = bits.shape[1], rows.shape[1]
    sets = np.zeros((1 << slots, words), np.uint64)
    exact = np.zeros(1 << slots, np.int64)
    sparse, mixed, dense_any = np.zeros(words, np.uint64), np.zeros(words, np.uint64), np.zeros(words, np.uint64)
    chosen, marks, shifts = np.zeros(slots, np.int64), np.zeros(slots, np.uint64), np.zeros(slots, np.uint64)
    alone = np.zeros(slots, np.int64)
    for child in range(first, last):
        found = 0
        for slot in range(slots):  # those that fire in the chunk, the most frequent first
            row = rows[child, slot]
            count = counts[row]
            if count == 0:
                continue
            at = found
            while at > 0 and alone[at - 1] < count:
                chosen[at], shifts[at], alone[at] = chosen[at - 1], shifts[at - 1], alone[at - 1]
                at -= 1
            chosen[at], shifts[at], alone[at] = row, slot, count
            found += 1
        if found >= 2:
            dense = 0
            while dense < found and alone[dense] * SLOT_WORDS > (words + SET_WORDS) << dense:
                dense += 1
            if dense < 2:
                dense = 0
            sparse[:] = ZERO
            mixed[:] = ZERO
            for at in range(dense, found):
                row = chosen[at]
                for word in range(words):
                    mixed[word] |= sparse[word] & bits[row, word]
                    sparse[word] |= bits[row, word]
            if dense > 0:
                dense_any[:] = ZERO
                for at in range(dense):
                    row = chosen[at]
                    for word in range(words):
                        dense_any[word] |= bits[row, word]
                for word in range(words):
                    mixed[word] |= sparse[word] & dense_any[word]
            for word in range(words):
                left = mixed[word]
                if left == ZERO:
                    continue
                for at in range(found):
                    marks[at] = bits[chosen[at], word]
                    alone[at] -= np.int64(ones(marks[at] & left))
                while left != ZERO:
                    token = np.uint64(trailing_zeros(left))
                    left &= left - ONE
                    index = ZERO
                    for at in range(found):
                        index |= ((marks[at] >> token) & ONE) << shifts[at]
                    cells[child, index] += 1
            if dense > 1:
                count_dense(dense, chosen, bits, sparse, sets, exact)
                for subset in range(3, 1 << dense):
                    number = exact[subset]
                    if number == 0 or subset & (subset - 1) == 0:
                        continue
                    index = ZERO
                    for at in range(dense):
                        if subset >> at & 1:
                            index |= ONE << shifts[at]
                            alone[at] -= number
                    cells[child, index] += number
        for at in range(found):
            cells[child, ONE << shifts[at]] += alone[at]


@compiled()
def count_dense(dense: int, chosen: np.ndarray, bits: np.ndarray, sparse: np.ndarray, sets: np.ndarray, exact: np.ndarray) -> None:
    """exact[S] for every set S of at least two dense slots: tokens on which these are active and no other slot."""
    words = bits.shape[1]
    for at in range(dense):
        row, one = chosen[at], 1 << at
        for word in range(words):
            sets[one, word] = bits[row, word] & ~sparse[word]
        exact[one] = 1  # not empty, as far as is known
        for others in range(1, one):
            subset, total = one | others, ZERO
            if exact[others] == 0:  # nor is any set with more
                exact[subset] = 0
                continue
            for word in range(words):
                both = sets[one, word] & sets[others, word]
                sets[subset, word] = both
                total += ones(both)
            exact[subset] = np.int64(total)
    for at in range(dense):  # from "at least these" to "just these"
        bit = 1 << at
        for subset in range(3, 1 << dense):
            if subset & bit == 0 and subset & (subset - 1) != 0:
                exact[subset] -= exact[subset | bit]


def count_gate_cells(
    up: Csr,
    down: Csr,
    up_thresholds: Tensor | None,
    down_thresholds: Tensor | None,
    up_width: int,
    parents: Tensor,
    cells: Tensor,
) -> None:
    """See `kernels.count_gate_cells`; ValueError also for offsets that do not span the entries and features out of range."""
    up_offsets, up_features, up_values = (part.numpy() for part in up)
    down_offsets, down_features, down_values = (part.numpy() for part in down)
    up_limits, down_limits = (None if limits is None else limits.numpy() for limits in (up_thresholds, down_thresholds))
    children, slots = cells.shape[0], parents.shape[1] + 1
    check_offsets("up", up_offsets, len(up_features))
    check_offsets("down", down_offsets, len(down_features))
    check_features("up", up_features, up_width)
    check_features("down", down_features, children)
    if not children or not up.tokens:
        return
    row_of, rows = np.full(up_width, -1, np.int32), np.empty((children, slots), np.int32)
    first_child = number_rows(parents.numpy(), row_of, rows)
    words = min(CHUNK_WORDS, -(-up.tokens // 64))
    bits, counts = np.empty((first_child + children, words), np.uint64), np.empty(first_child + children, np.int64)
    threads = threads_for(children * slots * words, LEAST_PER_THREAD)
    bounds = [children * part // threads for part in range(threads + 1)]
    for first in range(0, up.tokens, 64 * words):
        last = min(first + 64 * words, up.tokens)
        bits[:] = 0
        counts[:] = 0
        mark(first, last, up_offsets, up_features, up_values, up_limits, row_of, 0, bits, counts)
        mark(first, last, down_offsets, down_features, down_values, down_limits, None, first_child, bits, counts)
        tables = (rows, bits, counts, cells.numpy())
        run_split([partial(add_children, begin, end, *tables) for begin, end in pairwise(bounds)])


def check_features(name: str, features: np.ndarray, width: int) -> None:
    """Before anything is counted: a table that has a part of a batch is worse than none."""
    if len(features) and (features.min() < 0 or features.max() >= width):
        raise ValueError(f"{name}.features has values from {features.min()} to {features.max()}, they must be in [0, {width})")
