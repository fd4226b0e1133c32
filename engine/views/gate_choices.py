"""Which gates are looked for: candidate parents of every downstream feature, and the gates that are nominated from their tables.

At the fixed places of the log where choices are made, per layer pair:

1. **Nominations**, from tables that were counted since their candidates were chosen: hypotheses that describe a child in fewer bits
   than its best single parent (`engine.measures.gates.nominate`). From here on each is judged by what comes.
2. **Candidates** of the children that are due: those that have none, and those for which twice the tokens have been counted since.
   From the pair table, and from the segment that has just ended (`engine.measures.gate_candidates`). Other candidates than before
   begin a new table; gates that were nominated from the old one are judged on.

Both are functions of the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from engine.measures.convergence import DesignEffects, design_effect_of, design_effects
from engine.measures.gate_candidates import (
    DUPLICATE,
    LEADING,
    SIGNIFICANT,
    choose_parents,
)
from engine.measures.gate_nominations import MOST_LIVE, nominate
from engine.measures.gate_tests import gate_evidence
from engine.measures.gates import fits
from kernels import CandidateLists, Ranked, mask_jaccard, silencers
from kernels.cpu.threads import run_each

if TYPE_CHECKING:
    from engine.counts.clusters import SegmentClusters
    from engine.counts.gate_tables import GateTables
    from engine.counts.gates import NominatedGates
    from engine.counts.joint_table import JointTable
    from engine.counts.state import State

PROMISING = 1.0
"""log E of T1 from which on a gate keeps its place although the tables lead elsewhere."""

REVISE_AFTER = 2.0
"""Candidates of a child are chosen again when the tokens have grown this many times since, so half of all data judges a table."""

MOST_SILENCERS = 4
_EFFECT_CELLS = 1 << 18  # that the design effect of joint counts is taken from


def choose_gates(state: State, segment: Sequence[SegmentClusters], position: int) -> None:
    """Nominate, then choose candidates, in every layer pair.

    Args:
        state: all of it, at the end of a segment.
        segment: its clusters.
        position: of the next token in the log.
    """
    largest = max(segment, key=lambda part: part.tokens, default=None)
    run_each([partial(_choose, state, pair, largest, position) for pair in state.gates])


def _choose(state: State, pair: tuple[int, int], segment: SegmentClusters | None, position: int) -> None:
    tables, gates, table = state.gate_tables[pair], state.gates[pair], state.pairs[pair]
    effects = joint_effects(table, state.ledger.tokens_by_half)
    _nominate(tables, gates, effects, position, state.tokens)
    if segment is not None:
        _revise(state, pair, effects, segment)


def joint_effects(table: JointTable, tokens_by_half: Sequence[int] | np.ndarray) -> DesignEffects:
    """Design effects of joint counts by their size, from the halves of a sample of the table's cells."""
    sample = table.sample(_EFFECT_CELLS)
    return design_effects(sample[:, 0], sample[:, 1], *tokens_by_half)


def effect_of(effects: DesignEffects, counts: np.ndarray) -> np.ndarray:
    """float64, the design effect of each count; 1 where it is not known."""
    return np.nan_to_num(design_effect_of(effects, counts), nan=1.0)


def _nominate(tables: GateTables, gates: NominatedGates, effects: DesignEffects, position: int, tokens: int) -> None:
    children = np.flatnonzero(tables.candidates >= 2)
    if not len(children):
        return
    cells = tables.cells.cpu().numpy()[children]
    effect = effect_of(effects, cells[:, cells.shape[1] // 2 :].sum(axis=1))
    fit = fits(cells, tokens - tables.counted_from[children], tables.candidates[children], 1.0 / effect)
    row = np.full(len(tables.parents), -1)
    row[children] = np.arange(len(children))
    live = (row[gates.children], gates.number)
    kind, parents = np.full((len(children), MOST_LIVE), -1), np.full((len(children), MOST_LIVE, 3), -1)
    promising = np.zeros((len(children), MOST_LIVE), bool)
    kind[live], parents[live] = gates.kinds, gates.parents
    promising[live] = gate_evidence(gates.kinds, gates.totals.log_e)[1] > PROMISING
    found = nominate(fit, tables.parents[children], kind, parents, promising, gates.nominations[children])
    if len(found.child):
        of = children[found.child]
        gates.nominate(of, found.place, found.kind, found.parents, found.best, position=position, tokens=tokens)


def _revise(state: State, pair: tuple[int, int], effects: DesignEffects, segment: SegmentClusters) -> None:
    up, down = pair
    tables, tokens = state.gate_tables[pair], state.tokens
    up_count, down_count = (state.marginals[layer].count.cpu().numpy() for layer in pair)
    due = (tokens >= REVISE_AFTER * tables.counted_from) | (tables.candidates < 2)
    due = np.flatnonzero(due & (down_count > SIGNIFICANT))  # one with fewer tokens is far from independence with nothing
    if not len(due):
        return
    ranked = _ranked(state.pairs[pair], up_count, down_count, due, tokens, effects)
    upstream, downstream = segment.layers[up], segment.layers[down]
    limits = state.shape.thresholds[up]
    silent = silencers(
        segment.order,
        upstream.entries,
        None if limits is None else limits.cpu().numpy(),
        upstream.runs,
        downstream.runs,
        ranked.necessity[:, 0],
        due,
        SIGNIFICANT,
        MOST_SILENCERS,
    )
    ranked = ranked._replace(inhibition=np.concatenate([silent, ranked.inhibition], axis=1))
    m = tables.parents.shape[1]
    chosen = choose_parents(ranked, m, lambda first, second: mask_jaccard(upstream.masks, first, second) >= DUPLICATE)
    other = (np.sort(chosen, axis=1) != np.sort(tables.parents[due], axis=1)).any(axis=1)
    tables.choose(due[other], chosen[other], tokens)


def _ranked(table: JointTable, up: np.ndarray, down: np.ndarray, due: np.ndarray, tokens: int, effects: DesignEffects) -> Ranked:
    lists = CandidateLists(up, down, due, tokens, effects.effect, SIGNIFICANT, LEADING)
    table.offer_candidates(lists)
    return lists.ranked
