"""Gates in the engine's own state, on streams whose gates are known: what chose never judges, and a replay gives the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.gate_engine import PAIR, Engine
from benchmarks.gate_recipe import Recipe
from benchmarks.gate_streams import GateSpec, GateStream
from benchmarks.gates import methods, tally, through
from engine.measures.gate_tests import GATE

SPEC = GateSpec(tokens=600_000, up=220, down=120, gates=12, others=4, causes=6, segment=8192)


@pytest.fixture(scope="module")
def stream() -> GateStream:
    return GateStream(SPEC)


@pytest.fixture(scope="module")
def engine(stream: GateStream) -> Engine:
    found = Engine(SPEC.up, SPEC.down)
    for segment in stream.segments():
        found.add(segment)
    return found


def dense(stream: GateStream) -> list[np.ndarray]:
    """bool `[T, D]` of both layers."""
    found = []
    for layer, size in zip(stream.layers, (SPEC.up, SPEC.down), strict=True):
        active = np.zeros((stream.tokens, size), bool)
        active[np.repeat(np.arange(stream.tokens), np.diff(layer.offsets)), layer.features] = True
        found.append(active)
    return found


def test_planted_gates_come_back_and_nothing_else_does(stream: GateStream) -> None:
    run, plain = through(stream, Engine(SPEC.up, SPEC.down), True), through(stream, Recipe(SPEC.up, SPEC.down), True)
    name, gates = next(methods(stream, run.finder))
    assert name == "gates"
    found = tally(stream, run.deciding >= 50, gates)
    assert found.false == 0
    assert found.eligible.sum() >= 20
    assert (found.eligible > 0).all(), "every kind"
    assert found.found.sum() == found.right.sum() >= 0.9 * found.eligible.sum()
    of_recipe = plain.finder.gates()
    published = {
        frozenset(zip(part.child[part.verdict == GATE].tolist(), part.kind[part.verdict == GATE].tolist(), strict=True))
        for part in (run.finder.gates(), of_recipe)
    }
    assert len(published) == 1, "the engine and the plain recipe publish the same"


def test_a_gate_is_judged_by_the_tokens_after_its_nomination_alone(stream: GateStream, engine: Engine) -> None:
    up, down = dense(stream)
    gates = engine.state.gates[PAIR]
    assert len(gates) > 10
    assert (gates.counted_from > 0).all()
    for row in range(len(gates)):
        after = slice(int(gates.counted_from[row]), None)
        index = 8 * down[after, gates.children[row]].astype(int)
        for place, parent in enumerate(gates.parents[row].tolist()):
            if parent >= 0:
                index += up[after, parent].astype(int) << place
        expected = np.bincount(index, minlength=16)
        np.testing.assert_array_equal(gates.totals.cells[row, 1:], expected[1:])


def test_a_table_holds_the_tokens_after_its_candidates_were_chosen_alone(stream: GateStream, engine: Engine) -> None:
    up, down = dense(stream)
    tables = engine.state.gate_tables[PAIR]
    assert (tables.candidates >= 2).sum() > 50
    for child in np.flatnonzero(tables.candidates):
        after = slice(int(tables.counted_from[child]), None)
        index = down[after, child].astype(int) << tables.parents.shape[1]
        for slot, parent in enumerate(tables.parents[child].tolist()):
            if parent >= 0:
                index += up[after, parent].astype(int) << slot
        expected = np.bincount(index, minlength=tables.cells.shape[1])
        np.testing.assert_array_equal(tables.cells[child, 1:].numpy(), expected[1:])


def test_a_run_that_was_saved_and_loaded_after_every_segment_ends_with_the_same_bits(
    stream: GateStream, engine: Engine, tmp_path: Path
) -> None:
    other = Engine(SPEC.up, SPEC.down)
    for segment in stream.segments():
        other.add(segment)
        for part in list(other.state.parts()):
            if part.kind in ("gates", "gate_tables"):
                part.save(tmp_path / part.name)
                vars(part).update(vars(type(part).load(part.shape, part.place, tmp_path / part.name)))
    for part, wanted in zip(other.state.parts(), engine.state.parts(), strict=True):
        if part.kind in ("gates", "gate_tables"):
            for name, column in wanted.arrays()[1].items():
                assert part.arrays()[1][name].tobytes() == column.tobytes(), (part.name, name)
