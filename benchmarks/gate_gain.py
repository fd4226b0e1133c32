"""How often the interval of a gate's gain ever misses, on documents of known gain.

1. A setting is a rate of the child, the shares of its tokens that the gate and the parent have, the precision of both, and the
   intra-document correlation. In a document the rate is beta distributed; how its child tokens fall on "both have it", "only the
   gate", "only the parent" and "neither" is a Dirichlet draw of the same correlation; false alarms follow the same bursts.
2. Many gates are streamed through S, M and n, and read after every 50 documents; one is missed if any reading misses.
3. Beside it the same sequence without the two pseudo-documents.
"""

from __future__ import annotations

import itertools
import logging
import time
from typing import NamedTuple

import numpy as np

from benchmarks import rows
from engine.measures.gate_gain import COLUMNS, ROWS, gain_interval, plain_interval

log = logging.getLogger(__name__)

LENGTH = 200  # mean tokens of a document, log-normal


class GainSetting(NamedTuple):
    """Rate of the child; shares of its tokens with gate and parent, only the gate, only the parent; false alarms of gate and parent
    for each child token; intra-document correlation."""

    rate: float
    both: float
    only_gate: float
    only_parent: float
    gate_alarms: float
    parent_alarms: float
    icc: float

    def truth(self) -> float:
        """F1(gate) − F1(parent) of the whole stream."""
        gate, parent = self.both + self.only_gate, self.both + self.only_parent
        return 2 * gate / (gate + self.gate_alarms + 1) - 2 * parent / (parent + self.parent_alarms + 1)


SHARES = {
    "exact gate": (0.5, 0.5, 0.0, 0.0, 0.0),
    "98 % gate": (0.48, 0.5, 0.01, 0.02, 0.02),
    "AND": (0.97, 0.0, 0.01, 0.03, 4.0),
    "AND_NOT": (0.98, 0.0, 0.01, 0.02, 0.05),
    "no gain": (0.5, 0.1, 0.1, 0.3, 0.3),
    "loose": (0.3, 0.3, 0.1, 0.5, 0.7),
}
RATES, ICCS = (0.002, 0.02), (0.02, 0.1, 0.3)


def documents(setting: GainSetting, gates: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """int64 `[gates, count, 5]`, the sums of each document in the order of `GAIN_SUMS`."""
    weight, size = 1 / setting.icc - 1, (gates, count)
    lengths = np.exp(rng.normal(np.log(LENGTH) - 0.32, 0.8, count)).clip(10, 2000).astype(np.int64)
    here = rng.beta(setting.rate * weight, (1 - setting.rate) * weight, size)
    child = rng.binomial(lengths, here)
    left = 1 - setting.both - setting.only_gate - setting.only_parent
    shares = np.maximum([setting.both, setting.only_gate, setting.only_parent, left], 0.0)
    parts = rng.standard_gamma(np.broadcast_to(weight * shares, (*size, 4)))
    total = parts.sum(axis=-1, keepdims=True)
    parts = np.where(total > 0, parts / np.where(total > 0, total, 1.0), shares)  # gammas of small shape can all be 0
    kinds = rng.multinomial(child, parts / parts.sum(axis=-1, keepdims=True))
    bursts = here * lengths * rng.gamma(2.0, 0.5, size)
    alarms = [rng.poisson(share * bursts) for share in (setting.gate_alarms, setting.parent_alarms)]
    gate, parent = kinds[..., 0] + kinds[..., 1], kinds[..., 0] + kinds[..., 2]
    return np.stack([gate, gate + alarms[0], parent, parent + alarms[1], child], axis=-1)


class GainCoverage(NamedTuple):
    """Gates that had an interval at some reading, those of them that it ever missed and that the plain sequence did, and the
    mean width of both at the end."""

    gates: int
    missed: int
    plain: int
    width: float
    plain_width: float


def cover(setting: GainSetting, gates: int, count: int, every: int, seed: int) -> GainCoverage:
    """Streams one setting and reads after every `every` documents."""
    rng = np.random.default_rng([seed, *(round(1e6 * value) for value in setting)])
    sums, squares, n = np.zeros((gates, 5)), np.zeros((gates, 15)), np.zeros(gates, np.int64)
    had, missed, plain = (np.zeros(gates, bool) for _ in range(3))
    truth, widths = setting.truth(), (np.nan, np.nan)
    for _ in range(count // every):
        batch = documents(setting, gates, every, rng)
        sums += batch.sum(axis=1)
        squares += (batch[..., ROWS] * batch[..., COLUMNS]).sum(axis=1)
        n += (batch[..., [1, 3, 4]] > 0).any(axis=-1).sum(axis=1)
        found = gain_interval(sums, squares, n)
        _, lower, upper = plain_interval(sums, squares, n)
        there = found.sufficient
        had |= there
        missed |= there & ~((found.lower <= truth) & (truth <= found.upper))
        plain |= there & ~((lower <= truth) & (truth <= upper))
        if there.any():
            widths = float((found.upper - found.lower)[there].mean()), float((upper - lower)[there].mean())
    return GainCoverage(int(had.sum()), int(missed.sum()), int(plain.sum()), widths[0], widths[1])


def coverage_rows(quick: bool) -> list[dict[str, object]]:
    """A row for each kind of gate, over rates and correlations."""
    gates, count, every = (10, 200, 50) if quick else (150, 3000, 50)
    new = []
    for name, shares in SHARES.items():
        began, cpu = time.perf_counter(), time.process_time()
        found = [
            cover(GainSetting(rate, *shares, icc), gates, (4 if rate < 0.01 else 1) * count, every, 1)
            for rate, icc in itertools.product(RATES, ICCS)
        ]
        wall = time.perf_counter() - began
        timing = rows.Timing(wall, wall, wall, time.process_time() - cpu, 1)
        streams, missed, plain = (sum(one[at] for one in found) for at in range(3))
        worst = max((one.missed / one.gates for one in found if one.gates), default=0.0)
        wide = np.nanmean([one.width / one.plain_width for one in found if one.plain_width > 0])
        line = "gain, %s: %d gates, missed %d, worst %.3f, plain missed %d, width %.2f of plain"
        log.info(line, name, streams, missed, worst, plain, wide)
        sizes = {"gates": gates, "documents": count, "every": every, "settings": len(found)}
        more = {
            "gates_with_interval": streams,
            "missed": missed,
            "worst": worst,
            "plain_missed": plain,
            "width_of_plain": float(wide),
        }
        new.append(rows.row("gates", f"gain, {name}", sizes, timing, **more))
    return new
