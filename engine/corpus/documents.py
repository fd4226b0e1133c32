"""The content types of `POST /v1/corpora`, each with its check and its reader, in one table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.corpus import activations, jsonl, parquet, plain_text
from engine.corpus.body import BodyCheck, Document
from engine.corpus.inbox import Route
from engine.errors import BadInput, UnsupportedMedia

__all__ = ["TEXT_MEDIA_TYPES", "BodyCheck", "Document", "body_check", "media_type_of", "read_documents"]

TEXT_MEDIA_TYPES = (plain_text.MEDIA_TYPE, jsonl.MEDIA_TYPE, parquet.MEDIA_TYPE)
_OF_ROUTE: dict[Route, tuple[str, ...]] = {"corpora": TEXT_MEDIA_TYPES, "activations": (activations.MEDIA_TYPE,)}


def media_type_of(content_type: str, route: Route) -> str:
    """The plain media type of a Content-Type header.

    Raises:
        UnsupportedMedia: one that the route does not read, or a charset other than UTF-8.
    """
    media_type, *parameters = (part.strip().lower() for part in content_type.split(";"))
    if media_type not in _OF_ROUTE[route]:
        raise UnsupportedMedia(
            f"content type {content_type or 'missing'}: /v1/{route} reads {', '.join(_OF_ROUTE[route])} and nothing else"
        )
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in ("utf-8", "utf8", "us-ascii"):
            raise UnsupportedMedia(f"content type {content_type}: text must be UTF-8")
    return media_type


def body_check(
    route: Route,
    content_type: str,
    *,
    max_document_bytes: int,
    max_bytes: int = 1 << 62,
    vocab_size: int | None = None,
    dictionaries: Sequence[int] | None = None,
) -> BodyCheck:
    """The check for a body that is about to arrive; `check.media_type` is what goes into the manifest.

    Args:
        max_document_bytes: the limit for one document (activations: for one frame).
        max_bytes: the limit for all that a body unpacks to, where it is packed.
        vocab_size: of the run's model; None for a run without a model, which takes no text and no tokens.
        dictionaries: dictionary size of each layer, in order; None if they are not known.

    Raises:
        UnsupportedMedia: a content type that the route does not read.
        BadInput: text for a run without a model, activations where no dictionaries are known.
    """
    media_type = media_type_of(content_type, route)
    if media_type == activations.MEDIA_TYPE:
        if dictionaries is None:
            raise BadInput("this run has declared no dictionaries: it can't take activations")
        return activations.ActivationsCheck(dictionaries, max_document_bytes)
    if vocab_size is None:
        raise BadInput("this run has no model, so it can't take text or token ids; it takes activations at /v1/activations")
    if media_type == plain_text.MEDIA_TYPE:
        return plain_text.PlainTextCheck(max_document_bytes)
    if media_type == jsonl.MEDIA_TYPE:
        return jsonl.JsonLinesCheck(max_document_bytes, vocab_size)
    return parquet.ParquetCheck(max_document_bytes, vocab_size, max_bytes)


def read_documents(path: Path, media_type: str, start: int = 0) -> Iterator[Document]:
    """Yield the documents of a checked body from number `start` on; memory is bounded by the largest document.

    Raises:
        BadInput: content that the check would have refused.
        UnsupportedMedia: a media type that is not one of `TEXT_MEDIA_TYPES`.
        OSError: the body can't be read.
    """
    if media_type == plain_text.MEDIA_TYPE:
        return read_plain_text_from(path, start)
    if media_type == jsonl.MEDIA_TYPE:
        return jsonl.read_json_lines(path, start)
    if media_type == parquet.MEDIA_TYPE:
        return parquet.read_parquet(path, start)
    raise UnsupportedMedia(f"media type {media_type} holds no documents: those do: {', '.join(TEXT_MEDIA_TYPES)}")


def read_plain_text_from(path: Path, start: int) -> Iterator[Document]:
    """The one document, unless it lies before `start`."""
    return plain_text.read_plain_text(path) if start == 0 else iter(())
