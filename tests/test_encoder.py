"""The encoder gives what the model and the SAEs give, token by token, whatever it is batched with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kernel_forms import triton_process
from tiny_models import (
    ARCHITECTURES,
    BOS_ID,
    CONTEXT,
    VOCAB,
    edit_weights,
    make_gpt2,
    make_llama,
    make_neox,
    make_sae,
    make_saes,
    pushed_segment,
    random_documents,
    segment_of,
)

from engine.corpus.segment import ActivationSegment, TokenSegment
from engine.encoder.encoder import Encoded, ModelEncoder
from engine.encoder.pushed import PushedActivations
from engine.encoder.saes import load_saes
from engine.encoder.sparse_sae import SparseSae, join
from engine.errors import DoesNotFit
from engine.main import load_encoder
from engine.settings import load
from kernels import Csr

HOOKS = ("blocks.0.hook_resid_pre", "blocks.0.hook_resid_mid", "blocks.1.hook_resid_pre", "blocks.2.hook_resid_pre")
HOOKS = (*HOOKS, "blocks.2.hook_resid_post")
PARALLEL = ("blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre", "blocks.1.hook_resid_post")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    make_gpt2(folder / "gpt2")
    make_saes(folder / "saes", HOOKS, architectures=ARCHITECTURES)
    make_llama(folder / "llama")
    make_neox(folder / "neox")
    make_saes(folder / "saes-32", PARALLEL, architectures=("jumprelu", "topk", "gated"), d_in=32)
    return folder


@pytest.fixture(scope="module")
def encoder(folder: Path) -> ModelEncoder:
    return ModelEncoder.load(str(folder / "gpt2"), str(folder / "saes"))


def dense(csr: Csr, features: int) -> torch.Tensor:
    """A Csr as a dense float32 `[T, D]`."""
    rows = torch.repeat_interleave(torch.arange(csr.tokens), csr.offsets.diff().long())
    out = torch.zeros(csr.tokens, features)
    out[rows, csr.features.long()] = csr.values
    return out


def by_position(encoded: Encoded) -> dict[int, list[tuple[bytes, bytes]]]:
    """position → per layer the bytes of its features and values."""
    rows: dict[int, list[tuple[bytes, bytes]]] = {position: [] for position in encoded.batch.positions.tolist()}
    for layer in encoded.batch.layers:
        offsets, features, values = (part.numpy() for part in layer)
        for row, position in enumerate(encoded.batch.positions.tolist()):
            entries = slice(offsets[row], offsets[row + 1])
            rows[position].append((features[entries].tobytes(), values[entries].tobytes()))
    return rows


def residuals_of(folder: Path, window: list[int], dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Residuals `[length, d]` of one window by Hugging Face alone, under the names of the hook points."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").to(dtype).eval()
    inner = getattr(model, "transformer", None) or getattr(model, "model", None) or model.gpt_neox
    blocks: Any = inner.h if hasattr(inner, "h") else inner.layers
    found: dict[str, torch.Tensor] = {}

    def keep(name: str, value: Any) -> None:
        found[name] = (value[0] if isinstance(value, tuple) else value)[0]

    for i, block in enumerate(blocks):
        block.register_forward_pre_hook(lambda _, args, i=i: keep(f"blocks.{i}.hook_resid_pre", args))
        block.register_forward_hook(lambda _, args, out, i=i: keep(f"blocks.{i}.hook_resid_post", out))
        middle = getattr(block, "ln_2", None)
        if middle is not None:
            middle.register_forward_pre_hook(lambda _, args, i=i: keep(f"blocks.{i}.hook_resid_mid", args))
    with torch.inference_mode():
        model(torch.tensor([window]))
    return {name: value[0] if value.ndim == 3 else value for name, value in found.items()}


@pytest.mark.parametrize("model", ["gpt2", "llama", "neox"])
def test_activations_are_those_of_the_huggingface_model_and_the_dense_sae(folder: Path, model: str) -> None:
    saes = folder / ("saes" if model == "gpt2" else "saes-32")
    encoder = ModelEncoder.load(str(folder / model), str(saes))
    documents = random_documents(lengths=(5, 30, 63, 100))
    segment = segment_of(documents)
    encoded = encoder.encode(segment, segment.unit_order)
    assert encoded.set_aside == ()
    assert encoded.batch.tokens == 198
    order = np.argsort(encoded.batch.positions)
    windows = [[BOS_ID, *document[at : at + 63]] for document in documents for at in range(0, len(document), 63)]
    expected = [residuals_of(folder / model, window) for window in windows]
    for sae, layer in zip(encoder.saes, encoded.batch.layers, strict=True):
        with torch.inference_mode():
            reference = torch.cat([sae.sae.encode(residuals[sae.hook])[1:] for residuals in expected])
        ours = dense(layer, sae.config.d_sae)[order]
        assert torch.equal(ours > 0, reference > 0)
        assert 0 < (reference > 0).sum() < reference.numel() // 2
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("tokens", [1, 16, 17, 300], ids=["one token", "a multiple of 16", "one more", "several blocks"])
def test_sparse_activations_are_those_of_sae_lens_bit_for_bit(tmp_path: Path, architecture: str, tokens: int) -> None:
    make_sae(tmp_path, "blocks.0.hook_resid_pre", architecture=architecture, d_sae=8200)
    (loaded,) = load_saes(str(tmp_path))
    x = torch.randn(max(tokens, 16), 48, generator=torch.Generator().manual_seed(tokens))
    x[3, 5], x[7, 0] = float("nan"), float("inf")
    with torch.inference_mode():
        expected = loaded.sae.encode(x)
    sparse = SparseSae(loaded).encode(x[:tokens])
    ours = dense(sparse, 8200)
    expected = torch.where(expected <= 0, 0.0, expected)[:tokens]
    assert torch.equal(ours.nan_to_num(-1.0), expected.nan_to_num(-1.0))
    features, starts = sparse.features.numpy(), set(sparse.offsets.tolist())
    assert all(features[i] > features[i - 1] for i in range(1, len(features)) if i not in starts)
    assert (sparse.offsets.dtype, sparse.features.dtype, sparse.values.dtype) == (torch.int32, torch.int32, torch.float32)


@pytest.mark.parametrize(
    "options", [{"normalize_activations": "layer_norm"}, {"apply_b_dec_to_input": False}], ids=["layer norm", "no b_dec"]
)
def test_options_of_an_sae_are_kept(tmp_path: Path, options: dict[str, Any]) -> None:
    make_sae(tmp_path, "blocks.0.hook_resid_pre", architecture="jumprelu", **options)
    (loaded,) = load_saes(str(tmp_path))
    x = torch.randn(32, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(dense(SparseSae(loaded).encode(x), 96), loaded.sae.encode(x))


def sparse_of(saes: Path, x: torch.Tensor, fused: bool) -> list[tuple[np.ndarray, ...]]:
    """What every SAE of a folder gives, in one kernel or not; runs where Triton does."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = [SparseSae(sae, fused).encode(x.to(device)) for sae in load_saes(str(saes), device)]
    return [tuple(part.cpu().numpy() for part in sparse) for sparse in found]


def test_the_fused_encode_gives_the_same_activations_up_to_their_last_bits(tmp_path: Path) -> None:
    saes = make_saes(
        tmp_path, HOOKS[:4], architectures=("standard", "jumprelu", "topk", "gated")
    )  # the last two have no fused form
    x = torch.randn(20, 48, generator=torch.Generator().manual_seed(2))
    with triton_process() as call:
        for fused, apart in zip(call(sparse_of, saes, x, True), call(sparse_of, saes, x, False), strict=True):
            assert np.array_equal(fused[0], apart[0])
            assert np.array_equal(fused[1], apart[1])
            np.testing.assert_allclose(fused[2], apart[2], rtol=1e-4, atol=1e-6)


def test_the_fused_encode_is_another_run(folder: Path, encoder: ModelEncoder) -> None:
    fused = ModelEncoder.load(str(folder / "gpt2"), str(folder / "saes"), fused_encode=True).describe().fingerprint
    assert fused == encoder.describe().fingerprint | {"encode": "fused with compact"}


def test_the_fused_encode_needs_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(DoesNotFit, match="fused_encode: only --device cuda has it, this run has --device cpu; leave it out"):
        load_encoder(load(data_dir=tmp_path, fused_encode=True))


def test_an_sae_trained_on_centred_residuals_reads_them_centred(tmp_path: Path) -> None:
    centred = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    make_sae(tmp_path, "blocks.0.hook_resid_pre", metadata=centred)
    (loaded,) = load_saes(str(tmp_path))
    x = torch.randn(32, 48, generator=torch.Generator().manual_seed(0)) + 3
    with torch.inference_mode():
        assert torch.equal(dense(SparseSae(loaded).encode(x), 96), loaded.sae.encode(x - x.mean(dim=1, keepdim=True)))


def test_micro_batches_and_their_order_change_no_bit_of_any_token(encoder: ModelEncoder) -> None:
    segment = segment_of(random_documents(lengths=(1, 3, 15, 16, 40, 63, 64, 150, 7, 31, 2, 90)), first_position=1000)
    whole = by_position(encoder.encode(segment, segment.unit_order))
    assert sorted(whole) == list(range(1000, 1000 + segment.token_count))
    rng = np.random.default_rng(0)
    for size in (1, 2, 5):
        shuffled = rng.permutation(segment.units)
        parts: dict[int, list[tuple[bytes, bytes]]] = {}
        for at in range(0, segment.units, size):
            parts |= by_position(encoder.encode(segment, shuffled[at : at + size]))
        assert parts == whole


def test_what_a_window_is_padded_with_changes_nothing(encoder: ModelEncoder) -> None:
    document = random_documents(lengths=(9,))[0]
    alone = segment_of([document])
    beside_others = segment_of([*random_documents(1, lengths=(15,) * 20), document])
    last = np.array([beside_others.units - 1])
    first = by_position(encoder.encode(alone, np.array([0])))
    everything = by_position(encoder.encode(beside_others, beside_others.unit_order))
    assert list(first.values()) == list(by_position(encoder.encode(beside_others, last)).values())
    assert list(first.values()) == [everything[position] for position in range(300, 309)]


def test_a_context_size_that_is_no_power_of_two_is_never_exceeded(folder: Path) -> None:
    encoder = ModelEncoder.load(str(folder / "gpt2"), str(folder / "saes"), context_size=37)
    assert encoder.content_size == encoder.describe().content_size == 36
    segment = segment_of(random_documents(lengths=(36, 80)), content=36)
    assert encoder.encode(segment, segment.unit_order).batch.tokens == 116


def test_a_context_smaller_than_a_gemm_of_16_rows_gives_the_same_activations_alone_and_in_company(folder: Path) -> None:
    encoder = ModelEncoder.load(str(folder / "gpt2"), str(folder / "saes"), context_size=5)
    segment = segment_of(random_documents(lengths=(4, 4, 30)), content=4)
    whole = by_position(encoder.encode(segment, segment.unit_order))
    single: dict[int, list[tuple[bytes, bytes]]] = {}
    for unit in range(segment.units):
        single |= by_position(encoder.encode(segment, np.array([unit])))
    assert single == whole


def test_a_batch_says_which_document_and_position_each_token_has(encoder: ModelEncoder) -> None:
    segment = segment_of(random_documents(lengths=(70, 2, 0, 5)), first_position=500)
    batch = encoder.encode(segment, segment.unit_order).batch
    assert [piece.number for piece in batch.documents] == [0, 1, 3]
    numbers = [batch.documents[piece].number for piece in batch.pieces.tolist()]
    expected = {500 + index: number for index, number in enumerate([0] * 70 + [1] * 2 + [3] * 5)}
    assert dict(zip(batch.positions.tolist(), numbers, strict=True)) == expected
    assert (batch.positions.dtype, batch.pieces.dtype) == (np.int64, np.int32)


def test_no_units_give_an_empty_batch(encoder: ModelEncoder) -> None:
    segment = segment_of(random_documents())
    encoded = encoder.encode(segment, np.zeros(0, dtype=np.int32))
    assert (encoded.batch.tokens, encoded.batch.documents, encoded.set_aside, encoded.excluded) == (0, (), (), {})
    assert [layer.offsets.tolist() for layer in encoded.batch.layers] == [[0]] * 5


def test_special_tokens_are_encoded_but_not_counted(folder: Path, encoder: ModelEncoder) -> None:
    documents = [[5, BOS_ID, 6, 7], [8, 9], [BOS_ID, BOS_ID]]
    segment = segment_of(documents, uploads=["a", "b", "b"])
    encoded = encoder.encode(segment, segment.unit_order)
    assert encoded.excluded == {"a": 1, "b": 2}
    assert sorted(encoded.batch.positions.tolist()) == [0, 2, 3, 4, 5]
    assert [piece.number for piece in encoded.batch.documents] == [0, 1]
    counting = ModelEncoder.load(str(folder / "gpt2"), str(folder / "saes"), include_special=True)
    everything = counting.encode(segment, segment.unit_order)
    assert everything.excluded == {}
    assert everything.batch.tokens == 8
    kept = by_position(encoded)
    assert {position: row for position, row in by_position(everything).items() if position in kept} == kept


def test_windows_of_special_tokens_alone_leave_nothing_in_the_batch(encoder: ModelEncoder) -> None:
    segment = segment_of([[BOS_ID] * 100])
    encoded = encoder.encode(segment, segment.unit_order)
    assert (encoded.batch.tokens, encoded.set_aside, encoded.excluded) == (0, (), {"upload": 100})


def test_a_nan_embedding_sets_the_windows_with_that_token_aside_and_leaves_the_others_as_they_are(
    folder: Path, tmp_path: Path, encoder: ModelEncoder
) -> None:
    make_gpt2(tmp_path)
    edit_weights(tmp_path / "model.safetensors", "transformer.wte.weight", 77, float("nan"))
    broken = ModelEncoder.load(str(tmp_path), str(folder / "saes"))
    sound, bad = [5] * 20, [9] * 70 + [77] + [9] * 69
    segment = segment_of([sound, bad, [77, 3, BOS_ID]], uploads=["good", "bad", "worse"])
    encoded = broken.encode(segment, segment.unit_order)
    assert {(item.upload, item.tokens) for item in encoded.set_aside} == {("bad", 63), ("worse", 2)}
    reasons = [item.reason for item in encoded.set_aside]
    assert reasons == [
        "document 1: NaN or infinite activation at token 70, blocks.0.hook_resid_pre",
        "document 2: NaN or infinite activation at token 0, blocks.0.hook_resid_pre",
    ]
    assert encoded.batch.tokens + 63 + 2 + encoded.excluded["worse"] == segment.token_count
    assert all(bool(layer.values.isfinite().all()) for layer in encoded.batch.layers)
    whole = by_position(encoder.encode(segment, segment.unit_order))
    ours = by_position(encoded)
    assert ours == {position: whole[position] for position in ours}


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["NaN", "infinity"])
def test_a_broken_sae_sets_every_window_aside_and_is_named(folder: Path, tmp_path: Path, value: float) -> None:
    make_saes(tmp_path, HOOKS[:2])
    edit_weights(tmp_path / HOOKS[1] / "sae_weights.safetensors", "b_enc", 3, value)
    encoder = ModelEncoder.load(str(folder / "gpt2"), str(tmp_path))
    segment = segment_of(random_documents(lengths=(10, 100)))
    encoded = encoder.encode(segment, segment.unit_order)
    assert encoded.batch.tokens == 0
    assert sum(item.tokens for item in encoded.set_aside) == 110
    assert len({(item.upload, item.document) for item in encoded.set_aside}) == 2
    assert {item.reason.split(", ")[-1] for item in encoded.set_aside} == {HOOKS[1]}


def test_the_forward_pass_ends_at_the_last_hook_point(folder: Path, tmp_path: Path) -> None:
    make_saes(tmp_path, ("blocks.0.hook_resid_pre", "blocks.0.hook_resid_post"))
    encoder = ModelEncoder.load(str(folder / "gpt2"), str(tmp_path))
    computed: list[str] = []
    for name in ("blocks.0.hook_out", "blocks.1.mlp.hook_out", "unembed.hook_in"):
        encoder.model.bridge.hook_dict[name].register_forward_hook(lambda *_, name=name: computed.append(name))
    segment = segment_of(random_documents(lengths=(20,)))
    assert encoder.encode(segment, segment.unit_order).batch.tokens == 20
    assert "unembed.hook_in" not in computed
    assert "blocks.1.mlp.hook_out" not in computed


def test_decoder_directions_are_the_decoder_rows_at_length_one(encoder: ModelEncoder) -> None:
    for layer, sae in enumerate(encoder.saes):
        directions = encoder.decoder_directions(layer)
        assert directions.shape == (sae.config.d_sae, 48)
        torch.testing.assert_close(directions.norm(dim=1), torch.ones(sae.config.d_sae))
        torch.testing.assert_close(directions * sae.sae.W_dec.norm(dim=1, keepdim=True), sae.sae.W_dec.data)


def test_time_is_accounted_by_stage(encoder: ModelEncoder) -> None:
    before = encoder.seconds
    segment = segment_of(random_documents(lengths=(20,)))
    encoder.encode(segment, segment.unit_order)
    assert set(before) == {"forward", "encode", "compact", "project"}
    assert all(encoder.seconds[stage] > before[stage] for stage in before if stage != "project")
    assert encoder.seconds["project"] == 0  # nobody asked for it


def test_joined_rows_are_the_rows_one_after_the_other() -> None:
    parts = [
        Csr(torch.tensor([0, 2, 2], dtype=torch.int32), torch.tensor([1, 4], dtype=torch.int32), torch.tensor([1.0, 2.0])),
        Csr(torch.tensor([0], dtype=torch.int32), torch.empty(0, dtype=torch.int32), torch.empty(0)),
        Csr(torch.tensor([0, 1], dtype=torch.int32), torch.tensor([0], dtype=torch.int32), torch.tensor([3.0])),
    ]
    joined = join(parts)
    assert [part.tolist() for part in joined] == [[0, 2, 2, 3], [1, 4, 0], [1.0, 2.0, 3.0]]


def activations(seed: int = 0) -> tuple[list[list[np.ndarray]], ActivationSegment]:
    """Four frames of two layers (6 and 4 features), and their segment at position 40 of the log."""
    rng = np.random.default_rng(seed)
    frames = [[np.maximum(rng.standard_normal((tokens, d)), 0).astype(np.float32) for d in (6, 4)] for tokens in (3, 1, 0, 5)]
    return frames, pushed_segment(frames, first_position=40)


@pytest.mark.parametrize("units", [[0, 1, 2, 3], [3], [2, 0], []], ids=["all", "one", "out of order", "none"])
def test_pushed_activations_come_through_as_they_are(units: list[int]) -> None:
    frames, segment = activations()
    encoded = PushedActivations([6, 4]).encode(segment, np.array(units, dtype=np.int32))
    assert (encoded.set_aside, encoded.excluded) == ((), {})
    starts = [40, 43, 44, 44]
    assert encoded.batch.positions.tolist() == [starts[u] + i for u in units for i in range(len(frames[u][0]))]
    for layer, features in enumerate((6, 4)):
        expected = np.concatenate([np.zeros((0, features), np.float32), *(frames[u][layer] for u in units)])
        assert torch.equal(dense(encoded.batch.layers[layer], features), torch.from_numpy(expected))


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["NaN", "infinity"])
def test_a_pushed_frame_with_a_broken_value_is_set_aside_whole(value: float) -> None:
    frames, _ = activations()
    frames[3][1][2, 1] = value
    segment = pushed_segment(frames, first_position=40)
    encoded = PushedActivations([6, 4]).encode(segment, segment.unit_order)
    (item,) = encoded.set_aside
    assert (item.upload, item.tokens, item.document) == ("push", 5, 3)
    assert item.reason == "document 3 (doc-3): NaN or infinite activation at token 2, layer 1"
    assert encoded.batch.positions.tolist() == [40, 41, 42, 43]
    assert torch.equal(dense(encoded.batch.layers[0], 6), torch.from_numpy(np.concatenate([frames[0][0], frames[1][0]])))
    assert [piece.number for piece in encoded.batch.documents] == [0, 1]


def test_a_run_with_a_model_takes_pushed_activations_of_its_layers_too(folder: Path, tmp_path: Path) -> None:
    make_saes(tmp_path, HOOKS[:2], d_sae=6)
    encoder = ModelEncoder.load(str(folder / "gpt2"), str(tmp_path))
    frames = [[np.ones((2, 6), np.float32), np.zeros((2, 6), np.float32)]]
    batch = encoder.encode(pushed_segment(frames), np.array([0])).batch
    assert [layer.offsets.tolist() for layer in batch.layers] == [[0, 6, 12], [0, 0, 0]]


def test_a_run_without_a_model_refuses_text_by_name() -> None:
    segment: TokenSegment = segment_of(random_documents())
    with pytest.raises(DoesNotFit, match=r"segment 0 holds text, and a run without a model \(--dictionary\) can't encode it"):
        PushedActivations([6, 4]).encode(segment, segment.unit_order)


def test_the_tokenizer_and_the_content_size_are_what_the_ingest_thread_needs(encoder: ModelEncoder) -> None:
    assert encoder.tokenizer.encode("ab", add_special_tokens=False).ids == [65, 66]
    description = encoder.describe()
    assert (description.content_size, description.vocab_size, description.special_ids) == (CONTEXT - 1, VOCAB, [BOS_ID])
