"""The model: an ordinary Hugging Face folder or hub name, run by TransformerBridge, float32, nothing folded or centred.

1. Find the files (`hub`); what has no safetensors weights is refused before anything heavy is imported.
2. Boot the Bridge on the folder. Its residuals are those of the Hugging Face model; code that comes with a model is never run.
3. Read what the encoder needs: sizes, BOS, special ids, and the tokenizer as `tokenizers.Tokenizer`.

transformer_lens takes 7 s to import, so it is imported here and only when a model is loaded.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from engine.encoder.fingerprint import tensor_files, text
from engine.encoder.hub import MODEL_FILES, NOT_MODEL_FILES, UNLOADABLE, first_line, snapshot
from engine.encoder.no_pickle import safetensors_only
from engine.encoder.taps import Taps
from engine.errors import DoesNotFit

if TYPE_CHECKING:
    from tokenizers import Tokenizer

log = logging.getLogger(__name__)

# What a config.json says about the program that wrote it, not about the model.
_NOT_THE_MODEL = frozenset({"transformers_version", "_name_or_path", "dtype", "torch_dtype", "architectures", "use_cache"})
# One of these, or a `*.model` of SentencePiece: without any, transformers would make a tokenizer of one token without a word.
_VOCABULARIES = frozenset({"tokenizer.json", "vocab.json", "vocab.txt"})


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model.

    Attributes:
        name: as the user gave it.
        folder: where its files are.
        bridge: the `TransformerBridge`, in evaluation mode, float32.
        tokenizer: the fast tokenizer, without padding or truncation.
        d_model: width of the residual stream.
        context_size: longest sequence in tokens that the model takes (its `n_ctx`).
        vocab_size: rows of the embedding; token ids are below it.
        bos_id: id of BOS, or None where tokenizer and model have none.
        special_ids: ids that the tokenizer marks as special, and BOS; ascending, below `vocab_size`.
    """

    name: str
    folder: Path
    bridge: Any
    tokenizer: Tokenizer
    d_model: int
    context_size: int
    vocab_size: int
    bos_id: int | None
    special_ids: tuple[int, ...]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device(self.bridge.cfg.device)

    @property
    def centred_by_norms(self) -> bool:
        """Whether every block reads the residual through a LayerNorm, so that its mean over the width has no effect."""
        return self.bridge.cfg.normalization_type in ("LN", "LNPre")

    def hook_points(self) -> list[str]:
        """Names of all hook points, aliases such as `blocks.0.hook_resid_pre` included."""
        return list(self.bridge.hook_dict)

    def tap(self, hooks: Sequence[str], *, stop: bool = True) -> Taps:
        """Attach to hook points, given in the order in which the model computes them; see `Taps`."""
        points = self.bridge.hook_dict
        return Taps(self.bridge, [(hook, points[hook]) for hook in hooks], stop=stop)

    def fingerprint(self) -> dict[str, str]:
        """Hashes of weights with configuration, and of the tokenizer."""
        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        kept = {key: value for key, value in config.items() if key not in _NOT_THE_MODEL}
        vocabulary = json.loads(self.tokenizer.to_str())
        for name in ("padding", "truncation", "post_processor"):  # none of them acts on ids that are encoded without specials
            vocabulary.pop(name, None)
        return {"model": tensor_files(self.folder.glob("*.safetensors"), kept), "tokenizer": text(vocabulary)}


def load_model(name: str, device: str = "cpu") -> Model:
    """Load a model.

    Args:
        name: local Hugging Face folder, or name on the hub (`EleutherAI/pythia-70m`; also TransformerLens' short names).
        device: "cpu" or "cuda".

    Raises:
        DoesNotFit: no such model; weights that aren't safetensors; no fast tokenizer; an architecture that TransformerBridge
            doesn't run; files that don't belong together.
    """
    folder = _folder(name)
    _check_files(name, folder)
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    try:
        with safetensors_only(f"model {name!r}"):
            own = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
            bridge = TransformerBridge.boot_transformers(str(folder), device=device, dtype=torch.float32, trust_remote_code=False)
    except UNLOADABLE as error:
        log.debug("loading model %s failed", name, exc_info=error)
        raise DoesNotFit(f"model {name!r} can't be loaded by TransformerBridge: {first_line(error)}") from error
    bridge.eval()
    bridge.requires_grad_(False)
    if not own.is_fast:
        raise DoesNotFit(f"model {name!r} has a {type(own).__name__}; saestream needs a fast tokenizer (tokenizer.json)")
    return _describe(name, folder, bridge, own)


def _describe(name: str, folder: Path, bridge: Any, own: Any) -> Model:
    """Sizes and special ids. `own` is the tokenizer before the Bridge puts placeholders into it."""
    from tokenizers import Tokenizer

    vocab_size = int(bridge.cfg.d_vocab)
    # The Bridge takes EOS for a missing BOS, as TransformerLens always did, and SAEs were trained so; a placeholder that it had to
    # invent lies outside the embedding and is none.
    bos_id = bridge.tokenizer.bos_token_id
    bos_id = None if bos_id is None or bos_id >= vocab_size else int(bos_id)
    special = {int(index) for index, token in own.added_tokens_decoder.items() if token.special} | set(own.all_special_ids)
    special |= set() if bos_id is None else {bos_id}
    tokenizer = Tokenizer.from_str(own.backend_tokenizer.to_str())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return Model(
        name=name,
        folder=folder,
        bridge=bridge,
        tokenizer=tokenizer,
        d_model=int(bridge.cfg.d_model),
        context_size=int(bridge.cfg.n_ctx),
        vocab_size=vocab_size,
        bos_id=bos_id,
        special_ids=tuple(sorted(index for index in special if 0 <= index < vocab_size)),
    )


def _folder(name: str) -> Path:
    if Path(name).is_dir():
        return Path(name)
    if name.startswith((".", "/", "~")):
        raise DoesNotFit(f"model {name!r}: there is no such folder")
    from transformer_lens.supported_models import MODEL_ALIASES

    official = next((known for known, aliases in MODEL_ALIASES.items() if name in aliases), name)
    return snapshot(official, MODEL_FILES, NOT_MODEL_FILES)


def _check_files(name: str, folder: Path) -> None:
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    listed = ", ".join(files) or "nothing"
    if "config.json" not in files:
        raise DoesNotFit(f"model {name!r} has no config.json, so it isn't a Hugging Face model; it has {listed}")
    if not any(file.endswith(".safetensors") for file in files):
        raise DoesNotFit(f"model {name!r} has no *.safetensors weights (pickled weights are never loaded); it has {listed}")
    if not any(file in _VOCABULARIES or file.endswith(".model") for file in files):
        raise DoesNotFit(f"model {name!r} has no tokenizer (tokenizer.json); it has {listed}")
