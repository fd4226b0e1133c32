"""Prompts' graphs and search on the bundled model: against model and SAEs by hand, other routes, and a count without prompts."""

from __future__ import annotations

import concurrent.futures
import random
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import numpy as np
import pytest
import torch

from engine.corpus.log import CorpusLog
from engine.corpus.tokenizer import DocumentTokenizer
from engine.counts.checkpoint import Checkpoints
from engine.counts.state import State
from engine.demo import text
from engine.demo.text import CORPORA, sample_documents
from engine.encoder.description import RunDescription
from engine.encoder.encoder import ModelEncoder
from tests.service import Service, serving

DEMO = Path(text.__file__).parent
TEXTS = [row.text for row in sample_documents() if row.package == CORPORA[0]]
PROMPT = (
    "Return the sum of array elements over a given axis, treating Not a Numbers (NaNs) as zero. Parameters: axis is an int, or "
    "a tuple of ints, optional. If this is a tuple of ints, a sum is performed on multiple axes, instead of a single axis or "
    "all the axes as before. If an output array is given, it must have the same shape as the expected output. The type will "
    "be cast if necessary; see `ufuncs-output-type` for more details — naïve, isn't it? <|endoftext|> raise ValueError."
)
"""Two windows; the name of the special token is text here."""


def graph(service: Service, prompt: str = PROMPT, **options: Any) -> Any:
    answer = service.http.post("/v1/graph", json={"prompt": prompt, **options})
    assert answer.status_code == 200, answer.text
    return answer.json()


class Run(NamedTuple):
    """The server with all text counted, and what it answered before the first token and while it counted. Pairs of the features
    that are most active on the prompt are watched from the first token on."""

    service: Service
    before: Any
    during: list[Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with serving(tmp_path_factory.mktemp("graph")) as service:
        before = graph(service)
        first = [[node["feature"] for node in before["nodes"] if node["layer"] == layer][:6] for layer in range(7)]
        pairs = [{"up": up, "down": down} for layer in range(6) for up, down in product(first[layer], first[layer + 1])]
        assert service.http.post("/v1/watch", json={"pairs": pairs}).status_code == 200
        upload = service.feed(TEXTS)
        during = []
        with concurrent.futures.ThreadPoolExecutor(2) as pool:  # so that one prompt waits while another is answered
            while service.get(f"/v1/uploads/{upload['id']}")["state"] != "counted":
                during += pool.map(lambda token: graph(service, token=token), (3, 77))
        service.feed(["The end."], "end", wait="visible")
        yield Run(service, before, during)


@pytest.fixture(scope="module")
def encoder() -> ModelEncoder:
    return ModelEncoder.load(str(DEMO / "model"), str(DEMO / "saes"))


@pytest.fixture(scope="module")
def by_hand(encoder: ModelEncoder) -> tuple[list[int], list[np.ndarray]]:
    """Token ids of the prompt, and per layer float32 `[T, D]`: transformers and sae_lens, window by window with BOS in front."""
    from sae_lens import SAE
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(DEMO / "model", dtype=torch.float32).eval()
    ids = DocumentTokenizer(encoder.tokenizer).encode(PROMPT).tolist()
    hooks = [*(f"blocks.{block}.hook_resid_pre" for block in range(6)), "blocks.5.hook_resid_post"]
    parts: list[list[torch.Tensor]] = [[] for _ in hooks]
    seen: list[torch.Tensor] = []
    for block in model.transformer.h:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.transformer.ln_f.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for start in range(0, len(ids), 127):
        seen.clear()
        with torch.inference_mode():
            model(torch.tensor([[0, *ids[start : start + 127]]]))
        for part, residual in zip(parts, seen, strict=True):
            part.append(residual[0, 1:])
    with torch.inference_mode():
        layers = [
            SAE.load_from_disk(str(DEMO / "saes" / hook), device="cpu").encode(torch.cat(part)).numpy()
            for hook, part in zip(hooks, parts, strict=True)
        ]
    return ids, layers


@pytest.mark.parametrize("token", [None, 0, 100, 130], ids=["any", "first", "first-window", "second-window"])
def test_the_features_of_a_prompt_are_those_of_model_and_saes_by_hand(
    run: Run, by_hand: tuple[list[int], list[np.ndarray]], token: int | None
) -> None:
    ids, layers = by_hand
    found = graph(run.service, token=token, per_layer=200)
    assert len(ids) == len(found["tokens"]) > 127 and found["left_out"] == []
    spelled = "".join(found["tokens"])
    assert spelled.startswith(PROMPT[:300]) and spelled.endswith("<|endoftext|> raise ValueError.")
    for layer, values in enumerate(layers):
        nodes = {node["index"]: node for node in found["nodes"] if node["layer"] == layer}
        score = values.max(axis=0) if token is None else values[token]
        for index, node in nodes.items():
            assert np.allclose(node["activations"], values[:, index], rtol=1e-3, atol=1e-4)
            assert node["activation"] == node["activations"][node["peak"]] == pytest.approx(score[index], rel=1e-3)
        active = np.flatnonzero(score > 1e-4)
        if token is not None:
            assert sorted(nodes) == active.tolist()
        else:
            assert len(nodes) == min(200, len(active)) and (score[active] > min(score[list(nodes)]) * 1.001).sum() < 200


def test_before_the_first_token_a_prompt_has_features_and_nothing_is_known_of_them(run: Run) -> None:
    assert run.before["snapshot"] == {"version": "live-0", "tokens": 0, "age_ms": 0}
    assert run.before["edges"] == run.before["gates"] == [] and len(run.before["nodes"]) == 7 * 20
    assert {node["density"] for node in run.before["nodes"]} == {None}
    now = graph(run.service)
    assert [node["activations"] for node in now["nodes"]] == [node["activations"] for node in run.before["nodes"]]


def test_prompts_are_answered_while_text_is_counted_from_the_state_as_it_is_then(run: Run) -> None:
    tokens = [found["snapshot"]["tokens"] for found in run.during]
    assert any(0 < count < max(tokens) for count in tokens), "some came in the middle"
    expected = {token: graph(run.service, token=token)["nodes"] for token in (3, 77)}
    for found in run.during:
        nodes = [node["activations"] for node in found["nodes"]]
        assert nodes == [node["activations"] for node in expected[found["token"]]]
        layer_pairs = {(edge["up"].split(":")[0], edge["down"].split(":")[0]) for edge in found["edges"]}
        assert layer_pairs <= {(str(layer), str(layer + 1)) for layer in range(6)}
        assert all(edge["joint"] <= found["snapshot"]["tokens"] for edge in found["edges"])


def test_edges_are_what_similarity_says_of_the_same_pairs(run: Run) -> None:
    statuses = set()
    for measure, least in (("jaccard", 0.05), ("pearson", 0.2), ("decoder_cosine", 0.3)):
        found = graph(run.service, measure=measure, min_value=least, edges=5000)
        edges = {(edge["up"], edge["down"]): edge for edge in found["edges"]}
        assert found["dropped"]["edges"] == 0 and len(edges) > 10
        layers = [[node["feature"] for node in found["nodes"] if node["layer"] == layer] for layer in range(7)]
        others = [pair for up in range(6) for pair in product(layers[up], layers[up + 1]) if pair not in edges]
        chosen = random.Random(0)
        certain = [pair for pair in edges if edges[pair]["status"] == "ok"][:5]
        for up, down in certain + chosen.sample(sorted(edges), 8) + chosen.sample(others, 8):
            pair = run.service.get("/v1/similarity", up=up, down=down)
            told, joint = pair["measures"][measure], pair["counts"]["joint"]
            if (up, down) in edges:
                shown = (told["estimate"], told["lower"], told["upper"], told["status"], joint)
                edge = edges[up, down]
                assert tuple(edge[key] for key in ("value", "lower", "upper", "status", "joint")) == shown
                statuses.add(told["status"])
            else:
                assert told["estimate"] is None or told["estimate"] < least or joint < 10
    assert statuses == {"ok", "heuristic", "insufficient"}


def test_messagepack_and_json_say_the_same(run: Run) -> None:
    asked = {"prompt": "a cat", "per_layer": 3}
    packed = run.service.http.post("/v1/graph", json=asked, headers={"Accept": "application/x-msgpack"})
    assert packed.headers["content-type"] == "application/x-msgpack" and "etag" not in packed.headers
    assert msgspec.msgpack.decode(packed.content) == graph(run.service, **asked)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        pytest.param({"prompt": "word " * 300}, 413, "tokens: at most 256", id="too-many-tokens"),
        pytest.param({"prompt": "x" * 70_000}, 413, "and may have 65,536: a prompt has at most 256 tokens", id="too-many-bytes"),
        pytest.param({"prompt": ""}, 422, "prompt is empty", id="empty"),
        pytest.param({}, 400, "`prompt`", id="no-prompt"),
        pytest.param({"prompt": 7}, 400, "`$.prompt`", id="prompt-is-a-number"),
        pytest.param({"prompt": "cat", "tokens": 1}, 400, "tokens", id="unknown-field"),
        pytest.param({"prompt": "cat", "token": -1}, 422, "token = -1", id="token-below-0"),
        pytest.param({"prompt": "cat", "token": 200}, 422, "token = 200: the prompt has tokens 0 to", id="token-behind-the-end"),
        pytest.param({"prompt": "cat", "token": 10**30}, 422, f"token = {10**30}", id="token-beyond-int64"),
        pytest.param({"prompt": "cat", "measure": "cosine"}, 422, "one of jaccard, sufficiency", id="unknown-measure"),
        pytest.param({"prompt": "cat", "min_value": 1.5}, 422, "between 0 and 1 for jaccard", id="value-above-1"),
        pytest.param({"prompt": "cat", "min_support": 0}, 422, "min_support = 0", id="support-0"),
        pytest.param({"prompt": "cat", "per_layer": 201}, 422, "between 1 and 200", id="per-layer-above-the-most"),
        pytest.param({"prompt": "cat", "edges": -1}, 422, "edges = -1", id="edges-below-0"),
        pytest.param([1], 400, "the body must be", id="no-object"),
    ],
)
def test_what_can_not_be_asked_is_a_problem_that_names_what_can(run: Run, body: Any, status: int, says: str) -> None:
    problem(run.service.http.post("/v1/graph", json=body), status, says)


def test_a_body_that_is_no_json_or_says_so_is_refused(run: Run) -> None:
    post, json = run.service.http.post, {"Content-Type": "application/json"}
    problem(post("/v1/graph", content=b'{"prompt": "\xff"}', headers=json), 400, "the body must be")
    problem(post("/v1/graph", content=b'{"prompt": "\\ud800"}', headers=json), 400, "the body must be")
    problem(post("/v1/graph", content=b"", headers=json), 400, "the body must be")
    problem(post("/v1/graph", content=b'{"prompt": "cat", "min_value": 1e400}', headers=json), 400, "`$.min_value`")
    problem(post("/v1/graph", content=b'{"prompt": "cat"}', headers={"Content-Type": "text/plain"}), 415, "application/json")
    problem(post("/v1/graph?token=3", json={"prompt": "cat"}), 400, "unknown query parameter 'token'")
    assert graph(run.service, "\x00 \u202e<script>alert(1)</script>")["tokens"][-1] == ">"


def problem(answer: httpx.Response, status: int, says: str) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert says in answer.json()["detail"], answer.text


def test_many_prompts_at_once_are_answered_or_told_to_come_again(run: Run) -> None:
    def ask(number: int) -> httpx.Response:
        with httpx.Client(base_url=run.service.http.base_url, timeout=60) as client:
            return client.post("/v1/graph", json={"prompt": f"cat {number}"})

    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(ask, range(40)))
    for answer in answers:
        if answer.status_code != 200:
            problem(answer, 429, "prompts wait")
            assert int(answer.headers["retry-after"]) >= 1
    assert sum(answer.status_code == 200 for answer in answers) >= 16


@pytest.mark.parametrize("q", ["Array", "tuple of"])
def test_a_search_finds_what_contexts_show_and_nothing_that_they_do_not(run: Run, q: str) -> None:
    answer = run.service.get("/v1/search", q=q, limit=1000)
    found = {item["feature"]: item for item in answer["items"]}
    assert answer["q"] == q and answer["total"] > 20 and answer["searched"] > 5_000
    chosen = random.Random(0)
    others = [f"{chosen.randrange(7)}:{chosen.randrange(1024)}" for _ in range(200)]
    others = [one for one in others if one not in found][: 10 if answer["total"] == len(found) else 0]
    looked_at = [*list(found)[:3], *chosen.sample(sorted(found), 3), *others]
    first, *rest = dict.fromkeys(looked_at)
    layer, index = first.split(":")
    shown = run.service.get(f"/v1/features/{layer}/{index}/contexts", k=8, **{"with": rest})
    assert shown["missing"] == []
    for feature in (first, *rest):
        contexts = [one for one in shown["contexts"] if one["feature"] == feature]
        holding = [one for one in contexts if q.casefold() in "".join(one["tokens"]).casefold()]
        assert len(holding) == (found[feature]["contexts"] if feature in found else 0), feature
        if holding:
            strongest = max(one["activation"] for one in holding)
            assert found[feature]["activation"] == pytest.approx(strongest, rel=1e-4)
            assert found[feature]["density"] == run.service.get(f"/v1/features/{feature.replace(':', '/')}")["density"]


def test_a_search_is_read_page_by_page_from_one_snapshot(run: Run) -> None:
    whole = run.service.get("/v1/search", q="return", limit=1000)
    items, cursor = [], None
    while len(items) < 30:
        page = run.service.get("/v1/search", q="return", limit=10, **({"cursor": cursor} if cursor else {}))
        items += page["items"]
        cursor = page["next"]
        assert len(page["items"]) == 10 and page["total"] == whole["total"]
    assert items == whole["items"][:30]
    problem(run.service.http.get("/v1/search", params={"q": "Return", "cursor": cursor}), 400, "another question")
    assert run.service.get("/v1/search", q="<img src=x onerror=alert(1)>")["items"] == []


def test_prompts_have_changed_no_count(run: Run, encoder: ModelEncoder) -> None:
    """The last test: the server is stopped. What it counted among hundreds of prompts is what the log alone gives."""
    assert run.service.stop() == 0
    description = msgspec.json.decode((run.service.data_dir / "run.json").read_bytes(), type=RunDescription)
    loaded = Checkpoints(run.service.data_dir / "checkpoints").latest(description.fingerprint)
    assert loaded is not None
    state, log = State.zero(description.dictionaries), CorpusLog(run.service.data_dir / "log")
    for number in range(log.last + 1):
        segment = log.read(number)
        state.add(encoder.encode(segment, segment.unit_order).batch)
    assert loaded.state.tokens == state.tokens == log.sealed_tokens
    for found, expected in zip(loaded.state.marginals, state.marginals, strict=True):
        assert torch.equal(found.by_half, expected.by_half)
        assert torch.allclose(found.sum, expected.sum, rtol=1e-6)
    for pair, expected in state.pairs.items():
        assert torch.equal(loaded.state.pairs[pair].counts, expected.counts)
        assert torch.allclose(loaded.state.pairs[pair].products, expected.products, rtol=1e-6)
    for found, expected in zip(loaded.state.strongest, state.strongest, strict=True):
        assert torch.equal(found.position, expected.position)
