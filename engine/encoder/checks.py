"""Do model and SAEs belong together? Everything is found out before the first token, by name and by one short pass of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import torch

from engine.encoder.model import Model
from engine.encoder.saes import Sae
from engine.errors import DoesNotFit

_PROBE_TOKENS = 16


@dataclass(frozen=True, eq=False)
class Fit:
    """What model and SAEs agree on.

    Attributes:
        saes: in the order in which the model computes their hook points.
        context_size: window length in tokens, BOS included.
        prepend_bos: whether windows begin with BOS.
    """

    saes: tuple[Sae, ...]
    context_size: int
    prepend_bos: bool


def fit(model: Model, saes: Sequence[Sae], context_size: int | None = None) -> Fit:
    """Check that the SAEs fit the model and each other, and put them in order.

    Args:
        model: the model.
        saes: one SAE per hook point, in any order.
        context_size: what the user wants instead of the SAEs' own context size.

    Raises:
        DoesNotFit: names the SAE or its hook point, the value that is wrong and the right one.
    """
    _check_places(model, saes)
    ordered = _in_order_of_the_model(model, saes)
    for sae in saes:
        if sae.config.centred and not model.centred_by_norms:
            raise DoesNotFit(
                f"SAE at {sae.hook} was trained on centred residuals (center_writing_weights), which need a model with LayerNorm; "
                f"{model.name} has {model.bridge.cfg.normalization_type}"
            )
    return Fit(ordered, _context_size(model, ordered, context_size), _prepend_bos(model, ordered))


def _check_places(model: Model, saes: Sequence[Sae]) -> None:
    """Hook points exist, each has one SAE, and there are at least two."""
    known = model.hook_points()
    for sae in saes:
        if sae.hook not in known:
            close = get_close_matches(sae.hook, known, n=5, cutoff=0.0)
            raise DoesNotFit(
                f"SAE {sae.config.source} belongs to hook point {sae.hook}, which {model.name} doesn't have; it has "
                f"{', '.join(close)} …"
            )
    points: dict[int, Sae] = {}
    for sae in saes:
        other = points.setdefault(id(model.bridge.hook_dict[sae.hook]), sae)
        if other is not sae:
            raise DoesNotFit(f"{other.config.source} and {sae.config.source} are SAEs of one hook point ({sae.hook}); give one")
    if len(saes) < 2:
        raise DoesNotFit(f"a run compares layers, so it needs SAEs at two hook points or more, got {len(saes)}")


def _in_order_of_the_model(model: Model, saes: Sequence[Sae]) -> tuple[Sae, ...]:
    """Run a few tokens: the order in which the hook points come, and the width of what they give."""
    hooks = [sae.hook for sae in saes]
    tokens = (torch.arange(_PROBE_TOKENS, device=model.device) % model.vocab_size)[None, : model.context_size]
    with model.tap(hooks, stop=False) as taps:
        values = taps(tokens)
        fired = list(taps.fired)
    for sae, value in zip(saes, values, strict=True):
        if value is None:
            raise DoesNotFit(f"hook point {sae.hook} of SAE {sae.config.source} is never computed by {model.name}")
        shape = list(value.shape)
        if len(shape) != 3 or shape[:2] != list(tokens.shape):
            raise DoesNotFit(
                f"hook point {sae.hook} gives {shape} for {list(tokens.shape)} tokens; an SAE needs one vector per token"
            )
        if shape[2] != sae.config.d_in:
            raise DoesNotFit(f"SAE at {sae.hook} expects d_in {sae.config.d_in}, the model gives {shape[2]}")
    repeated = sorted({hook for hook in fired if fired.count(hook) > 1})
    if repeated:
        raise DoesNotFit(
            f"{model.name} computes {', '.join(repeated)} several times in one pass: which one an SAE reads is not defined"
        )
    return tuple(sorted(saes, key=lambda sae: fired.index(sae.hook)))


def _context_size(model: Model, saes: Sequence[Sae], wanted: int | None) -> int:
    if wanted is None:
        missing = [sae for sae in saes if sae.config.context_size is None]
        if missing:
            raise DoesNotFit(
                f'SAE {missing[0].config.source} has no "context_size" in its metadata; add it there or give --context-size '
                f"(at most {model.context_size} for {model.name})"
            )
        _agree("context_size", saes, [sae.config.context_size for sae in saes], "; give --context-size")
        size, whose = saes[0].config.context_size, f"SAE at {saes[0].hook} has context_size"
    else:
        size, whose = wanted, "--context-size is"
    if size is None or not 2 <= size <= model.context_size:
        raise DoesNotFit(f"{whose} {size}; {model.name} takes 2 to {model.context_size} tokens")
    return size


def _prepend_bos(model: Model, saes: Sequence[Sae]) -> bool:
    _agree("prepend_bos", saes, [sae.config.prepend_bos for sae in saes], "")
    prepend = saes[0].config.prepend_bos
    if prepend and model.bos_id is None:
        raise DoesNotFit(
            f"SAE at {saes[0].hook} has prepend_bos true, but the tokenizer of {model.name} has no BOS (nor EOS) token"
        )
    return prepend


def _agree(field: str, saes: Sequence[Sae], values: Sequence[object], advice: str) -> None:
    first = values[0]
    for sae, value in zip(saes, values, strict=True):
        if value != first:
            raise DoesNotFit(
                f"SAE at {sae.hook} has {field} {value}, SAE at {saes[0].hook} has {first}: windows are the same for all layers, "
                f"so they must agree{advice}"
            )
