"""The engine's side of live requests: a thread that answers from the running tables while the main loop counts.

1. The thread pops requests. Similarity and neighbours take the lock that counting holds, copy the cells that they need (0.1–6 ms),
   and are computed and answered outside of it.
2. Contexts and prompts need the encoder, which belongs to the main loop: they go onto a queue, and the loop answers them between
   micro-batches (`answer_pending`), in steps of one call of the encoder and in turn, so that one request for many windows holds up
   neither the counting nor the other requests. An idle loop sleeps in `wait`, which such a request ends. So many prompts may wait
   and no more: the next one is refused at once, as is what could not be answered before its deadline at the pace of late.

A request that fails says so to the one who asked; a defect of ours is logged whole and answered without detail. Redis being away
ends nothing: the thread tries again until it is stopped.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec
import redis
from redis.exceptions import TimeoutError as RedisTimeout

from engine.errors import Conflict, NotReady, SaestreamError, TooMany
from engine.logs import about, request_took
from engine.views.connection import connect
from engine.views.context_queries import ContextQueries
from engine.views.contexts import EncodeWindows
from engine.views.corpora import CorpusQueries
from engine.views.decoder import DecoderCosines
from engine.views.effects import Effects
from engine.views.graph_answers import GraphAnswer, GraphRequest
from engine.views.keys import Keys
from engine.views.lists import Lists, Page
from engine.views.paper_gates import PaperQueries
from engine.views.pins import PinQueries
from engine.views.prompt_queries import PromptQueries
from engine.views.requests import (
    REPLY_SECONDS,
    CompareEdgesRequest,
    CompareRequest,
    ContextsAnswer,
    ContextsRequest,
    CorpusFeatureRequest,
    Envelope,
    GateContextsAnswer,
    GateContextsRequest,
    LiveAnswer,
    LiveRequest,
    NeighborsRequest,
    PaperGatesRequest,
    PinnedRequest,
    PinRequest,
    SimilarityRequest,
    pack_answer,
    pack_error,
)
from engine.views.table_queries import TableQueries

if TYPE_CHECKING:
    from engine.counts.state import State
    from engine.encoder.description import RunDescription
    from engine.settings import Settings

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.25  # how long a pop waits, and with it how long `stop` may take
_AWAY_SECONDS = 0.2  # between attempts while Redis is away
_PENDING_SECONDS = 0.25  # of a loop's turn for what needs the encoder; what is left waits for the next turn

MOST_PENDING = 256
"""What may wait for the main loop before no more contexts are taken: it takes all in turn, and each waits 30 s at most."""
MOST_PROMPTS = 16
"""Prompts that may wait: some 0.05 s each on the demo and a second with GPT-2 small, of which every other one is for counting."""

Steps = Iterator[ContextsAnswer | GateContextsAnswer | GraphAnswer | None]
"""An answer in steps of one call of the encoder: None while there is more to do."""


class LiveQueries(threading.Thread):
    """Answers requests about the running state.

    Attributes:
        pending: requests that wait for the main loop, each with what begins its answer.
        tables: look-ups in the running tables.
        pins: set before the thread starts; without it pairs can't be pinned.
        prompts: set before the thread starts, in a run with a model; without it there are no graphs of prompts.
    """

    def __init__(
        self,
        settings: Settings,
        description: RunDescription,
        state: State,
        lock: threading.Lock,
        cosines: DecoderCosines | None = None,
        decode: Callable[[int], str] | None = None,
        effects: Effects | None = None,
    ) -> None:
        """
        Args:
            settings: `redis_url` and `redis_prefix`.
            description: of the run.
            state: what is counted into, always under `lock`.
            lock: held by the main loop for `state.add` alone.
            cosines: of the decoder directions; None in a run without a model.
            decode: token id → its text; None in a run without a model.
            effects: design effects, kept up to date by the loop; None leaves them unknown.

        Raises:
            NoRedis: the settings name no Redis.
        """
        super().__init__(name="live queries", daemon=True)
        self.pending: queue.Queue[tuple[Envelope, Callable[[EncodeWindows], Steps]]] = queue.Queue()
        self.pins: PinQueries | None = None
        self.prompts: PromptQueries | None = None
        self.tables = TableQueries(
            description, state, lock, cosines or DecoderCosines(None, ()), effects or Effects(description.dictionaries)
        )
        self._lists = Lists()
        self._corpora = CorpusQueries(description, state, lock)
        self._paper = PaperQueries(state, lock)
        self._client = connect(settings.redis_url)
        self._keys = Keys(settings.redis_prefix)
        self._contexts = ContextQueries(description, state, lock, decode)
        self._open: deque[tuple[Envelope, Steps]] = deque()  # begun by the main loop
        self._waiting_prompts: set[str] = set()  # ids; added to by this thread, removed from by the main loop
        self._pace = 0.0  # seconds that one of them took lately, counting's turns in between included
        self._since = 0.0  # when the last one was answered, or the first one came that waits
        self._ending = threading.Event()
        self._woken = threading.Event()

    def run(self) -> None:
        """Answer until `stop`."""
        away = False
        while not self._ending.is_set():
            try:
                popped = cast("tuple[bytes, bytes] | None", self._client.blpop([self._keys.requests], timeout=_POLL_SECONDS))
            except RedisTimeout:
                continue
            except (redis.RedisError, OSError) as error:
                if not away:
                    log.warning("live requests can't be read, Redis fails: %s; trying until it is back", error)
                away = True
                self._ending.wait(_AWAY_SECONDS)
                continue
            away = False
            if popped is not None:
                self._take(popped[1])

    def stop(self) -> None:
        """End the thread, within about a quarter of a second."""
        self._ending.set()
        if self.is_alive():
            self.join()
        self._client.close()

    @property
    def waiting(self) -> int:
        """Requests that wait for the main loop, those begun included, also the one that it is at."""
        return self.pending.qsize() + len(self._open)

    def wait(self, seconds: float) -> None:
        """Sleep for so long, or until a request needs the main loop."""
        self._woken.wait(seconds)

    def answer_pending(self, windows: EncodeWindows) -> int:
        """Answer contexts and prompts, for at most about 0.25 s and at least a step if there is any. Call it from the main loop.

        Args:
            windows: positions in the log → the windows that hold them, encoded.

        Returns:
            How many were answered; what is left goes on at the next call.
        """
        until, answered = time.monotonic() + _PENDING_SECONDS, 0
        while True:
            self._woken.clear()
            while not self.pending.empty():
                envelope, begin = self.pending.get_nowait()
                self._open.append((envelope, begin(windows)))
            if not self._open:
                break
            envelope, steps = self._open[0]  # where it counts as waiting until it is answered
            if envelope.deadline <= time.monotonic():
                self._waiting_prompts.discard(envelope.id)
                self._open.popleft()
                continue
            if self._answer(envelope, lambda steps=steps: next(steps)):
                self._waiting_prompts.discard(envelope.id)
                answered += 1
                now = time.monotonic()
                self._pace, self._since = 0.7 * self._pace + 0.3 * (now - self._since), now
                self._open.popleft()
            else:
                self._open.rotate(-1)
            if time.monotonic() >= until:
                break
        if self._open:
            self._woken.set()
        return answered

    def _take(self, packed: bytes) -> None:
        try:
            envelope = msgspec.msgpack.decode(packed, type=Envelope)
        except ValueError as error:  # msgspec's own, or of text that is no UTF-8
            log.error("a live request that is none was dropped: %s", error)
            return
        if envelope.deadline <= time.monotonic():
            return
        request = envelope.request
        if isinstance(request, ContextsRequest | GateContextsRequest):
            self._answer(envelope, lambda: self._leave(envelope, request))
        elif isinstance(request, GraphRequest):
            self._answer(envelope, lambda: self._admit(envelope, request))
        else:
            self._answer(envelope, lambda: self._at_once(request))

    def _put(self, envelope: Envelope, begin: Callable[[EncodeWindows], Steps]) -> None:
        """Leave a request to the main loop. Raises TooMany where it would come too late."""
        waiting = self.waiting
        wait = waiting * self._pace
        if wait > envelope.deadline - time.monotonic():
            message = (
                f"{waiting} requests wait for the engine's turn, some {wait:.0f} s, and nobody would wait for this one so long"
            )
            raise TooMany(message, retry_after=min(30, max(1, round(wait))))
        if not waiting:
            self._since = time.monotonic()
        self.pending.put((envelope, begin))
        self._woken.set()

    def _leave(self, envelope: Envelope, request: ContextsRequest | GateContextsRequest) -> None:
        """Leave contexts to the main loop. Raises TooMany."""
        waiting = self.waiting
        if waiting >= MOST_PENDING:
            raise TooMany(f"{waiting} requests wait for the engine's turn already, and no more are taken until some are answered")
        self._put(envelope, lambda windows: self._contexts.steps(request, windows))

    def _admit(self, envelope: Envelope, request: GraphRequest) -> None:
        """Leave a prompt to the main loop, if there is nothing wrong with it and not too many wait.

        Raises:
            Conflict: a run without a model. TooMany. What `PromptQueries.prepare` raises.
        """
        prompts = self.prompts
        if prompts is None:
            raise Conflict("this run has no model (--dictionary), so no prompt can be run through it")
        prompt = prompts.prepare(request)
        waiting = len(self._waiting_prompts)
        if waiting >= MOST_PROMPTS:
            raise TooMany(f"{waiting} prompts wait for the engine already, and no more are taken until one is answered")
        self._waiting_prompts.add(envelope.id)
        try:
            self._put(envelope, lambda windows: prompts.steps(prompt))
        except TooMany:
            self._waiting_prompts.discard(envelope.id)
            raise

    def _at_once(self, request: LiveRequest) -> LiveAnswer:
        """The answer to what does not need the main loop."""
        match request:
            case SimilarityRequest():
                return self.tables.similarity(request)
            case NeighborsRequest():
                return self.tables.neighbors(request)
            case CorpusFeatureRequest():
                return self._corpora.feature(request.feature, request.corpus)
            case CompareRequest():
                return self._page(request, lambda: self._corpora.compare(request.a, request.b, request.layer))
            case CompareEdgesRequest():
                a, b = request.a, request.b
                return self._page(request, lambda: self._corpora.compare_edges(a, b, request.pair, request.measure))
            case PinRequest():
                return self._pinning().pin(request.pairs)
            case PinnedRequest():
                return self._pinning().pinned(request.after, request.limit)
            case PaperGatesRequest():
                return self._page(request, lambda: self._paper.gates(request.pair, request.threshold))
            case ContextsRequest() | GateContextsRequest() | GraphRequest():
                raise ValueError(f"{type(request).__name__} is answered by the main loop")

    def _page(
        self, request: CompareRequest | CompareEdgesRequest | PaperGatesRequest, make: Callable[[], tuple[Any, Sequence[Any]]]
    ) -> Any:
        """A page of a list: the first one fixes what the others show, whatever is counted meanwhile."""
        return self._lists.page(msgspec.structs.replace(request, page=Page()), request.page, None, make)

    def _pinning(self) -> PinQueries:
        if self.pins is None:
            raise NotReady("the engine is starting: no pairs can be pinned yet")
        return self.pins

    def _answer(self, envelope: Envelope, make: Callable[[], LiveAnswer | None]) -> bool:
        """Answer with what `make` returns or raises; False when that is None, which is no answer yet."""
        with about(request=envelope.asked_by):
            return self._answered(envelope, make)

    def _answered(self, envelope: Envelope, make: Callable[[], LiveAnswer | None]) -> bool:
        how = "answered"
        try:
            made = make()
            if made is None:
                return False
            packed = pack_answer(made)
        except SaestreamError as error:
            packed, how = pack_error(error), error.title
        except Exception:  # one bad request must not end the thread that serves all others, nor the engine
            log.exception("a live request failed: %r", envelope.request)
            packed, how = pack_error(SaestreamError("the engine failed on this request; its log says why")), "failed"
        request_took(time.monotonic() - envelope.sent_at, "%s: %s", type(envelope.request).__name__, how)
        try:
            with self._client.pipeline() as pipe:
                pipe.rpush(self._keys.reply(envelope.id), packed)
                pipe.expire(self._keys.reply(envelope.id), REPLY_SECONDS)
                pipe.execute()
        except (redis.RedisError, OSError) as error:
            log.warning("a live answer was lost, Redis fails: %s", error)
        return True
