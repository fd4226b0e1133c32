"""The paper's rule for gates on the running pair counts, for comparison with what is shown.

The table is gone through some columns at a time, each under the lock that counting holds: the counts of one child are of one state,
those of two children may be some micro-batches apart.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import Conflict, Unknown
from engine.measures.gate_candidates import paper_rule
from engine.measures.gates import AND, KINDS
from engine.views.answers import live_snapshot, name, pair_names
from engine.views.gate_answers import PaperGateAnswer, PaperGatesAnswer, PaperParentAnswer
from engine.views.lists import MOST_ITEMS

if TYPE_CHECKING:
    from engine.counts.state import State

_BLOCK_CELLS = 1 << 22  # looked at at a time: counting waits some 30 ms for them


class PaperQueries:
    """Answers about a run's state."""

    def __init__(self, state: State, lock: threading.Lock) -> None:
        """The state, and the lock that is held while it is counted into."""
        self._state = state
        self._lock = lock

    def gates(self, pair: tuple[int, int], threshold: float) -> tuple[PaperGatesAnswer, list[PaperGateAnswer]]:
        """The answer, and its items by child.

        Raises:
            Unknown: not a layer pair of the run. BadValue: threshold out of range. Conflict: its table has dropped pairs.
        """
        if pair not in self._state.pairs:
            known = pair_names(list(self._state.pairs))
            raise Unknown(f"layers {pair[0]}→{pair[1]} are no layer pair of this run; it has {known}")
        table = self._state.pairs[pair]
        with self._lock:
            exact = table.exact
        if not exact:
            raise Conflict(
                f"layers {pair[0]}→{pair[1]} have a bounded table (--memory-budget), which does not hold every pair of features: "
                "the paper's rule needs them all"
            )
        up, down = (self._state.marginals[layer] for layer in pair)
        sizes = len(up.by_half), len(down.by_half)
        everyone, step = np.arange(sizes[0]), max(1, _BLOCK_CELLS // sizes[0])
        items: list[PaperGateAnswer] = []
        by_kind, live, tokens = [0, 0], 0, 0
        for first in range(0, sizes[1], step):
            with self._lock:
                tokens = self._state.tokens
                n_i, n_j = up.count.cpu().numpy(), down.count.cpu().numpy()[first : first + step]
                joint = table.block(everyone, np.arange(first, min(first + step, sizes[1])))
            found = paper_rule(joint, n_i, n_j, threshold)
            live += int((n_j > 0).sum())
            for kind in range(2):
                by_kind[kind] += int((found.kind == kind).sum())
            for at in range(min(len(found.child), MOST_ITEMS - len(items))):
                child, kind, parents = int(found.child[at]), int(found.kind[at]), found.parents[at].tolist()
                told = [
                    PaperParentAnswer(
                        feature=name((pair[0], parent)),
                        count=int(n_i[parent]),
                        joint=int(joint[parent, child]),
                        estimate=float(joint[parent, child] / (n_j[child] if kind == AND else n_i[parent])),
                    )
                    for parent in parents
                ]
                items.append(
                    PaperGateAnswer(
                        child=name((pair[1], first + child)),
                        kind=KINDS[kind],  # pyright: ignore[reportArgumentType]  (one of these two)
                        count=int(n_j[child]),
                        parents=told,
                    )
                )
        answer = PaperGatesAnswer(
            rule="paper_rule",
            threshold=threshold,
            pair=pair,
            ands=by_kind[0],
            ors=by_kind[1],
            live=live,
            total=sum(by_kind),
            items=[],
            next=None,
            snapshot=live_snapshot(tokens),
        )
        return answer, items
