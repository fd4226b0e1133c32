"""Whether planted gates come back, and whether nothing else does: the recipe on streams whose gates are known.

    python -m benchmarks.gates [--quick] [--through engine|service|recipe] [--seeds N] [planted] [noise] [causes] [gain]

1. `planted`: `benchmarks.gate_streams` with label noise 0, 2 and 10 %, and with parents that share 30 % of their tokens or have
   nothing to do with each other, put through a `Finder`, some seeds each. Recall is taken over gates with at least 50 *deciding*
   documents after their candidates were chosen.
2. `noise`, `causes`: 100 smaller streams of pure noise with topics, bursts and drift shared by both layers, and 100 of common
   causes that their reports miss: in how many a gate is published after any segment.
3. The paper's own rule and plain description length stand beside it, on the same streams.
4. They go through the engine's own state (`benchmarks.gate_engine`), through a running server over HTTP (`benchmarks.gate_service`;
   only the planted ones), or through the plain recipe that the engine is held against.
5. `gain`: how often the interval of the gain ever misses (`benchmarks.gate_gain`).

False means: the child has no planted gate, or a reported parent is none of its parents. Everything is a function of fixed seeds.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
from scipy import sparse

from benchmarks import gate_gain, rows
from benchmarks.gate_engine import Engine
from benchmarks.gate_recipe import Finder, Gates, Recipe
from benchmarks.gate_service import Service
from benchmarks.gate_streams import GateSpec, GateStream
from engine.measures.gate_candidates import paper_rule
from engine.measures.gate_tests import GATE, JOINT
from engine.measures.gates import AND_NOT, KINDS, TWO_OF_THREE

log = logging.getLogger(__name__)

SETTINGS = {
    "2 % noise": {"label_noise": 0.02},
    "0 % noise": {"label_noise": 0.0},
    "10 % noise": {"label_noise": 0.1},
    "2 % noise, parents share 30 %": {"shared": 0.3},
    "2 % noise, parents apart": {"together": 0.0},
}
"""What is streamed, by name: fields of `GateSpec`."""

SMALL = GateSpec(tokens=200_000, up=300, down=300, gates=0, others=0, causes=0, segment=8192)
"""Small segments: the first places of choice come early, so most of the stream judges what was nominated."""
NOTHING = {"noise": SMALL, "causes": SMALL._replace(causes=60, misses_only=True)}

DECIDING = 50

FINDERS: dict[str, Callable[[int, int], Finder]] = {"engine": Engine, "service": Service, "recipe": Recipe}


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

    @property
    def by_kind(self) -> dict[str, list[int]]:
        """Eligible, found and right by kind."""
        return {kind: [int(part[at]) for part in self[:3]] for at, kind in enumerate(KINDS)}

    def plus(self, other: Tally) -> Tally:
        """Of the streams of both."""
        names = {**self.false_of, **other.false_of}
        false_of = {name: self.false_of.get(name, 0) + other.false_of.get(name, 0) for name in names}
        return Tally(
            self.eligible + other.eligible,
            self.found + other.found,
            self.right + other.right,
            self.published + other.published,
            self.false + other.false,
            false_of,
        )


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
    return Tally(of[0], of[1], of[2], len(gates.child), false, false_of)


class Run(NamedTuple):
    """A stream that has gone through.

    Attributes:
        deciding: int64, deciding documents of each planted gate after its parents were first candidates of its child together; if
            they never were, after the child was first given any, or all.
        disagreeing: the same of documents where gate and best parent disagree and the child agrees with the gate, of any kind.
        finder: as it ended.
        most: the most gates that were published after any segment; of those that were looked at.
    """

    deciding: np.ndarray
    disagreeing: np.ndarray
    finder: Finder
    most: int


def through(stream: GateStream, finder: Finder, every: bool) -> Run:
    """Puts a stream through a new finder of its dictionaries, and looks at its gates after every segment, or only in the end."""
    chosen, given = (np.full(len(stream.planted), -1, np.int64) for _ in range(2))
    tokens, most = 0, 0
    for segment in stream.segments():
        finder.add(segment)
        tokens += int(segment.lengths.sum())
        candidates = finder.candidates()
        for at, one in enumerate(stream.planted):
            mine = set(candidates[one.child].tolist()) - {-1}
            if given[at] < 0 and mine:
                given[at] = tokens
            if chosen[at] < 0 and set(one.parents) <= mine:
                chosen[at] = tokens
        if every or tokens == stream.tokens:
            most = max(most, int((finder.gates().verdict == GATE).sum()))
    after = np.where(chosen >= 0, chosen, np.maximum(given, 0))
    deciding, disagreeing = (
        [stream.documents_of(tokens, since) for tokens, since in zip(of, after.tolist(), strict=True)]
        for of in ([one.deciding for one in stream.planted], [one.disagreeing for one in stream.planted])
    )
    return Run(np.array(deciding, np.int64), np.array(disagreeing, np.int64), finder, most)


def methods(stream: GateStream, finder: Finder) -> Iterator[tuple[str, Gates]]:
    """What each method publishes at the end of a stream."""
    gates = finder.gates()
    yield "gates", gates.of(gates.verdict == GATE)
    yield "joint", gates.of(gates.verdict == JOINT)
    if isinstance(finder, Recipe):
        yield "description length", finder.by_description_length()
    up, down = (
        sparse.csr_array((np.ones(len(layer.features), np.int32), layer.features, layer.offsets), shape=(stream.tokens, size))
        for layer, size in zip(stream.layers, (stream.spec.up, stream.spec.down), strict=True)
    )
    for threshold in (0.999, 0.9):
        found = paper_rule((up.T @ down).toarray(), up.sum(axis=0), down.sum(axis=0), threshold)
        parents = np.concatenate([found.parents, np.full((len(found.child), 1), -1)], axis=1)
        yield f"paper's rule at {threshold}", Gates(found.child, found.kind, parents, np.full(len(found.child), GATE, np.uint8))


def planted_rows(
    seeds: int, spec: GateSpec, settings: Sequence[str], make: Callable[[int, int], Finder] = Engine
) -> list[dict[str, object]]:
    """A row for each setting and method, over all seeds."""
    new = []
    for name in settings:
        began, cpu = time.perf_counter(), time.process_time()
        total: dict[str, Tally] = {}
        by_disagreement, differing = None, None
        for seed in range(1, seeds + 1):
            stream = GateStream(spec._replace(seed=seed, **SETTINGS[name]))
            with ExitStack() as stack:
                finder = make(spec.up, spec.down)
                if isinstance(finder, Service):
                    stack.callback(finder.close)
                run = through(stream, finder, every=False)
                found = dict(methods(stream, finder))
                if isinstance(finder, Service):
                    differing = finder.differing() + (differing or 0)
            for method, gates in found.items():
                total[method] = _sum(total.get(method), tally(stream, run.deciding >= DECIDING, gates))
            by_disagreement = _sum(by_disagreement, tally(stream, run.disagreeing >= DECIDING, found["gates"]))
        timing = _timing(began, cpu)
        sizes = {"tokens": spec.tokens, "up": spec.up, "down": spec.down, "gates": spec.gates, "seeds": seeds}
        for method, one in total.items():
            log.info("%s", _line(name, method, one))
            more: dict[str, object] = {"published": one.published, "false": one.false, "false_of": one.false_of}
            if method == "gates" and by_disagreement is not None:
                of = KINDS[TWO_OF_THREE]
                more["eligible_found_right_by_disagreement"] = {of: by_disagreement.by_kind[of]}
                log.info("%s: of %s by disagreement: %s", name, of, by_disagreement.by_kind[of])
                if differing is not None:
                    more["gates_that_differ_from_engine"] = differing
                    log.info("%s: %d gates of the service and of the engine differ", name, differing)
            more |= {"eligible_found_right": one.by_kind, "through": _name(make)}
            new.append(rows.row("gates", f"{name}: {method}", sizes, timing, **more))
    return new


def nothing_row(what: str, seeds: range, make: Callable[[int, int], Finder] = Engine) -> dict[str, object]:
    """In how many streams without a gate each method publishes one: the recipe after any segment, the others at the end."""
    began, cpu = time.perf_counter(), time.process_time()
    streams: dict[str, int] = {}
    for seed in seeds:
        stream = GateStream(NOTHING[what]._replace(seed=seed))
        run = through(stream, make(stream.spec.up, stream.spec.down), every=True)
        published = {method: len(gates.child) for method, gates in methods(stream, run.finder)} | {"gates": run.most}
        for method, count in published.items():
            streams[method] = streams.get(method, 0) + (count > 0)
    log.info("%s: of %d streams with something published: %s", what, len(seeds), streams)
    sizes = {"tokens": SMALL.tokens, "up": SMALL.up, "down": SMALL.down, "streams": len(seeds), "first_seed": seeds.start}
    return rows.row("gates", what, sizes, _timing(began, cpu), through=_name(make), streams_with_a_gate=streams)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="planted|noise|causes|gain", help="what to run; all of it by default")
    parser.add_argument(
        "--quick", action="store_true", help="a seed and a setting, a stream of nothing, to see that it works; nothing is written"
    )
    parser.add_argument("--through", choices=list(FINDERS), default="engine", help="what the streams go through")
    parser.add_argument("--seeds", type=int, help="streams of each setting (3), and of noise and causes (100)")
    options = parser.parse_args()
    make = FINDERS[options.through]
    parts = options.parts or ["planted", *NOTHING, "gain"]
    if unknown := set(parts) - {"planted", *NOTHING, "gain"}:
        parser.error(f"there is no part {', '.join(unknown)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if options.through == "service" and set(parts) & set(NOTHING):
        parser.error("streams of nothing are small and many: they go through the engine or the recipe")
    spec = GateSpec(tokens=150_000) if options.quick else GateSpec()
    settings = list(SETTINGS)[: 1 if options.through == "service" or options.quick else None]
    for part in dict.fromkeys(parts):
        if part == "planted":
            found = planted_rows(options.seeds or (1 if options.quick else 3), spec, settings, make)
        elif part == "gain":
            found = gate_gain.coverage_rows(options.quick)
        else:
            found = [nothing_row(part, range(options.seeds or (1 if options.quick else 100)), make)]
        if not options.quick:
            rows.append(found)


def _sum(total: Tally | None, one: Tally) -> Tally:
    return one if total is None else total.plus(one)


def _line(setting: str, method: str, one: Tally) -> str:
    kinds = "  ".join(f"{kind} {one.found[at]}/{one.eligible[at]}" for at, kind in enumerate(KINDS))
    return (
        f"{setting}: {method}: {kinds}  kind right {one.right.sum()}/{one.found.sum()}  "
        f"false {one.false} of {one.published} {one.false_of}"
    )


def _name(make: Callable[[int, int], Finder]) -> str:
    return next(name for name, finder in FINDERS.items() if finder is make)


def _timing(began: float, cpu: float) -> rows.Timing:
    wall = time.perf_counter() - began
    return rows.Timing(wall, wall, wall, time.process_time() - cpu, 1)


if __name__ == "__main__":
    main()
