"""The strongest activations of a feature, one per document: against brute force, in any split of tokens over batches and states."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from counts_stream import assert_equal, contents
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.corpus.segment import Piece
from engine.counts.checkpoint import Checkpoints, Cursor
from engine.counts.shape import RunShape
from engine.counts.state import State
from engine.counts.strongest import KEPT, Strongest, document_key, entries_above
from engine.durable import write_framed
from engine.encoder.batch import SparseBatch
from engine.errors import DamagedFile
from engine.views.records import CONTEXTS
from kernels import Csr, StrongestLists, reference

FEATURES = 4
SHAPE = RunShape.of([FEATURES])
DOCUMENTS = [("one", number) for number in range(13)] + [("two", number) for number in range(8)]

Token = tuple[int, int, tuple[float, ...]]
"""Position in the log, document (index into `DOCUMENTS`), activation of each feature."""


def stream(seed: int) -> list[Token]:
    """300 tokens of 21 documents, some much longer than others. Few different values: most comparisons are ties."""
    rng = np.random.default_rng(seed)
    document = np.sort(rng.choice(len(DOCUMENTS), 300, p=rng.dirichlet(np.full(len(DOCUMENTS), 0.7))))
    values = rng.choice(np.array([0, 0, 0, 0.25, 0.5, 1, 1.5], np.float32), (300, FEATURES))
    values[:, 2] *= document < 5  # fires in fewer than 8 documents
    values[:, 3] = 0
    return [(1000 + at, int(document[at]), tuple(values[at].tolist())) for at in range(300)]


def batch_of(tokens: list[Token]) -> SparseBatch:
    """Tokens in any order as one batch."""
    dense = np.array([values for _, _, values in tokens], np.float32).reshape(-1, FEATURES)
    rows, features = np.nonzero(dense)
    offsets = np.searchsorted(rows, np.arange(len(tokens) + 1)).astype(np.int32)
    layer = Csr(torch.from_numpy(offsets), torch.from_numpy(features.astype(np.int32)), torch.from_numpy(dense[rows, features]))
    present, pieces = np.unique([document for _, document, _ in tokens] or np.empty(0, np.int64), return_inverse=True)
    documents = tuple(Piece(*_of(DOCUMENTS[number]), None, 0, 0, 1, True) for number in present.astype(int).tolist())
    positions = np.array([position for position, _, _ in tokens], np.int64)
    return SparseBatch((layer,), positions, pieces.astype(np.int32), documents)


def _of(document: tuple[str, int]) -> tuple[str, str, int]:
    return document[0], "corpus", document[1]


def expected_of(tokens: list[Token]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    entries = [
        (feature, value, position, document_key(*DOCUMENTS[document]))
        for position, document, values in tokens
        for feature, value in enumerate(values)
        if value > 0
    ]
    return reference.strongest(entries, FEATURES, KEPT)


def strongest_of(*batches: list[Token]) -> Strongest:
    part = Strongest.zero(SHAPE, (0,))
    for tokens in batches:
        part.add(batch_of(tokens))
    return part


@given(seed=st.integers(0, 2**16), order=st.randoms(use_true_random=False), states=st.integers(1, 5), batches=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_any_split_of_the_tokens_and_any_merge_tree_gives_the_best_of_each_document_and_of_those_the_best(
    seed: int, order: random.Random, states: int, batches: int
) -> None:
    tokens = stream(seed)
    expected = expected_of(tokens)
    order.shuffle(tokens)  # documents lie in pieces in every batch and state
    parts = [Strongest.zero(SHAPE, (0,)) for _ in range(states)]
    for at in range(batches):
        parts[order.randrange(states)].add(batch_of(tokens[at::batches]))
    while len(parts) > 1:
        left = parts.pop(order.randrange(len(parts)))
        left.merge(parts.pop(order.randrange(len(parts))))
        parts.append(Strongest.from_arrays(SHAPE, (0,), *left.arrays()) if order.random() < 0.5 else left)
    (part,) = parts
    for name, found, wanted in zip(("value", "position", "document"), part._lists._arrays(), expected, strict=False):
        assert np.array_equal(found, wanted), name
        assert np.array_equal(getattr(part, name).numpy(), wanted), name
    assert np.array_equal(part._lists.bar, expected[0][:, -1])
    assert (part.position >= 0).sum(1).tolist()[2:] == [min(KEPT, len({t[1] for t in tokens if t[2][2] > 0})), 0]


def test_a_repetitive_document_has_one_place_and_its_best_token_may_come_later_and_elsewhere() -> None:
    def token(position: int, document: int, value: float) -> Token:
        return position, document, (value, 0, 0, 0)

    first = strongest_of([token(10, 0, 5.0), token(11, 0, 7.0), token(12, 0, 7.0), token(13, 1, 6.0)])
    second = strongest_of([token(14, 0, 6.5), token(9, 2, 7.0)], [token(8, 0, 9.0), token(15, 2, 7.0)])
    first.merge(second)
    assert first.value[0, :4].tolist() == [9.0, 7.0, 6.0, 0.0]
    assert first.position[0, :4].tolist() == [8, 9, 13, -1]
    assert first.document[0, :3].tolist() == [document_key(*DOCUMENTS[number]) for number in (0, 2, 1)]


def test_what_is_below_the_bar_of_a_batch_on_another_device_would_not_have_been_kept() -> None:
    tokens = stream(5)
    straight, part = strongest_of(tokens), strongest_of()
    for at in range(7):
        batch = batch_of(tokens[at::7])
        chosen = entries_above(batch.layers[0], torch.from_numpy(part._lists.bar))
        assert len(chosen.values) <= len(batch.layers[0].values)
        part.add(SparseBatch((chosen,), batch.positions, batch.pieces, batch.documents))
    assert len(chosen.values) < len(batch.layers[0].values), "the last batch had something to leave out"
    assert_equal(part, straight)


def test_the_key_of_a_document_is_the_same_in_every_process_and_tells_documents_apart() -> None:
    assert document_key("01KB1Z5N3W8Q2M4T6V8X0Z2B4D", 412) == -8089262707058269449
    keys = {document_key(upload, number) for upload in ("1", "11", "a", "a/1") for number in range(5000)}
    assert len(keys) == 4 * 5000
    assert all(-(2**63) <= key < 2**63 for key in keys)


def test_the_views_show_as_many_as_are_kept() -> None:
    assert KEPT == CONTEXTS


def test_a_checkpoint_with_one_activation_per_feature_is_refused_and_not_misread(tmp_path: Path) -> None:
    features = KEPT  # an array [8] would fit into each row of [8, 8]
    shape = RunShape.of([features])
    old = {"value": np.ones(features, np.float32), "position": np.arange(features, dtype=np.int64)}
    write_framed(tmp_path / "strongest-0", b"SAESPART", 1, {"part": "strongest-0"}, old)
    with pytest.raises(DamagedFile, match=r"strongest-0 has format version 1; this saestream reads 2"):
        Strongest.load(shape, (0,), tmp_path / "strongest-0")


def test_a_checkpoint_in_the_middle_changes_no_list(tmp_path: Path) -> None:
    tokens = stream(3)
    state, straight = State.zero([FEATURES]), State.zero([FEATURES])
    straight.add(batch_of(tokens))
    state.add(batch_of(tokens[:140]))
    Checkpoints(tmp_path).save(state, Cursor(0, 1), {})
    loaded = Checkpoints(tmp_path).latest({})
    assert loaded is not None
    loaded.state.add(batch_of(tokens[140:]))
    assert_equal(loaded.state.strongest[0], straight.strongest[0])
    assert contents(straight.strongest[0]).keys() == {"value", "position", "document"}


ENTRIES = {
    "offsets": np.array([0, 1, 2], np.int32),
    "features": np.array([0, 2], np.int32),
    "values": np.ones(2, np.float32),
    "positions": np.arange(2),
    "documents": np.zeros(2, np.int64),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"values": np.ones(2)}, "values is float64, it must be float32", id="float64-values"),
        pytest.param({"documents": np.zeros(3, np.int64)}, r"documents has shape \[3\], it must be \[2\]", id="more-documents"),
        pytest.param({"offsets": np.zeros(2, np.int32)}, r"offsets has shape \[2\], it must be \[3\]", id="offsets-of-one-token"),
        pytest.param(
            {"offsets": np.array([0, 1, 9], np.int32)}, r"features has shape \[2\], it must be \[9\]", id="offsets-too-far"
        ),
        pytest.param({"positions": np.arange(4)[::2]}, r"positions is not contiguous", id="strided-positions"),
        pytest.param({"features": np.array([0, 3], np.int32)}, r"features holds 3, every one must be in \[0, 3\)", id="too-large"),
        pytest.param({"features": np.array([-1, 0], np.int32)}, r"features holds -1, every one must be in \[0, 3\)", id="negative"),
    ],
)
def test_lists_refuse_what_they_would_misread(change: dict[str, np.ndarray], message: str) -> None:
    lists = StrongestLists.empty(3, 2)
    with pytest.raises(ValueError, match=message):
        lists.offer(**{**ENTRIES, **change})
    with pytest.raises(ValueError, match="lists of 4 features can't be merged into lists of 3"):
        lists.merge(StrongestLists.empty(4, 2))
    with pytest.raises(ValueError, match="k is 0"):
        StrongestLists.empty(3, 0)
    with pytest.raises(ValueError, match=r"positions has shape \[3, 2\], it must be \[3, 1\]"):
        StrongestLists(np.zeros((3, 1), np.float32), lists.positions, lists.documents)
