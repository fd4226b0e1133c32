"""Shared by all tests: two threads, no network, no telemetry."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest  # noqa: E402  (after the environment: the hub's client reads it when it is imported)


@pytest.fixture(autouse=True, scope="session")
def _two_threads() -> None:
    import torch

    torch.set_num_threads(2)
