"""The decoder vectors of a run's SAEs in a file per layer, for processes that must not import torch.

A vector is *folded* where the SAE has a threshold per feature (JumpReLU, and BatchTopK as it is saved): θ·d, with θ the threshold
and d the decoder row. That SAE, with encoder rows and biases divided by θ, has every threshold at 1 and computes the same
(SAE Match, arXiv 2410.07656). Elsewhere, and where a threshold is not above 0, vectors are unit directions.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from engine import durable
from engine.errors import DamagedFile

if TYPE_CHECKING:
    from engine.encoder.saes import Sae

log = logging.getLogger(__name__)

DECODERS = "decoders"
"""Folder of the files in the data directory."""

_MAGIC = b"SAESDECO"
_VERSION = 1

Vectors = Literal["folded", "cosine"]


class DecoderVectors(NamedTuple):
    """`rows` float32 `[D, d_model]`, a row of zeros where the SAE has no direction; `kind`: what they are."""

    rows: np.ndarray
    kind: Vectors


def write_decoders(folder: Path, saes: Sequence[Sae], run: Mapping[str, str]) -> None:
    """Write a file for each layer that has none of this run (by its fingerprint) yet. 75 MB a layer at 24,576 × 768.

    Raises:
        StorageFault: the disk fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for layer, sae in enumerate(saes):
        path = _path(folder, layer)
        if _is_of(path, run):
            continue
        vectors = vectors_of(sae)
        durable.write_framed(path, _MAGIC, _VERSION, {"run": dict(run), "kind": vectors.kind}, {"rows": vectors.rows})


def read_decoder(folder: Path, layer: int) -> DecoderVectors | None:
    """The vectors of a layer; None in a run without a model.

    Raises:
        DamagedFile: the file is not what it must be.
    """
    path = _path(folder, layer)
    if not path.exists():
        return None
    header, arrays = durable.read_framed(path, _MAGIC, [_VERSION])
    return DecoderVectors(arrays["rows"], header["kind"])


def vectors_of(sae: Sae) -> DecoderVectors:
    """Decoder vectors of one SAE, folded where it has thresholds."""
    rows = sae.sae.W_dec.detach().float().cpu().numpy()
    thresholds = getattr(sae.sae, "threshold", None)
    if thresholds is not None:
        theta = np.broadcast_to(thresholds.detach().float().cpu().numpy(), len(rows))
        if (np.isfinite(theta) & (theta > 0)).all():
            return DecoderVectors(np.ascontiguousarray(rows * theta[:, None]), "folded")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return DecoderVectors(np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0), "cosine")


def _is_of(path: Path, run: Mapping[str, str]) -> bool:
    try:
        return path.exists() and durable.read_framed(path, _MAGIC, [_VERSION])[0]["run"] == dict(run)
    except DamagedFile as error:
        log.warning("%s: it is written anew from the SAE", error.message)
        return False


def _path(folder: Path, layer: int) -> Path:
    return folder / f"layer-{layer:03d}.decoder"
