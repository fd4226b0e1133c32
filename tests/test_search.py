"""Search through contexts: every feature of which a context holds the text, and no other, from a real log and tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from api_engine import Engine
from api_rig import Api, api_process, problem
from tokenizers import Tokenizer

from engine.analysis import search
from engine.analysis.context_lists import ContextLists, contexts_of
from engine.analysis.search import Searches, TextIndex, occurrences
from engine.analysis.token_texts import TokenTexts, folded
from engine.corpus.builder import ActivationBuilder, TokenBuilder
from engine.corpus.inbox import Manifest
from engine.corpus.log import CorpusLog
from engine.corpus.segment import LayerActivations
from engine.corpus.segment_file import segment_path
from engine.corpus.token_windows import SealedWindows
from engine.corpus.tokenizer import DocumentTokenizer
from engine.demo import text
from engine.encoder.description import LayerDescription, RunDescription
from engine.encoder.tokenizer_file import TOKENIZER, write_tokenizer
from engine.errors import NotReady
from engine.views.blocks import STRENGTHS
from engine.views.contexts import SIDE_TOKENS
from engine.views.records import CONTEXT, CONTEXTS, Snapshot
from engine.views.search_answers import SearchRequest

SIZES, CONTENT, SPECIAL = (40, 30), 127, 0
TOKENIZER_FILE = Path(text.__file__).parent / "model" / "tokenizer.json"
UPLOAD = Manifest("u", "corpora", "docs", None, "", "application/x-ndjson", 0, 1, 0.0)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(TOKENIZER_FILE))


class Corpus(NamedTuple):
    """A log of text in three segments with pushed activations between them, and contexts at random places in it."""

    root: Path
    run: RunDescription
    contexts: list[ContextLists]
    shown: list[list[np.ndarray | None]]
    """Per feature and context the token ids that it shows; None where it is in the pushed segment."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Corpus:
    root = tmp_path_factory.mktemp("search") / "log"
    log, documents = CorpusLog(root), DocumentTokenizer(tokenizer)
    texts = [row.text for row in text.sample_documents()][:160]
    windows: list[np.ndarray | None] = []  # of each position, with the position's place in the window
    places: list[int] = []
    for part in range(4):
        if part == 2:
            activations = ActivationBuilder(1)
            layer = LayerActivations(np.zeros(51, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))
            activations.add(UPLOAD, 999, None, 0, 0, 50, [layer], True)
            log.append(activations)
            windows += [None] * 50
            places += range(50)
            continue
        builder = TokenBuilder(CONTENT)
        for number in range(part * 40, part * 40 + 40):
            ids = documents.encode(texts[number])
            ids[3::50] = SPECIAL  # as in a document that is given as tokens
            builder.add(UPLOAD, number, None, 0, 0, ids, True)
            for start in range(0, len(ids), CONTENT):
                window = ids[start : start + CONTENT]
                windows += [window] * len(window)
                places += range(len(window))
        log.append(builder)
    rng = np.random.default_rng(0)
    countable = np.array([at for at, window in enumerate(windows) if window is None or window[places[at]] != SPECIAL])
    contexts, shown = [], []
    for size in SIZES:
        lengths = rng.integers(0, CONTEXTS + 1, size)
        rows = np.zeros(lengths.sum(), CONTEXT)
        rows["position"] = rng.choice(countable, len(rows))
        rows["value"] = rng.integers(1, 100, len(rows)) / 8
        contexts.append(ContextLists(rows, lengths))
        for end, length in zip(np.cumsum(lengths).tolist(), lengths.tolist(), strict=True):
            mine = []
            for at in rows["position"][end - length : end].tolist():
                window, place = windows[at], places[at]
                if window is None:
                    mine.append(None)
                    continue
                counted = np.flatnonzero(window != SPECIAL)
                row = int(np.searchsorted(counted, place))
                mine.append(window[counted[max(0, row - SIDE_TOKENS) : row + SIDE_TOKENS + 1]])
            shown.append(mine)
    layers = [LayerDescription(layer=at, hook=f"layer {at}", features=size) for at, size in enumerate(SIZES)]
    run = RunDescription(model="m", saes="s", layers=layers, context_size=128, prepend_bos=True, special_ids=[SPECIAL])
    return Corpus(root, run, contexts, shown)


def index_of(corpus: Corpus, tokenizer: Tokenizer) -> TextIndex:
    snapshot = Snapshot(version="1-1", tokens=1_000, published_at=0.0)
    counts = np.arange(sum(SIZES))
    return TextIndex.of(snapshot, corpus.run, corpus.contexts, counts, SealedWindows(corpus.root), TokenTexts(tokenizer))


NOT_THERE = ("zzzz", "é", "<|endoftext|>")


@pytest.mark.parametrize(
    "q", ["array", "ARRAY", "the", " is ", "of the", "Return", "int", " = ", "\n    ", "parameters\n--", *NOT_THERE]
)
def test_a_search_finds_the_features_of_which_a_context_holds_the_text_and_no_other(
    corpus: Corpus, tokenizer: Tokenizer, q: str
) -> None:
    answer, items = index_of(corpus, tokenizer).find(SearchRequest(q=q))
    values = np.concatenate([layer.rows["value"] for layer in corpus.contexts]).tolist()
    expected, at = {}, 0
    for number, contexts in enumerate(corpus.shown):
        layer, index = (0, number) if number < SIZES[0] else (1, number - SIZES[0])
        holding = [
            values[at + rank]
            for rank, ids in enumerate(contexts)
            if ids is not None and q.casefold() in tokenizer.decode(ids.tolist(), skip_special_tokens=False).casefold()
        ]
        at += len(contexts)
        if holding:
            expected[f"{layer}:{index}"] = (len(holding), max(holding), number / 1_000)
    assert {item.feature: (item.contexts, item.activation, item.density) for item in items} == expected
    assert answer.total == len(expected) and (answer.per_feature, answer.q) == (CONTEXTS, q)
    assert answer.searched == sum(ids is not None for contexts in corpus.shown for ids in contexts)
    order = [(item.at_peak, item.contexts, item.activation) for item in items]
    assert order == sorted(order, reverse=True)
    assert bool(expected) == (q not in NOT_THERE)


def test_contexts_whose_strongest_token_is_in_the_text_are_told(corpus: Corpus, tokenizer: Tokenizer) -> None:
    """Of every context the text of its strongest token itself is looked for."""
    index = index_of(corpus, tokenizer)
    for at in range(0, len(index.feature), 5):
        peak = bytes(index.text[index.places.peak_begin[at] : index.places.peak_end[at]]).decode()
        _, items = index.find(SearchRequest(q=peak))
        layer, number = (0, index.feature[at]) if index.feature[at] < SIZES[0] else (1, index.feature[at] - SIZES[0])
        found = next(item for item in items if item.feature == f"{layer}:{number}")
        holding = 0
        for one in np.flatnonzero(index.feature == index.feature[at]).tolist():
            begin, end, peak_begin, peak_end = (int(column[one]) for column in index.places)
            reach = len(peak.encode()) - 1
            holding += peak.encode() in bytes(index.text[max(begin, peak_begin - reach) : min(end, peak_end + reach)])
        assert found.at_peak == holding >= 1


def test_characters_that_are_cut_over_tokens_are_found_and_stay_in_their_windows(tokenizer: Tokenizer) -> None:
    prose = "Ünï naïve — 東京は大きい。 🤗🤗 ÉCOLE Straße"
    ids = DocumentTokenizer(tokenizer).encode(prose)
    partial = ["\ufffd" in tokenizer.decode([one], skip_special_tokens=False) for one in ids.tolist()]
    assert sum(partial) > 20
    texts = TokenTexts(tokenizer)
    spelled = texts.spell(ids, np.zeros(len(ids), np.int64))
    assert bytes(spelled.text).decode() == prose.casefold()
    for word in ("東京", "naïve", "école", "strasse", "🤗"):
        (first, *_) = occurrences(spelled.text, folded(word))
        covering = (spelled.begins < first + len(folded(word))) & (spelled.ends > first)
        assert folded(tokenizer.decode(ids[covering].tolist())).find(folded(word)) >= 0
    assert (spelled.begins[1:] >= spelled.begins[:-1]).all() and (spelled.begins <= spelled.ends).all()
    cut = int(np.flatnonzero(partial)[0]) + 1
    halves = texts.spell(ids, (np.arange(len(ids)) >= cut).astype(np.int64))
    assert "\ufffd" in bytes(halves.text).decode(), "no character reaches from one window into the next"


def test_only_the_strongest_contexts_are_held_where_there_are_too_many(
    corpus: Corpus, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = np.concatenate([layer.lengths for layer in corpus.contexts])
    monkeypatch.setattr(search, "MOST_CONTEXTS", int(np.minimum(lengths, 3).sum()))
    few = index_of(corpus, tokenizer)
    text_only = [sum(ids is not None for ids in contexts[:3]) for contexts in corpus.shown]
    assert few.per_feature == 3 and np.bincount(few.feature, minlength=sum(SIZES)).tolist() == text_only
    monkeypatch.setattr(search, "MOST_CONTEXTS", 10)
    assert index_of(corpus, tokenizer).per_feature == 1 and len(index_of(corpus, tokenizer).feature) <= 10


def test_a_segment_that_is_gone_or_damaged_loses_its_own_contexts_only(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    root = tmp_path / "log"
    root.mkdir()
    for number in range(4):
        segment_path(root, number).write_bytes(segment_path(corpus.root, number).read_bytes())
    windows = SealedWindows(root)
    assert windows.segment_of(CorpusLog(corpus.root).sealed_tokens - 1) == 3
    segment_path(root, 3).unlink()
    content = bytearray(segment_path(root, 0).read_bytes())
    content[-30] ^= 1
    segment_path(root, 0).write_bytes(content)
    snapshot, ends = Snapshot(version="1-1", tokens=1, published_at=0.0), CorpusLog(corpus.root)
    index = TextIndex.of(snapshot, corpus.run, corpus.contexts, np.zeros(sum(SIZES)), windows, TokenTexts(tokenizer))
    positions = np.concatenate([layer.rows["position"] for layer in corpus.contexts])
    readable = (positions >= ends.end_position(0)) & (positions < ends.end_position(1))
    assert len(index.feature) == readable.sum() > 20


def test_every_place_is_an_occurrence_those_that_overlap_too() -> None:
    haystack = np.frombuffer(b"aabaaabaaaa", np.uint8)
    assert occurrences(haystack, b"aa").tolist() == [0, 3, 4, 7, 8, 9]
    assert occurrences(haystack, b"aabaaabaaaa").tolist() == [0]
    assert occurrences(haystack, b"aabaaabaaaab").tolist() == [] and occurrences(haystack[:0], b"a").tolist() == []
    rng = np.random.default_rng(0)
    noise = rng.integers(97, 100, 5_000).astype(np.uint8)
    for length in (1, 2, 5):
        needle = noise[40 : 40 + length].tobytes()
        places = [at for at in range(len(noise)) if noise[at : at + length].tobytes() == needle]
        assert occurrences(noise, needle).tolist() == places


def test_contexts_are_those_that_there_are() -> None:
    rng, strengths, expected = np.random.default_rng(0), [], []
    for size in (3, 2):
        rows = np.zeros(size, STRENGTHS)
        rows["contexts"]["position"] = -1
        for contexts in rows["contexts"]:
            there = int(rng.integers(0, 9))
            contexts["position"][:there], contexts["value"][:there] = rng.integers(0, 1000, there), rng.random(there)
            expected.append(contexts[:there])
        strengths.append(rows)
    lists = contexts_of(strengths)
    assert [len(layer.lengths) for layer in lists] == [3, 2]
    found = [rows for layer in lists for rows in np.split(layer.rows, np.cumsum(layer.lengths)[:-1])]
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_without_the_engines_tokenizer_a_search_has_to_wait(corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path) -> None:
    searches = Searches(tmp_path, 0.0, 0.0)
    with pytest.raises(NotReady, match="tokenizer"):
        searches._known(corpus.run)
    write_tokenizer(tmp_path / TOKENIZER, tokenizer)
    assert bytes(searches._known(corpus.run).spell(np.array([300]), np.array([0])).text).decode() == tokenizer.decode([300])


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A snapshot is published; there is no analysis worker."""
    with api_process(tmp_path_factory.mktemp("api")) as (api, _):
        engine = Engine(api.settings)
        engine.count()
        engine.publish()
        yield api
        engine.close()


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        pytest.param({}, 400, "q", id="missing"),
        pytest.param({"q": "x"}, 422, "q has 1 characters: it must have 2 to 100", id="too-short"),
        pytest.param({"q": "x" * 101}, 422, "q has 101 characters", id="too-long"),
        pytest.param({"q": " \n "}, 422, "more than blanks", id="blanks"),
        pytest.param({"q": "word", "limit": "0"}, 422, "limit = 0", id="limit-0"),
        pytest.param({"q": "word", "limit": "1001"}, 422, "limit = 1001", id="limit-above-the-most"),
        pytest.param({"q": "word", "limit": "many"}, 400, "limit", id="limit-not-a-number"),
        pytest.param({"q": "word", "layer": "3"}, 400, "unknown query parameter 'layer'", id="unknown-parameter"),
    ],
)
def test_what_can_not_be_searched_for_is_a_problem_that_names_what_can(
    api: Api, query: dict[str, str], status: int, says: str
) -> None:
    assert says in problem(api.http.get("/v1/search", params=query), status)
