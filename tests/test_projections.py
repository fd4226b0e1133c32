"""What features wrote and the next SAE's error: against a dense reference in float64, and features that are known to be hidden."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from test_encoder import residuals_of
from tiny_models import (
    ARCHITECTURES,
    CONTEXT,
    VOCAB,
    edit_weights,
    make_gpt2,
    make_sae,
    make_saes,
    pushed_segment,
    random_documents,
    segment_of,
)

from engine.corpus.segment import Piece, TokenSegment
from engine.corpus.windows import cut_windows
from engine.counts.state import State
from engine.encoder.encoder import ModelEncoder
from engine.encoder.projections import DIRECTIONS, ONE_IN, PairProjections, sampled
from kernels import WINDOW_SUMS

HOOKS = ("blocks.0.hook_resid_pre", "blocks.0.hook_resid_mid", "blocks.1.hook_resid_pre", "blocks.2.hook_resid_pre")
HOOKS = (*HOOKS, "blocks.2.hook_resid_post")
PAIRS = ((0, 1), (1, 2), (2, 3), (3, 4), (0, 4))
CONTENT = CONTEXT - 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    make_gpt2(folder / "gpt2")
    make_saes(folder / "saes", HOOKS, architectures=ARCHITECTURES)
    return folder


def projecting(folder: Path, saes: str | Path = "saes", pairs: Sequence[tuple[int, int]] = PAIRS) -> ModelEncoder:
    encoder = ModelEncoder.load(str(folder / "gpt2"), str(folder / saes))
    encoder.project_errors(pairs)
    return encoder


class Token(NamedTuple):
    """One token of the reference: per layer its residual as the SAE reads it, activations and reconstruction, all float64."""

    position: int
    window: int
    read: list[np.ndarray]
    active: list[np.ndarray]
    rebuilt: list[np.ndarray]
    divided: list[float]


def reference(encoder: ModelEncoder, segment: TokenSegment) -> list[Token]:
    """The tokens of the sampled windows: Hugging Face's whole model a window at a time, and sae_lens' own encode and decode, in
    float64."""
    windows = np.arange(segment.units)
    doubles = [deepcopy(sae.sae).double() for sae in encoder.saes]
    for sae in doubles:
        sae.dtype = torch.float64
    tokens = []
    for window in windows[sampled(segment, windows, encoder.content_size)].tolist():
        first, end = segment.window_offsets[window : window + 2].tolist()
        ids: list[int] = [encoder.model.bos_id or 0, *segment.tokens[first:end].tolist()]
        residuals = residuals_of(Path(encoder.model.name), ids, torch.float64)
        layers = []
        for sae, own in zip(encoder.saes, doubles, strict=True):
            read = residuals[sae.hook][1:]
            if sae.config.centred:
                read = read - read.mean(dim=-1, keepdim=True)
            active = own.encode(read)
            rebuilt = own.decode(active)
            match sae.config.normalize_activations:
                case "layer_norm":
                    divided = read.std(dim=-1)
                case "constant_norm_rescale":
                    divided = read.norm(dim=-1) / read.shape[-1] ** 0.5
                case _:
                    divided = torch.ones(len(read), dtype=torch.float64)
            layers.append([part.detach().numpy() for part in (read, active, rebuilt, divided)])
        for at in range(end - first):
            columns = ([layer[part][at] for layer in layers] for part in range(4))
            place = segment.first_position + first
            tokens.append(Token(place + at, place, *columns))
    return tokens


def entries(found: PairProjections) -> dict[tuple[int, int, int], tuple[float, ...]]:
    """(window, place of the token in it, feature) → written, error, stream."""
    _, first, inverse = np.unique(found.windows, return_index=True, return_inverse=True)
    place = np.arange(len(found.windows)) - first[inverse]
    keys = zip(found.windows[found.tokens].tolist(), place[found.tokens].tolist(), found.features.tolist(), strict=True)
    values = zip(found.written.tolist(), found.error.tolist(), found.stream.tolist(), strict=True)
    return dict(zip(keys, values, strict=True))


def expected(encoder: ModelEncoder, tokens: Sequence[Token], up: int, down: int) -> dict[tuple[int, int, int], tuple[float, ...]]:
    rows = encoder.saes[up].sae.W_dec.double().numpy()
    divides = getattr(encoder.saes[up].sae.cfg, "rescale_acts_by_decoder_norm", False)
    wanted = {}
    for token in tokens:
        error = token.read[down] - token.rebuilt[down]
        for feature in np.flatnonzero(token.active[up]).tolist():
            norm = float(np.linalg.norm(rows[feature]))
            if norm == 0:
                continue
            unit = rows[feature] / norm
            written = token.active[up][feature] * (1 if divides else norm) * token.divided[up]
            key = (token.window, token.position - token.window, feature)
            wanted[key] = (written, float(error @ unit), float(token.read[down] @ unit))
    return wanted


def assert_same(encoder: ModelEncoder, segment: TokenSegment) -> None:
    encoded = encoder.encode(segment, segment.unit_order)
    tokens = reference(encoder, segment)
    assert tokens
    assert [(found.up, found.down) for found in encoded.projections] == list(encoder._projector.pairs)
    for found in encoded.projections:
        wanted, got = expected(encoder, tokens, found.up, found.down), entries(found)
        assert got.keys() == wanted.keys()
        assert len(got) > len(tokens)
        keys = sorted(got)
        np.testing.assert_allclose([got[key] for key in keys], [wanted[key] for key in keys], rtol=2e-4, atol=2e-4)


LENGTHS = (40, 63, 150, 700, 31, 12, 63, 1, 900)


def test_projections_are_those_of_a_dense_reference(folder: Path) -> None:
    assert_same(projecting(folder), segment_of(random_documents(lengths=LENGTHS)))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"normalize_activations": "layer_norm"}, id="layer-norm"),
        pytest.param({"normalize_activations": "constant_norm_rescale"}, id="constant-norm"),
        pytest.param({"apply_b_dec_to_input": False}, id="bias-not-subtracted"),
        pytest.param({"architecture": "topk", "rescale_acts_by_decoder_norm": True}, id="divides-by-decoder-norms"),
        pytest.param({"metadata": {"model_from_pretrained_kwargs": {"center_writing_weights": True}}}, id="centred"),
    ],
)
def test_projections_are_in_the_space_of_the_hook_point_whatever_the_sae_does_to_its_input(
    folder: Path, tmp_path: Path, options: dict
) -> None:
    for place, hook in enumerate(HOOKS[:3]):
        plain = {} if place == 2 else options  # the last one differs from those before
        make_sae(tmp_path / hook, hook, seed=place, **{"d_sae": 80 + 8 * place, **plain})
    assert_same(projecting(folder, tmp_path, ((0, 1), (1, 2))), segment_of(random_documents(lengths=LENGTHS)))


def test_a_feature_without_a_direction_writes_nothing(folder: Path, tmp_path: Path) -> None:
    make_saes(tmp_path, HOOKS[:2])
    plain = projecting(folder, tmp_path, ((0, 1),))
    segment = segment_of(random_documents(lengths=LENGTHS))
    feature = int(np.bincount(plain.encode(segment, segment.unit_order).projections[0].features).argmax())
    edit_weights(tmp_path / HOOKS[0] / "sae_weights.safetensors", "W_dec", feature, 0.0)
    encoder = projecting(folder, tmp_path, ((0, 1),))
    assert_same(encoder, segment)
    assert feature not in encoder.encode(segment, segment.unit_order).projections[0].features


def test_a_token_is_projected_alike_whatever_it_is_batched_with(folder: Path) -> None:
    encoder = projecting(folder)
    segment = segment_of(random_documents(lengths=LENGTHS))
    whole = encoder.encode(segment, segment.unit_order).projections
    assert encoder.seconds["project"] > 0
    found: list[dict] = [{} for _ in PAIRS]
    for unit in segment.unit_order:
        for at, part in enumerate(encoder.encode(segment, np.array([unit])).projections):
            found[at] |= entries(part)
    for part, alone in zip(whole, found, strict=True):
        together = entries(part)
        assert together.keys() == alone.keys()
        for key, values in together.items():
            assert values == pytest.approx(alone[key], rel=1e-5, abs=1e-5)


def test_chance_directions_are_unit_vectors_and_decoder_rows_are_left_out_where_they_are_active(folder: Path) -> None:
    encoder = projecting(folder)
    segment = segment_of(random_documents(lengths=LENGTHS))
    tokens = reference(encoder, segment)
    for found in encoder.encode(segment, segment.unit_order).projections:
        chance = encoder._projector.chance[found.up]
        directions = chance.directions.double().numpy()
        np.testing.assert_allclose(np.linalg.norm(directions, axis=0), 1, rtol=1e-5)
        drawn = {int(chance.slots[feature]): feature for feature in np.flatnonzero(chance.slots.numpy()).tolist()}
        assert sorted(drawn) == list(range(DIRECTIONS, 2 * DIRECTIONS))
        wanted = {}
        for token in tokens:
            products = (token.read[found.down] - token.rebuilt[found.down]) @ directions
            for column, feature in drawn.items():
                if token.active[found.up][feature]:
                    products[column] = 0
            wanted.setdefault(token.window, []).append(products)
        for window, products in wanted.items():
            np.testing.assert_allclose(found.chance[found.windows == window], products, rtol=2e-4, atol=2e-4)
        assert (found.chance[:, DIRECTIONS:] == 0).any()
        rows = encoder.saes[found.up].sae.W_dec.numpy()
        column, feature = next(iter(drawn.items()))
        assert abs(directions[:, column] @ rows[feature]) == pytest.approx(np.linalg.norm(rows[feature]), rel=1e-5)


def test_one_window_of_every_16_of_a_document_is_drawn_wherever_segments_end() -> None:
    rng = np.random.default_rng(0)
    lengths = np.array([CONTENT * windows - 5 for windows in (64, 160, 16, 1, 3)])
    offsets, pieces_of = cut_windows(lengths, CONTENT)
    pieces = tuple(Piece("upload", "c", number, None, 0, 0, int(length), True) for number, length in enumerate(lengths))
    ids = rng.integers(1, VOCAB, lengths.sum()).astype(np.int32)
    options = {"number": 0, "tokens": ids, "window_offsets": offsets, "window_pieces": pieces_of, "pieces": pieces}
    segment = TokenSegment(first_position=0, **options)
    chosen = sampled(segment, np.arange(segment.units), CONTENT)
    for number, windows in enumerate((64, 160, 16)):
        assert (chosen[pieces_of == number].reshape(windows // ONE_IN, ONE_IN).sum(axis=1) == 1).all()
    assert np.array_equal(chosen, sampled(TokenSegment(first_position=777, **options), np.arange(segment.units), CONTENT))
    # the second half of the long document as a piece of another segment
    start = 80 * CONTENT
    offsets, pieces_of = cut_windows(np.array([lengths[1] - start]), CONTENT)
    rest = Piece("upload", "c", 1, None, 0, start, int(lengths[1] - start), True)
    later = TokenSegment(
        number=1, first_position=90_000, pieces=(rest,), tokens=ids[:1], window_offsets=offsets, window_pieces=pieces_of
    )
    assert np.array_equal(sampled(later, np.arange(80), CONTENT), chosen[segment.window_pieces == 1][80:])


def test_one_in_16_short_documents_is_drawn() -> None:
    segment = segment_of([[1]] * 8_000, uploads=[f"upload-{number % 7}" for number in range(8_000)])
    share = sampled(segment, np.arange(segment.units), CONTENT).mean()
    assert abs(share - 1 / ONE_IN) < 4 * (1 / ONE_IN / 8_000) ** 0.5


def test_windows_that_are_set_aside_are_not_projected(folder: Path, tmp_path: Path) -> None:
    make_saes(tmp_path, HOOKS[:2])
    documents = random_documents(lengths=LENGTHS)
    segment = segment_of(documents)
    sound = projecting(folder, tmp_path, ((0, 1),)).encode(segment, segment.unit_order).projections[0]
    token = int(segment.tokens[sound.windows[0]])  # the first token of a sampled window
    broken = make_gpt2(tmp_path / "broken")
    edit_weights(broken / "model.safetensors", "transformer.wte.weight", token, float("nan"))
    encoder = ModelEncoder.load(str(broken), str(tmp_path))
    encoder.project_errors(((0, 1),))
    encoded = encoder.encode(segment, segment.unit_order)
    (found,) = encoded.projections
    assert encoded.set_aside and 0 < len(found.features) < len(sound.features)
    assert set(found.windows.tolist()) < set(sound.windows.tolist())
    for column in found[3:]:
        assert np.isfinite(column).all()
    assert set(found.windows.tolist()) <= set(encoded.batch.positions.tolist())


def test_pushed_activations_and_layers_of_another_width_have_no_projections(folder: Path, tmp_path: Path) -> None:
    encoder = projecting(folder)
    rng = np.random.default_rng(0)
    frames = [[rng.random((5, sae.config.d_sae), np.float32) for sae in encoder.saes]]
    pushed = pushed_segment(frames)
    assert encoder.encode(pushed, np.arange(pushed.units)).projections == ()
    hooks = ("blocks.0.hook_resid_pre", "blocks.0.mlp.hook_post", "blocks.1.hook_resid_pre")
    for hook, width in zip(hooks, (48, 192, 48), strict=True):
        make_sae(tmp_path / hook, hook, d_in=width)
    mixed = projecting(folder, tmp_path, ((0, 1), (1, 2), (0, 2)))
    assert [layer.width for layer in mixed.describe().layers] == [48, 192, 48]
    segment = segment_of(random_documents(lengths=LENGTHS))
    assert [(found.up, found.down) for found in mixed.encode(segment, segment.unit_order).projections] == [(0, 2)]


def test_nothing_is_projected_unless_it_was_asked_for(folder: Path) -> None:
    encoder = ModelEncoder.load(str(folder / "gpt2"), str(folder / "saes"))
    segment = segment_of(random_documents(lengths=LENGTHS))
    assert encoder.encode(segment, segment.unit_order).projections == ()


@pytest.mark.parametrize("threshold", [0.0, 0.3], ids=["threshold 0", "threshold 0.3"])
def test_the_state_sums_what_the_reference_sums(folder: Path, threshold: float) -> None:
    encoder = projecting(folder)
    segment = segment_of(random_documents(lengths=LENGTHS))
    state = State.zero([sae.config.d_sae for sae in encoder.saes], PAIRS, threshold)
    for units in np.array_split(segment.unit_order, 5):
        encoded = encoder.encode(segment, units)
        state.add(encoded.batch, encoded.set_aside, encoded.projections)
    tokens = reference(encoder, segment)
    for pair, found in state.hidden.items():
        counts, sums = np.zeros_like(found.counts), np.zeros_like(found.sums)
        by_window: dict[tuple[int, int], list[tuple[float, ...]]] = {}
        by_place = {(token.window, token.position - token.window): token for token in tokens}
        for (window, place, feature), values in expected(encoder, tokens, *pair).items():
            if by_place[window, place].active[pair[0]][feature] > threshold:
                by_window.setdefault((window, feature), []).append(values)
        for (_, feature), values in by_window.items():
            written, error, stream = np.array(values).T
            counts[feature] += (len(values), 1)
            both = error.sum(), written.sum()
            sums[feature] += [
                *(written.sum(), error.sum(), stream.sum(), (error**2).sum()),
                *(both[0] ** 2, both[0] * both[1], both[1] ** 2),
            ]
        assert np.array_equal(found.counts, counts)
        np.testing.assert_allclose(found.sums, sums, rtol=1e-3, atol=2e-2)
        assert found.sums.shape[1] == len(WINDOW_SUMS)


def test_a_feature_whose_row_the_next_sae_lacks_is_hidden_and_no_other_is(folder: Path, tmp_path: Path) -> None:
    """Both SAEs read the same residual, and the second reconstructs it from the same features, but for one."""
    width, size = 48, 48
    for place, hook in enumerate(("blocks.1.hook_resid_pre", "blocks.1.hook_resid_mid")):
        make_sae(tmp_path / hook, hook, d_sae=size, seed=3)
        weights = tmp_path / hook / "sae_weights.safetensors"
        edit_weights(weights, "b_dec", slice(None), 0.0)
        edit_weights(weights, "b_enc", slice(None), 0.0)
        for name in ("W_enc", "W_dec"):
            edit_weights(weights, name, slice(None), 0.0)
            for at in range(width):
                edit_weights(weights, name, (at, at), 1.0)
        if place:
            edit_weights(weights, "W_dec", 17, 0.0)
    # the attention of block 1 adds nothing, so both hook points hold the same vector
    model = make_gpt2(tmp_path / "still")
    edit_weights(model / "model.safetensors", "transformer.h.1.attn.c_proj.weight", slice(None), 0.0)
    edit_weights(model / "model.safetensors", "transformer.h.1.attn.c_proj.bias", slice(None), 0.0)
    encoder = ModelEncoder.load(str(model), str(tmp_path))
    encoder.project_errors(((0, 1),))
    state = State.zero([size, size], ((0, 1),))
    segment = segment_of(random_documents(lengths=LENGTHS))
    encoded = encoder.encode(segment, segment.unit_order)
    state.add(encoded.batch, (), encoded.projections)
    found = state.hidden[0, 1]
    assert (found.counts[:, 0] > 20).all()
    share = found.sums[:, 1] / found.sums[:, 0]
    assert share[17] == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(np.delete(share, 17), 0, atol=1e-4)
    stream = found.sums[:, 2] / found.sums[:, 0]
    np.testing.assert_allclose(stream, 1, atol=1e-4)
