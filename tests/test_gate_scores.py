"""Blocks, masks and scores of gates: the compiled form against the reference, and what must hold whatever the data."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from kernels import BlockMasks, Blocks, Gates, GateTotals, Runs, block_masks, cut_blocks, gate_reference, make_runs, score_gates

WIDTH = 9  # features of each layer
PRIOR = (0.5, 0.25)
EXACT = ("cells", "sums", "squares", "documents", "deciding")


def layer_runs(lengths: np.ndarray, width: int, rates: np.ndarray, rng: np.random.Generator, threshold: bool = False) -> Runs:
    """A layer over documents of these lengths; in each, every feature is rare or frequent as a whole."""
    documents = np.repeat(np.arange(len(lengths)), lengths)
    topics = rng.random((len(lengths), width)) < 0.6
    active = (rng.random((len(documents), width)) < rates) & topics[documents]
    tokens, features = np.nonzero(active)
    offsets = np.concatenate([[0], np.cumsum(active.sum(axis=1))]).astype(np.int64)
    values = rng.random(len(tokens), np.float32) + np.float32(0.01)
    limits = np.full(width, 0.3, np.float32) if threshold else None
    order = np.arange(len(documents))
    return make_runs(order, documents.astype(np.int32), offsets, features.astype(np.int32), values, limits, width)


def every_gate(width: int, rng: np.random.Generator, count: int = 24) -> Gates:
    """Gates of all kinds; the best parent is one of the gate's, or another."""
    kinds = (np.arange(count) % 4).astype(np.uint8)
    parents = np.stack([rng.permutation(width)[:3] for _ in range(count)]).astype(np.int32)
    place = rng.integers(0, 4, count)
    best = np.where(place < 3, parents[np.arange(count), place % 3], rng.integers(0, width, count)).astype(np.int32)
    parents[kinds != 3, 2] = -1
    return Gates(kinds, parents, rng.integers(0, width, count).astype(np.int32), best)


class Segment:
    """Masks of two layers over documents, some of them carried."""

    def __init__(self, lengths: list[int], seed: int, rate: float = 0.3, threshold: bool = False) -> None:
        rng = np.random.default_rng(seed)
        self.lengths = np.array(lengths, np.int64)
        self.blocks = cut_blocks(self.lengths)
        rates = rate * rng.random(WIDTH)
        self.runs = [layer_runs(self.lengths, WIDTH, rates, rng, threshold) for _ in range(2)]
        self.up, self.down = (block_masks(runs, self.blocks) for runs in self.runs)
        self.half = rng.integers(0, 2, len(lengths)).astype(np.uint8)
        self.special = np.full(len(lengths), -1, np.int32)
        if len(lengths) > 2:
            self.special[[0, -1]] = 0, 1
        self.gates = every_gate(WIDTH, rng)

    def score(self, totals: GateTotals, kernel=score_gates, gates: Gates | None = None) -> np.ndarray:
        chosen = self.gates if gates is None else gates
        return kernel(self.up, self.down, chosen, self.blocks, self.half, self.special, totals, PRIOR)


def assert_close(found: GateTotals, expected: GateTotals) -> None:
    for name in EXACT:
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    for name in ("log_e", "score_sum", "score_squares"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-9, err_msg=name)


SEGMENTS = {
    "documents-of-all-lengths": ([1, 2, 3, 4, 5, 17, 22, 100, 128, 129, 300, 1, 40], 0.3),
    "one-token": ([1], 1.0),
    "no-token": ([0, 0], 0.3),
    "clusters-without-a-token": ([0, 30, 0, 0, 50, 0], 0.3),
    "one-long-document": ([700], 0.2),
    "whole-blocks-active": ([256, 256, 256], 1.0),
    "more-clusters-than-bits-of-a-word": ([9] * 130, 0.4),
    "rare": ([40] * 60, 0.01),
    "nothing-active": ([50, 50, 50], 0.0),
}


@pytest.mark.parametrize(("lengths", "rate"), SEGMENTS.values(), ids=SEGMENTS.keys())
@pytest.mark.parametrize("seed", [0, 1])
def test_totals_and_carried_sums_equal_the_reference(lengths: list[int], rate: float, seed: int) -> None:
    segment = Segment(lengths, seed, rate)
    found, expected = GateTotals.zero(24), GateTotals.zero(24)
    for _ in range(2):  # the second time on top of totals that are not zero
        carried = segment.score(found)
        assert np.array_equal(carried, segment.score(expected, gate_reference.score_gates))
        assert_close(found, expected)


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(0, 90), min_size=1, max_size=12), rate=st.floats(0.02, 1.0), seed=st.integers(0, 2**31))
def test_any_segment_gives_what_the_reference_gives(lengths: list[int], rate: float, seed: int) -> None:
    segment = Segment(lengths, seed, rate)
    found, expected = GateTotals.zero(24), GateTotals.zero(24)
    assert np.array_equal(segment.score(found), segment.score(expected, gate_reference.score_gates))
    assert_close(found, expected)


def test_long_evidence_neither_overflows_nor_drifts() -> None:
    """A child that is the AND of its parents: the product of bets passes 1e200 several times over."""
    rng = np.random.default_rng(5)
    lengths = np.full(60, 2000)
    blocks = cut_blocks(lengths)
    parents = rng.random((int(lengths.sum()), 2)) < 0.5
    up, down = _masks(parents, blocks), _masks(parents.all(axis=1)[:, None], blocks)
    gates = Gates(np.zeros(1, np.uint8), np.array([[0, 1, -1]], np.int32), np.zeros(1, np.int32), np.zeros(1, np.int32))
    clusters = np.zeros(60, np.uint8), np.full(60, -1, np.int32)
    found, expected = GateTotals.zero(1), GateTotals.zero(1)
    score_gates(up, down, gates, blocks, *clusters, found, PRIOR)
    gate_reference.score_gates(up, down, gates, blocks, *clusters, expected, PRIOR)
    assert (expected.log_e[0, :3] > 2 * np.log(1e200)).all()
    np.testing.assert_allclose(found.log_e, expected.log_e, rtol=1e-11)


def _masks(active: np.ndarray, blocks: Blocks) -> BlockMasks:
    """bool [n, D]."""
    cells = np.zeros((active.shape[1], len(blocks.tokens)), np.uint32)
    for token, feature in zip(*np.nonzero(active), strict=True):
        cells[feature, blocks.of_token[token]] |= np.uint32(1) << np.uint32(blocks.bit[token])
    features, where = np.nonzero(cells)
    starts = np.searchsorted(features, np.arange(active.shape[1] + 1)).astype(np.int64)
    return BlockMasks(starts, where.astype(np.int32), cells[features, where])


def test_the_same_segment_gives_the_same_bits_and_a_gate_does_not_see_its_neighbours() -> None:
    segment = Segment([60] * 40, 3)
    together, again, alone = GateTotals.zero(24), GateTotals.zero(24), GateTotals.zero(1)
    carried = segment.score(together)
    assert np.array_equal(segment.score(again), carried)
    for have, want in zip(again, together, strict=True):
        assert np.array_equal(have, want)
    for gate in range(24):
        alone = GateTotals.zero(1)
        part = Gates(*(array[gate : gate + 1] for array in segment.gates))
        assert np.array_equal(segment.score(alone, gates=part), carried[:, gate : gate + 1])
        for have, want in zip(alone, together, strict=True):
            assert np.array_equal(have[0], want[gate])


def test_two_segments_equal_one_that_is_cut_at_a_document() -> None:
    """Everything but the bits of log E, whose logarithms are taken at the end of each."""
    whole = Segment([50, 70, 20, 90], 4)
    whole.special[:] = -1
    once, twice = GateTotals.zero(24), GateTotals.zero(24)
    whole.score(once)
    for documents, first, last in ((slice(0, 2), 0, 120), (slice(2, 4), 120, 230)):
        blocks = cut_blocks(whole.lengths[documents])
        masks = [_masks(_active(masks, whole.blocks)[first:last], blocks) for masks in (whole.up, whole.down)]
        score_gates(*masks, whole.gates, blocks, whole.half[documents], whole.special[documents], twice, PRIOR)
    assert_close(twice, once)
    assert np.array_equal(twice.score_sum, once.score_sum)


def _active(masks: BlockMasks, blocks: Blocks) -> np.ndarray:
    """bool [n, D]."""
    columns = [np.concatenate(gate_reference.active_tokens(masks, feature, blocks)) for feature in range(WIDTH)]
    return np.stack(columns, axis=1)


def test_scores_average_to_nothing_when_the_child_is_shuffled_within_each_block() -> None:
    """The null that every test is about, on parents that go together: mean of s within five of its standard errors."""
    rng = np.random.default_rng(6)
    blocks = cut_blocks(np.full(300, 120))
    tokens = len(blocks.of_token)
    topic = np.repeat(rng.random((300, 4)) < 0.5, 120, axis=0)
    active = (rng.random((tokens, 4)) < 0.3) & topic
    order = np.lexsort((rng.random(tokens), blocks.of_token))
    gates = Gates(
        np.arange(4, dtype=np.uint8),
        np.array([[0, 1, -1]] * 3 + [[0, 1, 2]], np.int32),
        np.zeros(4, np.int32),
        np.zeros(4, np.int32),
    )
    totals = GateTotals.zero(4)
    clusters = np.zeros(300, np.uint8), np.full(300, -1, np.int32)
    score_gates(_masks(active[:, :3], blocks), _masks(active[order, 3:], blocks), gates, blocks, *clusters, totals, PRIOR)
    t1 = [(kind, test) for kind in range(4) for test in range(2 if kind < 3 else 3)]
    for kind, test in t1:
        assert totals.score_squares[kind, test] > 20
        assert abs(totals.score_sum[kind, test]) < 5 * totals.score_squares[kind, test] ** 0.5


@pytest.mark.parametrize("threshold", [False, True], ids=["no-threshold", "threshold"])
@pytest.mark.parametrize("lengths", [[1, 7, 33, 500], [0, 3, 0], [0]], ids=["all-lengths", "gaps", "no-token"])
def test_masks_equal_the_reference(lengths: list[int], threshold: bool) -> None:
    segment = Segment(lengths, 2, 0.5, threshold)
    for runs, found in zip(segment.runs, (segment.up, segment.down), strict=True):
        for have, want in zip(found, gate_reference.block_masks(runs, segment.blocks), strict=True):
            assert have.dtype == want.dtype
            assert np.array_equal(have, want)
        active = np.array(
            [np.bitwise_count(found.masks[first:last]).sum() for first, last in zip(found.starts, found.starts[1:], strict=False)]
        )
        by_feature = [
            (runs.values[runs.entries[a] : runs.entries[b]] > 0).sum() for a, b in zip(runs.starts, runs.starts[1:], strict=False)
        ]
        assert active.tolist() == by_feature


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(0, 4096), max_size=8))
def test_blocks_cover_every_cluster_in_order_and_none_is_longer_than_a_quarter_or_32(lengths: list[int]) -> None:
    blocks = cut_blocks(np.array(lengths, np.int64))
    wanted = []
    for cluster, length in enumerate(lengths):
        size = min(-(-length // 4), 32)
        wanted += [(cluster, min(size, length - first)) for first in range(0, length, size or 1)]
    assert list(zip(blocks.cluster.tolist(), blocks.tokens.tolist(), strict=True)) == wanted
    assert np.array_equal(blocks.of_token, np.repeat(np.arange(len(wanted)), blocks.tokens))
    assert blocks.bit.tolist() == [bit for tokens in blocks.tokens for bit in range(tokens)]


GOOD = Segment([30, 40, 50], 7)


def _changed(place: str, name: str, value: object) -> dict:
    parts = {"up": GOOD.up, "gates": GOOD.gates, "blocks": GOOD.blocks, "totals": GateTotals.zero(24)}
    return {place: parts[place]._replace(**{name: value})}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(_changed("gates", "kinds", np.full(24, 4, np.uint8)), r"gates.kinds holds 4 to 4, .* \[0, 4\)", id="kind"),
        pytest.param(_changed("gates", "best", np.full(24, 9, np.int32)), r"gates.best holds 9 to 9, .* \[0, 9\)", id="best"),
        pytest.param(_changed("gates", "children", np.full(24, -1, np.int32)), "gates.children holds -1 to -1", id="child"),
        pytest.param(
            _changed("gates", "parents", np.full((24, 3), 1, np.int32)), "third of two.* holds 1, .* -1", id="third-of-two"
        ),
        pytest.param(
            _changed("gates", "parents", np.full((24, 2), 1, np.int32)), r"gates.parents has shape \[24, 2\]", id="two-columns"
        ),
        pytest.param(
            _changed("up", "masks", GOOD.up.masks.astype(np.int32)), "up.masks is int32, it must be uint32", id="signed-masks"
        ),
        pytest.param(_changed("up", "blocks", GOOD.up.blocks + 99), "up.blocks holds", id="block-too-large"),
        pytest.param(_changed("up", "starts", GOOD.up.starts[:-1] * 0 + 1), "up.starts must rise from 0", id="starts"),
        pytest.param(_changed("blocks", "cluster", GOOD.blocks.cluster[::-1].copy()), "at least the one before", id="falling"),
        pytest.param(_changed("blocks", "tokens", GOOD.blocks.tokens * 9), "blocks.tokens holds", id="block-too-long"),
        pytest.param(
            _changed("totals", "cells", np.zeros((24, 16))), "totals.cells is float64, it must be int64", id="float-cells"
        ),
        pytest.param(_changed("totals", "sums", np.zeros((24, 5))), r"totals.sums has shape \[24, 5\]", id="sums"),
        pytest.param({"cluster_half": np.full(3, 2, np.uint8)}, "cluster_half holds 2 to 2", id="third-half"),
        pytest.param({"cluster_special": np.zeros(2, np.int32)}, r"cluster_special has shape \[2\]", id="special"),
        pytest.param({"prior": (0.5, 0.0)}, r"prior is \(0.5, 0.0\)", id="prior"),
    ],
)
def test_score_gates_refuses_what_it_would_misread_and_changes_nothing(change: dict, message: str) -> None:
    totals = GateTotals.zero(24)
    arguments = {
        "up": GOOD.up,
        "down": GOOD.down,
        "gates": GOOD.gates,
        "blocks": GOOD.blocks,
        "cluster_half": GOOD.half,
        "cluster_special": GOOD.special,
        "totals": totals,
        "prior": PRIOR,
    } | change
    with pytest.raises(ValueError, match=message):
        score_gates(**arguments)
    assert not any(array.any() for array in arguments["totals"])


def test_block_masks_refuses_blocks_of_a_shorter_segment() -> None:
    with pytest.raises(ValueError, match="blocks has 30 tokens, the runs need 1"):
        block_masks(GOOD.runs[0], cut_blocks(np.array([30])))
