"""What has become of every upload: in the inbox, in the log, in the counts."""

from __future__ import annotations

from collections.abc import Iterable

from engine.corpus.inbox import Inbox
from engine.corpus.log import CorpusLog
from engine.corpus.segment import Segment
from engine.counts.ledger import Ledger
from engine.views.records import SetAsideRecord, UploadRecord


class Uploads:
    """The records of all uploads; one whose fate is sealed is looked at only once."""

    def __init__(self, inbox: Inbox, corpus: CorpusLog) -> None:
        self.inbox = inbox
        self.corpus = corpus
        self._ended: set[str] = set()
        self._final: dict[str, UploadRecord] = {}

    def passed(self, segments: Iterable[Segment | int]) -> None:
        """These segments (or segment numbers) are counted whole: the uploads that end in them are done."""
        for segment in segments:
            if isinstance(segment, int):
                self._ended.update(upload.id for upload in self.corpus.header(segment).uploads if upload.finished or upload.failed)
            else:
                self._ended.update(segment.finished, segment.failed)

    def records(self, ledger: Ledger) -> list[UploadRecord]:
        """One record per upload in the order of their arrival."""
        return [self._final.get(manifest.id) or self._record(manifest.id, ledger) for manifest in self.inbox.manifests()]

    def _record(self, upload: str, ledger: Ledger) -> UploadRecord:
        sealed, account = self.corpus.progress(upload), ledger.account(upload)
        ended = upload in self._ended
        if ended:
            state = "failed" if sealed.failed else "counted"
        else:
            state = "counting" if account.tokens_counted or account.set_aside_documents else "queued"
        record = UploadRecord(
            id=upload,
            state=state,
            tokens_received=sealed.tokens if sealed.ended else None,
            tokens_counted=account.tokens_counted,
            documents_counted=account.documents_counted,
            set_aside=SetAsideRecord(
                documents=account.set_aside_documents, tokens=account.set_aside_tokens, reasons=list(account.reasons)
            ),
            error=sealed.failed,
        )
        if ended:
            self._final[upload] = record
        return record
