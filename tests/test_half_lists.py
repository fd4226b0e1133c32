"""The top lists of both halves against sorting, ties included."""

from __future__ import annotations

import numpy as np
import pytest

from kernels import half_lists


def by_sorting(counts: np.ndarray, up: np.ndarray, down: np.ndarray, k: int, support: int, half_support: int) -> np.ndarray:
    """The definition, slow."""
    lists = np.full((3, len(counts), k), -1)
    ways = [(both.sum(axis=-1), both[..., 0], both[..., 1]) for both in (counts, up, down)]
    for way, least in enumerate((support, half_support, half_support)):
        joint, n_up, n_down = (one[way] for one in ways)
        for i, row in enumerate(joint):
            found = [(-n / (n_up[i] + n_down[j] - n), j) for j, n in enumerate(row.tolist()) if n >= least]
            best = [j for _, j in sorted(found)[:k]]
            lists[way, i, : len(best)] = best
    return lists


def tables(rows: int, columns: int, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Few different counts, so that values tie."""
    rng = np.random.default_rng(rows * columns)
    counts = rng.integers(0, most, (rows, columns, 2))
    return counts, counts.max(axis=1, initial=0) + 1, counts.max(axis=0, initial=0) + 2


@pytest.mark.parametrize("kind", [np.int32, np.int64])
@pytest.mark.parametrize(
    ("rows", "columns", "k"),
    [
        pytest.param(17, 29, 5, id="both-odd"),
        pytest.param(3, 4, 20, id="lists-longer-than-a-row"),
        pytest.param(1, 1, 1, id="one-cell"),
        pytest.param(0, 7, 3, id="no-rows"),
    ],
)
def test_lists_of_both_halves_are_those_of_sorting(kind: type, rows: int, columns: int, k: int) -> None:
    counts, up, down = tables(rows, columns, 9)
    for support, half_support in ((1, 1), (6, 3), (3, 6), (100, 100)):
        found = half_lists(counts.astype(kind), up, down, k, support, half_support)
        np.testing.assert_array_equal(found, by_sorting(counts, up, down, k, support, half_support))


def test_every_other_row_of_a_table_is_ranked_as_it_is() -> None:
    counts, up, down = tables(12, 8, 30)
    found = half_lists(counts[::2], up[::2], down, 4, 2, 1)
    np.testing.assert_array_equal(found, by_sorting(counts[::2], up[::2], down, 4, 2, 1))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param({"up": np.zeros((4, 2), np.int64)}, "up", id="other-rows"),
        pytest.param({"counts": np.zeros((3, 5, 2))}, "float64", id="counts-that-are-no-integers"),
        pytest.param({"k": 0}, "k", id="no-list"),
        pytest.param({"half_support": 0}, "half_support", id="no-support"),
    ],
)
def test_what_can_not_be_ranked_is_refused(change: dict[str, object], named: str) -> None:
    counts, up, down = tables(3, 5, 9)
    given = {"counts": counts, "up": up, "down": down, "k": 2, "support": 2, "half_support": 1}
    with pytest.raises(ValueError, match=named):
        half_lists(**{**given, **change})  # type: ignore[arg-type]
