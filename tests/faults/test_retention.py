"""What retention drops, a recovery never needs."""

from __future__ import annotations

from pathlib import Path

from engine.corpus.quota import Quota
from engine.corpus.retention import Retention
from tests.faults.hand_run import STREAM, THE_END, HandRun, assert_counts_to_the_end, send


def test_a_body_goes_only_when_every_checkpoint_has_counted_it_so_that_a_damaged_segment_can_be_made_again(tmp_path: Path) -> None:
    run = HandRun(tmp_path)
    sent = send(run.inbox, 11)
    run.seal()
    run.count(THE_END)
    retention = Retention(Quota(tmp_path, 1, 0), run.inbox, run.corpus, drop=True)
    run.save()
    retention.make_room(run.checkpoints.needed_from())
    assert run.inbox.body(sent.id).exists(), "there is one checkpoint, and it may be damaged tomorrow"
    for path in (tmp_path / "checkpoints").glob("*.manifest"):
        path.write_bytes(b"?")
    (tmp_path / "log" / "00000000.seg").write_bytes(b"?")
    assert_counts_to_the_end(tmp_path)
    again = HandRun(tmp_path)
    again.count(THE_END)
    for _ in range(2):
        again.save()
    retention = Retention(Quota(tmp_path, 1, 0), again.inbox, again.corpus, drop=True)
    retention.make_room(again.checkpoints.needed_from())
    assert not again.inbox.body(sent.id).exists() and again.corpus.header(0).dropped
    assert HandRun(tmp_path).state.tokens == again.state.tokens == sum(document.tokens for document in STREAM.upload(11).documents)
