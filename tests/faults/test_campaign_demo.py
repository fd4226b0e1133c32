"""Kills on the bundled model, with text."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.campaign import Campaign, Fault, campaign
from tests.faults.injection import Plan
from tests.faults.streams import TextStream

SEED = 11
KILLS = [
    Fault("engine", "engine at a segment", {"engine": Plan("segment rename", "after")}),
    Fault("engine", "engine at a table", {"engine": Plan("table write", "middle", skip=3)}),
    Fault("both", "both at random", killed=("engine.main", "api.server")),
    Fault("Redis", "Redis at random", killed=("redis",)),
    Fault("all", "all at once", killed=("serve",)),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    with campaign(tmp_path_factory.mktemp("faults") / "data", TextStream(SEED), SEED) as running:
        running.feed(2)
        running.compare()
        yield running


@pytest.mark.parametrize("fault", KILLS, ids=lambda fault: fault.name)
def test_after_a_kill_every_count_of_the_model_is_the_oracles(run: Campaign, fault: Fault) -> None:
    run.strike(fault)
