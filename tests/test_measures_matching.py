"""One-to-one matching against dense assignment and against every permutation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from engine.measures.matching import agreement, assign, assign_all, nearest

EMPTY = np.empty(0, np.int32)


@pytest.mark.parametrize(
    ("sizes", "density"),
    [
        pytest.param((9, 9), 1.0, id="square-dense"),
        pytest.param((30, 17), 0.2, id="tall-sparse"),
        pytest.param((17, 30), 0.2, id="wide-sparse"),
        pytest.param((40, 40), 0.03, id="many-without-edges"),
        pytest.param((1, 5), 1.0, id="one-feature"),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_the_assignment_has_the_largest_total_weight(sizes: tuple[int, int], density: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = np.where(rng.random(sizes) < density, rng.normal(0.4, 0.4, sizes), 0)
    up, down = np.nonzero(weight)
    order = rng.permutation(len(up))
    up, down = up[order], down[order]
    chosen = assign(up.astype(np.int32), down.astype(np.int32), weight[up, down], sizes)
    assert len(set(up[chosen])) == len(set(down[chosen])) == len(chosen)
    assert (weight[up[chosen], down[chosen]] > 0).all()
    partner = assign_all(weight)
    paired = np.flatnonzero(partner >= 0)
    assert len(set(partner[paired])) == len(paired) and (weight[paired, partner[paired]] > 0).all()
    assert weight[paired, partner[paired]].sum() == pytest.approx(weight[up[chosen], down[chosen]].sum())
    best = linear_sum_assignment(np.maximum(weight, 0), maximize=True)
    assert weight[up[chosen], down[chosen]].sum() == pytest.approx(np.maximum(weight, 0)[best].sum())


@pytest.mark.parametrize("weight", [[], [0.0, -0.5], [np.nan, np.nan]], ids=["no-edges", "not-positive", "undefined"])
def test_edges_without_a_positive_weight_are_never_used(weight: list[float]) -> None:
    ends = np.arange(len(weight), dtype=np.int32)
    assert len(assign(ends, ends, np.array(weight), (3, 3))) == 0


def test_two_good_pairs_are_taken_rather_than_the_single_best() -> None:
    chosen = assign(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([0.9, 0.8, 0.7]), (2, 2))
    assert chosen.tolist() == [1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_matching_by_decoders_has_the_smallest_squared_distance_of_all_pairings(seed: int) -> None:
    rng = np.random.default_rng(seed)
    up = rng.normal(size=(6, 4)).astype(np.float32) + 2  # all inner products are above 0, so everything is paired
    down = (up[rng.permutation(6)] + rng.normal(scale=0.7, size=(6, 4))).astype(np.float32)
    found = nearest(up, down, k=6)
    chosen = assign(found.up, found.down, found.product, (6, 6))
    pairing = dict(zip(found.up[chosen].tolist(), found.down[chosen].tolist(), strict=True))
    best = min(itertools.permutations(range(6)), key=lambda order: ((up - down[list(order)]) ** 2).sum())
    assert pairing == dict(enumerate(best))


@pytest.mark.parametrize("k", [1, 3, 100])
def test_the_candidates_are_the_best_partners_of_either_side(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.measures.matching._BLOCK_ENTRIES", 64)  # several blocks
    rng = np.random.default_rng(k)
    up, down = rng.normal(size=(23, 5)).astype(np.float32), rng.normal(size=(31, 5)).astype(np.float32)
    products = up.astype(np.float64) @ down.T
    listed = np.zeros(products.shape, bool)
    np.put_along_axis(listed, np.argsort(-products, axis=1)[:, :k], True, axis=1)
    np.put_along_axis(listed, np.argsort(-products, axis=0)[:k], True, axis=0)
    found = nearest(up, down, k)
    assert list(zip(found.up, found.down, strict=True)) == list(zip(*np.nonzero(listed), strict=True))
    np.testing.assert_allclose(found.product, products[found.up, found.down], rtol=1e-4, atol=1e-5)


def test_agreement_is_the_share_of_features_matched_to_the_same_partner_among_those_matched_twice() -> None:
    assert agreement(np.array([3, -1, 5, 2]), np.array([3, 4, 6, -1])) == (2, 1, 0.5)
    assert agreement(np.array([-1, 2]), np.array([1, -1])) == (0, 0, None)
