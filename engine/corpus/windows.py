"""Documents are cut into windows: what goes through the model as one row.

A document's window w holds its tokens [w · content, (w + 1) · content), where content = context size, less one if a BOS is put in
front. A document never shares a window with another, and where a window begins depends on nothing but the document: the same text
gives the same windows however it was uploaded, and wherever segments end.
"""

from __future__ import annotations

import numpy as np

SHORTEST_BUCKET = 16  # below 16 rows a GEMM takes another path and its last bits differ (8e-6, measured)


def content_size(context_size: int, prepend_bos: bool) -> int:
    """Tokens of a document in one window."""
    return context_size - 1 if prepend_bos else context_size


def cut_windows(piece_tokens: np.ndarray, content: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut pieces, each of which begins at a window's start, into windows of at most `content` tokens.

    Args:
        piece_tokens: int [P], tokens of each piece; they lie one after the other.
        content: > 0, see `content_size`.

    Returns:
        window_offsets: int32 [W + 1], from 0 to the sum of `piece_tokens`; an empty piece has no window.
        window_pieces: int32 [W], the piece of each window.
    """
    lengths = np.asarray(piece_tokens, dtype=np.int64)
    windows = -(-lengths // content)
    pieces = np.repeat(np.arange(len(lengths)), windows)
    within = np.arange(len(pieces)) - np.repeat(np.cumsum(windows) - windows, windows)
    starts = np.repeat(np.cumsum(lengths) - lengths, windows) + within * content
    return np.append(starts, lengths.sum()).astype(np.int32), pieces.astype(np.int32)


def length_bucket(lengths: np.ndarray) -> np.ndarray:
    """int64: 16, 32, 64, 128 …, the smallest that holds `lengths` tokens and a BOS.

    One document per window leaves 40–79 % of the positions used when every row is padded to the context size, 82–95 % in buckets.
    """
    rows = np.maximum(np.asarray(lengths, dtype=np.int64) + 1, SHORTEST_BUCKET)
    return 1 << np.ceil(np.log2(rows)).astype(np.int64)
