"""The ingest thread: what lies in the inbox becomes sealed segments of the log.

1. Look for uploads that are new (one `stat` when there are none).
2. Give the next upload a turn of about 8,192 tokens: uploads take turns, so that a second corpus does not wait for the first.
3. Put its parts into the segment in the making, one for token windows and one for pushed activations. Seal it
   - when it is full (`segment_tokens`, or 64 MiB): at a document's end, or inside a document of more than 4,096 tokens at the start
     of one of its windows (units);
   - when nothing has come for `quiet_ms`, or its first part has waited five times as long.
4. Never be more than two sealed segments ahead of what is counted: then wait, and go on filling the segment in the making.

Nothing is remembered outside the log. After a kill, an upload goes on where the headers of the sealed segments say that it ended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.corpus.activations import MEDIA_TYPE as ACTIVATIONS
from engine.corpus.builder import ActivationBuilder, TokenBuilder
from engine.corpus.documents import TEXT_MEDIA_TYPES
from engine.corpus.inbox import Inbox, Manifest, Route
from engine.corpus.log import CorpusLog
from engine.corpus.parts import TURN_TOKENS, Part, PartReader
from engine.corpus.segment import UNIT_TOKENS
from engine.corpus.tokenizer import DocumentTokenizer
from engine.errors import SaestreamError, StorageFault
from engine.logs import about

log = logging.getLogger(__name__)

AHEAD = 2  # sealed segments that wait to be counted: one would let a fast encoder run dry, more only add to the queue
SEGMENT_BYTES = 64 << 20  # of pushed activations: 65,536 tokens at GPT-2 size would be 400 MB
OPEN_UPLOADS = 8  # each may hold one document in memory; a corpus that has none open may always open one
_POLL_SECONDS = 0.05
_LONGEST_QUIET = 5  # times `quiet_ms`: uploads that keep trickling in must not keep a small segment open
_BACK_OFF = (0.5, 10.0)  # seconds after the first failed write, and at most
_READS = 5  # of a body that the disk fails to give: a fault may pass, a lost sector must not hold up the others for ever
_TOKENS_PER_BYTE = {**dict.fromkeys(TEXT_MEDIA_TYPES, 0.25), ACTIVATIONS: 1 / 6000}  # until some were seen: English, GPT-2 size


class _Stopped(Exception):
    """`stop` was called while the thread waited: unwind, the log knows how far it got."""


@dataclass(eq=False)
class _Open:
    """An upload that is being taken."""

    manifest: Manifest
    parts: Iterator[Part]
    tokens: int  # taken so far, sealed or not
    next: tuple[int, int]  # first token that is not taken: (document number, offset)
    failed_reads: int = 0


class Ingest(threading.Thread):
    """Inbox → CorpusLog.

    Args:
        tokenizer, content: the model's tokenizer and the tokens of a document in one window; None for a run without a model.
        dictionaries: dictionary size of each layer, for pushed activations.
        consumed: number of the last segment that is counted already: the cursor's segment - 1; -1 at the start.
        segment_tokens, quiet_ms: see the module's text.
    """

    def __init__(
        self,
        inbox: Inbox,
        corpus: CorpusLog,
        *,
        tokenizer: DocumentTokenizer | None,
        content: int | None,
        dictionaries: Sequence[int] | None,
        consumed: int,
        segment_tokens: int = 65_536,
        quiet_ms: int = 200,
    ) -> None:
        super().__init__(name="ingest", daemon=True)
        self.error: BaseException | None = None
        """What ended the thread, if not `stop`."""
        self.problem: str | None = None
        """Why nothing can be sealed right now (a full or failing disk), for the status; it goes away by itself."""
        self._inbox, self._log = inbox, corpus
        self._reader = PartReader(inbox, tokenizer, content, dictionaries)
        self._content, self._layers = content or 1, len(dictionaries or ())
        self._segment_tokens, self._quiet = segment_tokens, quiet_ms / 1000
        self._consumed = consumed
        self._wake = threading.Condition()
        self._stopping = False
        self._newest = ""  # id of the newest upload that was seen
        self._waiting: dict[str, deque[Manifest]] = {}  # by corpus, in order of arrival
        self._waiting_bytes: Counter[str] = Counter()  # by media type
        self._open: deque[_Open] = deque()
        self._making: dict[Route, TokenBuilder | ActivationBuilder] = {}
        self._since: dict[Route, float] = {}  # when the first part came that is in the making
        self._news = time.monotonic()
        self._taken: dict[str, tuple[int, int]] = {}  # media type → bytes and tokens of the uploads that were taken whole
        self._begin("corpora")
        self._begin("activations")

    # for the loop

    def consumed(self, number: int) -> None:
        """Segment `number` and all before are counted."""
        with self._wake:
            self._consumed = max(self._consumed, number)
            self._wake.notify_all()

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        if self.error is not None:
            raise self.error

    def stop(self, timeout: float = 10.0) -> None:
        """End the thread; what is not sealed is taken again from the inbox at the next start."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        if self.is_alive():
            self.join(timeout)

    @property
    def queue_tokens(self) -> int:
        """Tokens that are acknowledged and not in a counted segment: exact for sealed ones, estimated by bytes for the rest."""
        sealed = self._log.sealed_tokens - self._log.end_position(min(self._consumed, self._log.last))
        making = sum(builder.tokens for builder in self._making.values())
        waiting = sum(self._estimate(media_type, size) for media_type, size in tuple(self._waiting_bytes.items()))
        left = sum(
            max(self._estimate(upload.manifest.media_type, upload.manifest.bytes) - upload.tokens, 0)
            for upload in tuple(self._open)
        )
        return sealed + making + round(waiting + left)

    @property
    def queue_uploads(self) -> int:
        """Uploads that are not wholly in the log or in the segment in the making."""
        return sum(map(len, tuple(self._waiting.values()))) + len(self._open)

    # the thread

    def run(self) -> None:
        try:
            while True:
                self.step()
        except _Stopped:
            return
        except BaseException as error:
            log.exception("ingest ended")
            self.error = error

    def step(self) -> None:
        """One turn of one upload, or a short wait if there is none."""
        self._look()
        if self._open:
            self._turn(self._open[0])
            self._wait(0)
        else:
            self._wait(min(_POLL_SECONDS, self._quiet or _POLL_SECONDS))
        self._seal_what_is_due()

    def _look(self) -> None:
        """Find what is new, and open uploads up to the limit: one of a corpus that has none open first."""
        fresh = self._inbox.manifests(self._newest)
        try:
            if fresh:
                self._inbox.sync()
        except StorageFault as error:  # none of it is taken before
            self._hold_up(error, _BACK_OFF[0])
            return
        for manifest in fresh:
            self._newest = manifest.id
            if not self._log.progress(manifest.id).ended:
                self._waiting.setdefault(manifest.corpus, deque()).append(manifest)
                self._waiting_bytes[manifest.media_type] += manifest.bytes
                self._news = time.monotonic()
        while self._waiting:
            opened = Counter(upload.manifest.corpus for upload in self._open)
            corpus = min(self._waiting, key=lambda corpus: (opened[corpus], self._waiting[corpus][0].id))
            if opened[corpus] and len(self._open) >= OPEN_UPLOADS:
                return
            manifest = self._waiting[corpus].popleft()
            if not self._waiting[corpus]:
                del self._waiting[corpus]
            self._waiting_bytes[manifest.media_type] -= manifest.bytes
            progress = self._log.progress(manifest.id)
            self._open.append(_Open(manifest, self._reader.parts(manifest, *progress.next), progress.tokens, progress.next))

    def _turn(self, upload: _Open) -> None:
        """Take about `TURN_TOKENS` of an upload, then let the next one go on."""
        with about(upload=upload.manifest.id):
            self._take(upload)

    def _take(self, upload: _Open) -> None:
        manifest, taken = upload.manifest, 0
        while taken < TURN_TOKENS:
            try:
                part = next(upload.parts)
            except (SaestreamError, OSError) as error:
                self._failed_read(upload, error)
                return
            finishes = part.last and part.number + 1 == manifest.documents
            self._add(manifest, part, finishes)
            upload.tokens += part.size
            upload.next = (part.number + 1, 0) if part.last else (part.number, part.start + part.size)
            taken += part.size + 1  # an empty document is some work too
            if finishes:
                size, tokens = self._taken.get(manifest.media_type, (0, 0))
                self._taken[manifest.media_type] = (size + manifest.bytes, tokens + upload.tokens)
                self._open.remove(upload)
                return
        self._open.remove(upload)  # to the end of the row; uploads may have been opened meanwhile
        self._open.append(upload)

    def _failed_read(self, upload: _Open, error: SaestreamError | OSError) -> None:
        """Try an upload again from where it is, or give it up: what is wrong with its content or gone stays so."""
        manifest = upload.manifest
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError) and upload.failed_reads + 1 < _READS:
            upload.failed_reads += 1
            upload.parts = self._reader.parts(manifest, *upload.next)
            log.warning("the body of upload %s can't be read, trying again: %s", manifest.id, error)
            self._open.rotate(-1)  # the others first
            self._wait(_BACK_OFF[0])
            return
        log.error("upload %s of corpus %s is given up: %s", manifest.id, manifest.corpus, error)
        reason = error.message if isinstance(error, SaestreamError) else f"its body cannot be read: {error.strerror}"
        self._making[manifest.route].fail(manifest.id, reason)
        self._noted(manifest.route)
        self._open.remove(upload)

    def _add(self, upload: Manifest, part: Part, finishes: bool) -> None:
        """Put a part into the segment in the making, and seal that when it is full."""
        while True:
            builder = self._making[upload.route]
            head = self._head(builder, part)
            if head >= part.size:
                break
            if head:
                part = _put(builder, upload, part, head)
                self._noted(upload.route)
            self._seal(upload.route)
        _put(builder, upload, part, part.size)
        if finishes:
            builder.finish(upload.id)
        self._noted(upload.route)
        if max(builder.tokens, builder.pieces) >= self._segment_tokens or builder.bytes >= SEGMENT_BYTES:
            self._seal(upload.route)

    def _head(self, builder: TokenBuilder | ActivationBuilder, part: Part) -> int:
        """How many tokens of a part go into this segment: all, none, or so many windows as there is room for."""
        room = self._segment_tokens - builder.tokens
        if part.size <= room:
            return part.size
        if part.tokens is None:  # a unit is never divided
            return part.size if builder.empty else 0
        long = part.start > 0 or not part.last or part.size > UNIT_TOKENS
        whole_windows = room // self._content * self._content
        if builder.empty:
            return max(whole_windows, self._content)
        return whole_windows if long else 0

    def _seal_what_is_due(self) -> None:
        now = time.monotonic()
        quiet = not self._open and now - self._news >= self._quiet
        for route, since in tuple(self._since.items()):
            if (quiet or now - since >= _LONGEST_QUIET * self._quiet) and self._log.last - self._consumed < AHEAD:
                self._seal(route)

    def _seal(self, route: Route) -> None:
        """Append what is in the making to the log, as soon as there is room ahead and on the disk."""
        while self._log.last - self._consumed >= AHEAD:
            self._wait(_POLL_SECONDS)
            self._look()
        pause, longest = _BACK_OFF
        while True:
            try:
                self._log.append(self._making[route])
                break
            except StorageFault as error:
                self._hold_up(error, pause)
            pause = min(2 * pause, longest)
        self.problem = None
        self._begin(route)

    def _hold_up(self, error: StorageFault, pause: float) -> None:
        """Tell of a disk that fails, and wait."""
        log.warning("%s; trying again in %.1f s", error, pause)
        self.problem = error.message
        self._wait(pause)

    def _begin(self, route: Route) -> None:
        self._making[route] = TokenBuilder(self._content) if route == "corpora" else ActivationBuilder(self._layers)
        self._since.pop(route, None)

    def _noted(self, route: Route) -> None:
        self._news = time.monotonic()
        self._since.setdefault(route, self._news)

    def _wait(self, seconds: float) -> None:
        with self._wake:
            if not self._stopping and seconds:
                self._wake.wait(seconds)
            if self._stopping:
                raise _Stopped

    def _estimate(self, media_type: str, size: int) -> float:
        """Tokens in `size` bytes of a media type."""
        seen_bytes, seen_tokens = self._taken.get(media_type, (0, 0))
        return size * (seen_tokens / seen_bytes if seen_bytes else _TOKENS_PER_BYTE[media_type])


def _put(builder: TokenBuilder | ActivationBuilder, upload: Manifest, part: Part, head: int) -> Part:
    """Add the first `head` tokens of a part, and return the rest."""
    last = part.last and head == part.size
    if isinstance(builder, TokenBuilder):
        assert part.tokens is not None
        builder.add(upload, part.number, part.name, part.half, part.start, part.tokens[:head], last)
        return part._replace(start=part.start + head, size=part.size - head, tokens=part.tokens[head:])
    assert part.layers is not None and head == part.size
    builder.add(upload, part.number, part.name, part.half, part.start, part.size, part.layers, last)
    return part
