"""What a fault campaign feeds: endless numbered uploads, each a function of seed and number, with what is to be counted of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy.sparse import csr_array, random_array

from engine.corpus.builder import TokenBuilder
from engine.corpus.inbox import Manifest
from engine.corpus.tokenizer import DocumentTokenizer
from engine.demo import text as demo_text
from engine.demo.text import sample_documents
from engine.encoder.encoder import ModelEncoder
from tests.faults.oracle import Document
from tests.service import pack_frame

DEMO = Path(demo_text.__file__).parent
PER_UPLOAD = 12


@dataclass(frozen=True)
class Upload:
    """One upload as a client sends it, and the documents in it."""

    key: str
    corpus: str
    path: str
    media_type: str
    body: bytes
    documents: tuple[Document, ...]


class Stream(Protocol):
    """Uploads of a run with these dictionary sizes."""

    @property
    def sizes(self) -> tuple[int, ...]: ...

    @property
    def options(self) -> tuple[str, ...]:
        """Of `saestream serve`."""
        ...

    def upload(self, number: int) -> Upload: ...

    def other(self, upload: Upload) -> bytes:
        """Another body that the same route takes."""
        ...


@dataclass(frozen=True)
class PushedStream:
    """Activations of a run without a model: documents of these lengths, one to four to an upload, in some a long one."""

    seed: int
    sizes: tuple[int, ...] = (12, 16, 9)
    lengths: tuple[int, ...] = (0, 1, 3, 40, 200, 600)
    longest: int = 5_000  # longer than a unit and a segment

    @property
    def options(self) -> tuple[str, ...]:
        return ("--dictionary", ",".join(map(str, self.sizes)))

    def upload(self, number: int) -> Upload:
        rng = np.random.default_rng([self.seed, number])
        lengths = [int(rng.choice(self.lengths)) for _ in range(rng.integers(1, 5))]
        if number % 16 == 7:
            lengths.append(self.longest)
        documents, frames = [], []
        for at, tokens in enumerate(lengths):
            name = f"{self.seed}/{number}/{at}"
            layers = tuple(self._layer(rng, tokens, size) for size in self.sizes)
            documents.append(Document(name.encode(), layers))
            frames.append(pack_frame(name, [(layer.indptr, layer.indices, layer.data) for layer in layers]))
        corpus = f"corpus-{number % 3}"
        return Upload(
            f"{self.seed}-{number}", corpus, "/v1/activations", "application/x-msgpack", b"".join(frames), tuple(documents)
        )

    def other(self, upload: Upload) -> bytes:
        return upload.body + pack_frame("one more", [(np.zeros(1, np.int32),) * 2 + (np.zeros(0, np.float32),)] * len(self.sizes))

    @staticmethod
    def _layer(rng: np.random.Generator, tokens: int, size: int) -> csr_array:
        found = random_array((tokens, size), density=0.3, rng=rng, data_sampler=lambda size: rng.exponential(1.0, size) + 0.01)
        layer = csr_array(found.astype(np.float32))
        layer.sort_indices()
        return layer


class TextStream:
    """Text for the bundled model: 12 documents to an upload, from the sample of the demo's corpora, again and again.

    What is active on them the engine's own encoder says, once for all: what is tested here is that it is counted once.
    """

    options = ()

    def __init__(self, seed: int, documents: int = 180) -> None:
        self.seed = seed
        encoder = ModelEncoder.load(str(DEMO / "model"), str(DEMO / "saes"))
        self.sizes = tuple(sae.config.d_sae for sae in encoder.saes)
        rows = sample_documents()
        chosen = np.random.default_rng(seed).permutation(len(rows))[:documents]
        self._texts = [rows[at].text for at in chosen]
        self._documents = [document for at in range(0, documents, PER_UPLOAD) for document in self._encoded(encoder, at)]

    def upload(self, number: int) -> Upload:
        at = number * PER_UPLOAD % len(self._texts)
        documents = tuple(self._documents[at : at + PER_UPLOAD])
        key, corpus = f"{self.seed}-{number}", f"corpus-{number % 2}"
        return Upload(key, corpus, "/v1/corpora", "application/x-ndjson", lines(self._texts[at : at + PER_UPLOAD]), documents)

    def other(self, upload: Upload) -> bytes:
        return upload.body + lines(["One more."])

    def _encoded(self, encoder: ModelEncoder, at: int) -> list[Document]:
        """The documents from number `at` on that make an upload."""
        texts, tokenizer = self._texts[at : at + PER_UPLOAD], DocumentTokenizer(encoder.tokenizer)
        content = encoder.describe().content_size
        assert content is not None
        builder = TokenBuilder(content)
        manifest = Manifest("U", "corpora", "corpus", None, "", "application/x-ndjson", 0, len(texts), 0.0)
        for number, tokens in enumerate(tokenizer.encode_many(texts)):
            builder.add(manifest, number, None, 0, 0, tokens, True)
        segment = builder.seal(0, 0)
        batch = encoder.encode(segment, segment.unit_order).batch
        numbers = np.array([piece.number for piece in batch.documents])[batch.pieces]
        layers = [
            csr_array((values.numpy(), features.numpy(), offsets.numpy()), shape=(batch.tokens, size))
            for (offsets, features, values), size in zip(batch.layers, self.sizes, strict=True)
        ]
        return [
            Document(text.encode(), tuple(layer[np.flatnonzero(numbers == number)] for layer in layers))
            for number, text in enumerate(texts)
        ]


def lines(texts: list[str]) -> bytes:
    """The body of texts as JSON lines."""
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
