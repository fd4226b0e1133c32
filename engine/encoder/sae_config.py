"""What an SAE's configuration says about where it belongs.

sae_lens gives None for every metadata field that isn't there, misspelt ones too; here each is named. Configurations are read
without weights, so that a whole release can be listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from engine.errors import DoesNotFit

# Architectures whose activations belong to single tokens, are ≥ 0, and read and write the same place of the model.
ARCHITECTURES = ("standard", "jumprelu", "topk", "gated")
_REFUSED = {
    "batchtopk": "it is a training class; save it with sae_lens' save_inference_model, which makes it a jumprelu",
    "matryoshka_batchtopk": "it is a training class; save it with sae_lens' save_inference_model, which makes it a jumprelu",
    "abstopk": "its activations can be negative",
    "matching_pursuit": "its activations can be negative",
    "temporal": "its activations depend on the other tokens of a sequence",
    "transcoder": "it reads one place of the model and writes another",
    "skip_transcoder": "it reads one place of the model and writes another",
    "jumprelu_transcoder": "it reads one place of the model and writes another",
    "jumprelu_skip_transcoder": "it reads one place of the model and writes another",
}

# The metadata that a run depends on; a name close to one of these that is missing is taken for a misspelling.
_METADATA = ("hook_name", "context_size", "prepend_bos", "neuronpedia_id", "model_from_pretrained_kwargs", "hook_head_index")
# The part of the configuration that changes activations and has a default, so that a misspelt name would be silently dropped.
_OPTIONS = (
    "normalize_activations",
    "apply_b_dec_to_input",
    "reshape_activations",
    "rescale_acts_by_decoder_norm",
    "d_in",
    "d_sae",
    "k",
)
_KINDS = {str: "a string", int: "a whole number", bool: "true or false"}
_OF_WEIGHTS = frozenset({"revision", "checkpoint_index", "checkpoint_value"})


@dataclass(frozen=True, kw_only=True)
class SaeConfig:
    """One SAE's place and options.

    Attributes:
        source: folder, or `release/id`: what messages call it.
        architecture: one of `ARCHITECTURES`.
        hook: name of the hook point.
        d_in, d_sae: width of the input, size of the dictionary.
        context_size: window length in tokens in training, or None (then the user must give one).
        prepend_bos: whether windows began with BOS in training.
        normalize_activations: sae_lens' name of what happens to the input first.
        centred: trained on a model whose writes to the residual stream were centred (TransformerLens' `center_writing_weights`).
        of_weights: a revision or checkpoint of the model that it was trained on, as words; empty for the default one.
        neuronpedia: Neuronpedia's id, or None.
    """

    source: str
    architecture: str
    hook: str
    d_in: int
    d_sae: int
    context_size: int | None
    prepend_bos: bool
    normalize_activations: str = "none"
    centred: bool = False
    of_weights: str = ""
    neuronpedia: str | None = None


def read_config(source: str, raw: Mapping[str, Any], config: Mapping[str, Any], neuronpedia: str | None = None) -> SaeConfig:
    """Read an SAE's configuration.

    Args:
        source: what to call the SAE in messages.
        raw: `cfg.json` as it is on disk (the names in it are checked), or the same as `config`.
        config: as sae_lens completes it, with `metadata`.
        neuronpedia: the id that a release's directory gives.

    Raises:
        DoesNotFit: a field that is missing, misspelt or of the wrong type, or a kind of SAE that saestream doesn't count.
    """
    name = f"SAE {source}"
    metadata: Mapping[str, Any] = config.get("metadata") or {}
    raw_metadata = raw.get("metadata")
    given = {*raw, *(raw_metadata if isinstance(raw_metadata, Mapping) else ())}
    _check_names(name, given)
    architecture = _field(name, config, "architecture", str, given)
    if architecture not in ARCHITECTURES:
        reason = f": {_REFUSED[architecture]}" if architecture in _REFUSED else ""
        raise DoesNotFit(f"{name} has architecture {architecture!r}{reason}; saestream takes {', '.join(ARCHITECTURES)}")
    hook = _field(name, metadata, "hook_name", str, given)
    reshape = config.get("reshape_activations", "none")
    if reshape != "none":
        raise DoesNotFit(
            f"{name} at {hook} reshapes its input ({reshape!r}, one vector per attention head); saestream takes SAEs of one vector "
            f"per token, such as {_layer_of(hook)}hook_resid_pre or {_layer_of(hook)}hook_attn_out"
        )
    if metadata.get("hook_head_index") is not None:
        raise DoesNotFit(
            f"{name} at {hook} reads attention head {metadata['hook_head_index']} alone; saestream takes whole vectors"
        )
    # A release's directory puts it at the top, an SAE's own file into the metadata.
    loading = metadata.get("model_from_pretrained_kwargs") or config.get("model_from_pretrained_kwargs") or {}
    return SaeConfig(
        source=source,
        architecture=architecture,
        hook=hook,
        d_in=_field(name, config, "d_in", int, given),
        d_sae=_field(name, config, "d_sae", int, given),
        context_size=None if metadata.get("context_size") is None else _field(name, metadata, "context_size", int, given),
        prepend_bos=_field(name, metadata, "prepend_bos", bool, given),
        normalize_activations=config.get("normalize_activations") or "none",
        centred=bool(loading.get("center_writing_weights")),
        of_weights=", ".join(f"{key} {loading[key]}" for key in sorted(_OF_WEIGHTS & set(loading))),
        neuronpedia=neuronpedia or metadata.get("neuronpedia_id"),
    )


def _field(name: str, fields: Mapping[str, Any], field: str, kind: type, given: Iterable[str]) -> Any:
    value = fields.get(field)
    if value is None:
        listed = ", ".join(sorted(given))
        raise DoesNotFit(f'{name} has no "{field}" in its cfg.json ({_KINDS[kind]} is needed); it has {listed}')
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise DoesNotFit(f'{name} has "{field}": {value!r} in its cfg.json; it must be {_KINDS[kind]}')
    return value


def _check_names(name: str, given: set[str]) -> None:
    """Refuse a name that isn't one of ours but looks like one that is missing."""
    ours = {*_METADATA, *_OPTIONS}
    absent = sorted(ours - given)
    for field in sorted(given - ours):
        close = get_close_matches(field, absent, n=1, cutoff=0.85)
        if close and field not in _NAMES_OF_SAE_LENS:
            raise DoesNotFit(f'{name} has the unknown field "{field}" in its cfg.json; it must be "{close[0]}"')


# Names that sae_lens itself writes or once wrote and that resemble one of ours.
_NAMES_OF_SAE_LENS = frozenset(
    {"hook_point", "hook_layer", "hook_name_out", "hf_hook_name", "hf_hook_name_out", "hook_head_index_out"}
)


def _layer_of(hook: str) -> str:
    parts = hook.split(".")
    return f"blocks.{parts[1]}." if len(parts) > 2 and parts[0] == "blocks" else "blocks.0."
