"""What the corpus tests share: disks that fail, small bodies, and a tokenizer that is made on the spot."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from engine.corpus.documents import body_check
from engine.corpus.inbox import Inbox, Manifest, Route
from engine.corpus.ingest import Ingest
from engine.corpus.log import CorpusLog
from engine.corpus.segment import Segment, TokenSegment
from engine.corpus.tokenizer import DocumentTokenizer
from engine.durable import Disk

LIMIT = 1 << 20
VOCAB = 600
DICTIONARIES = (8, 8)
CONTENT = 7


class FailingDisk(Disk):
    """Runs into `fault` at its `at`-th operation and, while `broken`, at every later one."""

    def __init__(self, at: int, fault: Callable[[], None], only: str | None = None) -> None:
        self.left, self.fault, self.only, self.broken = at, fault, only, True

    def _step(self, name: str) -> None:
        if not self.broken or (self.only is not None and name != self.only):
            return
        if self.left <= 0:
            self.fault()
        self.left -= 1

    def create(self, path: Path) -> IO[bytes]:
        self._step("create")
        return super().create(path)

    def write(self, file: IO[bytes], data: bytes | memoryview) -> None:
        self._step("write")
        super().write(file, data)

    def sync(self, file: IO[bytes]) -> None:
        self._step("sync")
        super().sync(file)

    def rename(self, source: Path, target: Path) -> None:
        self._step("rename")
        super().rename(source, target)

    def sync_folder(self, folder: Path) -> None:
        self._step("sync_folder")
        super().sync_folder(folder)

    def make_folder(self, path: Path) -> None:
        self._step("make_folder")
        super().make_folder(path)

    def remove(self, path: Path) -> None:
        self._step("remove")
        super().remove(path)

    def remove_folder(self, path: Path) -> None:
        self._step("remove_folder")
        super().remove_folder(path)


class UnsyncedDisk(Disk):
    """Writes without fsync, for tests that save a thousand files and are not about power cuts."""

    def sync(self, file: IO[bytes]) -> None:
        file.flush()

    def sync_folder(self, folder: Path) -> None:
        assert folder.is_dir()


def no_space() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def check(media_type: str = "application/x-ndjson", route: Route = "corpora", **options: Any) -> Any:
    given = {"max_document_bytes": LIMIT, "vocab_size": VOCAB, "dictionaries": DICTIONARIES, **options}
    return body_check(route, media_type, **given)


def lines(*records: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue().to_pybytes()


def upload(
    inbox: Inbox,
    body: bytes,
    media_type: str = "application/x-ndjson",
    corpus: str = "books",
    key: str | None = None,
    **options: Any,
) -> Manifest:
    route: Route = "activations" if media_type == "application/x-msgpack" else "corpora"
    with inbox.receive(corpus, media_type, route, key, check(media_type, route, **options)) as receiving:
        for start in range(0, len(body), 1000):
            receiving.write(body[start : start + 1000])
        return receiving.commit()


def layer(*tokens: Sequence[tuple[int, float]]) -> dict[str, bytes]:
    """One layer of a frame from (feature, value) pairs per token."""
    offsets = np.cumsum([0, *(len(token) for token in tokens)])
    entries = [entry for token in tokens for entry in token]
    return {
        "offsets": offsets.astype("<i4").tobytes(),
        "features": np.array([feature for feature, _ in entries], dtype="<i4").tobytes(),
        "values": np.array([value for _, value in entries], dtype="<f4").tobytes(),
    }


def frame(document: str, tokens: int, layers: Sequence[dict[str, bytes]] | None = None) -> bytes:
    """A frame; without `layers`, token t has the features t mod 8 (layer 0) and none or 3 (layer 1)."""
    if layers is None:
        layers = [
            layer(*([(t % 8, t + 1.0)] for t in range(tokens))),
            layer(*([(3, t + 0.5)] if t % 3 else [] for t in range(tokens))),
        ]
    return msgpack.packb({"document": document, "tokens": tokens, "layers": list(layers)})


def train_tokenizer(pre_tokenizer: pre_tokenizers.PreTokenizer, texts: Iterable[str], size: int = VOCAB) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def start_ingest(
    inbox: Inbox, log: CorpusLog, tokenizer: DocumentTokenizer | None, *, consumed: int = 1 << 30, **options: Any
) -> Ingest:
    given = {
        "content": CONTENT if tokenizer else None,
        "dictionaries": DICTIONARIES,
        "quiet_ms": 0,
        "segment_tokens": 128,
        **options,
    }
    return Ingest(inbox, log, tokenizer=tokenizer, consumed=consumed, **given)


def take_all(ingest: Ingest, inbox: Inbox, log: CorpusLog) -> None:
    """Step until every upload has ended."""
    while not all(log.progress(manifest.id).ended for manifest in inbox.manifests()):
        ingest.step()


def segments(log: CorpusLog) -> Iterator[Segment]:
    for number in range(log.last + 1):
        yield log.read(number)


def documents_in(log: CorpusLog) -> dict[tuple[str, int], list[int]]:
    """The tokens of every document, put together from its pieces, which must follow on one another and end once."""
    found: dict[tuple[str, int], list[int]] = {}
    ended: set[tuple[str, int]] = set()
    for segment in segments(log):
        assert isinstance(segment, TokenSegment)
        at = 0
        for piece in segment.pieces:
            key = (piece.upload, piece.number)
            assert key not in ended and piece.start == len(found.setdefault(key, []))
            found[key] += segment.tokens[at : at + piece.tokens].tolist()
            at += piece.tokens
            if piece.last:
                ended.add(key)
        assert at == len(segment.tokens)
    assert ended == set(found)
    return found


def windows_in(log: CorpusLog) -> list[tuple[int, ...]]:
    """Every window of the log, sorted: the multiset."""
    found = []
    for segment in segments(log):
        assert isinstance(segment, TokenSegment)
        bounds = segment.window_offsets.tolist()
        found += [tuple(segment.tokens[low:high].tolist()) for low, high in pairwise(bounds)]
    return sorted(found)
