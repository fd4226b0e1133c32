"""Answers questions about relations from whole snapshots, one after the other.

1. Pop a question from the worker's own queue; one whose deadline has passed is dropped.
2. See whether a newer snapshot should be read first (`_refresh`). Nothing is read while nobody asks.
3. Compute the answer, or take the page of a list that is kept, and send it back.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, cast

import msgspec
import redis
from redis.exceptions import TimeoutError as RedisTimeout

from engine.analysis import answers, communities, edges, flow, gates
from engine.analysis.community_ids import IDS
from engine.analysis.community_splits import Communities
from engine.analysis.decoders import Decoders
from engine.analysis.search import Searches
from engine.analysis.snapshot import SnapshotReader, Whole
from engine.encoder.decoder_file import DECODERS
from engine.errors import NotReady, SaestreamError
from engine.logs import about, request_took
from engine.settings import Settings
from engine.views.communities import CommunitiesRequest, CommunityOfRequest, CommunityRequest
from engine.views.connection import connect
from engine.views.keys import Keys
from engine.views.lists import Lists
from engine.views.relations import (
    AnalysisEnvelope,
    EdgesRequest,
    FlowRequest,
    GatesRequest,
    HistogramsRequest,
    LineagesRequest,
    MatchingRequest,
    RelationRequest,
    SpecializationsRequest,
)
from engine.views.requests import REPLY_SECONDS, pack_answer, pack_error
from engine.views.search_answers import SearchRequest

log = logging.getLogger(__name__)

LEAST_PAUSE = 3.0
"""Seconds between two reads of a snapshot, at least."""

PAUSE_FACTOR = 19
"""Pause after a read, in CPU seconds of it: reading takes at most 5 % of a core, however often somebody asks. By CPU time, since
beside a busy engine a read of the demo takes 0.4 to 1.5 s by the clock and 0.17 s of work."""

_REDIS_SHARE = 1.5  # of our own CPU time and that of Redis together to our own (0.11 and 0.055 s for the demo's 7,168 features)

_POLL_SECONDS = 0.5  # how long a pop waits, and with it how long the end may take
_AWAY_SECONDS = 0.2  # between attempts while Redis is away


class Worker:
    """One run's analysis worker."""

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        """Connects when it first reads; `run` ends when `stop` is set.

        Raises:
            NoRedis: the settings name no Redis.
        """
        self._client = connect(settings.redis_url)
        self._keys = Keys(settings.redis_prefix)
        self._reader = SnapshotReader(self._client, self._keys, settings.published_k, settings.min_support)
        self._data_dir = settings.data_dir
        self._stop = stop
        self._whole: Whole | None = None
        self._packed_run = b""
        self._next_read = 0.0
        self._lists = Lists()
        self._decoders = Decoders(self._data_dir / DECODERS)
        self._searches = Searches(self._data_dir, LEAST_PAUSE, PAUSE_FACTOR)
        self._communities = Communities(self._data_dir / IDS)

    def run(self) -> None:
        """Answer until stopped. Redis being away ends nothing."""
        away = False
        while not self._stop.is_set():
            try:
                popped = cast("tuple[bytes, bytes] | None", self._client.blpop([self._keys.analysis], timeout=_POLL_SECONDS))
                away = False
                if popped is not None:
                    self._take(popped[1])
            except RedisTimeout:
                continue
            except (redis.RedisError, OSError) as error:
                if not away:
                    log.warning("questions can't be read or answered, Redis fails: %s; trying until it is back", error)
                away = True
                self._stop.wait(_AWAY_SECONDS)
        self._client.close()

    def _take(self, packed: bytes) -> None:
        try:
            envelope = msgspec.msgpack.decode(packed, type=AnalysisEnvelope)
        except ValueError as error:  # msgspec's own, or of text that is no UTF-8
            log.error("a question that is none was dropped: %s", error)
            return
        if envelope.deadline <= time.monotonic():
            return
        with about(request=envelope.asked_by):
            answer = self._packed(envelope)
        with self._client.pipeline() as pipe:
            pipe.rpush(self._keys.reply(envelope.id), answer)
            pipe.expire(self._keys.reply(envelope.id), REPLY_SECONDS)
            pipe.execute()

    def _packed(self, envelope: AnalysisEnvelope) -> bytes:
        """The answer to a question, or what is wrong."""
        how = "answered"
        try:
            answer = pack_answer(self._answer(envelope))
        except SaestreamError as error:
            if error.status == 500:
                log.error("%r: %s", envelope.request, error.message)
            answer, how = pack_error(error), error.title
        except redis.RedisError:
            raise
        except Exception:  # one bad question must not end the process that answers all others
            log.exception("a question failed: %r", envelope.request)
            answer, how = pack_error(SaestreamError("the analysis worker failed on this request; its log says why")), "failed"
        request_took(time.monotonic() - envelope.sent_at, "%s: %s", type(envelope.request).__name__, how)
        return answer

    def _answer(self, envelope: AnalysisEnvelope) -> Any:
        whole, request, page = self._refresh(), envelope.request, envelope.page
        if isinstance(request, CommunityRequest):
            return communities.one_community(self._communities.split(whole, request.by), request)
        if isinstance(request, CommunityOfRequest):
            return communities.community_of(self._communities.split(whole, request.by), request)
        if isinstance(request, SearchRequest):
            index = self._searches.index(whole)
            return self._lists.page(request, page, index.snapshot, lambda: index.find(request))
        if isinstance(request, CommunitiesRequest) and page.cursor is None:
            found = self._communities.split(whole, request.by)  # perhaps of an earlier snapshot
            return self._lists.page(request, page, found.snapshot, lambda: communities.listed(found, request))
        return self._lists.page(request, page, whole.snapshot, lambda: self._compute(whole, request))

    def _compute(self, whole: Whole, request: RelationRequest) -> tuple[Any, list[Any]]:
        if isinstance(request, FlowRequest):
            return flow.flow(whole, request)
        if isinstance(request, LineagesRequest):
            return answers.lineages(whole, request)
        if isinstance(request, SpecializationsRequest):
            return answers.specialized(whole, request)
        if isinstance(request, HistogramsRequest):
            return edges.histograms(whole, request)
        if isinstance(request, EdgesRequest):
            return edges.edges(whole, request)
        if isinstance(request, GatesRequest):
            return gates.gates(whole, request)
        if isinstance(request, SearchRequest):
            raise ValueError("a search is answered from the index")
        assert isinstance(request, MatchingRequest)  # searches and communities are answered from what is kept
        return answers.matching(whole, request, self._decoders)

    def _refresh(self) -> Whole:
        """The newest snapshot, or the one that is here while the pause after reading it lasts.

        Raises:
            NotReady: there is none.
        """
        newest, _, run = self._reader.newest()
        if run != self._packed_run:  # another run in this Redis: nothing of the one before may be shown
            self._packed_run, self._whole, self._lists = run, None, Lists()
            self._decoders = Decoders(self._data_dir / DECODERS)
            self._searches = Searches(self._data_dir, LEAST_PAUSE, PAUSE_FACTOR)
            self._communities = Communities(self._data_dir / IDS)
        here = self._whole
        if here is not None and (here.snapshot.version == newest.version or time.monotonic() < self._next_read):
            return here
        began, worked = time.monotonic(), time.process_time()
        try:
            self._whole = self._reader.read()
        except NotReady as error:
            if here is None:
                raise
            log.warning("%s; answers go on from snapshot %s", error.message, here.snapshot.version)
        took = _REDIS_SHARE * (time.process_time() - worked)
        self._next_read = time.monotonic() + max(LEAST_PAUSE, PAUSE_FACTOR * took)
        assert self._whole is not None
        log.info("snapshot %s read in %.2f s", self._whole.snapshot.version, time.monotonic() - began)
        return self._whole
