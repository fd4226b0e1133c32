"""Sums over clusters of documents, per corpus and per watched pair, against brute force over whole documents."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from counts_stream import sparse

from engine.corpus.segment import Piece
from engine.counts import clusters
from engine.counts.corpora import CorpusMarginals
from engine.counts.state import State
from engine.counts.watched import IDLE_CHOICES, Watched
from engine.encoder.batch import SparseBatch

DICTIONARIES, PAIRS = (6, 5, 7), ((0, 1), (0, 2))
PART = 5  # tokens of a cluster here
LENGTHS = (3, 12, 0, 1, 17, 5, 8, 10, 4, 23, 2, 6)
THRESHOLD = 0.6


@pytest.fixture(autouse=True, scope="module")
def short_clusters() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clusters, "CLUSTER_TOKENS", PART)
        yield


@dataclass(frozen=True)
class Document:
    upload: str
    corpus: str
    number: int
    layers: tuple[np.ndarray, ...]  # float32 [T, D] each
    counted: np.ndarray  # bool [T]: the others are special tokens, or set aside

    @property
    def tokens(self) -> int:
        return len(self.counted)


def documents() -> list[Document]:
    """Three uploads of two corpora. Feature 0 never fires; a document's features come in bursts."""
    rng = np.random.default_rng(5)
    found = []
    for number, length in enumerate(LENGTHS):
        dense = [(rng.random((length, size)) * (rng.random(size) < 0.7)).astype(np.float32) for size in DICTIONARIES]
        for layer in dense:
            layer[layer < 0.3] = 0
            layer[:, 0] = 0
        upload = f"upload-{number % 3}"
        corpus = "code" if number % 3 else "prose"
        counted = rng.random(length) < 0.9 if number != 6 else np.zeros(length, bool)
        found.append(Document(upload, corpus, number // 3, tuple(dense), counted))
    return found


DOCUMENTS = documents()


@dataclass
class Segment:
    """Pieces of documents at their places in the log."""

    first_position: int
    pieces: list[Piece] = field(default_factory=list)
    tokens: list[tuple[Document, slice]] = field(default_factory=list)

    @property
    def positions(self) -> list[int]:
        before = np.cumsum([0, *(piece.tokens for piece in self.pieces)])[:-1]
        return (self.first_position + before).tolist()

    @property
    def end(self) -> int:
        return self.first_position + sum(piece.tokens for piece in self.pieces)

    def batches(self, chance: random.Random) -> list[SparseBatch]:
        """The counted tokens, in micro-batches of some tokens each, in no order."""
        rows = [
            (place + at - part.start, piece, document, at)
            for place, piece, (document, part) in zip(self.positions, self.pieces, self.tokens, strict=True)
            for at in range(part.start, part.stop)
            if document.counted[at]
        ]
        chance.shuffle(rows)
        size = chance.randint(1, 9)
        return [self._batch(sorted(rows[start : start + size], key=lambda row: row[0])) for start in range(0, len(rows), size)]

    def _batch(self, rows: list[tuple[int, Piece, Document, int]]) -> SparseBatch:
        pieces = list(dict.fromkeys(row[1] for row in rows))
        layers = tuple(sparse(np.stack([row[2].layers[layer][row[3]] for row in rows])) for layer in range(len(DICTIONARIES)))
        return SparseBatch(
            layers,
            np.array([row[0] for row in rows], np.int64),
            np.array([pieces.index(row[1]) for row in rows], np.int32),
            tuple(pieces),
        )


def log_of(chance: random.Random) -> list[Segment]:
    """The documents, uploads in turns and documents cut anywhere, as segments."""
    waiting = {upload: [one for one in DOCUMENTS if one.upload == upload] for upload in sorted({one.upload for one in DOCUMENTS})}
    done = dict.fromkeys(waiting, 0)
    segments = [Segment(100)]
    while any(waiting.values()):
        upload = chance.choice([name for name, left in waiting.items() if left])
        document, start = waiting[upload][0], done[upload]
        end = chance.randint(start, document.tokens)
        last = end == document.tokens
        if end > start or last:
            half = document.number % 2
            piece = Piece(upload, document.corpus, document.number, None, half, start, end - start, last)
            segments[-1].pieces.append(piece)
            segments[-1].tokens.append((document, slice(start, end)))
            done[upload] = end
        if last:
            waiting[upload].pop(0)
            done[upload] = 0
        if chance.random() < 0.3:
            segments.append(Segment(segments[-1].end))
    return segments


def count(segment: Segment, state: State, chance: random.Random) -> None:
    batches = segment.batches(chance)
    for batch in batches:
        state.add(batch)
    state.end_segment(batches, segment.pieces, segment.positions)


def brute_force(corpus: str, first_positions: dict[tuple[str, int, int], int], since: int = 0) -> list[list[np.ndarray]]:
    """The clusters of a corpus: per cluster the dense activations of its counted tokens, layer by layer."""
    found = []
    for document in DOCUMENTS:
        for part in range(-(-document.tokens // PART)):
            tokens = slice(part * PART, (part + 1) * PART)
            if document.corpus == corpus and first_positions[document.upload, document.number, part] >= since:
                found.append([layer[tokens][document.counted[tokens]].astype(np.float64) for layer in document.layers])
    return found


def places(segments: list[Segment]) -> dict[tuple[str, int, int], int]:
    """Position in the log of the first token of each cluster."""
    found: dict[tuple[str, int, int], int] = {}
    for segment in segments:
        for piece, place in zip(segment.pieces, segment.positions, strict=True):
            for at in range(piece.tokens):
                found.setdefault((piece.upload, piece.number, (piece.start + at) // PART), place + at)
    return found


def assert_pairs(watched: Watched, segments: list[Segment]) -> None:
    """Moments of every watched pair are those of the clusters since it was chosen."""
    up, down = watched.place
    for row, (i, j, since) in enumerate(zip(watched.up.tolist(), watched.down.tolist(), watched.since.tolist(), strict=True)):
        for corpus in ("code", "prose"):
            vectors, documents = [np.zeros(9)], np.zeros(4, int)
            for layers in brute_force(corpus, places(segments), since):
                a, b = layers[up][:, i], layers[down][:, j]
                on_a, on_b = a > np.float32(THRESHOLD), b > np.float32(THRESHOLD)
                vectors.append(
                    np.array(
                        [len(a), on_a.sum(), on_b.sum(), (on_a & on_b).sum(), a.sum(), b.sum(), (a * a).sum(), (b * b).sum(), a @ b]
                    )
                )
                documents += [on_a.any(), on_b.any(), on_a.any() or on_b.any(), a.any() or b.any()]
            s = np.array(vectors)
            moments = watched.moments(corpus)
            np.testing.assert_allclose(moments.sums[row], s.sum(0), rtol=1e-12)
            np.testing.assert_allclose(moments.squares[row], (s.T @ s)[np.triu_indices(9)], rtol=1e-12)
            assert moments.documents[row].tolist() == documents.tolist()


def assert_corpora(part: CorpusMarginals, segments: list[Segment]) -> None:
    (layer,) = part.place
    assert not part.open
    for corpus in ("code", "prose"):
        dense = [layers[layer] for layers in brute_force(corpus, places(segments))]
        lengths = np.array([len(tokens) for tokens in dense])
        n = np.array([(tokens > np.float32(THRESHOLD)).sum(0) for tokens in dense])
        sums = part.corpora[corpus]
        assert sums.clusters.tolist() == [(lengths > 0).sum(), lengths.sum(), (lengths**2).sum()]
        assert sums.count.tolist() == n.sum(0).tolist()
        assert sums.with_tokens.tolist() == (n * lengths[:, None]).sum(0).tolist()
        assert sums.squares.tolist() == (n**2).sum(0).tolist()
        assert sums.documents.tolist() == (n > 0).sum(0).tolist()
        np.testing.assert_allclose(sums.sum, np.concatenate(dense).sum(0), rtol=1e-12)
        np.testing.assert_allclose(sums.sum_of_squares, (np.concatenate(dense) ** 2).sum(0), rtol=1e-12)


def pin_all(state: State) -> None:
    for (up, down), watched in state.watched.items():
        i, j = np.indices((DICTIONARIES[up], DICTIONARIES[down])).reshape(2, -1)
        watched.pin(i, j, position=0, tokens=0)


def reloaded(state: State, folder: Path) -> State:
    parts = []
    for part in state.parts():
        part.save(folder / part.name)
        parts.append(type(part).load(state.shape, part.place, folder / part.name))
    return State(state.shape, parts)


@pytest.mark.parametrize("seed", range(30))
def test_every_sum_over_clusters_equals_brute_force_wherever_segments_and_micro_batches_are_cut(seed: int) -> None:
    chance = random.Random(seed)
    segments = log_of(chance)
    state = State.zero(DICTIONARIES, PAIRS, THRESHOLD)
    pin_all(state)
    for segment in segments:
        count(segment, state, chance)
    for watched in state.watched.values():
        assert not watched.open and len(watched) == DICTIONARIES[watched.place[0]] * DICTIONARIES[watched.place[1]]
        assert_pairs(watched, segments)
    for part in state.corpora:
        assert_corpora(part, segments)


@pytest.mark.parametrize("seed", range(20))
def test_a_pair_that_is_chosen_on_the_way_counts_the_clusters_that_begin_behind_that_place(seed: int) -> None:
    chance = random.Random(seed)
    segments = log_of(chance)
    state = State.zero(DICTIONARIES, PAIRS, THRESHOLD)
    for segment in segments:
        count(segment, state, chance)
        for (up, down), watched in state.watched.items():
            pairs = [(chance.randrange(DICTIONARIES[up]), chance.randrange(DICTIONARIES[down])) for _ in range(3)]
            i, j = np.array(list(dict.fromkeys(pairs)), np.int32).T
            watched.choose(i, j, position=segment.end, tokens=state.tokens, limit=12)
            assert (watched.find(i, j) >= 0).all() and len(watched) <= 12
    for watched in state.watched.values():
        assert_pairs(watched, segments)


@pytest.mark.parametrize("seed", range(10))
def test_the_same_log_gives_the_same_bits_in_any_micro_batches_and_over_any_restart(tmp_path: Path, seed: int) -> None:
    segments = log_of(random.Random(seed))
    states = []
    for number in range(2):
        order = random.Random(f"{seed}, {number}")
        state = State.zero(DICTIONARIES, PAIRS, THRESHOLD)
        for at, segment in enumerate(segments):
            if number and order.random() < 0.5:
                state = reloaded(state, tmp_path)
            count(segment, state, order)
            if at % 2 == 0:
                for (up, down), watched in state.watched.items():
                    i, j = np.arange(3, dtype=np.int32) + at % 2, np.arange(3, dtype=np.int32)
                    watched.choose(i % DICTIONARIES[up], j % DICTIONARIES[down], position=segment.end, tokens=state.tokens, limit=9)
        states.append(state)
    for pair, watched in states[0].watched.items():
        one, other = (part.arrays() for part in (watched, states[1].watched[pair]))
        assert one[0] == other[0] and one[1].keys() == other[1].keys()
        assert all(np.array_equal(array, other[1][name]) for name, array in one[1].items())


def test_what_is_watched_and_for_how_long() -> None:
    watched = Watched.zero(State.zero((50, 50), [(0, 1)]).shape, (0, 1))

    def choose(*ups: int, limit: int = 6) -> None:
        watched.choose(np.array(ups, np.int32), np.array(ups, np.int32), position=10, tokens=7, limit=limit)

    watched.pin(np.array([40]), np.array([40]), position=0, tokens=0)
    choose(1, 2, 3)
    assert watched.up.tolist() == [1, 2, 3, 40] and watched.counted_from.tolist() == [7, 7, 7, 0]
    for _ in range(IDLE_CHOICES - 1):
        choose(2)
    assert watched.up.tolist() == [1, 2, 3, 40], "a flicker ends nothing"
    choose(2)
    assert watched.up.tolist() == [2, 40], "idle for four choices; what is pinned stays"
    choose(9, 8, 7, 6, 5)
    assert watched.up.tolist() == [2, 6, 7, 8, 9, 40], "the most wanted new ones, behind what is watched"
    choose(limit=2)
    assert watched.up.tolist() == [6, 40], "the idlest go first"
    assert watched.find(np.array([6, 40, 7]), np.array([6, 40, 7])).tolist() == [0, 1, -1]


def test_states_that_watch_other_pairs_merge_to_one_that_watches_all_of_them() -> None:
    chance = random.Random(3)
    whole = [Segment(100), Segment(1000)]
    for number, document in enumerate(DOCUMENTS):
        segment = whole[number % 2]
        segment.pieces.append(Piece(document.upload, document.corpus, document.number, None, 0, 0, document.tokens, True))
        segment.tokens.append((document, slice(0, document.tokens)))
    states = []
    for segment, second in zip(whole, (4, 2), strict=True):
        state = State.zero(DICTIONARIES, PAIRS, THRESHOLD)
        state.watched[0, 1].pin(np.array([1, second]), np.array([2, 3]), position=0, tokens=0)
        count(segment, state, chance)
        states.append(state)
    states[0].merge(states[1])
    watched = states[0].watched[0, 1]
    assert list(zip(watched.up.tolist(), watched.down.tolist(), strict=True)) == [(1, 2), (2, 3), (4, 3)]
    alone = State.zero(DICTIONARIES, PAIRS, THRESHOLD)
    alone.watched[0, 1].pin(np.array([1]), np.array([2]), position=0, tokens=0)
    for segment in whole:
        count(segment, alone, chance)
    for corpus in ("code", "prose"):
        both, one = watched.moments(corpus), alone.watched[0, 1].moments(corpus)
        np.testing.assert_allclose(both.squares[0], one.squares[0], rtol=1e-12)
        assert both.documents[0].tolist() == one.documents[0].tolist()
    assert_corpora(states[0].corpora[2], whole)
