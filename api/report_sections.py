"""The sections of a report, one function each: what it reads, and what its template `sections/NAME.html` shows of that.

A new section is a function here, its entry in `SECTIONS`, and its template.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from api import report_charts as charts
from api import report_texts as texts
from api.client import Client
from api.gate_tables import formula
from api.report_charts import Chart
from api.tables import number
from engine.measures.relations import consecutive

EXAMPLES = 3  # pairs that are listed of each layer pair; the first one with its text
SPECIALIZATIONS = 4
GATES = 10
TEXTS_OF_CHILDREN = 5  # children whose text is shown, the largest ones: each is a window that the engine encodes again
RELAXED = {"threshold": 0.5, "coverage": 0.5, "max_overlap": 0.5}


@dataclass(frozen=True)
class Run:
    """What is reported on: `/v1/status`, all of `/v1/corpora`, the server's address, and when they were read."""

    status: Any
    corpora: Sequence[Any]
    url: str
    read_at: str

    @property
    def hooks(self) -> list[str]:
        """The name of each layer."""
        return [layer["hook"] for layer in self.status["layers"]]


@dataclass(frozen=True)
class Section:
    """One section.

    Attributes:
        name: of its template, and its anchor.
        title: its heading; meaning: what its numbers mean, in two sentences.
        source: which state they are of, in words.
        shown: what the template is given beside the charts.
        charts: by the name that the template asks for.
    """

    name: str
    title: str
    meaning: str
    source: str
    shown: dict[str, Any]
    charts: dict[str, Chart] = field(default_factory=dict)


def measure_name(measure: str) -> str:
    """A measure within a sentence: "mutual information", and names of people in capitals."""
    return measure.capitalize() if measure in ("jaccard", "pearson") else measure.replace("_", " ")


def source_of(answer: Any) -> str:
    """Which state an answer is from."""
    snapshot = answer["snapshot"]
    return f"{number(snapshot['tokens'])} tokens, snapshot {snapshot['version']}"


def flow(client: Client, run: Run) -> Section:
    """`/v1/flow` with its defaults, as Sankey along the consecutive layer pairs."""
    answer = client.get("/v1/flow")
    by_pair = {(pair["up"]["layer"], pair["down"]["layer"]): pair for pair in answer["pairs"]}
    chains: list[list[Any]] = []
    for pair in consecutive(by_pair):
        if chains and chains[-1][-1]["down"]["layer"] == pair[0]:
            chains[-1].append(by_pair[pair])
        else:
            chains.append([by_pair[pair]])
    found: dict[str, Chart] = {}
    for among, title, caption in (
        ("live", "Features that fired", "Each band is a number of features; dead ones are left out."),
        ("all", "All features", "The same with dead features, which have no partner: they swell what disappears and appears."),
    ):
        for at, chain in enumerate(chains):
            layers = f", layers {chain[0]['up']['layer']} to {chain[-1]['down']['layer']}" if len(chains) > 1 else ""
            figure = charts.sankey(chain, run.hooks, among)
            found[f"{among}-{at}"] = Chart(title + layers, caption, figure, wide=90 * (len(chain) + 1))
    return Section(
        name="flow",
        title="Flow between layers",
        meaning="A feature passes to the next layer when some feature there has a Pearson correlation of "
        f"{answer['threshold']:g} or more with it, and disappears otherwise; a feature of the next layer without such a partner "
        "appears. Features that never fired "
        "have no partner, so the shares among those that fired are the ones to compare.",
        source=source_of(answer),
        shown={"flow": answer, "drawn": sum(len(chain) for chain in chains)},
        charts=found,
    )


def dead(client: Client, run: Run) -> Section:
    """Dead features now, from the status, and over tokens, from the convergence series."""
    series = client.get("/v1/convergence")
    layers, points = run.status["layers"], series["points"]
    found = {"now": Chart("Now", "Share of each dictionary that never fired, and how many.", charts.dead_bars(layers))}
    if points:
        rows = [[point["dead"][at] / layer["features"] for point in points] for at, layer in enumerate(layers)]
        found["series"] = Chart(
            "Over tokens",
            "A curve that still falls says that more text would wake more features.",
            charts.curves(
                [f"layer {layer['layer']}" for layer in layers],
                [point["tokens"] for point in points],
                rows,
                tickformat=".1~%",
                hoverformat=".2%",
                rangemode="tozero",
                nticks=5,
            ),
        )
    return Section(
        name="dead",
        title="Dead features",
        meaning="A dead feature has not fired on any token so far, and from counts alone it can't be told from one that waits for "
        "other text. It has no similarity to anything, and is left out of every share that says so.",
        source=f"{number(run.status['tokens'])} tokens, as the engine reported them"
        + (f"; curves end at {number(points[-1]['tokens'])} tokens, snapshot {series['snapshot']['version']}" if points else ""),
        shown={
            "colors": list(zip([f"layer {layer['layer']}" for layer in layers], charts.depth_colors(len(layers)), strict=True)),
        },
        charts=found,
    )


_UP_TO_1 = {"autorange": "min", "range": [None, 1.002], "nticks": 5}
_CURVES = (
    (
        "split_half_rbo",
        "Agreement of the two halves",
        "Every document belongs to one of two halves, and this is how well the lists of closest partners made from either half "
        "agree (RBO, p = 0.9). At 1 they are the same lists; while it rises, other text of this kind would still give other lists.",
        _UP_TO_1,
    ),
    (
        "unseen_mass",
        "Unseen mass",
        "The chance that the next joint activation is of a pair of features never seen together before (Good and Turing's "
        "estimate). It is what the pair counts do not know yet, and falls as text comes in.",
        {"tickformat": ".2~%", "hoverformat": ".3%", "type": "log", "nticks": 6},
    ),
    (
        "interval_share",
        "Pairs with an interval",
        "The share of the watched pairs, the leaders of the published lists, that have a 95 % interval of Jaccard. The others have "
        "been active in too few documents since they were chosen.",
        {"tickformat": ".0%", "hoverformat": ".1%", "range": [0, 1.02]},
    ),
    (
        "median_width",
        "Width of the intervals",
        "The median width of these intervals, upper bound minus lower one. It shrinks with documents, not with tokens: a feature "
        "that fires in bursts has fewer observations than activations.",
        {"rangemode": "tozero"},
    ),
)
_RELIABILITY = (
    "How reliably {measure} tells pairs apart: the correlation of its values from the two halves, corrected to all text (Spearman "
    "and Brown). At 1 more text would not change which pairs are high and which are low."
)


def convergence(client: Client, run: Run) -> Section:
    """`/v1/convergence`, a line per layer pair."""
    answer = client.get("/v1/convergence")
    points, names = answer["points"], [f"{up} → {down}" for up, down in answer["pairs"]]
    x = [point["tokens"] for point in points]
    found: dict[str, Chart] = {}

    def add(name: str, title: str, caption: str, rows: list[list[float | None]], axis: dict[str, Any]) -> None:
        if any(value is not None for row in rows for value in row):
            found[name] = Chart(title, caption, charts.curves(names, x, rows, **axis))

    for name, title, caption, axis in _CURVES:
        add(name, title, caption, [[point[name][at] for point in points] for at in range(len(names))], axis)
        if name == "split_half_rbo":
            for measure in points[-1]["reliability"] if points else ():
                rows = [[point["reliability"][measure][at] for point in points] for at in range(len(names))]
                named = measure_name(measure)
                caption = _RELIABILITY.format(measure=named)
                add(f"reliability-{measure}", f"Reliability of {named}", caption, rows, _UP_TO_1)
    return Section(
        name="convergence",
        title="Convergence",
        meaning="These curves say how far the numbers of this report would still move if more text of the same kind came in. A "
        "point is taken whenever the tokens have grown by about a fifth; each line is a layer pair.",
        source=source_of(answer) + (f"; the newest point is at {number(x[-1])} tokens" if points else ""),
        shown={
            "pairs": answer["pairs"],
            "last": points[-1] if points else None,
            "drift": answer["drift"],
            "colors": list(zip(names, charts.depth_colors(len(names)), strict=True)),
        },
        charts=found,
    )


_MEASURES = {
    "jaccard": "Tokens on which both features fire, of those on which either does. 1 means that they fire on the same tokens.",
    "sufficiency": "Share of the upstream feature's tokens on which the downstream one fires too. At 1 the upstream feature is "
    "enough for the downstream one.",
    "necessity": "Share of the downstream feature's tokens on which the upstream one fires too. At 1 the downstream feature never "
    "fires without it.",
    "phi": "Correlation of firing and not firing, from −1 to 1. Unlike Jaccard it also counts tokens on which neither fires.",
    "lift": "How many times as often as independent features the two fire together. It is largest for rare features, so a high "
    "lift with few tokens says little.",
    "mutual_information": "What one feature's firing tells about the other's, in nats (ln 2 = 0.693 at most). It grows with "
    "frequency as well as with similarity.",
    "pearson": "Correlation of the activations over all tokens, from −1 to 1. The flow above is made of it.",
    "activation_cosine": "Cosine of the two vectors of activations over tokens. It is near Pearson, since most activations are 0.",
    "decoder_cosine": "Cosine of the two decoder directions in the residual stream. It needs no text, and says nothing of when "
    "features fire.",
}


def histograms(client: Client, run: Run) -> Section:
    """`/v1/histograms`, a chart per measure."""
    answer = client.every("/v1/histograms")
    items: dict[str, list[Any]] = {}
    for item in answer["items"]:
        items.setdefault(item["measure"], []).append(item)
    names = [f"{item['pair'][0]} → {item['pair'][1]}" for item in next(iter(items.values()), [])]
    return Section(
        name="histograms",
        title="How similar the closest partners are",
        meaning="For every upstream feature that fired the best downstream partner by each measure is taken, among pairs that were "
        f"active together on at least {answer['min_support']} tokens; the charts show how these best values are distributed. They "
        "are maxima over many partners, so they lie higher than those of a pair picked at random, and highest for rare features.",
        source=source_of(answer),
        shown={
            "items": items,
            "lists": answer["lists"],
            "without": next(iter(items.values()), []),
            "colors": list(zip(names, charts.depth_colors(len(names)), strict=True)),
        },
        charts={
            measure: Chart(measure.replace("_", " ").capitalize(), _MEASURES.get(measure, ""), charts.histogram(of_measure))
            for measure, of_measure in items.items()
        },
    )


def pass_through(client: Client, run: Run) -> Section:
    """Of each layer pair the edges with the highest lower bound of Pearson (`/v1/edges`), or the highest estimates without any."""
    pairs = [f"{up}-{down}" for up, down in run.status["pairs"]]
    answers = [client.get("/v1/edges", measure="pearson", pair=pair, limit=EXAMPLES) for pair in pairs]
    certain = any(answer["items"] for answer in answers)
    if certain:
        found = [answer["items"] for answer in answers]
    else:
        answers = [client.get("/v1/flow", pair=pair, kind="passed", limit=EXAMPLES) for pair in pairs]
        found = [[item["best"] for item in answer["items"]] for answer in answers]
    examples = [
        {
            "pair": pair,
            "edges": edges,
            "tokens": answer["snapshot"]["tokens"],
            "texts": texts.both(client, edges[0]["up"], edges[0]["down"]),
        }
        for pair, edges, answer in zip(run.status["pairs"], found, answers, strict=True)
        if edges
    ]
    return Section(
        name="pass_through",
        title="Features that pass through",
        meaning="Of each layer pair these are the features whose activations certainly correlate most: they are in the order of "
        "the lower end of their interval, not of their estimate. The interval holds at all times at once with 95 %, and is from "
        "the documents after the pair was chosen alone, so that the choice does not flatter it.",
        source=_sources(answers),
        shown={
            "examples": examples,
            "certain": certain,
            "empty": [p for p, e in zip(run.status["pairs"], found, strict=True) if not e],
        },
    )


def specializations(client: Client, run: Run) -> Section:
    """`/v1/specializations`, the most certain first; with weaker conditions where nothing meets the default ones."""
    answer, relaxed = client.get("/v1/specializations", limit=SPECIALIZATIONS), False
    if not answer["items"]:
        answer, relaxed = client.get("/v1/specializations", limit=SPECIALIZATIONS, **RELAXED), True
    examples = []
    for item in answer["items"]:
        names = [child["feature"] for child in item["children"]]
        # One pair at a time and live: bounds of a named pair are asked for here, and its own token count is shown with them.
        pairs = [client.get("/v1/similarity", up=item["parent"], down=name) for name in names]
        children = [
            {**child, "interval": pair["measures"]["necessity"], "tokens": pair["tokens"]}
            for child, pair in zip(item["children"], pairs, strict=True)
        ]
        shown = texts.family(client, item["parent"], names[:TEXTS_OF_CHILDREN])
        examples.append({"item": item, "children": children, "texts": shown})
    return Section(
        name="specializations",
        title="Features that specialise",
        meaning="A parent is shared out among children of a later layer when each child implies it, the children exclude each "
        "other, and together they cover it. How often two children fire together is not counted, only bounded from what is, so a "
        'finding is "shown" where even the upper bound of what they share is small enough, and a candidate otherwise.',
        source=source_of(answer),
        shown={"answer": answer, "examples": examples, "relaxed": relaxed},
    )


def gates(client: Client, run: Run) -> Section:
    """`/v1/gates`: how many of each kind, and those whose gain over a single parent is certainly the largest; where none is shown
    yet, those with most evidence."""
    answer = client.get("/v1/gates", sort="gain", cells=True, limit=GATES)
    shown = bool(answer["items"])
    if not shown:
        answer = client.get("/v1/gates", sort="evidence", verdict="any", cells=True, limit=EXAMPLES)
    examples = []
    for gate in answer["items"]:
        told, missing = texts.gate(client, gate)
        examples.append({"gate": gate, "formula": formula(gate), "texts": told, "missing": missing})
    return Section(
        name="gates",
        title="Boolean gates",
        meaning="A feature is a gate where two or three features of an earlier layer, joined by and, or, and not, or two of three, "
        "predict it better together than any of them alone, and no common cause explains that; where one is not excluded it "
        "is a joint action. Everything is from text after a gate was put forward, and of all that are called gates at most "
        f"{answer['alpha']:.0%} are false.",
        source=source_of(answer),
        shown={"answer": answer, "examples": examples, "certain": shown},
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _sources(answers: Sequence[Any]) -> str:
    """The states of several answers, each once."""
    return "; ".join(dict.fromkeys(source_of(answer) for answer in answers))


SECTIONS: tuple[Callable[[Client, Run], Section], ...] = (
    flow,
    dead,
    convergence,
    histograms,
    pass_through,
    specializations,
    gates,
)
"""In the order in which a report shows them."""
