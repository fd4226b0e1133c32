"""Histograms of best partners and the most certain edges, through the real server and against brute force."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from engine.measures import MEASURES
from tests.pushed_run import DENSE, PAIRS, SUPPORT, push_all
from tests.relation_graphs import pair_counts, values
from tests.service import Service, serving

WITH_TEXTS = tuple(measure for measure in MEASURES if measure != "decoder_cosine")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("edges"), "--dictionary", ",".join(str(dense.shape[1]) for dense in DENSE)) as running:
        push_all(running)
        yield running


def test_histograms_count_the_best_partners_that_brute_force_finds(service: Service) -> None:
    answer = service.get("/v1/histograms")
    assert answer["measures"] == list(WITH_TEXTS) and answer["next"] is None
    assert [(item["measure"], tuple(item["pair"])) for item in answer["items"]] == [(m, p) for m in WITH_TEXTS for p in PAIRS]
    assert answer["total"] == len(answer["items"]) and answer["lists"]["undecided"] == 0
    for item in answer["items"]:
        pair, bins = item["pair"], np.array(item["bins"])
        with np.errstate(invalid="ignore"):
            scores = np.where(pair_counts(DENSE, tuple(pair))[0] >= SUPPORT, values(DENSE, tuple(pair), item["measure"]), np.nan)
        for side, axis in (("up", 1), ("down", 0)):
            found, live = item[side], int((DENSE[pair[1 - axis]] > 0).any(0).sum())
            best = np.nanmax(np.where(np.isnan(scores), -np.inf, scores), axis=axis)
            best = best[np.isfinite(best)]
            inside = [int(((best >= low) & (best < high)).sum()) for low, high in itertools.pairwise(bins)]
            inside[-1] += int((best == bins[-1]).sum())
            # A value within rounding of an edge may fall on either side of it.
            near = np.abs(best[:, None] - bins).min(1) < 1e-9
            assert np.abs(np.cumsum(found["counts"]) - np.cumsum(inside)).max() <= near.sum()
            assert found["without"] == live - len(best) and found["live"] == live == sum(found["counts"]) + found["without"]
            assert found["median"] == pytest.approx(np.median(best), rel=1e-6)


def test_one_measure_is_answered_alone_and_a_larger_support_leaves_more_without_a_partner(service: Service) -> None:
    every = service.get("/v1/histograms", measure="lift")
    assert [item["measure"] for item in every["items"]] == ["lift"] * len(PAIRS)
    fewer = service.get("/v1/histograms", measure="lift", min_support=200)
    assert all(one["up"]["without"] < other["up"]["without"] for one, other in zip(every["items"], fewer["items"], strict=True))
    assert fewer["min_support"] == 200


def test_histograms_are_read_page_by_page(service: Service) -> None:
    every = service.get("/v1/histograms")["items"]
    first = service.get("/v1/histograms", limit=3)
    second = service.get("/v1/histograms", limit=1000, cursor=first["next"])
    assert first["items"] + second["items"] == every and second["next"] is None


@pytest.mark.parametrize("measure", ["jaccard", "sufficiency", "necessity", "pearson"])
def test_edges_are_the_published_intervals_by_lower_bound(service: Service, measure: str) -> None:
    answer = service.get("/v1/edges", measure=measure, limit=1000)
    assert 0 < answer["total"] == len(answer["items"]) <= answer["watched"]
    lower = [item["lower"] for item in answer["items"]]
    assert lower == sorted(lower, reverse=True)
    for item in answer["items"][:20]:
        layer, index = item["up"].split(":")
        rows = service.get(f"/v1/features/{layer}/{index}/neighbors", measure=measure, k=20)
        assert rows["snapshot"]["version"] == answer["snapshot"]["version"]
        (row,) = (row for row in rows["neighbors"] if row["feature"] == item["down"])
        for field in ("counts", "lower", "upper", "interval_estimate", "counted_from", "status", "method"):
            assert item[field] == row[field]
        assert item["estimate"] == pytest.approx(row["estimate"]) and item["measures"] == pytest.approx(row["measures"])
        live = service.get("/v1/similarity", up=item["up"], down=item["down"])["measures"][measure]
        assert (item["documents"], item["effective_documents"]) == (live["documents"], live["effective_documents"])


def test_every_watched_pair_with_an_interval_is_among_the_edges(service: Service) -> None:
    """The other way round: asked of every feature in turn, both ways."""
    expected = set()
    for layer, dense in enumerate(DENSE[:-1]):
        for index in range(dense.shape[1]):
            rows = service.get(f"/v1/features/{layer}/{index}/neighbors", measure="jaccard", k=20)["neighbors"]
            expected |= {(f"{layer}:{index}", row["feature"]) for row in rows if row["status"] == "ok"}
    found = {(item["up"], item["down"]) for item in service.get("/v1/edges", limit=1000)["items"]}
    assert found == expected
    of_pair = service.get("/v1/edges", pair="0-1", limit=1000)["items"]
    assert {(item["up"], item["down"]) for item in of_pair} == {edge for edge in expected if edge[0].startswith("0:")}


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        pytest.param("/v1/edges?measure=lift", 422, "jaccard, sufficiency, necessity, pearson", id="measure-without-interval"),
        pytest.param("/v1/edges?pair=0-2", 422, "0-1, 1-2", id="no-such-pair"),
        pytest.param("/v1/edges?limit=0", 422, "limit = 0", id="limit-0"),
        pytest.param("/v1/histograms?measure=cosine", 422, "jaccard, sufficiency", id="unknown-measure"),
        pytest.param("/v1/histograms?measure=decoder_cosine", 422, "no model", id="cosine-without-a-model"),
        pytest.param("/v1/histograms?min_support=9", 422, "at least 10", id="support-below-what-is-published"),
        pytest.param("/v1/histograms?cursor=x", 400, "page before", id="no-cursor"),
    ],
)
def test_what_can_not_be_asked_names_what_can(service: Service, path: str, status: int, says: str) -> None:
    answer = service.http.get(path)
    assert answer.status_code == status and says in answer.json()["detail"]
