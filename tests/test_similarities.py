"""The compiled measures against the formulas as they are written down."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import BadValue
from engine.measures import MEASURES, PairCounts, estimates
from engine.measures.at_once import estimates_at_once
from kernels import SIMILARITIES, similarities


def pairs(size: int, seed: int = 0) -> PairCounts:
    """Counts of pairs that real activations could have, among them features that never or always fire, or always as strongly."""
    rng = np.random.default_rng(seed)
    tokens = 1_000
    up, down = (rng.choice([0, 1, 7, 300, tokens], size) for _ in range(2))
    least, most = np.maximum(0, up + down - tokens), np.minimum(up, down)
    joint = least + ((most - least) * rng.random(size)).astype(np.int64)
    even = rng.random(size) < 0.3
    strength = [np.where(even, 1.0, rng.uniform(0.5, 2.0, size)) for _ in range(2)]
    sums = [count * mean for count, mean in zip((up, down), strength, strict=True)]
    squares = [count * mean * mean * np.where(even, 1.0, 1.3) for count, mean in zip((up, down), strength, strict=True)]
    return PairCounts(tokens, up, down, joint, *sums, *squares, joint * strength[0] * strength[1], rng.random(size))


@pytest.mark.parametrize("measure", SIMILARITIES)
def test_the_compiled_measures_are_those_of_the_formulas(measure: str) -> None:
    counts = pairs(2_000)
    formula = np.broadcast_to(estimates(counts, [measure])[measure], counts.joint.shape)
    assert np.isfinite(formula).any()
    if measure == "mutual_information":  # its logarithms may differ in the last bit
        np.testing.assert_allclose(estimates_at_once(counts)[measure], formula, rtol=1e-12, atol=1e-15)
    else:
        assert np.isnan(formula).any()
        np.testing.assert_array_equal(estimates_at_once(counts)[measure], formula)


def test_some_measures_are_given_in_the_order_in_which_they_are_asked_for_and_numbers_serve_all_pairs() -> None:
    counts = pairs(50)._replace(up=300, up_sum=310.0, up_sumsq=400.0)
    asked = ("decoder_cosine", "lift", "jaccard")
    found = estimates_at_once(counts, asked)
    assert tuple(found) == asked
    for measure in asked:
        np.testing.assert_array_equal(found[measure], np.broadcast_to(estimates(counts, [measure])[measure], (50,)))
    assert tuple(estimates_at_once(counts)) == MEASURES
    assert {name: values.shape for name, values in estimates_at_once(pairs(0)).items()} == dict.fromkeys(MEASURES, (0,))


@pytest.mark.parametrize(
    "counts", [np.zeros((8, 3)), np.zeros((9, 3), np.float32), np.zeros((3, 9)).T], ids=["eight-rows", "float32", "turned"]
)
def test_counts_that_would_be_misread_are_refused(counts: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"counts must be float64 \[9, P\]"):
        similarities(counts, ["jaccard"])
    with pytest.raises(BadValue, match="'cosine' is not one of"):
        estimates_at_once(pairs(3), ["cosine"])
