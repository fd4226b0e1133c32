"""Fuzzing the readers of uploads: whatever comes is taken whole or refused with a sentence, and never costs more than it weighs."""

from __future__ import annotations

import gc
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from corpus_rig import DICTIONARIES, VOCAB
from fuzzed_bodies import ACTIVATIONS, bodies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.corpus.activations import read_frames
from engine.corpus.documents import body_check, read_documents
from engine.corpus.inbox import Inbox, Manifest, Route
from engine.errors import SaestreamError

EXAMPLES = 250
LIMIT = 1 << 16
CLIENTS_FAULT = (400, 413, 422)
ROOM = 64 << 20
"""Bytes that reading one body may take: Arrow's pools and a few times the largest document, but nothing that a body declares."""


@pytest.fixture(scope="module")
def inbox() -> Iterator[Inbox]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        inbox = Inbox(Path(folder))
        yield inbox
        inbox.close()


def send(inbox: Inbox, media_type: str, body: bytes, cuts: list[int]) -> Manifest:
    """Hand a body over in chunks that end at these places."""
    route: Route = "activations" if media_type == ACTIVATIONS else "corpora"
    check = body_check(route, media_type, max_document_bytes=LIMIT, vocab_size=VOCAB, dictionaries=DICTIONARIES)
    with inbox.receive("fuzz", media_type, route, None, check) as receiving:
        for start, end in itertools.pairwise([0, *sorted(cuts), len(body)]):
            receiving.write(body[start:end])
        return receiving.commit()


def stored(inbox: Inbox) -> dict[str, tuple[int, int, int]]:
    """Every file of the inbox: which, its size, and when it was written."""
    found = ((path, path.stat()) for path in inbox.root.rglob("*") if path.is_file())
    return {str(path): (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in found}


def peak_bytes() -> int:
    """Most resident memory since `forget_peak`."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def forget_peak() -> int:
    """Begin a new peak; resident bytes now."""
    Path("/proc/self/clear_refs").write_text("5")
    return psutil.Process().memory_info().rss


def test_a_peak_of_memory_is_seen() -> None:
    gc.collect()  # what other tests left must not go while this looks
    before = forget_peak()
    held = bytearray(b"x") * (4 * ROOM)
    del held
    assert peak_bytes() - before > ROOM


@pytest.mark.parametrize("media_type", bodies(DICTIONARIES))
def test_any_body_is_taken_whole_or_refused_and_leaves_nothing(inbox: Inbox, media_type: str) -> None:
    verdicts = {"taken": 0, "refused": 0}

    @settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(body=bodies(DICTIONARIES)[media_type], data=st.data())
    def run(body: bytes, data: st.DataObject) -> None:
        cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=3), "cuts")
        before, resident = stored(inbox), forget_peak()
        try:
            manifest = send(inbox, media_type, body, cuts)
        except SaestreamError as error:
            assert error.status in CLIENTS_FAULT and error.message.isprintable(), error
            assert stored(inbox) == before
            verdicts["refused"] += 1
            with pytest.raises(type(error)):  # however it is cut
                send(inbox, media_type, body, [])
        else:
            read = number_read(inbox, manifest)
            assert read == manifest.documents > 0
            verdicts["taken"] += 1
        assert peak_bytes() - resident < ROOM

    run()
    assert min(verdicts.values()) > EXAMPLES // 10, verdicts


def number_read(inbox: Inbox, manifest: Manifest) -> int:
    """How many documents the engine's reader finds in a body that was taken, from the start and from its last document on."""
    path = inbox.body(manifest.id)
    if manifest.route == "activations":
        names = [frame.document for frame in read_frames(path, DICTIONARIES)]
        return len(list(itertools.groupby(names)))
    documents = list(read_documents(path, manifest.media_type))
    assert all(document.tokens is None or (document.tokens >= 0).all() for document in documents)
    (last,) = read_documents(path, manifest.media_type, len(documents) - 1)
    assert (last.number, last.name, last.text, last.half) == (
        documents[-1].number,
        documents[-1].name,
        documents[-1].text,
        documents[-1].half,
    )
    return len(documents)
