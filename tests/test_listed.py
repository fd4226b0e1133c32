"""Who is listed, against lists that are sorted anew: whatever the table grows by, and whatever was kept from the last ranking."""

from __future__ import annotations

import numpy as np
import pytest

from kernels import RANKED, BestCells, Features, Separators, bounds, listed_cells, supported_cells
from kernels.cpu import separators
from kernels.cpu.bounds import log_half
from kernels.tables import zero_tables

RATIOS = ("jaccard", "sufficiency", "necessity")
BOUNDS = tuple(measure for measure in RANKED if measure.endswith("_lower"))


class Growing:
    """A table of rows × columns features that fire together in bursts, with the marginals that go with it."""

    def __init__(self, rows: int, columns: int, seed: int, *, counts: type = np.int32) -> None:
        self.random = np.random.default_rng(seed)
        self.tokens = 0
        self.counts, self.products = (part.numpy() for part in zero_tables(rows, columns))  # as a state's tables lie
        self.counts = self.counts.astype(counts, copy=False)
        self.up, self.down = (np.zeros((size, 3)) for size in (rows, columns))  # count, Σa, Σa²
        self.rates = [self.random.beta(0.5, 4.0, size) for size in (rows, columns)]
        self.rates[0][0], self.rates[1][0] = 1.0, 0.0  # one that always fires, and one that never does
        self.effects = [
            np.where(self.random.random(size) < 0.1, np.nan, self.random.integers(1, 30, size)) for size in (rows, columns)
        ]
        self.cosines = self.random.normal(size=(rows, columns)).astype(np.float32)
        self.cosines[self.random.random((rows, columns)) < 0.1] = np.nan

    def grow(self, tokens: int) -> None:
        """Count more tokens: a burst drives half of the columns of a few rows."""
        up, down = (self.random.random((tokens, len(rate))) < rate for rate in self.rates)
        driven = self.random.choice(len(self.down), len(self.down) // 2, replace=False)
        down[:, driven] |= up[:, self.random.integers(0, len(self.up), len(driven))]
        a, b = (np.where(active, self.random.gamma(2.0, 1.0, active.shape), 0.0) for active in (up, down))
        half = tokens // 2
        for at, part in enumerate((slice(None, half), slice(half, None))):
            self.counts[:, :, at] += up[part].T.astype(int) @ down[part].astype(int)
        self.products += a.T @ b
        for side, active, values in ((self.up, up, a), (self.down, down, b)):
            side += np.stack([active.sum(0), values.sum(0), (values * values).sum(0)], axis=1)
        self.tokens += tokens

    def features(self) -> tuple[Features, Features]:
        first, second = (
            Features(side[:, 0].astype(np.int64), side[:, 1].copy(), side[:, 2].copy(), effect)
            for side, effect in zip((self.up, self.down), self.effects, strict=True)
        )
        return first, second

    def sorted(self, measures: tuple[str, ...], k: int, least: int, by_bin: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """bool [rows, columns] each: who is in a list of `BestCells`, of its row and of its column."""
        joint = self.counts.sum(axis=2)
        i, j = (part.astype(np.int32) for part in np.nonzero(joint >= least))
        best = BestCells(*self.features(), self.tokens, measures, k, by_bin)
        ids = i.astype(np.int64) * joint.shape[1] + j
        best.offer(i, j, ids, joint[i, j].astype(np.int64), self.products[i, j], self.cosines[i, j])
        found = np.zeros((2, joint.size), bool)
        for lists in best.found.values():
            for side, cells in enumerate(lists):
                found[side, cells[cells >= 0]] = True
        return found[0].reshape(joint.shape), found[1].reshape(joint.shape)

    def listed(
        self, measures: tuple[str, ...], k: int, least: int, by_bin: np.ndarray | None, kept: Separators | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same by `listed_cells`."""
        cells = supported_cells(self.counts, self.products, least, self.cosines)
        row = np.repeat(np.arange(len(self.counts)), np.diff(cells.offsets))
        marks = []
        for side, found in enumerate(listed_cells(cells, *self.features(), self.tokens, measures, k, by_bin, kept)):
            owner = np.repeat(np.arange(self.counts.shape[side]), np.diff(found.offsets))
            assert np.array_equal(owner, (row if side == 0 else cells.column)[found.cells]), "each under its own line"
            assert (np.diff(found.cells)[np.diff(owner) == 0] > 0).all(), "in order"
            marked = np.zeros(self.counts.shape[:2], bool)
            marked[row[found.cells], cells.column[found.cells]] = True
            marks.append(marked)
        return marks[0], marks[1]


def assert_listed(table: Growing, measures: tuple[str, ...], k: int, least: int, by_bin, kept: Separators | None) -> None:
    for found, wanted in zip(table.listed(measures, k, least, by_bin, kept), table.sorted(measures, k, least, by_bin), strict=True):
        np.testing.assert_array_equal(found, wanted)


EFFECTS = np.where(np.arange(32) == 2, np.nan, np.linspace(0.5, 9, 32))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("measures", [(measure,) for measure in RANKED] + [RANKED], ids=[*RANKED, "all"])
def test_what_is_listed_is_what_sorted_lists_hold_while_the_table_grows(measures: tuple[str, ...], seed: int) -> None:
    table, kept = Growing(37, 61, seed), Separators.none(37, 61)
    for tokens in (40, 1, 3, 200, 200, 2, 1_000, 30, 30, 30):
        table.grow(tokens)
        assert_listed(table, measures, 5, 2, EFFECTS, kept)
        assert_listed(table, measures, 5, 2, EFFECTS, None)


def test_equal_scores_go_to_the_smaller_index() -> None:
    table = Growing(6, 40, 0)
    table.tokens = 1_000
    table.counts[:, :, 0], table.products[:] = 12, 30.0
    table.up[:], table.down[:] = (40.0, 80.0, 200.0), (50.0, 90.0, 210.0)
    table.effects = [np.full(size, 2.0) for size in (6, 40)]
    kept = Separators.none(6, 40)
    for _ in range(3):
        for measure in set(RANKED) - {"decoder_cosine"}:
            rows, columns = table.listed((measure,), 5, 1, EFFECTS, kept)
            assert np.array_equal(rows, np.broadcast_to(np.arange(40) < 5, (6, 40))), measure
            assert np.array_equal(columns, np.broadcast_to(np.arange(6)[:, None] < 5, (6, 40))), measure


@pytest.mark.parametrize("k", [1, 20, 100])
def test_separators_of_another_table_change_nothing_that_is_found(k: int) -> None:
    table = Growing(30, 50, 7)
    table.grow(2_000)
    for value in (-1.0, 0.0, 1e-12, 0.05, 0.999, 1.0, 7.0):
        kept = Separators(*(np.full((size, len(RANKED)), value) for size in (30, 50)))
        assert_listed(table, RANKED, k, 3, EFFECTS, kept)
        assert_listed(table, RANKED, k, 3, EFFECTS, kept)


def test_counts_beyond_32_bits_and_a_table_without_cells_are_ranked_too() -> None:
    table = Growing(8, 9, 3, counts=np.int64)
    assert_listed(table, RANKED, 2, 1, EFFECTS, None)
    table.grow(300)
    scale = 1 << 33
    table.counts *= scale
    table.products *= scale
    table.up *= scale
    table.down *= scale
    table.tokens *= scale
    assert_listed(table, tuple(set(RANKED) - set(BOUNDS)), 2, scale, None, None)


def test_without_effects_nothing_is_listed_by_a_lower_bound() -> None:
    table = Growing(20, 20, 5)
    table.grow(500)
    for found in table.listed(tuple(f"{ratio}_lower" for ratio in RATIOS), 3, 1, None, None):
        assert not found.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": np.zeros((2, 3, 2))}, "counts is float64, it must be int32"),
        ({"products": np.zeros((3, 2))}, r"counts has shape \[2, 3, 2\], it must be \[3, 2, 2\]"),
        ({"cosines": np.zeros((2, 3))}, "cosines is float64, it must be float32"),
        ({"least": 0}, "least is 0, it must be at least 1"),
    ],
    ids=["real-counts", "turned-products", "double-cosines", "no-support"],
)
def test_tables_that_would_be_misread_are_refused(change: dict, message: str) -> None:
    table = {"counts": np.zeros((2, 3, 2), np.int32), "products": np.zeros((2, 3)), "least": 1}
    with pytest.raises(ValueError, match=message):
        supported_cells(**(table | change))


@pytest.mark.parametrize("n", range(1, 12))
def test_a_line_is_parted_within_its_own_space_whatever_parted_it_before(n: int) -> None:
    random, space = np.random.default_rng(n), np.empty(40)
    for k in range(1, 14):
        for separator in (-np.inf, *random.normal(size=8), np.inf):
            scores, marks = random.normal(size=n).round(1), np.zeros(n, bool)
            scores[random.random(n) < 0.2] = np.nan
            space[:] = 7.0
            separators.part(scores, k, separator, marks, space[:n])
            best = np.argsort(-np.nan_to_num(scores, nan=-9.0), kind="stable")[: min(k, int((~np.isnan(scores)).sum()))]
            assert set(np.flatnonzero(marks)) == set(best.tolist())
            assert (space[n:] == 7.0).all()


def test_no_cell_is_put_aside_unweighed_whose_bound_is_above() -> None:
    random = np.random.default_rng(11)
    space, which = np.empty((4, 4_000)), np.empty(4_000, np.int64)
    for largest in (3, 40, 4_000, 10**7, 10**15):
        trials = np.floor(np.exp(random.uniform(0, np.log(largest), 4_000)) + 1)
        successes = np.clip(np.floor(trials * random.beta(0.4, 0.4, 4_000)), 1, trials)
        deff = np.where(random.random(4_000) < 0.5, 1.0, np.exp(random.uniform(0, 8, 4_000)))
        lower, _ = bounds(successes, trials, deff)
        half = np.array([log_half(x) for x in successes / deff])
        for least in (0.0, *np.quantile(lower, (0.05, 0.5, 0.95, 0.999)), 0.9, 1.0 - 1e-9):
            size = separators._weigh(successes, trials, deff, half, least, space, which)
            assert set(np.flatnonzero(lower > least)) <= set(which[:size].tolist())
        assert size < 4_000
