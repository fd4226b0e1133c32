"""Which cells of a table are listed: in the top k of their row, or of their column, by any of some measures.

    table ──▶ cells with the support, row by row ──▶ the same, column by column
                     │                                       │
                     ▼ line by line: each measure ──▶ more than k above what parted the list last time? ──▶ mark

1. `supported_cells` takes the cells out of the table, in one pass; nothing else looks at it, so it may change meanwhile.
2. A line (a row, or a column) is ranked with all of its cells in the first cache, one measure at a time and with vector
   instructions. A list itself is never made: who asks ranks anew, so all that is needed is who is in it.
3. From one ranking to the next most lists keep their members. `Separators` hold a number between the last listed cell's score and
   the next one's; where k cells are above it now, these are the k best, and nothing is sorted. Else it is moved.
4. A lower bound takes 0.2 µs and a comparison with a given number a tenth of that (`evidence`), so lists by lower bound are
   parted by comparisons alone.

`BestCells` finds the same, in order and in any number of calls, 5 to 8 times as slowly: for tables of which no copy is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, overload

import numpy as np

from kernels.cpu.best import EFFECT_BINS, RANKED, Features, effect_bin, information, information_below
from kernels.cpu.bounds import ALPHA, PEARSON_LEAST_EFFECT, log_half, pearson_half_width, pearson_shifted
from kernels.cpu.compiled import compiled
from kernels.cpu.separators import count_from, part, part_by_bound
from kernels.host_checks import check_features, check_ranking, check_table

_compile = compiled(error_model="numpy")

_JACCARD, _SUFFICIENCY, _NECESSITY, _PHI, _INFORMATION, _PEARSON, _COSINE, _DECODER = range(8)
_SMALL = 1 << 12  # joint counts below are most of all, and 64 kB hold what bounds need of each
_LOWER = 8  # so far behind a ratio is its lower bound in `RANKED`
_PEARSON_LOWER = 11
_COUNT, _SUM, _PHI_ROOT, _PEARSON_ROOT, _COSINE_ROOT = range(5)  # of `Features.columns`


class Supported(NamedTuple):
    """Cells of a table, row by row and in each row by column."""

    offsets: np.ndarray
    """int64 [Du + 1]: row i has the cells from `offsets[i]` to `offsets[i + 1]`."""
    column: np.ndarray
    """int32 [n]."""
    joint: np.ndarray
    """int64 [n], joint counts; those of half A in `joint_a`."""
    joint_a: np.ndarray
    product: np.ndarray
    """float64 [n], Σab."""
    cosine: np.ndarray
    """float32 [n], decoder cosines; NaN where there is none."""


class Separators(NamedTuple):
    """What parts the listed cells from the others, by measure of `RANKED`; −inf where nothing does yet. Changed by each ranking."""

    rows: np.ndarray
    """float64 [Du, 12]."""
    columns: np.ndarray
    """float64 [Dd, 12]."""

    @classmethod
    def none(cls, rows: int, columns: int) -> Separators:
        """Before the first ranking."""
        return cls(*(np.full((size, len(RANKED)), -np.inf) for size in (rows, columns)))


class Listed(NamedTuple):
    """The listed cells of every line: line l has `cells[offsets[l]:offsets[l + 1]]`, indices of supported cells, in their order."""

    offsets: np.ndarray
    """int64 [D + 1]."""
    cells: np.ndarray
    """int64 [n]."""
    partner: np.ndarray
    """int32 [n], their column, or row."""

    def fill(self, cells: Supported, rows: np.ndarray) -> None:
        """Write them into rows [n] with the fields index (the partner), joint, joint_a, product and decoder_cosine."""
        columns = (cells.joint, cells.joint_a, cells.product, cells.cosine)
        fields = [rows[name] for name in ("joint", "joint_a", "product", "decoder_cosine")]
        rows["index"] = self.partner
        _fill(self.cells, columns, (fields[0], fields[1], fields[2], fields[3]))


@overload
def supported_cells(
    counts: np.ndarray, products: np.ndarray, least: int, cosines: np.ndarray | None = None, most: None = None
) -> Supported: ...
@overload
def supported_cells(
    counts: np.ndarray, products: np.ndarray, least: int, cosines: np.ndarray | None, most: int
) -> Supported | None: ...
def supported_cells(
    counts: np.ndarray, products: np.ndarray, least: int, cosines: np.ndarray | None = None, most: int | None = None
) -> Supported | None:
    """The cells with a joint count of at least `least`; None where they are more than `most`.

    Args:
        counts: int32 or int64 [Du, Dd, 2], joint counts by half.
        products: float64 [Du, Dd], Σab.
        least: at least 1.
        cosines: float32 [Du, Dd], decoder cosines, NaN where there is none; None where none is known.
        most: None for any number.

    Raises:
        ValueError: an array of another type or shape, named.
    """
    check_table(counts, products, cosines, least)
    offsets = np.zeros(len(counts) + 1, np.int64)
    _count_supported(counts, least, offsets)
    np.cumsum(offsets, out=offsets)
    size = int(offsets[-1])
    if most is not None and size > most:
        return None
    cells = Supported(
        offsets,
        np.empty(size, np.int32),
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(size),
        np.full(size, np.nan, np.float32) if cosines is None else np.empty(size, np.float32),
    )
    known = cosines is not None
    _take(counts, products, np.zeros((1, 1), np.float32) if cosines is None else cosines, known, least, *cells)
    return cells


def listed_cells(
    cells: Supported,
    up: Features,
    down: Features,
    tokens: int,
    measures: Sequence[str],
    k: int,
    effects: np.ndarray | None = None,
    separators: Separators | None = None,
) -> tuple[Listed, Listed]:
    """The cells that are in the top k of their row, and those in that of their column, by any of the measures.

    Args:
        cells: those that can be listed; their counts go with those of the features.
        up, down: the features of the rows and of the columns.
        tokens: N.
        measures: some of `RANKED`.
        k: length of the lists; ties go to the smaller index.
        effects: float64 [32], see `BestCells`.
        separators: those of the last ranking of the same table, with the same measures and k; they are changed to those of this
            one. They change how long it takes and not what is found.

    Raises:
        ValueError: an argument that does not fit, named.
    """
    check_ranking(measures, RANKED, k)
    check_features("up", up)
    check_features("down", down)
    wanted = np.isin(np.array(RANKED), measures)
    by_bin = np.full(EFFECT_BINS, np.nan) if effects is None else np.maximum(effects, 1.0)
    tempered = by_bin, _tempered(by_bin)
    sides = _Side.of(up, tokens), _Side.of(down, tokens)
    values = _distinct(sides)
    widths = [_half_widths(side.columns[_COUNT], values) for side in sides]
    classes = [np.searchsorted(values, side.effect).astype(np.int64) for side in sides]  # NaN: behind the last
    parts = Separators.none(len(up.count), len(down.count)) if separators is None else separators
    turned, order = _by_column(cells, len(down.count))
    found = []
    for lines, mine, other, moved, by_row in ((cells, 0, 1, parts.rows, True), (turned, 1, 0, parts.columns, False)):
        marks = np.zeros(len(lines.column), bool)
        own, others = sides[mine].columns, sides[other].columns
        pearson = classes[mine], classes[other], widths[mine], widths[other], values
        columns = lines.column, lines.joint, lines.product, lines.cosine
        _rank(lines.offsets, columns, float(tokens), own, others, pearson, by_row, wanted, k, tempered, moved, marks)
        chosen = np.flatnonzero(marks)
        listed = chosen if by_row else order[chosen]
        found.append(Listed(np.searchsorted(chosen, lines.offsets), listed, lines.column[chosen]))
    return found[0], found[1]


class _Side(NamedTuple):
    """The features of a layer as the lines need them: float64 [5, D], NaN for a root that nothing can be divided by; and the
    effects of their rates, at least 6."""

    columns: np.ndarray
    effect: np.ndarray

    @classmethod
    def of(cls, features: Features, tokens: int) -> _Side:
        columns = features.columns(tokens)
        roots = columns[:, [_PHI_ROOT, _PEARSON_ROOT, _COSINE_ROOT]]
        kept = np.concatenate([columns[:, [_COUNT, _SUM]], np.where(roots > 0, roots, np.nan)], axis=1)
        return cls(np.ascontiguousarray(kept.T), np.maximum(columns[:, -1], PEARSON_LEAST_EFFECT))


def _distinct(sides: Sequence[_Side]) -> np.ndarray:
    """The different effects of rates of both layers, ascending, and NaN; by frequency they are some ten."""
    effects = np.concatenate([side.effect for side in sides])
    return np.append(np.unique(effects[np.isfinite(effects)]), np.nan)


def _by_column(cells: Supported, columns: int) -> tuple[Supported, np.ndarray]:
    """The cells column by column (`column` holds their rows then), and which each of them is: int64 [n]."""
    offsets = np.zeros(columns + 1, np.int64)
    np.cumsum(np.bincount(cells.column, minlength=columns), out=offsets[1:])
    turned = Supported(offsets, *(np.empty_like(column) for column in cells[1:]))
    order = np.empty(len(cells.column), np.int64)
    _turn(cells, offsets[:-1].copy(), turned, order)
    return turned, order


@_compile
def _count_supported(counts, least, offsets):
    for i in range(counts.shape[0]):
        row = counts[i]
        found = 0
        for j in range(counts.shape[1]):
            found += 1 if row[j, 0] + row[j, 1] >= least else 0
        offsets[i + 1] = found


@_compile
def _take(counts, products, cosines, known, least, offsets, column, joint, joint_a, product, cosine):
    for i in range(counts.shape[0]):
        row, at = counts[i], offsets[i]
        for j in range(counts.shape[1]):
            both = row[j, 0] + row[j, 1]
            if both >= least:
                column[at], joint[at], joint_a[at], product[at] = j, both, row[j, 0], products[i, j]
                if known:
                    cosine[at] = cosines[i, j]
                at += 1


@_compile
def _fill(chosen, columns, fields):
    for at in range(len(chosen)):
        cell = chosen[at]
        fields[0][at], fields[1][at] = columns[0][cell], columns[1][cell]
        fields[2][at], fields[3][at] = columns[2][cell], columns[3][cell]


@_compile
def _turn(cells, places, turned, order):
    for i in range(len(cells.offsets) - 1):
        for at in range(cells.offsets[i], cells.offsets[i + 1]):
            to = places[cells.column[at]]
            places[cells.column[at]] = to + 1
            turned.column[to], turned.joint[to], turned.product[to] = i, cells.joint[at], cells.product[at]
            turned.cosine[to] = cells.cosine[at]
            order[to] = at


@_compile
def _half_widths(counts, values):
    """float64 [V, D]: `pearson_half_width` of every feature's count over every effect."""
    found = np.empty((len(values), len(counts)))
    for at in range(len(values)):
        for feature in range(len(counts)):
            found[at, feature] = pearson_half_width(counts[feature] / values[at], ALPHA)
    return found


@_compile
def _tempered(by_bin):
    """float64 [2, SMALL]: of small joint counts the effect, and `log_half` of the count over it."""
    found = np.empty((2, _SMALL))
    for count in range(_SMALL):
        effect = by_bin[effect_bin(count)]
        found[0, count], found[1, count] = effect, log_half(count / effect)
    return found


@_compile
def _gather(index, source, target):
    for at in range(len(index)):
        target[at] = source[index[at]]


@_compile
def _ratios(numerators, denominators, scores):
    for at in range(len(scores)):
        scores[at] = numerators[at] / denominators[at]


@_compile
def _correlations(n, both, own, others, own_root, roots, scores):
    """(n Σxy − Σx Σy) over the roots, in [−1, 1] whatever rounding does; NaN where a root is."""
    for at in range(len(scores)):
        score = (n * both[at] - own * others[at]) / (own_root * roots[at])
        score = 1.0 if score > 1.0 else score
        scores[at] = -1.0 if score < -1.0 else score


@_compile
def _cosines(product, own_root, roots, scores):
    for at in range(len(scores)):
        score = product[at] / (own_root * roots[at])
        scores[at] = 1.0 if score > 1.0 else score


@_compile
def _informations(phi, joint, n, n_own, n_others, by_row, least, scores, which):
    """Mutual information where it can reach `least`, else NaN."""
    size = 0
    for at in range(len(phi)):
        scores[at] = np.nan
        which[size] = at
        size += 0 if phi[at] * phi[at] * (1.0 + 1e-9) < least else 1
    for at in which[:size]:
        if information_below(n, n_own, n_others[at], joint[at], phi[at], least):
            continue
        if by_row:
            scores[at] = information(n, n_own, n_others[at], joint[at])
        else:
            scores[at] = information(n, n_others[at], n_own, joint[at])


@_compile
def _pearson_bounds(r, partner, line, n_own, n_others, pearson, effective, half_widths, scores):
    """`pearson_lower_bound` of a line's cells: the half width depends on the rarer feature and the larger effect."""
    own_classes, classes, own_widths, widths, values = pearson
    own_class = own_classes[line]
    for at in range(len(r)):
        effect = max(own_class, classes[partner[at]])
        rarer = n_own <= n_others[at]
        effective[at] = (n_own if rarer else n_others[at]) / values[effect]
        half_widths[at] = own_widths[effect, line] if rarer else widths[effect, partner[at]]
    for at in range(len(r)):
        scores[at] = pearson_shifted(r[at], effective[at], half_widths[at])


@_compile
def _rank(offsets, columns, n, own, others, pearson, by_row, wanted, k, tempered, separators, marks):
    """Marks what is listed, line by line. own, others: float64 [5, ·], see `_Side`; separators: float64 [L, 12]."""
    partners, joints, products, cosines = columns
    by_bin, small = tempered
    most = np.max(np.diff(offsets))
    space, which = np.empty((12, most)), np.empty(most, np.int64)
    for line in range(len(offsets) - 1):
        first, last = offsets[line], offsets[line + 1]
        if first == last:
            continue
        partner, joint, product = partners[first:last], joints[first:last], products[first:last]
        marked, moved = marks[first:last], separators[line]
        size = last - first  # one slice after the other: numba sees that each is contiguous
        counts, both, scores, trials = space[0][:size], space[1][:size], space[2][:size], space[3][:size]
        deff, half, sums, r, work = space[4][:size], space[5][:size], space[6][:size], space[7][:size], space[8:]
        n_own = own[_COUNT, line]
        _gather(partner, others[_COUNT], counts)
        for at in range(len(joint)):
            both[at] = joint[at]
            if joint[at] < _SMALL:
                deff[at], half[at] = small[0, joint[at]], small[1, joint[at]]
            else:
                deff[at] = by_bin[effect_bin(joint[at])]
                half[at] = log_half(both[at] / deff[at])
        for measure in (_JACCARD, _SUFFICIENCY, _NECESSITY):
            of_own = (measure == _SUFFICIENCY) == by_row
            if measure == _JACCARD:
                for at in range(len(both)):
                    trials[at] = n_own + counts[at] - both[at]
            elif of_own:
                trials[:] = n_own
            else:
                trials[:] = counts
            if wanted[measure]:
                _ratios(both, trials, scores)
                moved[measure] = part(scores, k, moved[measure], marked, work[0])
            if wanted[measure + _LOWER]:
                lower = measure + _LOWER
                likely = 0.25 * moved[measure]
                moved[lower] = part_by_bound(both, trials, deff, half, k, moved[lower], likely, marked, work, which)
        if wanted[_PHI] or wanted[_INFORMATION]:
            _gather(partner, others[_PHI_ROOT], r)
            _correlations(n, both, n_own, counts, own[_PHI_ROOT, line], r, scores)
            if wanted[_PHI]:
                moved[_PHI] = part(scores, k, moved[_PHI], marked, work[0])
            if wanted[_INFORMATION]:
                least = 0.8 * moved[_INFORMATION]
                _informations(scores, both, n, n_own, counts, by_row, least, trials, which)
                if count_from(trials, moved[_INFORMATION]) != k and count_from(trials, least) <= k:
                    _informations(scores, both, n, n_own, counts, by_row, -np.inf, trials, which)
                moved[_INFORMATION] = part(trials, k, moved[_INFORMATION], marked, work[0])
        if wanted[_PEARSON] or wanted[_PEARSON_LOWER]:
            _gather(partner, others[_PEARSON_ROOT], scores)
            _gather(partner, others[_SUM], sums)
            _correlations(n, product, own[_SUM, line], sums, own[_PEARSON_ROOT, line], scores, r)
            if wanted[_PEARSON]:
                moved[_PEARSON] = part(r, k, moved[_PEARSON], marked, work[0])
            if wanted[_PEARSON_LOWER]:
                _pearson_bounds(r, partner, line, n_own, counts, pearson, sums, trials, scores)
                moved[_PEARSON_LOWER] = part(scores, k, moved[_PEARSON_LOWER], marked, work[0])
        if wanted[_COSINE]:
            _gather(partner, others[_COSINE_ROOT], r)
            _cosines(product, own[_COSINE_ROOT, line], r, scores)
            moved[_COSINE] = part(scores, k, moved[_COSINE], marked, work[0])
        if wanted[_DECODER]:
            for at in range(len(both)):
                scores[at] = cosines[first + at]
            moved[_DECODER] = part(scores, k, moved[_DECODER], marked, work[0])
