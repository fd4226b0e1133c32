"""Kills, damage, disks that fail and clocks that jump, on a run without a model: every acknowledged upload is counted once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.faults.campaign import API_KILLS, ENGINE_KILLS, RANDOM_KILLS, Campaign, Fault, campaign
from tests.faults.streams import PushedStream

SEED = 7
KILLS = [*ENGINE_KILLS, *API_KILLS, *RANDOM_KILLS]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    with campaign(tmp_path_factory.mktemp("faults") / "data", PushedStream(SEED), SEED) as running:
        running.feed(8)
        running.compare()
        yield running


@pytest.mark.parametrize(
    "fault", [KILLS[at] for at in np.random.default_rng(SEED).permutation(len(KILLS))], ids=lambda fault: fault.name
)
def test_after_a_kill_every_count_is_the_oracles(run: Campaign, fault: Fault) -> None:
    run.strike(fault)
