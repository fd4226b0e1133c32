"""What is hidden in SAE errors, over a running server: on the bundled model, over a killed engine, and of pushed activations."""

from __future__ import annotations

import os
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
from engine.counts.state import State
from engine.demo import text
from engine.demo.text import sample_documents
from engine.encoder.description import RunDescription
from engine.encoder.encoder import ModelEncoder
from tests.service import Service, eventually, pack_frame, serving, sparse

DEMO = Path(text.__file__).parent
TEXTS = [row.text for row in sample_documents()]
LIMITS = {"hidden_share": 0.3, "hidden_factor": 1.5, "hidden_windows": 3}


def saestream(service: Service, *words: str) -> str:
    environment = {**os.environ, "COLUMNS": "200", "SAESTREAM_URL": str(service.http.base_url)}
    ended = subprocess.run([sys.executable, "-m", "api.cli", *words], capture_output=True, text=True, timeout=120, env=environment)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The sample, counted by an engine that was killed on the way."""
    with serving(tmp_path_factory.mktemp("hidden"), environment={"SAESTREAM_CHECKPOINT_INTERVAL": "0"}) as running:
        uploads = [running.feed(TEXTS[:200], "first"), running.feed(TEXTS[200:], "second")]
        eventually("some of it is in a checkpoint", lambda: running.get("/v1/status")["checkpoint"])
        engine = running.child("engine.main")
        assert engine is not None
        engine.kill()
        running.until_counted(*uploads)
        tokens = running.get("/v1/status")["tokens"]
        eventually("all of it is published", lambda: running.get("/v1/flow")["snapshot"]["tokens"] == tokens)
        yield running


@pytest.fixture(scope="module")
def state(service: Service) -> State:
    """The same log, counted in one go in this process."""
    encoder = ModelEncoder.load(str(DEMO / "model"), str(DEMO / "saes"))
    pairs = [(up, up + 1) for up in range(len(encoder.saes) - 1)]
    encoder.project_errors(pairs)
    corpus = CorpusLog(service.data_dir / "log")
    state = State.zero([sae.config.d_sae for sae in encoder.saes], pairs)
    for number in range(corpus.last + 1):
        segment = corpus.read(number)
        encoded = encoder.encode(segment, segment.unit_order)
        state.add(encoded.batch, encoded.set_aside, encoded.projections)
    return state


def test_over_a_kill_every_sampled_token_is_summed_once(service: Service, state: State) -> None:
    run = msgspec.json.decode((service.data_dir / "run.json").read_bytes(), type=RunDescription)

    def saved() -> State | None:
        loaded = Checkpoints(service.data_dir / "checkpoints").latest(run.fingerprint)
        return loaded.state if loaded and loaded.state.tokens == state.tokens else None

    found = eventually("all of it is in a checkpoint", saved)
    for pair, part in found.hidden.items():
        wanted = state.hidden[pair]
        assert wanted.counts[:, 0].sum() > 10_000
        assert np.array_equal(part.counts, wanted.counts)
        np.testing.assert_allclose(part.sums, wanted.sums, rtol=1e-4, atol=1e-2)
        np.testing.assert_allclose(part.chance, wanted.chance, rtol=1e-3, atol=1e-2)


def test_a_feature_shows_how_much_of_it_is_in_the_next_error(service: Service, state: State) -> None:
    part = state.hidden[3, 4]
    for index in np.argsort(part.counts[:, 1])[[-1, -2, 300, 0]].tolist():
        answer = service.get(f"/v1/features/3/{index}")
        (hidden,) = answer["hidden"]
        assert (hidden["layer"], hidden["tokens"], hidden["windows"]) == (4, *part.counts[index].tolist())
        if not hidden["tokens"]:
            assert hidden["error_share"] is None and "one in 16" in hidden["reason"]
            continue
        written, error, stream = part.sums[index, :3]
        assert hidden["error_share"] == pytest.approx(error / written, rel=1e-3, abs=1e-4)
        assert hidden["stream_share"] == pytest.approx(stream / written, rel=1e-3, abs=1e-4)
        assert hidden["written"] == pytest.approx(written / hidden["tokens"], rel=1e-4)
        baseline = np.sqrt((part.chance[index].reshape(2, -1) ** 2).mean(axis=1)) / written
        assert (hidden["baseline"]["random"], hidden["baseline"]["decoder"]) == pytest.approx(tuple(baseline), rel=1e-2)
    assert service.get("/v1/features/6/3")["hidden"] == []  # the last layer


def test_flow_shows_medians_and_how_many_disappeared_features_are_hidden(service: Service, state: State) -> None:
    answer = service.get("/v1/flow", threshold=0.4, **LIMITS)
    counts = 0
    for pair in answer["pairs"]:
        layers = pair["up"]["layer"], pair["down"]["layer"]
        part, found = state.hidden[layers], pair["hidden"]
        enough = part.counts[:, 1] >= LIMITS["hidden_windows"]
        share = part.sums[:, 1] / np.where(part.sums[:, 0] > 0, part.sums[:, 0], np.nan)
        assert found["all"]["features"] == enough.sum() > 100
        assert found["all"]["error_share"] == pytest.approx(np.median(share[enough]), rel=1e-3)
        listed: Any = service.get("/v1/flow", pair=f"{layers[0]}-{layers[1]}", kind="hidden", limit=1000, **LIMITS)
        assert listed["total"] == found["hidden"]["count"] == len(listed["items"])
        for item in listed["items"]:
            assert item["error_share"] >= LIMITS["hidden_share"] and item["best"] is None
            assert item["error_share"] == pytest.approx(share[int(item["feature"].split(":")[1])], rel=1e-3)
        counts += listed["total"]
    assert counts > 0


@pytest.mark.parametrize(
    ("query", "message"),
    [
        pytest.param({"hidden_share": 0}, "hidden_share = 0", id="share"),
        pytest.param({"hidden_factor": 0.3}, "hidden_factor = 0.3: it must be at least 1", id="factor"),
        pytest.param({"hidden_windows": 0}, "hidden_windows = 0: it must be at least 1", id="windows"),
    ],
)
def test_limits_out_of_range_are_refused(service: Service, query: dict[str, float], message: str) -> None:
    answer = service.http.get("/v1/flow", params=query)
    assert answer.status_code == 422 and message in answer.json()["detail"]


def test_the_command_line_shows_the_medians(service: Service) -> None:
    shown = saestream(service, "flow", "--hidden-windows", "3", "--hidden-share", "0.3")
    pair = service.get("/v1/flow", hidden_windows=3, hidden_share=0.3)["pairs"][2]["hidden"]
    assert f"{pair['all']['error_share']:.1%}" in shown and f"{pair['hidden']['count']} of" in shown


def test_of_pushed_activations_it_is_null_with_a_reason(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    dense = [(rng.random((40, 6)) < 0.5).astype(np.float32) for _ in range(2)]
    with serving(tmp_path, "--dictionary", "6,6") as pushed:
        pushed.push(pack_frame("one", [sparse(layer) for layer in dense]), wait="visible")
        (hidden,) = pushed.get("/v1/features/0/3")["hidden"]
        assert hidden["error_share"] is None and hidden["tokens"] == 0 and "no model" in hidden["reason"]
        (pair,) = pushed.get("/v1/flow")["pairs"]
        assert pair["hidden"]["all"] is None and pair["hidden"]["hidden"] is None and "no model" in pair["hidden"]["reason"]
        assert "no model" in saestream(pushed, "flow")
