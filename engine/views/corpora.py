"""Statistics of single corpora, and what differs most between two of them, from the running state.

Under the lock that counting holds arrays are only copied; intervals and rankings over all features or watched pairs, some 0.1 s
for 300,000 features, are computed outside of it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.errors import Unknown
from engine.measures import PairCounts, drift, estimates, intervals
from engine.measures.drift import Comparison, RatioIntervals, RatioMoments
from engine.measures.intervals import ALPHA, N_STAR, Intervals
from engine.measures.moments import SUMS, Moments
from engine.measures.pair_counts import reason as why_undefined
from engine.views import answers
from engine.views.answers import live_snapshot, name, pair_names
from engine.views.corpus_answers import (
    CompareAnswer,
    ComparedCorpus,
    CompareEdgesAnswer,
    CorpusFeatureAnswer,
    DifferenceAnswer,
    EdgeDifference,
    FeatureDifference,
    RatioAnswer,
)
from engine.views.lists import MOST_ITEMS, Made

if TYPE_CHECKING:
    from engine.counts.corpora import CorpusSums
    from engine.counts.state import State
    from engine.encoder.description import RunDescription


class _Corpus(NamedTuple):
    """Columns of one corpus: `clusters` int64 `[3]` (how many, Σ T, Σ T²), the others int64 `[F]`, layer by layer."""

    clusters: np.ndarray
    count: np.ndarray
    with_tokens: np.ndarray
    squares: np.ndarray

    @property
    def moments(self) -> RatioMoments:
        """Of the densities."""
        documents, tokens, tokens_squared = self.clusters
        return RatioMoments(self.count, tokens, self.squares, self.with_tokens, tokens_squared, documents)

    def described(self, corpus: str) -> ComparedCorpus:
        """What of it is covered."""
        return ComparedCorpus(name=corpus, tokens=int(self.clusters[1]), documents=int(self.clusters[0]))


class CorpusQueries:
    """Answers about the corpora of a running state."""

    def __init__(self, description: RunDescription, state: State, lock: threading.Lock) -> None:
        self._description = description
        self._state = state
        self._lock = lock

    def feature(self, feature: tuple[int, int], corpus: str) -> CorpusFeatureAnswer:
        """The counts of a feature in one corpus; zeros for one of which nothing is counted.

        Raises:
            Unknown: a feature that the run does not have.
        """
        if (error := answers.unknown(self._description, feature)) is not None:
            raise error
        layer, index = feature
        with self._lock:
            total = self._state.tokens
            found = self._columns([layer], corpus, slice(index, index + 1))
            sums = self._state.corpora[layer].corpora.get(corpus)
            active, mass = (int(sums.documents[index]), float(sums.sum[index])) if sums else (0, 0.0)
        thresholds = self._state.shape.thresholds[layer]
        threshold = 0.0 if thresholds is None else float(thresholds[index])
        density = drift.density_intervals(found.moments, ALPHA, N_STAR)
        tokens, count = int(found.clusters[1]), int(found.count[0])
        return CorpusFeatureAnswer(
            feature=name(feature),
            layer=layer,
            index=index,
            hook=self._description.layers[layer].hook,
            corpus=corpus,
            threshold=threshold,
            tokens=tokens,
            documents=int(found.clusters[0]),
            documents_active=active,
            count=count,
            density=_number(density.estimate[0]),
            density_interval=_density(found, corpus, density, 0),
            mean=mass / tokens if tokens else None,
            mean_active=mass / count if count and threshold == 0 else None,
            reason=None if tokens else _nothing(corpus),
            snapshot=live_snapshot(total),
        )

    def compare(self, a: str, b: str, layer: int | None) -> tuple[CompareAnswer, Made[FeatureDifference]]:
        """Features of a layer, or of all (None), by how much their densities in two corpora differ: the answer, and its items.

        Args:
            a, b: corpora; one of which nothing is counted has no densities.
            layer: index.

        Raises:
            Unknown: a layer that the run does not have.
        """
        layers = range(len(self._state.shape.dictionaries)) if layer is None else [layer]
        if layer is not None and (error := answers.unknown(self._description, (layer, 0))) is not None:
            raise error
        with self._lock:
            total = self._state.tokens
            first, second = (self._columns(layers, corpus) for corpus in (a, b))
        family = len(first.count)
        one, other, difference = drift.compare_densities(first.moments, second.moments, ALPHA, N_STAR, family=family)
        answer = CompareAnswer(
            a=first.described(a),
            b=second.described(b),
            layer=layer,
            alpha=ALPHA,
            family=family,
            different=int(np.count_nonzero(difference.distance > 0)),
            items=[],
            next=None,
            snapshot=live_snapshot(total),
        )
        order = drift.most_different(difference)[:MOST_ITEMS]
        starts = np.cumsum([0, *(self._state.shape.dictionaries[at] for at in layers)])
        place = np.searchsorted(starts, order, side="right") - 1
        names = [name((layers[at], index)) for at, index in zip(place.tolist(), (order - starts[place]).tolist(), strict=True)]
        first, second = (corpus._replace(count=corpus.count[order]) for corpus in (first, second))
        one, other = (RatioIntervals(*(column[order] for column in found)) for found in (one, other))
        difference = Comparison(*(column[order] for column in difference))

        def item(at: int) -> FeatureDifference:
            sides = _density(first, a, one, at), _density(second, b, other, at)
            return FeatureDifference(feature=names[at], a=sides[0], b=sides[1], difference=_difference(difference, at, *sides))

        return answer, Made(len(order), item)

    def compare_edges(self, a: str, b: str, pair: tuple[int, int], measure: str) -> tuple[CompareEdgesAnswer, Made[EdgeDifference]]:
        """Watched pairs of a layer pair by how much a measure in two corpora differs; arguments as in `compare`.

        Raises:
            Unknown: a layer pair that the run does not have. BadValue: a measure without intervals.
        """
        if pair not in self._state.watched:
            raise Unknown(
                f"layers {pair[0]}→{pair[1]} are no layer pair of this run; it has {pair_names(list(self._state.watched))}"
            )
        with self._lock:
            total = self._state.tokens
            watched = self._state.watched[pair]
            up, down, counted_from = watched.up.copy(), watched.down.copy(), watched.counted_from.copy()
            both = [Moments(part.sums, part.squares, part.documents) for part in map(watched.moments, (a, b))]
            corpora = [self._columns([pair[0]], corpus, slice(0)).described(corpus) for corpus in (a, b)]
        family = len(up)
        found = [intervals.intervals(part, [measure], ALPHA / (2 * max(1, family)), N_STAR)[measure] for part in both]
        values = [estimates(_counts(part), [measure])[measure] for part in both]
        ratios = [RatioIntervals(v, x.lower, x.upper, x.effective) for v, x in zip(values, found, strict=True)]
        difference = drift.compare(*ratios)
        answer = CompareEdgesAnswer(
            a=corpora[0],
            b=corpora[1],
            up=pair[0],
            down=pair[1],
            measure=measure,
            alpha=ALPHA,
            family=family,
            different=int(np.count_nonzero(difference.distance > 0)),
            items=[],
            next=None,
            snapshot=live_snapshot(total),
        )
        order = drift.most_different(difference)[:MOST_ITEMS]
        up, down, counted_from = up[order], down[order], counted_from[order]
        both, found = [part.of(order) for part in both], [one.of(order) for one in found]
        values, difference = [value[order] for value in values], Comparison(*(column[order] for column in difference))

        def item(at: int) -> EdgeDifference:
            names = name((pair[0], int(up[at]))), name((pair[1], int(down[at])))
            sides = [
                _edge(corpus, measure, part, one, float(value[at]), at, names)
                for corpus, part, one, value in zip((a, b), both, found, values, strict=True)
            ]
            return EdgeDifference(
                up=names[0],
                down=names[1],
                counted_from=int(counted_from[at]),
                a=sides[0],
                b=sides[1],
                difference=_difference(difference, at, sides[0], sides[1]),
            )

        return answer, Made(len(order), item)

    def _columns(self, layers: Sequence[int], corpus: str, features: slice = slice(None)) -> _Corpus:
        """Copies of the sums of a corpus; call it under the lock."""
        parts: list[CorpusSums | None] = [self._state.corpora[layer].corpora.get(corpus) for layer in layers]
        columns = []
        for column in ("count", "with_tokens", "squares"):
            found = []
            for layer, part in zip(layers, parts, strict=True):
                empty = np.zeros(self._state.shape.dictionaries[layer], np.int64)
                found.append((empty if part is None else getattr(part, column))[features])
            columns.append(np.concatenate(found))
        clusters = next((part.clusters.copy() for part in parts if part is not None), np.zeros(3, np.int64))
        return _Corpus(clusters, *columns)


def _density(corpus: _Corpus, named: str, found: RatioIntervals, at: int) -> RatioAnswer:
    documents, tokens = int(corpus.clusters[0]), int(corpus.clusters[1])
    effective, lower = _number(found.effective_documents[at]), _number(found.lower[at])
    if not tokens:
        reason = _nothing(named)
    elif lower is None:
        reason = (
            f"corpus {named!r} has {documents:,} documents that have ended and weigh as {effective or 0:.1f} equal ones; an "
            f"interval needs {drift.FEWEST_DOCUMENTS} that weigh as {drift.FEWEST_EFFECTIVE}"
        )
    else:
        reason = None
    return RatioAnswer(
        estimate=_number(found.estimate[at]),
        lower=lower,
        upper=_number(found.upper[at]),
        status="insufficient" if lower is None else "ok",
        count=int(corpus.count[at]),
        of=tokens,
        tokens=tokens,
        documents=documents,
        effective_documents=effective,
        reason=reason,
    )


def _edge(
    corpus: str, measure: str, moments: Moments, found: Intervals, value: float, at: int, names: tuple[str, str]
) -> RatioAnswer:
    """One pair in one corpus."""
    sums = dict(zip(SUMS, moments.sums[at].tolist(), strict=True))
    up, down = (f"feature {one}" for one in names)
    one, reason = found.of(np.asarray(at)), None
    if not sums["tokens"]:
        reason = "no document that began behind the place where the pair was chosen has ended yet"
    elif not math.isfinite(value):
        reason = why_undefined(measure, _counts(moments.of(np.asarray(at))), up, down)
    elif not one.sufficient:
        reason = intervals.why_insufficient(measure, one, up, down)
    of = {"jaccard": sums["up"] + sums["down"] - sums["joint"], "sufficiency": sums["up"], "necessity": sums["down"]}.get(measure)
    return RatioAnswer(
        estimate=_number(value),
        lower=_number(one.lower),
        upper=_number(one.upper),
        status="ok" if one.sufficient else "insufficient",
        count=None if of is None else int(sums["joint"]),
        of=None if of is None else int(of),
        tokens=int(sums["tokens"]),
        documents=int(one.documents),
        effective_documents=_number(one.effective),
        reason=None if reason is None else f"corpus {corpus!r}: {reason}",
    )


def _difference(found: Comparison, at: int, a: RatioAnswer, b: RatioAnswer) -> DifferenceAnswer:
    lower = _number(found.lower[at])
    return DifferenceAnswer(
        estimate=_number(found.difference[at]),
        lower=lower,
        upper=_number(found.upper[at]),
        status="insufficient" if lower is None else "ok",
        reason="; ".join(side.reason for side in (a, b) if side.reason is not None) or None,
    )


def _counts(moments: Moments) -> PairCounts:
    """The same sums as counts of pairs; SUMS and `PairCounts` list them in one order."""
    return PairCounts(*np.moveaxis(moments.sums, -1, 0))


def _nothing(corpus: str) -> str:
    return f"no document of corpus {corpus!r} is counted to its end yet: its sums grow where segments of the log end"


def _number(value: float | np.ndarray) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
