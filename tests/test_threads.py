"""Work that is split over the threads of the kernels' pool."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import pytest
import torch

from kernels.cpu.threads import run_each, run_split


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_parts() -> None:
    assert run_split([partial(int, number) for number in range(5)]) == [0, 1, 2, 3, 4]
    assert run_each([partial(int, number) for number in range(7)]) == list(range(7))


@pytest.mark.timeout(30)
def test_a_part_may_split_its_own_work() -> None:
    """The pool has one thread on two cores: a part on it that waited for the pool would wait for itself."""

    def inner(number: int) -> int:
        return sum(run_split([partial(int, number), partial(int, 1), threading.active_count])[:2])

    assert run_each([partial(inner, number) for number in range(6)]) == [1, 2, 3, 4, 5, 6]
