"""Every statistic of the bundled model on a fixed text equals brute force over its dense activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_projections import reference
from tiny_models import segment_of
from transformers import AutoModelForCausalLM

import engine.demo
from engine.calibration import Calibration
from engine.corpus.segment import TokenSegment
from engine.corpus.tokenizer import DocumentTokenizer
from engine.counts.shape import adjacent_pairs
from engine.counts.state import State
from engine.demo.text import sample_documents
from engine.encoder.encoder import ModelEncoder
from engine.measures import MEASURES, PairCounts, estimates
from kernels import WINDOW_SUMS

DEMO = Path(engine.demo.__file__).parent
DOCUMENTS = 110


@pytest.fixture(scope="module")
def encoder() -> ModelEncoder:
    return ModelEncoder.load(str(DEMO / "model"), str(DEMO / "saes"))


@pytest.fixture(scope="module")
def segment(encoder: ModelEncoder) -> TokenSegment:
    tokenizer = DocumentTokenizer(encoder.tokenizer)
    content = encoder.describe().content_size
    assert content is not None
    return segment_of([tokenizer.encode(row.text) for row in sample_documents()[:DOCUMENTS]], content=content)


@pytest.fixture(scope="module")
def dense(encoder: ModelEncoder, segment: TokenSegment) -> list[np.ndarray]:
    """float64 `[T, D]` per layer in the order of the log, each window encoded by itself."""
    layers = [np.zeros((segment.token_count, size)) for size in encoder.describe().dictionaries]
    for unit in range(segment.units):
        batch = encoder.encode(segment, np.array([unit])).batch
        for layer, (offsets, features, values) in zip(layers, batch.layers, strict=True):
            rows = np.repeat(batch.positions - segment.first_position, np.diff(offsets.numpy()))
            layer[rows, features.numpy()] = values.numpy()
    return layers


@pytest.fixture(scope="module")
def state(encoder: ModelEncoder, segment: TokenSegment) -> State:
    """The same text, counted in micro-batches as the engine does."""
    encoder.project_errors(adjacent_pairs(len(encoder.saes)))
    state = State.zero(encoder.describe().dictionaries)
    for units in np.array_split(segment.unit_order, 4):
        encoded = encoder.encode(segment, units)
        state.add(encoded.batch, encoded.set_aside, encoded.projections)
    return state


def test_the_activations_are_those_of_the_huggingface_model_and_sae_lens(
    encoder: ModelEncoder, segment: TokenSegment, dense
) -> None:
    model = AutoModelForCausalLM.from_pretrained(DEMO / "model", dtype=torch.float32).eval()
    last: list[torch.Tensor] = []
    model.transformer.ln_f.register_forward_pre_hook(lambda module, inputs: last.append(inputs[0]))
    bos, bounds = model.config.bos_token_id, segment.window_offsets
    flipped = total = 0
    for unit in range(0, segment.units, 7):
        rows = slice(bounds[unit], bounds[unit + 1])
        tokens = torch.tensor([[bos, *segment.tokens[rows].tolist()]])
        with torch.inference_mode():
            hidden = model(tokens, output_hidden_states=True).hidden_states
            residuals = [*hidden[:-1], last.pop()]
            for layer, (residual, sae) in enumerate(zip(residuals, encoder.saes, strict=True)):
                expected = sae.sae.encode(residual[0, 1:]).numpy()
                found = dense[layer][rows]
                both = (expected > 0) & (found > 0)
                assert np.allclose(expected[both], found[both], rtol=1e-3, atol=1e-3)
                flipped += int(((expected > 0) != (found > 0)).sum())
                total += int(both.sum())
    assert total > 10_000
    assert flipped <= 1e-4 * total  # an activation within rounding of its threshold


def test_every_count_and_every_measure_of_all_pairs_equals_brute_force(state: State, dense: list[np.ndarray]) -> None:
    tokens = len(dense[0])
    assert state.tokens == tokens
    for layer, part in enumerate(state.marginals):
        assert np.array_equal(part.count, (dense[layer] > 0).sum(0))
        assert np.allclose(part.sum, dense[layer].sum(0), rtol=1e-6)
        assert np.allclose(part.sum_of_squares, (dense[layer] ** 2).sum(0), rtol=1e-6)
        assert np.allclose(state.strongest[layer].value[:, 0], dense[layer].max(0))
    for up, down in adjacent_pairs(len(dense)):
        a, b = dense[up], dense[down]
        table = state.pairs[up, down]
        joint = (a > 0).astype(float).T @ (b > 0).astype(float)
        assert np.array_equal(table.counts.numpy().sum(axis=2), joint)
        assert np.allclose(table.products, a.T @ b, rtol=1e-6)
        one, other = state.marginals[up], state.marginals[down]
        counts = PairCounts(
            tokens=tokens,
            up=one.count.numpy()[:, None],
            down=other.count.numpy()[None],
            joint=table.counts.numpy().sum(axis=2),
            up_sum=one.sum.numpy()[:, None],
            down_sum=other.sum.numpy()[None],
            up_sumsq=one.sum_of_squares.numpy()[:, None],
            down_sumsq=other.sum_of_squares.numpy()[None],
            product=table.products.numpy(),
            decoder_cosine=np.nan,
        )
        expected = brute_force(a, b)
        for measure, found in estimates(counts, MEASURES[:-1]).items():
            assert np.allclose(found, expected[measure], rtol=1e-6, atol=1e-9, equal_nan=True), (measure, up)


def test_with_relative_thresholds_every_count_equals_brute_force_at_the_share_of_the_maximum(
    encoder: ModelEncoder, segment: TokenSegment, dense: list[np.ndarray]
) -> None:
    calibration = Calibration(encoder.describe().dictionaries, wanted=1)
    for units in np.array_split(segment.unit_order, 5):
        calibration.add(encoder.encode(segment, units).batch)
    calibration.finish(segment)
    assert (calibration.done, calibration.tokens) == (True, len(dense[0]))
    thresholds = calibration.freeze(0.2).thresholds
    state = State.zero(encoder.describe().dictionaries, threshold=thresholds)
    for units in np.array_split(segment.unit_order, 3):
        state.add(encoder.encode(segment, units).batch)
    active = [layer.astype(np.float32) > (0.2 * layer.max(0)).astype(np.float32) for layer in dense]
    for layer, part in enumerate(state.marginals):
        assert np.array_equal(part.count, active[layer].sum(0))
        assert ((part.count > 0) == (dense[layer].max(0) > 0).astype(bool)).all()  # what fired is active at least once
    assert 0.1 < sum(rows.sum() for rows in active) / sum((layer > 0).sum() for layer in dense) < 0.99
    for up, down in adjacent_pairs(len(dense)):
        joint = active[up].astype(np.float32).T @ active[down].astype(np.float32)  # exact up to 2^24
        assert np.array_equal(state.pairs[up, down].counts.numpy().sum(axis=2), joint)


def brute_force(a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    """All measures of all pairs from the dense activations float64 `[T, Du]` and `[T, Dd]`, NaN where undefined."""
    tokens = len(a)
    on_a, on_b = (a > 0).astype(float), (b > 0).astype(float)
    n_a, n_b, both = on_a.sum(0)[:, None], on_b.sum(0)[None], on_a.T @ on_b
    with np.errstate(all="ignore"):
        information = np.zeros_like(both)
        for cell, p, q in (
            (both, n_a, n_b),
            (n_a - both, n_a, tokens - n_b),
            (n_b - both, tokens - n_a, n_b),
            (tokens - n_a - n_b + both, tokens - n_a, tokens - n_b),
        ):
            information += np.where(cell > 0, cell / tokens * np.log(tokens * cell / (p * q)), 0)
        return {
            "jaccard": both / (n_a + n_b - both),
            "sufficiency": both / np.broadcast_to(n_a, both.shape),
            "necessity": both / np.broadcast_to(n_b, both.shape),
            "phi": correlation(on_a, on_b),
            "lift": tokens * both / (n_a * n_b),
            "mutual_information": information,
            "pearson": correlation(a, b),
            "activation_cosine": (a.T @ b) / np.sqrt(np.outer((a**2).sum(0), (b**2).sum(0))),
        }


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson correlation of every column of `a` with every column of `b`."""
    a, b = a - a.mean(0), b - b.mean(0)
    return (a.T @ b) / np.sqrt(np.outer((a**2).sum(0), (b**2).sum(0)))


def test_what_is_hidden_equals_brute_force_over_dense_errors_in_float64(
    encoder: ModelEncoder, segment: TokenSegment, state: State
) -> None:
    tokens = reference(encoder, segment)
    assert len(tokens) > 200
    windows = np.array([token.window for token in tokens])
    for (up, down), part in state.hidden.items():
        rows = encoder.saes[up].sae.W_dec.double().numpy()
        norms = np.linalg.norm(rows, axis=1)
        units = rows / norms[:, None]
        active = np.stack([token.active[up] for token in tokens])
        read = np.stack([token.read[down] for token in tokens])
        error = read - np.stack([token.rebuilt[down] for token in tokens])
        fires = active > 0
        written, errors = active * norms, np.where(fires, error @ units.T, 0)
        by_window = [(windows == window)[:, None] for window in np.unique(windows)]
        assert np.array_equal(part.counts[:, 0], fires.sum(axis=0))
        assert np.array_equal(part.counts[:, 1], sum((fires & here).any(axis=0).astype(int) for here in by_window))
        e, w = ([(column * here).sum(axis=0) for here in by_window] for column in (errors, written))
        expected = {
            "written": written.sum(axis=0),
            "error": errors.sum(axis=0),
            "stream": np.where(fires, read @ units.T, 0).sum(axis=0),
            "error_squared": np.square(errors).sum(axis=0),
            "error_error": np.square(e).sum(axis=0),
            "error_written": (np.array(e) * np.array(w)).sum(axis=0),
            "written_written": np.square(w).sum(axis=0),
        }
        scale = np.abs(error @ units.T).max() * np.sqrt(len(tokens))
        for at, name in enumerate(WINDOW_SUMS):
            np.testing.assert_allclose(part.sums[:, at], expected[name], rtol=1e-3, atol=1e-4 * scale, err_msg=name)
        chance = fires.T @ np.stack([token.read[down] - token.rebuilt[down] for token in tokens])
        directions = encoder._projector.chance[up].directions.double().numpy()
        uniform = slice(0, directions.shape[1] // 2)
        np.testing.assert_allclose(part.chance[:, uniform], (chance @ directions)[:, uniform], rtol=1e-3, atol=1e-4 * scale)
