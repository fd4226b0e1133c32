"""A run without its processes: what the engine does at its start and in its loop, called one by one, on small activations."""

from __future__ import annotations

from pathlib import Path

from engine.corpus.inbox import Inbox, Manifest
from engine.corpus.ingest import Ingest
from engine.counts.checkpoint import Checkpoints, Cursor
from engine.counts.state import State
from engine.encoder.pushed import PushedActivations
from engine.recovery import LOG, recover
from engine.uploads import Uploads
from tests.corpus_rig import upload
from tests.faults.campaign import compare_state
from tests.faults.oracle import Oracle
from tests.faults.streams import PushedStream

SIZES, PAIRS = (3, 2), ((0, 1),)
RUN = {"weights": "1"}
STREAM = PushedStream(3, SIZES, (0, 1, 3, 9), 40)
THE_END = Cursor(1 << 30, 0)


def send(inbox: Inbox, number: int) -> Manifest:
    """Take an upload of the stream; its key is its number."""
    sent = STREAM.upload(number)
    return upload(inbox, sent.body, sent.media_type, sent.corpus, str(number), dictionaries=SIZES)


class HandRun:
    """A data directory that is counted by hand: `goes_on` is what the engine does at its start, `count` what its loop does."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.checkpoints = Checkpoints(root / "checkpoints")
        self.inbox = Inbox(root / "inbox")
        found = recover(self.checkpoints, root / "log", RUN)
        self.state, self.cursor, self.corpus = found.state or State.zero(SIZES, PAIRS), found.cursor, found.corpus
        self.uploads = Uploads(self.inbox, self.corpus, found.counted)

    def seal(self) -> None:
        """Take all that is in the inbox into the log."""
        options = {"tokenizer": None, "content": None, "dictionaries": SIZES, "segment_tokens": 128, "quiet_ms": 0}
        ingest = Ingest(self.inbox, self.corpus, consumed=1 << 30, **options)
        while not all(self.corpus.progress(manifest.id).ended for manifest in self.inbox.manifests()):
            ingest.step()

    def count(self, until: Cursor) -> None:
        """Count up to a place, one unit at a time."""
        encoder = PushedActivations(SIZES)
        while self.cursor < until and (segment := self.corpus.next_segment(self.cursor.segment)) is not None:
            batches = [encoder.encode(segment, segment.unit_order[at : at + 1]).batch for at in range(segment.units)]
            for batch in batches[self.cursor.units :]:
                if self.cursor == until:
                    return
                self.state.add(batch)
                self.cursor = Cursor(self.cursor.segment, self.cursor.units + 1)
            if self.cursor == until:
                return
            self.state.end_segment(batches, segment.pieces, segment.piece_positions)
            self.uploads.passed(segment.number)
            self.cursor = Cursor(segment.number + 1, 0)

    def save(self) -> None:
        self.checkpoints.save(self.state, self.cursor, RUN, {LOG: self.uploads.counted.pack()})


def assert_counts_to_the_end(root: Path) -> None:
    """Start there, count all, and compare with the oracle of what is in the inbox."""
    run = HandRun(root)
    run.seal()
    run.count(THE_END)
    oracle = Oracle(SIZES, PAIRS)
    for manifest in run.inbox.manifests():
        oracle.add(manifest.id, manifest.corpus, STREAM.upload(int(manifest.key or "")).documents)
    compare_state(run.state, oracle)
