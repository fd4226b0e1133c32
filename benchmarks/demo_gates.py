"""Gates of the demo model: how many there are, that counting token by token says the same of the best, and text that shows them.

    python -m benchmarks.demo_gates [--documents N] [--out FILE]

1. Count both corpora with the engine's own parts and judge every nominated gate (`engine.views.gate_records.judge`).
2. Take the ten published gates with the highest lower end of the gain's interval, count their truth tables again from the dense
   activations of the tokens after their nomination, and end with a sentence where a cell differs.
3. Write tables and, for each gate, a token at which it holds with its child, one at which a parent alone is active, and one at
   which the child is active without it.
"""

from __future__ import annotations

import argparse
import itertools
import logging
from pathlib import Path
from typing import cast

import numpy as np

from benchmarks.relation_run import Run, counted
from engine.corpus.segment import TokenSegment
from engine.demo.text import CORPORA, demo_documents
from engine.encoder.encoder import ModelEncoder
from engine.measures.gate_tests import VERDICTS
from engine.measures.gates import AND_NOT, KINDS, PARENTS, gate_counts, holds, quality
from engine.views.gate_records import judge

log = logging.getLogger(__name__)

OUT = Path(__file__).parent / "results" / "gates.md"
SHOWN = 10
SIDE = 9  # tokens of text to each side


class Disagreement(Exception):
    """The engine and counting token by token say different things of a gate."""


def texts_of(run: Run) -> np.ndarray:
    """int32, the token ids of the log in order."""
    log_ = run.loop.corpus
    return np.concatenate([cast(TokenSegment, log_.read(number)).tokens for number in range(log_.last + 1)])


def name(layer: int, feature: int, negated: bool = False) -> str:
    """ "not 3:17"."""
    return f"{'not ' if negated else ''}{layer}:{feature}"


def example(run: Run, ids: np.ndarray, chosen: np.ndarray, start: int) -> str:
    """The text around the middle one of the chosen tokens (bool, from `start` on)."""
    places = np.flatnonzero(chosen) + start
    if not len(places):
        return "never"
    at = int(places[len(places) // 2])
    tokenizer = cast(ModelEncoder, run.loop.encoder).tokenizer
    assert tokenizer is not None
    before, here, after = (
        tokenizer.decode(part.tolist()) for part in (ids[max(0, at - SIDE) : at], ids[[at]], ids[at + 1 : at + SIDE])
    )
    return f"`{before}⟦{here}⟧{after}`".replace("\n", "⏎")


def gate_lines(run: Run, ids: np.ndarray, pair: tuple[int, int], row: np.ndarray) -> list[str]:
    """One gate in Markdown, after its cells were counted again.

    Raises:
        Disagreement: a cell differs.
    """
    up, down = pair
    kind, start = int(row["kind"]), int(row["counted_from"])
    parents = [int(parent) for parent in row["parents"][: PARENTS[kind]]]
    a, y = run.activations.active(up, parents, start), run.activations.active(down, [int(row["child"])], start)[:, 0]
    index = 8 * y + (a << np.arange(len(parents))).sum(axis=1)
    cells = np.bincount(index, minlength=16)
    if not np.array_equal(cells, row["cells"]):
        raise Disagreement(f"the gate {row} has the cells {row['cells'].tolist()}, token by token they are {cells.tolist()}")
    counts = gate_counts(row["kind"][None], row["cells"][None])
    fit = quality(counts.both, counts.predicted, counts.child, row["tokens"])
    words = f" {'or' if KINDS[kind] == 'or' else 'and'} ".join(
        name(up, parent, kind == AND_NOT and place == 1) for place, parent in enumerate(parents)
    )
    if KINDS[kind] == "k_of_n":
        words = "2 of " + ", ".join(name(up, parent) for parent in parents)
    best = row["sums"].sum(axis=0)
    gain = 2 * best[0] / (best[1] + best[4]) - 2 * best[2] / (best[3] + best[4])
    table = ", ".join(
        f"{''.join(str(pattern >> place & 1) for place in range(len(parents)))}: {row['cells'][8 + pattern]:,} of "
        f"{row['cells'][pattern] + row['cells'][8 + pattern]:,}"
        for pattern in range(1 << len(parents))
    )
    gate = holds(kind, *a.T)
    alone = a.any(axis=1) & ~gate if kind != AND_NOT else a.all(axis=1)
    return [
        f"- **{down}:{row['child']}** ← {words}: F1 {fit.f1[0]:.3f} (precision {fit.precision[0]:.3f}, recall {fit.recall[0]:.3f}),"
        f" gain over {name(up, int(row['best']))} {gain:.3f} ({row['lower']:.3f} to {row['upper']:.3f}), {row['deciding']:,}"
        f" deciding documents since token {start:,}. Child active, by parents: {table}.",
        f"  Gate and child: {example(run, ids, gate & y, start)}; no gate: {example(run, ids, alone & ~y, start)}; child without "
        f"gate: {example(run, ids, y & ~gate, start)}",
    ]


def report(run: Run) -> str:
    """All of it in Markdown."""
    found = judge(run.loop.state, run.loop.effects)
    lines = [f"{run.tokens:,} tokens, {sum(map(len, found.rows.values())):,} nominated gates", ""]
    lines += ["| layers | " + " | ".join(f"{kind}: gate, joint" for kind in KINDS) + " |", "|---" * (len(KINDS) + 1) + "|"]
    for (up, down), rows in found.rows.items():
        told = []
        for kind in range(len(KINDS)):
            verdicts = rows["verdict"][rows["kind"] == kind].tolist()
            told.append(", ".join(str(verdicts.count(VERDICTS.index(verdict))) for verdict in ("gate", "joint")))
        lines.append(f"| {up} → {down} | " + " | ".join(told) + " |")
    best = [
        (float(row["lower"]), pair, row)
        for pair, rows in found.rows.items()
        for row in rows[rows["verdict"] == VERDICTS.index("gate")]
        if np.isfinite(row["lower"])
    ]
    best.sort(key=lambda one: -one[0])
    ids = texts_of(run)
    lines.append("")
    for _, pair, row in best[:SHOWN]:
        lines += gate_lines(run, ids, pair, row)
    return "\n".join(lines)


def main() -> None:
    """Count, compare, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--documents", type=int, metavar="N", help="of each corpus at most (default: all)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"where to write (default: {OUT.name} beside the rows)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    texts = [text for corpus in CORPORA for text in itertools.islice(demo_documents(corpus), options.documents)]
    with counted("demo", texts) as run:
        options.out.write_text(report(run) + "\n")
    log.info("written to %s", options.out)


if __name__ == "__main__":
    main()
