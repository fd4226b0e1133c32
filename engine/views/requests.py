"""Live requests: what the API asks of the running engine, and how the question and its answer travel through Redis.

1. `ask` pushes a packed `Envelope` onto the request list and waits for the one element of its reply list.
2. The engine's query thread (`engine.views.live`) pops it, answers, and lets the reply expire.
3. A request whose deadline has passed is dropped unanswered: nobody waits for it any more.
"""

from __future__ import annotations

import secrets
import time
from functools import partial
from typing import Any, Literal, TypeVar, cast

import msgspec
import redis.asyncio
from redis.exceptions import TimeoutError as RedisTimeout

from engine import errors
from engine.errors import NotReady, SaestreamError, TooMany
from engine.logs import current
from engine.views.answers import NeighborsAnswer, SimilarityAnswer, SnapshotAnswer
from engine.views.corpus_answers import CompareAnswer, CompareEdgesAnswer, CorpusFeatureAnswer, PinAnswer, PinnedAnswer
from engine.views.gate_answers import GateParentAnswer, Kind, PaperGatesAnswer
from engine.views.graph_answers import GraphAnswer, GraphRequest
from engine.views.keys import Keys
from engine.views.lists import Page
from engine.views.records import Direction

MOST_WAITING = 1_000
"""Requests that may wait at once: at 1 ms each a second of the engine's query thread; more means that nobody answers."""

REPLY_SECONDS = 60
_SLICE_SECONDS = 2  # a blocking read must end before the client's socket timeout, 5 s by default


class SimilarityRequest(msgspec.Struct, frozen=True, tag="similarity"):
    """All measures of one pair, (layer, index) each; of one corpus where the pair is watched."""

    up: tuple[int, int]
    down: tuple[int, int]
    corpus: str | None = None


class NeighborsRequest(msgspec.Struct, frozen=True, tag="neighbors"):
    """A ranking of all features of the neighbouring layers, checked by `answers.check_ranking`."""

    feature: tuple[int, int]
    direction: Direction = "downstream"
    measure: str = "jaccard"
    k: int = 20
    min_support: int = 10
    rank: str | None = None


class ContextsRequest(msgspec.Struct, frozen=True, tag="contexts"):
    """The text around the k strongest activations of each feature."""

    features: list[tuple[int, int]]
    k: int = 1


class CorpusFeatureRequest(msgspec.Struct, frozen=True, tag="corpus feature"):
    """One feature in one corpus."""

    feature: tuple[int, int]
    corpus: str


class CompareRequest(msgspec.Struct, frozen=True, tag="compare"):
    """Features of a layer (None: of all) by how much their densities in two corpora differ, a page of the ranking."""

    a: str
    b: str
    layer: int | None = None
    page: Page = Page()


class CompareEdgesRequest(msgspec.Struct, frozen=True, tag="compare edges"):
    """Watched pairs of a layer pair by how much a measure in two corpora differs, a page of the ranking."""

    a: str
    b: str
    pair: tuple[int, int]
    measure: str = "jaccard"
    page: Page = Page()


class PinRequest(msgspec.Struct, frozen=True, tag="pin"):
    """Pairs to watch: upstream layer and feature, downstream layer and feature."""

    pairs: list[tuple[int, int, int, int]]


class PinnedRequest(msgspec.Struct, frozen=True, tag="pinned"):
    """The pinned pairs behind `after` in order, at most so many."""

    after: tuple[int, int, int, int] | None = None
    limit: int = 100


class GateContextsRequest(msgspec.Struct, frozen=True, tag="gate contexts"):
    """Text that shows a gate, at most k contexts of each group."""

    child: tuple[int, int]
    kind: str
    parents: list[tuple[int, int]]
    k: int = 3


class PaperGatesRequest(msgspec.Struct, frozen=True, tag="paper gates"):
    """What the paper's rule takes for gates in one layer pair, a page of the list by child."""

    pair: tuple[int, int]
    threshold: float = 0.999
    page: Page = Page()


LiveRequest = (
    SimilarityRequest
    | NeighborsRequest
    | ContextsRequest
    | CorpusFeatureRequest
    | CompareRequest
    | CompareEdgesRequest
    | PinRequest
    | PinnedRequest
    | GateContextsRequest
    | PaperGatesRequest
    | GraphRequest
)


class DocumentAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The document that a context is from."""

    number: int
    name: str | None


class ContextAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The window around one of the strongest activations of `feature`.

    Attributes:
        feature: whose.
        activation: its value at `position`.
        position: index of that token in `tokens` and in every list of `values`.
        log_position: the same token's position in the corpus log.
        tokens: the window's tokens as text (a token that is half a character shows U+FFFD); None in a run without a model.
        values: "layer:index" → activation at each token, for every feature of the request.
    """

    feature: str
    activation: float
    position: int
    log_position: int
    upload: str
    corpus: str
    document: DocumentAnswer
    tokens: list[str] | None
    values: dict[str, list[float]]


class MissingAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One of the strongest activations of `feature` whose text can't be shown, and why."""

    feature: str
    activation: float
    log_position: int
    reason: str


class ContextsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Contexts in the order of the request's features, of each the strongest first, each from another document. A feature that
    fired in fewer than k documents has as many as those. `missing`: activations whose text can't be shown."""

    contexts: list[ContextAnswer]
    missing: list[MissingAnswer]
    snapshot: SnapshotAnswer


Group = Literal["all", "some", "none"]
GROUPS: tuple[Group, ...] = ("all", "some", "none")


class GateContextAnswer(ContextAnswer, frozen=True, kw_only=True):
    """A context whose token is in a group of a gate: all parents are active there, some of them, or none while the child is.

    Attributes:
        feature, activation: the child, and its value at the token; 0 where it is silent.
        active: the parents that are active at it; child_active: whether the child is; holds: whether the gate does.
    """

    group: Group
    active: list[str]
    child_active: bool
    holds: bool


class GateGroupAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of a group in the windows that were looked at, and those of them at which the child is active."""

    group: Group
    tokens: int
    child: int


class GateContextsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Text that shows a gate, from the windows around the strongest activations of child and parents.

    Those windows are where the features are strong, so `groups` counts what was looked at and estimates nothing.

    Attributes:
        windows: looked at; groups: what is in them.
        contexts: by group; of each the strongest, each from another document.
        missing: activations whose window can't be shown, with the reason.
        reason: why there is no text, in a run without a model; activations are shown all the same.
    """

    child: str
    kind: Kind
    parents: list[GateParentAnswer]
    windows: int
    groups: list[GateGroupAnswer]
    contexts: list[GateContextAnswer]
    missing: list[MissingAnswer]
    reason: str | None
    snapshot: SnapshotAnswer


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """A request on its way: sent and of use until when (by the monotonic clock, which all processes of a machine share and nobody
    sets), and the id of the HTTP request that it is for."""

    id: str
    deadline: float
    request: LiveRequest
    sent_at: float = msgspec.field(default_factory=time.monotonic)
    asked_by: str = msgspec.field(default_factory=partial(current, "request"))


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A packed answer, or the class and message of a `SaestreamError`, and after how many seconds to ask again."""

    answer: msgspec.Raw = msgspec.Raw(b"\xc0")
    error: str | None = None
    message: str = ""
    retry_after: int | None = None


LiveAnswer = (
    SimilarityAnswer
    | NeighborsAnswer
    | ContextsAnswer
    | CorpusFeatureAnswer
    | CompareAnswer
    | CompareEdgesAnswer
    | PinAnswer
    | PinnedAnswer
    | GateContextsAnswer
    | PaperGatesAnswer
    | GraphAnswer
)
Opened = TypeVar("Opened", bound=msgspec.Struct)
_ANSWERS: dict[type, type] = {
    SimilarityRequest: SimilarityAnswer,
    NeighborsRequest: NeighborsAnswer,
    ContextsRequest: ContextsAnswer,
    CorpusFeatureRequest: CorpusFeatureAnswer,
    CompareRequest: CompareAnswer,
    CompareEdgesRequest: CompareEdgesAnswer,
    PinRequest: PinAnswer,
    PinnedRequest: PinnedAnswer,
    GateContextsRequest: GateContextsAnswer,
    PaperGatesRequest: PaperGatesAnswer,
    GraphRequest: GraphAnswer,
}


async def ask(client: redis.asyncio.Redis, keys: Keys, request: LiveRequest, timeout: float = 10.0) -> Any:
    """Ask the engine and wait for the answer.

    Args:
        client: Redis.
        keys: of the run.
        request: what to ask.
        timeout: seconds until nobody waits any more.

    Returns:
        The answer of the request's kind, such as `SimilarityAnswer` to a `SimilarityRequest`.

    Raises:
        NotReady: the engine did not answer in time. TooMany: too many wait already.
        SaestreamError: what the engine answered with.
        redis.RedisError: Redis is away.
    """
    envelope = Envelope(id=secrets.token_hex(8), deadline=time.monotonic() + timeout, request=request)
    return open_reply(await exchange(client, keys, keys.requests, envelope, timeout, "the engine"), _ANSWERS[type(request)])


async def exchange(client: redis.asyncio.Redis, keys: Keys, queue: str, envelope: Any, timeout: float, answering: str) -> bytes:
    """Put an envelope (a struct with `id` and `deadline`) onto a queue, and wait for the packed `Reply` to it.

    Args:
        queue: the key of the list.
        timeout: seconds from now until the deadline, for the message.
        answering: who answers, for messages.

    Raises:
        NotReady: no answer before the deadline. TooMany: too many wait already.
        redis.RedisError: Redis is away.
    """
    packed = msgspec.msgpack.encode(envelope)
    waiting = cast(int, await client.rpush(queue, packed))
    if waiting > MOST_WAITING:
        await client.lrem(queue, -1, packed)  # type: ignore[misc]  # redis-py types it as sync or async
        raise TooMany(f"{waiting - 1:,} requests wait for {answering} already, and no more are taken until some are answered")
    while (left := envelope.deadline - time.monotonic()) > 0:
        try:
            found = await client.blpop([keys.reply(envelope.id)], timeout=min(_SLICE_SECONDS, max(0.01, left)))  # type: ignore[misc]
        except RedisTimeout:
            found = None
        if found:
            return cast(bytes, found[1])
    await client.lrem(queue, -1, packed)  # type: ignore[misc]
    raise NotReady(f"{answering} did not answer within {timeout:g} s: it is starting, busy, or has stopped")


def pack_answer(answer: msgspec.Struct) -> bytes:
    """A reply that holds an answer."""
    return msgspec.msgpack.encode(Reply(answer=msgspec.Raw(msgspec.msgpack.encode(answer))))


def pack_error(error: SaestreamError) -> bytes:
    """A reply that raises this error where the request came from."""
    return msgspec.msgpack.encode(Reply(error=type(error).__name__, message=error.message, retry_after=error.retry_after))


def open_reply(packed: bytes, answer: type[Opened]) -> Opened:
    """The answer of a packed reply, of this type.

    Raises:
        SaestreamError: what was answered instead.
    """
    reply = msgspec.msgpack.decode(packed, type=Reply)
    if reply.error is None:
        return msgspec.msgpack.decode(reply.answer, type=answer)
    kind = getattr(errors, reply.error, SaestreamError)
    raise kind(reply.message, retry_after=reply.retry_after)
