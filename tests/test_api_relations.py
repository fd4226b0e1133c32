"""What the routes of relations refuse, before anybody computes anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from api_engine import Engine
from api_rig import Api, api_process, problem

ROUTES = (
    *("/v1/flow", "/v1/lineages", "/v1/specializations", "/v1/matching?pair=0-1"),
    *("/v1/communities", "/v1/communities/c1", "/v1/communities/of?feature=0:1", "/v1/search?q=word"),
)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A snapshot is published; there is no analysis worker."""
    with api_process(tmp_path_factory.mktemp("relations")) as (api, _):
        engine = Engine(api.settings)
        engine.count()
        engine.publish()
        yield api
        engine.close()


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        pytest.param("/v1/flow?measure=cosine", 422, "jaccard, sufficiency, necessity", id="unknown-measure"),
        pytest.param("/v1/lineages?measure=Pearson", 422, "one of jaccard", id="measure-in-capitals"),
        pytest.param(
            "/v1/flow?threshold=1.5", 422, "threshold = 1.5: it must be above 0 and no more than 1", id="threshold-above-1"
        ),
        pytest.param("/v1/lineages?threshold=0", 422, "above 0", id="threshold-0"),
        pytest.param("/v1/matching?pair=0-1&threshold=nan", 422, "threshold = nan", id="threshold-nan"),
        pytest.param("/v1/flow?threshold=high", 400, "threshold", id="threshold-not-a-number"),
        pytest.param("/v1/flow?measure=lift", 422, "must be given for lift", id="lift-without-threshold"),
        pytest.param("/v1/flow?measure=mutual_information&threshold=0.8", 422, "0.6931", id="information-above-ln-2"),
        pytest.param("/v1/flow?min_support=1", 422, "at least 2", id="support-below-what-is-published"),
        pytest.param("/v1/flow?pair=0-2", 422, "0-1, 1-2", id="no-such-pair"),
        pytest.param("/v1/flow?pair=0:1", 400, "up-down", id="pair-of-another-form"),
        pytest.param("/v1/flow?kind=passed", 400, "pair=up-down", id="kind-without-pair"),
        pytest.param("/v1/flow?pair=0-1&kind=gone", 422, "passed, disappeared", id="unknown-kind"),
        pytest.param("/v1/flow?limit=0", 422, "limit = 0", id="limit-0"),
        pytest.param("/v1/flow?treshold=0.5", 400, "threshold", id="misspelt"),
        pytest.param("/v1/lineages?feature=0:6", 404, "features 0 to 5", id="unknown-feature"),
        pytest.param("/v1/lineages?feature=0-1", 400, "layer:index", id="malformed-feature"),
        pytest.param("/v1/lineages?min_length=1", 422, "between 2 and 3", id="length-1"),
        pytest.param("/v1/lineages?min_length=4", 422, "between 2 and 3", id="longer-than-the-model"),
        pytest.param("/v1/specializations?threshold=0", 422, "threshold = 0", id="necessity-0"),
        pytest.param("/v1/specializations?coverage=1.1", 422, "coverage = 1.1", id="coverage-above-1"),
        pytest.param("/v1/specializations?max_overlap=1", 422, "max_overlap = 1", id="overlap-1"),
        pytest.param("/v1/specializations?measure=jaccard", 400, "unknown query parameter", id="measure-where-none-is"),
        pytest.param("/v1/matching", 400, "pair", id="matching-without-pair"),
        pytest.param("/v1/matching?pair=1-0", 422, "0-1, 1-2", id="pair-the-other-way"),
        pytest.param("/v1/communities?measure=cosine", 422, "jaccard, sufficiency, necessity", id="communities-by-no-measure"),
        pytest.param("/v1/communities?min_value=0", 422, "min_value = 0: it must be above 0", id="value-0"),
        pytest.param("/v1/communities?measure=lift", 422, "min_value: it must be given for lift", id="communities-by-lift"),
        pytest.param("/v1/communities?min_support=1", 422, "at least 2", id="communities-below-what-is-published"),
        pytest.param("/v1/communities?objective=louvain", 422, "one of modularity, cpm", id="unknown-objective"),
        pytest.param("/v1/communities?resolution=0", 422, "resolution = 0: it must be above 0", id="resolution-0"),
        pytest.param("/v1/communities/c1?resolution=inf", 422, "resolution = inf", id="resolution-without-end"),
        pytest.param("/v1/communities?rank=upper", 422, "'lower' or 'estimate'", id="unknown-rank"),
        pytest.param("/v1/communities?measure=phi&rank=lower", 422, "phi has no lower bound", id="rank-that-phi-lacks"),
        pytest.param("/v1/communities?min_size=1", 422, "two features or more", id="communities-of-one"),
        pytest.param("/v1/communities?min_size=9&max_size=8", 422, "max_size = 8: it must be min_size = 9", id="sizes-swapped"),
        pytest.param("/v1/communities?min_span=4", 422, "between 1 and 3", id="span-longer-than-the-model"),
        pytest.param("/v1/communities?sort=age", 422, "size, stability, density", id="unknown-sort"),
        pytest.param("/v1/communities?limit=1001", 422, "limit = 1001", id="communities-limit"),
        pytest.param("/v1/communities/17", 400, "written c17", id="id-of-another-form"),
        pytest.param("/v1/communities/c1?sort=size", 400, "unknown query parameter", id="sort-of-one"),
        pytest.param("/v1/communities/of", 400, "feature", id="of-nothing"),
        pytest.param("/v1/communities/of?feature=0:6", 404, "features 0 to 5", id="of-an-unknown-feature"),
        pytest.param("/v1/communities/of?feature=0:1,1", 400, "layer:index", id="of-a-malformed-feature"),
        pytest.param("/v1/communities/of?feature=" + ",".join(["0:1"] * 1_001), 422, "1,001 features", id="of-too-many"),
    ],
)
def test_what_can_not_be_asked_is_a_problem_that_names_what_can(api: Api, path: str, status: int, says: str) -> None:
    assert says in problem(api.http.get(path), status)


def test_before_the_first_snapshot_every_relation_is_503_with_retry_after(tmp_path: Path) -> None:
    with api_process(tmp_path) as (api, _):
        engine = Engine(api.settings)
        engine.publisher.beat(engine.status())
        for path in ROUTES:
            answer = api.http.get(path)
            assert "not published a snapshot" in problem(answer, 503) and int(answer.headers["retry-after"]) >= 1
        engine.close()
