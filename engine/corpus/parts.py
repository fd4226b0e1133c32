"""What an upload is fed to the log in: parts of documents, small enough to take turns.

A part of a text begins at a window's start, and ends at one or at the document's end; a part of pushed activations is one unit.
What parts there are is a function of the upload alone, so ingest can begin again at any part that the log says is next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from engine.corpus.activations import Frame, read_frames
from engine.corpus.documents import Document, read_documents
from engine.corpus.inbox import Inbox, Manifest
from engine.corpus.segment import UNIT_TOKENS, LayerActivations
from engine.corpus.tokenizer import PIECE, DocumentTokenizer
from engine.errors import BadInput, DoesNotFit

TURN_TOKENS = 8192  # two clusters: a second upload waits for at most about 10 ms of tokenising, a turn is worth its bookkeeping
_BATCH_CHARACTERS = 4 * TURN_TOKENS  # texts that are tokenised in one call: about a turn of English
_BATCH_DOCUMENTS = 1024  # or so many, should they be empty


class Part(NamedTuple):
    """Consecutive tokens of one document."""

    number: int
    name: str | None
    half: int
    start: int
    size: int  # tokens
    last: bool
    tokens: np.ndarray | None  # int32 [size], or
    layers: tuple[LayerActivations, ...] | None


@dataclass(frozen=True, slots=True)
class PartReader:
    """Reads the bodies of one run.

    Args:
        tokenizer: the model's; None for a run without a model.
        content: tokens of a document in one window; None for a run without a model.
        dictionaries: dictionary size of each layer, for pushed activations.
    """

    inbox: Inbox
    tokenizer: DocumentTokenizer | None
    content: int | None
    dictionaries: Sequence[int] | None

    def parts(self, upload: Manifest, next_number: int, next_start: int) -> Iterator[Part]:
        """Yield the parts of an upload from document `next_number`, offset `next_start` on.

        Raises:
            DamagedFile: the body is not the one that was acknowledged; no part was yielded then.
            BadInput, DoesNotFit: it can't be read, or not in this run.
            OSError: the disk's fault.
        """
        self.inbox.check_body(upload)
        path = self.inbox.body(upload.id)
        if upload.route == "activations":
            if self.dictionaries is None:
                raise DoesNotFit("this run has declared no dictionaries: it can't take activations")
            parts = _frame_parts(read_frames(path, self.dictionaries))
            following = (part for part in parts if (part.number, part.start) >= (next_number, next_start))
        else:
            if self.tokenizer is None or self.content is None:
                raise DoesNotFit("this run has no model: it can't take text or token ids")
            documents = read_documents(path, upload.media_type, next_number)
            parts = _token_parts(documents, self.tokenizer, self.content)
            following = _from_offset(parts, next_number, next_start)
        ended = next_number
        for part in following:
            ended = part.number + part.last
            yield part
        if ended != upload.documents:
            raise BadInput(f"the body of upload {upload.id} ends after {ended} of {upload.documents} documents")


def _from_offset(parts: Iterator[Part], number: int, offset: int) -> Iterator[Part]:
    """Drop what lies before `offset` of document `number`, which is a window's start."""
    for part in parts:
        if part.number == number and part.start < offset:
            end = part.start + part.size
            if end < offset or (end == offset and not part.last):
                continue
            assert part.tokens is not None
            part = part._replace(start=offset, size=end - offset, tokens=part.tokens[offset - part.start :])
        yield part


def _token_parts(documents: Iterator[Document], tokenizer: DocumentTokenizer, content: int) -> Iterator[Part]:
    """Short texts are tokenised many at a time, long ones piece by piece."""
    step = max(TURN_TOKENS // content, 1) * content
    waiting: list[Document] = []
    characters = 0
    for document in documents:
        if document.text is not None and len(document.text) <= PIECE:
            waiting.append(document)
            characters += len(document.text)
            if characters < _BATCH_CHARACTERS and len(waiting) < _BATCH_DOCUMENTS:
                continue
            yield from _short_parts(waiting, tokenizer, step)
        else:
            yield from _short_parts(waiting, tokenizer, step)
            pieces = iter([document.tokens]) if document.tokens is not None else tokenizer.encode_pieces(document.text or "")
            yield from _cut(document, pieces, step)
        waiting, characters = [], 0
    yield from _short_parts(waiting, tokenizer, step)


def _short_parts(documents: Sequence[Document], tokenizer: DocumentTokenizer, step: int) -> Iterator[Part]:
    for document, ids in zip(documents, tokenizer.encode_many([document.text or "" for document in documents]), strict=True):
        if len(ids) <= step:
            yield Part(document.number, document.name, document.half, 0, len(ids), True, ids, None)
        else:
            yield from _cut(document, iter([ids]), step)


def _cut(document: Document, pieces: Iterator[np.ndarray], step: int) -> Iterator[Part]:
    """Parts of `step` tokens (a multiple of the window), the last one shorter."""
    held, start = np.empty(0, np.int32), 0
    for piece in pieces:
        held = np.concatenate([held, piece])
        while len(held) > step:
            yield Part(document.number, document.name, document.half, start, step, False, held[:step], None)
            held, start = held[step:], start + step
    yield Part(document.number, document.name, document.half, start, len(held), True, held, None)


def _frame_parts(frames: Iterator[Frame]) -> Iterator[Part]:
    """Units of at most `UNIT_TOKENS` tokens, cut from each frame's start; frames of one name in a row are one document."""
    number, start = -1, 0
    before: Frame | None = None
    held: Part | None = None  # whether it is its document's last is known from what follows
    for frame in frames:
        ends = before is None or before.document != frame.document
        if held is not None:
            yield held._replace(last=ends)
        if ends:
            number, start = number + 1, 0
        before, held = frame, None
        for low in range(0, max(frame.tokens, 1), UNIT_TOKENS):
            if held is not None:
                yield held
            high = min(low + UNIT_TOKENS, frame.tokens)
            layers = tuple(_rows(layer, low, high) for layer in frame.layers)
            held = Part(number, frame.document, frame.half, start + low, high - low, False, None, layers)
        start += frame.tokens
    if held is not None:
        yield held._replace(last=True)


def _rows(layer: LayerActivations, low: int, high: int) -> LayerActivations:
    """The rows [low, high) of a CSR."""
    first, end = int(layer.offsets[low]), int(layer.offsets[high])
    return LayerActivations(layer.offsets[low : high + 1] - first, layer.features[first:end], layer.values[first:end])
