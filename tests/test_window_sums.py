"""Products of entries and their sums over windows, against slow obvious forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kernels import WINDOW_SUMS, Csr, add_window_sums, compact, project, reference
from kernels.gpu import project as gathered

SHAPES = {
    "one token": (1, 5, 3, 1),
    "no token": (0, 5, 3, 2),
    "nothing active": (4, 5, 3, 2),
    "no multiple of a vector": (37, 70, 131, 2),
    "no vector": (3, 5, 8, 0),
}


def inputs(tokens: int, features: int, width: int, vectors: int, active: float = 0.3) -> tuple[Csr, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    dense = torch.rand(tokens, features, generator=generator)
    sparse = compact((dense - (1 - active)).contiguous())
    return sparse, torch.randn(features, width, generator=generator), torch.randn(vectors, tokens, width, generator=generator)


@pytest.mark.parametrize("form", [project, gathered.project], ids=["numba", "gathered"])
@pytest.mark.parametrize(("name", "shape"), SHAPES.items(), ids=SHAPES.keys())
def test_products_are_those_of_the_dense_reference(form: Callable, name: str, shape: tuple[int, int, int, int]) -> None:
    given = inputs(*shape, active=0.0 if name == "nothing active" else 0.3)
    found, wanted = form(*given), reference.project(*given)
    assert found.dtype == torch.float32 and found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_the_gathered_form_goes_through_its_entries_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered, "_ELEMENTS", 3 * 131)
    given = inputs(37, 70, 131, 2)
    torch.testing.assert_close(gathered.project(*given), reference.project(*given), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda s, d, v: (s, d.double(), v), "directions is float64", id="dtype"),
        pytest.param(lambda s, d, v: (s, d[:, :2].contiguous(), v), r"vectors has shape \[2, 4, 3\]", id="another width"),
        pytest.param(lambda s, d, v: (s, d, v[:, :1].contiguous()), r"must be \[any, 4, 3\]", id="another number of tokens"),
        pytest.param(lambda s, d, v: (s, d.T.contiguous().T, v), "directions is not contiguous", id="strides"),
        pytest.param(lambda s, d, v: (s, d[:3].contiguous(), v), r"every one must be in \[0, 3\)", id="feature out of range"),
    ],
)
def test_what_does_not_fit_is_named(change: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        project(*change(*inputs(4, 5, 3, 2, active=0.9)))


FEATURES = 6


def entries(windows: int, seed: int = 0) -> dict[str, Any]:
    """Windows of 0 to 5 tokens; feature 0 is never active, feature 1 always."""
    rng = np.random.default_rng(seed)
    of_token = np.repeat(rng.permutation(windows) * 127 + 1_000, rng.integers(0, 6, windows))
    active = rng.random((len(of_token), FEATURES)) < 0.4
    active[:, 0], active[:, 1] = False, True
    tokens, features = np.nonzero(active)
    values = [rng.standard_normal(len(tokens)).astype(np.float32) for _ in range(3)]
    values[0] = np.abs(values[0]) + np.float32(0.1)
    chance = rng.standard_normal((len(of_token), 4)).astype(np.float32)
    return {
        "windows": of_token,
        "chance": chance,
        "tokens": tokens,
        "features": features.astype(np.int32),
        "values": values,
        "counts": np.zeros((FEATURES, 2), np.int64),
        "sums": np.zeros((FEATURES, len(WINDOW_SUMS))),
        "chance_sums": np.zeros((FEATURES, 4)),
    }


@pytest.mark.parametrize("windows", [0, 1, 40], ids=["no window", "one window", "many windows"])
def test_window_sums_are_those_of_a_loop_over_windows_and_features(windows: int) -> None:
    given = entries(windows)
    add_window_sums(**given)
    counts, sums, chance = np.zeros((FEATURES, 2), np.int64), np.zeros((FEATURES, 7)), np.zeros((FEATURES, 4))
    for window in np.unique(given["windows"]):
        for feature in range(FEATURES):
            here = (given["windows"][given["tokens"]] == window) & (given["features"] == feature)
            w, e, x = (column[here].astype(np.float64) for column in given["values"])
            counts[feature] += (len(w), len(w) > 0)
            together = (e.sum() ** 2, e.sum() * w.sum(), w.sum() ** 2)
            sums[feature] += [w.sum(), e.sum(), x.sum(), (e**2).sum(), *together]
            chance[feature] += given["chance"][given["tokens"][here]].sum(axis=0, dtype=np.float64)
    assert np.array_equal(given["counts"], counts)
    np.testing.assert_allclose(given["sums"], sums, rtol=1e-12)
    np.testing.assert_allclose(given["chance_sums"], chance, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        pytest.param("features", lambda a: a.astype(np.int64), "features is int64", id="dtype"),
        pytest.param("tokens", lambda a: a[:-1], r"tokens is int64 \[\d+\], it must be int64", id="length"),
        pytest.param("features", lambda a: a + np.int32(FEATURES), r"must be in \[0, 6\)", id="feature out of range"),
        pytest.param("tokens", lambda a: a + 10_000, "tokens holds 1", id="token out of range"),
        pytest.param("sums", lambda a: a[:, :6], r"sums is float64 \[6, 6\], it must be float64 \[6, 7\]", id="columns"),
    ],
)
def test_arrays_that_do_not_fit_are_named(name: str, change: Callable, message: str) -> None:
    given = entries(10)
    given[name] = change(given[name])
    with pytest.raises(ValueError, match=message):
        add_window_sums(**given)
