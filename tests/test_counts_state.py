"""What the state counts, against dense activations; its limits, and its errors."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from counts_stream import DICTIONARIES, PAIRS, SetAside, batch, documents, set_aside, sparse

from engine.corpus.segment import Piece
from engine.counts import memory, pairs
from engine.counts.documents import DocumentSet
from engine.counts.pairs import PairTable
from engine.counts.shape import INT32_LIMIT, RunShape, adjacent_pairs
from engine.counts.state import State, bytes_needed
from engine.encoder.batch import SparseBatch
from engine.errors import BadInput, DoesNotFit

DOCUMENTS = documents(seed=3)
DENSE = [
    np.concatenate([document.layers[layer] for document in DOCUMENTS]).astype(np.float64) for layer in range(len(DICTIONARIES))
]
HALF_OF_TOKEN = np.concatenate([np.full(len(document.positions), document.piece.half) for document in DOCUMENTS])
PER_FEATURE = [np.linspace(0, 2, size, dtype=np.float32) for size in DICTIONARIES]


@pytest.mark.parametrize("threshold", [0.0, 1.0, PER_FEATURE], ids=["threshold 0", "threshold 1", "threshold per feature"])
def test_counts_use_what_is_above_the_threshold_and_sums_use_everything(threshold: float | list[np.ndarray]) -> None:
    state = State.zero(DICTIONARIES, PAIRS, threshold)
    for document in DOCUMENTS:
        state.add(batch([document]))
    limits = [np.full(size, threshold) for size in DICTIONARIES] if isinstance(threshold, float) else threshold
    active = [dense > limit for dense, limit in zip(DENSE, limits, strict=True)]
    assert state.ledger.tokens_by_half == [(half == HALF_OF_TOKEN).sum() for half in (0, 1)]
    for layer, marginals in enumerate(state.marginals):
        assert marginals.by_half.T.tolist() == [active[layer][half == HALF_OF_TOKEN].sum(0).tolist() for half in (0, 1)]
        assert marginals.count.tolist() == active[layer].sum(0).tolist()
        np.testing.assert_allclose(marginals.sum, DENSE[layer].sum(0), rtol=1e-12)
        np.testing.assert_allclose(marginals.sum_of_squares, (DENSE[layer] ** 2).sum(0), rtol=1e-12)
    assert list(state.pairs) == list(PAIRS)
    for (up, down), table in state.pairs.items():
        for half in (0, 1):
            joint = active[up][half == HALF_OF_TOKEN].astype(np.int64).T @ active[down][half == HALF_OF_TOKEN].astype(np.int64)
            assert table.counts[:, :, half].tolist() == joint.tolist()
        np.testing.assert_allclose(table.products, DENSE[up].T @ DENSE[down], rtol=1e-6)


def test_a_threshold_is_compared_in_float32_as_the_activations_are() -> None:
    value = np.float32(0.1)
    state = State.zero([1, 1], threshold=0.1)
    layer = sparse(np.array([[value], [np.nextafter(value, np.float32(1))]], np.float32))
    state.add(SparseBatch((layer, layer), np.arange(2), np.zeros(2, np.int32), (Piece("u", "c", 0, None, 0, 0, 2, True),)))
    assert state.marginals[0].count.tolist() == [1]
    assert state.pairs[0, 1].counts.tolist() == [[[1, 0]]]


def test_strongest_is_the_maximum_and_the_first_token_that_has_it() -> None:
    state = State.zero(DICTIONARIES, PAIRS, threshold=2.0)
    for document in reversed(DOCUMENTS):
        state.add(batch([document]))
    positions = np.concatenate([document.positions for document in DOCUMENTS])
    for layer, strongest in enumerate(state.strongest):
        best = DENSE[layer].max(0)
        first = np.where(best > 0, positions[DENSE[layer].argmax(0)], -1)
        assert strongest.value[:, 0].tolist() == best.astype(np.float32).tolist()
        assert strongest.position[:, 0].tolist() == first.tolist()
        assert (strongest.value[0, 0], strongest.position[0, 0]) == (0, -1), "feature 0 never fires"


def test_the_ledger_counts_tokens_documents_and_what_was_set_aside_exactly() -> None:
    state = State.zero(DICTIONARIES, PAIRS)
    state.add(batch(DOCUMENTS[:5]), set_aside(DOCUMENTS[:5]))
    state.add(batch(DOCUMENTS[5:]), set_aside(DOCUMENTS[5:]))
    for upload in ("first", "second"):
        mine = [document for document in DOCUMENTS if document.piece.upload == upload]
        account = state.ledger.account(upload)
        assert account.tokens_counted == sum(document.piece.tokens for document in mine)
        assert account.documents_counted == len({document.piece.number for document in mine})
        assert account.set_aside_tokens == sum(item.tokens for document in mine for item in document.set_aside)
        assert account.set_aside_documents == len({item.document for document in mine for item in document.set_aside})
    assert state.ledger.account("first").reasons == ("NaN in document 1", "NaN in document 5")
    assert state.ledger.account("never seen").tokens_counted == 0
    assert "never seen" not in state.ledger.uploads


def test_a_document_in_several_batches_counts_once_and_only_when_its_end_was_there() -> None:
    state = State.zero([1, 1])
    layer = sparse(np.ones((1, 1), np.float32))

    def piece(number: int, last: bool) -> SparseBatch:
        return SparseBatch(
            (layer, layer), np.zeros(1, np.int64), np.zeros(1, np.int32), (Piece("u", "c", number, None, 0, 0, 1, last),)
        )

    state.add(piece(7, last=False))
    assert state.ledger.account("u").documents_counted == 0
    for _ in range(3):
        state.add(piece(7, last=True))
    state.ledger.finish(
        [Piece("u", "c", 7, None, 0, 0, 1, True), Piece("u", "c", 8, None, 0, 0, 0, True), Piece("u", "c", 9, None, 0, 0, 5, False)]
    )
    assert state.ledger.account("u").documents_counted == 2, "number 8 is empty and left no token; number 9 goes on"
    assert state.ledger.account("u").tokens_counted == state.tokens == 4


def test_a_document_with_faults_in_two_batches_is_set_aside_once() -> None:
    state = State.zero([1, 1])
    state.add(batch([], [1, 1]), [SetAside("u", 3, 7, "NaN")])
    state.add(batch([], [1, 1]), [SetAside("u", 2, 7, "NaN"), SetAside("u", 1, 8, "NaN")])
    account = state.ledger.account("u")
    assert (account.set_aside_documents, account.set_aside_tokens) == (2, 6)


def test_few_reasons_are_kept_and_the_same_ones_in_any_order() -> None:
    first, second = State.zero([1, 1]), State.zero([1, 1])
    reasons = [SetAside("u", 1, 1, f"reason {letter}") for letter in "fadbec"]
    first.add(batch([], [1, 1]), reasons)
    second.add(batch([], [1, 1]), reasons[::-1])
    assert first.ledger.account("u") == second.ledger.account("u")
    assert first.ledger.account("u").reasons == ("reason a", "reason b", "reason c")


def test_a_document_set_holds_what_a_set_holds() -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        numbers, ranges = set(), DocumentSet()
        for start in rng.integers(0, 40, 25).tolist():
            end = start + int(rng.integers(1, 4))
            numbers.update(range(start, end))
            ranges.add(start, end)
        assert len(ranges) == len(numbers)
        assert {number for number in range(60) if number in ranges} == numbers
        kept = list(ranges.ranges())
        assert all(end < start for (_, end), (start, _) in pairwise(kept)), "sorted, and none touches the next"
        assert DocumentSet(ranges.array().tolist()) == ranges
    with pytest.raises(ValueError, match=r"\[3, 3\)"):
        DocumentSet().add(3, 3)


def one_token(value: float = 1.0) -> SparseBatch:
    layer = sparse(np.full((1, 1), value, np.float32))
    return SparseBatch((layer, layer), np.zeros(1, np.int64), np.zeros(1, np.int32), (Piece("u", "c", 0, None, 0, 0, 1, True),))


def test_a_table_becomes_int64_before_a_count_passes_the_limit_and_not_while_counts_are_small() -> None:
    state = State.zero([1, 1], threshold=2.0, count_limit=20)
    table = state.pairs[0, 1]
    for _ in range(100):
        state.add(one_token(1.0))
    assert table.counts.dtype == torch.int32, "100 tokens, but no cell has a count"
    for count in range(1, 60):
        state.add(one_token(3.0))
        assert table.counts.tolist() == [[[count, 0]]]
        assert table.counts.dtype == torch.int64 or count <= 20
    assert table.counts.dtype == torch.int64


def test_counts_go_on_past_two_to_the_31() -> None:
    shape = RunShape.of([1, 1])
    assert shape.count_limit == INT32_LIMIT == 2**31 - 1
    table = PairTable(
        shape, (0, 1), torch.tensor([[[INT32_LIMIT - 2, 0]]], dtype=torch.int32), torch.zeros(1, 1, dtype=torch.float64)
    )
    table._bound = INT32_LIMIT - 2
    for count in range(INT32_LIMIT - 1, INT32_LIMIT + 3):
        table.add(one_token())
        assert table.counts.tolist() == [[[count, 0]]]


def test_two_large_int32_tables_merge_without_wrapping() -> None:
    shape = RunShape.of([1, 1])
    tables = []
    for count in (2**30 + 5, 2**30 + 7, 2**31 - 1):
        table = PairTable(shape, (0, 1), torch.full((1, 1, 2), count, dtype=torch.int32), torch.zeros(1, 1, dtype=torch.float64))
        table._bound = count
        tables.append(table)
    tables[0].merge(tables[1])
    assert tables[0].counts.tolist() == [[[2**31 + 12] * 2]]
    tables[2].merge(tables[0])
    assert tables[2].counts.tolist() == [[[2**32 + 11] * 2]]


def test_an_int64_table_survives_saving_and_loading(tmp_path: Path) -> None:
    shape = RunShape.of([1, 2])
    table = PairTable(shape, (0, 1), torch.tensor([[[2**40, 1], [0, 3]]]), torch.tensor([[0.5, 0.0]], dtype=torch.float64))
    table.save(tmp_path / table.name)
    loaded = PairTable.load(shape, (0, 1), tmp_path / table.name)
    assert loaded.counts.dtype == torch.int64
    assert loaded.counts.tolist() == [[[2**40, 1], [0, 3]]]
    assert loaded.products.tolist() == [[0.5, 0.0]]


def test_a_table_that_cannot_become_int64_says_so_and_nothing_of_the_batch_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    state = State.zero([1, 1], count_limit=3)
    for _ in range(3):
        state.add(one_token())
    monkeypatch.setattr(memory, "available_bytes", lambda *_: 7)
    with pytest.raises(DoesNotFit, match=r"layer pair \(0, 1\).*16 bytes needed, 7 bytes of memory available on cpu"):
        state.add(one_token())
    assert state.tokens == state.marginals[0].count.item() == state.pairs[0, 1].block([0], [0]) == 3


def test_a_state_that_does_not_fit_names_the_bytes_it_needs_and_the_bytes_there_are() -> None:
    sizes = [24_576] * 12
    needed = bytes_needed(RunShape.of(sizes))
    layers, pairs = 12 * 24_576 * (32 + 8 * 20 + 4 + 48 + 64 * 8), 11 * 24_576 * (8 * (2 + 7 + 16) + 1056 + 8)
    assert needed == 11 * 24_576**2 * 16 + layers + pairs
    with pytest.raises(
        DoesNotFit, match=rf"11 layer pairs.*24576.*{needed:,} bytes needed, 1,000 bytes of memory available on cpu"
    ):
        State.zero(sizes, available=1000)
    assert State.zero([10, 10], available=bytes_needed(RunShape.of([10, 10]))).tokens == 0


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("_", ".", 1)).write_text(f"{value}\n")
    return folder


def test_the_memory_limit_of_every_control_group_above_is_seen(tmp_path: Path) -> None:
    machine = memory.available_bytes(own_groups=tmp_path / "none")
    root = tmp_path / "v2"
    write(root / "a" / "b", memory_max="max", memory_current=10)
    write(root / "a", memory_max=5000, memory_current=3000, memory_stat="anon 1\ninactive_file 400")
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    assert memory.available_bytes(cgroup=root, own_groups=own) == 2400
    old = tmp_path / "v1"
    for folder, limit in ((old / "memory" / "a", 900), (old / "memory", 2**60)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.limit_in_bytes").write_text(str(limit))
        (folder / "memory.usage_in_bytes").write_text("1000")
    own.write_text("9:name=systemd:/\n4:cpu,memory:/a\n0::/\n")
    assert memory.available_bytes(cgroup=old, own_groups=own) == 0, "over its limit"
    own.write_text("4:memory:/\n")
    assert 0 < memory.available_bytes(cgroup=old, own_groups=own) <= 2 * machine, "a limit of 2^60 is none"


def test_a_table_is_written_and_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "BLOCK_CELLS", 40)
    shape = RunShape.of([23, 17])
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 5, (23, 17, 2)) * (rng.random((23, 17, 2)) < 0.2)
    counts[8:12] = 0  # blocks of two rows without a cell
    counts[3, 3], counts[20, 1] = 300, [0, 2**20]
    table = PairTable(shape, (0, 1), torch.from_numpy(counts.astype(np.int32)), torch.from_numpy(counts.sum(2) * 0.25))
    table.products[5, 5] = 1e-300
    assert len(table.blocks()) == 12
    size = table.save(tmp_path / "t")
    assert size < 23 * 17 * 16 / 2, "the zeros are not in the file"
    monkeypatch.undo()  # the block size of the writer is in the file
    loaded = PairTable.load(shape, (0, 1), tmp_path / "t")
    assert torch.equal(loaded.counts, table.counts) and torch.equal(loaded.products, table.products)
    assert loaded._bound == 2**20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dictionaries": []}, "one size of 1 or more per layer"),
        ({"dictionaries": [3, 0]}, r"got \[3, 0\]"),
        ({"dictionaries": [3, 3], "pairs": [(1, 0)]}, r"\(1, 0\): needs 0 <= up < down <= 1"),
        ({"dictionaries": [3, 3], "pairs": [(0, 2)]}, r"\(0, 2\)"),
        ({"dictionaries": [3, 3], "pairs": [(0, 1), (0, 1)]}, "once each"),
        ({"dictionaries": [3, 3], "threshold": -1.0}, "threshold of layer 0 must be finite and at least 0, got -1"),
        ({"dictionaries": [3, 3], "threshold": [np.zeros(3), np.array([0, np.nan, 1])]}, "threshold of layer 1 .* got nan"),
        ({"dictionaries": [3, 3], "threshold": [np.zeros(3), np.zeros(4)]}, r"shapes \[\(3,\), \(3,\)\], got \[\(3,\), \(4,\)\]"),
    ],
    ids=[
        "no layer",
        "empty layer",
        "pair backwards",
        "no such layer",
        "pair twice",
        "negative threshold",
        "NaN threshold",
        "wrong length",
    ],
)
def test_what_no_run_can_have_is_refused_by_name(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        State.zero(**arguments)  # type: ignore[arg-type]  # wrong on purpose


def test_states_of_other_runs_do_not_merge_and_batches_of_other_runs_do_not_count() -> None:
    state = State.zero([3, 3, 3])
    for other in (State.zero([3, 3, 4]), State.zero([3, 3, 3], [(0, 2)]), State.zero([3, 3, 3], threshold=0.5)):
        with pytest.raises(DoesNotFit, match="dictionaries, layer pairs and thresholds"):
            state.merge(other)
    with pytest.raises(DoesNotFit, match="a batch of 2 layers for a state of 3"):
        state.add(one_token())


def test_adjacent_pairs_are_the_default() -> None:
    assert adjacent_pairs(4) == ((0, 1), (1, 2), (2, 3)) == tuple(State.zero([2, 2, 2, 2]).pairs)
    assert adjacent_pairs(1) == ()
