"""What a run measures: the model, its SAEs and the hook points, as the checkpoint, the views and the API need it. No torch here."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.threshold import Threshold


class LayerDescription(msgspec.Struct, frozen=True, kw_only=True):
    """One hook point of a run, in the order of the layers.

    Attributes:
        layer: the index of the layer, from 0.
        hook: the name of the hook point, e.g. `blocks.5.hook_resid_pre` (`layer 5` in a run without a model).
        features: size of the SAE's dictionary.
        neuronpedia: Neuronpedia's id of the SAE, e.g. `gpt2-small/5-res-jb`, or None.
        width: length of the residual vectors there; None in a run without a model.
    """

    layer: int
    hook: str
    features: int
    neuronpedia: str | None = None
    width: int | None = None


class RunDescription(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about model and SAEs that the rest of the run needs to know.

    Attributes:
        model: the name or folder that the model was loaded from; empty in a run without a model.
        saes: the release or folder that the SAEs were loaded from; empty in a run without a model.
        layers: the hook points in the order in which the model computes them.
        context_size: longest window in tokens, BOS included; None without a model.
        prepend_bos: whether every window begins with BOS; None without a model.
        vocab_size: token ids are in [0, vocab_size); None without a model.
        special_ids: ids that the tokenizer marks as special, ascending (left out of the counts by default).
        threshold: above which activation a feature is active; `engine.main` fills it in, as it does the rest of the fingerprint.
        fingerprint: what must agree for two runs to be one: `weights`, `tokenizer`, `hook points`, `context size`, `BOS`,
            `special tokens`, `dictionaries`. Not batch size, device or threads.
    """

    model: str
    saes: str
    layers: list[LayerDescription]
    context_size: int | None = None
    prepend_bos: bool | None = None
    vocab_size: int | None = None
    special_ids: list[int] = msgspec.field(default_factory=list)
    threshold: Threshold = Threshold()
    fingerprint: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def dictionaries(self) -> list[int]:
        """Dictionary size of each layer."""
        return [layer.features for layer in self.layers]

    @property
    def content_size(self) -> int | None:
        """Tokens of a document that fit into one window: the context size without BOS; None without a model."""
        if self.context_size is None:
            return None
        return self.context_size - (1 if self.prepend_bos else 0)

    def to_bytes(self) -> bytes:
        """MessagePack, for the record that the API reads."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> RunDescription:
        """Inverse of `to_bytes`.

        Raises:
            msgspec.DecodeError: not a run description.
        """
        return msgspec.msgpack.decode(data, type=cls)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return msgspec.to_builtins(self)
