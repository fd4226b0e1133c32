"""The bounded pair table: what readers get of it, its file, and the budget that gives it its room."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from counts_stream import batch, documents

from engine.counts import bounded, budget
from engine.counts.bounded import BoundedTable
from engine.counts.pairs import PairTable
from engine.counts.shape import RowSlots, RunShape
from engine.counts.state import State, bytes_needed
from engine.errors import DamagedFile, DoesNotFit
from engine.views.effects import PairEffects
from engine.views.halves import compare_halves
from engine.views.ranking import BOUNDS, RANKED, Bounded, Side, best_cells, rank_bounded, rank_pair, take_cells
from kernels import CandidateLists

SIZES = (60, 50)
PAIR = (0, 1)
LENGTHS = (40, 3, 0, 25, 60, 1, 30, 33)


def stream(seed: int = 0) -> list:
    """Documents whose features fire by rank, so that there are frequent and rare partners."""
    found = documents(seed, LENGTHS, SIZES)
    rng = np.random.default_rng(seed)
    for document in found:
        for dense in document.layers:
            dense *= rng.random(dense.shape) < np.geomspace(0.9, 0.02, dense.shape[1])
    return found


def tables(average: int, most: int, seed: int = 0) -> tuple[PairTable, BoundedTable]:
    """The same stream in a dense and in a bounded table."""
    shapes = RunShape.of(SIZES), RunShape.of(SIZES).with_bounded({PAIR: RowSlots(average, most)})
    states = [State.of_shape(shape) for shape in shapes]
    for document in stream(seed):
        for state in states:
            state.add(batch([document], SIZES))
            table = state.pairs[PAIR]
            if isinstance(table, BoundedTable):
                table.count_gathered()  # document by document: so that rows are pruned
    dense, other = (state.pairs[PAIR] for state in states)
    assert isinstance(dense, PairTable) and isinstance(other, BoundedTable)
    return dense, other


EVERYONE = tuple(np.indices(SIZES).reshape(2, -1))


def test_what_is_gathered_is_counted_for_whoever_reads() -> None:
    state = State.of_shape(RunShape.of(SIZES).with_bounded({PAIR: RowSlots(50, 60)}))
    dense = State.of_shape(RunShape.of(SIZES))
    for document in stream():
        for one in (state, dense):
            one.add(batch([document], SIZES))
        for reader in (lambda table: table.at(*EVERYONE).joint, lambda table: table.block(np.arange(60), np.arange(50))):
            assert np.array_equal(reader(state.pairs[PAIR]), reader(dense.pairs[PAIR]))


@pytest.mark.parametrize("room", [RowSlots(60, 60), RowSlots(6, 12)], ids=["room for all", "little room"])
def test_every_reader_is_told_the_truth(room: RowSlots) -> None:
    dense, table = tables(*room)
    assert table.size == dense.size == SIZES
    assert table.exact == (room.average == 60)
    cells, truth = table.at(*EVERYONE), dense.at(*EVERYONE)
    assert (cells.joint <= truth.joint).all() and (truth.joint <= cells.joint + cells.errors).all()
    assert (cells.products <= truth.products * (1 + 1e-9)).all()
    complete = cells.joint == truth.joint
    np.testing.assert_allclose(cells.products[complete & (cells.errors == 0)], truth.products[complete & (cells.errors == 0)])
    for downstream in (True, False):
        most = table.unlisted(downstream)
        rows = table.downstream if downstream else table.upstream
        own, partner = EVERYONE if downstream else EVERYONE[::-1]
        outside = ~rows.has(own, partner)
        assert (truth.joint[outside] <= most[own[outside]]).all()
    found = np.concatenate([np.stack([part.up, part.down]) for part in table.supported(3)], axis=1)
    assert len(np.unique(found, axis=1).T) == len(found.T), "each pair once"
    listed = (cells.joint >= 3) & (cells.joint >= cells.errors)
    assert sorted(map(tuple, found.T)) == sorted(zip(*(axis[listed] for axis in EVERYONE), strict=True))
    for feature, downstream in ((1, True), (7, True), (1, False), (30, False)):
        line = table.line(feature, downstream=downstream, min_support=3)
        own = EVERYONE[0 if downstream else 1] == feature
        assert np.array_equal(line.joint, cells.joint[own & listed]) and np.array_equal(line.errors, cells.errors[own & listed])
        assert (np.diff(line.down if downstream else line.up) > 0).all()
    for rows, downstream in ((table.downstream, True), (table.upstream, False)):  # a snapshot keeps it while counting goes on
        assert not np.shares_memory(table.unlisted(downstream), rows.bounds)
    dense_rows = table.rows_by_half(1, 7, 4)
    assert dense_rows.shape == (4, SIZES[1], 2) and (dense_rows <= dense.rows_by_half(1, 7, 4)).all()


@pytest.mark.parametrize("places", [60, 8], ids=["with-room-for-all", "pruned"])
@pytest.mark.parametrize("known", [False, True], ids=["neither-cosines-nor-effects", "cosines-and-effects"])
def test_a_table_that_is_taken_apart_and_one_that_is_ranked_where_it_stands_have_the_same_lists(places: int, known: bool) -> None:
    _, table = tables(places, places)
    assert table.exact == (places == 60)
    state = State.of_shape(RunShape.of(SIZES))
    for document in stream():
        state.add(batch([document], SIZES))
    up, down = (Side.of(part) for part in state.marginals)
    cosines = np.random.default_rng(1).normal(size=SIZES).astype(np.float32) if known else None
    rates = [np.full(size, 3.0, np.float32) for size in SIZES]
    effects = PairEffects(np.ones_like, np.linspace(1, 9, 32), *rates) if known else None
    more: dict = {"k": 3, "cosines": cosines, "effects": effects}
    taken = take_cells(table, 2, 1 << 20, cosines)
    assert isinstance(taken, Bounded)
    whole = rank_pair(table, up, down, state.tokens, min_support=2, **more)
    for one, other in zip(whole, rank_bounded(taken, up, down, state.tokens, **more), strict=True):
        assert len(one.cells.joint)
        np.testing.assert_array_equal(one.offsets, other.offsets)
        np.testing.assert_array_equal(one.unlisted, other.unlisted)
        for column, same in zip(one.cells, other.cells, strict=True):
            np.testing.assert_array_equal(column, same)
    assert take_cells(table, 2, 1_000, cosines) is None


def test_with_room_for_all_every_view_is_that_of_the_dense_table() -> None:
    dense, table = tables(60, 60)
    assert len(table.sample(10)) and len(dense.sample(10))
    state = State.of_shape(RunShape.of(SIZES))
    for document in stream():
        state.add(batch([document], SIZES))
    up, down = (Side.of(part) for part in state.marginals)
    measures = [name for name in RANKED if name != "decoder_cosine" and name not in BOUNDS]
    for name, lists in best_cells(dense, up, down, state.tokens, measures, 5, 2).items():
        other = best_cells(table, up, down, state.tokens, measures, 5, 2)[name]
        assert np.array_equal(lists.rows, other.rows) and np.array_equal(lists.columns, other.columns), name
    for mine, theirs in zip(*(rank_pair(one, up, down, state.tokens, k=5, min_support=2) for one in (dense, table)), strict=True):
        assert np.array_equal(mine.offsets, theirs.offsets) and not theirs.unlisted.any()
        for name in ("up", "down", "joint", "joint_a", "error"):
            assert np.array_equal(getattr(mine.cells, name), getattr(theirs.cells, name)), name
    halves = [part.by_half.numpy() for part in state.marginals]
    of_dense, of_bounded = (compare_halves(one, *halves, state.ledger.tokens_by_half) for one in (dense, table))
    assert np.array_equal(of_dense.lists, of_bounded.lists) and of_dense[1:] == of_bounded[1:]
    found = []
    for one in (dense, table):
        lists = CandidateLists(up.count, down.count, np.arange(SIZES[1]), state.tokens, np.ones(1), 1.5, 4)
        one.offer_candidates(lists)
        found.append(lists.ranked)
    for name, mine, theirs in zip(found[0]._fields, *found, strict=True):
        if name in ("necessity", "sufficiency"):  # the others may name pairs that never were together: no bounded table has those
            assert all(set(one) == set(other) for one, other in zip(mine, theirs, strict=True)), name
    limits = np.full(60, 2), np.full(60, 200), np.full(50, 2), np.full(60, 10)
    for mine, theirs in zip(dense.likely_children(*limits), table.likely_children(*limits), strict=True):
        assert len(mine) and np.array_equal(mine, theirs)


def test_a_pruned_table_does_not_claim_to_know_what_it_never_saw() -> None:
    _, table = tables(6, 12)
    halves = [np.full((size, 2), 100) for size in SIZES]
    found = compare_halves(table, *halves, (100, 100))
    assert found.unseen_mass is None and found.pairs_at_all is None and found.pairs_seen > 0


def test_batches_are_gathered_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "GATHERED_TOKENS", 50)
    part = BoundedTable.zero(RunShape.of(SIZES).with_bounded({PAIR: RowSlots(8, 8)}), PAIR)
    counted = []
    for document in stream():
        part.add(batch([document], SIZES))
        counted.append(int(part.downstream.weights.sum()))
    assert counted[0] == 0 < counted[3] == counted[2 + 1] <= counted[-1]


@pytest.mark.parametrize("room", [RowSlots(60, 60), RowSlots(6, 12)], ids=["room for all", "little room"])
def test_it_is_saved_and_read_back(tmp_path: Path, room: RowSlots) -> None:
    _, table = tables(*room)
    size = table.save(tmp_path / table.name)
    assert size == (tmp_path / table.name).stat().st_size
    loaded = BoundedTable.load(table.shape, PAIR, tmp_path / table.name)
    for mine, theirs in ((table.downstream, loaded.downstream), (table.upstream, loaded.upstream)):
        assert np.array_equal(mine.bounds, theirs.bounds) and np.array_equal(mine.weights, theirs.weights)
        assert np.array_equal(mine.slots, theirs.slots)
        for one, other in zip(mine.rows(np.arange(len(mine.slots))), theirs.rows(np.arange(len(mine.slots))), strict=True):
            assert np.array_equal(one, other)
    before = loaded.at(*EVERYONE)
    loaded.add(batch(stream(1), SIZES))
    table.add(batch(stream(1), SIZES))
    for one, other in zip(loaded.at(*EVERYONE), table.at(*EVERYONE), strict=True):
        assert np.array_equal(one, other)
    assert loaded.at(*EVERYONE).joint.sum() > before.joint.sum()


def test_it_is_read_with_more_room_and_refused_with_too_little(tmp_path: Path) -> None:
    _, table = tables(20, 40)
    table.save(tmp_path / table.name)
    more = BoundedTable.load(table.shape.with_bounded({PAIR: RowSlots(30, 60)}), PAIR, tmp_path / table.name)
    assert np.array_equal(more.at(*EVERYONE).joint, table.at(*EVERYONE).joint)
    more.add(batch(stream(1), SIZES))
    assert more.at(*EVERYONE).joint.sum() > table.at(*EVERYONE).joint.sum()
    with pytest.raises(DoesNotFit, match="was saved with a larger --memory-budget"):
        BoundedTable.load(table.shape.with_bounded({PAIR: RowSlots(1, 1)}), PAIR, tmp_path / table.name)


def test_a_damaged_file_is_refused_wherever_it_is_damaged(tmp_path: Path) -> None:
    _, table = tables(4, 8)
    path = tmp_path / table.name
    table.save(path)
    content = path.read_bytes()
    for at in range(0, len(content), max(1, len(content) // 300)):
        path.write_bytes(content[:at])
        with pytest.raises(DamagedFile):
            BoundedTable.load(table.shape, PAIR, path)
        path.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
        with pytest.raises(DamagedFile):
            BoundedTable.load(table.shape, PAIR, path)
    path.write_bytes(content + b"x")
    with pytest.raises(DamagedFile, match="end"):
        BoundedTable.load(table.shape, PAIR, path)
    with pytest.raises(DamagedFile, match="part"):
        path.write_bytes(content)
        BoundedTable.load(RunShape.of((*SIZES, 3)).with_bounded({(1, 2): RowSlots(2, 2)}), (1, 2), path)


def test_a_budget_chooses_dense_tables_where_they_fit_and_shares_out_the_rest() -> None:
    shape = RunShape.of([1_000, 1_000, 20_000])
    dense = [PairTable.bytes_at(shape, pair) for pair in shape.pairs]
    other = bytes_needed(shape) - sum(dense)
    assert budget.fit(shape, None) is shape and budget.fit(shape, 2 * bytes_needed(shape)).bounded == {}
    assert "every joint count is exact" in budget.describe(shape)
    fitted = budget.fit(shape, other + 230_000_000)
    assert list(fitted.bounded) == [(1, 2)], "a small pair takes 16 MB of its share, the large one would take 320 MB"
    first, second = budget.layouts(fitted)
    assert (first.layout, first.bytes, first.kept) == ("dense", dense[0], None)
    assert second.layout == "bounded" and 150e6 < second.bytes < 205e6
    assert second.kept == fitted.bounded[1, 2].average // 2 > 50 and second.kept_most == fitted.bounded[1, 2].most
    assert bytes_needed(fitted) <= other + 230_000_000
    assert f"the {second.kept:,} partners" in budget.describe(fitted)
    assert not shape.same_counts_as(fitted) and fitted.same_counts_as(budget.fit(shape, other + 220_000_000))


def test_a_budget_that_is_too_small_says_what_is_needed() -> None:
    shape = RunShape.of([1_000, 1_000, 20_000])
    says = r"--memory-budget of 5,000,000 bytes: the statistics of single features need [\d,]+, and"
    with pytest.raises(DoesNotFit, match=says) as told:
        budget.fit(shape, 5_000_000)
    needed = int(told.value.message.split("it takes ")[1].split(" ")[0].replace(",", ""))
    assert budget.fit(shape, needed).bounded.keys() == set(shape.pairs)
    with pytest.raises(DoesNotFit):
        budget.fit(shape, int(needed * 0.97))
