"""What has become of every upload: in the inbox, in the log, in the counts."""

from __future__ import annotations

from engine.corpus.inbox import Inbox
from engine.corpus.log import CorpusLog, LogIndex
from engine.counts.ledger import Ledger
from engine.views.records import SetAsideRecord, UploadRecord


class Uploads:
    """The records of all uploads; one whose fate is sealed is looked at only once."""

    def __init__(self, inbox: Inbox, corpus: CorpusLog, counted: LogIndex) -> None:
        """`counted`: index of the segments that are counted whole; kept up to date here."""
        self.inbox = inbox
        self.corpus = corpus
        self.counted = counted
        self._final: dict[str, UploadRecord] = {}

    def passed(self, segment: int) -> None:
        """This segment, the next one, is counted whole: the uploads that end in it are done."""
        self.counted.take(self.corpus.header(segment))

    def all_sealed(self) -> bool:
        """Whether nothing of any upload is still to come into the log."""
        return all(self.corpus.progress(manifest.id).ended for manifest in self.inbox.manifests())

    def records(self, ledger: Ledger) -> list[UploadRecord]:
        """One record per upload in the order of their arrival."""
        return [self._final.get(manifest.id) or self._record(manifest.id, ledger) for manifest in self.inbox.manifests()]

    def _record(self, upload: str, ledger: Ledger) -> UploadRecord:
        sealed, account = self.corpus.progress(upload), ledger.account(upload)
        ended = self.counted.progress(upload).ended
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
