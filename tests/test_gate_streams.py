"""The generator keeps its word, and the whole recipe finds what it planted and nothing else, on short streams."""

from __future__ import annotations

import io

import msgpack
import numpy as np
import pytest

from benchmarks.gate_recipe import CLUSTER_TOKENS, Recipe, blocks_of, score
from benchmarks.gate_streams import GateSpec, GateStream
from benchmarks.gates import NOTHING, methods, tally, through
from engine.corpus.activations import FrameStream
from engine.measures.gate_tests import Evidence, add_block, block_scores
from engine.measures.gates import AND, AND_NOT, OR, PARENTS, TWO_OF_THREE, holds

SPEC = GateSpec(tokens=60_000, up=220, down=120, gates=6, others=4, causes=6, segment=8192)


@pytest.fixture(scope="module")
def stream() -> GateStream:
    return GateStream(SPEC)


def dense(stream: GateStream) -> tuple[np.ndarray, np.ndarray]:
    """bool `[T, D]` of both layers."""
    found = []
    for layer, size in zip(stream.layers, (stream.spec.up, stream.spec.down), strict=True):
        active = np.zeros((stream.tokens, size), bool)
        active[np.repeat(np.arange(stream.tokens), np.diff(layer.offsets)), layer.features] = True
        found.append(active)
    return found[0], found[1]


def test_children_are_their_gates_but_for_label_noise_and_add_what_they_lose(stream: GateStream) -> None:
    up, down = dense(stream)
    wrong = 0
    for one in stream.planted:
        gate = holds(one.kind, *(up[:, parent] for parent in one.parents))
        child = down[:, one.child]
        assert abs(int(child.sum()) - int(gate.sum())) <= 1 + 0.01 * gate.sum()
        wrong += int((gate & ~child).sum())
    total = sum(int(down[:, one.child].sum()) for one in stream.planted)
    assert 0.012 < wrong / total < 0.028
    assert sorted({one.kind for one in stream.planted}) == [AND, OR, AND_NOT, TWO_OF_THREE]
    children = [one.child for one in stream.planted] + np.concatenate(list(stream.without.values())).tolist()
    assert sorted(children) == list(range(SPEC.down))


def test_without_label_noise_children_are_their_gates() -> None:
    clean = GateStream(SPEC._replace(label_noise=0.0, tokens=20_000))
    up, down = dense(clean)
    for one in clean.planted:
        np.testing.assert_array_equal(holds(one.kind, *(up[:, parent] for parent in one.parents)), down[:, one.child])
    reports = GateStream(SPEC._replace(misses_only=True, label_noise=0.0, gates=0, others=0, tokens=20_000))
    up, down = dense(reports)
    for child in reports.without["common cause"]:
        inside = (up & down[:, [child]]).sum(axis=0) == up.sum(axis=0)
        covers = np.sort((up & down[:, [child]]).sum(axis=0)[inside])[::-1]
        assert covers[1] >= 0.3 * down[:, child].sum()


def test_deciding_tokens_are_those_at_which_gate_and_best_parent_part(stream: GateStream) -> None:
    up, down = dense(stream)
    for one in stream.planted:
        parents = [up[:, parent] for parent in one.parents]
        gate, child = holds(one.kind, *parents), down[:, one.child]
        f1 = [2 * (parent & child).sum() / (parent.sum() + child.sum()) for parent in parents]
        best = parents[int(np.argmax(f1))]
        disagreeing = (gate != best) & (gate == child)
        np.testing.assert_array_equal(one.disagreeing, np.flatnonzero(disagreeing))
        deciding = gate & child if one.kind in (AND, TWO_OF_THREE) else disagreeing
        np.testing.assert_array_equal(one.deciding, np.flatnonzero(deciding))


def test_deciding_documents_are_counted_from_a_token_on(stream: GateStream) -> None:
    starts = stream.starts
    tokens = np.array([starts[2], starts[2] + 1, starts[5], starts[9]])
    assert [stream.documents_of(tokens, int(after)) for after in (0, starts[2] + 1, starts[2] + 2, starts[9] + 1)] == [
        3,
        3,
        2,
        0,
    ]


def test_parents_share_what_they_are_told_to() -> None:
    shared = GateStream(SPEC._replace(shared=0.3))
    up, _ = dense(shared)
    for one in shared.planted:
        if PARENTS[one.kind] == 2:
            first, second = (up[:, parent] for parent in one.parents)
            part = (first & second).sum() / min(first.sum(), second.sum())
            assert 0.28 < part < 0.5


def test_features_of_one_document_go_together_and_features_of_both_layers_do() -> None:
    noise = GateStream(SPEC._replace(gates=0, others=0, causes=0, tokens=200_000))
    counts = [np.add.reduceat(active.astype(float), noise.starts[:-1], axis=0) for active in dense(noise)]
    expected = np.diff(noise.starts)[:, None] * counts[0].sum(axis=0) / noise.tokens
    spread = ((counts[0] - expected) ** 2).sum(axis=0) / expected.sum(axis=0)
    assert np.median(spread) > 1.5  # a document repeats itself: 1 for independent tokens
    correlation = np.corrcoef(counts[0].T, counts[1].T)[: SPEC.up, SPEC.up :]
    assert (correlation > 0.3).sum() > 50


def test_segments_hold_the_whole_stream_and_frames_are_what_the_api_takes(stream: GateStream) -> None:
    segments = list(stream.segments())
    assert len(segments) > 3 and sum(int(one.lengths.sum()) for one in segments) == stream.tokens
    for layer, parts in zip(stream.layers, ([one.up for one in segments], [one.down for one in segments]), strict=True):
        np.testing.assert_array_equal(np.concatenate([part.features for part in parts]), layer.features)
        np.testing.assert_array_equal(np.concatenate([part.values for part in parts]), layer.values)
        np.testing.assert_array_equal(np.concatenate([np.diff(part.offsets) for part in parts]), np.diff(layer.offsets))
    body = io.BytesIO()
    for segment in segments:
        body.writelines(map(msgpack.packb, segment.frames()))
    reader = FrameStream((SPEC.up, SPEC.down), 1 << 20)
    frames = list(reader.feed(body.getvalue()))
    reader.finish()
    assert [frame.tokens for frame in frames] == np.diff(stream.starts).tolist()
    assert [frame.half for frame in frames] == np.concatenate([one.halves for one in segments]).tolist()
    np.testing.assert_array_equal(np.concatenate([frame.layers[1].features for frame in frames]), stream.layers[1].features)


def test_a_dictionary_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="dictionary up of 96 features, this has 50"):
        GateStream(SPEC._replace(up=50, gates=6, others=4, causes=6))


def test_the_same_specification_is_the_same_stream_and_another_seed_another() -> None:
    small = SPEC._replace(tokens=5_000)
    first, again, other = GateStream(small), GateStream(small), GateStream(small._replace(seed=1))
    for one, two in zip(first.layers, again.layers, strict=True):
        for column, same in zip(one, two, strict=True):
            np.testing.assert_array_equal(column, same)
    assert not np.array_equal(first.layers[0].features, other.layers[0].features)


def test_blocks_are_cut_within_clusters_of_documents() -> None:
    block, bit, sizes = blocks_of(np.array([1, 5, 200, CLUSTER_TOKENS + 3]))
    assert sizes[:10].tolist() == [1, 2, 2, 1, 32, 32, 32, 32, 32, 32]
    assert sizes.sum() == len(block) and sizes[-3:].tolist() == [1, 1, 1] and bit.max() == 31
    np.testing.assert_array_equal(np.bincount(block), sizes)


def test_scores_of_the_recipe_are_those_of_the_reference_block_by_block(stream: GateStream) -> None:
    up, down = dense(stream)
    block, bit, sizes = blocks_of(np.diff(stream.starts)[:150])
    tokens = len(block)
    masks = []
    for active in (up[:tokens], down[:tokens]):
        mask = np.zeros((active.shape[1], len(sizes)), np.uint32)
        np.bitwise_or.at(mask.T, block, active.astype(np.uint32) << bit[:, None])
        masks.append(mask)
    gates = stream.planted
    kinds = np.array([one.kind for one in gates])
    parents = np.array([(*one.parents, -1)[:3] for one in gates], np.int32)
    cells, found = np.zeros((len(gates), 16), np.int64), Evidence.zero(len(gates))
    score(*masks, sizes, kinds, parents, np.array([one.child for one in gates]), cells, *found)
    for at, one in enumerate(gates):
        columns = [up[:tokens, parent] for parent in one.parents] + [np.zeros(tokens, bool)] * (3 - len(one.parents))
        pattern = sum(column.astype(int) << place for place, column in enumerate([*columns, down[:tokens, one.child]]))
        by_block = np.zeros((len(sizes), 16), int)
        np.add.at(by_block, (block, pattern), 1)
        expected = Evidence.zero(1)
        for s, c in zip(*block_scores(one.kind, by_block), strict=True):
            add_block(expected, s[None], c[None])
        np.testing.assert_array_equal(cells[at], by_block.sum(axis=0))
        for part, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(part[at], wanted[0], rtol=1e-9, atol=1e-9)


def test_tables_of_the_recipe_count_what_came_after_the_choice(stream: GateStream) -> None:
    recipe, begun = Recipe(SPEC.up, SPEC.down), 0
    up, down = dense(stream)
    for segment in stream.segments():
        recipe.add(segment)
        begun += int(segment.lengths.sum())
    chosen = recipe.candidates()
    checked = 0
    for child in np.flatnonzero(chosen[:, 1] >= 0):
        since = int(recipe._since[child])
        parents = chosen[child]
        columns = [up[since:begun, parent] if parent >= 0 else np.zeros(begun - since, bool) for parent in parents]
        pattern = sum(column.astype(int) << slot for slot, column in enumerate([*columns, down[since:begun, child]]))
        wanted = np.bincount(pattern, minlength=1 << (len(parents) + 1))
        np.testing.assert_array_equal(recipe._cells[child, 1:], wanted[1:])
        checked += since > 0 and wanted[1:].sum() > 0
    assert checked > 20


def test_planted_gates_come_back_and_nothing_else_does() -> None:
    spec = GateSpec(tokens=1_000_000, up=350, down=200, gates=15, others=10, causes=15)
    found = GateStream(spec)
    run = through(found, Recipe(found.spec.up, found.spec.down), every=True)
    eligible = run.deciding >= 50
    one = dict(methods(found, run.finder))
    gates = tally(found, eligible, one["gates"])
    assert gates.eligible.min() >= 5
    assert gates.found.sum() >= 0.9 * gates.eligible.sum() and gates.right.sum() >= 0.95 * gates.found.sum()
    assert gates.false <= 0.05 * gates.published and gates.published >= 30
    plain = tally(found, eligible, one["description length"])
    assert plain.false > 30  # what the tests are for


@pytest.mark.parametrize("what", NOTHING)
def test_without_a_gate_none_is_published_at_any_time(what: str) -> None:
    published, plain = 0, 0
    for seed in range(3):
        found = GateStream(NOTHING[what]._replace(seed=seed, tokens=100_000))
        run = through(found, Recipe(found.spec.up, found.spec.down), every=True)
        published += run.most > 0
        plain += len(dict(methods(found, run.finder))["description length"].child) > 0
    assert published == 0 and plain == 3


def test_a_gate_that_is_judged_by_the_data_that_chose_it_is_found_in_noise() -> None:
    """What the choice of later data is for: the leading pair of 1,000 features, chosen and fitted on the same documents."""
    rng = np.random.default_rng(0)
    size, tokens = 32, 32 * 150
    up, child = (rng.random((tokens, 1000)) < 0.05).astype(int), (rng.random(tokens) < 0.05).astype(int)
    leading = np.argsort(-(up.T @ child))[:2]
    second = (rng.random((tokens, 1000)) < 0.05).astype(int)
    growth = []
    for parents in (up[:, leading], second[:, leading]):
        found = Evidence.zero(1)
        pattern = parents @ [1, 2] + 8 * child
        for start in range(0, tokens, size):
            s, c = block_scores(OR, np.bincount(pattern[start : start + size], minlength=16))
            add_block(found, s[None], c[None])
        growth.append(found.log_e[0, :2].max())
    assert growth[0] > 3.0 > 1.0 > growth[1]
