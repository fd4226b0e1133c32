"""A run of pushed activations with a few planted relations, whose watched pairs have intervals in the end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.service import Service, eventually, pack_frame, sparse

SIZES = (14, 12, 13)
PAIRS = ((0, 1), (1, 2))
SUPPORT = 10
TOKENS = 40
FIRST, THEN = 40, 180  # documents: the first ones choose what is watched, the others are judged by


def document(seed: int) -> list[np.ndarray]:
    """Activations float32 `[T, D]` per layer: 0:1 → 1:4 → 2:7 is passed on, 0:6 is shared out among 1:8 and 1:9, 0:3 never fires,
    and all others are noise."""
    rng = np.random.default_rng(seed)
    layers = [np.where(rng.random((TOKENS, size)) < 0.1, rng.gamma(2.0, 1.0, (TOKENS, size)), 0) for size in SIZES]

    def fire(rate: float) -> np.ndarray:
        return np.where(rng.random(TOKENS) < rate, rng.gamma(3.0, 1.0, TOKENS), 0)

    layers[0][:, 1] = fire(0.2)
    layers[1][:, 4] = layers[0][:, 1] * rng.uniform(0.9, 1.1, TOKENS)
    layers[2][:, 7] = layers[1][:, 4] * (rng.random(TOKENS) < 0.9)
    layers[0][:, 6] = parent = fire(0.3)
    which = rng.random(TOKENS) < 0.6
    layers[1][:, 8], layers[1][:, 9] = parent * which, parent * ~which
    layers[2][:, 8], layers[2][:, 9] = layers[1][:, 8], layers[1][:, 9]
    layers[0][:, 3] = 0
    return [layer.astype(np.float32) for layer in layers]


CORPUS = [document(seed) for seed in range(FIRST + THEN)]
DENSE = [np.concatenate([one[layer] for one in CORPUS]) for layer in range(len(SIZES))]


def push_all(service: Service) -> None:
    """Push both parts, one after the other, and wait until relations are of all of it."""
    for start, end in ((0, FIRST), (FIRST, FIRST + THEN)):
        service.until_counted(service.push(frames(CORPUS[start:end], start)))
    eventually("relations are of all tokens", lambda: service.get("/v1/flow")["snapshot"]["tokens"] == len(DENSE[0]))


def frames(documents: Sequence[list[np.ndarray]], first: int) -> bytes:
    """The body that holds these documents."""
    return b"".join(pack_frame(f"document {first + at}", [sparse(part) for part in one]) for at, one in enumerate(documents))
