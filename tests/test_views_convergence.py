"""The convergence series: its places, its values against brute force over dense documents, and that a restart changes neither."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from counts_stream import Document, batch
from views_rig import DICTIONARIES, PAIRS, as_batch, counted, dense_activations

from engine.corpus.segment import Piece
from engine.counts.state import State
from engine.errors import DamagedFile
from engine.measures import rbo
from engine.measures.drift import RatioMoments, compare_densities
from engine.measures.intervals import ALPHA, N_STAR, intervals, tokens_needed
from engine.measures.moments import Moments
from engine.views import halves
from engine.views.convergence import FEWEST_DOCUMENTS, WANTED_WIDTH, Convergence
from engine.views.halves import HALF_SUPPORT, LIST_LENGTH, MIN_SUPPORT, compare_halves
from engine.views.records import ConvergenceRecord
from engine.views.watch import Watch

SEGMENTS = 30
SEGMENT_TOKENS = 20
DOCUMENT_TOKENS = 8
PER_SEGMENT = 60


def series(restart_after: tuple[int, ...] = ()) -> ConvergenceRecord:
    """Count segments one by one; after some of them everything goes through the checkpoint's bytes."""
    layers = dense_activations(SEGMENTS * SEGMENT_TOKENS)
    state, convergence = State.zero(DICTIONARIES, PAIRS), Convergence(PAIRS)
    for segment in range(SEGMENTS):
        part = slice(segment * SEGMENT_TOKENS, (segment + 1) * SEGMENT_TOKENS)
        state.add(as_batch([dense[part] for dense in layers], part.start))
        convergence.observe(state)
        if segment in restart_after:
            convergence = Convergence.load(convergence.save())
    return convergence.record()


def documents(corpora: Sequence[str], each: int, halves_of: Sequence[int] = (0, 1, 1, 0, 1)) -> list[Document]:
    """`each` documents of each corpus, one after the other. In "code" layer 1 does the opposite of what it does elsewhere."""
    found = []
    for number in range(each * len(corpora)):
        layers = dense_activations(DOCUMENT_TOKENS, seed=number)
        corpus = corpora[number // each]
        if corpus == "code":
            layers[1] = layers[1][:, ::-1].copy()
        piece = Piece(f"upload-{corpus}", corpus, number, None, halves_of[number % len(halves_of)], 0, DOCUMENT_TOKENS, True)
        first = 1_000 + number * DOCUMENT_TOKENS
        found.append(Document(piece, np.arange(first, first + DOCUMENT_TOKENS), tuple(layers), ()))
    return found


class Stream:
    """Documents counted segment by segment, with choices and points as the engine makes them."""

    def __init__(self, path: Path, found: list[Document], restart: bool = False) -> None:
        self.state, self.convergence = State.zero(DICTIONARIES, PAIRS), Convergence(PAIRS)
        self.watched: list[dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]]] = []
        watch = Watch(path / "watch", 600, PAIRS)
        for number, group in enumerate(groups(found)):
            one = batch(group, DICTIONARIES)
            self.state.add(one)
            watch.begin(self.state, number, int(group[0].positions[0]), self.state.tokens)
            self.state.end_segment([one], one.documents, [int(document.positions[0]) for document in group])
            if self.convergence.observe(self.state, [document.piece.corpus for document in group]):
                self.watched.append({pair: (part.up, part.down, part.since) for pair, part in self.state.watched.items()})
                watch.choose(self.state, int(group[-1].positions[-1]) + 1)
            if restart:
                self.convergence = Convergence.load(self.convergence.save())


def groups(found: list[Document]) -> Iterator[list[Document]]:
    for start in range(0, len(found), PER_SEGMENT):
        yield found[start : start + PER_SEGMENT]


CORPORA = ("prose", "code")
DOCUMENTS = documents(CORPORA, 600)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    return Stream(tmp_path_factory.mktemp("stream"), DOCUMENTS)


def dense_of(found: Sequence[Document], layer: int) -> np.ndarray:
    """bool `[T, D]`."""
    return np.concatenate([document.layers[layer] > 0 for document in found]) if found else np.zeros((0, DICTIONARIES[layer]), bool)


def tops(a: np.ndarray, b: np.ndarray, support: int) -> list[list[int]]:
    joint = a.T.astype(int) @ b.astype(int)
    value = joint / np.maximum(1, a.sum(0)[:, None] + b.sum(0)[None, :] - joint)
    return [
        [j for _, j in sorted((-row[j], j) for j in np.flatnonzero(enough >= support).tolist())[:LIST_LENGTH]]
        for row, enough in zip(value, joint, strict=True)
    ]


def mean_agreement(first: list[list[int]], second: list[list[int]]) -> float:
    return float(np.mean([rbo(one, two) for one, two in zip(first, second, strict=True) if one or two]))


def spearman_brown(a: np.ndarray, b: np.ndarray) -> float:
    r = float(np.corrcoef(a, b)[0, 1])
    return 2 * r / (1 + r)


def moments_in(found: Sequence[Document], pair: tuple[int, int], i: int, j: int, since: int) -> Moments:
    """Of the documents that begin at or behind a place, by the definition."""
    clusters = []
    for document in found:
        if document.positions[0] >= since:
            a, b = (document.layers[layer][:, at].astype(np.float64) for layer, at in zip(pair, (i, j), strict=True))
            counts = [len(a), *(np.count_nonzero(one) for one in (a, b, a * b))]
            clusters.append([*counts, a.sum(), b.sum(), (a * a).sum(), (b * b).sum(), (a * b).sum()])
    s = np.array(clusters, np.float64).reshape(-1, 9)
    informative = np.array([s[:, 1] > 0, s[:, 2] > 0, s[:, 1] + s[:, 2] > 0, s[:, 6] + s[:, 7] > 0]).sum(axis=1)
    return Moments(s.sum(axis=0), (s.T @ s)[np.triu_indices(9)], informative)


def test_points_are_at_the_first_segment_end_past_each_quarter_power_of_two() -> None:
    wanted, last = [], -1
    for segment in range(1, SEGMENTS + 1):
        tokens = segment * SEGMENT_TOKENS
        place = max(k for k in range(200) if 2**k <= tokens**4)
        if place > last:
            wanted.append(tokens)
            last = place
    assert [point.tokens for point in series().points] == wanted
    assert len(wanted) < SEGMENTS


def test_a_series_is_the_same_whatever_was_restarted_in_between(stream: Stream, tmp_path: Path) -> None:
    assert series(restart_after=tuple(range(SEGMENTS))) == series()
    again = Stream(tmp_path, DOCUMENTS, restart=True).convergence
    assert again.record() == stream.convergence.record()
    assert again.save() == stream.convergence.save()


def test_the_first_point_has_no_change_and_the_later_ones_the_mean_of_one_minus_rbo() -> None:
    layers = dense_activations(500)
    state, convergence = State.zero(DICTIONARIES, PAIRS), Convergence(PAIRS)
    for part in (slice(0, 200), slice(200, 500)):
        state.add(as_batch([dense[part] for dense in layers], part.start))
        assert convergence.observe(state)
    one, two = convergence.record().points
    assert one.list_change == [None] * len(PAIRS)
    assert one.dead == [int((dense[:200] > 0).any(0).size - (dense[:200] > 0).any(0).sum()) for dense in layers]
    now, then = (tops(layers[0][:tokens] > 0, layers[2][:tokens] > 0, MIN_SUPPORT) for tokens in (500, 200))
    assert two.list_change[PAIRS.index((0, 2))] == pytest.approx(1 - mean_agreement(now, then))


def test_lists_that_do_not_change_have_no_change_and_lists_that_nobody_has_none() -> None:
    layers = dense_activations(300)
    state, convergence = counted(layers), Convergence(PAIRS)
    for _ in range(MIN_SUPPORT):  # then every pair that was ever seen has the support
        state.merge(counted(layers))
    convergence.observe(state)
    state.merge(state)
    assert convergence.observe(state)
    assert convergence.record().points[1].list_change == pytest.approx([0.0, 0.0, 0.0])
    assert not convergence.observe(state)  # no more tokens: the same place


def test_a_point_has_what_brute_force_finds_in_the_documents_of_either_half(stream: Stream) -> None:
    points = stream.convergence.record().points
    for point in (points[0], points[-1]):
        there = DOCUMENTS[: point.tokens // DOCUMENT_TOKENS]
        by_half = [[document for document in there if document.piece.half == half] for half in (0, 1)]
        assert point.tokens_by_half == tuple(len(half) * DOCUMENT_TOKENS for half in by_half)
        for at, (up, down) in enumerate(PAIRS):
            (a_up, a_down), (b_up, b_down) = ([dense_of(half, layer) for layer in (up, down)] for half in by_half)
            expected = mean_agreement(tops(a_up, a_down, HALF_SUPPORT), tops(b_up, b_down, HALF_SUPPORT))
            assert point.split_half_rbo[at] == pytest.approx(expected)
            joint_a, joint_b = (x.T.astype(int) @ y.astype(int) for x, y in ((a_up, a_down), (b_up, b_down)))
            total = joint_a + joint_b
            i, j = np.nonzero(total >= MIN_SUPPORT)
            for measure in ("jaccard", "sufficiency", "necessity"):
                values = []
                for joint, x, y in ((joint_a, a_up, a_down), (joint_b, b_up, b_down)):
                    n_ij, n_i, n_j = joint[i, j], x.sum(0)[i], y.sum(0)[j]
                    of = {"jaccard": n_i + n_j - n_ij, "sufficiency": n_i, "necessity": n_j}[measure]
                    values.append(n_ij / of)
                assert point.reliability[measure][at] == pytest.approx(spearman_brown(*values))
            once, twice, seen = (np.count_nonzero(total == 1), np.count_nonzero(total == 2), np.count_nonzero(total))
            assert point.unseen_mass[at] == pytest.approx(once / total.sum())
            hidden = once**2 / (2 * twice) if twice else once * (once - 1) / 2
            assert (point.pairs_seen[at], point.pairs_at_all[at]) == (seen, min(round(seen + hidden), total.size))


def test_a_point_has_the_widths_of_all_watched_pairs_from_the_documents_since_their_choice(stream: Stream) -> None:
    points = stream.convergence.record().points
    assert points[0].watched == [0, 0, 0] and points[0].tokens_needed_reason == ["no pair is watched yet"] * 3
    assert points[0].interval_share == points[0].median_width == points[0].tokens_needed == [None] * 3
    point, there = points[-1], DOCUMENTS[: points[-1].tokens // DOCUMENT_TOKENS]
    for at, pair in enumerate(PAIRS):
        chosen = [*zip(*(part.tolist() for part in stream.watched[-1][pair]), strict=True)]
        moments = [moments_in(there, pair, *one) for one in chosen]
        found = [intervals(one, ("jaccard",))["jaccard"] for one in moments]
        widths = [float(one.upper - one.lower) for one in found if one.sufficient]
        assert point.watched[at] == len(chosen) > 20
        assert point.interval_share[at] == pytest.approx(len(widths) / len(chosen)) and widths
        assert point.median_width[at] == pytest.approx(np.median(widths))
        needed = []
        for one in moments:
            tokens = float(tokens_needed(one, "jaccard", WANTED_WIDTH).tokens)
            needed.append(math.inf if math.isnan(tokens) or one.documents[2] < FEWEST_DOCUMENTS else tokens)
        assert point.tokens_needed[at] == sorted(needed)[len(needed) // 2]
        assert point.tokens_needed_reason[at] is None
    second = points[1]  # chosen at the first point, and only a segment has come since
    assert second.watched[0] and second.interval_share[0] == 0 and second.median_width[0] is None


def test_the_newest_corpus_is_compared_with_all_others(stream: Stream) -> None:
    record = stream.convergence.record()
    point, drift = record.points[-1], record.drift
    assert drift is not None and drift.corpus == "code"
    there = DOCUMENTS[: point.tokens // DOCUMENT_TOKENS]
    newest, others = ([one for one in there if (one.piece.corpus == "code") == new] for new in (True, False))
    assert drift.tokens == len(newest) * DOCUMENT_TOKENS
    for layer, found in enumerate(drift.layers):
        per_document = [np.array([(one.layers[layer] > 0).sum(0) for one in part]) for part in (newest, others)]
        sums = [
            RatioMoments(
                n.sum(0), DOCUMENT_TOKENS * len(n), (n * n).sum(0), n.sum(0) * DOCUMENT_TOKENS, DOCUMENT_TOKENS**2 * len(n), len(n)
            )
            for n in per_document
        ]
        _, _, comparison = compare_densities(sums[0], sums[1], ALPHA, N_STAR)
        fired = per_document[0].sum(0) + per_document[1].sum(0) > 0
        assert found.compared == np.count_nonzero(fired & ~np.isnan(comparison.distance)) > 0
        assert found.changed_share == pytest.approx(np.mean(comparison.distance[fired] > 0))
    assert (drift.layers[1].changed_share or 0) > 0.3 and drift.layers[0].changed_share == 0
    for at, pair in enumerate(PAIRS):
        compared, changed, surest = 0, 0, []
        chosen = [*zip(*(part.tolist() for part in stream.watched[-1][pair]), strict=True)]
        for i, j, since in chosen:
            both = [moments_in(part, pair, i, j, since) for part in (newest, others)]
            one, two = (intervals(part, ("jaccard",), ALPHA / 2)["jaccard"] for part in both)
            if one.sufficient and two.sufficient:
                compared += 1
                changed += bool(one.lower > two.upper or two.lower > one.upper)
                one, two = (intervals(part, ("jaccard",), ALPHA / 2 / len(chosen))["jaccard"] for part in both)
                gap = max(float(one.lower - two.upper), float(two.lower - one.upper))
                if gap > 0:
                    surest.append((-gap, i, j, float(one.estimate), float(two.estimate)))
        found = drift.pairs[at]
        assert found.compared == compared > 0
        assert found.changed_share == pytest.approx(changed / compared)
        listed = [(one.up, one.down, one.newest, one.others) for one in found.most_changed]
        assert listed == [pytest.approx(one[1:]) for one in sorted(surest)[:10]]
        assert all(one.lower > 0 or one.upper < 0 for one in found.most_changed)
    assert drift.pairs[0].most_changed and not drift.pairs[PAIRS.index((0, 2))].most_changed


def test_the_newest_corpus_is_the_one_whose_first_token_came_last(tmp_path: Path) -> None:
    there = documents(("b", "a", "b"), PER_SEGMENT // 3) * 2  # all three runs within one segment, and once more
    stream = Stream(tmp_path, [moved(one, at) for at, one in enumerate(there)])
    drift = stream.convergence.record().drift
    assert drift is not None and drift.corpus == "a"


def moved(document: Document, number: int) -> Document:
    """The same document elsewhere in the log."""
    positions = np.arange(number * DOCUMENT_TOKENS, (number + 1) * DOCUMENT_TOKENS)
    return Document(msgspec.structs.replace(document.piece, number=number), positions, document.layers, ())


def test_one_corpus_has_no_drift_and_an_empty_half_no_agreement(tmp_path: Path) -> None:
    record = Stream(tmp_path, documents(("prose",), 200, halves_of=(0,))).convergence.record()
    assert record.drift is None
    point = record.points[-1]
    assert point.tokens_by_half == (point.tokens, 0)
    assert point.split_half_rbo == [None] * 3
    assert point.reliability == {measure: [None] * 3 for measure in ("jaccard", "sufficiency", "necessity")}
    assert all(effect is None for layer in point.design_effects for effect in layer.effect)
    assert all(mass is not None for mass in point.unseen_mass)


def test_a_corpus_that_has_just_begun_is_compared_with_nothing(tmp_path: Path) -> None:
    found = documents(("prose",), 4 * PER_SEGMENT) + documents(CORPORA, 4 * PER_SEGMENT)[4 * PER_SEGMENT : 5 * PER_SEGMENT]
    drift = Stream(tmp_path, found).convergence.record().drift
    assert drift is not None and drift.tokens == PER_SEGMENT * DOCUMENT_TOKENS
    assert {(layer.compared, layer.changed_share) for layer in drift.layers} == {(0, None)}
    assert [(pair.compared, pair.changed_share, pair.most_changed) for pair in drift.pairs] == [(0, None, [])] * 3


def test_a_point_without_any_activation_says_that_nothing_is_known() -> None:
    empty, quiet = State.zero(DICTIONARIES, PAIRS), Convergence(PAIRS)
    assert not quiet.observe(empty)
    assert quiet.record() == ConvergenceRecord(pairs=list(PAIRS), points=[])
    for _ in range(2):
        empty.add(as_batch([np.zeros((5, size), np.float32) for size in DICTIONARIES]))
        assert quiet.observe(empty)
    for point in quiet.record().points:
        assert point.dead == list(DICTIONARIES)
        for column in (point.list_change, point.split_half_rbo, point.unseen_mass, point.interval_share, point.tokens_needed):
            assert column == [None] * 3
        assert point.pairs_seen == point.pairs_at_all == point.watched == [0] * 3
        assert all(layer.features == layer.effect == [] for layer in point.design_effects)


def test_design_effects_are_near_one_for_independent_tokens_and_higher_where_documents_repeat_themselves(tmp_path: Path) -> None:
    found = documents(("prose",), 400)
    (tmp_path / "a").mkdir()
    effects = Stream(tmp_path / "a", found).convergence.record().points[-1].design_effects[2]
    first = [tuple(np.repeat(dense[:1], DOCUMENT_TOKENS, axis=0) for dense in one.layers) for one in found]
    bursty = [Document(one.piece, one.positions, layers, ()) for one, layers in zip(found, first, strict=True)]
    (tmp_path / "b").mkdir()
    more = Stream(tmp_path / "b", bursty).convergence.record().points[-1].design_effects[2]
    assert sum(effects.features) == sum(more.features) == DICTIONARIES[2] - 1  # feature 0 never fires
    assert len(effects.features) == len(effects.effect)
    assert max(one for one in effects.effect if one is not None) < 2.5
    # Every token 8 times: the variance is 8 times that of independent tokens.
    assert min(one for one in more.effect if one is not None) > 4


@pytest.mark.parametrize("block", [1 << 20, 40, 1], ids=["one-block", "blocks-of-rows", "row-by-row"])
def test_a_sample_of_rows_is_evenly_spaced_and_the_passes_do_not_change_it(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    state, (up, down) = stream.state, (0, 2)
    by_half = [part.by_half.numpy() for part in state.marginals]
    everything = compare_halves(state.pairs[up, down], by_half[up], by_half[down], (1, 1))
    monkeypatch.setattr(halves, "_BLOCK_CELLS", block)
    again = compare_halves(state.pairs[up, down], by_half[up], by_half[down], (1, 1))
    np.testing.assert_array_equal(again.lists, everything.lists)
    assert again[1:] == everything[1:]
    monkeypatch.setattr(halves, "MOST_FEATURES", 6)  # 23 features: every 4th
    monkeypatch.setattr(halves, "MOST_CELLS", 50)
    sampled = compare_halves(state.pairs[up, down], by_half[up], by_half[down], (1, 1))
    np.testing.assert_array_equal(sampled.lists, everything.lists[::4])
    counts = state.pairs[up, down].counts.numpy()[::4]
    joint = counts.sum(axis=2)
    assert sampled.pairs_seen == round(np.count_nonzero(joint) * 23 / 6)
    i, j = np.nonzero(joint >= MIN_SUPPORT)
    assert 50 < len(i) <= 400
    stride = 2 ** math.ceil(math.log2(len(i) / 50))
    i, j = i[::stride], j[::stride]
    assert 25 < len(i) <= 50
    values = [counts[i, j, half] / by_half[up][::4][i, half] for half in (0, 1)]
    assert sampled.reliability["sufficiency"] == pytest.approx(spearman_brown(*values))


@pytest.mark.parametrize("saved", [b"", b"\x93\x02", b"something else"], ids=["empty", "cut", "foreign"])
def test_bytes_that_are_no_series_are_refused(saved: bytes) -> None:
    with pytest.raises(DamagedFile, match="convergence series"):
        Convergence.load(saved)


def test_a_series_of_an_earlier_format_is_refused_by_its_number() -> None:
    point = {"tokens": 65_536, "dead": [1, 0], "list_change": [None]}
    saved = msgspec.msgpack.encode([1, {"pairs": [[0, 1]], "points": [point]}, [b""]])
    with pytest.raises(DamagedFile, match="has format 1, this program reads 2"):
        Convergence.load(saved)
