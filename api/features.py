"""`GET /v1/features/{layer}/{index}…`: one feature, its contexts and its neighbours."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, get
from litestar.params import Parameter

from api.answers import ActivationAnswer, FeatureAnswer, StrengthsAnswer
from api.explanations import Explanations
from api.freshness import MaxStaleness, refuse_stale
from api.kept_answers import KEPT
from api.negotiation import answer
from api.parameters import known_corpus, known_feature, parse_feature, within
from api.run import Run
from api.strongest_texts import StrongestTexts
from engine.corpus.inbox import Inbox
from engine.encoder.description import LayerDescription
from engine.errors import NotReady
from engine.measures.strengths import STRENGTHS
from engine.settings import Settings
from engine.views.answers import NeighborsAnswer, snapshot_answer
from engine.views.corpus_answers import CorpusFeatureAnswer
from engine.views.hidden import HiddenAnswer, hidden_answer
from engine.views.reader import Views
from engine.views.records import CONTEXTS, FeatureRecord, Snapshot
from engine.views.requests import ContextAnswer, ContextsAnswer, CorpusFeatureRequest

NEURONPEDIA = "https://www.neuronpedia.org"

DEFAULT_K = 10
DEFAULT_CONTEXTS = 3  # what the page shows; each is a window that the engine encodes again

LAYER = Parameter(description="index of the layer, from 0")
INDEX = Parameter(description="index of the feature in its layer's dictionary")


@get("/v1/features/{layer:int}/{index:int}", summary="One feature", tags=["statistics"], opt={KEPT: True})
async def feature(
    request: Request[Any, Any, Any],
    views: Views,
    run: Run,
    inbox: Inbox,
    explanations: Explanations,
    strongest_texts: StrongestTexts,
    layer: Annotated[int, LAYER],
    index: Annotated[int, INDEX],
    corpus: Annotated[str | None, Parameter(description="counts of this corpus alone, live from the engine")] = None,
    max_staleness_ms: MaxStaleness = None,
) -> Response[FeatureAnswer | CorpusFeatureAnswer]:
    """Counts, density, mean and strongest activations (at most one per document), the text on which it was strongest, and how much
    of what it wrote is hidden in the next layer's SAE error.

    With `corpus`: counts, density with its interval, and mean in that corpus, over the documents of it that have ended.
    """
    described = known_feature(run.description(), (layer, index))
    if corpus is not None:
        known_corpus(inbox, corpus)
        return answer(request, await views.live(CorpusFeatureRequest((layer, index), corpus)))
    snapshot, record, hidden = await views.feature_with_hidden(layer, index)
    await refuse_stale(views, snapshot, max_staleness_ms)
    strongest, reason, lasting = await strongest_texts.of(record)
    pairs = [(min(layer, other), max(layer, other)) for other, _ in await views.layers_beside(layer)]
    of_layers = [hidden_answer(run.description(), (layer, index), down, row) for down, row in hidden.items()]
    explained = explanations.of(described, index)
    body = feature_answer(described, record, snapshot, pairs, strongest, reason, of_layers, explained)
    return answer(request, body, version=snapshot.version if lasting else None)


@get("/v1/features/{layer:int}/{index:int}/contexts", summary="Text on which features fire", tags=["statistics"])
async def contexts(
    request: Request[Any, Any, Any],
    views: Views,
    run: Run,
    layer: Annotated[int, LAYER],
    index: Annotated[int, INDEX],
    others: Annotated[
        list[str] | None,
        Parameter(query="with", description="another feature, layer:index, to show too; repeatable"),
    ] = None,
    k: Annotated[
        int, Parameter(description="how many of each feature, at most: 1 to 8, each from another document")
    ] = DEFAULT_CONTEXTS,
) -> Response[ContextsAnswer]:
    """The windows around the `k` strongest activations of the feature and of each one in `with`, with the activations of all of
    them. An activation whose text can't be shown is under `missing`, with the reason."""
    within("k", k, 1, CONTEXTS)
    features = [(layer, index), *(parse_feature(text, "with") for text in others or [])]
    for wanted in features:
        known_feature(run.description(), wanted)
    return answer(request, await views.contexts(list(dict.fromkeys(features)), k))


@get(
    "/v1/features/{layer:int}/{index:int}/neighbors",
    summary="The most similar features",
    tags=["statistics"],
    opt={KEPT: True},
)
async def neighbors(
    request: Request[Any, Any, Any],
    views: Views,
    run: Run,
    settings: Settings,
    layer: Annotated[int, LAYER],
    index: Annotated[int, INDEX],
    direction: Annotated[str, Parameter(description="downstream (later layers) or upstream (earlier ones)")] = "downstream",
    measure: Annotated[str, Parameter(description="the measure to rank by")] = "jaccard",
    k: Annotated[int | None, Parameter(description="how many, at most; 10, or what is published if that is fewer")] = None,
    rank: Annotated[
        str | None,
        Parameter(description="lower (bound) or estimate; by default lower where the measure has bounds"),
    ] = None,
    min_support: Annotated[int | None, Parameter(description="smallest joint count; the run's by default")] = None,
    max_staleness_ms: MaxStaleness = None,
) -> Response[NeighborsAnswer]:
    """The best features of the neighbouring layers by one measure.

    From the published snapshot (with its ETag) where `k` and `min_support` are within what is published, live from the engine else.
    """
    known_feature(run.description(), (layer, index))
    if max_staleness_ms is not None:
        if (newest := await views.snapshot()) is None:
            raise NotReady("the engine has not published a snapshot yet")
        await refuse_stale(views, newest, max_staleness_ms)
    support = settings.min_support if min_support is None else min_support
    found = await views.neighbors(
        layer,
        index,
        direction=direction,  # pyright: ignore[reportArgumentType]  (checked there)
        measure=measure,
        k=min(DEFAULT_K, settings.published_k) if k is None else k,
        min_support=support,
        rank=rank,
        published_k=settings.published_k,
        published_support=settings.min_support,
    )
    return answer(request, found, version=None if found.snapshot.version.startswith("live-") else found.snapshot.version)


def feature_answer(
    layer: LayerDescription,
    record: FeatureRecord,
    snapshot: Snapshot,
    pairs: list[tuple[int, int]],
    strongest: ContextAnswer | None,
    reason: str | None,
    hidden: list[HiddenAnswer],
    explanation: str | None,
) -> FeatureAnswer:
    """From a published record to the answer."""
    fired = record.max_position >= 0
    return FeatureAnswer(
        feature=f"{record.layer}:{record.index}",
        layer=record.layer,
        index=record.index,
        hook=layer.hook,
        neuronpedia=f"{NEURONPEDIA}/{layer.neuronpedia}/{record.index}" if layer.neuronpedia else None,
        explanation=explanation,
        tokens=record.tokens,
        threshold=record.threshold,
        count=record.count,
        density=record.count / record.tokens if record.tokens else None,
        max=record.max if fired else None,
        mean=record.sum / record.tokens if record.tokens else None,
        mean_active=record.sum / record.count if record.count and record.threshold == 0 else None,
        histogram=StrengthsAnswer(edges=STRENGTHS.tolist(), counts=record.histogram().tolist()),
        pairs=pairs,
        contexts=[ActivationAnswer(activation=value, log_position=position) for position, value in record.contexts().tolist()],
        strongest=strongest,
        strongest_reason=reason,
        hidden=hidden,
        snapshot=snapshot_answer(snapshot),
    )


ROUTES = [feature, contexts, neighbors]
