"""Look-ups in the running tables: any pair of features, and rankings of whole rows or columns.

Each takes the lock that counting holds, copies the cells that it needs (0.1–6 ms), and is computed outside of it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import BadValue, Unknown
from engine.measures import PairCounts
from engine.views import answers
from engine.views.answers import NeighborsAnswer, SimilarityAnswer, live_snapshot, name, no_table, pair_names
from engine.views.decoder import DecoderCosines
from engine.views.effects import Effects
from engine.views.intervals import interval_rows
from engine.views.neighbor_rows import NeighborRows, OneSide
from engine.views.ranking import may_be_missing
from engine.views.records import NEIGHBOR
from engine.views.requests import NeighborsRequest, SimilarityRequest

if TYPE_CHECKING:
    from engine.counts.state import State
    from engine.counts.watched import Watched
    from engine.encoder.description import RunDescription


class TableQueries:
    """Answers from a run's tables."""

    def __init__(
        self, description: RunDescription, state: State, lock: threading.Lock, cosines: DecoderCosines, effects: Effects
    ) -> None:
        """
        Args:
            description: of the run.
            state: what is counted into, always under `lock`.
            lock: held while the state is counted into.
            cosines: of the decoder directions; effects: design effects, kept up to date by the loop.
        """
        self._description = description
        self._state = state
        self._lock = lock
        self._cosines = cosines
        self._effects = effects

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
            cell = table.at(np.array([up[1]]), np.array([down[1]]))
            row = watched.find(np.array([up[1]]), np.array([down[1]]))
            interval = interval_rows(watched, row, request.corpus)[0] if row[0] >= 0 else None
            if request.corpus is not None:
                sums = self._corpus_sums(watched, int(row[0]), request)
        cosine = self._cosines.of_pairs(*pair, np.array([up[1]]), np.array([down[1]]))
        if request.corpus is not None:
            tokens, n_i, n_j, joint = (int(value) for value in sums[:4])
            a, b, aa, bb, product = sums[4:].tolist()
            error = 0
        else:
            n_i, n_j, a, b, aa, bb = one.count, other.count, one.sum, other.sum, one.sum_of_squares, other.sum_of_squares
            joint, product = int(cell.joint[0]), float(cell.products[0])
            error = int(may_be_missing(cell.errors, cell.joint, int(n_i), int(n_j))[0])
        counts = PairCounts(tokens, n_i, n_j, joint, a, b, aa, bb, product, float(cosine[0]), error)
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
            tables = [self._rows(pair, feature[1], int(own.count), downstream, request.min_support) for pair in pairs]
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

    def _rows(self, pair: tuple[int, int], index: int, count: int, downstream: bool, min_support: int) -> NeighborRows:
        """A row or column of a pair table, of a feature that was active so often: cells with the support only."""
        table, watched = self._state.pairs[pair], self._state.watched[pair]
        cells = table.line(index, downstream=downstream, min_support=min_support)
        chosen = cells.down if downstream else cells.up
        layer = pair[1 if downstream else 0]
        marginals = self._state.marginals[layer]
        by_half = marginals.by_half.cpu().numpy()[chosen]
        rows = np.empty(len(chosen), NEIGHBOR)
        rows["index"] = chosen
        rows["joint"], rows["joint_a"], rows["product"] = cells.joint, cells.counts[:, 0], cells.products
        rows["count"], rows["count_a"] = by_half.sum(axis=1), by_half[:, 0]
        for column in ("sum", "sum_of_squares"):
            rows[column] = getattr(marginals, column).cpu().numpy()[chosen]
        rows["effect"] = self._effects.ratios(pair, rows["joint"])
        rows["rate_effect"] = self._effects.rates[layer][chosen]
        own = np.full(len(chosen), index)
        found = watched.find(*((own, chosen) if downstream else (chosen, own)))
        intervals = interval_rows(watched, found[found >= 0])
        intervals["index"] = chosen[found >= 0]
        errors = may_be_missing(cells.errors, cells.joint, count, rows["count"])
        unlisted = int(table.unlisted(downstream)[index])
        return NeighborRows(layer, rows, intervals, len(marginals.by_half), errors, unlisted)

    def _marginal(self, feature: tuple[int, int]) -> OneSide:
        layer, index = feature
        part = self._state.marginals[layer]
        half_a, half_b = part.by_half[index].tolist()
        effect = float(self._effects.rates[layer][index])
        return OneSide(half_a + half_b, float(part.sum[index]), float(part.sum_of_squares[index]), half_a, effect)

    def _check(self, feature: tuple[int, int]) -> None:
        if (error := answers.unknown(self._description, feature)) is not None:
            raise error
