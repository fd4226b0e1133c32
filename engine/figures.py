"""What the engine measures of itself for those who watch it: how far text is behind at each stage, and what waits.

    received   acknowledged by the API: the log and, estimated by bytes, what waits in the inbox
    durable    sealed in the corpus log
    counted    in the state
    visible    in the published snapshot

The first two are positions of the log, special tokens and what is set aside included. What was sealed before this engine started
and is not in its checkpoint is counted again: the replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.views.figures import Figures

if TYPE_CHECKING:
    from engine.corpus.ingest import Ingest
    from engine.corpus.log import CorpusLog
    from engine.counts.checkpoint import Cursor
    from engine.counts.state import State
    from engine.encoder.batch import SparseBatch
    from engine.views.live import LiveQueries


class Gauges:
    """Reads the figures of one engine; made when it has opened its log and read its checkpoint."""

    def __init__(self, corpus: CorpusLog, ingest: Ingest, live: LiveQueries, state: State) -> None:
        self._corpus, self._ingest, self._live, self._state = corpus, ingest, live, state
        self._replay_until = corpus.sealed_tokens

    def read(self, cursor: Cursor, batches: Sequence[SparseBatch], queue_tokens: int, tokens_per_second: float) -> Figures:
        """The figures now.

        Args:
            cursor: what is in the state; batches: of its segment in the making.
            queue_tokens: as `Ingest` tells them.
            tokens_per_second: counted lately.
        """
        done = self._corpus.end_position(cursor.segment - 1)
        position = done + sum(batch.tokens for batch in batches)
        durable = self._corpus.sealed_tokens
        left = max(0, self._replay_until - position)
        accounts = list(self._state.ledger.uploads.values())
        return Figures(
            tokens_received=max(durable, done + queue_tokens),
            tokens_durable=durable,
            tokens_waiting=max(0, durable - position),
            replay_left=left,
            replay_per_second=tokens_per_second if left else 0.0,
            set_aside_documents=sum(account.set_aside_documents for account in accounts),
            set_aside_tokens=sum(account.set_aside_tokens for account in accounts),
            uploads_waiting=self._ingest.queue_uploads,
            segments_waiting=self._corpus.last + 1 - cursor.segment,
            questions_waiting=self._live.waiting,
        )
