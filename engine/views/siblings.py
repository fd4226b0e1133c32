"""Which sibling groups are counted: the parents whose joint counts look like a specialisation, with their largest children.

Chosen where everything is chosen, at fixed places of the log (`engine.views.convergence`), from the joint counts there, which are
whole numbers: a replay chooses the same.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from engine.counts.siblings import Siblings
from kernels import SIBLINGS
from kernels.cpu.threads import run_each

if TYPE_CHECKING:
    from engine.counts.state import State

NECESSITY, COVERAGE = 0.7, 0.6
"""Of a group's children, each, and all of them by the sum of their joint counts. Below the defaults of the question (0.8 both), so
that it can be asked more widely: on the demo that makes 110 groups per layer pair instead of 37, and 0.3 µs a token."""

SHARE, MOST_SHARE = 0.05, 0.9
"""Of the parent's tokens, a child's: `engine.measures.specialization` takes no smaller child, and a larger one is the parent."""

SURE_NECESSITY, SURE_SHARE = 0.75, 0.07
"""A group goes on while it holds all children above these. With `NECESSITY` and `SHARE` themselves, children near them would make 5
groups in 100 begin anew at every choice of the demo, with these it is 1 to 2."""

MOST_GROUPS = 2_000
"""Per layer pair: 8 MB of cells. The demo has 800 in all six."""

MIN_SUPPORT = 10


def choose_siblings(state: State) -> None:
    """Choose anew from what is counted, for the segments to come."""
    counts = [part.count.cpu().numpy() for part in state.marginals]
    run_each([partial(_choose, state, part, counts[up], counts[down]) for (up, down), part in state.siblings.items()])


def _choose(state: State, part: Siblings, n_up: np.ndarray, n_down: np.ndarray) -> None:
    least = np.maximum(MIN_SUPPORT, np.ceil(SHARE * n_up)).astype(np.int64)
    most, covered = (np.ceil(share * n_up).astype(np.int64) for share in (MOST_SHARE, COVERAGE))
    needed = np.ceil(NECESSITY * n_down).astype(np.int64)
    parent, child, joint = state.pairs[part.place[0], part.place[1]].likely_children(least, most, needed, covered)
    order = np.lexsort((child, -joint, parent))  # a parent's largest children first
    parent, child, joint = parent[order], child[order], joint[order]
    sure = (joint >= SURE_NECESSITY * n_down[child]) & (joint >= SURE_SHARE * n_up[parent])
    firsts = np.flatnonzero(np.diff(parent, prepend=-1))
    ends = np.minimum(np.append(firsts[1:], len(parent)), firsts + SIBLINGS)
    children, about = child.tolist(), sure.tolist()
    found = [
        ((index, *sorted(children[first:end])), frozenset(itertools.compress(children[first:end], about[first:end])))
        for index, first, end in zip(parent[firsts].tolist(), firsts.tolist(), ends.tolist(), strict=True)
    ]
    found.sort(key=lambda one: -n_up[one[0][0]])  # most data first; of equal ones the smaller index, as they come
    part.choose([group for group, _ in found], [needed for _, needed in found], tokens=state.tokens, limit=MOST_GROUPS)
