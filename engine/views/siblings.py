"""Which sibling groups are counted: the parents whose joint counts look like a specialisation, with their largest children.

Chosen where everything is chosen, at fixed places of the log (`engine.views.convergence`), from the joint counts there, which are
whole numbers: a replay chooses the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from engine.counts.siblings import Group, Siblings
from kernels import SIBLINGS
from kernels.cpu.threads import run_each

if TYPE_CHECKING:
    from engine.counts.pairs import PairTable
    from engine.counts.state import State

NECESSITY, COVERAGE = 0.7, 0.6
"""Of a group's children, each, and all of them by the sum of their joint counts. Below the defaults of the question (0.8 both), so
that it can be asked more widely: on the demo that makes 110 groups per layer pair instead of 37, and 0.26 µs a token."""

SHARE, MOST_SHARE = 0.05, 0.9
"""Of the parent's tokens, a child's: `engine.measures.specialization` takes no smaller child, and a larger one is the parent."""

SURE_NECESSITY, SURE_SHARE = 0.75, 0.07
"""A group goes on while it holds all children above these. With `NECESSITY` and `SHARE` themselves, children near them would make 5
groups in 100 begin anew at every choice of the demo, with these it is 1 to 2."""

MOST_GROUPS = 2_000
"""Per layer pair: 8 MB of cells. The demo has 664 in all six."""

MIN_SUPPORT = 10

_BLOCK_CELLS = 1 << 20


def choose_siblings(state: State) -> None:
    """Choose anew from what is counted, for the segments to come."""
    counts = [part.count.cpu().numpy() for part in state.marginals]
    run_each([partial(_choose, state, part, counts[up], counts[down]) for (up, down), part in state.siblings.items()])


def _choose(state: State, part: Siblings, n_up: np.ndarray, n_down: np.ndarray) -> None:
    table = state.pairs[part.place[0], part.place[1]]
    found: list[tuple[int, Group, frozenset[int]]] = []
    for parent, children, joint in _candidates(table, n_up, n_down):
        if len(children) < 2 or joint.sum() < COVERAGE * n_up[parent]:
            continue
        order = np.lexsort((children, -joint))[:SIBLINGS]
        children, joint = children[order], joint[order]
        sure = (joint >= np.ceil(SURE_NECESSITY * n_down[children])) & (joint >= np.ceil(SURE_SHARE * n_up[parent]))
        found.append((int(n_up[parent]), (parent, *sorted(children.tolist())), frozenset(children[sure].tolist())))
    found.sort(key=lambda one: (-one[0], one[1]))  # most data first
    part.choose([group for _, group, _ in found], [sure for _, _, sure in found], tokens=state.tokens, limit=MOST_GROUPS)


def _candidates(table: PairTable, n_up: np.ndarray, n_down: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(parent, children int64, joint counts int64) of every upstream feature that has a child, block by block of the table."""
    device = table.counts.device
    least_up = torch.from_numpy(np.maximum(MIN_SUPPORT, np.ceil(SHARE * n_up)).astype(np.int64)).to(device)
    most_up = torch.from_numpy(np.ceil(MOST_SHARE * n_up).astype(np.int64)).to(device)
    least_down = torch.from_numpy(np.ceil(NECESSITY * n_down).astype(np.int64)).to(device)
    for block in table.blocks_of(max(1, _BLOCK_CELLS // len(n_down))):
        halves = table.counts[block]
        joint = halves[:, :, 0] + halves[:, :, 1]
        children = (joint >= least_up[block, None]) & (joint < most_up[block, None]) & (joint >= least_down)
        rows, columns = children.nonzero(as_tuple=True)
        counts = joint[rows, columns].cpu().numpy()
        rows, columns = rows.cpu().numpy() + block.start, columns.cpu().numpy()
        for group in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows)) + 1) if len(rows) else ():
            yield int(rows[group[0]]), columns[group], counts[group]
