"""One corpus, two corpora and pinned pairs, asked of a real state, against loops over its documents."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from counts_stream import sparse
from views_rig import description

from engine.corpus.segment import Piece
from engine.counts.state import State
from engine.encoder.batch import SparseBatch
from engine.errors import BadValue, NotReady, Unknown
from engine.measures import drift, intervals
from engine.measures.moments import Moments, moments_of
from engine.views.corpora import CorpusQueries
from engine.views.lists import Made
from engine.views.pins import NextSegment, PinQueries
from engine.views.watch import Watch

DICTIONARIES, PAIRS = (7, 6, 9), ((0, 1), (1, 2))
THRESHOLD = 0.4
DOCUMENTS = 560  # 280 in each corpus: enough for intervals, also behind the third segment
MORE = 0.6  # how often features of layer 0 with an odd index fire in "code"
DESCRIPTION = description(DICTIONARIES)


class Document(NamedTuple):
    corpus: str
    layers: list[np.ndarray]


def documents() -> list[Document]:
    """Feature 0 never fires. In code, odd features of layer 0 fire more, and layer 1 follows layer 0; in prose it does not."""
    rng = np.random.default_rng(11)
    found = []
    for number in range(DOCUMENTS):
        corpus = ("prose", "code")[number % 2]
        tokens = int(rng.integers(0, 30))
        rate = np.where((np.arange(7) % 2 == 1) & (corpus == "code"), MORE, 0.2)
        layers = [(rng.random((tokens, 7)) + 0.1) * (rng.random((tokens, 7)) < rate)]
        layers += [(rng.random((tokens, size)) + 0.1) * (rng.random((tokens, size)) < 0.2) for size in DICTIONARIES[1:]]
        if corpus == "code":
            layers[1][:, 1] = layers[0][:, 1]
        for layer in layers:
            layer[:, 0] = 0
        found.append(Document(corpus, [layer.astype(np.float32) for layer in layers]))
    return found


CORPUS = documents()


def end_segment(state: State, chosen: list[int], first: int) -> int:
    """Count whole documents as one segment; the position behind it."""
    pieces, positions, batches = [], [], []
    for number in chosen:
        layers = CORPUS[number].layers
        tokens = len(layers[0])
        piece = Piece("upload", CORPUS[number].corpus, number, None, number % 2, 0, tokens, True)
        pieces.append(piece)
        positions.append(first)
        if tokens:
            csr = tuple(sparse(layer) for layer in layers)
            batches.append(SparseBatch(csr, np.arange(first, first + tokens), np.zeros(tokens, np.int32), (piece,)))
        first += tokens
    for batch in batches:
        state.add(batch)
    state.end_segment(batches, pieces, positions)
    return first


@pytest.fixture(scope="module")
def state() -> State:
    """All documents in segments of 20; every pair of the first layer pair is pinned behind the third segment."""
    state = State.zero(DICTIONARIES, PAIRS, THRESHOLD)
    position = 0
    for at in range(0, DOCUMENTS, 20):
        if at == 60:
            up, down = (part.ravel().astype(np.int32) for part in np.indices(DICTIONARIES[:2]))
            state.watched[0, 1].pin(up, down, position=position, tokens=state.tokens)
        position = end_segment(state, list(range(at, at + 20)), position)
    return state


@pytest.fixture
def queries(state: State) -> CorpusQueries:
    return CorpusQueries(DESCRIPTION, state, threading.Lock())


def of(corpus: str, first: int = 0) -> list[list[np.ndarray]]:
    return [document.layers for document in CORPUS[first:] if document.corpus == corpus and len(document.layers[0])]


def density_of(corpus: str, layer: int, index: int, alpha: float) -> drift.RatioIntervals:
    """Document by document."""
    n = np.array([(layers[layer][:, index] > THRESHOLD).sum() for layers in of(corpus)])
    t = np.array([len(layers[0]) for layers in of(corpus)])
    moments = drift.RatioMoments(n.sum(), t.sum(), (n * n).sum(), (n * t).sum(), (t * t).sum(), len(t))
    return drift.density_intervals(moments, alpha, intervals.N_STAR)


@pytest.mark.parametrize("corpus", ["prose", "code"])
@pytest.mark.parametrize(("layer", "index"), [(0, 0), (0, 3), (2, 8)], ids=["never-fires", "differs", "last"])
def test_a_feature_in_one_corpus_is_what_its_documents_say(queries: CorpusQueries, corpus: str, layer: int, index: int) -> None:
    answer = queries.feature((layer, index), corpus)
    columns = [layers[layer][:, index].astype(np.float64) for layers in of(corpus)]
    tokens = sum(map(len, columns))
    count = sum(int((column > THRESHOLD).sum()) for column in columns)
    assert (answer.tokens, answer.documents, answer.count) == (tokens, len(columns), count)
    assert answer.documents_active == sum((column > THRESHOLD).any() for column in columns)
    assert answer.density == count / tokens
    assert answer.mean == pytest.approx(sum(column.sum() for column in columns) / tokens, rel=1e-12)
    assert answer.mean_active is None and answer.threshold == pytest.approx(THRESHOLD)
    expected = density_of(corpus, layer, index, intervals.ALPHA)
    found = answer.density_interval
    assert (found.status, found.reason, answer.reason) == ("ok", None, None)
    assert (found.lower, found.upper) == pytest.approx((float(expected.lower), float(expected.upper)), rel=1e-12)
    assert found.lower <= answer.density <= found.upper  # type: ignore[operator]


def whole(found: tuple[Any, Made[Any]]) -> Any:
    """An answer with all its items."""
    answer, items = found
    return msgspec.structs.replace(answer, items=items[:])


def test_a_corpus_of_which_nothing_is_counted_has_zeros_and_a_reason(queries: CorpusQueries) -> None:
    answer = queries.feature((1, 1), "queued")
    assert (answer.tokens, answer.documents, answer.count, answer.density, answer.mean) == (0, 0, 0, None, None)
    assert answer.reason is not None and "'queued'" in answer.reason
    compared = whole(queries.compare("prose", "queued", 0))
    assert compared.different == 0 and compared.b.tokens == 0
    assert all(item.difference.estimate is None and "'queued'" in str(item.difference.reason) for item in compared.items)


@pytest.mark.parametrize("layer", [None, 0, 2], ids=["all-layers", "first", "last"])
def test_features_are_ranked_by_how_much_their_densities_differ_at_least(queries: CorpusQueries, layer: int | None) -> None:
    layers = range(3) if layer is None else [layer]
    features = [(at, index) for at in layers for index in range(DICTIONARIES[at])]
    alpha = intervals.ALPHA / (2 * len(features))
    rows = {}
    for at, index in features:
        a, b = density_of("code", at, index, alpha), density_of("prose", at, index, alpha)
        low, high = float(a.lower - b.upper), float(a.upper - b.lower)
        rows[f"{at}:{index}"] = max(low, -high, 0.0), float(a.estimate - b.estimate), low, high
    answer = whole(queries.compare("code", "prose", layer))
    order = sorted(rows, key=lambda name: (-rows[name][0], -abs(rows[name][1])))  # stable: ties stay in order
    assert [item.feature for item in answer.items] == order
    for item in answer.items:
        found = item.difference
        assert (found.estimate, found.lower, found.upper) == pytest.approx(rows[item.feature][1:], rel=1e-9, abs=1e-12)
    assert (answer.family, answer.alpha, answer.next) == (len(features), intervals.ALPHA, None)
    planted = {f"0:{index}" for index in (1, 3, 5)} | {"1:1"}
    expected = {name for name in planted if layer is None or name.startswith(f"{layer}:")}
    assert {item.feature for item in answer.items[: answer.different]} == expected


@pytest.mark.parametrize("measure", intervals.MEASURES)
def test_edges_differ_by_what_the_documents_behind_their_choice_say(queries: CorpusQueries, state: State, measure: str) -> None:
    answer = whole(queries.compare_edges("prose", "code", (0, 1), measure))
    pairs = [(f"0:{i}", f"1:{j}") for i, j in itertools.product(range(7), range(6))]
    assert sorted((item.up, item.down) for item in answer.items) == pairs
    assert answer.family == len(pairs)
    before = sum(len(document.layers[0]) for document in CORPUS[:60])
    distances = []
    for item in answer.items:
        assert item.counted_from == before
        i, j = int(item.up[2:]), int(item.down[2:])
        expected = []
        for corpus, side in (("prose", item.a), ("code", item.b)):
            moments = pair_moments(corpus, i, j)
            found = intervals.intervals(moments, [measure], intervals.ALPHA / (2 * len(pairs)))[measure]
            assert side.tokens == moments.sums[0] and side.documents == found.documents
            assert side.effective_documents == pytest.approx(float(found.effective), rel=1e-9)
            assert side.status == ("ok" if found.sufficient else "insufficient")
            if found.sufficient:
                estimate = side.estimate, side.lower, side.upper
                assert estimate == pytest.approx((float(found.estimate), float(found.lower), float(found.upper)), rel=1e-6)
            else:
                assert side.lower is None and side.reason is not None and repr(corpus) in side.reason
            expected.append(found)
        if all(found.sufficient for found in expected):
            low, high = expected[0].lower - expected[1].upper, expected[0].upper - expected[1].lower
            assert (item.difference.lower, item.difference.upper) == pytest.approx((float(low), float(high)), abs=1e-9)
            distances.append(max(low, -high, 0.0))
        else:
            assert item.difference.lower is None and item.difference.reason
            distances.append(-1.0)
    assert all(x >= y - 1e-12 for x, y in itertools.pairwise(distances))
    assert (answer.items[0].up, answer.items[0].down) == ("0:1", "1:1"), "the planted one"
    assert answer.different >= 1


def pair_moments(corpus: str, i: int, j: int) -> Moments:
    clusters = []
    for layers in of(corpus, 60):
        a, b = layers[0][:, i].astype(np.float64), layers[1][:, j].astype(np.float64)
        up, down = a > THRESHOLD, b > THRESHOLD
        clusters.append([len(a), up.sum(), down.sum(), (up & down).sum(), a.sum(), b.sum(), a @ a, b @ b, a @ b])
    return moments_of(clusters)


def test_no_watched_pair_is_an_empty_answer_and_what_can_not_be_compared_is_refused(queries: CorpusQueries) -> None:
    nothing = whole(queries.compare_edges("code", "prose", (1, 2), "jaccard"))
    assert (nothing.items, nothing.family, nothing.different, nothing.next) == ([], 0, 0, None)
    with pytest.raises(Unknown, match="0→1, 1→2"):
        queries.compare_edges("code", "prose", (0, 2), "jaccard")
    with pytest.raises(BadValue, match=r"'lift'.*jaccard, sufficiency, necessity, pearson"):
        queries.compare_edges("code", "prose", (0, 1), "lift")
    with pytest.raises(Unknown, match="no layer 3"):
        queries.compare("code", "prose", 3)


@pytest.mark.parametrize("ask", ["feature", "compare", "edges"])
def test_the_lock_is_not_held_while_ratios_are_computed(state: State, ask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = threading.Lock()
    seen = []
    for module, function in ((drift, "density_intervals"), (intervals, "intervals")):
        real = getattr(module, function)
        monkeypatch.setattr(
            module, function, lambda *given, real=real, **named: seen.append(lock.locked()) or real(*given, **named)
        )
    queries = CorpusQueries(DESCRIPTION, state, lock)
    {
        "feature": lambda: queries.feature((0, 1), "code"),
        "compare": lambda: queries.compare("code", "prose", None),
        "edges": lambda: queries.compare_edges("code", "prose", (0, 1), "jaccard"),
    }[ask]()
    assert seen and not any(seen)


class Pins:
    """Pins of an empty state, in a loop that is where the test says."""

    def __init__(self, folder: Path, limit: int = 20) -> None:
        self.place = NextSegment(0, 0)
        self.state = State.zero(DICTIONARIES, PAIRS)
        self.watch = Watch(folder / "watch", limit, PAIRS)
        self.lock = threading.Lock()
        self.queries = PinQueries(DESCRIPTION, self.state, self.lock, self.watch, self.next_segment)

    def next_segment(self) -> NextSegment:
        assert self.lock.locked()
        return self.place


def test_a_pin_holds_from_the_next_segment_on_and_waits_until_that_ends(tmp_path: Path) -> None:
    pins = Pins(tmp_path)
    first = pins.queries.pin([(0, 3, 1, 3)])
    assert (first.added, first.known, first.pinned, first.counted_from) == (1, 0, 1, 0)
    (waiting,) = pins.queries.pinned(None, 10).items
    assert (waiting.up, waiting.down, waiting.status, waiting.counted_from) == ("0:3", "1:3", "waiting", 0)

    pins.place = NextSegment(1, None)  # some of segment 0 is counted
    second = pins.queries.pin([(0, 3, 1, 3), (1, 2, 2, 8), (1, 2, 2, 8)])
    assert (second.added, second.known, second.pinned, second.counted_from) == (1, 1, 2, None)
    position = 0
    for segment in range(2):
        pins.watch.begin(pins.state, segment, position, pins.state.tokens)
        position = end_segment(pins.state, list(range(20 * segment, 20 * segment + 20)), position)
    one, other = pins.queries.pinned(None, 10).items
    half = sum(len(document.layers[0]) for document in CORPUS[:20])
    assert (one.status, one.counted_from, one.tokens) == ("counting", 0, pins.state.tokens)
    assert (other.status, other.counted_from, other.tokens) == ("counting", half, pins.state.tokens - half)
    either = [(layers[1][:, 2] > 0).any() or (layers[2][:, 8] > 0).any() for _, layers in CORPUS[20:40]]
    assert other.documents == sum(either)


def test_pins_are_read_again_from_disk_in_pages(tmp_path: Path) -> None:
    pairs = [(up, i, down, j) for up, down in PAIRS for i, j in itertools.product(range(1, 4), range(3))]
    Pins(tmp_path).queries.pin(pairs[::-1])
    again = Pins(tmp_path).queries
    found, after = [], None
    while True:
        page = again.pinned(after, 4)
        found += [(item.up, item.down) for item in page.items]
        assert page.pinned == len(pairs)
        if page.next is None:
            break
        up, i, down, j = map(int, page.next.replace(",", ":").split(":"))
        after = (up, i, down, j)
    assert found == [(f"{up}:{i}", f"{down}:{j}") for up, i, down, j in sorted(pairs)]


@pytest.mark.parametrize(
    ("pairs", "error", "says"),
    [
        pytest.param([], BadValue, "no pairs", id="none"),
        pytest.param([(0, 7, 1, 0)], Unknown, "features 0 to 6", id="unknown-feature"),
        pytest.param([(0, 1, 3, 0)], Unknown, "layers 0 to 2", id="unknown-layer"),
        pytest.param([(0, 1, 2, 0)], Unknown, "0→1, 1→2", id="no-layer-pair"),
        pytest.param([(0, i, 1, j) for i in range(3) for j in range(4)], BadValue, "at most 10", id="too-many"),
    ],
)
def test_a_pin_that_can_not_be_is_refused_whole(tmp_path: Path, pairs, error: type[Exception], says: str) -> None:
    pins = Pins(tmp_path)
    with pytest.raises(error, match=says):
        pins.queries.pin([(1, 1, 2, 1), *pairs] if pairs else [])
    assert pins.watch.pinned == set() and not (tmp_path / "watch").exists()


def test_a_loop_that_counts_again_refuses_pins_and_pins_none(tmp_path: Path) -> None:
    pins = Pins(tmp_path)

    def refuse() -> NextSegment:
        raise NotReady("counting again")

    queries = PinQueries(DESCRIPTION, pins.state, pins.lock, pins.watch, refuse)
    with pytest.raises(NotReady):
        queries.pin([(0, 1, 1, 1)])
    assert pins.watch.pinned == set() and not pins.lock.locked()
