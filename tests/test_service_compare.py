"""Pinned pairs and two corpora with planted differences, through the real server."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from engine.corpus.log import CorpusLog
from engine.counts.checkpoint import Checkpoints
from engine.encoder.description import RunDescription
from engine.measures import intervals
from engine.measures.moments import moments_of
from tests.service import Service, eventually, pack_frame, serving, sparse

SIZES = (8, 10, 6)
DICTIONARY = ("--dictionary", ",".join(map(str, SIZES)))
SMALL = {"SAESTREAM_SEGMENT_TOKENS": "2048", "SAESTREAM_WATCHED_PAIRS": "60", "SAESTREAM_CHECKPOINT_INTERVAL": "3600"}
DOCUMENTS = 300  # of each corpus: enough for intervals
PINNED = ("0:1", "1:1")
Document = list[np.ndarray]


def documents(corpus: str) -> list[Document]:
    """0:3 fires three times as often in "prose"; 1:1 follows 0:1 in "code" only; feature 2 never fires."""
    rng = np.random.default_rng(sum(corpus.encode()))
    found = []
    for _ in range(DOCUMENTS):
        tokens = int(rng.integers(5, 40))
        dense = [(rng.exponential(1.0, (tokens, size)) * (rng.random((tokens, size)) < 0.2)) for size in SIZES]
        if corpus == "prose":
            dense[0][:, 3] = rng.exponential(1.0, tokens) * (rng.random(tokens) < 0.6)
        else:
            dense[1][:, 1] = np.where(rng.random(tokens) < 0.9, dense[0][:, 1], dense[1][:, 1])
        for layer in dense:
            layer[:, 2] = 0
        found.append([layer.astype(np.float32) for layer in dense])
    return found


CORPORA = {corpus: documents(corpus) for corpus in ("prose", "code")}
TOKENS = {corpus: sum(len(layers[0]) for layers in found) for corpus, found in CORPORA.items()}


def frames(found: list[Document]) -> bytes:
    return b"".join(pack_frame(f"document {at}", [sparse(layer) for layer in layers]) for at, layers in enumerate(found))


def pin(service: Service, *pairs: tuple[str, str]) -> Any:
    return service.http.post("/v1/watch", json={"pairs": [{"up": up, "down": down} for up, down in pairs]})


def all_pinned(service: Service) -> list[Any]:
    """Every pinned pair, read in small pages."""
    found, cursor = [], None
    while True:
        page = service.get("/v1/watch", limit=7, **({"cursor": cursor} if cursor else {}))
        found += page["items"]
        cursor = page["next"]
        if cursor is None:
            assert len(found) == page["pinned"]
            return found


def until_summed(service: Service, tokens: int) -> None:
    """Until the segments that hold all tokens have ended."""
    corpora = [corpus for corpus in CORPORA if corpus in {item["name"] for item in service.get("/v1/corpora")["items"]}]

    def summed() -> bool:
        return sum(service.get("/v1/features/0/0", corpus=corpus)["tokens"] for corpus in corpora) == tokens

    eventually(f"the sums per corpus cover {tokens} tokens", summed)


def saestream(service: Service, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "api.cli", *words, "--url", str(service.http.base_url)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A pair pinned before there was a token or a snapshot of one; then both corpora."""
    with serving(tmp_path_factory.mktemp("compare"), *DICTIONARY, environment=SMALL) as running:
        answer = pin(running, PINNED)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert (body["added"], body["known"], body["pinned"], body["limit"], body["counted_from"]) == (1, 0, 1, 60, 0)
        (waiting,) = running.get("/v1/watch")["items"]
        assert (waiting["status"], waiting["counted_from"], waiting["tokens"]) == ("waiting", 0, 0)
        for corpus, found in CORPORA.items():
            running.push(frames(found), corpus=corpus)
        until_summed(running, sum(TOKENS.values()))
        yield running


def test_a_pair_that_was_pinned_before_the_first_token_counts_every_document(service: Service) -> None:
    (shown,) = [item for item in all_pinned(service) if (item["up"], item["down"]) == PINNED]
    either = [(x[0][:, 1] > 0).any() or (x[1][:, 1] > 0).any() for found in CORPORA.values() for x in found]
    assert (shown["status"], shown["counted_from"]) == ("counting", 0)
    assert (shown["tokens"], shown["documents"]) == (sum(TOKENS.values()), sum(either))


@pytest.mark.parametrize("corpus", CORPORA)
def test_a_feature_can_be_asked_for_in_one_corpus(service: Service, corpus: str) -> None:
    for layer, size in enumerate(SIZES):
        for index in range(size):
            answer = service.get(f"/v1/features/{layer}/{index}", corpus=corpus)
            columns = [layers[layer][:, index].astype(np.float64) for layers in CORPORA[corpus]]
            count = sum(int((column > 0).sum()) for column in columns)
            assert (answer["tokens"], answer["documents"], answer["count"]) == (TOKENS[corpus], DOCUMENTS, count)
            assert answer["documents_active"] == sum(column.any() for column in columns)
            assert answer["mean"] == pytest.approx(sum(column.sum() for column in columns) / TOKENS[corpus], rel=1e-9)
            assert answer["density"] == count / TOKENS[corpus]
            found = answer["density_interval"]
            assert found["lower"] <= answer["density"] <= found["upper"] and found["status"] == "ok"
    both = sum(service.get("/v1/features/0/3", corpus=corpus)["count"] for corpus in CORPORA)
    eventually("all of it is published", lambda: service.get("/v1/features/0/3")["count"] == both)
    assert "corpus" not in service.get("/v1/features/0/3")


def test_the_planted_feature_is_the_one_that_differs(service: Service) -> None:
    answer = service.get("/v1/compare", a="prose", b="code", layer=0, limit=3)
    assert answer["family"] == SIZES[0] and answer["different"] == 1 and answer["next"]
    assert [answer[side] for side in "ab"] == [
        {"name": corpus, "tokens": TOKENS[corpus], "documents": DOCUMENTS} for corpus in ("prose", "code")
    ]
    first = answer["items"][0]
    counts = [sum(int((layers[0][:, 3] > 0).sum()) for layers in CORPORA[corpus]) for corpus in ("prose", "code")]
    assert first["feature"] == "0:3" and [first[side]["count"] for side in "ab"] == counts
    difference = counts[0] / TOKENS["prose"] - counts[1] / TOKENS["code"]
    assert first["difference"]["estimate"] == pytest.approx(difference, rel=1e-12)
    assert 0 < first["difference"]["lower"] < difference < first["difference"]["upper"]
    turned = service.get("/v1/compare", a="code", b="prose", layer=0, limit=1)["items"][0]
    assert turned["difference"]["upper"] == -first["difference"]["lower"]
    rest = service.get("/v1/compare", a="prose", b="code", limit=1_000)
    assert rest["next"] is None and len(rest["items"]) == rest["family"] == sum(SIZES)


@pytest.mark.parametrize("measure", ["jaccard", "sufficiency", "necessity", "pearson"])
def test_the_planted_pair_is_the_edge_that_differs(service: Service, measure: str) -> None:
    answer = service.get("/v1/compare/edges", a="prose", b="code", up=0, down=1, measure=measure)
    first = answer["items"][0]
    assert (first["up"], first["down"], first["counted_from"]) == (*PINNED, 0)
    assert first["difference"]["upper"] < 0 and answer["different"] >= 1
    for corpus, side in (("prose", first["a"]), ("code", first["b"])):
        clusters = []
        for layers in CORPORA[corpus]:
            a, b = layers[0][:, 1].astype(np.float64), layers[1][:, 1].astype(np.float64)
            both = (a > 0) & (b > 0)
            clusters.append([len(a), (a > 0).sum(), (b > 0).sum(), both.sum(), a.sum(), b.sum(), a @ a, b @ b, a @ b])
        found = intervals.intervals(moments_of(clusters), [measure], intervals.ALPHA / (2 * answer["family"]))[measure]
        assert [side[name] for name in ("estimate", "lower", "upper", "effective_documents")] == pytest.approx(
            [float(value) for value in (found.estimate, found.lower, found.upper, found.effective)], rel=1e-6
        )
        assert (side["tokens"], side["documents"], side["status"]) == (TOKENS[corpus], int(found.documents), "ok")


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        pytest.param("/v1/compare?a=prose&b=prose", 422, "both 'prose'", id="with-itself"),
        pytest.param("/v1/compare?a=prose&b=poems", 404, "'poems': this run has code, prose", id="unknown-corpus"),
        pytest.param("/v1/compare?a=prose&b=code&layer=3", 404, "layers 0 to 2", id="unknown-layer"),
        pytest.param("/v1/compare?a=prose&b=code&limit=0", 422, "limit = 0", id="limit-zero"),
        pytest.param("/v1/compare?a=prose&b=code&cursor=3", 400, "cursor = '3'", id="bad-cursor"),
        pytest.param("/v1/compare?a=prose", 400, "b", id="one-corpus"),
        pytest.param("/v1/compare/edges?a=code&b=code&up=0&down=1", 422, "both 'code'", id="edges-with-itself"),
        pytest.param("/v1/compare/edges?a=poems&b=code&up=0&down=1", 404, "code, prose", id="edges-unknown-corpus"),
        pytest.param("/v1/compare/edges?a=prose&b=code&up=0&down=2", 404, "0→1, 1→2", id="no-layer-pair"),
        pytest.param(
            "/v1/compare/edges?a=prose&b=code&up=0&down=1&measure=lift",
            422,
            "jaccard, sufficiency, necessity, pearson",
            id="unknown-measure",
        ),
        pytest.param("/v1/features/0/1?corpus=poems", 404, "'poems': this run has code, prose", id="feature-unknown-corpus"),
        pytest.param("/v1/features/0/8?corpus=code", 404, "features 0 to 7", id="unknown-feature"),
        pytest.param("/v1/watch?limit=1001", 422, "limit = 1001", id="watch-limit"),
        pytest.param("/v1/watch?cursor=0:1", 400, "cursor = '0:1'", id="watch-cursor"),
    ],
)
def test_what_can_not_be_compared_is_a_problem_that_names_what_can(service: Service, path: str, status: int, says: str) -> None:
    answer = service.http.get(path)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json" and says in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        pytest.param({"pairs": []}, 422, "pairs is empty", id="empty"),
        pytest.param({"pairs": [{"up": "0:8", "down": "1:1"}]}, 404, "features 0 to 7", id="unknown-feature"),
        pytest.param({"pairs": [{"up": "0:1", "down": "3:1"}]}, 404, "layers 0 to 2", id="unknown-layer"),
        pytest.param({"pairs": [{"up": "0:1", "down": "2:1"}]}, 404, "0→1, 1→2", id="no-layer-pair"),
        pytest.param({"pairs": [{"up": "1:1", "down": "0:1"}]}, 404, "0→1, 1→2", id="turned"),
        pytest.param({"pairs": [{"up": "0:1", "down": "1"}]}, 400, "pairs[0].down = '1'", id="malformed"),
        pytest.param({"pairs": [{"up": "0:1"}]}, 400, "down", id="half-a-pair"),
        pytest.param({"pairs": [{"up": "0:1", "down": "1:1", "k": 3}]}, 400, "`k`", id="unknown-field"),
        pytest.param({"pair": []}, 400, "pair", id="misspelt"),
        pytest.param([], 400, "the body must be", id="a-list"),
        pytest.param(
            {"pairs": [{"up": f"0:{i}", "down": f"1:{j}"} for i in range(8) for j in range(4)]}, 422, "at most 30", id="too-many"
        ),
    ],
)
def test_pins_that_can_not_be_are_refused_whole(service: Service, body: Any, status: int, says: str) -> None:
    before = service.get("/v1/watch")["pinned"]
    answer = service.http.post("/v1/watch", json=body)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["detail"], answer.text
    assert service.get("/v1/watch")["pinned"] == before


def test_a_body_of_another_type_or_without_end_is_refused(service: Service) -> None:
    form = service.http.post("/v1/watch", data={"up": "0:1"})
    assert form.status_code == 415 and "application/json" in form.json()["detail"]
    large = service.http.post("/v1/watch", content=b" " * (17 << 20), headers={"Content-Type": "application/json"})
    assert large.status_code == 413


def test_the_command_line_shows_what_differs_and_what_is_watched(service: Service) -> None:
    features = saestream(service, "compare", "prose", "code", "--layer", "0", "-k", "2")
    assert features.returncode == 0, features.stderr
    assert "1 of 8 differ for certain" in features.stdout and features.stdout.index("0:3") > features.stdout.index("difference")
    edges = saestream(service, "compare", "prose", "code", "--edges", "0-1")
    assert "0:1 → 1:1" in edges.stdout, edges.stderr
    assert "0 pairs are watched from here on, 1 were already" in saestream(service, "watch", *PINNED).stdout
    assert "0:1 → 1:1" in saestream(service, "watch").stdout
    odd = saestream(service, "watch", "0:1")
    assert odd.returncode == 1 and "upstream downstream" in odd.stderr
    same = saestream(service, "compare", "code", "code")
    assert same.returncode == 1 and "'code'" in same.stderr


def test_nothing_counts_for_a_pair_that_was_seen_when_it_was_pinned_and_all_that_came_later_does(tmp_path: Path) -> None:
    """Pins go in while text is counted, over a killed engine, and the log replayed from its start gives the same bits."""
    silent = [(f"0:{i}", f"1:{j}") for i, j in itertools.product(range(8), range(10)) if 2 in (i, j)]  # never leaders of a list
    pairs = [PINNED, *silent]
    seen: dict[tuple[str, str], int] = {}
    corpora = {corpus: (found[: DOCUMENTS // 2], found[DOCUMENTS // 2 :]) for corpus, found in CORPORA.items()}
    halves = [[(corpus, halves[at]) for corpus, halves in corpora.items()] for at in range(2)]
    tokens = [sum(len(layers[0]) for _, found in half for layers in found) for half in halves]

    def pin_next(service: Service) -> bool:
        pair = pairs[len(seen)]
        answer = pin(service, pair)
        if answer.status_code == 503:  # the engine starts, or counts again
            assert int(answer.headers["retry-after"]) >= 1
            return False
        body = answer.json()
        assert answer.status_code == 200 and body["added"] == 1, answer.text
        assert body["counted_from"] is None or body["counted_from"] == body["snapshot"]["tokens"]
        seen[pair] = body["snapshot"]["tokens"]
        return True

    with serving(tmp_path, *DICTIONARY, environment=SMALL | {"SAESTREAM_SEGMENT_TOKENS": "256"}) as service:
        pin_next(service)
        assert seen[pairs[0]] == 0
        for corpus, found in halves[0]:
            service.push(frames(found), corpus=corpus)
        for _ in range(8):
            pin_next(service)
        until_summed(service, tokens[0])
        published = eventually("all is published", lambda: service.get("/v1/status")["snapshot"]["tokens"] == tokens[0])
        before = all_pinned(service), service.get("/v1/compare/edges", a="prose", b="code", up=0, down=1)["items"]
        engine = service.child("engine.main")
        assert published and engine is not None
        engine.send_signal(signal.SIGKILL)
        engine.wait()
        eventually("a pair is pinned after the kill", lambda: pin_next(service))
        killed = pairs[len(seen) - 1]
        assert seen[killed] >= tokens[0], "readers had seen these tokens"
        until_summed(service, tokens[0])
        shown = [item for item in all_pinned(service) if (item["up"], item["down"]) != killed]
        assert (shown, service.get("/v1/compare/edges", a="prose", b="code", up=0, down=1)["items"]) == before
        for corpus, found in halves[1]:
            service.push(frames(found), corpus=corpus)
        while service.get("/v1/status")["tokens"] < sum(tokens) and len(seen) < len(pairs):
            pin_next(service)
        until_summed(service, sum(tokens))
        final = all_pinned(service)
        service.stop()

        log = CorpusLog(tmp_path / "log")
        starts = {log.read(number).first_position for number in range(log.last + 1)}  # every token counts: positions are tokens
        assert len(final) == len(seen) > 9
        for item in final:
            assert item["status"] == "counting" or item["counted_from"] in (None, sum(tokens)), item
            if item["status"] == "counting":
                assert item["counted_from"] in starts
                following = [start for start in (*sorted(starts), sum(tokens)) if start >= seen[item["up"], item["down"]]]
                assert item["counted_from"] == following[0], "the first segment that nothing was counted of"
        assert next(item for item in final if (item["up"], item["down"]) == pairs[0])["tokens"] == sum(tokens)

        first = watched_arrays(tmp_path)
        for path in (tmp_path / "checkpoints").glob("*.manifest"):
            path.unlink()
        service.start()
        until_summed(service, sum(tokens))
        assert all_pinned(service) == final
        service.stop()
        again = watched_arrays(tmp_path)
        assert first.keys() == again.keys() and first
        for name, array in first.items():
            np.testing.assert_array_equal(array, again[name], err_msg=name)
            assert array.tobytes() == again[name].tobytes(), name


def watched_arrays(data_dir: Path) -> dict[str, np.ndarray]:
    """The arrays of every layer pair's watched pairs, and of every layer's corpora, in the newest checkpoint."""
    run = msgspec.json.decode((data_dir / "run.json").read_bytes(), type=RunDescription)
    loaded = Checkpoints(data_dir / "checkpoints").latest(run.fingerprint)
    assert loaded is not None
    parts = [*loaded.state.watched.values(), *loaded.state.corpora]
    return {f"{part.name} {name}": array for part in parts for name, array in part.arrays()[1].items()}


def test_while_the_thresholds_are_calibrated_a_pin_is_told_when_to_come_back(tmp_path: Path) -> None:
    with serving(tmp_path, *DICTIONARY, "--threshold", "0.2max", environment=SMALL) as service:
        answers = [pin(service, PINNED), service.http.get("/v1/watch")]
        for answer in answers:
            assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
            assert "calibrating" in answer.json()["detail"]
        service.push(frames(CORPORA["code"]), corpus="code")
        eventually("a pair can be pinned", lambda: pin(service, PINNED).status_code == 200)
        compared = service.http.get("/v1/compare", params={"a": "code", "b": "prose"})
        assert compared.status_code == 404 and "this run has code" in compared.json()["detail"]
