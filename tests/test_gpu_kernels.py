"""The GPU's variants of accumulate, its compact and its fused encode, in Triton's interpreter: against the reference, and the sums
bit for bit against the definition of their fixed point."""

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from kernel_forms import compiled_for_sm_90, triton_process

from kernels import Csr, reference

Tables = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def triton() -> Iterator[Callable]:
    with triton_process() as call:
        yield call


def layer(tokens: int, features: int, active: float = 0.3, seed: int = 0, decades: float = 1.0) -> Csr:
    """Values spread evenly in their logarithm over so many decades below 1."""
    generator = torch.Generator().manual_seed(seed)
    values = 10 ** (-decades * torch.rand(tokens, features, generator=generator))
    return reference.compact(torch.where(torch.rand(tokens, features, generator=generator) < active, values, -values))


def halves_of(tokens: int) -> torch.Tensor:
    return (torch.arange(tokens) // 3 % 2).to(torch.uint8)


def on_device(*tensors: torch.Tensor | None) -> list[Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return [None if tensor is None else tensor.to(device) for tensor in tensors]


def accumulated(
    variant: str, batch: tuple[Csr, Csr], widths: tuple[int, int], limits: Any = (None, None), options: Any = None
) -> Tables:
    """Tables of one batch; runs where Triton does."""
    from kernels.gpu.accumulate import VARIANTS
    from kernels.gpu.variants.rows import PLAN

    options = dict(options or {})
    if "plan" in options:
        options["plan"] = PLAN._replace(**options["plan"])
    counts, products = torch.zeros(*widths, 2, dtype=torch.int32), torch.zeros(*widths, dtype=torch.float64)
    up, down = (Csr(*on_device(*part)) for part in batch)
    halves, *limits, counts, products = on_device(halves_of(up.tokens), *limits, counts, products)
    VARIANTS[variant](up, down, halves, *limits, counts, products, **options)
    return counts.cpu().numpy(), products.cpu().numpy()


def expected(batch: tuple[Csr, Csr], widths: tuple[int, int], limits: Any = (None, None)) -> Tables:
    counts, products = torch.zeros(*widths, 2, dtype=torch.int32), torch.zeros(*widths, dtype=torch.float64)
    reference.accumulate(*batch, halves_of(batch[0].tokens), *limits, counts, products)
    return counts.numpy(), products.numpy()


def defined_products(batch: tuple[Csr, Csr], widths: tuple[int, int]) -> np.ndarray:
    """What `kernels.gpu.fixed_point` says, token by token."""
    dense = [reference.densify(part, width).numpy() for part, width in zip(batch, widths, strict=True)]
    exponents = [np.frexp(part.max(axis=0))[1] for part in dense]
    a, b = (part / np.ldexp(1.0, exponent) for part, exponent in zip(dense, exponents, strict=True))
    total = np.zeros(widths, np.int64)
    for of_a, of_b in zip(a, b, strict=True):
        total += np.floor(of_a[:, None] * of_b * 2.0**40 + 0.5).astype(np.int64)
    return total * np.ldexp(1.0, exponents[0][:, None] + exponents[1] - 40)


SMALL = (19, 45)  # prime, and no multiple of a block
BATCHES = {
    "ordinary": (layer(40, 19), layer(40, 45, seed=1)),
    "one-token": (layer(1, 19), layer(1, 45, seed=1)),
    "empty-batch": (layer(0, 19), layer(0, 45)),
    "only-upstream-active": (layer(5, 19), layer(5, 45, 0.0)),
    "everything-active": (layer(9, 19, 1.0), layer(9, 45, 1.0, seed=1)),
}


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize("thresholded", [False, True], ids=["no-thresholds", "thresholds"])
@pytest.mark.parametrize("variant", ["atomics", "packed", "histogram", "sorting"])
def test_every_variant_equals_the_reference(triton: Callable, variant: str, thresholded: bool, batch: tuple[Csr, Csr]) -> None:
    limits = (torch.linspace(0, 1, SMALL[0]), torch.linspace(1, 0, SMALL[1])) if thresholded else (None, None)
    counts, products = triton(accumulated, variant, batch, SMALL, limits)
    wanted = expected(batch, SMALL, limits)
    assert np.array_equal(counts, wanted[0])
    np.testing.assert_allclose(products, wanted[1], rtol=1e-6, atol=0)


PLANS = {
    "as-it-is": {},
    "no-row-is-thin": {"thin": 0},
    "rows-of-more-than-four-tokens-are-hot": {"thin": 2, "hot": 4},
    "all-slots-are-swept": {"swept": 0.0},
    "thin-rows-are-emptied-by-entry": {"swept": 1e3},
    "several-programs-and-small-steps": {"programs": 3, "tokens": 2, "entries": 16},
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_rows_give_the_defined_sums_bit_for_bit_whatever_the_plan(triton: Callable, plan: dict) -> None:
    batch = BATCHES["ordinary"]
    counts, products = triton(accumulated, "rows", batch, SMALL, (None, None), {"plan": plan})
    assert np.array_equal(counts, expected(batch, SMALL)[0])
    assert np.array_equal(products, defined_products(batch, SMALL))


@pytest.mark.parametrize("variant", ["packed", "histogram", "sorting"])
def test_the_other_fixed_points_give_the_same_bits(triton: Callable, variant: str) -> None:
    batch = BATCHES["ordinary"]
    assert np.array_equal(triton(accumulated, variant, batch, SMALL)[1], defined_products(batch, SMALL))


def test_the_order_of_the_tokens_changes_no_bit(triton: Callable) -> None:
    up, down = (reference.densify(part, width).to(torch.float32) for part, width in zip(BATCHES["ordinary"], SMALL, strict=True))
    order = torch.randperm(len(up), generator=torch.Generator().manual_seed(3))
    mixed = reference.compact(up[order]), reference.compact(down[order])
    found = [triton(accumulated, "rows", batch, SMALL)[1] for batch in (BATCHES["ordinary"], mixed)]
    assert np.array_equal(*found)


def test_counts_in_tiles_and_of_split_rows_equal_the_reference(triton: Callable) -> None:
    found = triton(counted_in_tiles, BATCHES["ordinary"], SMALL, 16, 4)
    assert np.array_equal(found, expected(BATCHES["ordinary"], SMALL)[0])


def counted_in_tiles(batch: tuple[Csr, Csr], widths: tuple[int, int], tile: int, split: int) -> np.ndarray:
    from kernels.gpu.variants.histogram import add_counts
    from kernels.gpu.variants.rows import prepare

    up, down = (Csr(*on_device(*part)) for part in batch)
    halves, counts = on_device(halves_of(up.tokens), torch.zeros(*widths, 2, dtype=torch.int32))
    add_counts(prepare(up, down, halves, None, None, torch.Size(widths)), counts, tile, split)
    return counts.cpu().numpy()


def test_sorting_in_several_parts_equals_the_reference(triton: Callable) -> None:
    batch = BATCHES["ordinary"]
    counts, products = triton(accumulated, "sorting", batch, SMALL, (None, None), {"most_updates": 100})
    assert np.array_equal(counts, expected(batch, SMALL)[0])
    np.testing.assert_allclose(products, expected(batch, SMALL)[1], rtol=1e-6, atol=0)


ALMOST_ONE = float(np.nextafter(np.float32(1), np.float32(0)))


@pytest.mark.parametrize(
    ("variant", "tokens", "plan"),
    [
        pytest.param("packed", 300, None, id="a-full-word-and-another-round"),
        pytest.param("rows", 255, {"swept": 0.0}, id="a-full-word-of-a-thin-row"),
        pytest.param("rows", 4100, {"tokens": 1024, "entries": 1}, id="a-full-word-of-a-hot-row-in-two-parts"),
    ],
)
def test_no_word_overflows_when_a_feature_is_at_its_peak_on_every_token(
    triton: Callable, variant: str, tokens: int, plan: dict | None
) -> None:
    always = reference.compact(torch.full((tokens, 1), ALMOST_ONE))
    counts, products = triton(one_half, variant, always, {} if plan is None else {"plan": plan})
    assert counts.tolist() == [[[0, tokens]]]
    assert products.item() == pytest.approx(tokens * ALMOST_ONE**2, rel=1e-6)


def one_half(variant: str, sparse: Csr, options: dict) -> Tables:
    """Tables of a layer of one feature with itself, all tokens in half B: the upper field of a word."""
    from kernels.gpu.accumulate import VARIANTS
    from kernels.gpu.variants.rows import PLAN

    if "plan" in options:
        options = {"plan": PLAN._replace(**options["plan"])}
    counts, products = torch.zeros(1, 1, 2, dtype=torch.int32), torch.zeros(1, 1, dtype=torch.float64)
    layer = Csr(*on_device(*sparse))
    halves, counts, products = on_device(torch.ones(sparse.tokens, dtype=torch.uint8), counts, products)
    VARIANTS[variant](layer, layer, halves, None, None, counts, products, **options)
    return counts.cpu().numpy(), products.cpu().numpy()


def test_products_are_right_to_1e_6_where_both_values_are_within_a_seven_hundredth_of_their_peaks(triton: Callable) -> None:
    batch = layer(30, SMALL[0], decades=np.log10(700)), layer(30, SMALL[1], seed=1, decades=np.log10(700))
    np.testing.assert_allclose(triton(accumulated, "rows", batch, SMALL)[1], expected(batch, SMALL)[1], rtol=1e-6, atol=0)


def test_where_a_feature_has_the_smallest_and_the_largest_value_counts_are_exact_and_the_error_is_of_the_peaks(
    triton: Callable,
) -> None:
    values = torch.full((12, 2), 1e-38)
    values[5] = 3e38
    extreme = reference.compact(values)
    counts, products = triton(accumulated, "rows", (extreme, extreme), (2, 2))
    wanted = expected((extreme, extreme), (2, 2))
    assert np.array_equal(counts, wanted[0])
    assert (np.abs(products - wanted[1]) <= 12 * 2.0**-39 * 3e38**2).all()


def test_a_batch_whose_sums_could_pass_63_bits_is_refused(triton: Callable) -> None:
    with pytest.raises(ValueError, match="a batch of 4194305 tokens: at most 4194304 are counted at a time on a GPU"):
        long = Csr(torch.ones((1 << 22) + 2, dtype=torch.int32), torch.zeros(1, dtype=torch.int32), torch.ones(1))
        triton(accumulated, "rows", (long, long), (1, 1))


def compacted(dense: torch.Tensor, places: int) -> list[np.ndarray]:
    from kernels.gpu.compact import compact

    return [part.cpu().numpy() for part in compact(*on_device(dense), places)]


@pytest.mark.parametrize("places", [16, 256], ids=["some-tokens-have-more-than-fits", "all-fit"])
def test_compact_in_one_pass_equals_the_reference(triton: Callable, places: int) -> None:
    dense = torch.where(torch.rand(7, 1100, generator=torch.Generator().manual_seed(0)) < 0.02, 1.0, -1.0)
    dense[3, 500] = torch.nan
    for found, wanted in zip(triton(compacted, dense, places), reference.compact(dense), strict=True):
        assert np.array_equal(found, wanted.numpy(), equal_nan=True)


def encoded(residuals: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor, thresholds: Any, options: dict) -> list[np.ndarray]:
    from kernels.gpu.encode import encode

    return [part.cpu().numpy() for part in encode(*on_device(residuals, weights, bias, thresholds), **options)]


ENCODED = {
    "one-tile": (5, 7, 30, torch.float32),
    "several-tiles-each-way": (70, 33, 150, torch.float32),
    "half-precision": (20, 40, 130, torch.float16),
}


@pytest.mark.parametrize("jump", [False, True], ids=["relu", "jumprelu"])
@pytest.mark.parametrize(("tokens", "inner", "width", "dtype"), ENCODED.values(), ids=ENCODED.keys())
def test_the_fused_encode_finds_what_is_active_in_the_dense_output(
    triton: Callable, tokens: int, inner: int, width: int, dtype: torch.dtype, jump: bool
) -> None:
    generator = torch.Generator().manual_seed(1)
    residuals, weights = torch.randn(tokens, inner, generator=generator), torch.randn(inner, width, generator=generator)
    bias, thresholds = torch.randn(width, generator=generator), 2 * torch.rand(width, generator=generator) if jump else None
    residuals[1, 2] = torch.nan
    residuals, weights = residuals.to(dtype), weights.to(dtype)
    hidden = residuals.double() @ weights.double() + bias
    wanted = hidden.masked_fill(hidden <= (0 if thresholds is None else thresholds), 0)
    near = (hidden.abs() < 1e-4) if thresholds is None else (hidden - thresholds).abs() < 1e-4
    found = Csr(*map(torch.from_numpy, triton(encoded, residuals, weights, bias, thresholds, {})))
    assert (found.features[1:] > found.features[:-1])[token_of(found)[1:] == token_of(found)[:-1]].all()
    dense = reference.densify(found, width)
    assert torch.equal((dense != 0)[~near], (wanted != 0)[~near])
    assert dense[1].isnan().all()
    torch.testing.assert_close(dense[~near], wanted[~near], rtol=1e-4, atol=1e-5, equal_nan=True)


def token_of(sparse: Csr) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(sparse.tokens), sparse.offsets.diff())


def test_the_fused_encode_makes_room_for_tokens_with_more_than_fits(triton: Callable) -> None:
    residuals, weights, bias = torch.ones(3, 4), torch.ones(4, 130), torch.zeros(130)
    residuals[1] = -1
    offsets, features, values = triton(encoded, residuals, weights, bias, None, {"places": 16})
    assert offsets.tolist() == [0, 130, 130, 260]
    assert features.tolist() == 2 * list(range(130))
    assert (values == 4).all()


POINTERS = {
    "u8": "halves",
    "i32": "queue starts tokens offsets features up_offsets up_features down_offsets down_features sizes peaks free lengths",
    "i64": "order slots sums words",
    "fp32": "values scaled up_values down_values up_scaled down_scaled thresholds up_thresholds down_thresholds bias dense",
    "fp64": "products units up_units down_units",
}
ARGUMENTS = {name: f"*{kind}" for kind, names in POINTERS.items() for name in names.split()}
ARGUMENTS |= {"slot_features": "*i32", "slot_values": "*fp32"}
ARGUMENTS |= dict.fromkeys(["width", "inner", "jobs", "thin", "swept", "hot_rows", "parts", "first", "entries"], "i32")
TILES = {"BLOCK_UP": 8, "BLOCK_DOWN": 64}
STEPS = {"TOKENS": 8, "ENTRIES": 64}
ATOMIC = ("add_pairs", "add_words", "add_rows", "count_tiles", "fill", "survey", "encode_slots")
GEMM = {"PLACES": 256, "BLOCK_T": 64, "BLOCK_D": 128, "BLOCK_K": 32, "GROUP": 8}


@pytest.mark.parametrize(
    ("place", "constants", "warps"),
    [
        pytest.param("variants.atomics.add_pairs", TILES | {"THRESHOLDED_UP": True, "THRESHOLDED_DOWN": False}, 16, id="atomics"),
        pytest.param("variants.packed.add_words", TILES | {"EMPTY": False}, 16, id="packed-add"),
        pytest.param("variants.packed.add_words", TILES | {"EMPTY": True}, 16, id="packed-empty"),
        pytest.param("variants.rows.add_rows", STEPS | {"HOT": 4095, "COUNTED": True, "SWEPT": 1024}, 16, id="rows"),
        pytest.param("variants.rows.add_rows", STEPS | {"HOT": 4095, "COUNTED": False, "SWEPT": 1024}, 16, id="rows-products"),
        pytest.param("variants.rows.add_sums", {"HOT": 4095, "BLOCK": 1024}, 4, id="rows-sums"),
        pytest.param(
            "variants.histogram.count_tiles", {"SPLIT": 4096, "TILE": 2048, "TOKENS": 64, "ENTRIES": 64}, 8, id="histogram"
        ),
        pytest.param("columns.fill", {"ENTRIES": 64}, 2, id="columns"),
        pytest.param("fixed_point.survey", {"BLOCK": 1024}, 4, id="survey"),
        pytest.param("fixed_point.scale_values", {"THRESHOLDED": True, "BLOCK": 1024}, 4, id="scale"),
        pytest.param("compact.fill_slots", {"PLACES": 256, "BLOCK": 1024}, 4, id="compact-slots"),
        pytest.param("compact.pack", {"PLACES": 256}, 4, id="compact-pack"),
        pytest.param("compact.write_active", {"BLOCK": 1024}, 4, id="compact-second-pass"),
        pytest.param("encode.encode_slots", GEMM | {"JUMP": True, "PRECISION": "ieee"}, 8, id="encode-float32"),
        pytest.param("encode.encode_slots", GEMM | {"JUMP": False, "PRECISION": "tf32"}, 8, id="encode-tf32"),
        pytest.param("encode.encode_slots", GEMM | {"JUMP": False, "PRECISION": "ieee", "bf16": True}, 8, id="encode-bf16"),
        pytest.param("encode.order_slots", {"PLACES": 256, "STEP": 32}, 4, id="encode-order"),
    ],
)
def test_every_kernel_compiles_for_sm_90_with_relaxed_atomics(place: str, constants: dict, warps: int) -> None:
    module, name = place.rsplit(".", 1)
    kernel = getattr(import_module(f"kernels.gpu.{module}"), name)
    types = dict(ARGUMENTS)
    if name == "encode_slots":
        types |= {"tokens": "i32"} | dict.fromkeys(("residuals", "weights"), "*bf16" if constants.get("bf16") else "*fp32")
    chosen = {key: value for key, value in constants.items() if key in kernel.arg_names}
    for counts in ("*i32", "*i64") if "counts" in kernel.arg_names else ("*i32",):
        given = {key: kind for key, kind in (types | {"counts": counts}).items() if key not in chosen}
        ptx = compiled_for_sm_90(kernel, given, chosen, warps)
        assert "acq_rel" not in ptx
        assert ("relaxed." in ptx) == (name in ATOMIC)
