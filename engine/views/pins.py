"""Pairs that are watched because someone asked for them: pinning more, and how far those are that were pinned."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.errors import BadValue, Unknown
from engine.views import answers
from engine.views.answers import live_snapshot, name, pair_names
from engine.views.corpus_answers import PinAnswer, PinnedAnswer, PinnedPair
from engine.views.watch import Pair, Watch

if TYPE_CHECKING:
    from engine.counts.state import State
    from engine.encoder.description import RunDescription


class NextSegment(NamedTuple):
    """The first segment of the log of which nothing is counted; `tokens` counted before it, None while that is not certain."""

    number: int
    tokens: int | None


class PinQueries:
    """Pins pairs of a running state, and answers about them."""

    def __init__(
        self,
        description: RunDescription,
        state: State,
        lock: threading.Lock,
        watch: Watch,
        next_segment: Callable[[], NextSegment],
    ) -> None:
        """
        Args:
            description: of the run.
            state: what is counted into.
            lock: held by the main loop while it counts, and while it goes on to another segment.
            watch: the run's pins.
            next_segment: called under the lock; may refuse with `NotReady`.
        """
        self._description = description
        self._state = state
        self._lock = lock
        self._watch = watch
        self._next_segment = next_segment

    def pin(self, pairs: Sequence[Pair]) -> PinAnswer:
        """Watch these pairs, from the first segment on of which nothing is counted: nobody can have chosen them for what is in it.

        On disk when this returns.

        Raises:
            BadValue: no pairs, or more than the limit leaves room for. Unknown: a feature or layer pair that the run does not have.
            NotReady: the loop counts again what it had counted before. StorageFault: the disk fails.
                None is pinned then.
        """
        if not pairs:
            raise BadValue("no pairs were given: name at least one pair of features to watch")
        layers = set(self._state.watched)
        for pair in pairs:
            for feature in (pair[:2], pair[2:]):
                if (error := answers.unknown(self._description, feature)) is not None:
                    raise error
            if (pair[0], pair[2]) not in layers:
                raise Unknown(
                    f"{name(pair[:2])} and {name(pair[2:])}: layers {pair[0]}→{pair[2]} are no layer pair of this run; it has "
                    f"{pair_names(list(self._state.watched))}"
                )
        with self._lock:  # the segment must not begin before the pin is on disk, or a replay of the log would count otherwise
            segment = self._next_segment()
            added = self._watch.pin(pairs, segment.number, segment.tokens)
            total = self._state.tokens
        return PinAnswer(
            added=added,
            known=len(set(pairs)) - added,
            pinned=len(self._watch.pinned),
            limit=self._watch.limit,
            counted_from=segment.tokens if added else None,
            snapshot=live_snapshot(total),
        )

    def pinned(self, after: Pair | None, limit: int) -> PinnedAnswer:
        """The pinned pairs behind a pair in order, or from the first on; at most so many."""
        behind = sorted(pair for pair in self._watch.pinned if after is None or pair > after)
        page = behind[:limit]
        since = self._watch.pinned_at(page)
        shown: dict[Pair, PinnedPair] = {}
        with self._lock:
            total = self._state.tokens
            for layers in dict.fromkeys((pair[0], pair[2]) for pair in page):
                chosen = [pair for pair in page if (pair[0], pair[2]) == layers]
                watched = self._state.watched[layers]
                rows = watched.find(np.array([pair[1] for pair in chosen]), np.array([pair[3] for pair in chosen]))
                tokens, documents = np.zeros(len(chosen), np.int64), np.zeros(len(chosen), np.int64)
                for moments in watched.corpora.values():
                    if len(watched):
                        found = moments.at(rows)
                        tokens += found.sums[:, 0].astype(np.int64)
                        documents += found.documents[:, 2]
                for at, (pair, row) in enumerate(zip(chosen, rows.tolist(), strict=True)):
                    shown[pair] = PinnedPair(
                        up=name(pair[:2]),
                        down=name(pair[2:]),
                        status="counting" if row >= 0 and watched.pinned[row] else "waiting",
                        counted_from=int(watched.counted_from[row]) if row >= 0 else since[pair],
                        tokens=int(tokens[at]),
                        documents=int(documents[at]),
                    )
        return PinnedAnswer(
            items=[shown[pair] for pair in page],
            pinned=len(self._watch.pinned),
            limit=self._watch.limit,
            next=f"{name(page[-1][:2])},{name(page[-1][2:])}" if len(behind) > limit else None,
            snapshot=live_snapshot(total),
        )
