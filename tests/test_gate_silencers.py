"""What silences a child where its parent is active, against going through the tokens of the parent one by one."""

from __future__ import annotations

import numpy as np
import pytest

from engine.measures.gate_candidates import suppression
from kernels import make_runs, silencers
from kernels.cpu.gate_choice import MOST_TOKENS
from kernels.cpu.moments import Runs

UP, DOWN, LEAST, MOST = 9, 4, 3.5, 4


class Segment:
    """Both layers dense, float32 `[T, D]` in the order of the runs, and what the kernel is given, in another order."""

    def __init__(self, tokens: int, seed: int, thresholds: bool) -> None:
        rng = np.random.default_rng(seed)
        up = rng.random((tokens, UP)) < rng.uniform(0.2, 0.5, UP)
        down = np.zeros((tokens, DOWN), bool)
        down[:, 0] = up[:, 0] & ~up[:, 1]  # 1 silences it
        down[:, 1] = up[:, 2] & ~(up[:, 3] | (up[:, 4] & (rng.random(tokens) < 0.9)))  # 3 does, and nearly so 4
        down[:, 2] = up[:, 5]  # nothing does
        down[:, 3] = rng.random(tokens) < 0.1
        self.dense = [(layer * rng.uniform(0.1, 1.0, layer.shape)).astype(np.float32) for layer in (up, down)]
        self.limits = [rng.uniform(0.0, 0.3, layer.shape[1]).astype(np.float32) if thresholds else None for layer in (up, down)]
        self.order = rng.permutation(tokens)
        shuffled = np.empty_like(self.dense[0])
        shuffled[self.order] = self.dense[0]
        self.entries = entries(shuffled)
        self.active = [layer > (0 if limit is None else limit) for layer, limit in zip(self.dense, self.limits, strict=True)]

    def runs(self, side: int) -> Runs:
        offsets, features, values = entries(self.dense[side])
        tokens, width = self.dense[side].shape
        return make_runs(np.arange(tokens), np.zeros(tokens, np.int32), offsets, features, values, self.limits[side], width)

    def found(self, parents: list[int], children: list[int]) -> np.ndarray:
        up, down = self.runs(0), self.runs(1)
        of = (np.array(parents), np.array(children))
        return silencers(self.order, self.entries, self.limits[0], up, down, *of, LEAST, MOST)


def entries(dense: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, features = np.nonzero(dense)
    return np.searchsorted(rows, np.arange(len(dense) + 1)), features.astype(np.int32), dense[rows, features]


def expected(segment: Segment, parent: int, child: int) -> list[int]:
    """Features by `suppression` over all tokens of the parent."""
    here = segment.active[0][segment.active[0][:, parent]]
    silent = ~segment.active[1][segment.active[0][:, parent], child]
    z = suppression(here[silent].sum(axis=0), here[~silent].sum(axis=0), silent.sum(), (~silent).sum())
    z[parent] = 0
    ranked = [int(feature) for feature in np.argsort(-z, kind="stable")[:MOST] if z[feature] > LEAST]
    return ranked + [-1] * (MOST - len(ranked))


@pytest.mark.parametrize("thresholds", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_of_few_tokens_all_are_looked_at(seed: int, thresholds: bool) -> None:
    segment = Segment(240, seed, thresholds)
    assert segment.active[0].sum(axis=0).max() <= min(MOST_TOKENS)
    pairs = [(parent, child) for parent in range(UP) for child in range(DOWN)]
    found = segment.found([parent for parent, _ in pairs], [child for _, child in pairs])
    assert found.tolist() == [expected(segment, *pair) for pair in pairs]
    assert (found >= 0).any()


@pytest.mark.parametrize("tokens", [20_000, 50_001])
def test_of_many_tokens_a_sample_shows_what_silences_a_child(tokens: int) -> None:
    segment = Segment(tokens, 4, False)
    found = segment.found([0, 2, 5, -1], [0, 1, 2, 0])
    assert found[0].tolist() == [1, -1, -1, -1]
    assert sorted(found[1].tolist()) == [-1, -1, 3, 4]
    assert (found[2:] == -1).all()


def test_a_silencer_that_is_seldom_there_is_found_among_all_silent_tokens() -> None:
    segment = Segment(40_000, 5, False)
    up, down = segment.dense
    up[:, 1] *= np.random.default_rng(0).random(len(up)) < 0.006
    down[:, 0] = up[:, 0] * (up[:, 1] == 0)
    shuffled = np.empty_like(up)
    shuffled[segment.order] = up
    segment.entries = entries(shuffled)
    assert 5 <= ((up[:, 0] > 0) & (down[:, 0] == 0)).sum() <= 40
    assert segment.found([0], [0])[0, 0] == 1
