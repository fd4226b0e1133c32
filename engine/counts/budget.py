"""A memory budget: which layer pairs get a dense table and which a bounded one, and how much room that has.

budget − all other statistics − a part for the work ──▶ shares of the layer pairs, by the sizes of their dictionaries
a dense table that fits into its share is taken, and the rest is shared out again ──▶ rows of the others
"""

from __future__ import annotations

from typing import NamedTuple

from engine.counts.bounded import bytes_for
from engine.counts.pairs import PairTable
from engine.counts.shape import LayerPair, RowSlots, RunShape
from engine.counts.state import bytes_needed
from engine.errors import DoesNotFit

WORK = 0.05
"""Of the budget, for batches that are gathered and for what reads the tables."""

LEAST_SLOTS = 16
"""On average, of a row of a bounded table: with fewer it says nothing."""

MOST_SLOTS = 4
"""Times the average: what a row may have at most, where others need less."""


class TableLayout(NamedTuple):
    """The table of one layer pair.

    Attributes:
        pair: its layers.
        layout: "dense", every pair of features; "bounded", the partners that each feature fires with most often.
        bytes: of memory that it may take.
        kept: partners that every feature keeps at least, in either direction; kept_most: at most; None in a dense table. A partner
            is there in any case where joint / W > 1 / (kept + 1), W being the joint counts of the feature with all partners.
    """

    pair: LayerPair
    layout: str
    bytes: int
    kept: int | None = None
    kept_most: int | None = None


def fit(shape: RunShape, budget: int | None) -> RunShape:
    """The shape with the tables that fit into a budget; every one dense without one.

    Raises:
        DoesNotFit: not even the smallest tables do; the message says what is needed.
    """
    if budget is None:
        return shape
    dense = {pair: PairTable.bytes_at(shape, pair) for pair in shape.pairs}
    fixed = bytes_needed(shape) - sum(dense.values())
    room = int(budget * (1 - WORK)) - fixed
    bounded, left = dict.fromkeys(shape.pairs), room
    while found := [pair for pair in bounded if dense[pair] * _weight(shape, *bounded) <= left * _weight(shape, pair)]:
        for pair in found:
            del bounded[pair]
            left -= dense[pair]
    smallest = RowSlots(LEAST_SLOTS, MOST_SLOTS * LEAST_SLOTS)
    least = sum(_bytes(shape, pair, smallest) for pair in bounded)
    if least > left:
        needed = -(-(fixed + sum(_bytes(shape, pair, smallest) for pair in shape.pairs)) * 100 // round(100 * (1 - WORK)))
        raise DoesNotFit(
            f"--memory-budget of {budget:,} bytes: the statistics of single features need {fixed:,}, and with the smallest tables "
            f"for {len(shape.pairs)} layer pairs it takes {needed:,} ({-(-needed // 10**6):,} MB)"
        )
    total = _weight(shape, *bounded)
    return shape.with_bounded({pair: _slots(shape, pair, left * _weight(shape, pair) // total) for pair in bounded})


def layouts(shape: RunShape) -> list[TableLayout]:
    """The tables of a shape, in the order of its layer pairs."""
    return [_layout(shape, pair) for pair in shape.pairs]


def describe(shape: RunShape) -> str:
    """What the tables guarantee, as a sentence for a log."""
    bounded = [table for table in layouts(shape) if table.layout == "bounded"]
    if not bounded:
        return f"{len(shape.pairs)} dense pair tables: every joint count is exact"
    kept, size = min(table.kept or 0 for table in bounded), sum(table.bytes for table in bounded)
    return (
        f"{len(bounded)} of {len(shape.pairs)} pair tables are bounded ({size / 1e9:.1f} GB): every feature keeps at least the "
        f"{kept:,} partners that it fires with most often, and each count says how much it may lack"
    )


def _layout(shape: RunShape, pair: LayerPair) -> TableLayout:
    if pair not in shape.bounded:
        return TableLayout(pair, "dense", PairTable.bytes_at(shape, pair))
    average, most = shape.bounded[pair]
    size, widest = _bytes(shape, pair, shape.bounded[pair]), max(shape.dictionaries[layer] for layer in pair)
    return TableLayout(pair, "bounded", size, max(1, average // 2), min(most, widest))


def _weight(shape: RunShape, *pairs: LayerPair) -> int:
    """Rows of the tables of some layer pairs, in both directions."""
    return sum(shape.dictionaries[layer] for pair in pairs for layer in pair)


def _bytes(shape: RunShape, pair: LayerPair, slots: RowSlots) -> int:
    return bytes_for(shape.dictionaries[pair[0]], shape.dictionaries[pair[1]], slots)


def _slots(shape: RunShape, pair: LayerPair, room: int) -> RowSlots:
    """The most slots per row whose table fits into so many bytes."""
    low, high = LEAST_SLOTS, max(LEAST_SLOTS + 1, *(shape.dictionaries[layer] for layer in pair))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _bytes(shape, pair, RowSlots(middle, MOST_SLOTS * middle)) <= room else (low, middle)
    return RowSlots(low, MOST_SLOTS * low)
