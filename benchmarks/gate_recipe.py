"""The whole recipe for gates in one place, over the streams of `benchmarks.gate_streams`: what the engine is held against.

    segment ──▶ pair counts by half, block masks ──▶ cells of the tables, scores of nominated gates
    end of a segment past 2^(k/4) tokens ──▶ nominations from the tables ──▶ candidates of the children that are due, new tables

The statistics are `engine.measures.gates`, `gate_candidates` and `gate_tests`; what is counted here is counted in the plainest way
that takes seconds for a million tokens: the activity of every feature in every block as a mask, and loops over all of them.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numba
import numpy as np

from benchmarks.gate_streams import Layer, Segment
from engine.measures.convergence import DesignEffects, design_effect_of, design_effects
from engine.measures.gate_candidates import DUPLICATE, SIGNIFICANT, choose_parents, rank_candidates, significant_pairs
from engine.measures.gate_nominations import MOST_LIVE, nominate
from engine.measures.gate_tests import GATE, PRIOR, TEST_PARTS, TESTS, block_tokens, gate_evidence, verdicts
from engine.measures.gates import Fits, explained_bits, fits, gate_counts

CLUSTER_TOKENS = 4096
PROMISING = 1.0
"""log E of T1 from which on a gate keeps its place although the tables lead elsewhere."""

REVISE_AFTER = 2.0
"""Candidates of a child are chosen again when the tokens have grown this many times since, so half of all data judges a table."""

EFFECT_SAMPLE = 2_000_000  # pairs that the design effects are taken from


class Gates(NamedTuple):
    """G gates: child int64 `[G]`, kind uint8 `[G]`, parents int64 `[G, 3]` (−1: none), verdict uint8 `[G]` as in `VERDICTS`."""

    child: np.ndarray
    kind: np.ndarray
    parents: np.ndarray
    verdict: np.ndarray

    def of(self, chosen: np.ndarray) -> Gates:
        """Some of them, by index or mask."""
        return Gates(*(column[chosen] for column in self))


class Finder(Protocol):
    """What the simulation puts a stream through."""

    def add(self, segment: Segment) -> None:
        """Count a segment, and choose at its end what is to be chosen there."""
        ...

    def candidates(self) -> np.ndarray:
        """int `[Dd, m]`, the upstream features in each child's table, −1 for none."""
        ...

    def gates(self) -> Gates:
        """All nominated gates that are live, with their verdicts now."""
        ...


class Counted(NamedTuple):
    """Pair counts, for rules that need no more: joint int64 `[Du, Dd]`, up int64 `[Du]`, down int64 `[Dd]`."""

    joint: np.ndarray
    up: np.ndarray
    down: np.ndarray


class Recipe:
    """One layer pair."""

    def __init__(self, up: int, down: int, m: int = 6) -> None:
        """Nothing counted."""
        self._sizes, self._m = (up, down), m
        self.tokens, self._place = 0, -1
        self._tokens_by_half = np.zeros(2, np.int64)
        self._joint = np.zeros((up, down, 2), np.int32)
        self._counts = [np.zeros((size, 2), np.int64) for size in (up, down)]
        self._parents = np.full((down, m), -1, np.int32)
        self._since = np.zeros(down, np.int64)
        self._cells = np.zeros((down, 1 << (m + 1)), np.int64)
        self._effects: DesignEffects | float = 1.0
        shape = (down, MOST_LIVE)
        self._kind, self._gate_parents = np.full(shape, -1, np.int64), np.full((*shape, 3), -1, np.int32)
        self._gate_cells, self._gate_since = np.zeros((*shape, 16), np.int64), np.zeros(shape, np.int64)
        self._log_e, self._scores, self._squares = (np.zeros((*shape, 4)) for _ in range(3))
        self._used = np.zeros(down, np.int64)

    def add(self, segment: Segment) -> None:
        """Count a segment, and choose at its end what is to be chosen there."""
        half_of_token = np.repeat(segment.halves, segment.lengths)
        _count_pairs(segment.up[0], segment.up[1], segment.down[0], segment.down[1], half_of_token, self._joint)
        for layer, counts in zip((segment.up, segment.down), self._counts, strict=True):
            half = np.repeat(half_of_token, np.diff(layer.offsets))
            for at in (0, 1):
                counts[:, at] += np.bincount(layer.features[half == at], minlength=len(counts))
        self._tokens_by_half += np.bincount(half_of_token, minlength=2)
        block, bit, sizes = blocks_of(segment.lengths)
        up = _masks(segment.up.offsets, segment.up.features, block, bit, self._sizes[0], len(sizes))
        down = _masks(segment.down.offsets, segment.down.features, block, bit, self._sizes[1], len(sizes))
        _count_cells(up, down, self._parents, self._cells)
        rows = np.nonzero(self._kind >= 0)
        parts = (self._gate_cells, self._log_e, self._scores, self._squares)
        cells, log_e, scores, squares = (np.ascontiguousarray(part[rows]) for part in parts)
        score(up, down, sizes, self._kind[rows], self._gate_parents[rows], rows[0], cells, log_e, scores, squares)
        for part, new in zip(parts, (cells, log_e, scores, squares), strict=True):
            part[rows] = new
        self.tokens += int(segment.lengths.sum())
        place = (self.tokens**4).bit_length() - 1
        if place > self._place:
            self._place = place
            self._choose(segment.up, up, down, block)

    def candidates(self) -> np.ndarray:
        """int32 `[Dd, m]`."""
        return self._parents

    def counted(self) -> Counted:
        """Pair counts of all tokens."""
        return Counted(self._joint.sum(axis=2, dtype=np.int64), *(counts.sum(axis=1) for counts in self._counts))

    def gates(self) -> Gates:
        """All nominated gates that are live, with their verdicts now."""
        rows = np.nonzero(self._kind >= 0)
        kind = self._kind[rows].astype(np.uint8)
        said = verdicts(kind, self._log_e[rows], rows[0], self._explained(), self._sizes[1])
        return Gates(rows[0], kind, self._gate_parents[rows].astype(np.int64), said)

    def by_description_length(self) -> Gates:
        """What the tables alone would publish: of every child the hypothesis with most bits, if it has any."""
        fit = self._fits()
        empty = np.full((len(self._parents), MOST_LIVE), -1)
        first = nominate(fit, self._parents, empty, np.full((*empty.shape, 3), -1), empty > 0, np.zeros(len(empty), np.int64))
        leads = first.place == 0
        said = np.full(int(leads.sum()), GATE, np.uint8)
        return Gates(first.child[leads], first.kind[leads], first.parents[leads].astype(np.int64), said)

    def _choose(self, layer: Layer, up_masks: np.ndarray, down_masks: np.ndarray, block: np.ndarray) -> None:
        """Nominations first: the tables that they come from may be given up then."""
        self._effects = self._pair_effects()
        new = nominate(
            self._fits(),
            self._parents,
            self._kind,
            self._gate_parents,
            self._promising(),
            self._used,
        )
        at = (new.child, new.place)
        self._kind[at], self._gate_parents[at], self._gate_since[at] = new.kind, new.parents, self.tokens
        for part in (self._gate_cells, self._log_e, self._scores, self._squares):
            part[at] = 0
        np.add.at(self._used, new.child, 1)

        due = np.flatnonzero((self.tokens >= REVISE_AFTER * self._since) | (self._parents[:, 1] < 0))
        joint, up, down = self.counted()
        pairs = significant_pairs(joint[:, due], up, down[due], self.tokens, self._effects)
        ranked = rank_candidates(pairs, up, down[due], self.tokens)
        starts, lead = np.searchsorted(block, np.arange(up_masks.shape[1])), ranked.necessity[:, 0]
        silencers = _silencers(layer.offsets, layer.features, starts, up_masks, down_masks, lead, due, SIGNIFICANT)
        ranked = ranked._replace(inhibition=np.concatenate([silencers, ranked.inhibition], axis=1))
        chosen = choose_parents(ranked, self._m, lambda first, second: _jaccard(up_masks, first, second) >= DUPLICATE)
        other = np.any(np.sort(chosen, axis=1) != np.sort(self._parents[due], axis=1), axis=1)
        self._parents[due[other]], self._since[due[other]], self._cells[due[other]] = chosen[other], self.tokens, 0

    def _fits(self) -> Fits:
        n_child = self._cells[:, 1 << self._m :].sum(axis=1)
        taken = (self._parents >= 0).sum(axis=1)
        return fits(self._cells, self.tokens - self._since, taken, 1.0 / self._effect(n_child))

    def _promising(self) -> np.ndarray:
        found = np.zeros(self._kind.shape, bool)
        rows = np.nonzero(self._kind >= 0)
        found[rows] = gate_evidence(self._kind[rows], self._log_e[rows])[1] > PROMISING
        return found

    def _explained(self) -> np.ndarray:
        """Bits per token that each live gate saves over its own tokens."""
        rows = np.nonzero(self._kind >= 0)
        counts = gate_counts(self._kind[rows], self._gate_cells[rows])
        tokens = self.tokens - self._gate_since[rows]
        return explained_bits(self._kind[rows], counts, tokens, self._m, self._effect(counts.child))

    def _pair_effects(self) -> DesignEffects:
        step = max(1, self._joint.size // 2 // EFFECT_SAMPLE)
        sample = self._joint.reshape(-1, 2)[::step]
        return design_effects(sample[:, 0], sample[:, 1], *self._tokens_by_half)

    def _effect(self, counts: np.ndarray) -> np.ndarray:
        if not isinstance(self._effects, DesignEffects):
            return np.ones(counts.shape)
        return np.nan_to_num(design_effect_of(self._effects, counts), nan=1.0)


def blocks_of(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks of whole documents: the block of each token int64 `[T]`, its place there uint32 `[T]`, tokens of each block int64."""
    sizes = []
    for length in lengths.tolist():
        for cluster in range(0, length, CLUSTER_TOKENS):
            tokens = min(CLUSTER_TOKENS, length - cluster)
            of = block_tokens(tokens)
            sizes += [of] * (tokens // of) + [tokens % of] * (tokens % of > 0)
    size = np.array(sizes, np.int64)
    block = np.repeat(np.arange(len(size)), size)
    return block, (np.arange(len(block)) - (np.cumsum(size) - size)[block]).astype(np.uint32), size


@numba.njit(cache=True)
def _count_pairs(up_offsets, up, down_offsets, down, half, joint):
    for token in range(len(half)):
        for i in up[up_offsets[token] : up_offsets[token + 1]]:
            for j in down[down_offsets[token] : down_offsets[token + 1]]:
                joint[i, j, half[token]] += 1


@numba.njit(cache=True)
def _masks(offsets, features, block, bit, size, blocks):
    """uint32 [size, blocks]: in which tokens of a block each feature is active."""
    masks = np.zeros((size, blocks), np.uint32)
    for token in range(len(block)):
        for feature in features[offsets[token] : offsets[token + 1]]:
            masks[feature, block[token]] |= np.uint32(1) << bit[token]
    return masks


@numba.njit(cache=True)
def _count_cells(up, down, parents, cells):
    """Every token with a parent or the child active, cell by cell."""
    m = parents.shape[1]
    of = np.zeros(m + 1, np.uint32)
    for child in range(len(parents)):
        if parents[child, 0] < 0:
            continue
        for block in range(up.shape[1]):
            any_of = of[m] = down[child, block]
            for slot in range(m):
                of[slot] = up[parents[child, slot], block] if parents[child, slot] >= 0 else np.uint32(0)
                any_of |= of[slot]
            bit = np.uint32(0)
            while any_of >> bit:
                if any_of >> bit & np.uint32(1):
                    cell = 0
                    for slot in range(m + 1):
                        cell |= np.int64(of[slot] >> bit & np.uint32(1)) << slot
                    cells[child, cell] += 1
                bit += np.uint32(1)
                if bit == 32:
                    break


def _part_masks() -> tuple[np.ndarray, np.ndarray]:
    """Parts of all tests: cells of stratum, with x, with y and with both, bool `[4, 4, 3, 4, 16]`, and σ `[4, 4, 3]`."""
    masks, signs = np.zeros((4, 4, 3, 4, 16), bool), np.zeros((4, 4, 3))
    for kind, tests in enumerate(TEST_PARTS):
        for test, parts in enumerate(tests):
            for part, (stratum, x, y, sign) in enumerate(parts):
                masks[kind, test, part] = stratum, stratum & x, stratum & y, stratum & x & y
                signs[kind, test, part] = sign
    return masks, signs


_MASKS, _SIGNS = _part_masks()


def score(up, down, sizes, kinds, parents, children, cells, log_e, scores, squares) -> None:
    """`gate_tests.add_block` of every block in order, in place.

    Args:
        up, down: uint32 `[Du, B]` and `[Dd, B]`, masks; sizes: int64 `[B]`, tokens of the blocks.
        kinds, children: int64 `[G]`; parents: int32 `[G, 3]`.
        cells: int64 `[G, 16]`; log_e, scores, squares: float64 `[G, 4]`.
    """
    _score(
        up, down, sizes, kinds, parents, children, _MASKS, _SIGNS, np.array(TESTS), np.array(PRIOR), cells, log_e, scores, squares
    )


@numba.njit(cache=True)
def _score(up, down, sizes, kinds, parents, children, masks, signs, tests, prior, cells, log_e, scores, squares):
    here, one = np.zeros(16, np.int64), np.uint32(1)
    for gate in range(len(kinds)):
        kind, (first, second, third), child = kinds[gate], parents[gate], children[gate]
        for block in range(len(sizes)):
            a, b, y = up[first, block], up[second, block], down[child, block]
            c = up[third, block] if third >= 0 else np.uint32(0)
            union = a | b | c | y
            if not union:
                cells[gate, 0] += sizes[block]
                continue
            here[:] = 0
            here[0], bit = sizes[block], np.uint32(0)
            while union >> bit:
                cell = np.int64(((a >> bit) & one) + 2 * ((b >> bit) & one) + 4 * ((c >> bit) & one) + 8 * ((y >> bit) & one))
                here[cell] += 1
                here[0] -= 1
                bit += one
                if bit == 32:
                    break
            cells[gate] += here
            if (a > 0) + (b > 0) + (c > 0) + (y > 0) < 2:
                continue  # of one feature alone nothing can be said
            for test in range(tests[kind]):
                s, loss = 0.0, 0.0
                for part in range(3):
                    sign = signs[kind, test, part]
                    if sign == 0:
                        break
                    n, r, k, joint = 0, 0, 0, 0
                    for cell in range(16):
                        n += here[cell] * masks[kind, test, part, 0, cell]
                        r += here[cell] * masks[kind, test, part, 1, cell]
                        k += here[cell] * masks[kind, test, part, 2, cell]
                        joint += here[cell] * masks[kind, test, part, 3, cell]
                    if n == 0:
                        continue
                    expected = r * k / n
                    s += sign * (joint - expected)
                    loss += expected - max(0, r + k - n) if sign > 0 else min(r, k) - expected
                bet = max(0.0, (prior[0] + scores[gate, test]) / (prior[1] + squares[gate, test]))
                if loss > 0:
                    bet = min(bet, 0.9 / loss)
                log_e[gate, test] += np.log1p(bet * s)
                scores[gate, test] += s
                squares[gate, test] += s * s


@numba.njit(cache=True)
def _silencers(offsets, features, starts, up, down, parents, children, least):
    """int64 [n, 4]: by `suppression` in this segment, the features that most silence each child where its parent is active; −1."""
    found = np.full((len(children), 4), -1, np.int64)
    counts = np.zeros((len(up), 2), np.int64)
    for at in range(len(children)):
        parent, child = parents[at], children[at]
        if parent < 0:
            continue
        counts[:] = 0
        for block in range(up.shape[1]):
            mask, bit = up[parent, block], 0
            while mask:
                if mask & np.uint32(1):
                    active = np.int64(down[child, block] >> np.uint32(bit) & np.uint32(1))
                    token = starts[block] + bit
                    for feature in features[offsets[token] : offsets[token + 1]]:
                        counts[feature, active] += 1
                mask >>= np.uint32(1)
                bit += 1
        silent, both = counts[parent]
        tokens = max(silent + both, 1)
        z = np.zeros(len(counts))
        for feature in range(len(counts)):
            expected = (counts[feature, 0] + counts[feature, 1]) * silent / tokens
            z[feature] = (counts[feature, 0] - expected) / np.sqrt(max(expected * both / tokens, 1.0))
        z[parent] = 0.0
        for place in range(4):
            best = np.argmax(z)
            if z[best] <= least:
                break
            found[at, place] = best
            z[best] = 0.0
    return found


@numba.njit(cache=True)
def _bits(word):
    count = 0
    while word:
        word &= word - np.uint32(1)
        count += 1
    return count


@numba.njit(cache=True)
def _jaccard(masks, first, second):
    """Jaccard index of pairs of features over a segment; 0 where neither is active."""
    found = np.zeros(len(first))
    for pair in range(len(first)):
        both, either = 0, 0
        for block in range(masks.shape[1]):
            a, b = masks[first[pair], block], masks[second[pair], block]
            both += _bits(a & b)
            either += _bits(a | b)
        found[pair] = both / max(either, 1)
    return found
