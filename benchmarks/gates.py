"""Whether planted gates come back, and whether nothing else does: the recipe on streams whose gates are known.

    python -m benchmarks.gates [--quick] [--gain]

1. `planted`: `benchmarks.gate_streams` with label noise 0, 2 and 10 %, and with parents that share 30 % of their tokens, put through
   a `Finder`, some seeds each. Recall is taken over gates with at least 50 *deciding documents* after their candidates were chosen.
2. `nothing`: 100 streams of pure noise with topics, bursts and drift shared by both layers, and 100 of common causes: how often a
   gate is published at any place where choices are made.
3. The paper's own rule and plain description length stand beside it, on the same streams.
4. `--gain`: how often the interval of the gain ever misses, on documents of known gain.

False means: the child has no planted gate, or a reported parent is none of its parents. Everything is a function of fixed seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from benchmarks.gate_recipe import Finder, Gates, Recipe
from benchmarks.gate_streams import GateSpec, GateStream
from engine.measures.gate_candidates import paper_rule
from engine.measures.gate_tests import GATE, JOINT
from engine.measures.gates import AND_NOT, KINDS

DECIDING = 50


class Tally(NamedTuple):
    """One method on some streams.

    Attributes:
        eligible, found, right: by kind, planted gates with enough deciding documents, those of them that were published (every
            reported parent is one of theirs), and of these those of the right kind and order; int64 `[4]`.
        published, false: gates that were published at all, and those that are false.
        false_of: false ones by what the child is.
    """

    eligible: np.ndarray
    found: np.ndarray
    right: np.ndarray
    published: int
    false: int
    false_of: dict[str, int]

    def plus(self, other: Tally) -> Tally:
        names = {**self.false_of, **other.false_of}
        false_of = {name: self.false_of.get(name, 0) + other.false_of.get(name, 0) for name in names}
        sums = [mine + theirs for mine, theirs in zip(self[:5], other[:5], strict=True)]
        return Tally(*sums, false_of)


def tally(stream: GateStream, eligible: np.ndarray, gates: Gates) -> Tally:
    """Compares gates with what was planted.

    Args:
        stream: with the truth.
        eligible: bool per planted gate.
        gates: what is published, one or more of a child.
    """
    truth = {one.child: one for one in stream.planted}
    kind_of_child = {int(child): what for what, children in stream.without.items() for child in children}
    found, right, false_of, false = set(), set(), {}, 0
    for child, kind, parents in zip(gates.child.tolist(), gates.kind.tolist(), gates.parents.tolist(), strict=True):
        named = [parent for parent in parents if parent >= 0]
        planted = truth.get(child)
        if planted is None or not set(named) <= set(planted.parents):
            false += 1
            what = kind_of_child.get(child, f"parent of {KINDS[planted.kind]}" if planted else "")
            false_of[what] = false_of.get(what, 0) + 1
            continue
        found.add(child)
        same = tuple(named) == planted.parents if kind == AND_NOT else set(named) == set(planted.parents)
        if kind == planted.kind and same:
            right.add(child)
    of = [np.zeros(len(KINDS), np.int64) for _ in range(3)]
    for one, counts in zip(stream.planted, eligible, strict=True):
        if counts:
            of[0][one.kind] += 1
            of[1][one.kind] += one.child in found
            of[2][one.kind] += one.child in right
    return Tally(*of, len(gates.child), false, false_of)


class Run(NamedTuple):
    """A stream that has gone through: deciding documents of each planted gate after its choice, int64; the finder as it ended; and
    the most gates that were published at any place."""

    deciding: np.ndarray
    finder: Recipe
    most_published: int


def through(stream: GateStream, make: Callable[[int, int], Recipe] = Recipe) -> Run:
    """Puts a stream through a finder."""
    finder = make(stream.spec.up, stream.spec.down)
    chosen = np.full(len(stream.planted), -1, np.int64)
    any_chosen = np.full(len(stream.planted), -1, np.int64)
    tokens, most = 0, 0
    for segment in stream.segments():
        finder.add(segment)
        tokens += int(segment.lengths.sum())
        candidates = finder.candidates()
        for at, one in enumerate(stream.planted):
            mine = candidates[one.child]
            if any_chosen[at] < 0 and mine.max() >= 0:
                any_chosen[at] = tokens
            if chosen[at] < 0 and set(one.parents) <= set(mine.tolist()):
                chosen[at] = tokens
        most = max(most, int((finder.gates().verdict == GATE).sum()))
    after = np.where(chosen >= 0, chosen, np.maximum(any_chosen, 0))
    deciding = [stream.deciding_documents(one, int(since)) for one, since in zip(stream.planted, after, strict=True)]
    return Run(np.array(deciding, np.int64), finder, most)
