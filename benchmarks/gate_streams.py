"""Streams of two layers in which it is known which downstream feature is a gate of which upstream features.

    documents with topics, bursts and drift ──▶ upstream features ──▶ children: gates of them, and what only looks like gates
                                                                  └─▶ label noise ──▶ sparse activations, document by document

1. Lengths are log-normal. A document has two topics, and a drift for each: the topic's features get more or less frequent along it.
2. A feature has a rate (Zipf-Mandelbrot, 8 % to 0.02 %; eight of each layer fire on 10–40 % of tokens), and most have a *group*.
   A group belongs to a topic, which has 80 % of the feature's tokens, and has a burst in every document (exponential) that its
   features share by half. Both layers share the groups, so a child of nothing still goes up and down with upstream features.
3. Children with a gate: AND, OR, AND_NOT, 2-of-3 of upstream features of their own. The parents are of one group in a share
   `together` of the gates, and those of all but OR of the more frequent half, or few would be active together often enough to
   decide anything. `shared`: so large a part of the rarer parent's tokens is also one of the other's.
4. Children without one. *copy*: of a parent. *noisy copy*: with 30 % of its tokens gone and 10 % added, whatever the label noise.
   *bystander*: a copy, where another upstream feature has a third of the parent's tokens. *common cause*: 2 or 3 upstream features
   miss 10 to 50 % of a cause and fire on up to 20 % more tokens elsewhere, the child is the cause itself. *noise*: nothing.
5. Label noise q: a share q of the child's activations is removed, and as many are added on other tokens.

Everything is a function of the specification, the seed in it included.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import sparse

from engine.corpus.body import half_of
from engine.measures.gates import AND, AND_NOT, OR, PARENTS, TWO_OF_THREE, holds

MEDIAN_LENGTH, LENGTH_SPREAD, LENGTHS = 150, 0.8, (10, 2000)
TOPICS, TOPICS_OF_DOCUMENT, IN_TOPIC = 24, 2, 0.8
GROUPS = 5 * TOPICS
UNGROUPED = 0.2
"""Share of the features that are of no group: their rate is that of the text, but for a burst of their own."""

HEAD, LARGEST_TAIL, EXPONENT = np.geomspace(0.4, 0.1, 8), 0.08, 1.7
STEEPEST = 0.8
"""Drift: the rate goes from 1 − d to 1 + d times its mean along a document, d uniform up to this on either side."""

LARGEST_RATE = 0.5


class GateSpec(NamedTuple):
    """What is planted.

    Attributes:
        tokens: about so many (whole documents).
        up, down: dictionary sizes.
        gates: children of each of the four kinds.
        others: children of each of copy, noisy copy and bystander; causes: of common causes. The rest is noise.
        label_noise: q.
        segment: tokens of a segment, at most.
        shared: part of the rarer parent's tokens that is the other's too.
        together: share of the gates whose parents are of one group; the others' groups have nothing to do with each other.
        misses_only: causes are only missed by their reports, which fire nowhere else.
        seed: of everything.
    """

    tokens: int = 1_000_000
    up: int = 2000
    down: int = 2000
    gates: int = 60
    others: int = 60
    causes: int = 60
    label_noise: float = 0.02
    segment: int = 65_536
    shared: float = 0.0
    together: float = 1.0
    misses_only: bool = False
    seed: int = 0


class Planted(NamedTuple):
    """A gate.

    Attributes:
        child, kind, parents: the parents in order: of AND_NOT the second inhibits.
        disagreeing: int64, ascending: tokens at which gate and best single parent disagree and the child agrees with the gate.
        deciding: the same, but of AND and 2-of-3 the tokens at which gate and child are active. An AND whose parents never meet
            would have deciding tokens otherwise, at which one parent is active and nothing else happens, and so would a 2-of-3.
    """

    child: int
    kind: int
    parents: tuple[int, ...]
    disagreeing: np.ndarray
    deciding: np.ndarray


class Layer(NamedTuple):
    """Sparse activations of T tokens.

    Attributes:
        offsets: int32 `[T + 1]`.
        features: int32 `[nnz]`, rising within a token.
        values: float32 `[nnz]`, > 0.
    """

    offsets: np.ndarray
    features: np.ndarray
    values: np.ndarray

    def tokens(self, first: int, end: int) -> Layer:
        """Those of some tokens."""
        low, high = self.offsets[first], self.offsets[end]
        return Layer(self.offsets[first : end + 1] - low, self.features[low:high], self.values[low:high])


class Segment(NamedTuple):
    """Consecutive whole documents: index of the first, their names, int64 lengths, uint8 halves, and both layers."""

    first_document: int
    names: list[str]
    lengths: np.ndarray
    halves: np.ndarray
    up: Layer
    down: Layer

    def frames(self) -> Iterator[dict[str, object]]:
        """The documents as maps for the body of `POST /v1/activations`."""
        ends = np.cumsum(self.lengths).tolist()
        for name, first, end in zip(self.names, [0, *ends[:-1]], ends, strict=True):
            parts = [layer.tokens(first, end)._asdict() for layer in (self.up, self.down)]
            layers = [{column: array.tobytes() for column, array in part.items()} for part in parts]
            yield {"document": name, "tokens": end - first, "layers": layers}


class GateStream:
    """A stream and what was planted in it.

    Attributes:
        spec: what it is made from.
        starts: int64 `[documents + 1]`, the first token of each document, and the end.
        layers: upstream, downstream.
        planted: the gates.
        without: children without a gate by what they are: "copy", "noisy copy", "bystander", "common cause", "noise".
    """

    def __init__(self, spec: GateSpec) -> None:
        """Makes the whole stream: about 1 kB a token and 5 s for a million tokens."""
        self.spec = spec
        maker = _Maker(spec)
        self.starts = maker.text.starts
        self.planted, self.without = maker.plant()
        self.layers = (maker.layer(maker.up), maker.layer(maker.down))

    @property
    def documents(self) -> int:
        return len(self.starts) - 1

    @property
    def tokens(self) -> int:
        return int(self.starts[-1])

    def name(self, document: int) -> str:
        """The name it is sent under; its half is a hash of it."""
        return f"planted-{self.spec.seed}-{document}"

    def documents_of(self, tokens: np.ndarray, after: int = 0) -> int:
        """Documents that hold one of these tokens (ascending), from token `after` on."""
        tokens = tokens[np.searchsorted(tokens, after) :]
        return len(np.unique(np.searchsorted(self.starts, tokens, side="right")))

    def segments(self) -> Iterator[Segment]:
        """The stream as the log would cut it, at ends of documents."""
        first = 0
        while first < self.documents:
            end = max(first + 1, int(np.searchsorted(self.starts, self.starts[first] + self.spec.segment, side="right")) - 1)
            low, high = int(self.starts[first]), int(self.starts[end])
            names = [self.name(document) for document in range(first, end)]
            halves = np.array([half_of(name.encode()) for name in names], np.uint8)
            up, down = (layer.tokens(low, high) for layer in self.layers)
            yield Segment(first, names, np.diff(self.starts[first : end + 1]), halves, up, down)
            first = end


def tail_rates(features: int) -> np.ndarray:
    """float64, falling: 0.08·(q/(q + r))^1.7 for rank r, with q a thirtieth of the features."""
    q = features / 30
    return LARGEST_TAIL * (q / (q + np.arange(features))) ** EXPONENT


class _Text:
    """Documents: where they start, their topics and how these drift, and the bursts of groups."""

    def __init__(self, spec: GateSpec, rng: np.random.Generator) -> None:
        mean = MEDIAN_LENGTH * math.exp(LENGTH_SPREAD**2 / 2)
        drawn = np.exp(rng.normal(math.log(MEDIAN_LENGTH), LENGTH_SPREAD, int(2 * spec.tokens / mean) + 100)).clip(*LENGTHS)
        ends = np.cumsum(drawn.astype(np.int64))
        documents = int(np.searchsorted(ends, spec.tokens)) + 1
        self.starts = np.concatenate([np.zeros(1, np.int64), ends[:documents]])
        self.lengths = np.diff(self.starts)
        topic = np.argsort(rng.random((documents, TOPICS)), axis=1)[:, :TOPICS_OF_DOCUMENT]
        self.of_topic = np.zeros((TOPICS, documents), bool)
        self.of_topic[topic, np.arange(documents)[:, None]] = True
        self.drift = rng.uniform(-STEEPEST, STEEPEST, (TOPICS, documents))
        self.burst = rng.exponential(1.0, (GROUPS, documents))
        self._rng = rng

    @property
    def tokens(self) -> int:
        return int(self.starts[-1])

    def group(self) -> int:
        """A group, or −1."""
        return -1 if self._rng.random() < UNGROUPED else int(self._rng.integers(GROUPS))

    def draw(self, rate: float, group: int) -> np.ndarray:
        """int64, the tokens of a feature, ascending. Its rate is at most `LARGEST_RATE` in a document, so it may be a bit below."""
        rng, documents = self._rng, len(self.lengths)
        own = rng.exponential(1.0, documents)
        weight, drift = 0.5 + 0.5 * own, np.zeros(documents)
        if group >= 0:
            of_topic = self.of_topic[group % TOPICS]
            share = of_topic @ self.lengths / self.tokens
            topical = np.where(of_topic, IN_TOPIC / max(share, 1e-9), (1 - IN_TOPIC) / (1 - share))
            weight, drift = topical * (0.5 * own + 0.5 * self.burst[group]), self.drift[group % TOPICS]
        times = rng.binomial(self.lengths, np.minimum(rate * weight * self.tokens / (weight @ self.lengths), LARGEST_RATE))
        document = np.repeat(np.arange(documents), times)
        u, d = rng.random(len(document)), drift[document]
        # Inverse of the distribution function (1 − d) x + d x² of a density that rises from 1 − d to 1 + d.
        x = 2 * u / (1 - d + np.sqrt((1 - d) ** 2 + 4 * d * u))
        place = np.minimum((x * self.lengths[document]).astype(np.int64), self.lengths[document] - 1)
        return np.unique(self.starts[document] + place)


class _Maker:
    """Plants one thing after another."""

    def __init__(self, spec: GateSpec) -> None:
        need_up, need_down = 9 * spec.gates + 4 * spec.others + 3 * spec.causes, 4 * spec.gates + 3 * spec.others + spec.causes
        for name, has, needs in (("up", spec.up, need_up), ("down", spec.down, need_down)):
            if has < needs + len(HEAD):
                raise ValueError(f"what is planted takes a dictionary {name} of {needs + len(HEAD)} features, this has {has}")
        self.spec, self.rng = spec, np.random.default_rng(spec.seed)
        self.text = _Text(spec, self.rng)
        self.up: list[np.ndarray] = []
        self.down: list[np.ndarray] = []
        self._rates = [float(rate) for rate in self.rng.permutation(tail_rates(spec.up - len(HEAD)))]
        self._down_rates = self.rng.permutation(np.concatenate([HEAD, tail_rates(spec.down - len(HEAD))]))

    def plant(self) -> tuple[tuple[Planted, ...], dict[str, np.ndarray]]:
        planted = [self._gate(kind) for kind in (AND, OR, AND_NOT, TWO_OF_THREE) for _ in range(self.spec.gates)]
        others = {"copy": self._copy, "noisy copy": self._noisy_copy, "bystander": self._bystander}
        made = [(kind, make, self.spec.others) for kind, make in others.items()]
        made.append(("common cause", self._common_cause, self.spec.causes))
        without: dict[str, list[int]] = {kind: [] for kind in (*others, "common cause", "noise")}
        for kind, make, times in made:
            for _ in range(times):
                without[kind].append(len(self.down))
                make()
        while len(self.down) < self.spec.down:
            without["noise"].append(len(self.down))
            self.down.append(self.text.draw(self._down_rates[len(self.down)], self.text.group()))
        self.up += [self.text.draw(rate, -1) for rate in HEAD]
        while len(self.up) < self.spec.up:
            self.up.append(self.text.draw(self._rate(), self.text.group()))
        names_up, names_down = self.rng.permutation(self.spec.up), self.rng.permutation(self.spec.down)
        self._names = {id(self.up): names_up, id(self.down): names_down}
        renamed = [
            one._replace(child=int(names_down[one.child]), parents=tuple(int(names_up[p]) for p in one.parents)) for one in planted
        ]
        return tuple(renamed), {kind: np.sort(names_down[children]) for kind, children in without.items()}

    def layer(self, columns: list[np.ndarray]) -> Layer:
        names = self._names[id(columns)]
        by_name = [columns[at] for at in np.argsort(names)]
        ends = np.concatenate([[0], np.cumsum([len(column) for column in by_name])])
        values = self.rng.standard_gamma(2.0, int(ends[-1]), dtype=np.float32) + np.float32(1e-3)
        by_token = sparse.csc_array((values, np.concatenate(by_name), ends), shape=(self.text.tokens, len(names))).tocsr()
        return Layer(by_token.indptr.astype(np.int32), by_token.indices.astype(np.int32), by_token.data)

    def _rate(self, frequent: bool = False) -> float:
        """A rate that no other feature has; of the more frequent half of those left, or any."""
        middle = float(np.median(self._rates)) if frequent else 0.0
        at = next(at for at, rate in enumerate(self._rates) if rate >= middle)
        return self._rates.pop(at)

    def _gate(self, kind: int) -> Planted:
        groups = self.rng.permutation(GROUPS)[: PARENTS[kind]]
        if self.rng.random() < self.spec.together:
            groups[:] = groups[0]
        parents = [self.text.draw(self._rate(kind != OR), int(group)) for group in groups]
        if self.spec.shared:
            for at in range(1, len(parents)):
                parents[at - 1], parents[at] = self._sharing(parents[at - 1], parents[at])
        active = np.zeros((4, self.text.tokens), bool)
        for at, tokens in enumerate(parents):
            active[at, tokens] = True
        gate = holds(kind, *active[:3])
        child = self._labelled(np.flatnonzero(gate))
        active[3, child] = True
        f1 = [2 * active[at, child].sum() / max(1, len(child) + len(tokens)) for at, tokens in enumerate(parents)]
        disagreeing = np.flatnonzero((gate == active[3]) & (gate != active[int(np.argmax(f1))]))
        deciding = np.flatnonzero(gate & active[3]) if kind in (AND, TWO_OF_THREE) else disagreeing
        names = tuple(range(len(self.up), len(self.up) + len(parents)))
        self.up += parents
        self.down.append(child)
        return Planted(len(self.down) - 1, kind, names, disagreeing, deciding)

    def _sharing(self, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both, with a share of the rarer one's tokens moved to tokens of the other."""
        rarer, other = sorted((first, second), key=len)
        count = min(round(self.spec.shared * len(rarer)), len(other))
        kept = self.rng.choice(rarer, len(rarer) - count, replace=False)
        rarer = np.union1d(kept, self.rng.choice(other, count, replace=False))
        return (rarer, other) if len(first) <= len(second) else (other, rarer)

    def _copy(self) -> None:
        self.up.append(self.text.draw(self._rate(), self.text.group()))
        self.down.append(self._labelled(self.up[-1]))

    def _noisy_copy(self) -> None:
        self.up.append(self.text.draw(self._rate(), self.text.group()))
        kept = self._without(self.up[-1], 0.3)
        self.down.append(self._labelled(self._with(kept, round(0.1 * len(kept)))))

    def _bystander(self) -> None:
        self._copy()
        parent, own = self.up[-1], self.text.draw(self._rate(), self.text.group())
        self.up.append(np.union1d(self._without(parent, 2 / 3), own[: len(parent)]))

    def _common_cause(self) -> None:
        cause = self.text.draw(self._rate(), self.text.group())
        for _ in range(int(self.rng.integers(2, 4))):
            report = self._without(cause, self.rng.uniform(0.1, 0.5))
            more = 0 if self.spec.misses_only else round(self.rng.uniform(0.0, 0.2) * len(report))
            self.up.append(self._with(report, more))
        self.down.append(self._labelled(cause))

    def _labelled(self, tokens: np.ndarray) -> np.ndarray:
        """With label noise."""
        kept = self._without(tokens, self.spec.label_noise)
        return self._with(kept, len(tokens) - len(kept), besides=tokens)

    def _without(self, tokens: np.ndarray, share: float) -> np.ndarray:
        return tokens[self.rng.random(len(tokens)) >= share]

    def _with(self, tokens: np.ndarray, more: int, besides: np.ndarray | None = None) -> np.ndarray:
        """So many tokens more, any but those of `besides`, or of the tokens themselves."""
        drawn = np.unique(self.rng.integers(0, self.text.tokens, more))
        return np.union1d(tokens, np.setdiff1d(drawn, tokens if besides is None else besides))
