"""count_gate_cells: every implementation against the reference, on shapes with a reason to be there."""

from collections.abc import Iterator

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from kernel_forms import Form, compiled_for_sm_90, on_cpu, triton_form

from kernels import Csr, count_gate_cells, reference

UP, DOWN = 29, 37  # prime, and no multiple of a block of 16 children


@pytest.fixture(scope="module", params=["numba", "triton"])
def form(request: pytest.FixtureRequest) -> Iterator[Form]:
    if request.param == "numba":
        yield Form("numba", on_cpu)
    else:
        with triton_form() as found:
            yield found


def sparse(tokens: int, width: int, active: float | torch.Tensor = 0.2, seed: int = 0) -> Csr:
    """Values in (0, 1]; `active`: the share of tokens, of all features or of each."""
    generator = torch.Generator().manual_seed(seed)
    values = 1 - torch.rand(tokens, width, generator=generator)
    return reference.compact(torch.where(torch.rand(tokens, width, generator=generator) < active, values, -values))


def some_parents(children: int, slots: int, width: int, seed: int = 0) -> torch.Tensor:
    """int32 [children, slots]: −1 as often as any feature."""
    return torch.randint(-1, width, (children, slots), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)


def zeros(children: int, slots: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.zeros(children, 2 << slots, dtype=dtype)


def expected(
    up: Csr, down: Csr, limits: tuple, width: int, parents: torch.Tensor, dtype: torch.dtype = torch.int32
) -> torch.Tensor:
    cells = zeros(*parents.shape, dtype)
    reference.count_gate_cells(up, down, *limits, width, parents, cells)
    return cells


MIXED = torch.logspace(-3, 0, UP), torch.logspace(-0.1, -3, DOWN)  # from rare to always: slots of both ways in one child
SHAPES = {
    "ordinary": (sparse(50, UP), sparse(50, DOWN, seed=1)),
    "empty-batch": (sparse(0, UP), sparse(0, DOWN)),
    "one-token": (sparse(1, UP, 0.5), sparse(1, DOWN, 0.5, seed=1)),
    "nothing-active": (sparse(40, UP, 0.0), sparse(40, DOWN, 0.0)),
    "only-upstream-active": (sparse(40, UP), sparse(40, DOWN, 0.0)),
    "only-downstream-active": (sparse(40, UP, 0.0), sparse(40, DOWN)),
    "everything-active": (sparse(70, UP, 1.0), sparse(70, DOWN, 1.0)),
    "as-many-tokens-as-bits-of-a-word": (sparse(64, UP), sparse(64, DOWN, seed=1)),
    "one-token-more-than-bits-of-a-word": (sparse(65, UP), sparse(65, DOWN, seed=1)),
    "rare-and-frequent-features": (sparse(150, UP, MIXED[0]), sparse(150, DOWN, MIXED[1], seed=1)),
}


@pytest.mark.parametrize(("up", "down"), SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("slots", [1, 6, 8], ids=["one-parent", "six-parents", "eight-parents"])
@pytest.mark.parametrize("thresholded", [False, True], ids=["no-thresholds", "thresholds"])
def test_cells_equal_the_reference(form: Form, up: Csr, down: Csr, slots: int, thresholded: bool) -> None:
    parents = some_parents(DOWN, slots, UP)
    limits = (torch.linspace(0, 1, UP), torch.linspace(1, 0, DOWN)) if thresholded else (None, None)
    cells = zeros(DOWN, slots)
    form.count_gate_cells(up, down, *limits, UP, parents, cells)
    assert torch.equal(cells, expected(up, down, limits, UP, parents))
    assert not cells[:, 0].any()


def test_each_token_is_in_the_cell_that_its_bits_name(form: Form) -> None:
    up = reference.compact(torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]))
    down = reference.compact(torch.tensor([[1.0], [0.0], [1.0], [1.0], [0.0]]))
    cells = zeros(1, 3, torch.int64)
    form.count_gate_cells(up, down, None, None, 3, torch.tensor([[2, -1, 0]], dtype=torch.int32), cells)
    wanted = zeros(1, 3, torch.int64)
    for cell in (0b1101, 0b0001, 0b1000, 0b1000, 0b0101):  # the feature that is no candidate leaves the child alone active
        wanted[0, cell] += 1
    assert torch.equal(cells, wanted)


def test_a_threshold_that_is_met_exactly_is_not_active(form: Form) -> None:
    one = reference.compact(torch.full((1, 2), 0.5))
    cells, parents = zeros(2, 2), torch.tensor([[0, 1], [0, 1]], dtype=torch.int32)
    form.count_gate_cells(one, one, torch.tensor([0.5, 0.25]), torch.tensor([0.25, 0.5]), 2, parents, cells)
    assert cells.nonzero().tolist() == [[0, 0b110], [1, 0b010]]


def test_a_parent_named_twice_counts_in_both_of_its_slots(form: Form) -> None:
    up, down = sparse(100, 2), sparse(100, 1, seed=1)
    cells, parents = zeros(1, 2), torch.tensor([[1, 1]], dtype=torch.int32)
    form.count_gate_cells(up, down, None, None, 2, parents, cells)
    assert torch.equal(cells, expected(up, down, (None, None), 2, parents))
    assert not cells[0, [0b001, 0b010, 0b101, 0b110]].any()


@pytest.mark.parametrize("cuts", [(1, 2, 3), (64, 65), (63, 130), ()], ids=["single-tokens", "a-word-and-one", "odd", "whole"])
def test_any_split_of_the_tokens_gives_the_same_cells(form: Form, cuts: tuple[int, ...]) -> None:
    values = torch.rand(200, UP + DOWN, generator=torch.Generator().manual_seed(3)) - 0.7
    parents, cells = some_parents(DOWN, 6, UP), zeros(DOWN, 6)
    for first, last in zip((0, *cuts), (*cuts, 200), strict=True):
        part = values[first:last]
        up, down = reference.compact(part[:, :UP].contiguous()), reference.compact(part[:, UP:].contiguous())
        form.count_gate_cells(up, down, None, None, UP, parents, cells)
    whole = reference.compact(values[:, :UP].contiguous()), reference.compact(values[:, UP:].contiguous())
    assert torch.equal(cells, expected(*whole, (None, None), UP, parents))


def test_cells_keep_what_they_have_even_above_float32_integers(form: Form) -> None:
    up, down, parents = sparse(40, UP, 0.5), sparse(40, DOWN, 0.5, seed=1), some_parents(DOWN, 3, UP)
    cells = torch.full((DOWN, 16), 2**24 + 1, dtype=torch.int32)
    form.count_gate_cells(up, down, None, None, UP, parents, cells)
    assert torch.equal(cells - (2**24 + 1), expected(up, down, (None, None), UP, parents))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tokens=st.integers(0, 140),
    widths=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    slots=st.integers(1, 8),
    active=st.sampled_from([0.02, 0.3, 0.9]),
    thresholded=st.booleans(),
    dtype=st.sampled_from([torch.int32, torch.int64]),
    seed=st.integers(0, 2**31),
)
def test_any_batch_gives_what_the_reference_gives(
    form: Form, tokens: int, widths: tuple[int, int], slots: int, active: float, thresholded: bool, dtype: torch.dtype, seed: int
) -> None:
    batch = sparse(tokens, widths[0], active, seed), sparse(tokens, widths[1], active, seed + 1)
    parents = some_parents(widths[1], slots, widths[0], seed)
    limits = tuple(torch.full((width,), 0.4) if thresholded else None for width in widths)
    cells = zeros(widths[1], slots, dtype)
    form.count_gate_cells(*batch, *limits, widths[0], parents, cells)
    assert torch.equal(cells, expected(*batch, limits, widths[0], parents, dtype))


def long_batch() -> tuple[Csr, Csr, torch.Tensor]:
    """More tokens than a chunk of 8,192, children with up to nine slots that fire on 0.1 to 100 % of them."""
    return sparse(9000, UP, MIXED[0]), sparse(9000, DOWN, MIXED[1], seed=1), some_parents(DOWN, 8, UP)


def test_a_batch_of_several_chunks_equals_the_reference() -> None:
    up, down, parents = long_batch()
    cells = zeros(DOWN, 8)
    count_gate_cells(up, down, None, None, UP, parents, cells)
    assert torch.equal(cells, expected(up, down, (None, None), UP, parents))


def test_the_number_of_threads_changes_no_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    from kernels.cpu import gate_cells

    monkeypatch.setattr(gate_cells, "LEAST_PER_THREAD", 1)
    up, down, parents = long_batch()
    wanted, before = expected(up, down, (None, None), UP, parents), torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            cells = zeros(DOWN, 8)
            count_gate_cells(up, down, None, None, UP, parents, cells)
            assert torch.equal(cells, wanted)
    finally:
        torch.set_num_threads(before)


GOOD = {
    "up": sparse(4, UP),
    "down": sparse(4, DOWN, seed=1),
    "up_thresholds": None,
    "down_thresholds": None,
    "up_width": UP,
    "parents": some_parents(DOWN, 6, UP),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"cells": zeros(DOWN, 5)}, r"cells has shape \[37, 64\], it must be \[37, 128\]", id="cells-of-five-parents"),
        pytest.param({"cells": zeros(DOWN, 6).float()}, "cells is float32, it must be int32 or int64", id="float-cells"),
        pytest.param({"cells": torch.zeros(128, DOWN).int().T}, "cells is not contiguous", id="cells-not-contiguous"),
        pytest.param({"parents": GOOD["parents"].long()}, "parents is int64, it must be int32", id="int64-parents"),
        pytest.param(
            {"parents": some_parents(DOWN, 9, UP)}, "parents has 9 columns, it must have 1 to 8", id="more-parents-than-allowed"
        ),
        pytest.param({"parents": torch.full((DOWN, 6), UP).int()}, r"parents holds 29 to 29, .* \[0, 29\)", id="parent-too-large"),
        pytest.param({"parents": torch.full((DOWN, 6), -2).int()}, "parents holds -2 to -2, .* or -1 for none", id="parent-below"),
        pytest.param({"up_width": 3}, r"parents holds -1 to 28, every one must be in \[0, 3\)", id="narrow"),
        pytest.param(
            {"up": GOOD["up"]._replace(features=GOOD["up"].features + 1)}, r"up.features .* in \[0, 29\)", id="feature-too-large"
        ),
        pytest.param(
            {"down": GOOD["down"]._replace(features=-GOOD["down"].features - 1)}, r"down.features .* in \[0, 37\)", id="negative"
        ),
        pytest.param(
            {"up": GOOD["up"]._replace(offsets=GOOD["up"].offsets + 1)}, "up.offsets must rise from 0", id="offsets-shifted"
        ),
        pytest.param({"down": sparse(5, DOWN)}, r"down.offsets has shape \[6\], it must be \[5\]", id="other-tokens"),
        pytest.param({"down_thresholds": torch.zeros(3)}, r"down_thresholds has shape \[3\], it must be \[37\]", id="thresholds"),
    ],
)
def test_count_gate_cells_refuses_what_it_would_misread_and_changes_nothing(change: dict, message: str) -> None:
    arguments = GOOD | {"cells": zeros(DOWN, 6)} | change
    with pytest.raises(ValueError, match=message):
        count_gate_cells(**arguments)
    assert not arguments["cells"].any()


@pytest.mark.parametrize("counts", ["i32", "i64"])
def test_count_cells_compiles_for_sm_90_with_relaxed_atomics(counts: str) -> None:
    from kernels.gpu.gate_cells import BLOCK_CHILDREN, count_cells

    pointers = {name: "*i32" for name in ("up_bits", "down_bits", "parents")} | {"cells": f"*{counts}"}
    ptx = compiled_for_sm_90(
        count_cells, pointers | {"up_width": "i32", "children": "i32"}, {"M": 6, "CELLS": 128, "BLOCK": BLOCK_CHILDREN}
    )
    assert f"relaxed.add.u{counts[1:]}" in ptx
    assert "acq_rel" not in ptx


@pytest.mark.parametrize("thresholded", [False, True], ids=["no-thresholds", "thresholds"])
def test_mark_compiles_for_sm_90_with_relaxed_atomics(thresholded: bool) -> None:
    from kernels.gpu.gate_cells import BLOCK_ENTRIES, mark

    pointers = {"offsets": "*i32", "features": "*i32", "values": "*fp32", "thresholds": "*fp32", "bits": "*i32"}
    constants = {"THRESHOLDED": thresholded, "BLOCK": BLOCK_ENTRIES}
    ptx = compiled_for_sm_90(mark, pointers | {"first": "i32", "width": "i32"}, constants)
    assert "relaxed" in ptx
    assert ".or.b32" in ptx
    assert "acq_rel" not in ptx
