"""Search: features whose contexts contain a text."""

from __future__ import annotations

import msgspec

from engine.errors import BadValue
from engine.views.answers import SnapshotAnswer

SHORTEST, LONGEST = 2, 100


class SearchRequest(msgspec.Struct, frozen=True, kw_only=True, tag="search"):
    """The text to look for, in whatever case."""

    q: str


class SearchItemAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A feature that was found.

    Attributes:
        contexts: of its contexts, how many contain the text; at_peak: in how many of them it is at the strongest token itself.
        activation: the strongest one of these contexts.
        density: share of tokens at which the feature is active.
    """

    feature: str
    layer: int
    index: int
    contexts: int
    at_peak: int
    activation: float
    density: float | None


class SearchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Features of which a context contains `q`, whatever the case; those first that fire on it most often, then those with most
    contexts, then by activation.

    A context is the text around one of a feature's strongest activations, as `/v1/features/{layer}/{index}/contexts` shows it: at
    most 64 tokens to each side.

    Attributes:
        searched: contexts that were looked through; per_feature: of each feature so many, at most.
        total: features found; items: a page of the first 10,000 of them.
    """

    q: str
    searched: int
    per_feature: int
    total: int
    items: list[SearchItemAnswer]
    next: str | None
    snapshot: SnapshotAnswer


def check_search(q: str) -> None:
    """Refuse what can't be looked for.

    Raises:
        BadValue: a text of another length, or of blanks alone.
    """
    if not SHORTEST <= len(q) <= LONGEST:
        raise BadValue(f"q has {len(q):,} characters: it must have {SHORTEST} to {LONGEST}")
    if not q.strip():
        raise BadValue(f"q = {q!r}: it must have more than blanks")
