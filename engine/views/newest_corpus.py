"""What the newest corpus changes: its watched pairs and its features against those of all other corpora together.

Lists before it came can't be compared with lists now, for the pair tables don't keep apart what came when. What is kept by corpus
is the moments of watched pairs and of features, and these are compared, with intervals that stay valid although they are read at
every point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.counts.corpora import CorpusSums
from engine.counts.watched import PairMoments
from engine.measures.drift import Comparison, RatioIntervals, RatioMoments, compare, compare_densities, most_different
from engine.measures.intervals import ALPHA, N_STAR, intervals
from engine.measures.moments import Moments
from engine.views.records import ChangedPair, DriftRecord, LayerDrift, PairDrift

if TYPE_CHECKING:
    from engine.counts.corpora import CorpusMarginals
    from engine.counts.state import State
    from engine.counts.watched import Watched

MOST_CHANGED = 10


def drift_of(state: State, newest: str) -> DriftRecord:
    """Compare one corpus with all others.

    Args:
        state: what is counted.
        newest: name of the corpus.
    """
    sums = state.corpora[0].corpora.get(newest)
    return DriftRecord(
        corpus=newest,
        tokens=0 if sums is None else int(sums.clusters[1]),
        layers=[_layer(part, newest) for part in state.corpora],
        pairs=[_pair(part, newest) for part in state.watched.values()],
    )


def _layer(part: CorpusMarginals, newest: str) -> LayerDrift:
    features = part.shape.dictionaries[part.place[0]]
    first, second = CorpusSums.zero(features), CorpusSums.zero(features)
    for corpus in sorted(part.corpora):
        (first if corpus == newest else second).add(part.corpora[corpus])
    _, _, comparison = compare_densities(_densities(first), _densities(second), ALPHA, N_STAR)
    known = ~np.isnan(comparison.distance) & (first.count + second.count > 0)
    return LayerDrift(compared=int(np.count_nonzero(known)), changed_share=_changed_share(comparison, known))


def _densities(sums: CorpusSums) -> RatioMoments:
    clusters, tokens, squared_tokens = sums.clusters
    return RatioMoments(a=sums.count, u=tokens, aa=sums.squares, au=sums.with_tokens, uu=squared_tokens, documents=clusters)


def _pair(part: Watched, newest: str) -> PairDrift:
    first, second = PairMoments.zero(len(part)), PairMoments.zero(len(part))
    for corpus in sorted(part.corpora):
        (first if corpus == newest else second).add(part.corpora[corpus])
    if not len(part):
        return PairDrift(compared=0, changed_share=None, most_changed=[])
    comparison = compare(*(_jaccard(moments, ALPHA / 2) for moments in (first, second)))
    known = ~np.isnan(comparison.distance)
    # Those that differ most were picked for it: only an interval that holds for all watched pairs together holds for them.
    jaccards = [_jaccard(moments, ALPHA / (2 * len(part))) for moments in (first, second)]
    together = compare(*jaccards)
    picked = most_different(together)[:MOST_CHANGED]
    return PairDrift(
        compared=int(np.count_nonzero(known)),
        changed_share=_changed_share(comparison, known),
        most_changed=[
            ChangedPair(
                up=int(part.up[at]),
                down=int(part.down[at]),
                newest=float(jaccards[0].estimate[at]),
                others=float(jaccards[1].estimate[at]),
                difference=float(together.difference[at]),
                lower=float(together.lower[at]),
                upper=float(together.upper[at]),
            )
            for at in picked[together.distance[picked] > 0].tolist()
        ],
    )


def _jaccard(moments: PairMoments, alpha: float) -> RatioIntervals:
    found = intervals(Moments(moments.sums, moments.squares, moments.documents), ("jaccard",), alpha, N_STAR)["jaccard"]
    return RatioIntervals(found.estimate, found.lower, found.upper, found.effective)


def _changed_share(comparison: Comparison, known: np.ndarray) -> float | None:
    return float(np.mean(comparison.distance[known] > 0)) if known.any() else None
