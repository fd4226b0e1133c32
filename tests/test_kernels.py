"""compact, accumulate and the best cells: every implementation against the reference, on shapes with a reason to be there."""

from collections.abc import Iterator

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from kernel_forms import Form, on_cpu, triton_form

from engine.measures import PairCounts, estimates
from engine.measures.bounds import tempered_bounds
from kernels import RANKED, BestCells, Csr, Features, accumulate, compact, reference
from kernels.tables import together, zero_tables

UP, DOWN = 37, 70  # prime, and no multiple of any block: neither 8 x 64 pairs nor 64 features


@pytest.fixture(scope="module", params=["numba", "triton"])
def form(request: pytest.FixtureRequest) -> Iterator[Form]:
    if request.param == "numba":
        yield Form("numba", on_cpu)
    else:
        with triton_form() as found:
            yield found


def dense(tokens: int, features: int, active: float = 0.3, seed: int = 0) -> torch.Tensor:
    """float32 [tokens, features] with negative values where a feature is not active."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(tokens, features, generator=generator) + 0.01
    return torch.where(torch.rand(tokens, features, generator=generator) < active, values, -values)


def tables(up: int, down: int, dtype: torch.dtype = torch.int32) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(up, down, 2, dtype=dtype), torch.zeros(up, down, dtype=torch.float64)


def halves_of(sparse: Csr) -> torch.Tensor:
    """uint8 [T]: documents of three tokens, B before A."""
    return (torch.arange(sparse.tokens) // 3 % 2 == 0).to(torch.uint8)


def assert_same_csr(found: Csr, expected: Csr) -> None:
    for part, (have, want) in zip(Csr._fields, zip(found, expected, strict=True), strict=True):
        assert have.dtype == want.dtype, part
        assert np.array_equal(have.numpy(), want.numpy(), equal_nan=part == "values"), part


def assert_same_tables(found: tuple[torch.Tensor, torch.Tensor], expected: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert found[0].dtype == expected[0].dtype
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=1e-6, atol=0)


def with_column(values: torch.Tensor, feature: int, value: float) -> torch.Tensor:
    values[:, feature] = value
    return values


def with_row(values: torch.Tensor, token: int, value: float) -> torch.Tensor:
    values[token] = value
    return values


SHAPES = {
    "ordinary": (dense(50, UP), dense(50, DOWN, seed=1)),
    "empty-batch": (dense(0, UP), dense(0, DOWN)),
    "one-token": (dense(1, UP), dense(1, DOWN, seed=1)),
    "nothing-active": (-dense(5, UP).abs(), -dense(5, DOWN).abs()),
    "only-upstream-active": (dense(5, UP), -dense(5, DOWN).abs()),
    "everything-active": (dense(9, UP, 1.0), dense(9, DOWN, 1.0)),
    "feature-never-fires": (with_column(dense(20, UP), 3, 0.0), with_column(dense(20, DOWN, seed=1), 5, -0.0)),
    "feature-always-fires": (with_column(dense(20, UP), 0, 2.0), with_column(dense(20, DOWN, seed=1), DOWN - 1, 3.0)),
    "token-without-features": (with_row(dense(8, UP), 2, 0.0), with_row(dense(8, DOWN, seed=1), 7, 0.0)),
    "one-feature": (dense(12, 1, 0.5), dense(12, 1, 0.5, seed=1)),
    "D-a-multiple-of-the-block": (dense(4, 128), dense(4, 64, seed=1)),
    "D-one-above-the-block": (dense(4, 1025, 0.05), dense(4, 65, seed=1)),
    "tokens-fewer-than-threads": (dense(1, UP, 1.0), dense(1, DOWN, 1.0)),
    "tiny-and-huge-values": (with_column(dense(6, UP), 1, 1e-38), with_column(dense(6, DOWN, seed=1), 1, 3e38)),
}

by_shape = pytest.mark.parametrize(("up", "down"), SHAPES.values(), ids=SHAPES.keys())


@by_shape
def test_compact_equals_the_reference(form: Form, up: torch.Tensor, down: torch.Tensor) -> None:
    assert_same_csr(form.compact(up), reference.compact(up))
    assert_same_csr(form.compact(down), reference.compact(down))


def test_compact_lets_nan_and_inf_through_and_nothing_else_that_is_not_positive(form: Form) -> None:
    row = torch.tensor([[1.0, float("nan"), -1.0, float("inf"), float("-inf"), 0.0, -0.0, 1e-45]])
    wide = torch.cat([torch.zeros(1, 130), row, torch.zeros(1, 60), row], dim=1)
    found = form.compact(wide)
    assert found.features.tolist() == [130, 131, 133, 137, 198, 199, 201, 205]
    assert_same_csr(found, reference.compact(wide))


THRESHOLDS = ("no-thresholds", "upstream-only", "downstream-only", "thresholds")
# Triton's interpreter takes 0.4 s for what numba does in a millisecond: with it only the extremes.
ACCUMULATED = [("numba", thresholds, dtype) for thresholds in THRESHOLDS for dtype in (torch.int32, torch.int64)]
ACCUMULATED += [("triton", "no-thresholds", torch.int32), ("triton", "thresholds", torch.int64)]


@by_shape
@pytest.mark.parametrize(
    ("form", "thresholds", "dtype"),
    ACCUMULATED,
    ids=[f"{form}-{thresholds}-{str(dtype)[6:]}" for form, thresholds, dtype in ACCUMULATED],
    indirect=["form"],
)
def test_accumulate_equals_the_reference(
    form: Form, up: torch.Tensor, down: torch.Tensor, thresholds: str, dtype: torch.dtype
) -> None:
    batch = reference.compact(up), reference.compact(down)
    limits = (
        torch.linspace(0, 1, up.shape[1]) if thresholds in ("upstream-only", "thresholds") else None,
        torch.linspace(1, 0, down.shape[1]) if thresholds in ("downstream-only", "thresholds") else None,
    )
    found, expected = tables(up.shape[1], down.shape[1], dtype), tables(up.shape[1], down.shape[1], dtype)
    form.accumulate(*batch, halves_of(batch[0]), *limits, *found)
    reference.accumulate(*batch, halves_of(batch[0]), *limits, *expected)
    assert_same_tables(found, expected)


@by_shape
@pytest.mark.parametrize("thresholds", [False, True], ids=["no-thresholds", "thresholds"])
@pytest.mark.parametrize("promoted", [False, True], ids=["int32-beside-the-products", "int64-elsewhere"])
def test_accumulate_fills_a_table_whose_cells_lie_side_by_side(
    up: torch.Tensor, down: torch.Tensor, thresholds: bool, promoted: bool
) -> None:
    batch = reference.compact(up), reference.compact(down)
    limits = (torch.linspace(0, 1, up.shape[1]), torch.linspace(1, 0, down.shape[1])) if thresholds else (None, None)
    counts, products = zero_tables(up.shape[1], down.shape[1])
    found = counts.to(torch.int64) if promoted else counts, products
    expected = tables(up.shape[1], down.shape[1], found[0].dtype)
    for _ in range(2):
        accumulate(*batch, halves_of(batch[0]), *limits, *found)
        reference.accumulate(*batch, halves_of(batch[0]), *limits, *expected)
    assert_same_tables(found, expected)
    assert promoted or np.array_equal(together(counts.numpy()), expected[0].numpy())


def test_a_threshold_that_is_met_exactly_does_not_count(form: Form) -> None:
    one = reference.compact(torch.full((1, 2), 0.5))
    found = tables(2, 2)
    form.accumulate(one, one, halves_of(one), torch.tensor([0.5, 0.25]), torch.tensor([0.25, 0.25]), *found)
    assert found[0].sum(dim=-1).tolist() == [[0, 0], [1, 1]]
    assert found[1].tolist() == [[0.25, 0.25], [0.25, 0.25]]


def test_two_calls_equal_one(form: Form) -> None:
    up, down = dense(30, UP), dense(30, DOWN, seed=1)
    once, twice = tables(UP, DOWN), tables(UP, DOWN)
    halves = halves_of(reference.compact(up))
    form.accumulate(reference.compact(up), reference.compact(down), halves, None, None, *once)
    for part in (slice(0, 11), slice(11, 30)):
        form.accumulate(reference.compact(up[part]), reference.compact(down[part]), halves[part], None, None, *twice)
    assert_same_tables(twice, once)


def test_tables_that_have_counts_already_keep_them_even_above_float32_integers(form: Form) -> None:
    found = torch.full((UP, DOWN, 2), 2**24 + 1, dtype=torch.int32), torch.full((UP, DOWN), 7.0, dtype=torch.float64)
    batch = reference.compact(dense(1, UP, 1.0)), reference.compact(dense(1, DOWN, 1.0))
    form.accumulate(*batch, halves_of(batch[0]), None, None, *found)
    half = int(halves_of(batch[0])[0])
    assert (found[0][..., half] == 2**24 + 2).all()
    assert (found[0][..., 1 - half] == 2**24 + 1).all()
    assert (found[1] > 7.0).all()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tokens=st.integers(0, 12),
    widths=st.tuples(st.integers(1, 70), st.integers(1, 140)),
    active=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    thresholded=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_batch_gives_what_the_reference_gives(
    form: Form, tokens: int, widths: tuple[int, int], active: float, thresholded: bool, seed: int
) -> None:
    up, down = dense(tokens, widths[0], active, seed), dense(tokens, widths[1], active, seed + 1)
    batch = form.compact(up), form.compact(down)
    assert_same_csr(batch[0], reference.compact(up))
    assert_same_csr(batch[1], reference.compact(down))
    limits = (torch.full((widths[0],), 0.4), torch.full((widths[1],), 0.6)) if thresholded else (None, None)
    found, expected = tables(*widths), tables(*widths)
    form.accumulate(*batch, halves_of(batch[0]), *limits, *found)
    reference.accumulate(*batch, halves_of(batch[0]), *limits, *expected)
    assert_same_tables(found, expected)


def long_batch(tokens: int) -> tuple[Csr, Csr]:
    """Rows of both kinds at Dd = 300: feature 0 always fires (through the row buffer), the others rarely (straight to it)."""
    up = with_column(dense(tokens, 90, 0.01), 0, 0.1)
    return compact(up), compact(with_column(dense(tokens, 300, 0.05, seed=1), 7, 0.1))


@pytest.mark.parametrize("thresholded", [False, True], ids=["no-thresholds", "thresholds"])
def test_thin_and_thick_rows_of_a_long_batch_equal_the_reference(thresholded: bool) -> None:
    batch = long_batch(3000)
    limits = (torch.full((90,), 0.05), torch.full((300,), 0.5)) if thresholded else (None, None)
    found, expected = tables(90, 300), tables(90, 300)
    accumulate(*batch, halves_of(batch[0]), *limits, *found)
    reference.accumulate(*batch, halves_of(batch[0]), *limits, *expected)
    assert_same_tables(found, expected)


def test_equal_addends_do_not_drift() -> None:
    ones = compact(torch.full((20_000, 1), 0.1))
    found = tables(1, 1)
    accumulate(ones, ones, halves_of(ones), None, None, *found)
    assert found[0].sum().item() == 20_000
    assert found[1].item() == pytest.approx(20_000 * float(np.float32(0.1)) ** 2, rel=1e-12)


def test_the_number_of_threads_changes_no_bit() -> None:
    batch, results = long_batch(3000), []
    wide = dense(3000, 1000, 0.02)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found = tables(90, 300)
            accumulate(*batch, halves_of(batch[0]), None, None, *found)
            results.append((*found, *compact(wide)))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(have, want) for have, want in zip(result, results[0], strict=True))


def test_compact_grows_when_more_is_active_than_it_allocated_for() -> None:
    full = dense(40, 700, 1.0)
    assert_same_csr(compact(full), reference.compact(full))


GOOD = reference.compact(dense(4, UP)), reference.compact(dense(4, DOWN, seed=1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        pytest.param(dense(3, 4).double(), "dense is float64, it must be float32", id="float64"),
        pytest.param(dense(3, 4)[0], r"dense has shape \[4\], it must be \[any, any\]", id="one-dimension"),
        pytest.param(dense(3, 4).T, "dense is not contiguous", id="transposed"),
    ],
)
def test_compact_refuses_what_it_would_misread(wrong: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compact(wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"counts": torch.zeros(UP, DOWN, 2)}, "counts is float32, it must be int32 or int64", id="float-counts"),
        pytest.param({"products": torch.zeros(UP, DOWN)}, "products is float32, it must be float64", id="float32-products"),
        pytest.param({"products": tables(DOWN, UP)[1].T}, "products is not contiguous", id="products-not-contiguous"),
        pytest.param({"products": tables(UP, UP)[1]}, r"products has shape \[37, 37\], it must be \[37, 70\]", id="other-shape"),
        pytest.param({"up": GOOD[0]._replace(features=GOOD[0].features.long())}, "up.features is int64", id="int64-features"),
        pytest.param({"down": GOOD[1]._replace(values=GOOD[1].values[:-1])}, "down.values has shape", id="values-too-short"),
        pytest.param(
            {"down": reference.compact(dense(5, DOWN))}, r"down.offsets has shape \[6\], it must be \[5\]", id="other-tokens"
        ),
        pytest.param({"up": GOOD[0]._replace(offsets=GOOD[0].offsets + 1)}, "up.offsets must rise from 0 to", id="offsets-shifted"),
        pytest.param(
            {"up": GOOD[0]._replace(features=GOOD[0].features + 1)}, r"up.features .* in \[0, 37\)", id="feature-too-large"
        ),
        pytest.param(
            {"down": GOOD[1]._replace(features=-GOOD[1].features - 1)}, r"down.features .* in \[0, 70\)", id="negative-feature"
        ),
        pytest.param({"counts": torch.zeros(UP, DOWN).int()}, r"counts has shape \[37, 70\], it must be", id="counts-of-one-half"),
        pytest.param({"halves": torch.zeros(4)}, "halves is float32, it must be uint8", id="float-halves"),
        pytest.param(
            {"halves": torch.zeros(3, dtype=torch.uint8)}, r"halves has shape \[3\], it must be \[4\]", id="too-few-halves"
        ),
        pytest.param(
            {"halves": torch.full((4,), 2, dtype=torch.uint8)}, "halves holds 2, every one must be 0 or 1", id="third-half"
        ),
        pytest.param({"up_thresholds": torch.zeros(3)}, r"up_thresholds has shape \[3\], it must be \[37\]", id="threshold-length"),
    ],
)
def test_accumulate_refuses_what_it_would_misread_and_changes_nothing(change: dict, message: str) -> None:
    counts, products = tables(UP, DOWN)
    arguments = {
        "up": GOOD[0],
        "down": GOOD[1],
        "halves": halves_of(GOOD[0]),
        "up_thresholds": None,
        "down_thresholds": None,
        "counts": counts,
        "products": products,
    }
    with pytest.raises(ValueError, match=message):
        accumulate(**(arguments | change))
    assert not counts.any()
    assert not products.any()


TOKENS = 1000


def features_of(counts: np.ndarray, seed: int) -> Features:
    """Activations between 0.5 and 1.5: Σa and Σa² of so many, and a design effect that is not known of the last feature."""
    generator = np.random.default_rng(seed)
    mean = generator.uniform(0.5, 1.5, len(counts))
    effect = generator.uniform(1, 20, len(counts))
    effect[-1:] = np.nan
    return Features(counts, counts * mean, counts * mean * mean * 1.1, effect)


def scores_of(measure: str, up: Features, down: Features, i, j, joint, product, cosine, effects) -> np.ndarray:
    """The measure as `engine.measures` has it."""
    counts = PairCounts(
        TOKENS, up.count[i], down.count[j], joint, up.sum[i], down.sum[j], up.sum_of_squares[i], down.sum_of_squares[j], product
    )
    if not measure.endswith("_lower"):
        return estimates(counts._replace(decoder_cosine=cosine), [measure])[measure].astype(np.float64)
    of_ratio = effects[np.minimum(np.log2(np.maximum(joint, 1)).astype(int) // 2, len(effects) - 1)]
    assert up.effect is not None
    assert down.effect is not None
    return tempered_bounds(measure.removesuffix("_lower"), counts, of_ratio, np.maximum(up.effect[i], down.effect[j]))[0]


@settings(max_examples=60, deadline=None)
@given(
    cells=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(1, 400)), max_size=60, unique_by=lambda c: c[:2]),
    k=st.integers(1, 5),
    cut=st.integers(0, 60),
    seed=st.integers(0, 5),
)
def test_the_best_cells_of_rows_and_columns_equal_a_sort_of_every_measure_however_they_are_offered(
    cells: list[tuple[int, int, int]], k: int, cut: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    i, j = (np.array([cell[side] for cell in cells], np.int32) for side in (0, 1))
    joint = np.array([cell[2] for cell in cells], np.int64)
    most = TOKENS // 2  # n_i + n_j − n_ij is at most N then
    counts = [generator.integers(1, most, size) for size in (4, 5)]
    joint = np.minimum(joint, np.minimum(counts[0][i], counts[1][j]))
    up, down = (features_of(count, seed) for count in counts)
    product = joint * generator.uniform(0.4, 1.0, len(joint))
    cosine = generator.choice(np.array([-0.5, 0.0, 0.5, np.nan], np.float32), len(joint))
    effects = np.where(np.arange(32) == 3, np.nan, np.linspace(1, 8, 32))
    ids = np.arange(100, 100 + len(cells), dtype=np.int64)
    best = BestCells(up, down, TOKENS, RANKED, k, effects)
    for part in (slice(None, cut), slice(cut, None)):
        best.offer(i[part], j[part], ids[part], joint[part], product[part], cosine[part])
    for measure, found in best.found.items():
        scores = scores_of(measure, up, down, i, j, joint, product, cosine, effects)
        rows, columns = reference.best_cells(i, j, ids, scores, 4, 5, k)
        for lists, wanted in ((found.rows, rows), (found.columns, columns)):
            assert ((lists >= 0) == (wanted >= 0)).all(), measure
            # Of equal values the first offered leads; where a logarithm's last bit differs, the values must be the same.
            assert np.array_equal(lists, wanted) or np.allclose(scores[lists - 100], scores[wanted - 100], rtol=1e-9), measure


ONE_FEATURE = Features(np.ones(1, np.int64), np.ones(1), np.ones(1))
CELL = (np.zeros(1, np.int32), np.zeros(1, np.int32), np.zeros(1, np.int64), np.ones(1, np.int64), np.ones(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({0: np.zeros(1, np.int64)}, "up is int64, it must be int32", id="int64-rows"),
        pytest.param({3: np.zeros(1)}, "joint is float64, it must be int64", id="real-counts"),
        pytest.param({2: np.zeros(2, np.int64)}, r"cells has shape \[2\], it must be \[1\]", id="more-cells-than-rows"),
        pytest.param({0: np.full(1, 1, np.int32)}, r"up .* in \[0, 1\)", id="row-too-large"),
        pytest.param({1: np.full(1, -1, np.int32)}, r"down .* in \[0, 1\)", id="negative-column"),
    ],
)
def test_best_cells_refuses_what_it_would_misread(change: dict[int, np.ndarray], message: str) -> None:
    arrays = [change.get(at, array) for at, array in enumerate(CELL)]
    best = BestCells(ONE_FEATURE, ONE_FEATURE, 10, RANKED, 2)
    with pytest.raises(ValueError, match=message):
        best.offer(*arrays)
    assert all((found.rows == -1).all() for found in best.found.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"k": 0}, "k is 0, it must be at least 1", id="no-list"),
        pytest.param({"measures": ["lift"]}, "measures holds 'lift', every one must be one of jaccard", id="lift"),
        pytest.param({"up": ONE_FEATURE._replace(sum=np.ones(2))}, r"up.sum has shape \[2\], it must be \[1\]", id="sums"),
    ],
)
def test_best_cells_of_what_there_is_not_are_refused(change: dict, message: str) -> None:
    arguments = {"up": ONE_FEATURE, "down": ONE_FEATURE, "tokens": 10, "measures": RANKED, "k": 2}
    with pytest.raises(ValueError, match=message):
        BestCells(**(arguments | change))
