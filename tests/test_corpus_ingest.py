"""From the inbox to sealed segments: nothing lost, nothing doubled, whatever stops on the way."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpus_rig import (
    CONTENT,
    DICTIONARIES,
    FailingDisk,
    documents_in,
    frame,
    lines,
    no_space,
    parquet,
    segments,
    start_ingest,
    take_all,
    train_tokenizer,
    upload,
    windows_in,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from engine import durable
from engine.corpus.activations import read_frames
from engine.corpus.inbox import Inbox
from engine.corpus.log import CorpusLog
from engine.corpus.segment import ActivationSegment, TokenSegment
from engine.corpus.tokenizer import DocumentTokenizer
from engine.errors import DamagedFile

PROSE = "It was a bright cold day in April, and 13 clocks were striking.\n\nWinston's chin was nuzzled into his breast. " * 4


@pytest.fixture(scope="module")
def tokenizer() -> DocumentTokenizer:
    return DocumentTokenizer(train_tokenizer(pre_tokenizers.ByteLevel(add_prefix_space=False), [PROSE], 300))


def eventually(what: str, reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < deadline, f"never {what}"
        time.sleep(0.005)


def mixed_bodies(tokenizer: DocumentTokenizer) -> list[tuple[bytes, str]]:
    """Uploads of every media type: short, empty and long documents, texts and token ids."""
    ids = np.arange(9000) % 300
    return [
        (
            lines({"text": "short"}, {"text": ""}, {"tokens": list(range(30))}, {"text": PROSE * 3, "id": "n"}, {"text": "end"}),
            "ndjson",
        ),
        ((PROSE * 60).encode(), "text/plain"),
        (parquet({"text": [PROSE, "", "a"]}), "vnd.apache.parquet"),
        (lines({"tokens": ids.tolist()}, {"text": "after the long one"}), "ndjson"),
        (b"", "text/plain"),
        (parquet({"tokens": [[1] * CONTENT, [2] * (2 * CONTENT + 1), []]}), "vnd.apache.parquet"),
    ]


def send(inbox: Inbox, body: bytes, kind: str, **options: Any) -> str:
    media_type = kind if "/" in kind else f"application/{'x-' if kind == 'ndjson' else ''}{kind}"
    return upload(inbox, body, media_type, **options).id


def straight_run(root: Path, inbox: Inbox, tokenizer: DocumentTokenizer, **options: Any) -> CorpusLog:
    log = CorpusLog(root)
    take_all(start_ingest(inbox, log, tokenizer, **options), inbox, log)
    return log


def test_every_document_is_in_the_log_with_its_tokens_name_half_and_end(tmp_path: Path, tokenizer: DocumentTokenizer) -> None:
    inbox = Inbox(tmp_path / "inbox")
    uploads = [send(inbox, body, kind) for body, kind in mixed_bodies(tokenizer)]
    log = straight_run(tmp_path / "log", inbox, tokenizer)
    found = documents_in(log)
    texts = [
        {0: "short", 1: "", 3: PROSE * 3, 4: "end"},
        {0: PROSE * 60},
        {0: PROSE, 1: "", 2: "a"},
        {1: "after the long one"},
        {0: ""},
    ]
    expected = {(uploads[index], number): text for index, of in enumerate(texts) for number, text in of.items()}
    assert {key: found.pop(key) for key in expected} == {key: tokenizer.encode(text).tolist() for key, text in expected.items()}
    assert found == {
        (uploads[0], 2): list(range(30)),
        (uploads[3], 0): (np.arange(9000) % 300).tolist(),
        (uploads[5], 0): [1] * CONTENT,
        (uploads[5], 1): [2] * (2 * CONTENT + 1),
        (uploads[5], 2): [],
    }
    pieces = [piece for segment in segments(log) for piece in segment.pieces]
    assert {piece.name for piece in pieces if piece.upload == uploads[0] and piece.number == 3} == {"n"}
    assert all(len({piece.half for piece in pieces if (piece.upload, piece.number) == key}) == 1 for key in expected)
    assert sorted(upload for segment in segments(log) for upload in segment.finished) == sorted(uploads)
    for manifest in inbox.manifests():
        progress = log.progress(manifest.id)
        assert progress.finished and progress.documents == manifest.documents and progress.next == (manifest.documents, 0)
    assert sum(log.progress(upload).tokens for upload in uploads) == log.sealed_tokens


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_any_split_of_documents_over_uploads_gives_the_same_windows(tokenizer: DocumentTokenizer, data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.one_of(st.integers(0, 40), st.integers(100, 6000)), min_size=1, max_size=8))
    records = [
        {"tokens": ((np.arange(length) * (number + 3)) % 600).tolist()} if number % 2 else {"text": (PROSE * 8)[: length // 2]}
        for number, length in enumerate(lengths)
    ]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(records)))))
    order = data.draw(st.permutations([records[low:high] for low, high in zip([0, *cuts], [*cuts, len(records)], strict=True)]))
    size = data.draw(st.sampled_from([128, 1000, 65_536]))
    with tempfile.TemporaryDirectory() as folder:
        one, many = Inbox(Path(folder) / "one"), Inbox(Path(folder) / "many")
        upload(one, lines(*records))
        for index, part in enumerate(part for part in order if part):
            upload(many, lines(*part), corpus=f"corpus-{index % 2}")
        logs = [
            straight_run(Path(folder) / "log-1", one, tokenizer),
            straight_run(Path(folder) / "log-2", many, tokenizer, segment_tokens=size),
        ]
        first, second = (windows_in(log) for log in logs)
    assert first == second


@pytest.mark.parametrize("segment_tokens", [1000, 5000], ids=["segments within documents", "documents within segments"])
def test_stopping_anywhere_and_starting_again_gives_the_documents_of_a_straight_run(
    tmp_path: Path, tokenizer: DocumentTokenizer, segment_tokens: int
) -> None:
    inbox = Inbox(tmp_path / "inbox")
    for body, kind in mixed_bodies(tokenizer):
        send(inbox, body, kind)
    straight = straight_run(tmp_path / "straight", inbox, tokenizer, segment_tokens=segment_tokens)
    inside = 0
    while True:  # every new engine may seal two segments, then it is gone with all that it has not sealed
        log = CorpusLog(tmp_path / "stopped")
        if all(log.progress(manifest.id).ended for manifest in inbox.manifests()):
            break
        ingest = start_ingest(Inbox(tmp_path / "inbox"), log, tokenizer, segment_tokens=segment_tokens, consumed=log.last)
        before = log.last
        ingest.start()
        eventually("two segments ahead", lambda log=log, before=before: log.last >= before + 2 or not log_is_behind(inbox, log))
        ingest.stop()
        ingest.check()
        assert not ingest.is_alive() and log.last <= before + 2
        inside += any(log.progress(manifest.id).next[1] > 0 for manifest in inbox.manifests())
    assert documents_in(log) == documents_in(straight) and windows_in(log) == windows_in(straight)
    assert inside, "it must have been stopped inside long documents too"


def log_is_behind(inbox: Inbox, log: CorpusLog) -> bool:
    return not all(log.progress(manifest.id).ended for manifest in inbox.manifests())


def test_it_stays_two_segments_ahead_of_what_is_counted(tmp_path: Path, tokenizer: DocumentTokenizer) -> None:
    inbox, log = Inbox(tmp_path / "inbox"), CorpusLog(tmp_path / "log")
    upload(inbox, (PROSE * 60).encode(), "text/plain")
    ingest = start_ingest(inbox, log, tokenizer, consumed=-1)
    ingest.start()
    for counted in range(5):
        eventually("ahead", lambda counted=counted: log.last == counted + 1)
        assert log.next_segment(counted + 2, wait=0.02) is None
        ingest.consumed(counted)
    eventually("ahead", lambda: log.last == 6)
    ingest.stop()
    assert not ingest.is_alive() and ingest.error is None


def test_a_second_corpus_does_not_wait_for_the_first(tmp_path: Path, tokenizer: DocumentTokenizer) -> None:
    inbox, log = Inbox(tmp_path / "inbox"), CorpusLog(tmp_path / "log")
    for _ in range(12):
        upload(inbox, lines(*[{"tokens": [1] * 1000}] * 60), corpus="large")
    ingest = start_ingest(inbox, log, tokenizer, segment_tokens=8192)
    for _ in range(4):
        ingest.step()
    late = upload(inbox, lines({"text": "quick"}), corpus="small").id
    for _ in range(13):  # a turn of each of the eight uploads of the first corpus, and sealing
        ingest.step()
    assert log.progress(late).finished and not any(log.progress(manifest.id).finished for manifest in inbox.manifests()[:12])


def test_a_segment_is_sealed_when_it_is_full_at_a_documents_end_or_a_window_of_a_long_one(
    tmp_path: Path, tokenizer: DocumentTokenizer
) -> None:
    inbox = Inbox(tmp_path / "inbox")
    upload(inbox, lines({"tokens": [1] * 3000}, {"tokens": [2] * 3000}, {"tokens": [3] * 9000}, {"tokens": [4] * 2993}))
    log = straight_run(tmp_path / "log", inbox, tokenizer, segment_tokens=5000, quiet_ms=10_000_000)
    sizes = [[(piece.number, piece.tokens) for piece in segment.pieces] for segment in segments(log)]
    assert sizes == [[(0, 3000)], [(1, 3000), (2, 1995)], [(2, 4998)], [(2, 2007), (3, 2993)]]


def test_a_window_longer_than_a_segment_is_sealed_whole(tmp_path: Path, tokenizer: DocumentTokenizer) -> None:
    inbox = Inbox(tmp_path / "inbox")
    upload(inbox, lines({"tokens": [1] * 500}, {"tokens": [2] * 90}))
    log = straight_run(tmp_path / "log", inbox, tokenizer, segment_tokens=128, content=200)
    assert [segment.token_count for segment in segments(log)] == [200, 200, 100, 90]


def test_what_has_come_is_sealed_when_nothing_new_has_come_for_a_while(tmp_path: Path, tokenizer: DocumentTokenizer) -> None:
    inbox, log = Inbox(tmp_path / "inbox"), CorpusLog(tmp_path / "log")
    ingest = start_ingest(inbox, log, tokenizer, quiet_ms=100, segment_tokens=65_536)
    first, second = (upload(inbox, lines({"text": text})).id for text in ("one", "two"))
    ingest.step()
    ingest.step()
    assert log.last == -1 and ingest.queue_tokens > 0
    ingest.start()
    eventually("sealed", lambda: log.last == 0)
    assert log.read(0).finished == (first, second), "what has come meanwhile is in one segment"
    third = upload(inbox, lines({"text": "three"})).id
    eventually("sealed", lambda: log.progress(third).finished)
    assert ingest.queue_tokens == 0
    ingest.stop()
    ingest.check()


def test_the_queue_counts_what_is_waiting_sealed_or_not_and_ends_at_zero(tmp_path: Path, tokenizer: DocumentTokenizer) -> None:
    inbox, log = Inbox(tmp_path / "inbox"), CorpusLog(tmp_path / "log")
    for _ in range(20):
        upload(inbox, lines({"tokens": list(range(500))}))
    ingest = start_ingest(inbox, log, tokenizer, consumed=-1, segment_tokens=2000)
    ingest.start()
    eventually("two segments ahead", lambda: log.last == 1)
    assert 5000 < ingest.queue_tokens < 15_000

    def counted() -> bool:
        ingest.consumed(log.last)
        return ingest.queue_tokens == 0

    eventually("empty", counted)
    assert log.sealed_tokens == 10_000
    ingest.stop()


def test_a_full_disk_is_told_and_waited_for_and_nothing_is_lost(
    tmp_path: Path, tokenizer: DocumentTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox, log = Inbox(tmp_path / "inbox"), CorpusLog(tmp_path / "log")
    body, kind = mixed_bodies(tokenizer)[0]
    first = send(inbox, body, kind)
    disk = FailingDisk(1, no_space)
    monkeypatch.setattr(durable, "disk", disk)
    monkeypatch.setattr("engine.corpus.ingest._BACK_OFF", (0.01, 0.02))
    ingest = start_ingest(inbox, log, tokenizer)
    ingest.start()
    eventually("told", lambda: ingest.problem is not None)
    assert "No space left on device" in str(ingest.problem) and log.last == -1
    ingest.check()
    disk.broken = False
    second = send(inbox, lines({"text": "later"}), "ndjson")
    eventually("taken", lambda: log.progress(first).finished and log.progress(second).finished)
    assert ingest.problem is None
    ingest.stop()
    assert documents_in(log) == documents_in(straight_run(tmp_path / "straight", inbox, tokenizer))


def test_stop_ends_a_thread_that_waits_for_the_disk(
    tmp_path: Path, tokenizer: DocumentTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox, log = Inbox(tmp_path / "inbox"), CorpusLog(tmp_path / "log")
    upload(inbox, lines({"text": "a"}))
    monkeypatch.setattr(durable, "disk", FailingDisk(0, no_space))
    ingest = start_ingest(inbox, log, tokenizer)
    ingest.start()
    eventually("told", lambda: ingest.problem is not None)
    ingest.stop()
    assert not ingest.is_alive() and ingest.error is None


def damage_line(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"two"', b'"two'))


def cut_line(path: Path) -> None:
    path.write_bytes(path.read_bytes().splitlines()[0])


DAMAGES = {
    "damaged": (damage_line, "is damaged: sha256"),
    "shorter": (cut_line, "is damaged: sha256"),
    "gone": (Path.unlink, "its body cannot be read: No such file or directory"),
}


@pytest.mark.parametrize("damage, reason", DAMAGES.values(), ids=DAMAGES)
def test_an_upload_whose_body_is_damaged_later_is_given_up_once_and_the_others_go_on(
    tmp_path: Path, tokenizer: DocumentTokenizer, damage: Callable[[Path], object], reason: str
) -> None:
    inbox, log = Inbox(tmp_path / "inbox"), CorpusLog(tmp_path / "log")
    bad = upload(inbox, lines({"text": "one"}, {"text": "two"}, {"text": "three"})).id
    good = upload(inbox, lines({"text": "fine"})).id
    damage(inbox.body(bad))
    take_all(start_ingest(inbox, log, tokenizer), inbox, log)
    assert reason in str(log.progress(bad).failed) and not log.progress(bad).finished
    assert log.progress(bad).tokens == 0, "all of it or nothing"
    assert log.progress(good).finished
    assert [segment.failed[bad] for segment in segments(log) if segment.failed] == [log.progress(bad).failed]
    again = CorpusLog(tmp_path / "log")
    assert again.progress(bad) == log.progress(bad)
    ingest = start_ingest(inbox, again, tokenizer)
    ingest.step()
    assert again.last == log.last and ingest.queue_tokens == 0, "a restart does not try it again"


def test_a_run_without_a_model_gives_text_up_and_takes_activations(tmp_path: Path) -> None:
    inbox, log = Inbox(tmp_path / "inbox"), CorpusLog(tmp_path / "log")
    text = upload(inbox, b"some text", "text/plain").id
    pushed = upload(inbox, frame("d", 5), "application/x-msgpack").id
    take_all(start_ingest(inbox, log, None), inbox, log)
    assert "this run has no model" in str(log.progress(text).failed)
    assert log.progress(pushed).finished and log.sealed_tokens == 5


def rows_of(frames: list[Any]) -> list[list[tuple[list[int], list[float]]]]:
    """Per layer and token: its features and values."""
    return [
        [
            (
                one.layers[index].features[one.layers[index].offsets[token] : one.layers[index].offsets[token + 1]].tolist(),
                one.layers[index].values[one.layers[index].offsets[token] : one.layers[index].offsets[token + 1]].tolist(),
            )
            for one in frames
            for token in range(len(one.layers[index].offsets) - 1)
        ]
        for index in range(len(DICTIONARIES))
    ]


@pytest.mark.parametrize("stops", [False, True], ids=["straight", "stopped after every segment"])
def test_pushed_activations_are_in_the_log_as_they_were_sent(tmp_path: Path, stops: bool) -> None:
    inbox, log = Inbox(tmp_path / "inbox"), CorpusLog(tmp_path / "log")
    body = frame("a", 3) + frame("a", 9000) + frame("b", 0) + frame("c", 0) + frame("c", 4) + frame("c", 0) + frame("a", 1)
    pushed = upload(inbox, body, "application/x-msgpack")
    assert pushed.documents == 4
    while not log.progress(pushed.id).finished:
        ingest = start_ingest(inbox, log, None, segment_tokens=5000)
        last = log.last
        while not (log.progress(pushed.id).finished or (stops and log.last > last)):
            ingest.step()
        log = CorpusLog(tmp_path / "log")
    found = list(segments(log))
    assert all(isinstance(segment, ActivationSegment) for segment in found)
    assert rows_of(found) == rows_of(list(read_frames(inbox.body(pushed.id), DICTIONARIES)))
    assert [tokens for segment in found for tokens in segment.unit_tokens(range(segment.units))] == [3, 4096, 4096, 808, 4, 1]
    pieces = [piece for segment in found for piece in segment.pieces]
    assert [sum(piece.tokens for piece in pieces if piece.number == number) for number in range(4)] == [9003, 0, 4, 1]
    assert [(piece.number, piece.name) for piece in pieces if piece.last] == [(0, "a"), (1, "b"), (2, "c"), (3, "a")]
    assert log.progress(pushed.id).documents == 4 and len(found) > 1


def test_text_and_activations_lie_in_segments_of_their_own_kind(tmp_path: Path, tokenizer: DocumentTokenizer) -> None:
    inbox = Inbox(tmp_path / "inbox")
    for number in range(4):
        upload(inbox, lines({"text": f"text {number}"}))
        upload(inbox, frame(f"d{number}", 5), "application/x-msgpack")
    log = straight_run(tmp_path / "log", inbox, tokenizer)
    assert {type(segment) for segment in segments(log)} == {TokenSegment, ActivationSegment}
    assert log.sealed_tokens == sum(log.progress(manifest.id).tokens for manifest in inbox.manifests())


def test_what_ends_the_thread_is_raised_by_check(tmp_path: Path, tokenizer: DocumentTokenizer) -> None:
    inbox, log = Inbox(tmp_path / "inbox"), CorpusLog(tmp_path / "log")
    ingest = start_ingest(inbox, log, tokenizer)
    manifest = upload(inbox, lines({"text": "a"}))
    (inbox.body(manifest.id).parent / "manifest").write_bytes(b"{")
    broken = start_ingest(Inbox(tmp_path / "inbox"), log, tokenizer)
    broken.start()
    broken.join(20)
    with pytest.raises(DamagedFile, match="manifest is cut off"):
        broken.check()
    ingest.check()
