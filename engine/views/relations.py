"""Questions about relations between features, and how they travel from the API to the analysis worker and back.

The worker (`engine.analysis`) answers from a whole snapshot that it has read; the API only checks, asks and encodes.
"""

from __future__ import annotations

import secrets
import time
from functools import partial
from typing import Any

import msgspec
import redis.asyncio

from engine.errors import BadInput, BadValue
from engine.logs import current
from engine.measures.hidden import FACTOR, SHARE, WINDOWS, check_hidden
from engine.measures.relations import check_threshold
from engine.views.communities import CommunitiesRequest, CommunityOfRequest, CommunityRequest
from engine.views.community_answers import CommunitiesAnswer, CommunityAnswer, CommunityOfAnswer
from engine.views.edge_answers import EdgesAnswer, HistogramsAnswer
from engine.views.gate_answers import GatesAnswer, Sort
from engine.views.gate_answers import Kind as GateKind
from engine.views.keys import Keys
from engine.views.lists import MOST_ITEMS, Page
from engine.views.relation_answers import FlowAnswer, Kind, LineagesAnswer, MatchingAnswer, SpecializationsAnswer
from engine.views.requests import exchange, open_reply
from engine.views.search_answers import SearchAnswer, SearchRequest

__all__ = [
    "ANSWERS",
    "FACTOR",
    "MOST_ITEMS",
    "SHARE",
    "THRESHOLD",
    "TIMEOUT_SECONDS",
    "WINDOWS",
    "AnalysisEnvelope",
    "FlowRequest",
    "GatesRequest",
    "LineagesRequest",
    "MatchingRequest",
    "Page",
    "RelationRequest",
    "SpecializationsRequest",
    "ask",
    "check_hidden",
    "pair_of",
    "support_of",
    "threshold_of",
]

THRESHOLD = 0.4
"""Default threshold of the measures that reach to 1: the one at which Balcells et al. 2024 count appearing and disappearing."""

TIMEOUT_SECONDS = 60.0
"""How long a request waits. Reading a snapshot of 7,168 features takes half a second; of 295,000 some 20 s, extrapolated."""


class FlowRequest(msgspec.Struct, frozen=True, kw_only=True, tag="flow"):
    """Counts of every layer pair (or of `pair`), and with `kind` the features of that kind of one pair."""

    measure: str
    threshold: float
    min_support: int
    hidden_share: float = SHARE
    hidden_factor: float = FACTOR
    hidden_windows: int = WINDOWS
    pair: tuple[int, int] | None = None
    kind: Kind | None = None


class LineagesRequest(msgspec.Struct, frozen=True, kw_only=True, tag="lineages"):
    """Lineages of at least `min_length` layers; of one feature only, if one is given."""

    measure: str
    threshold: float
    min_support: int
    min_length: int = 2
    feature: tuple[int, int] | None = None


class SpecializationsRequest(msgspec.Struct, frozen=True, kw_only=True, tag="specializations"):
    """Parents that children share out; see `engine.measures.specialization`."""

    threshold: float
    coverage: float
    max_overlap: float
    min_support: int


class MatchingRequest(msgspec.Struct, frozen=True, kw_only=True, tag="matching"):
    """The one-to-one matching of one layer pair."""

    pair: tuple[int, int]
    measure: str
    threshold: float
    min_support: int


class HistogramsRequest(msgspec.Struct, frozen=True, kw_only=True, tag="histograms"):
    """Histograms of the best partners by one measure, or by every one that the run has."""

    measure: str | None
    min_support: int


class EdgesRequest(msgspec.Struct, frozen=True, kw_only=True, tag="edges"):
    """Watched edges by the lower bound of a measure that has intervals, of all layer pairs or one."""

    measure: str
    pair: tuple[int, int] | None = None


class GatesRequest(msgspec.Struct, frozen=True, kw_only=True, tag="gates"):
    """Gates by kind, verdict (None: gates and joint actions; "any"), smallest F1 and gain, and the child's layer."""

    kind: GateKind | None = None
    verdict: str | None = None
    min_f1: float | None = None
    min_gain: float | None = None
    layer: int | None = None
    sort: Sort = "f1"
    cells: bool = False


RelationRequest = (
    FlowRequest
    | LineagesRequest
    | SpecializationsRequest
    | MatchingRequest
    | HistogramsRequest
    | EdgesRequest
    | GatesRequest
    | SearchRequest
    | CommunitiesRequest
    | CommunityRequest
    | CommunityOfRequest
)


class AnalysisEnvelope(msgspec.Struct, frozen=True, kw_only=True):
    """A request on its way: sent and of use until when (by the monotonic clock, which all processes of a machine share and nobody
    sets), and the id of the HTTP request that it is for."""

    id: str
    deadline: float
    request: RelationRequest
    page: Page
    sent_at: float = msgspec.field(default_factory=time.monotonic)
    asked_by: str = msgspec.field(default_factory=partial(current, "request"))


ANSWERS: dict[type, type] = {
    FlowRequest: FlowAnswer,
    LineagesRequest: LineagesAnswer,
    SpecializationsRequest: SpecializationsAnswer,
    MatchingRequest: MatchingAnswer,
    HistogramsRequest: HistogramsAnswer,
    EdgesRequest: EdgesAnswer,
    GatesRequest: GatesAnswer,
    SearchRequest: SearchAnswer,
    CommunitiesRequest: CommunitiesAnswer,
    CommunityRequest: CommunityAnswer,
    CommunityOfRequest: CommunityOfAnswer,
}


def threshold_of(measure: str, threshold: float | None) -> float:
    """The threshold that was given, or the default of a measure that has one.

    Raises:
        BadValue: an unknown measure, a threshold out of its range, or none for a measure without a default.
    """
    if threshold is None and measure in ("lift", "mutual_information"):
        raise BadValue(f"threshold: it must be given for {measure}, which has no natural scale from 0 to 1")
    value = THRESHOLD if threshold is None else threshold
    check_threshold(measure, value)
    return value


def support_of(min_support: int | None, published: int) -> int:
    """The support that was given, or the published one.

    Raises:
        BadValue: less than what the published lists hold.
    """
    if min_support is not None and min_support < published:
        raise BadValue(
            f"min_support = {min_support}: relations are read from the published lists, which hold pairs with a joint count of "
            f"{published} or more: it must be at least {published}"
        )
    return published if min_support is None else min_support


def pair_of(text: str, pairs: list[tuple[int, int]]) -> tuple[int, int]:
    """`"3-4"` → (3, 4), one of these layer pairs.

    Raises:
        BadInput: another form. BadValue: not a layer pair of the run; the message lists them.
    """
    up, _, down = text.partition("-")
    if not (up.isdecimal() and down.isdecimal()):
        raise BadInput(f"pair = {text!r}: a layer pair is written up-down, for example 3-4")
    pair = int(up), int(down)
    if pair not in pairs:
        listed = ", ".join(f"{a}-{b}" for a, b in pairs)
        raise BadValue(f"pair = {text!r}: it must be one of the run's layer pairs ({listed})")
    return pair


async def ask(
    client: redis.asyncio.Redis, keys: Keys, request: RelationRequest, page: Page, timeout: float = TIMEOUT_SECONDS
) -> Any:
    """Ask the analysis worker.

    Returns:
        The struct that `ANSWERS` names for the request.

    Raises:
        NotReady: no snapshot yet, or no answer in time. Gone: a cursor whose list is not kept any more. BadInput: not a cursor of
            this question. redis.RedisError: Redis is away.
    """
    envelope = AnalysisEnvelope(id=secrets.token_hex(8), deadline=time.monotonic() + timeout, request=request, page=page)
    return open_reply(await exchange(client, keys, keys.analysis, envelope, timeout, "the analysis worker"), ANSWERS[type(request)])
