"""Everything that is read over HTTP, from a real publisher's records, in JSON and MessagePack."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import numpy as np
import pytest
from api_engine import DICTIONARIES, NEVER, Engine
from api_rig import Api, api_process, eventually, problem

from engine.measures import MEASURES
from engine.views.records import SetAsideRecord, UploadRecord
from engine.views.redis_server import PrivateRedis

MSGPACK = "application/x-msgpack"


class Run(NamedTuple):
    api: Api
    engine: Engine
    redis: PrivateRedis


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """600 tokens counted and published; one feature is explained."""
    folder = tmp_path_factory.mktemp("statistics")
    (folder / "explanations.jsonl").write_text('{"feature": "1:3", "text": "the middle one"}\n', encoding="utf-8")
    with api_process(folder) as (api, redis):
        engine = Engine(api.settings)
        for _ in range(3):
            engine.count()
        engine.publish()
        yield Run(api, engine, redis)
        engine.close()


def get(run: Run, path: str, **query: Any) -> Any:
    answer = run.api.http.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


ROUTES = [
    pytest.param("/v1/status", id="status"),
    pytest.param("/v1/corpora", id="corpora"),
    pytest.param("/v1/features/1/3", id="feature"),
    pytest.param("/v1/features/0/0/neighbors", id="neighbors"),
    pytest.param("/v1/features/0/0/neighbors?measure=phi&k=5&min_support=1", id="live-neighbors"),
    pytest.param("/v1/features/1/3/contexts?with=2:3&with=0:3&k=2", id="contexts"),
    pytest.param("/v1/similarity?up=0:0&down=1:0", id="similarity"),
    pytest.param("/v1/convergence", id="convergence"),
    pytest.param("/livez", id="livez"),
    pytest.param("/readyz", id="readyz"),
]


@pytest.mark.parametrize("path", ROUTES)
def test_every_route_answers_the_same_in_json_and_msgpack(run: Run, path: str) -> None:
    run.engine.publish()
    json = run.api.http.get(path)
    packed = run.api.http.get(path, headers={"Accept": f"{MSGPACK}, application/json;q=0.5"})
    assert (json.status_code, packed.status_code) == (200, 200), json.text
    assert json.headers["content-type"].startswith("application/json")
    assert packed.headers["content-type"] == MSGPACK
    assert json.headers["vary"] == packed.headers["vary"] == "Accept"
    assert steady(msgspec.msgpack.decode(packed.content)) == steady(json.json())


def steady(answer: Any) -> Any:
    """Without what moves from one moment to the next."""
    if isinstance(answer, dict):
        return {key: steady(value) for key, value in answer.items() if key not in ("age_ms", "lag_tokens")}
    return [steady(value) for value in answer] if isinstance(answer, list) else answer


def test_json_is_the_default_also_for_browsers(run: Run) -> None:
    for accept in ("*/*", "text/html,application/xhtml+xml,*/*;q=0.8", "application/json"):
        answer = run.api.http.get("/v1/status", headers={"Accept": accept})
        assert answer.headers["content-type"].startswith("application/json")


def test_status_names_run_layers_pairs_snapshot_and_checkpoint(run: Run) -> None:
    run.engine.publish()
    status = get(run, "/v1/status")
    assert (status["model"], status["saes"], status["state"]) == ("tiny-model", "tiny-saes", "counting")
    assert [layer["features"] for layer in status["layers"]] == list(DICTIONARIES)
    assert status["layers"][0]["dead"] == 1 and status["pairs"] == [[0, 1], [1, 2]]
    assert status["tokens"] == status["snapshot"]["tokens"] == run.engine.state.tokens
    assert status["lag_tokens"] == 0 and status["checkpoint"]["tokens"] == run.engine.state.tokens


@pytest.mark.parametrize("feature", [(0, 4), (1, 3), (2, 4)], ids=["always-on", "middle", "last-layer"])
def test_a_feature_has_the_counts_of_the_dense_activations(run: Run, feature: tuple[int, int]) -> None:
    layer, index = feature
    column = run.engine.seen[layer][:, index].astype(np.float64)
    answer = get(run, f"/v1/features/{layer}/{index}")
    assert answer["tokens"] == len(column) == answer["snapshot"]["tokens"]
    assert answer["count"] == np.count_nonzero(column)
    assert answer["density"] == pytest.approx(np.mean(column > 0))
    assert answer["max"] == column.max()
    assert answer["mean"] == pytest.approx(column.mean(), rel=1e-6)
    assert answer["mean_active"] == pytest.approx(column[column > 0].mean(), rel=1e-6)
    assert answer["explanation"] == ("the middle one" if feature == (1, 3) else None)
    edges = answer["histogram"]["edges"]
    assert edges[:5] == [2**-6, 1.25 * 2**-6, 1.5 * 2**-6, 1.75 * 2**-6, 2**-5] and edges[-1] == 1.5 * 2**9
    assert answer["histogram"]["counts"] == np.histogram(column[column > 0], [0, *edges, np.inf])[0].tolist()
    assert answer["hook"] == f"blocks.{layer}.hook_resid_pre"
    assert answer["neuronpedia"] == (f"https://www.neuronpedia.org/tiny/{layer}-res/{index}" if layer else None)
    assert answer["strongest"]["activation"] == column.max()
    assert answer["strongest"]["log_position"] == int(column.argmax())
    assert answer["strongest_reason"] is None
    best = [(activation["activation"], activation["log_position"]) for activation in answer["contexts"]]
    assert best == best_of_documents(run, feature)


def test_convergence_answers_the_series_of_the_engine_and_only_the_newest_points_on_request(run: Run) -> None:
    for _ in range(2):
        run.engine.count(run.engine.state.tokens)
        run.engine.publish()
    series = msgspec.to_builtins(run.engine.convergence.record())
    answer = get(run, "/v1/convergence")
    assert answer["pairs"] == [[0, 1], [1, 2]] and answer["drift"] is None
    assert answer["points"] == msgspec.json.decode(msgspec.json.encode(series["points"])) and len(answer["points"]) >= 3
    newest = get(run, "/v1/convergence", last=2)
    assert newest["points"] == answer["points"][-2:]
    assert get(run, "/v1/convergence", last=252)["points"] == answer["points"]
    point = answer["points"][-1]
    assert point["tokens"] == len(run.engine.seen[0]) and point["dead"] == [1, 0, 0]
    joint = (run.engine.seen[0] > 0).T.astype(int) @ (run.engine.seen[1] > 0)
    assert point["pairs_seen"][0] == np.count_nonzero(joint)
    assert point["unseen_mass"][0] == pytest.approx(np.count_nonzero(joint == 1) / joint.sum())


def test_a_feature_that_never_fired_says_so_instead_of_numbers(run: Run) -> None:
    answer = get(run, f"/v1/features/{NEVER[0]}/{NEVER[1]}")
    assert (answer["count"], answer["density"], answer["mean"]) == (0, 0, 0)
    assert answer["max"] is answer["mean_active"] is answer["strongest"] is None
    assert answer["contexts"] == [] == get(run, f"/v1/features/{NEVER[0]}/{NEVER[1]}/contexts")["contexts"]
    assert answer["strongest_reason"] == "feature 0:5 never fired"
    similarity = get(run, "/v1/similarity", up="0:5", down="1:1")
    assert similarity["counts"]["up"] == similarity["counts"]["joint"] == 0
    assert similarity["measures"]["sufficiency"]["estimate"] is None
    assert "0:5" in similarity["measures"]["sufficiency"]["reason"]


def test_similarity_has_every_measure_from_the_counts(run: Run) -> None:
    up, down = (run.engine.seen[layer][:, 0] > 0 for layer in (0, 1))
    answer = get(run, "/v1/similarity", up="0:0", down="1:0")
    joint = int((up & down).sum())
    assert answer["counts"] == {"up": int(up.sum()), "down": int(down.sum()), "joint": joint, "count_error": 0}
    assert set(answer["measures"]) == set(MEASURES)
    assert answer["measures"]["jaccard"]["estimate"] == pytest.approx(joint / (up | down).sum())
    assert answer["measures"]["jaccard"]["status"] == "insufficient" and answer["measures"]["jaccard"]["lower"] is None
    assert answer["snapshot"]["version"].startswith("live-")


@pytest.mark.parametrize("measure", MEASURES)
def test_published_and_live_neighbours_agree(run: Run, measure: str) -> None:
    published = get(run, "/v1/features/1/3/neighbors", measure=measure, direction="upstream", k=3)
    live = get(run, "/v1/features/1/3/neighbors", measure=measure, direction="upstream", k=4, min_support=2)
    assert published["neighbors"] == live["neighbors"][:3] and published["neighbors"]
    assert live["snapshot"]["version"].startswith("live-") and not published["snapshot"]["version"].startswith("live-")
    estimates = [neighbor["estimate"] for neighbor in published["neighbors"]]
    assert estimates == sorted(estimates, reverse=True)


def test_contexts_show_each_feature_with_the_activations_of_all(run: Run) -> None:
    answer = get(run, "/v1/features/0/0/contexts", **{"with": ["1:0", "0:5"]})
    assert answer["missing"] == []
    assert [context["feature"] for context in answer["contexts"]] == ["0:0"] * 3 + ["1:0"] * 3
    for context in answer["contexts"]:
        values = context["values"]
        assert set(values) == {"0:0", "1:0", "0:5"}
        assert values[context["feature"]][context["position"]] == context["activation"]
        assert len(context["tokens"]) == len(values["0:0"])


def best_of_documents(run: Run, feature: tuple[int, int], k: int = 8) -> list[tuple[float, int]]:
    """Value and position of the best token of each chunk, which is a document, and of those the k best."""
    first, best = 0, []
    for chunk in run.engine.rows:
        column = chunk[feature[0]][:, feature[1]]
        if column.any():
            best.append((float(column.max()), first + int(column.argmax())))
        first += len(column)
    return sorted(best, key=lambda one: (-one[0], one[1]))[:k]


def test_the_k_strongest_contexts_are_of_k_documents_the_strongest_first(run: Run) -> None:
    while len(run.engine.rows) < 10:
        run.engine.count(30)
    for k in (1, 8):
        contexts = get(run, "/v1/features/1/3/contexts", k=k)["contexts"]
        assert [(context["activation"], context["log_position"]) for context in contexts] == best_of_documents(run, (1, 3), k)
        assert len(contexts) == len({context["document"]["number"] for context in contexts}) == k


def test_a_context_whose_text_is_gone_says_so_beside_those_that_are_there(run: Run) -> None:
    (value, position), *others = best_of_documents(run, (1, 3), 3)
    first = get(run, "/v1/features/1/3/contexts", k=1)["contexts"][0]["document"]["number"]
    run.engine.lost = {first}
    try:
        answer = get(run, "/v1/features/1/3/contexts")
        lost = {"feature": "1:3", "activation": value, "log_position": position, "reason": "this chunk is gone"}
        assert answer["missing"] == [lost]
        assert [context["log_position"] for context in answer["contexts"]] == [position for _, position in others]
        run.engine.publish()
        shown = get(run, "/v1/features/1/3")
        assert (shown["strongest"], shown["strongest_reason"]) == (None, "this chunk is gone")
        assert shown["contexts"][0] == {"activation": value, "log_position": position}
    finally:
        run.engine.lost = set()


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        pytest.param("/v1/features/3/0", 404, "layers 0 to 2", id="unknown-layer"),
        pytest.param("/v1/features/1/8", 404, "features 0 to 7", id="unknown-feature"),
        pytest.param("/v1/features/1/-1", 404, "features 0 to 7", id="negative-feature"),
        pytest.param("/v1/features/x/1", 404, "/v1/features/x/1", id="layer-not-a-number"),
        pytest.param("/v1/features/9/0/neighbors", 404, "layers 0 to 2", id="neighbors-of-unknown-layer"),
        pytest.param("/v1/features/9/0/contexts", 404, "layers 0 to 2", id="contexts-of-unknown-layer"),
        pytest.param("/v1/features/0/0/contexts?with=2:5", 404, "features 0 to 4", id="unknown-with"),
        pytest.param("/v1/features/0/0/contexts?with=2-4", 400, "layer:index", id="malformed-with"),
        pytest.param("/v1/features/0/0/contexts?k=0", 422, "k = 0: it must be between 1 and 8", id="no-contexts"),
        pytest.param("/v1/features/0/0/contexts?k=9", 422, "k = 9: it must be between 1 and 8", id="too-many-contexts"),
        pytest.param("/v1/features/0/0/contexts?k=all", 400, "k", id="contexts-not-a-number"),
        pytest.param("/v1/features/0/0/neighbors?k=0", 422, "k = 0", id="k-zero"),
        pytest.param("/v1/features/0/0/neighbors?k=1001", 422, "1,000", id="k-too-large"),
        pytest.param("/v1/features/0/0/neighbors?k=many", 400, "k", id="k-not-a-number"),
        pytest.param("/v1/features/0/0/neighbors?measure=cosine", 422, "jaccard, sufficiency", id="unknown-measure"),
        pytest.param("/v1/features/0/0/neighbors?direction=up", 422, "downstream, upstream", id="unknown-direction"),
        pytest.param("/v1/features/0/0/neighbors?direction=upstream", 422, "0→1, 1→2", id="first-layer-upstream"),
        pytest.param("/v1/features/0/0/neighbors?rank=lower&measure=phi", 422, "phi has no lower bound", id="rank-by-no-lower"),
        pytest.param("/v1/features/0/0/neighbors?rank=best", 422, "'lower' or 'estimate'", id="unknown-rank"),
        pytest.param("/v1/features/0/0/neighbors?min_support=0", 422, "min_support", id="support-zero"),
        pytest.param("/v1/features/0/0/neighbors?min_suport=3", 400, "min_support", id="misspelt-parameter"),
        pytest.param("/v1/status?verbose=1", 400, "no query parameters", id="parameter-where-none-is"),
        pytest.param("/v1/similarity?up=0:0", 400, "down", id="missing-parameter"),
        pytest.param("/v1/similarity?up=0:0&down=1", 400, "down = '1'", id="malformed-feature"),
        pytest.param("/v1/similarity?up=0:0&down=1:8", 404, "features 0 to 7", id="similarity-of-unknown"),
        pytest.param("/v1/similarity?up=0:0&down=2:0", 404, "0→1, 1→2", id="no-such-layer-pair"),
        pytest.param("/v1/convergence?max_staleness_ms=-1", 400, "max_staleness_ms", id="negative-staleness"),
        pytest.param("/v1/convergence?last=0", 422, "last = 0: it must be between 1 and 252", id="no-points"),
        pytest.param("/v1/convergence?last=some", 400, "last", id="points-not-a-number"),
        pytest.param("/v1/corpora?limit=0", 422, "limit = 0", id="limit-zero"),
        pytest.param("/nothing/here", 404, "/schema", id="no-such-route"),
    ],
)
def test_what_can_not_be_answered_is_a_problem_that_names_what_can(run: Run, path: str, status: int, says: str) -> None:
    assert says in problem(run.api.http.get(path), status)


def test_another_method_is_405_with_allow(run: Run) -> None:
    answer = run.api.http.put("/v1/status")
    assert "GET" in problem(answer, 405) and "GET" in answer.headers["allow"]


@pytest.mark.parametrize("path", ["/v1/features/1/3", "/v1/features/0/0/neighbors", "/v1/convergence"])
def test_a_snapshot_is_a_weak_etag_and_is_not_sent_twice(run: Run, path: str) -> None:
    first = run.api.http.get(path)
    assert first.headers["etag"] == f'W/"{first.json()["snapshot"]["version"]}"'
    same = run.api.http.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", first.headers["etag"])
    run.engine.count(10)
    run.engine.publish()
    assert run.api.http.get(path, headers={"If-None-Match": first.headers["etag"]}).status_code == 200


def test_live_answers_have_no_etag(run: Run) -> None:
    for path in ("/v1/similarity?up=0:0&down=1:0", "/v1/features/0/0/neighbors?k=7"):
        assert "etag" not in run.api.http.get(path).headers


def test_a_bound_on_staleness_is_kept_only_while_something_newer_was_counted(run: Run) -> None:
    run.engine.publish()
    version = get(run, "/v1/convergence")["snapshot"]["version"]
    eventually("a millisecond passes", lambda: get(run, "/v1/convergence")["snapshot"]["age_ms"] > 1)
    run.engine.publisher.beat(run.engine.status("counting", tokens=run.engine.state.tokens + 1))
    answer = run.api.http.get("/v1/convergence?max_staleness_ms=1")
    assert "older" in problem(answer, 503) or version in answer.text
    assert int(answer.headers["retry-after"]) >= 1
    run.engine.publisher.beat(run.engine.status("idle"))
    assert run.api.http.get("/v1/convergence?max_staleness_ms=60000").status_code == 200


def test_progress_of_uploads_and_corpora_follows_the_published_records(run: Run) -> None:
    first = run.api.post("/v1/corpora", b'{"text": "a"}\n{"text": "b"}\n', "application/x-ndjson", name="progress").json()
    second = run.api.post("/v1/corpora", b"c", "text/plain", name="progress").json()
    assert get(run, "/v1/corpora/progress")["state"] == "queued"
    aside = SetAsideRecord(documents=1, tokens=3, reasons=["NaN at blocks.1.hook_resid_pre"])
    counted = UploadRecord(
        id=first["id"], state="counted", tokens_received=9, tokens_counted=6, documents_counted=2, set_aside=aside
    )
    run.engine.uploads = [counted, UploadRecord(id=second["id"], state="counting", tokens_counted=2)]
    run.engine.count(10)
    run.engine.publish()
    corpus = get(run, "/v1/corpora/progress")
    assert (corpus["state"], corpus["tokens_counted"], corpus["tokens_received"]) == ("counting", 8, None)
    assert corpus["set_aside"] == {"documents": 1, "tokens": 3, "reasons": ["NaN at blocks.1.hook_resid_pre"]}
    assert get(run, f"/v1/uploads/{first['id']}")["state"] == "counted"
    assert [upload["id"] for upload in corpus["items"]] == [second["id"], first["id"]]


def test_waiting_until_visible_ends_with_the_snapshot_that_holds_the_upload(run: Run) -> None:
    answers: list[httpx.Response] = []
    sender = threading.Thread(
        target=lambda: answers.append(run.api.post("/v1/corpora", b"d", "text/plain", name="seen", wait="visible"))
    )
    sender.start()
    upload = eventually("the upload is durable", lambda: [m for m in run.api.inbox.manifests() if m.corpus == "seen"])[0]
    assert sender.is_alive()
    run.engine.uploads = [UploadRecord(id=upload.id, state="counted", tokens_received=1, tokens_counted=1, documents_counted=1)]
    run.engine.count(10)
    run.engine.publish()
    sender.join(20)
    assert answers[0].status_code == 202 and answers[0].json()["state"] == "counted"


def test_readers_never_see_a_mixed_snapshot(run: Run) -> None:
    """Feature 0:4 fires on every token: its count is the snapshot's tokens, in every answer and every neighbour of it."""
    stop, seen, torn = threading.Event(), set(), []

    def look() -> None:
        with httpx.Client(base_url=run.api.url) as http:
            while not stop.is_set():
                feature = http.get("/v1/features/0/5").json()  # never fires: no live query, the pure record
                near = http.get("/v1/features/0/4/neighbors?measure=sufficiency").json()
                seen.add(near["snapshot"]["version"])
                counts = {
                    near["count"],
                    near["tokens"],
                    near["snapshot"]["tokens"],
                    *(n["counts"]["up"] for n in near["neighbors"]),
                }
                if len(counts) != 1 or feature["tokens"] != feature["snapshot"]["tokens"]:
                    torn.append((feature, near))

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(30):
            run.engine.count(5)
            run.engine.publish()
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert torn == [] and len(seen) > 3


def test_ready_means_recovered_and_current(run: Run) -> None:
    engine, http = run.engine, run.api.http
    engine.publisher.beat(engine.status("recovering"))
    assert "recovering" in problem(http.get("/readyz"), 503)
    engine.count(5)
    engine.publish("counting", queue_tokens=10**9)
    assert http.get("/readyz").status_code == 200  # a full queue is no reason to restart a healthy server
    engine.publisher.beat(engine.status("idle"))
    assert http.get("/readyz").status_code == 200
    engine.publisher.beat(engine.status("idle", updated_at=0.0))
    assert "has not reported" in problem(http.get("/readyz"), 503)
    engine.publisher.beat(engine.status("idle"))


def test_text_that_comes_after_a_pause_does_not_make_the_last_snapshot_stale_at_once(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed, now = 10.0, time.time
    run.engine.count(5)
    with monkeypatch.context() as past:
        past.setattr(time, "time", lambda: now() - 3 * allowed)
        run.engine.publish()
    assert get(run, "/v1/convergence")["snapshot"]["age_ms"] > 1000 * allowed
    run.engine.publisher.beat(run.engine.status("counting", queue_tokens=5, caught_up_at=time.time()))
    assert run.api.http.get("/readyz").status_code == 200
    run.engine.publisher.beat(run.engine.status("counting", queue_tokens=5, caught_up_at=time.time() - 2 * allowed))
    assert "old" in problem(run.api.http.get("/readyz"), 503)


def test_metrics_tell_the_requests_and_the_engine(run: Run) -> None:
    run.engine.publish()
    get(run, "/v1/features/1/3")
    run.api.http.get("/v1/features/9/9")
    text = run.api.http.get("/metrics").text
    assert f"saestream_tokens_counted {float(run.engine.state.tokens)}" in text
    assert 'saestream_dead_features{layer="0"} 1.0' in text
    assert 'route="/v1/features/{layer}/{index}",status="200"' in text
    assert 'route="/v1/features/{layer}/{index}",status="404"' in text
    assert "/v1/features/9/9" not in text


def test_nothing_published_yet_is_503_with_retry_after_and_a_live_process(tmp_path: Path) -> None:
    with api_process(tmp_path) as (api, redis):
        for path in ("/v1/features/0/0", "/v1/features/0/0/neighbors", "/v1/convergence", "/readyz"):
            answer = api.http.get(path)
            assert problem(answer, 503) and int(answer.headers["retry-after"]) >= 1
        engine = Engine(api.settings)
        engine.count()
        engine.publish()
        assert api.http.get("/v1/features/0/5").status_code == 200
        redis.stop()
        for path in ("/v1/features/0/5", "/v1/status", "/v1/similarity?up=0:0&down=1:0", "/readyz", "/v1/events"):
            answer = api.http.get(path)
            assert "does not answer" in problem(answer, 503) and int(answer.headers["retry-after"]) >= 1
        assert api.http.get("/livez").status_code == 200
        redis.start()
        engine.publish()
        assert api.http.get("/v1/features/0/5").status_code == 200
        engine.close()
