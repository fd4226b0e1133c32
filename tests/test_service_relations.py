"""Relations through the real server: what is planted in pushed activations is found, and every number is that of brute force."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from scipy.optimize import linear_sum_assignment

from tests.relation_graphs import pair_counts, values
from tests.service import Service, eventually, pack_frame, serving, sparse

SIZES = (14, 12, 13)
PAIRS = [(0, 1), (1, 2)]
DOCUMENTS, FIRST = 30, 10
LIVED, GONE, NEVER, RARE, PARENT, HALVED = 1, 2, 3, 4, 6, 7  # of layer 0
BORN, CHILDREN = 5, (8, 9, 10)  # of layer 1


def planted(seed: int, tokens: int = 80) -> list[np.ndarray]:
    """Activations float32 `[T, D]` per layer of one document.

    0:1 → 1:4 → 2:7 is one lineage, 0:2 disappears, 1:5 appears, 0:3 never fires, 0:4 fires on four tokens of the corpus, and 0:6 is
    shared out among 1:8, 1:9 and 1:10, which live on as 2:8, 2:9 and 2:10. 0:7 passes half of its tokens on to 1:7.
    """
    rng = np.random.default_rng(seed)
    layers = [np.where(rng.random((tokens, size)) < 0.06, rng.gamma(2.0, 1.0, (tokens, size)), 0) for size in SIZES]

    def fire(rate: float) -> np.ndarray:
        return np.where(rng.random(tokens) < rate, rng.gamma(3.0, 1.0, tokens), 0)

    layers[0][:, LIVED] = fire(0.2)
    layers[1][:, 4] = layers[0][:, LIVED] * rng.uniform(0.9, 1.1, tokens) * (rng.random(tokens) < 0.97)
    layers[2][:, 7] = layers[1][:, 4] * rng.uniform(0.9, 1.1, tokens) * (rng.random(tokens) < 0.95)
    layers[0][:, GONE] = fire(0.1)
    layers[1][:, BORN] = fire(0.1)
    layers[0][:, NEVER] = 0
    layers[0][:, RARE] = 0
    layers[0][0, RARE] = float(seed < 4)
    layers[0][:, PARENT] = parent = fire(0.3)
    which = rng.choice(3, tokens, p=[0.5, 0.3, 0.2])
    for child, index in enumerate(CHILDREN):
        layers[1][:, index] = layers[2][:, index] = parent * (which == child)
    layers[0][:, HALVED] = fire(0.1)
    layers[1][:, 7] = layers[0][:, HALVED] * (rng.random(tokens) < 0.5)
    return [layer.astype(np.float32) for layer in layers]


CORPUS = [planted(seed) for seed in range(DOCUMENTS)]
DENSE = [np.concatenate([document[layer] for document in CORPUS]) for layer in range(len(SIZES))]
SUPPORT = 10


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("relations"), "--dictionary", ",".join(map(str, SIZES))) as running:
        frames = [pack_frame(f"document {at}", [sparse(layer) for layer in document]) for at, document in enumerate(CORPUS)]
        for part in (frames[:FIRST], frames[FIRST:]):  # what is chosen after the first part is judged by the second
            running.until_counted(running.push(b"".join(part)))
        eventually("relations are of all tokens", lambda: running.get("/v1/flow")["snapshot"]["tokens"] == len(DENSE[0]))
        yield running


def passing(pair: tuple[int, int], measure: str, threshold: float) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return (values(DENSE, pair, measure) >= threshold) & (pair_counts(DENSE, pair)[0] >= SUPPORT)


@pytest.mark.parametrize(("measure", "threshold"), [("pearson", 0.4), ("pearson", 0.95), ("necessity", 0.5), ("lift", 2.5)])
def test_flow_counts_what_brute_force_counts_among_live_features_and_all(service: Service, measure: str, threshold: float) -> None:
    answer = service.get("/v1/flow", measure=measure, threshold=threshold)
    assert answer["lists"] == {"published_k": 20, "min_support": SUPPORT, "undecided": 0} and answer["items"] is None
    assert [(pair["up"]["layer"], pair["down"]["layer"]) for pair in answer["pairs"]] == PAIRS
    for pair, found in zip(PAIRS, answer["pairs"], strict=True):
        for side, axis, with_partner, without in (("up", 1, "passed", "disappeared"), ("down", 0, "passed_into", "appeared")):
            layer = pair[1 - axis]
            fired = (DENSE[layer] > 0).sum(0)
            partnered, live, size = passing(pair, measure, threshold).any(axis), int((fired > 0).sum()), SIZES[layer]
            assert found[side] == {
                "layer": layer,
                "features": size,
                "live": live,
                "dead": size - live,
                "rare": int(((fired > 0) & (fired < SUPPORT)).sum()),
                "undecided": 0,
            }
            passed = int(partnered.sum())
            assert found[with_partner] == {
                "live": {"count": passed, "share": passed / live},
                "all": {"count": passed, "share": passed / size},
            }
            assert found[without] == {
                "live": {"count": live - passed, "share": (live - passed) / live},
                "all": {"count": size - passed, "share": (size - passed) / size},
            }


def test_what_is_planted_passes_disappears_and_appears_by_name_with_its_numbers(service: Service) -> None:
    kinds = {}
    for kind in ("passed", "disappeared", "passed_into", "appeared"):
        answer = service.get("/v1/flow", pair="0-1", kind=kind)
        assert answer["total"] == len(answer["items"]) and answer["next"] is None and len(answer["pairs"]) == 1
        kinds[kind] = {item["feature"]: item for item in answer["items"]}
    assert {f"0:{LIVED}", f"0:{PARENT}", f"0:{HALVED}"} <= set(kinds["passed"])
    assert {f"0:{GONE}", f"0:{RARE}"} <= set(kinds["disappeared"]) and f"1:{BORN}" in kinds["appeared"]
    assert {"1:4", "1:7"} <= set(kinds["passed_into"])
    assert not any(f"0:{NEVER}" in features for features in kinds.values())
    assert not set(kinds["passed"]) & set(kinds["disappeared"])
    item = kinds["passed"][f"0:{LIVED}"]
    joint = int(((DENSE[0][:, LIVED] > 0) & (DENSE[1][:, 4] > 0)).sum())
    fired = int((DENSE[0][:, LIVED] > 0).sum()), int((DENSE[1][:, 4] > 0).sum())
    assert item["count"] == fired[0] and (item["best"]["up"], item["best"]["down"]) == (f"0:{LIVED}", "1:4")
    assert item["best"]["counts"] == {"up": fired[0], "down": fired[1], "joint": joint, "count_error": 0}
    assert item["best"]["estimate"] == pytest.approx(np.corrcoef(DENSE[0][:, LIVED], DENSE[1][:, 4])[0, 1], rel=1e-6)
    assert item["best"]["measures"]["jaccard"] == pytest.approx(joint / (sum(fired) - joint))
    assert kinds["disappeared"][f"0:{GONE}"]["best"] is None


def test_the_planted_lineage_has_its_birth_death_weakest_link_and_mass(service: Service) -> None:
    answer = service.get("/v1/lineages", feature=f"0:{LIVED}")
    (found,) = answer["items"]
    ends = list(zip((0, 1, 2), (LIVED, 4, 7), strict=True))
    assert [one["feature"] for one in found["features"]] == [f"{layer}:{index}" for layer, index in ends]
    assert (found["birth"], found["death"], found["length"], answer["total"]) == (0, 2, 3, 1)
    columns = [DENSE[layer][:, index].astype(np.float64) for layer, index in ends]
    pearson = [np.corrcoef(one, other)[0, 1] for one, other in itertools.pairwise(columns)]
    assert [link["estimate"] for link in found["links"]] == pytest.approx(pearson, rel=1e-6)
    weakest = found["links"][int(np.argmin(pearson))]
    assert found["weakest"] == {key: weakest[key] for key in ("up", "down", "estimate")}
    for one, column in zip(found["features"], columns, strict=True):
        assert one["count"] == (column > 0).sum()
        assert one["sum"] == pytest.approx(column.sum(), rel=1e-6)
        assert one["share_of_sum"] == pytest.approx(column.sum() / sum(other.sum() for other in columns), rel=1e-6)
        squares = [(other**2).sum() for other in columns]
        assert one["share_of_squares"] == pytest.approx((column**2).sum() / sum(squares), rel=1e-6)


def test_every_live_feature_is_in_one_lineage_and_the_list_is_sorted(service: Service) -> None:
    answer = service.get("/v1/lineages")
    live = sum(int((dense > 0).any(0).sum()) for dense in DENSE)
    assert sum(row["length"] * row["count"] for row in answer["lengths"]) == live
    assert sum(row["count"] for row in answer["spans"]) == sum(row["count"] for row in answer["lengths"])
    assert answer["total"] == len(answer["items"]) == sum(row["count"] for row in answer["lengths"] if row["length"] > 1)
    keys = [(-item["length"], -item["weakest"]["estimate"]) for item in answer["items"]]
    assert keys == sorted(keys) and answer["path"] == [[0, 1], [1, 2]]
    features = [one["feature"] for item in answer["items"] for one in item["features"]]
    assert len(features) == len(set(features))
    assert service.get("/v1/lineages", min_length=3)["total"] == sum(item["length"] == 3 for item in answer["items"])
    assert service.get("/v1/lineages", feature=f"0:{NEVER}")["items"] == []


def test_the_planted_specialisation_is_found_with_the_numbers_of_its_four_conditions(service: Service) -> None:
    answer = service.get("/v1/specializations")
    found = {item["parent"]: item for item in answer["items"]}
    item = found[f"0:{PARENT}"]
    parent = DENSE[0][:, PARENT] > 0
    children = DENSE[1][:, CHILDREN] > 0
    order = np.argsort(-children.sum(0))
    assert [child["feature"] for child in item["children"]] == [f"1:{CHILDREN[at]}" for at in order]
    for child, at in zip(item["children"], order, strict=True):
        joint = int((children[:, at] & parent).sum())
        assert child["counts"] == {"up": int(parent.sum()), "down": int(children[:, at].sum()), "joint": joint, "count_error": 0}
        assert (child["necessity"], child["share"]) == (1.0, joint / parent.sum())
    conditions = item["conditions"]
    since = sum(len(document[0]) for document in CORPUS[:FIRST])
    later, within = children[since:, order], children[since:, order] & parent[since:, None]
    features = [child["feature"] for child in item["children"]]
    assert conditions["counted"] == {
        "counted_from": since,
        "tokens": len(parent) - since,
        "parent": int(parent[since:].sum()),
        "children": [
            {"feature": feature, "count": int(later[:, at].sum()), "joint": int(within[:, at].sum())}
            for at, feature in enumerate(features)
        ],
        "pairs": [
            {"a": features[a], "b": features[b], "joint": int((later[:, a] & later[:, b]).sum()), "within": 0}
            for a, b in itertools.combinations(range(3), 2)
        ],
        "union": int(later.any(1).sum()),
        "union_within": int(within.any(1).sum()),
    }
    covered = within.any(1).sum() / parent[since:].sum()
    assert covered == 1 and not (within.sum(1) > 1).any()
    assert (conditions["children"], conditions["necessity"], conditions["exclusive"]) == (3, 1.0, "exact")
    assert conditions["coverage"] == {"lower": covered, "upper": covered}
    assert conditions["shared"] == conditions["overlap"] == {"lower": 0.0, "upper": 0.0}
    for one in answer["items"]:
        kind, limit = one["conditions"]["exclusive"], answer["max_overlap"]
        assert (kind in ("exact", "shown")) == (one["conditions"]["shared"]["upper"] <= limit)
        assert (one["conditions"]["counted"] is not None) == (kind == "exact")
    assert answer["shown"] == sum(one["conditions"]["exclusive"] != "bounded" for one in answer["items"])
    assert f"0:{LIVED}" not in found and f"0:{HALVED}" not in found


@pytest.mark.parametrize(("measure", "threshold"), [("pearson", 0.05), ("jaccard", 0.1)])
def test_the_matching_has_the_largest_total_of_all_one_to_one_pairings(service: Service, measure: str, threshold: float) -> None:
    for pair in PAIRS:
        answer = service.get("/v1/matching", pair=f"{pair[0]}-{pair[1]}", measure=measure, threshold=threshold)
        weight = np.where(passing(pair, measure, threshold), np.nan_to_num(values(DENSE, pair, measure)), 0)
        best = weight[linear_sum_assignment(weight, maximize=True)].sum()
        assert answer["by_measure"]["total"] == pytest.approx(best, rel=1e-6)
        assert answer["by_measure"]["candidates"] == np.count_nonzero(weight)
        estimates = [item["estimate"] for item in answer["items"]]
        assert sum(estimates) == pytest.approx(best, rel=1e-6) and estimates == sorted(estimates, reverse=True)
        for side in ("up", "down"):
            assert len({item[side] for item in answer["items"]}) == answer["total"] == answer["by_measure"]["matched"]
        assert answer["data_free"] is answer["agreement"] is None
        assert answer["data_free_reason"].startswith("this run has no model")


def test_a_list_is_read_page_by_page_and_a_page_knows_its_question(service: Service) -> None:
    whole = service.get("/v1/lineages")
    items, query = [], {"limit": 2}
    page: Any = {"next": None}
    while not items or page["next"]:
        page = service.get("/v1/lineages", **query, **({"cursor": page["next"]} if page["next"] else {}))
        items += page["items"]
        assert len(page["items"]) <= 2
    assert items == whole["items"]
    first = service.get("/v1/lineages", limit=1)
    other = service.http.get("/v1/lineages", params={"limit": 1, "threshold": 0.5, "cursor": first["next"]})
    assert other.status_code == 400 and "another question" in other.json()["detail"]
    gone = service.http.get("/v1/lineages", params={"cursor": f"{'0' * 24}-2"})
    assert gone.status_code == 410 and "begin again" in gone.json()["detail"]


BY = {"rank": "estimate", "min_value": 0.3}


def test_what_is_planted_to_fire_together_is_one_community_with_the_numbers_of_brute_force(service: Service) -> None:
    answer = service.get("/v1/communities", **BY, min_size=3)
    edges = {
        (f"{pair[0]}:{i}", f"{pair[1]}:{j}"): values(DENSE, pair, "jaccard")[i, j]
        for pair in PAIRS
        for i, j in np.argwhere(passing(pair, "jaccard", 0.3)).tolist()
    }
    nodes = {feature for edge in edges for feature in edge}
    assert (answer["nodes"], answer["edges"]) == (len(nodes), len(edges)) and answer["reason"] is None
    assert answer["total"] == len(answer["items"]) <= answer["communities"] and answer["next"] is None
    assert 0.8 < answer["agreement"]["adjusted_mutual_information"] <= 1
    lived = service.get("/v1/communities/of", **BY, feature=f"0:{LIVED},1:4,2:7,0:{NEVER},0:{PARENT}")
    own = lived["community"]
    assert set(list(lived["features"].values())[:3]) == {own["id"]} and lived["features"][f"0:{NEVER}"] is None
    assert own in answer["items"] and own["size"] == 3 and own["span"] == {"first": 0, "last": 2}
    assert own["layers"] == {"0": 1, "1": 1, "2": 1} and own["density"] == 1 and own["stability"]["mean"] == 1
    weights = [edges[f"0:{LIVED}", "1:4"], edges["1:4", "2:7"]]
    assert own["internal_weight"] == pytest.approx(sum(weights)) and own["top"][0] == "1:4"
    one = service.get(f"/v1/communities/{own['id']}", **BY, min_size=3)
    assert {key: one[key] for key in own} == own and one["dropped"] == {"features": 0, "edges": 0}
    assert {(edge["up"], edge["down"]): edge["value"] for edge in one["edges"]} == pytest.approx(
        dict(zip([(f"0:{LIVED}", "1:4"), ("1:4", "2:7")], weights, strict=True))
    )
    densities = {f"{layer}:{index}": (DENSE[layer][:, index] > 0).mean() for layer, index in ((0, LIVED), (1, 4), (2, 7))}
    assert {feature["feature"]: feature["density"] for feature in one["features"]} == pytest.approx(densities)
    shared_out = service.get(f"/v1/communities/{lived['features'][f'0:{PARENT}']}", **BY)
    assert {f"0:{PARENT}", f"1:{CHILDREN[0]}", f"2:{CHILDREN[0]}"} <= {one["feature"] for one in shared_out["features"]}
    certain = service.get("/v1/communities", min_value=0.3, min_size=3)  # by the lower bound
    assert certain["rank"] == "lower" and 0 < certain["edges"] <= answer["edges"]
    assert all(edge["lower"] >= 0.3 for item in certain["items"] for edge in edges_of(service, item["id"]))
    assert "1:4" in {feature for item in certain["items"] for feature in item["top"]}


def edges_of(service: Service, community: str) -> list[Any]:
    return service.get(f"/v1/communities/{community}", min_value=0.3)["edges"]


def test_communities_that_there_are_none_of_say_why(service: Service) -> None:
    empty = service.get("/v1/communities", measure="lift", min_value=1e6)
    assert (empty["nodes"], empty["items"], empty["quality"]) == (0, [], None) and "lower min_value" in empty["reason"]
    assert empty["agreement"]["features"] is None and "lift is not known by half" in empty["agreement"]["reason"]
    gone = service.http.get("/v1/communities/c999", params=BY)
    assert gone.status_code == 404 and "no community c999" in gone.json()["detail"] and "which has" in gone.json()["detail"]
    alone = service.get("/v1/communities/of", **BY, feature=f"0:{NEVER}")
    assert alone["community"] is None and f"no pair of 0:{NEVER}" in alone["reason"]


def test_an_answer_is_not_sent_twice(service: Service) -> None:
    first = service.http.get("/v1/flow")
    assert first.headers["etag"] == f'W/"{first.json()["snapshot"]["version"]}"'
    assert service.http.get("/v1/flow", headers={"If-None-Match": first.headers["etag"]}).status_code == 304


def test_the_worker_has_a_low_priority_and_is_started_again_when_it_is_killed(service: Service) -> None:
    ids = {item["top"][0]: item["id"] for item in service.get("/v1/communities", **BY, min_size=2, sort="density")["items"]}
    worker = service.child("engine.analysis")
    engine = service.child("engine.main")
    assert worker is not None and engine is not None and service.process is not None
    assert worker.nice() == psutil.Process(service.process.pid).nice() + 10 > engine.nice()
    worker.kill()
    eventually("it is gone", lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
    assert service.get("/v1/flow")["pairs"]  # waits for the next one
    assert service.child("engine.analysis") is not None
    again = service.get("/v1/communities", **BY, min_size=2, sort="density")["items"]
    assert {item["top"][0]: item["id"] for item in again} == ids  # they outlive it


def test_the_command_line_shows_flow_lineages_communities_and_specialisations(service: Service) -> None:
    flow = saestream(service, "flow", "--pair", "0-1", "--kind", "disappeared")
    share = service.get("/v1/flow", pair="0-1")["pairs"][0]["disappeared"]["live"]["share"]
    assert f"{share:.1%}" in flow and "0 → 1" in flow and f"0:{GONE}" in flow
    assert f"0:{LIVED} → 1:4 → 2:7" in saestream(service, "lineages", "--min-length", "3")
    assert f"0:{LIVED} → 1:4 → 2:7" in saestream(service, "lineages", "1:4")
    found = saestream(service, "communities", "--measure", "phi", "--min-value", "0.3", "--min-size", "3", "--sort", "size")
    assert "communities of" in found and "not known by half" in found and "1:4" in found
    found = saestream(service, "specializations")
    assert f"0:{PARENT}" in found and "1:8 (" in found


def saestream(service: Service, *words: str) -> str:
    environment = {**os.environ, "COLUMNS": "200", "SAESTREAM_URL": str(service.http.base_url)}
    ended = subprocess.run([sys.executable, "-m", "api.cli", *words], capture_output=True, text=True, timeout=120, env=environment)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_wrong_threshold_on_the_command_line_is_one_sentence(service: Service, tmp_path: Path) -> None:
    environment = {**os.environ, "COLUMNS": "200", "SAESTREAM_URL": str(service.http.base_url)}
    command = [sys.executable, "-m", "api.cli", "flow", "--threshold", "1.5"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert ended.returncode == 1 and "threshold = 1.5" in ended.stderr and len(ended.stderr.strip().splitlines()) == 1
