"""The engine's side of live requests: a thread that answers from the running tables while the main loop counts.

1. The thread pops requests. Similarity and neighbours take the lock that counting holds, copy the cells that they need (0.1–6 ms),
   and are computed and answered outside of it.
2. Contexts need the encoder, which belongs to the main loop: they go onto a queue, and the loop answers them between micro-batches
   (`answer_pending`), in steps of one call of the encoder and in turn, so that one request for many windows holds up neither the
   counting nor the other requests. An idle loop sleeps in `wait`, which a context request ends.

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
from typing import TYPE_CHECKING, cast

import msgspec
import numpy as np
import redis
from redis.exceptions import TimeoutError as RedisTimeout

from engine.errors import BadValue, NotReady, SaestreamError, Unknown
from engine.measures import PairCounts
from engine.views import answers
from engine.views.answers import (
    NeighborsAnswer,
    SimilarityAnswer,
    live_snapshot,
    name,
    no_table,
    pair_names,
)
from engine.views.connection import connect
from engine.views.contexts import Chosen, EncodeWindows, context_steps
from engine.views.corpora import CorpusQueries
from engine.views.decoder import DecoderCosines
from engine.views.effects import Effects
from engine.views.gate_contexts import check_gate, gate_context_steps
from engine.views.intervals import interval_rows
from engine.views.keys import Keys
from engine.views.neighbor_rows import NeighborRows, OneSide
from engine.views.paper_gates import PaperQueries
from engine.views.pins import PinQueries
from engine.views.records import CONTEXTS, NEIGHBOR
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

if TYPE_CHECKING:
    from engine.counts.state import State
    from engine.counts.watched import Watched
    from engine.encoder.description import RunDescription
    from engine.settings import Settings

log = logging.getLogger(__name__)

MOST_CONTEXTS = 16
"""Features of one contexts request: each of their windows may need a forward pass of its own, some 20 ms, in which nothing is
counted."""

_POLL_SECONDS = 0.25  # how long a pop waits, and with it how long `stop` may take
_AWAY_SECONDS = 0.2  # between attempts while Redis is away
_PENDING_SECONDS = 0.25  # of a loop's turn for contexts; what is left waits for the next turn


class LiveQueries(threading.Thread):
    """Answers requests about the running state.

    Attributes:
        pending: context requests that wait for the main loop.
        pins: set before the thread starts; without it pairs can't be pinned.
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
        self.pending: queue.Queue[tuple[Envelope, ContextsRequest | GateContextsRequest]] = queue.Queue()
        self.pins: PinQueries | None = None
        self._corpora = CorpusQueries(description, state, lock)
        self._paper = PaperQueries(state, lock)
        self._client = connect(settings.redis_url)
        self._keys = Keys(settings.redis_prefix)
        self._description = description
        self._state = state
        self._lock = lock
        self._cosines = cosines or DecoderCosines(None, ())
        self._decode = decode
        self._effects = effects or Effects(description.dictionaries)
        self._open: deque[tuple[Envelope, Iterator[ContextsAnswer | GateContextsAnswer | None]]] = deque()  # begun by the main loop
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

    def wait(self, seconds: float) -> None:
        """Sleep for so long, or until a request needs the main loop."""
        self._woken.wait(seconds)

    def answer_pending(self, windows: EncodeWindows) -> int:
        """Answer context requests, for at most about 0.25 s and at least a step if there is any. Call it from the main loop.

        Args:
            windows: positions in the log → the windows that hold them, encoded.

        Returns:
            How many were answered; what is left goes on at the next call.
        """
        until, answered = time.monotonic() + _PENDING_SECONDS, 0
        while True:
            self._woken.clear()
            while not self.pending.empty():
                envelope, request = self.pending.get_nowait()
                gate = isinstance(request, GateContextsRequest)
                self._open.append((envelope, self._gate_contexts(request, windows) if gate else self._contexts(request, windows)))
            if not self._open:
                break
            envelope, steps = self._open.popleft()
            if envelope.deadline <= time.time():
                continue
            if self._answer(envelope, lambda steps=steps: next(steps)):
                answered += 1
            else:
                self._open.append((envelope, steps))
            if time.monotonic() >= until:
                break
        if self._open:
            self._woken.set()
        return answered

    def _take(self, packed: bytes) -> None:
        try:
            envelope = msgspec.msgpack.decode(packed, type=Envelope)
        except msgspec.DecodeError as error:
            log.error("a live request that is none was dropped: %s", error)
            return
        if envelope.deadline <= time.time():
            return
        request = envelope.request
        if isinstance(request, ContextsRequest | GateContextsRequest):
            self.pending.put((envelope, request))
            self._woken.set()
        else:
            self._answer(envelope, lambda: self._at_once(request))

    def _at_once(self, request: LiveRequest) -> LiveAnswer:
        """The answer to what does not need the main loop."""
        match request:
            case SimilarityRequest():
                return self.similarity(request)
            case NeighborsRequest():
                return self.neighbors(request)
            case CorpusFeatureRequest():
                return self._corpora.feature(request.feature, request.corpus)
            case CompareRequest():
                return self._corpora.compare(request.a, request.b, request.layer, request.start, request.limit)
            case CompareEdgesRequest():
                a, b = request.a, request.b
                return self._corpora.compare_edges(a, b, request.pair, request.measure, request.start, request.limit)
            case PinRequest():
                return self._pinning().pin(request.pairs)
            case PinnedRequest():
                return self._pinning().pinned(request.after, request.limit)
            case PaperGatesRequest():
                return self._paper.gates(request.pair, request.threshold, request.start, request.limit)
            case ContextsRequest() | GateContextsRequest():
                raise ValueError("contexts are answered by the main loop")

    def _pinning(self) -> PinQueries:
        if self.pins is None:
            raise NotReady("the engine is starting: no pairs can be pinned yet")
        return self.pins

    def _answer(self, envelope: Envelope, make: Callable[[], LiveAnswer | None]) -> bool:
        """Answer with what `make` returns or raises; False when that is None, which is no answer yet."""
        try:
            made = make()
            if made is None:
                return False
            packed = pack_answer(made)
        except SaestreamError as error:
            packed = pack_error(error)
        except Exception:  # one bad request must not end the thread that serves all others, nor the engine
            log.exception("a live request failed: %r", envelope.request)
            packed = pack_error(SaestreamError("the engine failed on this request; its log says why"))
        try:
            with self._client.pipeline() as pipe:
                pipe.rpush(self._keys.reply(envelope.id), packed)
                pipe.expire(self._keys.reply(envelope.id), REPLY_SECONDS)
                pipe.execute()
        except (redis.RedisError, OSError) as error:
            log.warning("a live answer was lost, Redis fails: %s", error)
        return True

    def similarity(self, request: SimilarityRequest) -> SimilarityAnswer:
        """Every measure of one pair from the running counts.

        Raises:
            Unknown: a feature or a layer pair that the run does not have.
        """
        up, down = request.up, request.down
        self._check(up)
        self._check(down)
        pair = up[0], down[0]
        if pair not in self._state.pairs:
            raise Unknown(
                f"{name(up)} and {name(down)}: layers {pair[0]}→{pair[1]} are no layer pair of this run; it has "
                f"{pair_names(list(self._state.pairs))}"
            )
        with self._lock:
            tokens = self._state.tokens
            one, other = self._marginal(up), self._marginal(down)
            table, watched = self._state.pairs[pair], self._state.watched[pair]
            joint, product = int(table.joint((up[1], down[1]))), float(table.products[up[1], down[1]])
            row = watched.find(np.array([up[1]]), np.array([down[1]]))
            interval = interval_rows(watched, row, request.corpus)[0] if row[0] >= 0 else None
            if request.corpus is not None:
                sums = self._corpus_sums(watched, int(row[0]), request)
        cosine = self._cosines.of_pairs(*pair, np.array([up[1]]), np.array([down[1]]))
        if request.corpus is not None:
            tokens, n_i, n_j, joint = (int(value) for value in sums[:4])
            a, b, aa, bb, product = sums[4:].tolist()
        else:
            n_i, n_j, a, b, aa, bb = one.count, other.count, one.sum, other.sum, one.sum_of_squares, other.sum_of_squares
        counts = PairCounts(tokens, n_i, n_j, joint, a, b, aa, bb, product, float(cosine[0]))
        effects = float(self._effects.ratios(pair, np.array([joint]))[0]), float(np.fmax(one.rate_effect, other.rate_effect))
        return answers.similarity(up, down, counts, effects, interval, live_snapshot(tokens), corpus=request.corpus)

    def _corpus_sums(self, watched: Watched, row: int, request: SimilarityRequest) -> np.ndarray:
        """float64 `[9]` of one watched pair in one corpus.

        Raises:
            Unknown: a corpus that nothing was counted of. BadValue: the pair is not watched.
        """
        assert request.corpus is not None
        known = sorted({corpus for part in self._state.corpora for corpus in part.corpora})
        if request.corpus not in known:
            raise Unknown(
                f"corpus = {request.corpus!r}: nothing was counted of such a corpus; there are {', '.join(known) or 'none'}"
            )
        if row < 0:
            raise BadValue(
                f"{name(request.up)} and {name(request.down)} are not watched, and pairs are kept per corpus from when they are: "
                "POST /v1/watch"
            )
        return watched.moments(request.corpus, np.array([row])).sums[0]

    def neighbors(self, request: NeighborsRequest) -> NeighborsAnswer:
        """A ranking over whole rows or columns of the running tables.

        Raises:
            BadValue: a ranking that can't be. Unknown: a feature that the run does not have.
        """
        rank = answers.check_ranking(request.direction, request.measure, request.k, request.min_support, request.rank)
        feature, downstream = request.feature, request.direction == "downstream"
        self._check(feature)
        pairs = [pair for pair in self._state.pairs if pair[0 if downstream else 1] == feature[0]]
        if not pairs:
            raise no_table(feature, request.direction, list(self._state.pairs))
        with self._lock:
            tokens = self._state.tokens
            own = self._marginal(feature)
            tables = [self._rows(pair, feature[1], downstream, request.min_support) for pair in pairs]
        for pair, table in zip(pairs, tables, strict=True):
            i, j = (feature[1], table.rows["index"]) if downstream else (table.rows["index"], feature[1])
            table.rows["decoder_cosine"] = self._cosines.of_pairs(*pair, np.asarray(i), np.asarray(j))
        return answers.neighbors(
            feature,
            own,
            tables,
            live_snapshot(tokens),
            direction=request.direction,
            measure=request.measure,
            k=request.k,
            min_support=request.min_support,
            rank=rank,
        )

    def _rows(self, pair: tuple[int, int], index: int, downstream: bool, min_support: int) -> NeighborRows:
        """A row or column of a pair table: cells with the support only."""
        table, watched = self._state.pairs[pair], self._state.watched[pair]
        line = (index, slice(None)) if downstream else (slice(None), index)
        halves, product = table.halves(line).astype(np.int64), table.products[line].cpu().numpy()
        joint = halves.sum(axis=1)
        chosen = np.flatnonzero(joint >= min_support)
        layer = pair[1 if downstream else 0]
        marginals = self._state.marginals[layer]
        by_half = marginals.by_half.cpu().numpy()[chosen]
        rows = np.empty(len(chosen), NEIGHBOR)
        rows["index"] = chosen
        rows["joint"], rows["joint_a"], rows["product"] = joint[chosen], halves[chosen, 0], product[chosen]
        rows["count"], rows["count_a"] = by_half.sum(axis=1), by_half[:, 0]
        for column in ("sum", "sum_of_squares"):
            rows[column] = getattr(marginals, column).cpu().numpy()[chosen]
        rows["effect"] = self._effects.ratios(pair, rows["joint"])
        rows["rate_effect"] = self._effects.rates[layer][chosen]
        own = np.full(len(chosen), index)
        found = watched.find(*((own, chosen) if downstream else (chosen, own)))
        intervals = interval_rows(watched, found[found >= 0])
        intervals["index"] = chosen[found >= 0]
        return NeighborRows(layer, rows, intervals, len(marginals.by_half))

    def _contexts(self, request: ContextsRequest, windows: EncodeWindows) -> Iterator[ContextsAnswer | None]:
        """See `context_steps`; what is wrong with the request is raised by the first step."""
        if not 1 <= len(request.features) <= MOST_CONTEXTS:
            raise BadValue(f"{len(request.features)} features: contexts are given for 1 to {MOST_CONTEXTS} at a time")
        if not 1 <= request.k <= CONTEXTS:
            raise BadValue(f"k = {request.k}: of each feature the 1 to {CONTEXTS} strongest contexts are given")
        for feature in request.features:
            self._check(feature)
        with self._lock:
            tokens, chosen = self._state.tokens, self._strongest(request.features, request.k)
        yield from context_steps(request.features, chosen, tokens, windows, self._decode)

    def _gate_contexts(self, request: GateContextsRequest, windows: EncodeWindows) -> Iterator[GateContextsAnswer | None]:
        """See `gate_context_steps`; errors as `_contexts`."""
        if not 1 <= request.k <= CONTEXTS:
            raise BadValue(f"k = {request.k}: of each group 1 to {CONTEXTS} contexts are given")
        features = [request.child, *request.parents]
        for feature in features:
            self._check(feature)
        check_gate(request, list(self._state.pairs))
        with self._lock:
            tokens, chosen = self._state.tokens, self._strongest(features, CONTEXTS)
        limits = [self._state.shape.thresholds[layer] for layer, _ in features]
        above = [0.0 if limit is None else float(limit[index]) for limit, (_, index) in zip(limits, features, strict=True)]
        yield from gate_context_steps(request, chosen, above, tokens, windows, self._decode)

    def _strongest(self, features: Sequence[tuple[int, int]], k: int) -> list[Chosen]:
        """The k strongest activations of each feature, under the lock."""
        chosen = []
        for layer, index in features:
            part = self._state.strongest[layer]
            best = zip(part.value[index, :k].tolist(), part.position[index, :k].tolist(), strict=True)
            chosen += [Chosen((layer, index), value, position) for value, position in best if position >= 0]
        return chosen

    def _marginal(self, feature: tuple[int, int]) -> OneSide:
        layer, index = feature
        part = self._state.marginals[layer]
        half_a, half_b = part.by_half[index].tolist()
        effect = float(self._effects.rates[layer][index])
        return OneSide(half_a + half_b, float(part.sum[index]), float(part.sum_of_squares[index]), half_a, effect)

    def _check(self, feature: tuple[int, int]) -> None:
        if (error := answers.unknown(self._description, feature)) is not None:
            raise error
