"""Uploads are taken whole or not at all, once per key, and found in the order of their arrival."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from corpus_rig import FailingDisk, check, lines, no_space, parquet, upload

from engine import durable
from engine.corpus.inbox import Inbox
from engine.errors import BadInput, Busy, Conflict, DamagedFile, StorageFull, TooLarge

BODY = lines({"text": "one"}, {"text": "two"})
JSONL = "application/x-ndjson"


def left_over(inbox: Inbox) -> list[Path]:
    return [*(inbox.root / "incoming").iterdir(), *(inbox.root / "keys").iterdir()]


def test_an_upload_is_there_with_its_manifest_and_body_for_every_reader(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    manifest = upload(inbox, BODY, key="k-1")
    assert (manifest.corpus, manifest.route, manifest.key, manifest.media_type) == ("books", "corpora", "k-1", JSONL)
    assert (manifest.bytes, manifest.documents, len(manifest.id)) == (len(BODY), 2, 26)
    for reader in (inbox, Inbox(tmp_path)):
        assert reader.manifests() == [manifest] and reader.get(manifest.id) == manifest
        assert reader.body(manifest.id).read_bytes() == BODY
    assert inbox.get("0" * 26) is None and not left_over(inbox)


def test_ids_sort_by_arrival_and_a_reader_never_misses_one(tmp_path: Path) -> None:
    inbox, reader = Inbox(tmp_path), Inbox(tmp_path)
    seen: list[str] = []
    done = threading.Event()

    def read() -> None:
        while True:
            last = done.is_set()
            seen.extend(manifest.id for manifest in reader.manifests(seen[-1] if seen else ""))
            if last:
                return

    thread = threading.Thread(target=read)
    thread.start()
    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(lambda _: upload(inbox, BODY).id, range(40)))
    done.set()
    thread.join()
    assert seen == sorted(ids) == [manifest.id for manifest in inbox.manifests()]
    assert [manifest.received_at for manifest in inbox.manifests()] == sorted(
        manifest.received_at for manifest in inbox.manifests()
    )
    assert [manifest.id for manifest in reader.manifests(seen[37])] == seen[38:]


def test_ids_go_on_rising_when_the_clock_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = upload(Inbox(tmp_path), BODY).id
    monkeypatch.setattr("engine.corpus.inbox.time.time_ns", lambda: 1_000_000_000)
    assert upload(Inbox(tmp_path), BODY).id > before


def test_polling_an_inbox_of_thousands_lists_the_folder_only_when_something_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = Inbox(tmp_path)
    upload(inbox, BODY)
    inbox.manifests()
    time.sleep(0.11)  # an mtime that is older than that hides no second change
    inbox.manifests()
    monkeypatch.setattr("engine.corpus.inbox.os.scandir", None)
    for _ in range(1000):
        assert len(inbox.manifests()) == 1


def test_a_refused_body_leaves_nothing_and_its_key_is_free_again(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    for body, error in ((BODY + b"{", BadInput), (b"a" * (1 << 21), TooLarge), (b"", BadInput)):
        with pytest.raises(error):
            upload(inbox, body, key="k")
        assert not inbox.manifests() and not left_over(inbox)
    with pytest.raises(BadInput):
        upload(inbox, b"PAR1 but not Parquet", "application/vnd.apache.parquet", key="k")
    assert upload(inbox, BODY, key="k").documents == 2


def test_a_body_that_stops_coming_leaves_nothing(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    with inbox.receive("books", JSONL, "corpora", "k", check()) as receiving:
        receiving.write(BODY)
    assert not inbox.manifests() and not left_over(inbox)


def test_the_same_key_with_the_same_content_is_the_same_upload(tmp_path: Path) -> None:
    first = upload(Inbox(tmp_path), BODY, key="k")
    inbox = Inbox(tmp_path)
    with inbox.receive("books", JSONL, "corpora", "k", check()) as receiving:
        receiving.write(BODY)
        assert receiving.repeated and receiving.commit() == first
    assert inbox.manifests() == [first] and not left_over(inbox)
    columns = parquet({"text": ["a"]})
    assert upload(inbox, columns, "application/vnd.apache.parquet", key="p") == upload(
        inbox, columns, "application/vnd.apache.parquet", key="p"
    )


def test_the_same_content_without_a_key_or_with_another_is_another_upload(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    ids = {upload(inbox, BODY, key=key).id for key in (None, None, "a", "b")}
    assert len(ids) == len(inbox.manifests()) == 4


def test_the_same_key_with_other_content_corpus_or_type_is_a_conflict(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    first = upload(inbox, BODY, key="k")
    for body in (BODY + b"\n", b"not even JSON"):
        with pytest.raises(Conflict, match=f"belongs to upload {first.id} with other content"):
            upload(inbox, body, key="k")
    with pytest.raises(Conflict, match=r"for corpus 'books'; this is .* for corpus 'films'"):
        upload(inbox, BODY, corpus="films", key="k")
    with pytest.raises(Conflict, match="belongs to upload"):
        upload(inbox, BODY, "text/plain", key="k")
    assert inbox.manifests() == [first] and not left_over(inbox)


def test_a_key_belongs_to_its_route(tmp_path: Path) -> None:
    from corpus_rig import frame

    inbox = Inbox(tmp_path)
    assert upload(inbox, BODY, key="k").id != upload(inbox, frame("d", 2), "application/x-msgpack", key="k").id


def test_a_key_that_is_still_arriving_is_busy_also_for_another_process(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    with inbox.receive("books", JSONL, "corpora", "k", check()) as receiving:
        receiving.write(BODY)
        for other in (inbox, Inbox(tmp_path)):
            with pytest.raises(Busy, match="idempotency key 'k' is still arriving") as caught:
                other.receive("books", JSONL, "corpora", "k", check())
            assert caught.value.status == 409 and caught.value.retry_after == 1
        first = receiving.commit()
    assert upload(inbox, BODY, key="k") == first


@pytest.mark.parametrize(
    "name", ["", "a b", "a/b", "..\n", "é", "a" * 65], ids=["empty", "blank", "slash", "newline", "accent", "long"]
)
def test_a_corpus_name_is_made_of_letters_digits_and_three_marks(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="corpus name"):
        upload(Inbox(tmp_path), BODY, corpus=name)
    assert upload(Inbox(tmp_path), BODY, corpus="A-z_0.9").corpus == "A-z_0.9"


def test_an_endless_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="1 to 255 characters, this one has 256"):
        upload(Inbox(tmp_path), BODY, key="k" * 256)


def test_a_full_disk_at_any_step_refuses_the_upload_whole_and_it_can_be_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = Inbox(tmp_path)
    steps = 0
    while True:
        monkeypatch.setattr(durable, "disk", FailingDisk(steps, no_space))
        try:
            upload(inbox, BODY, key="k")
        except StorageFull as error:
            assert error.status == 507 and "No space left" in error.message
        else:
            break
        monkeypatch.undo()
        if not inbox.manifests():
            assert not left_over(inbox)
        steps += 1
    assert steps >= 8 and len(Inbox(tmp_path).manifests()) == 1


KILLED_AT = """
import os, sys, pathlib
sys.path.insert(0, sys.argv[2])
from corpus_rig import FailingDisk, check, lines, upload
from engine import durable
from engine.corpus.inbox import Inbox
root = pathlib.Path(sys.argv[1])
for step in range(100):
    child = os.fork()
    if child == 0:
        durable.disk = FailingDisk(step, lambda: os._exit(9))
        upload(Inbox(root / str(step)), lines({"text": "one"}, {"text": "two"}), key="k")
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        print(step)
        break
"""


def test_a_kill_at_any_step_leaves_the_whole_upload_or_nothing(tmp_path: Path) -> None:
    here = Path(__file__).parent
    told = subprocess.run(
        [sys.executable, "-c", KILLED_AT, str(tmp_path), str(here)], check=True, capture_output=True, text=True, cwd=here.parent
    )
    steps = int(told.stdout)
    whole = []
    for step in range(steps):
        inbox = Inbox(tmp_path / str(step))
        found = inbox.manifests()
        whole.append(len(found))
        assert all(inbox.body(manifest.id).read_bytes() == BODY and manifest.documents == 2 for manifest in found)
        again = upload(inbox, BODY, key="k")  # the next writer clears what is left, and the client's retry is the one upload
        assert inbox.manifests() == [again] and (not found or found == [again]) and not left_over(inbox)
    assert steps >= 8 and whole == sorted(whole) and set(whole) == {0, 1}


def test_a_second_writer_does_not_clear_what_the_first_is_receiving(tmp_path: Path) -> None:
    first, second = Inbox(tmp_path), Inbox(tmp_path)
    with first.receive("books", JSONL, "corpora", None, check()) as receiving:
        receiving.write(BODY)
        upload(second, BODY)
        receiving.commit()
    assert len(first.manifests()) == len(second.manifests()) == 2


def test_a_foreign_file_among_the_uploads_is_ignored_and_a_broken_manifest_is_named(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    (tmp_path / "uploads" / ".DS_Store").write_bytes(b"")
    manifest = upload(inbox, BODY)
    (tmp_path / "uploads" / manifest.id / "manifest").write_bytes(b"{")
    with pytest.raises(DamagedFile, match=f"{manifest.id}/manifest is cut off"):
        Inbox(tmp_path).manifests()
    (tmp_path / "uploads" / manifest.id / "manifest").unlink()
    with pytest.raises(DamagedFile, match=f"{manifest.id} has no manifest"):
        Inbox(tmp_path).manifests()
