"""Sums and second moments over clusters of tokens, for features and for watched pairs of features.

    tokens of a segment, ordered by cluster ──▶ runs: per feature the clusters on which it fires, with its sums over each
    runs of two layers, watched pairs       ──▶ S and M of every pair (`engine.measures.intervals` says what for)

M = Σ_d s_d s_dᵀ over clusters d needs little work per pair. Terms of one feature alone (and of the cluster's length) are the same
for all of its pairs and are summed once per feature; all others vanish unless both features fire in the same cluster. So a pair
costs the tokens of its downstream feature in clusters where the upstream one fires too, and 26 products for each such cluster.

Everything is summed in the order of the tokens in float64: the same segment and pairs give the same bits.
"""

from typing import NamedTuple

import numpy as np

from kernels.cpu.compiled import compiled

ONE = np.uint64(1)
T, UP, DOWN, JOINT, A, B, AA, BB, AB = range(9)  # the sums of a pair over a cluster, in order

_ROW_STARTS = np.array([sum(9 - before for before in range(row)) - row for row in range(9)])


def packed(row: int, column: int) -> int:
    """Where M[row, column] is in the packed upper triangle, 45 numbers row by row."""
    low, high = sorted((row, column))
    return int(_ROW_STARTS[low] + high)


_AT = np.array([[packed(row, column) for column in range(9)] for row in range(9)])
_UP_SIDE = np.array([UP, A, AA])
_DOWN_SIDE = np.array([DOWN, B, BB])
_SIDES = np.array([T, UP, A, AA, DOWN, B, BB, AB])  # what `_add_pairs` multiplies n_ij and Σab with


class Runs(NamedTuple):
    """Where the D features of a layer fire, by cluster. A run is one feature in one cluster."""

    starts: np.ndarray
    """int64 [D + 1]: the runs of feature f are starts[f] … starts[f + 1] - 1, clusters ascending."""
    clusters: np.ndarray
    """int32 [R]."""
    entries: np.ndarray
    """int64 [R + 1]: the entries of run r are entries[r] … entries[r + 1] - 1."""
    tokens: np.ndarray
    """int32 [nnz]: index of the token in the order of the segment, ascending within a feature."""
    values: np.ndarray
    """float32 [nnz]: the activation, negative where it is not above the feature's threshold."""
    sums: np.ndarray
    """float64 [R, 3]: active tokens, Σa, Σa² of the run."""

    def dense(self, chosen: np.ndarray) -> np.ndarray:
        """float64 [D, 3], the sums of every feature over the chosen clusters (bool [C])."""
        sums = np.zeros((len(self.starts) - 1, 3))
        kept = np.flatnonzero(chosen[self.clusters])
        feature = np.searchsorted(self.starts, kept, side="right") - 1
        np.add.at(sums, feature, self.sums[kept])
        return sums


@compiled()
def _count(order, offsets, features, starts):
    """Entries of each feature, as running sums; False when a feature is out of range."""
    width = np.uint64(len(starts) - 1)
    for token in order:
        for entry in range(offsets[token], offsets[token + 1]):
            feature = np.uint64(features[entry])
            if feature >= width:  # a negative one is a large unsigned number
                return False
            starts[feature + ONE] += 1
    for feature in range(width):
        starts[feature + ONE] += starts[feature]
    return True


@compiled()
def _scatter(order, offsets, features, values, thresholds, starts, tokens, moved):
    """Entries by feature. Runs are cut afterwards, in one go through them: a cut in here costs twice as much as both."""
    filled = starts[:-1].copy()
    for at in range(len(order)):
        token = order[at]
        for entry in range(offsets[token], offsets[token + 1]):
            feature, value = np.uint64(features[entry]), values[entry]
            if thresholds is not None and not (value > thresholds[feature]):
                value = -value
            slot = np.uint64(filled[feature])
            filled[feature] = slot + ONE
            tokens[slot], moved[slot] = at, value


@compiled()
def _cut(cluster_of, starts, tokens, moved, run_starts, clusters, firsts, sums):
    """The runs of each feature, and their sums; how many there are."""
    run = np.uint64(0)
    for feature in range(np.uint64(len(starts) - 1)):
        last, count, total, squares = -1, 0.0, 0.0, 0.0
        for entry in range(np.uint64(starts[feature]), np.uint64(starts[feature + ONE])):
            cluster = cluster_of[np.uint64(tokens[entry])]
            if cluster != last:
                if last >= 0:
                    sums[run - ONE, 0], sums[run - ONE, 1], sums[run - ONE, 2] = count, total, squares
                last, count, total, squares = cluster, 0.0, 0.0, 0.0
                clusters[run], firsts[run] = cluster, entry
                run += ONE
            exact = np.float64(moved[entry])
            count += exact > 0
            total += abs(exact)
            squares += exact * exact
        if last >= 0:
            sums[run - ONE, 0], sums[run - ONE, 1], sums[run - ONE, 2] = count, total, squares
        run_starts[feature + ONE] = run
    return run


def make_runs(
    order: np.ndarray,
    cluster_of: np.ndarray,
    offsets: np.ndarray,
    features: np.ndarray,
    values: np.ndarray,
    thresholds: np.ndarray | None,
    width: int,
) -> Runs:
    """The runs of one layer.

    Args:
        order: int64 [n], rows of the Csr in the order of the segment, by cluster.
        cluster_of: int32 [n], the cluster of each, not falling.
        offsets, features, values: the Csr, int32 [T + 1], int32 [nnz], float32 [nnz], any number of rows.
        thresholds: float32 [D], or None where every one is 0.
        width: D.

    Raises:
        ValueError: a feature that is not in [0, width).
    """
    starts, run_starts = np.zeros(width + 1, np.int64), np.zeros(width + 1, np.int64)
    if not _count(order, offsets, features, starts):
        raise ValueError(f"features has values from {features.min()} to {features.max()}, they must be in [0, {width})")
    entries = int(starts[-1])
    tokens, moved = np.empty(entries, np.int32), np.empty(entries, np.float32)
    _scatter(order, offsets, features, values, thresholds, starts, tokens, moved)
    # As many runs as entries at most; memory that nothing is written to is never taken.
    clusters, firsts, sums = np.empty(entries, np.int32), np.empty(entries + 1, np.int64), np.empty((entries, 3))
    runs = _cut(cluster_of, starts, tokens, moved, run_starts, clusters, firsts, sums)
    firsts[runs] = entries
    return Runs(run_starts, clusters[:runs], firsts[: runs + 1], tokens, moved, sums[:runs])


class FeatureTotals(NamedTuple):
    """Sums over the clusters of a segment, per feature of a layer. s = (active tokens n, Σa, Σa²) of a cluster of T tokens."""

    sums: np.ndarray
    """float64 [D, 3]: Σ s."""
    with_tokens: np.ndarray
    """float64 [D, 3]: Σ s·T."""
    squares: np.ndarray
    """float64 [D, 3, 3]: Σ s sᵀ."""
    documents: np.ndarray
    """int64 [D, 2]: clusters with n > 0, and clusters in which the feature fires at all."""


@compiled()
def _totals(starts, clusters, sums, lengths, special, total, with_tokens, squares, documents):
    for feature in range(len(starts) - 1):
        for run in range(starts[feature], starts[feature + 1]):
            cluster = clusters[run]
            if special[cluster] >= 0:
                continue
            length = lengths[cluster]
            for x in range(3):
                total[feature, x] += sums[run, x]
                with_tokens[feature, x] += sums[run, x] * length
                for y in range(3):
                    squares[feature, x, y] += sums[run, x] * sums[run, y]
            documents[feature, 0] += sums[run, 0] > 0
            documents[feature, 1] += sums[run, 2] > 0


def feature_totals(runs: Runs, lengths: np.ndarray, special: np.ndarray) -> FeatureTotals:
    """Totals over the clusters that are not special.

    Args:
        lengths: float64 [C], tokens of each cluster.
        special: int32 [C], −1 for a cluster that counts here.
    """
    width = len(runs.starts) - 1
    totals = FeatureTotals(np.zeros((width, 3)), np.zeros((width, 3)), np.zeros((width, 3, 3)), np.zeros((width, 2), np.int64))
    _totals(runs.starts, runs.clusters, runs.sums, lengths, special, *totals)
    return totals


class _Sides(NamedTuple):
    """What of a pair's features and of the clusters does not depend on the pair."""

    up_totals: FeatureTotals
    down_totals: FeatureTotals
    lengths: np.ndarray
    special: np.ndarray
    length: float
    """Σ T over the clusters that are not special."""
    length_squared: float
    """Σ T²."""


@compiled()
def _add_pairs(up_runs, down_runs, pair_up, pair_down, tokens, sides, sums, squares, documents, parts):
    """Of the two features of a pair the values of the one with more entries are laid out by token, and the entries of the other are
    gone through: the leaders of rare features are often frequent ones, and going through those took three times as many."""
    up_starts, up_entries, down_starts, down_entries = up_runs[0], up_runs[2], down_runs[0], down_runs[2]
    up_rarer = np.empty(len(pair_up), np.bool_)
    for pair in range(len(pair_up)):
        i, j = pair_up[pair], pair_down[pair]
        of_up = up_entries[up_starts[i + 1]] - up_entries[up_starts[i]]
        up_rarer[pair] = of_up < down_entries[down_starts[j + 1]] - down_entries[down_starts[j]]
    by_up = np.flatnonzero(~up_rarer)
    by_down = np.flatnonzero(up_rarer)
    by_down = by_down[np.argsort(pair_down[by_down], kind="mergesort")]
    out = (sums, squares, documents, parts)
    _walk(by_up, up_runs, pair_up, down_runs, pair_down, False, tokens, sides, out)
    _walk(by_down, down_runs, pair_down, up_runs, pair_up, True, tokens, sides, out)


@compiled()
def _walk(pairs, laid_runs, pair_laid, walked_runs, pair_walked, swapped, tokens, sides, out):
    """The pairs, sorted by the feature that is laid out; swapped: that is the downstream one."""
    up_totals, down_totals, lengths, special, length, length_squared = sides
    sums, squares, documents, parts = out
    laid_starts, laid_clusters, laid_entries, laid_tokens, laid_values, laid_sums = laid_runs
    starts, clusters, entries, tokens_of, values, walked_sums = walked_runs
    value_at = np.zeros(tokens, np.float32)
    run_at = np.full(len(lengths), -1, np.int64)
    factors = np.zeros(8)
    crossed = np.zeros((3, 3))  # (n_i, Σa, Σa²) × (n_j, Σb, Σb²)
    joined = np.zeros((2, 8))  # (n_ij, Σab) × `_SIDES`
    total = np.zeros(3)  # n_ij, Σab, n_ij²
    both = np.zeros(2, np.int64)  # clusters with n_i and n_j > 0, clusters in which both fire
    current = -1
    for pair in pairs:
        i, j = pair_laid[pair], pair_walked[pair]
        if i != current:
            if current >= 0:
                for run in range(laid_starts[current], laid_starts[current + 1]):
                    run_at[laid_clusters[run]] = -1
                for entry in range(laid_entries[laid_starts[current]], laid_entries[laid_starts[current + 1]]):
                    value_at[laid_tokens[entry]] = 0.0
            current = i
            for run in range(laid_starts[i], laid_starts[i + 1]):
                run_at[laid_clusters[run]] = run
            for entry in range(laid_entries[laid_starts[i]], laid_entries[laid_starts[i + 1]]):
                value_at[laid_tokens[entry]] = laid_values[entry]
        crossed[:], joined[:], total[:], both[:] = 0.0, 0.0, 0.0, 0
        for run in range(np.uint64(starts[j]), np.uint64(starts[j + 1])):
            cluster = np.uint64(clusters[run])
            other = run_at[cluster]
            if other < 0:
                continue
            joint, product = 0.0, 0.0
            for entry in range(np.uint64(entries[run]), np.uint64(entries[run + ONE])):
                a, b = np.float64(value_at[np.uint64(tokens_of[entry])]), np.float64(values[entry])
                joint += (a > 0) & (b > 0)
                product += abs(a * b)
            if special[cluster] >= 0:
                parts[special[cluster], pair, JOINT] += joint
                parts[special[cluster], pair, AB] += product
                continue
            laid = np.uint64(other)
            n_i, a, aa = laid_sums[laid, 0], laid_sums[laid, 1], laid_sums[laid, 2]
            n_j, b, bb = walked_sums[run, 0], walked_sums[run, 1], walked_sums[run, 2]
            if swapped:
                n_i, a, aa, n_j, b, bb = n_j, b, bb, n_i, a, aa
            both[0] += (n_i > 0) & (n_j > 0)
            both[1] += 1
            crossed[0, 0] += n_i * n_j
            crossed[0, 1] += n_i * b
            crossed[0, 2] += n_i * bb
            crossed[1, 0] += a * n_j
            crossed[1, 1] += a * b
            crossed[1, 2] += a * bb
            crossed[2, 0] += aa * n_j
            crossed[2, 1] += aa * b
            crossed[2, 2] += aa * bb
            if product > 0:
                factors[0], factors[1], factors[2], factors[3] = lengths[cluster], n_i, a, aa
                factors[4], factors[5], factors[6], factors[7] = n_j, b, bb, product
                for x in range(8):
                    joined[0, x] += joint * factors[x]
                    joined[1, x] += product * factors[x]
                total[0] += joint
                total[1] += product
                total[2] += joint * joint
        up, down = (j, i) if swapped else (i, j)
        _fold(up_totals, up, _UP_SIDE, sums[pair], squares[pair])
        _fold(down_totals, down, _DOWN_SIDE, sums[pair], squares[pair])
        sums[pair, T] += length
        sums[pair, JOINT] += total[0]
        sums[pair, AB] += total[1]
        squares[pair, _AT[T, T]] += length_squared
        squares[pair, _AT[JOINT, JOINT]] += total[2]
        for x in range(3):
            for y in range(3):
                squares[pair, _AT[_UP_SIDE[x], _DOWN_SIDE[y]]] += crossed[x, y]
        for x in range(8):
            squares[pair, _AT[JOINT, _SIDES[x]]] += joined[0, x]
            squares[pair, _AT[AB, _SIDES[x]]] += joined[1, x]
        of_up, of_down = up_totals.documents[up], down_totals.documents[down]
        documents[pair, 0] += of_up[0]
        documents[pair, 1] += of_down[0]
        documents[pair, 2] += of_up[0] + of_down[0] - both[0]
        documents[pair, 3] += of_up[1] + of_down[1] - both[1]


@compiled()
def _fold(totals, feature, side, sums, squares):
    """Add what one of the features says alone."""
    for x in range(3):
        sums[side[x]] += totals.sums[feature, x]
        squares[_AT[T, side[x]]] += totals.with_tokens[feature, x]
        for y in range(x, 3):
            squares[_AT[side[x], side[y]]] += totals.squares[feature, x, y]


def add_pairs(
    up: Runs,
    down: Runs,
    up_totals: FeatureTotals,
    down_totals: FeatureTotals,
    pair_up: np.ndarray,
    pair_down: np.ndarray,
    lengths: np.ndarray,
    special: np.ndarray,
    tokens: int,
    sums: np.ndarray,
    squares: np.ndarray,
    documents: np.ndarray,
) -> np.ndarray:
    """Add a segment to the moments of P watched pairs, in place.

    Args:
        up, down: runs of the pair's two layers over the same clusters; up_totals, down_totals: their `feature_totals`.
        pair_up, pair_down: int32 [P], the pairs, sorted by upstream feature.
        lengths: float64 [C], tokens of each cluster.
        special: int32 [C], −1, or the row of the result that a cluster's sums go to instead of the moments.
        tokens: how many the segment has.
        sums, squares, documents: float64 [P, 9], float64 [P, 45], int64 [P, 4]: clusters with n_i > 0, with n_j > 0, with either,
            and those in which either fires at all.

    Returns:
        float64 [K, P, 9], the sums of the K special clusters.
    """
    own = lengths[special < 0]
    sides = _Sides(up_totals, down_totals, lengths, special, float(own.sum()), float(own @ own))
    parts = np.zeros((int(special.max(initial=-1)) + 1, len(pair_up), 9))
    _add_pairs(tuple(up), tuple(down), pair_up, pair_down, tokens, sides, sums, squares, documents, parts)
    for row in range(len(parts)):
        chosen = special == row
        parts[row, :, T] = lengths[chosen].sum()
        parts[row][:, _UP_SIDE] = up.dense(chosen)[pair_up]
        parts[row][:, _DOWN_SIDE] = down.dense(chosen)[pair_down]
    return parts
