"""Every registered part of the state, and the state as a whole, against the contract of `engine.counts.part`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from corpus_rig import UnsyncedDisk
from counts_stream import DICTIONARIES, PAIRS, Document, add, assert_equal, batch, contents, documents, projections, set_aside, zero
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import durable
from engine.counts.part import StatePart
from engine.counts.shape import RowSlots, RunShape
from engine.counts.state import State, layout

DOCUMENTS = documents()
THRESHOLDS = {
    "every threshold 0": 0.0,
    "one threshold": 0.5,
    "threshold per feature": [torch.linspace(0, 2, size).numpy() for size in DICTIONARIES],
}
# A bounded table that has room for all is a dense one: as such it keeps the whole contract.
ROOM = {(0, 2): RowSlots(max(DICTIONARIES), max(DICTIONARIES))}
SHAPES = {name: RunShape.of(DICTIONARIES, PAIRS, threshold).with_bounded(ROOM) for name, threshold in THRESHOLDS.items()}
SHAPES["int64 after a few tokens"] = RunShape.of(DICTIONARIES, PAIRS, 0.0, count_limit=10).with_bounded(ROOM)
KINDS = sorted(StatePart.registered)


@st.composite
def ways(draw: st.DrawFn) -> tuple[list[list[list[int]]], random.Random]:
    """A way to count the stream: for each of some workers its batches, each a list of documents; and a source of chance."""
    order = draw(st.permutations(range(len(DOCUMENTS))))
    batches: list[list[int]] = [[]]
    for document in order:
        if draw(st.booleans()):
            batches.append([])
        batches[-1].append(document)
    workers: list[list[list[int]]] = [[] for _ in range(draw(st.integers(1, 4)))]
    for group in batches:
        workers[draw(st.integers(0, len(workers) - 1))].append(group)
    return workers, draw(st.randoms(use_true_random=False))


def group_of(numbers: list[int]) -> list[Document]:
    return [DOCUMENTS[number] for number in numbers]


def one_pass(kind: type[StatePart], shape: RunShape, place: tuple[int, ...]) -> StatePart:
    part = zero(kind, shape, place)
    add(part, DOCUMENTS)
    return part


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "disk", UnsyncedDisk())
        yield tmp_path_factory.mktemp("parts")


def reloaded(part: StatePart, folder: Path) -> StatePart:
    path = folder / part.name
    size = part.save(path)
    assert size == path.stat().st_size
    return type(part).load(part.shape, part.place, path)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("kind", KINDS)
@given(way=ways())
@settings(max_examples=25, deadline=None)
def test_any_split_order_merge_tree_and_reload_gives_what_one_pass_gives(
    folder: Path, kind: str, shape: RunShape, way: tuple[list[list[list[int]]], random.Random]
) -> None:
    workers, chance = way
    part_class = StatePart.registered[kind]
    for place in part_class.places(shape):
        parts = []
        for batches in workers:
            part = zero(part_class, shape, place)
            for numbers in batches:
                add(part, group_of(numbers))
                if chance.random() < 0.2:
                    part = reloaded(part, folder)
            parts.append(part)
        while len(parts) > 1:  # a random tree
            left = parts.pop(chance.randrange(len(parts)))
            right = parts.pop(chance.randrange(len(parts)))
            left.merge(right)
            parts.append(reloaded(left, folder) if chance.random() < 0.3 else left)
        assert_equal(parts[0], one_pass(part_class, shape, place))


@pytest.mark.parametrize(("kind", "place"), [(part.kind, place) for _, part, place in layout(SHAPES["every threshold 0"])])
def test_merging_with_zero_on_either_side_changes_nothing(kind: str, place: tuple[int, ...]) -> None:
    shape = SHAPES["one threshold"]
    part_class = StatePart.registered[kind]
    left, right, expected = part_class.zero(shape, place), one_pass(part_class, shape, place), one_pass(part_class, shape, place)
    left.merge(right)
    right.merge(part_class.zero(shape, place))
    assert_equal(left, expected)
    assert_equal(right, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_merged_in_stays_as_it_is_and_is_not_shared(kind: str) -> None:
    shape = SHAPES["every threshold 0"]
    part_class = StatePart.registered[kind]
    place = part_class.places(shape)[0]
    total, other = part_class.zero(shape, place), one_pass(part_class, shape, place)
    total.merge(other)
    add(total, DOCUMENTS)
    assert_equal(other, one_pass(part_class, shape, place))


@pytest.mark.parametrize("kind", KINDS)
def test_a_zero_part_survives_saving_and_loading(folder: Path, kind: str) -> None:
    shape = SHAPES["every threshold 0"]
    part_class = StatePart.registered[kind]
    for place in part_class.places(shape):
        assert_equal(reloaded(part_class.zero(shape, place), folder), part_class.zero(shape, place))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group", [[], [2], [1]], ids=["no document", "an empty document", "one token"])
def test_a_batch_of_almost_nothing_is_counted_as_what_it_is(kind: str, group: list[int]) -> None:
    shape = SHAPES["every threshold 0"]
    part_class = StatePart.registered[kind]
    for place in part_class.places(shape):
        part = zero(part_class, shape, place)
        add(part, group_of(group))
        add(part, DOCUMENTS)
        expected = one_pass(part_class, shape, place)
        other = zero(part_class, shape, place)
        add(other, group_of(group))
        expected.merge(other)
        assert_equal(part, expected)


@given(way=ways())
@settings(max_examples=15, deadline=None)
def test_states_merge_to_the_state_of_one_pass(way: tuple[list[list[list[int]]], random.Random]) -> None:
    total, expected = State.zero(DICTIONARIES, PAIRS), State.zero(DICTIONARIES, PAIRS)
    expected.add(batch(DOCUMENTS), set_aside(DOCUMENTS), projections(DOCUMENTS))
    assert all(part.counts.sum() for part in expected.hidden.values())
    for batches in way[0]:
        worker = State.zero(DICTIONARIES, PAIRS)
        for numbers in batches:
            worker.add(batch(group_of(numbers)), set_aside(group_of(numbers)), projections(group_of(numbers)))
        total.merge(worker)
    assert total.tokens == expected.tokens == sum(len(document.positions) for document in DOCUMENTS)
    for part, wanted in zip(total.parts(), expected.parts(), strict=True):
        assert_equal(part, wanted)


def test_every_kind_of_part_says_what_it_counts_in_public_attributes() -> None:
    assert {"bounded_pairs", "gate_tables", "gates", "ledger", "marginals", "pairs", "watched"} < set(KINDS)
    for kind in KINDS:
        part_class = StatePart.registered[kind]
        shape = SHAPES["every threshold 0"]
        assert contents(part_class.zero(shape, part_class.places(shape)[0]))
