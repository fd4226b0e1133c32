"""Bounded rows: compiled against the plain form, and what they promise under any order of batches and any tree of merges."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import compact
from kernels.bounded_reference import ReferenceRow, row_sums
from kernels.cpu import bounded
from kernels.cpu.bounded import BoundedRows

ROWS, WIDTH = 40, 70


def activations(rng: np.random.Generator, tokens: int, features: int, low: float, high: float) -> np.ndarray:
    """float32 `[T, D]`, feature by feature more often active."""
    return (rng.random((tokens, features)) * (rng.random((tokens, features)) < np.linspace(low, high, features))).astype(np.float32)


def batches(seed: int, number: int = 15) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Dense activations of both layers and the halves, of batches of one to sixty tokens."""
    rng = np.random.default_rng(seed)
    found = []
    for tokens in rng.integers(1, 60, number):
        up, down = activations(rng, tokens, ROWS, 0.02, 0.4), activations(rng, tokens, WIDTH, 0.01, 0.3)
        found.append((up, down, rng.integers(0, 2, tokens).astype(np.uint8)))
    return found


def add(rows: BoundedRows, batch: tuple[np.ndarray, np.ndarray, np.ndarray], *limits: np.ndarray) -> None:
    up, down, halves = batch
    thresholds = [torch.from_numpy(limit) for limit in limits] or [None, None]
    rows.add(*(compact(torch.from_numpy(dense)) for dense in (up, down)), torch.from_numpy(halves), *thresholds)


def contents(rows: BoundedRows) -> list[dict[int, tuple[int, int, int]]]:
    """Per row partner → counts of both halves, error."""
    found = rows.rows(np.arange(len(rows.slots)))
    columns = [column.tolist() for column in (found.partners, found.counts, found.errors)]
    parts = [slice(*ends) for ends in zip(found.offsets[:-1].tolist(), found.offsets[1:].tolist(), strict=True)]
    return [
        {partner: (*counts, error) for partner, counts, error in zip(*(column[part] for column in columns), strict=True)}
        for part in parts
    ]


def exact(of: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
    """int64 `[D, width]`, joint counts."""
    return sum(((up > 0).T.astype(np.int64) @ (down > 0).astype(np.int64) for up, down, _ in of), np.zeros((ROWS, WIDTH), np.int64))


def hold(rows: BoundedRows, joint: np.ndarray) -> None:
    """What every bounded row promises of the true joint counts."""
    for row, found in enumerate(contents(rows)):
        for partner in range(joint.shape[1]):
            a, b, error = found.get(partner, (0, 0, int(rows.bounds[row])))
            assert a + b <= joint[row, partner] <= a + b + error
        assert rows.weights[row] == joint[row].sum()
        assert rows.bounds[row] * (rows.share + 1) <= rows.weights[row], "W / (C + 1), with as many as every row has at least"
        assert rows.filled[row] <= rows.slots[row]


@pytest.mark.parametrize("slots", [1, 12, WIDTH])
@pytest.mark.parametrize("thresholds", [False, True], ids=["threshold 0", "thresholds"])
def test_they_are_those_of_the_plain_form(slots: int, thresholds: bool) -> None:
    rng = np.random.default_rng(slots)
    limits = [(rng.random(size) * 0.5 * thresholds).astype(np.float32) for size in (ROWS, WIDTH)]
    rows, plain = BoundedRows(ROWS, WIDTH, slots, slots), [ReferenceRow() for _ in range(ROWS)]
    for batch in batches(slots):
        add(rows, batch, *(limits if thresholds else ()))
        for row, one in enumerate(plain):
            one.add(row_sums(*batch, *limits, row), slots, slots)
    assert contents(rows) == [
        {partner: (int(a), int(b), int(error)) for partner, (a, b, error, _) in one.partners.items()} for one in plain
    ]
    assert rows.bounds.tolist() == [one.bound for one in plain] and rows.weights.tolist() == [one.weight for one in plain]
    found = rows.rows(np.arange(ROWS))
    expected = [one.partners[partner][3] for one in plain for partner in sorted(one.partners)]
    np.testing.assert_allclose(found.products, expected, rtol=1e-6)
    assert (rows.bounds.max() == 0) == (slots == WIDTH)


def test_merging_is_that_of_the_plain_form() -> None:
    whole = batches(3, 12)
    merged, plain = [], []
    for part in (whole[:5], whole[5:]):
        rows, reference = BoundedRows(ROWS, WIDTH, 12, 12), [ReferenceRow() for _ in range(ROWS)]
        for batch in part:
            add(rows, batch)
            for row, one in enumerate(reference):
                one.add(row_sums(*batch, np.zeros(ROWS), np.zeros(WIDTH), row), 12, 12)
        merged.append(rows)
        plain.append(reference)
    before = contents(merged[1])
    merged[0].merge(merged[1])
    for one, other in zip(*plain, strict=True):
        one.merge(other, 12, 12)
    assert contents(merged[0]) == [
        {partner: (int(a), int(b), int(error)) for partner, (a, b, error, _) in one.partners.items()} for one in plain[0]
    ]
    assert merged[0].bounds.tolist() == [one.bound for one in plain[0]] and merged[0].bounds.max() > 0
    assert contents(merged[1]) == before


@given(
    seed=st.integers(0, 5),
    average=st.integers(1, 20),
    times=st.integers(1, 5),
    workers=st.integers(1, 4),
    adversary=st.sampled_from(["as they come", "the frequent last", "each token alone"]),
    chance=st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_no_bound_is_violated_whatever_the_order_and_the_merges(
    seed: int, average: int, times: int, workers: int, adversary: str, chance: random.Random
) -> None:
    stream = batches(seed, 8)
    joint = exact(stream)
    if adversary == "the frequent last":  # rare partners fill the rows before a frequent one comes
        stream = sorted(stream, key=lambda batch: float((batch[1] > 0).mean()))
        order = [np.argsort((down[:, WIDTH // 2 :] > 0).sum(axis=1), kind="stable") for _, down, _ in stream]
        stream = [tuple(part[places] for part in batch) for batch, places in zip(stream, order, strict=True)]
    elif adversary == "each token alone":
        stream = [tuple(part[at : at + 1] for part in batch) for batch in stream[:3] for at in range(len(batch[2]))]
        joint = exact(stream)
    parts = [BoundedRows(ROWS, WIDTH, average, average * times) for _ in range(workers)]
    for batch in stream:
        add(parts[chance.randrange(workers)], batch)
    while len(parts) > 1:
        left, right = (parts.pop(chance.randrange(len(parts))) for _ in range(2))
        left.merge(right)
        parts.append(left)
    hold(parts[0], joint)


def test_a_row_takes_what_others_leave_and_never_their_share() -> None:
    """Row 0 meets everyone first; then the others, which must still find half of the average each."""
    rows = BoundedRows(64, 500, 20, 400)
    everyone = np.ones((1, 500), np.float32)
    first = np.zeros((1, 64), np.float32)
    first[0, [0, 32]] = 1  # of one shard: there is no more to take than that has
    half = np.zeros(1, np.uint8)
    add(rows, (first, everyone, half))
    taken = rows.slots.copy()
    assert 20 < taken[0] <= 400 and taken[32] == 10
    add(rows, (np.ones((1, 64), np.float32), everyone, half))
    assert (rows.slots >= rows.share).all() and rows.share == 10
    joint = np.ones((64, 500), np.int64)
    joint[[0, 32]] = 2
    for row, found in enumerate(contents(rows)):
        for partner in range(500):
            a, b, error = found.get(partner, (0, 0, int(rows.bounds[row])))
            assert a + b <= joint[row, partner] <= a + b + error


def test_counts_above_32_bits_are_kept_and_whole_again_when_they_are_widened() -> None:
    rows = BoundedRows(ROWS, WIDTH, 30, 60)
    whole = batches(4, 4)
    add(rows, whole[0])
    before = contents(rows)
    rows.widen()
    assert contents(rows) == before and rows.wide
    for arena in rows.arenas:
        arena["count_a"][arena["count_a"] > 0] += 2**40
    more = [{p: (a + 2**40 * (a > 0), b, e) for p, (a, b, e) in row.items()} for row in before]
    assert contents(rows) == more
    narrow = BoundedRows(ROWS, WIDTH, 30, 60)
    narrow.merge(rows)
    assert narrow.wide and contents(narrow) == more


def test_any_number_of_threads_gives_the_same_rows() -> None:
    threads, found = torch.get_num_threads(), []
    least, bounded.LEAST_PER_THREAD = bounded.LEAST_PER_THREAD, 1
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            rows = BoundedRows(ROWS, WIDTH, 10, 30)
            for batch in batches(7):
                add(rows, batch)
            found.append((contents(rows), rows.bounds.tolist(), rows.begins.tolist()))
    finally:
        torch.set_num_threads(threads)
        bounded.LEAST_PER_THREAD = least
    assert found[0] == found[1]


def test_looking_up_says_what_is_held_and_the_bound_of_what_is_not() -> None:
    rows = BoundedRows(ROWS, WIDTH, 8, 8)
    for batch in batches(9):
        add(rows, batch)
    everyone = np.repeat(np.arange(ROWS), WIDTH), np.tile(np.arange(WIDTH), ROWS)
    counts, errors, products = rows.find(*everyone)
    there = rows.has(*everyone)
    found = contents(rows)
    for at, (row, partner) in enumerate(zip(*(axis.tolist() for axis in everyone), strict=True)):
        held = found[row].get(partner)
        assert there[at] == (held is not None)
        assert (*counts[at].tolist(), errors[at]) == (held or (0, 0, rows.bounds[row]))
        assert (products[at] > 0) == (held is not None)
    some = rows.rows(np.array([5, 3]), least=2)
    kept = [{partner: held for partner, held in found[row].items() if held[0] + held[1] >= 2} for row in (5, 3)]
    assert (
        np.diff(some.offsets).tolist() == [len(row) for row in kept] and sorted(kept[0]) == some.partners[: len(kept[0])].tolist()
    )


@pytest.mark.parametrize(
    ("sizes", "says"),
    [((0, 5, 1, 1), "0 rows of 5 partners"), ((5, 5, 0, 1), "with 0 of at most 1"), ((5, 5, 4, 3), "with 4 of at most 3 slots")],
)
def test_sizes_that_no_rows_have_are_refused(sizes: tuple[int, int, int, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        BoundedRows(*sizes)


def test_features_out_of_range_and_other_rows_are_refused() -> None:
    rows = BoundedRows(ROWS, WIDTH, 8, 8)
    up, down, halves = batches(1)[0]
    with pytest.raises(ValueError, match=r"down.features has values from .* they must be in \[0, 70\)"):
        add(rows, (up, np.ones((len(up), WIDTH + 1), np.float32), halves))
    with pytest.raises(ValueError, match=r"up.features has values from .* they must be in \[0, 40\)"):
        add(rows, (np.ones((len(up), ROWS + 1), np.float32), down, halves))
    with pytest.raises(ValueError, match="41 rows of 70 partners can't be merged into 40 of 70"):
        rows.merge(BoundedRows(ROWS + 1, WIDTH, 8, 8))
    assert rows.weights.sum() == 0
