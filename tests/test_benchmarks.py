"""The benchmarks of speed: their quick form gives whole rows, their arms do the same work, and the README shows the rows."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import accumulate, bounded, compact, figures, gate_kernels, growth, plots, publishing, ranking, rows, share, tables
from benchmarks.activations import pair_batch
from benchmarks.limits import CELLS_PER_LINE, Limits, PairWork
from benchmarks.pair_products import DenseMatmuls, ScipySparse, TorchSparse
from benchmarks.shapes import TINY
from kernels.reference import densify
from tests.chromium import chromium

MEASURED = {"benchmark", "variant", "sizes", "seconds", "repeats", "peak_memory_bytes", "machine", "versions", "date", "run"}


def grown(quick: bool) -> Iterator[dict[str, Any]]:
    for what, steps in growth.steps(quick).items():
        yield from growth.grown(what, steps)


RUNS = {
    "accumulate": accumulate.run,
    "compact": compact.run,
    "share": share.run,
    "gates": gate_kernels.run,
    "ranking": ranking.run,
    "publish": publishing.run,
    "growth": grown,
    "bounded": bounded.width_rows,
}


@pytest.fixture(scope="module")
def quick() -> dict[str, list[dict[str, Any]]]:
    """The rows of every quick run, as they are read from a file again."""
    return {name: [json.loads(json.dumps(one, allow_nan=False)) for one in run(True)] for name, run in RUNS.items()}


@pytest.mark.parametrize("name", RUNS)
def test_a_quick_run_gives_whole_rows(quick: dict[str, list[dict[str, Any]]], name: str) -> None:
    assert quick[name]
    for one in quick[name]:
        assert one.keys() >= MEASURED
        assert one["seconds"] is None or one["seconds"]["p20"] <= one["seconds"]["p50"] <= one["seconds"]["p80"]
        assert one["seconds"] is not None or "missed" in one or one["benchmark"] == "limits"
        assert ("bound" in one) == ("bound_seconds" in one) == ("distance" in one)
        assert one.get("distance", 1) > 0 and one.get("ratio", 1) > 0


def test_every_way_to_count_a_batch_makes_the_same_numbers() -> None:
    batch, features = pair_batch(700, TINY.features, TINY.active), TINY.features
    up, down = (densify(part, features) for part in batch)
    joint, products = (up > 0).double().T @ (down > 0).double(), up.T @ down
    for way in (DenseMatmuls, ScipySparse, TorchSparse):
        made = way(batch, features)()
        dense = [torch.from_numpy(part.toarray()) if way is ScipySparse else part.to_dense() for part in made]
        assert torch.equal(dense[0].double(), joint), way.name
        torch.testing.assert_close(dense[1].double(), products, rtol=1e-4, atol=1e-4)


def test_the_work_of_a_batch_is_its_updates_and_the_lines_that_they_touch() -> None:
    batch, features = pair_batch(300, TINY.features, TINY.active), TINY.features
    up, down = (densify(part, features) > 0 for part in batch)
    touched = (up.double().T @ down.double() > 0).reshape(features, -1, CELLS_PER_LINE).any(dim=2).sum(dim=1)
    work = PairWork.of(*batch, features)
    assert np.array_equal(work.lines, touched.numpy())
    assert work.updates == batch.updates == int((up.sum(dim=1) * down.sum(dim=1)).sum())
    slow_memory, slow_core = Limits(features, 1e18, 1.0, 0.0), Limits(features, 1e18, 0.0, 1.0)
    assert work.seconds(slow_memory) == pytest.approx(features * 32 * features / 1e18)  # rows are streamed, not fetched by lines
    assert work.seconds(slow_core) == work.updates


def test_torch_finds_the_same_best_scores_as_the_ranking() -> None:
    counted = ranking.Counted.of(TINY, 2_048, 2_048)
    for ids, best in zip(counted.by_jaccard(), counted.by_torch(), strict=True):
        i, j = np.divmod(np.maximum(ids, 0), TINY.features)
        joint = counted.table.at(i.reshape(-1), j.reshape(-1)).joint.reshape(ids.shape)
        score = np.where(ids >= 0, joint / (counted.up.count[i] + counted.down.count[j] - joint), -1.0)
        np.testing.assert_allclose(score, best.numpy(), rtol=1e-6)


def test_the_newest_run_of_a_variant_is_taken_whole_and_no_other() -> None:
    def one(variant: str, run: str, tokens: int) -> dict[str, Any]:
        return {"benchmark": "growth", "variant": variant, "run": run, "sizes": {"tokens": tokens}}

    old = {"benchmark": "growth", "variant": "tokens", "sizes": {"tokens": 9}}  # from before rows named their run
    there = [old, one("tokens", "1", 1), one("tokens", "2", 1), one("tokens", "2", 4), one("pairs", "3", 1)]
    assert rows.newest(there, "growth", "tokens") == there[2:4]
    assert rows.newest(there, "growth") == there[4:]
    assert rows.newest(there, "loop") == []


def test_a_step_that_does_not_fit_the_memory_says_so() -> None:
    (row,) = growth.grown("tokens", [growth.Step(2, 4_000_000, 60, 4_096)])
    assert row["seconds"] is None and "4000000" in row["missed"]


def test_the_table_and_the_pictures_are_made_of_the_rows(quick: dict[str, list[dict[str, Any]]]) -> None:
    there = [one for of in quick.values() for one in of]
    table = tables.table(there)
    own = next(one for one in quick["accumulate"] if one["variant"] == "numba")
    assert f"{own['updates_per_second'] / 1e6:.0f} M updates/s" in table and f"{own['distance']:.1f}" in table
    speed, grown, distances = figures.speed(there), figures.growth(there), figures.distances(there)
    assert speed is not None and distances is not None and grown is not None
    points = {trace.name: trace.x for trace in speed.data}
    assert points["saestream"][0] == own["tokens_per_second"]
    assert points[ScipySparse.name][0] == pytest.approx(own["tokens_per_second"] / own["ratios"][ScipySparse.name])
    assert figures.loop(there) is None
    assert grown.data[-1].x[0] == 1 and len(grown.data[-1].x) == len(quick["bounded"])
    assert not any(DenseMatmuls.name in name for name in distances.data[0].y)


def test_rows_of_a_gpu_get_a_picture_of_their_own_and_lines_in_the_table(quick: dict[str, list[dict[str, Any]]]) -> None:
    def one(variant: str, rate: float) -> dict[str, Any]:
        rates = {"tokens_per_second_of_11_pairs": rate, "goal": 4e6, "goal_ratio": rate / 4e6}
        sizes = {"D": 24_576, "tokens": 65_536, "L0": 60}
        more = rates | {"cells": 1, "bound": "b", "bound_seconds": 0.1, "distance": 2.0}
        return rows.row("gpu_accumulate", variant, sizes, rows.Timing.of([0.2], [0.2]), **more) | {"machine": machine}

    machine = quick["accumulate"][0]["machine"] | {"gpu": "a GPU"}
    there = [*quick["accumulate"], one("rows", 5e6), one("atomics", 1e6)]
    figure, distances = figures.gpu(there), figures.distances(there)
    assert figure is not None and distances is not None
    assert list(figure.data[0].y) == ["atomics", "rows"] and list(figure.data[0].x) == [1e6, 5e6]
    assert not any("gpu" in name for name in distances.data[0].y)
    assert "5,000 k tokens/s over 11 layer pairs |  | 2.0 | 4 M tokens/s: met (1.25)" in tables.table(there)


def test_a_picture_is_the_same_each_time_and_knows_light_and_dark(quick: dict[str, list[dict[str, Any]]]) -> None:
    figure = figures.speed(quick["accumulate"])
    assert figure is not None
    with chromium() as browser:
        first, second = plots.draw(browser, figure), plots.draw(browser, figure)
    assert first == second
    assert ElementTree.fromstring(first).tag.endswith("svg")
    assert "prefers-color-scheme:dark" in first and "var(--ours" in first
    assert not re.search(r"rgb\([1-8], [1-8], [1-8]\)", first)


def test_the_readme_shows_the_rows_that_there_are() -> None:
    readme = tables.README.read_text(encoding="utf-8")
    assert tables.put_in(readme, plots.block(rows.read())) == readme, "rows have come: make plots"
    named = re.findall(r"\(docs/performance/([^)]+)\)", readme)
    assert all((plots.PICTURES / name).exists() for name in named)
    assert plots.ABOUT.keys() == figures.FIGURES.keys()
