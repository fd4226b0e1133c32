"""Running lists of the strongest activations: per feature the k largest, at most one per document.

    entries (feature, value) token by token ──▶ compare with the weakest that the feature keeps ──▶ insert, or take the place of
    the same document's entry

After some batches nearly every entry fails the compare, so a batch costs a look at each value and little else. Of a document only
its best entry is kept, and nothing is lost by that: an entry among the k best of all documents is its document's best and is beaten
by fewer than k others, in every part of the corpus as in the whole. So lists of parts merge to the list of the whole, whatever the
parts and their order. Order of entries: the larger value first; of equal values the smaller position.

Lists are on the host: what reaches them from a GPU is the few entries that passed the compare there (`engine.counts.strongest`).
"""

from __future__ import annotations

import numpy as np

from kernels.cpu.compiled import compiled
from kernels.host_checks import check_entries, check_lists


class StrongestLists:
    """Per feature the k strongest activations, strongest first, each of another document.

    Attributes:
        values: float32 `[D, k]`, 0 where there are fewer.
        positions: int64 `[D, k]` in the log, −1 where there are fewer.
        documents: int64 `[D, k]`, keys of their documents, 0 where there are fewer (a key may be 0 as well: see positions).
        bar: float32 `[D]`, the last of each feature's values: what is below can't enter its list. Beside the lists, because it is
            read for every entry: 98 kB at D = 24,576, where the lists' own column lies in 786 kB and costs four times as much.
    """

    def __init__(self, values: np.ndarray, positions: np.ndarray, documents: np.ndarray) -> None:
        """Lists as they were; ValueError for arrays that don't belong together."""
        check_lists(values, positions, documents)
        self.values, self.positions, self.documents = values, positions, documents
        self.bar = values[:, -1].copy()

    @classmethod
    def empty(cls, features: int, k: int) -> StrongestLists:
        """Lists of k without an entry."""
        if k < 1:
            raise ValueError(f"k is {k}, it must be at least 1")
        size = (features, k)
        return cls(np.zeros(size, np.float32), np.full(size, -1, np.int64), np.zeros(size, np.int64))

    def offer(
        self, offsets: np.ndarray, features: np.ndarray, values: np.ndarray, positions: np.ndarray, documents: np.ndarray
    ) -> None:
        """Offer the activations of T tokens; the lists change in place.

        Args:
            offsets: int32 `[T + 1]`; features: int32 `[nnz]`; values: float32 `[nnz]`, > 0: a `Csr` on the host.
            positions: int64 `[T]`, >= 0, of each token.
            documents: int64 `[T]`, the key of each token's document.

        Raises:
            ValueError: an array of another type or length, or a feature that there is not.
        """
        check_entries(offsets, features, values, positions, documents)
        wrong = _offer(offsets, features, values, positions, documents, *self._arrays())
        if wrong >= 0:
            raise ValueError(f"features holds {features[wrong]}, every one must be in [0, {len(self.bar)})")

    def merge(self, other: StrongestLists) -> None:
        """Offer every entry of other lists; they stay as they are.

        Raises:
            ValueError: lists for another number of features.
        """
        if len(other.bar) != len(self.bar):
            raise ValueError(f"lists of {len(other.bar)} features can't be merged into lists of {len(self.bar)}")
        _merge(other.values, other.positions, other.documents, *self._arrays())

    def _arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return self.values, self.positions, self.documents, self.bar


_compile = compiled()


@_compile
def _beats(value, position, other_value, other_position):
    return value > other_value or (value == other_value and position < other_position)


@_compile
def _insert(value, position, document, values, positions, documents):
    slot = len(values) - 1
    if not _beats(value, position, values[slot], positions[slot]):
        return
    for at in range(len(values)):
        if documents[at] == document and positions[at] >= 0:
            if not _beats(value, position, values[at], positions[at]):
                return
            slot = at
            break
    while slot > 0 and _beats(value, position, values[slot - 1], positions[slot - 1]):
        values[slot] = values[slot - 1]
        positions[slot] = positions[slot - 1]
        documents[slot] = documents[slot - 1]
        slot -= 1
    values[slot] = value
    positions[slot] = position
    documents[slot] = document


@_compile
def _offer(offsets, features, values, positions, documents, kept_values, kept_positions, kept_documents, bar):
    """The index of the first entry with a feature that there is not, −1 when there is none."""
    size = np.uint64(len(bar))
    last = kept_values.shape[1] - 1
    for token in range(len(positions)):
        for at in range(offsets[token], offsets[token + 1]):
            feature = np.uint64(np.uint32(features[at]))  # without a sign: one compare finds both ends, and indexing needs no wrap
            if feature >= size:
                return at
            if values[at] >= bar[feature]:
                kept = kept_values[feature]
                _insert(values[at], positions[token], documents[token], kept, kept_positions[feature], kept_documents[feature])
                bar[feature] = kept[last]
    return -1


@_compile
def _merge(values, positions, documents, kept_values, kept_positions, kept_documents, bar):
    last = kept_values.shape[1] - 1
    for feature in range(len(values)):
        kept = kept_values[feature]
        for at in range(values.shape[1]):
            if positions[feature, at] >= 0:
                _insert(
                    values[feature, at],
                    positions[feature, at],
                    documents[feature, at],
                    kept,
                    kept_positions[feature],
                    kept_documents[feature],
                )
        bar[feature] = kept[last]
