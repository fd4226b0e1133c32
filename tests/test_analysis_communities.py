"""The communities of published snapshots: every number is that of the activations themselves, and ids stay."""

from __future__ import annotations

import errno
import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from corpus_rig import FailingDisk
from views_rig import DICTIONARIES, PAIRS, Rig, as_batch, dense_activations, private_redis, publish

from engine import durable
from engine.analysis import communities, community_splits
from engine.analysis.community_ids import MOST_SETS, CommunityIds
from engine.analysis.community_splits import Communities, split
from engine.analysis.snapshot import SnapshotReader, Whole
from engine.counts.state import State
from engine.errors import BadValue, Unknown
from engine.measures import communities as measured
from engine.measures.bounds import tempered_bounds
from engine.measures.communities import CrossLayerGraph, PairEdges, cross_layer_graph
from engine.measures.partitions import adjusted_mutual_information
from engine.views.communities import CommunitiesRequest, CommunityOfRequest, CommunityRequest, Partition, partition_of
from engine.views.connection import connect
from engine.views.keys import Keys
from engine.views.publisher import Publisher
from tests.relation_graphs import pair_counts, values

SUPPORT = 4
BY = partition_of("jaccard", 0.2, "estimate", SUPPORT, "modularity", 1.0)
LIST = CommunitiesRequest(by=BY, min_size=2, max_size=999, min_span=1, sort="size")


class Run:
    """One run's publisher, and snapshots of it that are read whole. Documents go to half A and half B by turns."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.publisher = rig, Publisher(rig.settings, rig.description, 1_000)
        self.documents: list[list[np.ndarray]] = []

    def count(self, documents: int, seed: int) -> Whole:
        """Count some more documents, publish and read."""
        self.documents += [dense_activations(150, seed=seed + at) for at in range(documents)]
        state, first = State.zero(DICTIONARIES, PAIRS), 0
        for number, layers in enumerate(self.documents):
            state.add(as_batch(layers, first, number=number, half=number % 2))
            first += len(layers[0])
        publish(self.publisher, state)
        settings = self.rig.settings
        keys = Keys(settings.redis_prefix)
        return SnapshotReader(connect(settings.redis_url), keys, settings.published_k, settings.min_support).read()

    def dense(self, half: int | None = None) -> list[np.ndarray]:
        """Activations `[T, D]` per layer, of all documents or of one half."""
        chosen = self.documents if half is None else self.documents[half::2]
        return [np.concatenate(layer) for layer in zip(*chosen, strict=True)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with private_redis(tmp_path_factory.mktemp("redis")) as server:
        yield Run(Rig(server, published_k=max(DICTIONARIES), min_support=SUPPORT))


@pytest.fixture(scope="module")
def whole(run: Run) -> Whole:
    return run.count(4, seed=0)


def graph_of(dense: list[np.ndarray], support: int) -> CrossLayerGraph:
    """Every pair with the Jaccard of `BY`, from the activations."""
    edges = {}
    for pair in sorted(PAIRS):
        with np.errstate(invalid="ignore"):
            value = values(dense, pair, "jaccard")
        up, down = np.nonzero((np.nan_to_num(value) >= BY.min_value) & (pair_counts(dense, pair)[0] >= support))
        edges[pair] = PairEdges(up, down, value[up, down])
    return cross_layer_graph(edges, DICTIONARIES)


def groups(graph: CrossLayerGraph, labels: np.ndarray) -> list[set[int]]:
    return [set(graph.number[labels == one].tolist()) for one in range(labels.max() + 1)]


def test_a_snapshot_holds_what_of_every_count_is_in_half_a(run: Run, whole: Whole) -> None:
    half = run.dense(0)
    for layer, dense in enumerate(half):
        assert (whole.certainty.count_a[layer] == (dense > 0).sum(0)).all()
    for pair in PAIRS:
        edges = whole.graph.edges[pair]
        assert (whole.certainty.joint_a[pair] == pair_counts(half, pair)[0][edges.up, edges.down]).all()
        assert len(edges.up) == len(whole.certainty.effect[pair]) > 100


def test_the_graph_and_the_halves_are_those_of_the_activations(run: Run, whole: Whole, tmp_path: Path) -> None:
    found = split(whole, BY, CommunityIds(tmp_path))
    graph = graph_of(run.dense(), SUPPORT)
    for ours, expected in zip(found.graph, graph, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12)
    labels = measured.communities(graph, "modularity", 1.0)
    assert (found.labels == labels).all() and labels.max() > 2
    assert (found.value == found.graph.weight).all() and np.isnan(found.lower).all()
    halves = [graph_of(run.dense(half), SUPPORT // 2) for half in (0, 1)]
    split_by_half = [measured.communities(half, "modularity", 1.0) for half in halves]
    assert found.stability is not None
    for half, of_half, found_in in zip(halves, split_by_half, found.stability, strict=True):
        again = groups(half, of_half)
        best = [max(len(one & other) / len(one | other) for other in again) for one in groups(graph, labels)]
        assert found_in == pytest.approx(best)
    both = sorted(set(halves[0].number.tolist()) & set(halves[1].number.tolist()))
    places = [np.searchsorted(half.number, both) for half in halves]
    agreed = adjusted_mutual_information(*(of[at] for of, at in zip(split_by_half, places, strict=True)))
    assert found.agreement.adjusted_mutual_information == pytest.approx(agreed) and found.agreement.features == len(both)
    assert found.quality == pytest.approx(measured.quality(graph, labels, "modularity", 1.0))
    counts = np.concatenate([(dense > 0).sum(0) for dense in run.dense()])
    assert found.density == pytest.approx(counts[graph.number] / len(run.dense()[0]))


def test_by_the_lower_bound_only_edges_count_that_have_one_as_high(whole: Whole, tmp_path: Path) -> None:
    by = msgspec.structs.replace(BY, rank="lower", min_value=0.15)
    none = split(whole, by, CommunityIds(tmp_path))
    assert len(none.graph.up) == 0 and none.reason is not None and "rank=estimate" in none.reason
    effect = {pair: np.full_like(column, 2.0) for pair, column in whole.certainty.effect.items()}
    known = replace(whole, certainty=whole.certainty._replace(effect=effect))
    found = split(known, by, CommunityIds(tmp_path))
    expected = []
    for pair in sorted(PAIRS):
        counts = whole.graph.counts(pair)
        lower, _ = tempered_bounds("jaccard", counts, effect[pair], np.full(len(effect[pair]), np.nan))
        expected.append(lower[lower >= 0.15])
    weights = np.concatenate(expected)
    assert 0 < len(weights) < len(split(whole, msgspec.structs.replace(by, rank="estimate"), CommunityIds(tmp_path)).graph.up)
    assert found.graph.weight == pytest.approx(weights) and (found.lower == found.graph.weight).all()
    assert (found.value > found.lower).all()


def test_measures_that_are_not_known_by_half_say_so_and_have_no_stability(whole: Whole, tmp_path: Path) -> None:
    found = split(whole, msgspec.structs.replace(BY, measure="pearson", min_value=0.1), CommunityIds(tmp_path))
    answer, items = communities.listed(found, LIST)
    assert answer.agreement.adjusted_mutual_information is None and "jaccard, sufficiency" in str(answer.agreement.reason)
    assert items and all(item.stability is None for item in items)
    without_model = replace(whole, run=msgspec.structs.replace(whole.run, model=None))
    with pytest.raises(BadValue, match="no model"):
        split(without_model, msgspec.structs.replace(BY, measure="decoder_cosine"), CommunityIds(tmp_path))


def test_a_list_holds_what_is_within_the_bounds_in_the_order_that_was_asked_for(whole: Whole, tmp_path: Path) -> None:
    found = split(whole, msgspec.structs.replace(BY, resolution=3.0), CommunityIds(tmp_path))
    answer, items = communities.listed(found, LIST)
    assert answer.total == answer.communities == len(items) == int((found.shape.size > 1).sum()) > 5
    assert (answer.nodes, answer.edges) == (len(found.graph.number), len(found.graph.up))
    assert [item.size for item in items] == sorted((item.size for item in items), reverse=True)
    for item in items:
        assert sum(item.layers.values()) == item.size and item.span.first == min(map(int, item.layers))
        assert item.stability is not None and item.stability.mean == pytest.approx((item.stability.a + item.stability.b) / 2)
    sizes = sorted({item.size for item in items})
    bounded = msgspec.structs.replace(LIST, min_size=sizes[1], max_size=sizes[-2])
    assert {item.size for item in communities.listed(found, bounded)[1]} == set(sizes[1:-1])
    wide = communities.listed(found, msgspec.structs.replace(LIST, min_span=3))[1]
    assert [item.id for item in wide] == [item.id for item in items if item.span.last - item.span.first == 2]
    for sort in ("stability", "density"):
        listed = communities.listed(found, msgspec.structs.replace(LIST, sort=sort))[1]
        keys = [item.density if sort == "density" else item.stability.mean for item in listed if item.stability is not None]
        assert keys == sorted(keys, reverse=True) and {item.id for item in listed} == {item.id for item in items}


def test_a_community_has_its_features_and_edges_by_weight_and_no_more_than_can_be_shown(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = split(whole, BY, CommunityIds(tmp_path))
    item = communities.listed(found, LIST)[1][0]
    request = CommunityRequest(by=BY, number=int(item.id[1:]))
    one = communities.one_community(found, request)
    assert len(one.features) == one.size == item.size and one.dropped == communities.DroppedAnswer(features=0, edges=0)
    members = {feature.feature for feature in one.features}
    assert all(edge.up in members and edge.down in members for edge in one.edges)
    assert sum(edge.value for edge in one.edges) == pytest.approx(one.internal_weight)
    for feature in one.features:
        own = sum(edge.value for edge in one.edges if feature.feature in (edge.up, edge.down))
        assert feature.internal_weight == pytest.approx(own)
    weights = [feature.internal_weight for feature in one.features]
    assert weights == sorted(weights, reverse=True) and one.top == [feature.feature for feature in one.features[:5]]
    monkeypatch.setattr(communities, "_MOST_FEATURES", 2)
    monkeypatch.setattr(communities, "_MOST_EDGES", 3)
    short = communities.one_community(found, request)
    assert short.features == one.features[:2] and short.edges == one.edges[:3]
    assert short.dropped == communities.DroppedAnswer(features=one.size - 2, edges=len(one.edges) - 3)
    with pytest.raises(Unknown, match=rf"no community c999 .* snapshot {whole.snapshot.version} .* has {found.labels.max() + 1}"):
        communities.one_community(found, CommunityRequest(by=BY, number=999))


def test_every_feature_finds_its_community_and_one_without_an_edge_none(whole: Whole, tmp_path: Path) -> None:
    found = split(whole, BY, CommunityIds(tmp_path))
    every = [(layer, index) for layer, size in enumerate(DICTIONARIES) for index in range(size)]
    told = communities.community_of(found, CommunityOfRequest(by=BY, features=every))
    members: dict[str, str | None] = {}
    for item in communities.listed(found, LIST)[1]:
        one = communities.one_community(found, CommunityRequest(by=BY, number=int(item.id[1:])))
        members |= {feature.feature: item.id for feature in one.features}
    assert told.features == {f"{layer}:{index}": members.get(f"{layer}:{index}") for layer, index in every}
    assert told.features["0:0"] is told.community is None and told.reason == "no pair of 0:0 has a jaccard of 0.2 or more"
    asked = next(feature for feature in every if members.get(f"{feature[0]}:{feature[1]}"))
    told = communities.community_of(found, CommunityOfRequest(by=BY, features=[asked]))
    assert told.community is not None and told.community.id == members[f"{asked[0]}:{asked[1]}"] and told.reason is None


def test_too_many_edges_are_refused_with_both_numbers(whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(community_splits, "MOST_EDGES", 50)
    with pytest.raises(BadValue, match=r"min_value = 0.2: \d+ pairs .* at most 50"):
        split(whole, BY, CommunityIds(tmp_path))


def test_ids_stay_over_snapshots_and_restarts_and_a_split_is_kept_for_a_while(run: Run, whole: Whole, tmp_path: Path) -> None:
    kept = Communities(tmp_path)
    first = kept.split(whole, BY)
    numbers = first.named.number.tolist()
    assert numbers == list(range(1, len(numbers) + 1)) and set(first.named.since.tolist()) == {whole.snapshot.tokens}
    later = run.count(2, seed=50)
    kept._splits[BY] = first, time.monotonic() + 3600
    assert kept.split(later, BY) is first
    kept._splits[BY] = first, 0.0
    second = kept.split(later, BY)
    assert second.snapshot == later.snapshot
    inherited = 0
    before = dict(zip(numbers, groups(first.graph, first.labels), strict=True))
    for number, since, now in zip(*(column.tolist() for column in second.named), groups(second.graph, second.labels), strict=True):
        if number in before:
            inherited += 1
            assert since == whole.snapshot.tokens and len(now & before[number]) * 3 >= len(now | before[number])
        else:
            assert number > max(numbers) and since == later.snapshot.tokens
    assert inherited >= len(before) / 2
    again = Communities(tmp_path).split(later, BY)
    for column, expected in zip(again.named, second.named, strict=True):
        assert (column == expected).all()


FEATURES, LABELS = np.arange(10), np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 3])
RUN = {"model": "a"}


def number_set(at: int) -> Partition:
    return msgspec.structs.replace(BY, resolution=1.0 + at)


def test_each_set_of_parameters_has_ids_of_its_own_and_only_the_last_ones_are_kept(tmp_path: Path) -> None:
    ids = CommunityIds(tmp_path)
    for at in range(MOST_SETS + 3):
        named = ids.named(number_set(at), RUN, FEATURES, LABELS, 100)
        assert named.number.tolist() == [1, 2, 3, 0]  # a feature alone has no id
    assert len(list(tmp_path.iterdir())) == MOST_SETS
    other = np.array([9, 9, 9, 9, 9, 9, 9, 8, 8, 7])
    known = ids.named(number_set(MOST_SETS), RUN, FEATURES, measured.by_size(other), 200)
    assert known.number.tolist() == [1, 3, 0] and known.since.tolist()[:2] == [100, 100]


def test_ids_of_another_run_or_in_a_damaged_file_are_not_taken_over(tmp_path: Path) -> None:
    ids = CommunityIds(tmp_path)
    swapped = np.array([1, 1, 1, 1, 0, 0, 0, 2, 2, 3])
    assert ids.named(BY, RUN, FEATURES, LABELS, 100).number.tolist() == [1, 2, 3, 0]
    assert ids.named(BY, RUN, FEATURES, swapped, 200).number.tolist() == [2, 1, 3, 0]
    assert ids.named(BY, {"model": "b"}, FEATURES, swapped, 200).number.tolist() == [1, 2, 3, 0]
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    assert ids.named(BY, {"model": "b"}, FEATURES, LABELS, 300).number.tolist() == [1, 2, 3, 0]


def test_a_snapshot_without_edges_forgets_no_id_and_a_number_is_never_given_twice(tmp_path: Path) -> None:
    ids = CommunityIds(tmp_path)
    ids.named(BY, RUN, FEATURES, LABELS, 100)
    assert len(ids.named(BY, RUN, np.empty(0, np.int64), np.empty(0, np.int64), 200).number) == 0
    assert ids.named(BY, RUN, FEATURES[:7], LABELS[:7], 300).number.tolist() == [1, 2]
    assert ids.named(BY, RUN, FEATURES, LABELS, 400).number.tolist() == [1, 2, 4, 0]


def test_a_full_disk_costs_ids_but_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(durable, "disk", FailingDisk(0, full, "write"))
    assert CommunityIds(tmp_path).named(BY, RUN, FEATURES, LABELS, 100).number.tolist() == [1, 2, 3, 0]
    assert "are not kept" in caplog.text and not any(itertools.chain(tmp_path.iterdir()))
