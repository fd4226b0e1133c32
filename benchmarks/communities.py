"""Communities of the demo model: how far they can be trusted, and what the most stable ones fire on.

    python -m benchmarks.communities [--documents N] [--out FILE]

1. Count both corpora as one with the engine's own parts, and split the snapshot as the analysis worker does for `/v1/communities`,
   by several parameters.
2. Make the same three graphs from the engine's whole pair tables, and say how many edges the published lists lack, and how far the
   halves agree without them. Split the same graph with other seeds: halves can't agree better than that.
3. Write a table, and for the five most stable communities their features and the texts of their strongest activations.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.relation_examples import contexts, text
from benchmarks.relation_run import Run, counted
from engine.analysis.communities import listed, one_community
from engine.analysis.community_ids import CommunityIds
from engine.analysis.community_splits import Split, split
from engine.counts.pairs import PairTable
from engine.demo.text import CORPORA, demo_documents
from engine.measures.communities import CrossLayerGraph, PairEdges, communities, cross_layer_graph
from engine.measures.convergence import half_estimates
from engine.measures.partitions import adjusted_mutual_information
from engine.views.communities import MAX_SIZE, MIN_SIZE, CommunitiesRequest, CommunityRequest, Partition, partition_of
from engine.views.community_answers import CommunityAnswer, CommunityItemAnswer

log = logging.getLogger(__name__)

OUT = Path(__file__).parent / "results" / "communities.md"
SHOWN = 5
SEEDS = range(1, 6)
FEATURES, TEXTS = 10, 1  # of a community, and of a feature

ASKED = [
    {},
    {"rank": "estimate"},
    {"resolution": 10.0},
    {"min_value": 0.2},
    {"min_value": 0.4},
    {"objective": "cpm"},
    {"measure": "pearson", "min_value": 0.3},
]
TOLD = [{}, {"min_value": 0.4}, {"objective": "cpm"}]
"""Those whose most stable communities are shown."""


def parameters(run: Run, **given: object) -> Partition:
    """As `/v1/communities` fills them in."""
    defaults = {"measure": "jaccard", "min_value": None, "rank": None, "objective": "modularity", "resolution": None}
    return partition_of(**{**defaults, **given}, min_support=run.whole.graph.min_support)  # pyright: ignore[reportArgumentType]


def agreement(a: CrossLayerGraph, b: CrossLayerGraph, labels_a: np.ndarray, labels_b: np.ndarray) -> float:
    """Adjusted mutual information over the features in both."""
    _, *at = np.intersect1d(a.number, b.number, assume_unique=True, return_indices=True)
    return adjusted_mutual_information(labels_a[at[0]], labels_b[at[1]])


def table(splits: list[Split], seconds: list[float]) -> list[str]:
    """A line for each set of parameters."""
    heads = "| measure | at least | by | objective, γ | features | edges | communities | of 5–199 | quality | halves agree | CPU |"
    lines = [heads, "|---" * 11 + "|"]
    for found, took in zip(splits, seconds, strict=True):
        answer, items = listed(found, every(found.by))
        agreed = answer.agreement.adjusted_mutual_information
        lines.append(
            f"| {answer.measure} | {answer.min_value:g} | {answer.rank} | {answer.objective}, {answer.resolution:g} | "
            f"{answer.nodes:,} | {answer.edges:,} | {answer.communities:,} | {len(items)} | {answer.quality:.3f} | "
            f"{'–' if agreed is None else f'{agreed:.3f}'} | {took:.1f} s |"
        )
    return lines


def every(by: Partition) -> CommunitiesRequest:
    """The most stable communities of the default sizes."""
    return CommunitiesRequest(by=by, min_size=MIN_SIZE, max_size=MAX_SIZE, min_span=1, sort="stability")


def against_whole_tables(run: Run) -> str:
    """What the lists lack, and what that does to the agreement of the halves; by estimates, which whole tables are compared by."""
    by, state = parameters(run, rank="estimate"), run.loop.state
    sizes = [len(layer.count) for layer in run.whole.graph.layers]
    whole, missing = [], []
    for half in (None, 0, 1):
        listed_edges = 0
        edges = {}
        for pair, of_pair in state.pairs.items():
            assert isinstance(of_pair, PairTable), "the demo has room for dense tables"
            parts = (of_pair.counts.cpu().numpy(), *(state.marginals[layer].by_half.cpu().numpy() for layer in pair))
            joint, up, down = (part.sum(-1) if half is None else part[..., half] for part in parts)
            value = half_estimates("jaccard", joint, up[:, None], down[None, :])
            support = by.min_support if half is None else by.min_support // 2
            i, j = np.nonzero((np.nan_to_num(value) >= by.min_value) & (joint >= support))
            edges[pair] = PairEdges(i, j, value[i, j])
            of_lists = run.whole.graph.edges[pair]
            known = of_lists.up.astype(np.int64) * sizes[pair[1]] + of_lists.down
            listed_edges += int(np.isin(i * sizes[pair[1]] + j, known).sum())
        graph = cross_layer_graph(edges, sizes)
        whole.append(graph)
        missing.append(f"{len(graph.up) - listed_edges:,} of {len(graph.up):,}")
    labels = [communities(graph, by.objective, by.resolution) for graph in whole]
    agreed = agreement(whole[1], whole[2], labels[1], labels[2])
    seeds = [communities(whole[0], by.objective, by.resolution, seed) for seed in SEEDS]
    same = [adjusted_mutual_information(labels[0], other) for other in seeds]
    return (
        f"By estimate, the published lists lack {missing[0]} edges of all documents, {missing[1]} of half A and {missing[2]} of "
        f"half B; with them the halves agree to {agreed:.3f}. Other seeds on the same graph agree with the first to "
        f"{min(same):.3f} to {max(same):.3f}."
    )


def described(run: Run, found: Split, item: CommunityItemAnswer) -> list[str]:
    """One community: its numbers, its strongest features, the tokens that they fire on most strongly, and texts."""
    one = one_community(found, CommunityRequest(by=found.by, number=int(item.id[1:])))
    halves = "" if item.stability is None else f", again in half A {item.stability.a:.0%} and in half B {item.stability.b:.0%}"
    rates = [feature.density for feature in one.features]
    lines = [
        f"- **{item.id}**: {item.size} features, layers {item.span.first} to {item.span.last} ({dict(item.layers)}), "
        f"{len(one.edges)} edges ({item.density:.0%} of the possible ones){halves}; they fire on {min(rates):.3%} to "
        f"{max(rates):.3%} of tokens: {' '.join(feature.feature for feature in one.features)}"
    ]
    tokens: Counter[str] = Counter()
    shown: dict[str, str] = {}
    for feature in spread(one, FEATURES):
        found_here = contexts(run, feature, feature)
        tokens.update(context.tokens[context.position] for context in found_here if context.tokens is not None)
        fresh = [words for context in found_here if (words := text(context, context.position)) not in shown]
        shown |= dict.fromkeys(fresh[:TEXTS], feature)
    lines.append("  - strongest at: " + ", ".join(f"{token!r} × {times}" for token, times in tokens.most_common(10)))
    return lines + [f"  - {feature}: {words}" for words, feature in shown.items()]


def spread(one: CommunityAnswer, count: int) -> list[str]:
    """The strongest features of a community, one of each layer by turns."""
    by_layer: dict[int, list[str]] = {}
    for feature in one.features:
        by_layer.setdefault(feature.layer, []).append(feature.feature)
    rows = itertools.zip_longest(*(by_layer[layer] for layer in sorted(by_layer)))
    return [feature for row in rows for feature in row if feature is not None][:count]


def report(run: Run, folder: Path) -> str:
    """All of it in Markdown."""
    splits, seconds = [], []
    for given in ASKED:
        began = time.process_time()
        splits.append(split(run.whole, parameters(run, **given), CommunityIds(folder)))
        seconds.append(time.process_time() - began)
    lines = [f"{run.tokens:,} tokens", "", *table(splits, seconds), "", against_whole_tables(run)]
    for found, given in zip(splits, ASKED, strict=True):
        if given not in TOLD:
            continue
        by = found.by
        lines += ["", f"The most stable by {by.measure} ≥ {by.min_value:g} ({by.rank}), {by.objective}, γ = {by.resolution:g}:", ""]
        for item in listed(found, every(by))[1][:SHOWN]:
            lines += described(run, found, item)
    return "\n".join(lines)


def main() -> None:
    """Count, split, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--documents", type=int, metavar="N", help="of each corpus at most (default: all)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"where to write (default: {OUT.name} beside the rows)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    texts = [text for corpus in CORPORA for text in itertools.islice(demo_documents(corpus), options.documents)]
    with counted("demo", texts) as run, tempfile.TemporaryDirectory() as folder:
        options.out.write_text(report(run, Path(folder)) + "\n")
    log.info("written to %s", options.out)


if __name__ == "__main__":
    main()
