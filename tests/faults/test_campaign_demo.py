"""Kills on the bundled model, with text."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.campaign import MODEL_KILLS, Campaign, Fault, campaign
from tests.faults.streams import TextStream

SEED = 11


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    with campaign(tmp_path_factory.mktemp("faults") / "data", TextStream(SEED), SEED) as running:
        running.feed(2)
        running.compare()
        yield running


@pytest.mark.parametrize("fault", MODEL_KILLS, ids=lambda fault: fault.name)
def test_after_a_kill_every_count_of_the_model_is_the_oracles(run: Campaign, fault: Fault) -> None:
    run.strike(fault)
