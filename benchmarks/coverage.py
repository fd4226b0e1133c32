"""How often intervals that are read again and again miss the truth, on streams of dependent data whose truth is known.

    python -m benchmarks.coverage [--quick] [--sums]

1. A setting is the rate of two features, how often they fire together (their Jaccard index) and how much a document repeats itself
   (intra-document correlation, ICC). 60 settings: rate 0.002–0.2, ratio 0.005–0.99, ICC 0.02–0.3.
2. In each, many pairs of features are streamed, document by document (`benchmarks.streams`); their truth is known.
3. The real state takes each batch in (`benchmarks.state_sums`); after each the intervals are read, and beside them what a reader
   might use instead: Wald's interval of independent tokens and of documents, the sequence without pseudo-documents, and the bounds
   from counts alone. `--sums` puts the definition of the moments (`ClusterSums`) in the place of the state.
4. A pair is missed if any of its readings missed. Readings count from the first at which the interval exists, for every method.

Everything is a function of fixed seeds.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from benchmarks import rows
from benchmarks.state_sums import StateSums
from benchmarks.streams import Accumulator, ClusterSums, Setting, Stream
from engine.measures.intervals import MEASURES, Intervals, intervals, sequence_width, standard_error
from engine.measures.moments import PACKED, SUMS, Moments
from kernels import bounds, pearson_bounds

log = logging.getLogger(__name__)

RATES = (0.002, 0.01, 0.05, 0.2)
RATIOS = (0.005, 0.1, 0.5, 0.9, 0.99)
ICCS = (0.02, 0.1, 0.3)
Z = 1.959963984540054
FEWEST_STREAMS = 150
"""A worst setting is looked for only among those with as many pairs that had an interval: 10 % of 150 is known to ± 2.4 %."""

METHODS = ("interval", "plain sequence", "clustered Wald", "token Wald", "heuristic")
BETWEEN = (0.03, 0.97)
WIDE_DOCUMENTS, WIDE_EFFECTIVE = 300, 50
"""Widths are promised for ratios in `BETWEEN` from so many documents on."""


class Coverage(NamedTuple):
    """One measure in one setting.

    Attributes:
        streams: pairs that had an interval at some reading.
        missed: by method, those of them that it ever missed.
        width, readings: sums over readings of the interval's width over clustered Wald's, and how many there were: where widths
            are promised, and elsewhere.
        deff: mean design effect at the end, of the marginal rate of the measure's denominator.
    """

    streams: int
    missed: dict[str, int]
    width: tuple[float, float]
    readings: tuple[int, int]
    deff: float


def cover(
    setting: Setting, pairs: int, documents: int, every: int, seed: int, accumulator: type[Accumulator] = StateSums
) -> dict[str, Coverage]:
    """Streams one setting through an accumulator and reads after every batch.

    Args:
        setting: what to stream.
        pairs: streams.
        documents, every: documents in all, and between readings.
        seed: with the setting, what the stream is a function of.
        accumulator: what the stream goes through.
    """
    stream, counted = Stream(setting, pairs, seed), accumulator(pairs)
    tallies = {measure: _Tally(measure, truth, pairs) for measure, truth in setting.truth().items()}
    for _ in range(documents // every):
        counted.add(stream.batch(every))
        moments = counted.moments()
        for measure, found in intervals(moments).items():
            if found.sufficient.any():
                tallies[measure].read(moments.of(found.sufficient), found.of(found.sufficient), found.sufficient)
    return {measure: tally.coverage() for measure, tally in tallies.items()}


class _Tally:
    """What the readings of one measure came to so far."""

    def __init__(self, measure: str, truth: float, pairs: int) -> None:
        self._measure, self._truth = measure, truth
        self._had = np.zeros(pairs, bool)
        self._missed = {method: np.zeros(pairs, bool) for method in METHODS}
        self._width, self._readings = [0.0, 0.0], [0, 0]
        self._effect = math.nan

    def read(self, moments: Moments, found: Intervals, where: np.ndarray) -> None:
        """A reading of the pairs that have an interval; `where`, bool `[P]`, says which of all they are."""
        self._had |= where
        self._effect = marginal_effect(moments, self._measure)
        others = alternatives(moments, self._measure, found, self._effect)
        for method, (lower, upper) in {"interval": (found.lower, found.upper), **others}.items():
            self._missed[method][where] |= ~((lower <= self._truth) & (self._truth <= upper))
        lower, upper = others["clustered Wald"]
        promised = (found.documents >= WIDE_DOCUMENTS) & (found.effective >= WIDE_EFFECTIVE)
        promised &= BETWEEN[0] <= self._truth <= BETWEEN[1]
        times = np.divide(found.upper - found.lower, upper - lower, out=np.full_like(upper, np.nan), where=upper > lower)
        for place, chosen in enumerate((promised, ~promised)):
            self._width[place] += float(np.nansum(times[chosen]))
            self._readings[place] += int(np.isfinite(times[chosen]).sum())

    def coverage(self) -> Coverage:
        return Coverage(
            streams=int(self._had.sum()),
            missed={method: int(missed.sum()) for method, missed in self._missed.items()},
            width=(self._width[0], self._width[1]),
            readings=(self._readings[0], self._readings[1]),
            deff=self._effect,
        )


def alternatives(moments: Moments, measure: str, found: Intervals, deff: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What a reader might use instead of the intervals: lower and upper end by method, for the same pairs."""
    sums = dict(zip(SUMS, moments.sums.T, strict=True))
    up, down, joint = (sums[name] for name in ("up", "down", "joint"))
    estimate, error = found.estimate, standard_error(moments, measure)
    if measure == "pearson":
        of_tokens = (1 - estimate**2) / np.sqrt(sums["tokens"])
        heuristic = pearson_bounds(estimate, np.minimum(up, down) / max(deff, 6.0))  # `pearson_effective`, which takes numbers
    else:
        trials = {"jaccard": up + down - joint, "sufficiency": up, "necessity": down}[measure]
        of_tokens = np.sqrt(estimate * (1 - estimate) / trials)
        heuristic = bounds(joint, trials, deff)
    halves = {"plain sequence": error * sequence_width(found.documents), "clustered Wald": Z * error, "token Wald": Z * of_tokens}
    return {method: (estimate - half, estimate + half) for method, half in halves.items()} | {"heuristic": heuristic}


def marginal_effect(moments: Moments, measure: str) -> float:
    """Mean design effect of the rate at which the features fire, as two half-states estimate it; the larger of two features'."""
    squares, (tokens, *counts) = moments.squares, moments.sums.T[:3]
    effects = []
    for at, count in enumerate(counts, start=1):
        rate = count / tokens
        spread = squares[:, PACKED[at, at]] - 2 * rate * squares[:, PACKED[0, at]] + rate**2 * squares[:, PACKED[0, 0]]
        effects.append(float(np.mean(spread / (tokens * rate * (1 - rate)))))
    return max(1.0, {"sufficiency": effects[0], "necessity": effects[1]}.get(measure, max(effects)))


class Selected(NamedTuple):
    """Of the pairs chosen for being in a top list: how many there were, how many of them had an interval in the end over the data
    after the choice alone, and how many were ever missed by intervals over all data, and by those after the choice."""

    chosen: int
    readable: int
    all_data: int
    after: int


def selected(
    setting: Setting,
    pairs: int,
    top: int,
    documents: int,
    every: int,
    seed: int,
    accumulator: type[Accumulator] = StateSums,
) -> Selected:
    """Equal pairs, of which the best by estimate of sufficiency are chosen after `documents`, and read until as many came again.

    Args:
        setting: of every pair.
        pairs, top: how many there are, and are chosen.
        documents, every: before the choice as well as after it, and between readings.
        seed: with the setting, what the stream is a function of.
        accumulator: what the stream goes through: one that watches every pair from the start, and one that watches the chosen.
    """
    stream, truth = Stream(setting, pairs, seed), setting.truth()["sufficiency"]
    counted = {"all data": accumulator(pairs), "after": accumulator(pairs, pinned=False)}
    best, missed = np.arange(0), {name: np.zeros(top, bool) for name in counted}
    for number in range(2 * documents // every):
        batch = stream.batch(every)
        for one in counted.values():
            one.add(batch)
        if (number + 1) * every == documents:
            estimate = intervals(counted["all data"].moments(), ["sufficiency"])["sufficiency"].estimate
            best = np.argsort(-np.nan_to_num(estimate, nan=-1.0), kind="stable")[:top]
            counted["after"].choose(best)
        if (number + 1) * every >= documents:
            for name, one in counted.items():
                found = intervals(one.moments().of(best), ["sufficiency"])["sufficiency"]
                missed[name] |= (truth < found.lower) | (truth > found.upper)  # false for NaN: no interval misses nothing
    readable = intervals(counted["after"].moments().of(best), ["sufficiency"])["sufficiency"].sufficient
    return Selected(top, int(readable.sum()), int(missed["all data"].sum()), int(missed["after"].sum()))


class Summary(NamedTuple):
    """One measure over settings: streams with an interval, share ever missed by method, the worst share of a setting, mean width
    over that of clustered Wald where it is promised and elsewhere."""

    streams: int
    missed: dict[str, float]
    worst: float
    width: float
    width_elsewhere: float


def summary(of: Sequence[Coverage]) -> Summary:
    """Sums over settings; NaN where there is nothing to divide by."""
    streams = sum(one.streams for one in of)
    shares = {method: _share(sum(one.missed[method] for one in of), streams) for method in METHODS}
    worst = max((one.missed["interval"] / one.streams for one in of if one.streams >= FEWEST_STREAMS), default=math.nan)
    width, elsewhere = (_share(sum(one.width[at] for one in of), sum(one.readings[at] for one in of)) for at in (0, 1))
    return Summary(streams, shares, worst, width, elsewhere)


def settings() -> Iterable[Setting]:
    """The grid."""
    return itertools.starmap(Setting, itertools.product(RATES, RATIOS, ICCS))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def coverage_rows(quick: bool, accumulator: type[Accumulator] = StateSums) -> list[dict[str, object]]:
    """Streams every setting; a row for each measure, over all settings and by ratio."""
    pairs, documents, every = (8, 300, 50) if quick else (160, 5000, 50)
    times = dict(zip(RATES, (4, 1, 1, 1), strict=True))  # at 0.002 most pairs have no interval after 5,000 documents
    began, cpu = time.perf_counter(), time.process_time()
    found: dict[Setting, dict[str, Coverage]] = {}
    for setting in settings():
        found[setting] = cover(setting, pairs, times[setting.rate] * documents, every, 1, accumulator)
        log.info("%s", _line(setting, found[setting]))
    timing = _timing(began, cpu)
    sizes = {"settings": len(found), "pairs": pairs, "documents": documents, "every": every}
    sizes["documents_at_rate_0.002"] = times[0.002] * documents
    through = accumulator.__name__
    new = []
    for measure in MEASURES:
        for name, chosen in _groups(found):
            total = summary([found[setting][measure] for setting in chosen])
            log.info("%s", _table_line(measure, name, total))
            missed = {method: _or_null(share) for method, share in total.missed.items()}
            widths = {"worst": total.worst, "width": total.width, "width_elsewhere": total.width_elsewhere}
            more = {name: _or_null(value) for name, value in widths.items()}
            more |= {"streams": total.streams, "missed": missed}
            new.append(rows.row("coverage", f"{measure}, {name}", sizes, timing, through=through, **more))
    return new


def selection_row(quick: bool, accumulator: type[Accumulator] = StateSums) -> dict[str, object]:
    """Top 10 of 2,000 equal pairs, chosen and then read, some times over."""
    pairs, top, documents, every, times = 500 if quick else 2000, 10, 660, 60, 1 if quick else 10
    began, cpu = time.perf_counter(), time.process_time()
    picks = [selected(Setting(0.01, 0.3, 0.02), pairs, top, documents, every, seed, accumulator) for seed in range(times)]
    chosen, readable, all_data, after = (sum(column) for column in zip(*picks, strict=True))
    log.info(
        "top %d of %d equal pairs: %d chosen, missed over all data %d, after the choice %d", top, pairs, chosen, all_data, after
    )
    sizes = {"pairs": pairs, "top": top, "documents": documents, "every": every, "times": times}
    shares = {"all data": all_data / chosen, "after the choice": after / chosen}
    through = accumulator.__name__
    return rows.row("coverage", "selected pairs", sizes, _timing(began, cpu), through=through, streams=readable, missed=shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few streams and documents, to see that it works; nothing is written")
    parser.add_argument("--sums", action="store_true", help="through the definition of the moments instead of the state")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    accumulator = ClusterSums if options.sums else StateSums
    found = [*coverage_rows(options.quick, accumulator), selection_row(options.quick, accumulator)]
    if not options.quick:
        rows.append(found)


def _timing(began: float, cpu: float) -> rows.Timing:
    wall = time.perf_counter() - began
    return rows.Timing(wall, wall, wall, time.process_time() - cpu, 1)


def _or_null(value: float) -> float | None:
    """A row is JSON, which has no NaN."""
    return None if math.isnan(value) else float(f"{value:.4g}")


def _groups(found: dict[Setting, dict[str, Coverage]]) -> list[tuple[str, list[Setting]]]:
    """All settings, then those of each ratio."""
    return [("all", list(found))] + [(f"ratio {ratio}", [s for s in found if s.ratio == ratio]) for ratio in RATIOS]


def _line(setting: Setting, of: dict[str, Coverage]) -> str:
    parts = [
        f"{measure} {one.streams:4d} " + " ".join(f"{100 * _share(one.missed[method], one.streams):5.1f}" for method in METHODS)
        for measure, one in of.items()
    ]
    return f"{setting.rate:5} {setting.ratio:5} {setting.icc:4} deff {of['jaccard'].deff:5.1f} | " + " | ".join(parts)


def _table_line(measure: str, name: str, total: Summary) -> str:
    shares = "  ".join(f"{method} {100 * total.missed[method]:5.1f} %" for method in METHODS)
    return (
        f"{measure:12} {name:12} {total.streams:6,d} streams  {shares}  worst {100 * total.worst:5.1f} %  "
        f"width {total.width:4.2f}, elsewhere {total.width_elsewhere:4.2f}"
    )


if __name__ == "__main__":
    main()
