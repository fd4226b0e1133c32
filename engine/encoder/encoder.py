"""Token windows → sparse batch: one forward pass of the model, every SAE, nothing dense kept.

1. Windows are sorted into length buckets (16, 32, 64 …), BOS is put in front where the SAEs were trained so, and rows are padded
   on the right: attention is causal, so padding changes nothing before it.
2. The model runs up to the last hook point; only the residuals of tokens that count are kept (not BOS, padding or special tokens).
3. Each SAE makes them sparse (`sparse_sae`).
4. Of one window in 16 the SAEs' errors are projected on the features' directions, where that was asked for (`projections`).
5. A window with a NaN or an infinity at any hook point is set aside whole, with a reason; everything else is the batch.

A token's activations depend on nothing but its window: not on the micro-batch, the bucket's other rows or their order (on a CPU
bit for bit; on a GPU the shapes are kept fixed for the same reason).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.corpus.segment import Segment, TokenSegment
from engine.corpus.windows import content_size, length_bucket
from engine.encoder.checks import fit
from engine.encoder.description import LayerDescription, RunDescription
from engine.encoder.encoded import (
    Encoded,
    SetAside,
    TokenPlaces,
    make_batch,
    places_of,
    row_of_entries,
    runs,
    select,
    set_aside,
)
from engine.encoder.fingerprint import text
from engine.encoder.model import Model, load_model
from engine.encoder.projections import ErrorProjector, PairProjections, sampled
from engine.encoder.pushed import PushedActivations
from engine.encoder.saes import Sae, load_saes
from engine.encoder.sparse_sae import ROWS, SparseSae, join
from kernels import Csr

__all__ = ["Encoded", "ModelEncoder", "SetAside"]

# Positions of one forward pass. On a CPU more is no faster and leaves the caches; a GPU needs more to be busy.
_POSITIONS = {"cpu": 2048, "cuda": 16384}


class _Sample(NamedTuple):
    """T tokens of sampled windows: per layer residuals float32 `[T, d]` and active features, and int64 `[T]` the window of each."""

    residuals: list[Tensor]
    layers: list[Csr]
    windows: np.ndarray


class ModelEncoder:
    """A model with its SAEs.

    Attributes:
        tokenizer: the model's `tokenizers.Tokenizer`, for the ingest thread.
        seconds: time spent so far in "forward", "encode" (SAE), "compact" and "project"; on a GPU what the CPU waited.
    """

    def __init__(
        self,
        model: Model,
        saes: list[Sae],
        *,
        saes_name: str = "",
        context_size: int | None = None,
        include_special: bool = False,
        fused_encode: bool = False,
    ) -> None:
        """
        Args:
            model: from `load_model`.
            saes: from `load_saes`, in any order.
            saes_name: what the SAEs were loaded from.
            context_size: window length in tokens, BOS included; None = the SAEs'.
            include_special: count special tokens (BOS, EOS, padding) that a document given as tokens has. The BOS that is put in
                front of a window has no place in the log and is never counted.
            fused_encode: see `SparseSae`.

        Raises:
            DoesNotFit: see `checks.fit`.
        """
        fitting = fit(model, saes, context_size)
        self.model, self.saes = model, fitting.saes
        self.tokenizer = model.tokenizer
        self.context_size, self.prepend_bos = fitting.context_size, fitting.prepend_bos
        self.include_special = include_special
        self._saes_name = saes_name
        self._hooks = [sae.hook for sae in self.saes]
        self._fused_encode = fused_encode
        self._sparse = [SparseSae(sae, fused_encode) for sae in self.saes]
        self._taps = model.tap(self._hooks)
        self._positions = _POSITIONS[model.device.type]
        self._special = np.zeros(model.vocab_size, dtype=bool)
        if not include_special:
            self._special[list(model.special_ids)] = True
        self._pushed = PushedActivations([sae.config.d_sae for sae in self.saes], device=model.device.type, hooks=self._hooks)
        self._forward_seconds = self._project_seconds = 0.0
        self._projector = ErrorProjector(self.saes, ())

    @classmethod
    def load(
        cls,
        model: str,
        saes: str,
        device: str = "cpu",
        *,
        context_size: int | None = None,
        include_special: bool = False,
        fused_encode: bool = False,
    ) -> ModelEncoder:
        """Load model and SAEs by name (`load_model`, `load_saes`) and check that they fit.

        Raises:
            DoesNotFit: a name that isn't found, or parts that don't belong together.
        """
        loaded = load_model(model, device)
        return cls(
            loaded,
            load_saes(saes, device),
            saes_name=saes,
            context_size=context_size,
            include_special=include_special,
            fused_encode=fused_encode,
        )

    @property
    def seconds(self) -> dict[str, float]:
        """Time spent so far, by stage."""
        stages = {stage: sum(sparse.seconds[stage] for sparse in self._sparse) for stage in ("encode", "compact")}
        return {"forward": self._forward_seconds, **stages, "project": self._project_seconds}

    def project_errors(self, pairs: Sequence[tuple[int, int]]) -> None:
        """From now on give `Encoded.projections` of these layer pairs, of those that have the same width at both hook points."""
        self._projector = ErrorProjector(self.saes, pairs)

    def describe(self) -> RunDescription:
        """What this run measures; its fingerprint reads all weights (1 to 2 s per GB)."""
        layers = [
            LayerDescription(
                layer=layer,
                hook=sae.hook,
                features=sae.config.d_sae,
                neuronpedia=sae.config.neuronpedia,
                width=sae.config.d_in,
            )
            for layer, sae in enumerate(self.saes)
        ]
        return RunDescription(
            model=self.model.name,
            saes=self._saes_name,
            layers=layers,
            context_size=self.context_size,
            prepend_bos=self.prepend_bos,
            vocab_size=self.model.vocab_size,
            special_ids=list(self.model.special_ids),
            fingerprint={
                **self.model.fingerprint(),
                "SAEs": text([sae.fingerprint() for sae in self.saes]),
                "hook points": ", ".join(self._hooks),
                "dictionaries": ", ".join(str(sae.config.d_sae) for sae in self.saes),
                "context size": str(self.context_size),
                "BOS": str(self.model.bos_id) if self.prepend_bos else "none",
                "special tokens": "counted" if self.include_special else "left out",
                **({"encode": "fused with compact"} if self._fused_encode else {}),
            },
        )

    def decoder_directions(self, layer: int) -> Tensor:
        """Decoder rows of a layer as unit vectors.

        Returns:
            float32 `[D, d_model]` on the model's device; a row of a decoder vector of length 0 is NaN: it has no direction.
        """
        with torch.inference_mode():
            weights = self.saes[layer].sae.W_dec.float()
            return weights / weights.norm(dim=-1, keepdim=True)

    def encode(self, segment: Segment, units: np.ndarray) -> Encoded:
        """Encode some units of a segment.

        Args:
            segment: token windows; pushed activations of the same layers are passed through.
            units: int `[U]`, indexes of units, each at most once. Neighbours of about one length are fastest
                (`segment.unit_order`).

        Returns:
            The batch (its tokens bucket by bucket, in the order of `units`), and what isn't in it.

        Raises:
            torch.cuda.OutOfMemoryError: the next call takes at most half as many positions at a time, whose last bits may differ.
        """
        if not isinstance(segment, TokenSegment):
            return self._pushed.encode(segment, units)
        places = places_of(segment, units, segment.window_pieces)
        excluded = _per_upload(segment, places.piece[self._special[segment.tokens[places.index]]])
        chunks, kept, faults = [], [], []
        samples: list[_Sample] = []
        for windows in self._chunks(segment, np.asarray(units, dtype=np.int64)):
            try:
                layers, chunk_places, chunk_faults, sample = self._encode_windows(segment, windows)
            except torch.cuda.OutOfMemoryError:
                # A forward pass has the same size whatever the micro-batch: only a smaller one helps who tries again.
                self._positions = max(self.context_size, self._positions // 2)
                raise
            samples += [] if sample is None else [sample]
            if len(chunk_faults):
                chunks.append(layers)
                kept.append(chunk_places)
                faults.append(chunk_faults)
        if not chunks:
            return Encoded(make_batch(segment, self._no_tokens(), places.at(np.zeros(0, np.int64))), (), excluded)
        layers = [join([chunk[layer] for chunk in chunks]) for layer in range(len(self.saes))]
        places = TokenPlaces(*(np.concatenate([getattr(part, name) for part in kept]) for name in ("index", "unit", "piece")))
        fault = np.concatenate(faults)
        aside = set_aside(segment, places, fault, self._hooks)
        if aside:
            sound = ~np.isin(places.unit, places.unit[fault >= 0])
            layers, places = [select(layer, sound) for layer in layers], places.at(sound)
        return Encoded(make_batch(segment, layers, places), aside, excluded, self._project(samples))

    def _chunks(self, segment: TokenSegment, units: np.ndarray) -> Iterator[np.ndarray]:
        """Units of one bucket each, as many as one forward pass takes."""
        lengths = self._row_lengths(segment, units)
        for length in np.unique(lengths).tolist():
            bucket = units[lengths == length]
            rows = max(1, self._positions // length)
            for first in range(0, len(bucket), rows):
                yield bucket[first : first + rows]

    def _row_lengths(self, segment: TokenSegment, units: np.ndarray) -> np.ndarray:
        return np.minimum(length_bucket(segment.unit_tokens(units)), self.context_size)

    def _encode_windows(
        self, segment: TokenSegment, windows: np.ndarray
    ) -> tuple[list[Csr], TokenPlaces, np.ndarray, _Sample | None]:
        """One forward pass: layers, places and faults (see `set_aside`) of the tokens that count, window by window; a sample."""
        began = time.perf_counter()
        before = 1 if self.prepend_bos else 0
        bounds = segment.window_offsets.astype(np.int64)
        lengths = bounds[windows + 1] - bounds[windows]
        length = int(self._row_lengths(segment, windows[:1])[0])
        column = np.arange(length) - before
        inside = (column >= 0) & (column < lengths[:, None])
        places = places_of(segment, windows, segment.window_pieces)
        rows = np.full((self._padded_rows(len(windows), length), length), self.model.bos_id or 0, dtype=np.int64)
        rows[: len(windows)][inside] = segment.tokens[places.index]
        counted = ~self._special[segment.tokens[places.index]]
        positions = torch.from_numpy(np.flatnonzero(inside)[counted]).to(self.model.device)
        places = places.at(counted)
        faults = np.full(len(places.index), -1, dtype=np.int64)
        if not len(faults):
            return self._no_tokens(), places, faults, None
        residuals = self._taps(torch.from_numpy(rows).to(self.model.device))
        with torch.inference_mode():
            chosen = [value.flatten(0, 1).index_select(0, positions) for value in residuals if value is not None]
        self._forward_seconds += time.perf_counter() - began
        layers = []
        for layer, (rows_of_layer, sparse) in enumerate(zip(chosen, self._sparse, strict=True)):
            csr = sparse.encode(rows_of_layer)
            broken = _broken_rows(rows_of_layer, csr)
            faults[broken[faults[broken] < 0]] = layer
            layers.append(csr)
        return layers, places, faults, self._sample(segment, windows, places, faults, chosen, layers)

    def _sample(
        self,
        segment: TokenSegment,
        windows: np.ndarray,
        places: TokenPlaces,
        faults: np.ndarray,
        residuals: list[Tensor],
        layers: list[Csr],
    ) -> _Sample | None:
        """What is to be projected: the windows that are sampled and have no fault; None where there is none."""
        if not self._projector.pairs:
            return None
        began = time.perf_counter()
        bounds = []
        for window in windows[sampled(segment, windows, self.content_size)].tolist():
            rows = np.flatnonzero(places.unit == window)  # they follow each other
            if len(rows) and (faults[rows] < 0).all():
                bounds.append((int(rows[0]), int(rows[-1]) + 1))
        if not bounds:
            return None
        units = np.concatenate([places.unit[first:end] for first, end in bounds])
        with torch.inference_mode():
            found = _Sample(
                [torch.cat([value[first:end] for first, end in bounds]) for value in residuals],
                [join(runs(layer, bounds)) for layer in layers],
                segment.first_position + segment.window_offsets[units].astype(np.int64),
            )
        self._project_seconds += time.perf_counter() - began
        return found

    def _project(self, samples: list[_Sample]) -> tuple[PairProjections, ...]:
        """Project all that was sampled of a batch at once: each layer pair costs some 0.2 ms whatever there is."""
        if not samples:
            return ()
        began = time.perf_counter()
        with torch.inference_mode():
            residuals = [torch.cat(parts) for parts in zip(*(sample.residuals for sample in samples), strict=True)]
            layers = [join(list(parts)) for parts in zip(*(sample.layers for sample in samples), strict=True)]
        found = self._projector.project(residuals, layers, np.concatenate([sample.windows for sample in samples]))
        self._project_seconds += time.perf_counter() - began
        return found

    def _padded_rows(self, windows: int, length: int) -> int:
        """Rows of the forward pass: GEMMs of at least 16 rows on a CPU, always the same shape on a GPU."""
        if self.model.device.type == "cuda":
            return max(1, self._positions // length)
        return max(windows, -(-ROWS // length))

    def _no_tokens(self) -> list[Csr]:
        device = self.model.device
        empty = Csr(
            torch.zeros(1, dtype=torch.int32, device=device), torch.empty(0, dtype=torch.int32, device=device), torch.empty(0)
        )
        return [Csr(empty.offsets, empty.features, empty.values.to(device)) for _ in self.saes]

    @property
    def content_size(self) -> int:
        """Tokens of a document in one window."""
        return content_size(self.context_size, self.prepend_bos)


def _per_upload(segment: Segment, pieces: np.ndarray) -> dict[str, int]:
    """How many of these tokens, given by their pieces, each upload has."""
    counts: dict[str, int] = {}
    for piece, count in zip(*(part.tolist() for part in np.unique(pieces, return_counts=True)), strict=True):
        upload = segment.pieces[piece].upload
        counts[upload] = counts.get(upload, 0) + count
    return counts


def _broken_rows(residuals: Tensor, active: Csr) -> np.ndarray:
    """int64: tokens with a NaN or an infinity in the residual or in an activation.

    A −inf before the activation function is silent in the activations, so the residual is looked at too. A sum is not finite when
    something in it isn't; one that overflows only sends us the slow way.
    """
    with torch.inference_mode():
        if bool(torch.isfinite(residuals.sum() + active.values.sum())):
            return np.zeros(0, dtype=np.int64)
        broken = ~residuals.isfinite().all(dim=-1)
        broken[row_of_entries(active, torch.flatten(torch.nonzero(~active.values.isfinite())))] = True
        return torch.flatten(torch.nonzero(broken)).cpu().numpy()
