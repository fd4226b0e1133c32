"""Every relation on two corpora: what the analysis worker answers, that brute force says the same, and the best examples.

    python -m benchmarks.relations [--documents N] [--out FILE]

1. Count a corpus of the demo alone, with the engine's own parts, and publish it (`benchmarks.relation_run`).
2. Ask every relation of the analysis code, and compute each from the dense activations of the same tokens with plain numpy
   (`benchmarks.brute_force`). They agree, or this ends with a sentence that says in what they don't (`benchmarks.relation_check`).
3. Do the same with the other corpus, and compare the two.
4. Write what was found as Markdown: tables with both corpora side by side, and examples with numbers, intervals and text.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import relation_examples as examples
from benchmarks.brute_force import Pair, Question, Tables, scores
from benchmarks.relation_check import (
    Flow,
    Specialized,
    check_flow,
    check_lineages,
    check_matching,
    check_specializations,
    demo_sae,
    dense_tables,
)
from benchmarks.relation_run import Run, counted
from engine.demo.text import CORPORA, demo_documents
from engine.views.relation_answers import LineageAnswer, LineagesAnswer, MatchAnswer, MatchingAnswer

log = logging.getLogger(__name__)

OUT = Path(__file__).parent / "results" / "relations.md"
THRESHOLD = 0.4
MEASURES = ("pearson", "jaccard")
STRICT, WIDE = Question(0.8, 0.8, 0.1, 10), Question(0.7, 0.6, 0.2, 10)
"""Specialisations as `/v1/specializations` takes them by default, and as far as the engine counts siblings for them."""

FEWEST = 300
"""Tokens of each corpus on which a feature fires that is shown as one that passes in one of them only."""


class Study(NamedTuple):
    """One corpus: what the worker answers, and what it was compared with."""

    run: Run
    dense: dict[Pair, Tables]
    flows: dict[str, Flow]
    lineages: dict[str, tuple[LineagesAnswer, list[LineageAnswer]]]
    strict: Specialized
    wide: Specialized
    matching: dict[Pair, tuple[MatchingAnswer, list[MatchAnswer]]]


def study(run: Run) -> Study:
    """Ask and check every relation.

    Raises:
        Disagreement: the answers are not those of brute force.
    """
    dense = dense_tables(run)
    hooks = [layer.hook for layer in run.whole.run.layers]
    return Study(
        run,
        dense,
        {measure: check_flow(run, dense, measure, THRESHOLD) for measure in MEASURES},
        {measure: check_lineages(run, dense, measure, THRESHOLD) for measure in MEASURES},
        check_specializations(run, dense, STRICT),
        check_specializations(run, dense, WIDE),
        check_matching(run, dense, "pearson", THRESHOLD, demo_sae(hooks)),
    )


def report(studies: list[Study]) -> str:
    """The Markdown of two corpora."""
    names = [one.run.corpus for one in studies]
    parts = [
        " and ".join(f"`{one.run.corpus}` ({one.run.documents:,} documents, {one.run.tokens:,} tokens)" for one in studies),
        _flow_table(studies, names),
        _summary(studies, names),
        *_examples(studies),
    ]
    return "\n\n".join(parts) + "\n"


def _flow_table(studies: list[Study], names: list[str]) -> str:
    heads = ["passed (live)", "disappeared, live (all)", "appeared, live (all)", "matched, decoders agree"]
    lines = [
        "| layers | " + " | ".join(f"{name}: {heads[0]} | {' | '.join(heads[1:])}" for name in names) + " | passes in one only |",
        "|---" * (2 + len(heads) * len(names)) + "|",
    ]
    for at, pair in enumerate(studies[0].dense):
        cells = [f"{pair[0]} → {pair[1]}"]
        for one in studies:
            flow, (answer, _) = one.flows["pearson"].answer.pairs[at], one.matching[pair]
            assert flow.passed.live.share is not None and answer.agreement is not None and answer.agreement.share is not None
            cells.append(f"{flow.passed.live.count} ({100 * flow.passed.live.share:.1f} %)")
            for group in (flow.disappeared, flow.appeared):
                cells.append(f"{100 * (group.live.share or 0):.1f} ({100 * (group.all.share or 0):.1f}) %")
            cells.append(f"{answer.by_measure.matched}, {100 * answer.agreement.share:.1f} %")
        cells.append(" / ".join(str(len(only)) for only in passes_in_one(studies, pair)))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def passes_in_one(studies: list[Study], pair: Pair) -> tuple[set[int], set[int]]:
    """Upstream features, live in both corpora, that pass (Pearson) in the first alone, and in the second alone."""
    passing, live = [], np.ones(studies[0].run.activations.sizes[pair[0]], bool)
    for one in studies:
        table = one.dense[pair]
        passing.append((scores(table, "pearson", THRESHOLD, one.run.whole.graph.min_support) > -np.inf).any(axis=1))
        live &= table.up > 0
    first, second = (set(np.flatnonzero(live & passing[at] & ~passing[1 - at]).tolist()) for at in range(2))
    return first, second


def _summary(studies: list[Study], names: list[str]) -> str:
    rows: dict[str, list[str]] = {}
    for one in studies:
        for measure, (answer, _) in one.lineages.items():
            lengths = ", ".join(f"{row.count} of {row.length}" for row in answer.lengths if row.length > 1)
            rows.setdefault(f"lineages by layers, {measure} ≥ {THRESHOLD:g}", []).append(lengths)
        passed = ", ".join(f"{100 * (pair.passed.live.share or 0):.0f}" for pair in one.flows["jaccard"].answer.pairs) + " %"
        rows.setdefault(f"passed (live), jaccard ≥ {THRESHOLD:g}", []).append(passed)
        for question, found in ((STRICT, one.strict), (WIDE, one.wide)):
            name = f"specialisations, necessity ≥ {question.necessity:g}, coverage ≥ {question.coverage:g}"
            exact = sum(item.conditions.exclusive == "exact" for item in found.items)
            words = f"{exact} exact and {len(found.items) - exact} bounded, of {found.counted} parents that are counted"
            words += f"; over all tokens, by brute force, {len(found.everywhere)}"
            rows.setdefault(f"{name}, shared ≤ {question.max_overlap:g}", []).append(words)
    lines = ["| | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())])


def _examples(studies: list[Study]) -> list[str]:
    found = []
    for title, of in (
        ("Passed", lambda one: examples.passed(one.run, one.flows["pearson"])),
        ("Disappeared", lambda one: examples.without_partner(one.run, one.flows["pearson"], "disappeared")),
        ("Appeared", lambda one: examples.without_partner(one.run, one.flows["pearson"], "appeared")),
        ("Lineage", lambda one: examples.lineage(one.run, one.lineages["pearson"][1])),
        ("Specialisation", _specialization),
        ("Matched, decoders disagree", _decoders_disagree),
    ):
        found.append("\n".join([f"**{title}**", *(f"- `{one.run.corpus}`: {of(one)}" for one in studies)]))
    return [*found, _difference(studies)]


def _specialization(one: Study) -> str:
    exact = [item for item in one.wide.items if item.conditions.exclusive == "exact"]
    return examples.specialization(one.run, exact[0]) if exact else "none is exact"


def _decoders_disagree(one: Study) -> str:
    return examples.decoders_disagree(one.run, [item for _, items in one.matching.values() for item in items])


def _difference(studies: list[Study]) -> str:
    """The feature whose best Pearson differs most between the corpora, among those that pass in one only."""
    found = []
    for pair in studies[0].dense:
        for at, features in enumerate(passes_in_one(studies, pair)):
            for feature in features:
                if min(one.dense[pair].up[feature] for one in studies) >= FEWEST:
                    best = [_best(one, pair, feature) for one in studies]
                    found.append((best[at] - best[1 - at], f"{pair[0]}:{feature}", at))
    if not found:
        return "**Passes in one corpus only**: no frequent feature"
    _, feature, at = max(found)
    lines = [f"**Passes in one corpus only** ({studies[at].run.corpus}): {feature}"]
    for one in studies:
        near, (layer, index) = examples.nearest(one.run, feature, "downstream"), examples.feature_of(feature)
        assert near is not None
        fired = int(one.run.whole.graph.layers[layer].count[index])
        words = f"{fired:,} tokens, nearest {near.feature}, {examples.in_words(near, 'Pearson')}"
        lines.append(f"- `{one.run.corpus}`: {words}; {examples.both_fire(one.run, feature, near.feature)}")
    return "\n".join(lines)


def _best(one: Study, pair: Pair, feature: int) -> float:
    table = one.dense[pair]
    values = np.where(table.joint[feature] >= one.run.whole.graph.min_support, table.measures["pearson"][feature], -np.inf)
    return float(np.nanmax(values))


def main() -> None:
    """Count, check, show and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, metavar="N", help="of each corpus at most (default: all)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"the Markdown file (default: {OUT})")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with ExitStack() as stack:
        studies = []
        for corpus in CORPORA:
            began = time.perf_counter()
            run = stack.enter_context(counted(corpus, list(itertools.islice(demo_documents(corpus), options.documents))))
            log.info("%s: %d tokens counted in %.0f s", corpus, run.tokens, time.perf_counter() - began)
            studies.append(study(run))
            log.info("%s: every relation agrees with brute force, %.0f s", corpus, time.perf_counter() - began)
        text = report(studies)
    options.out.write_text(text, encoding="utf-8")
    log.info("%s\n%s", options.out, text)


if __name__ == "__main__":
    main()
