"""Rows of ids as padded arrays. Masks come from lengths; the value of the padding is never read."""

from collections.abc import Sequence

import numpy as np

BUCKET = 32  # widths of prompt batches are multiples of this, so that few shapes are compiled


def pad(rows: Sequence[Sequence[int] | np.ndarray], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of ids as (n, width) int32, padded on the right, and their lengths (n,)."""
    out = np.zeros((len(rows), width), np.int32)
    for index, row in enumerate(rows):
        out[index, : len(row)] = row
    return out, np.array([len(row) for row in rows], np.int32)


def bucketed(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Pad rows to the ``bucket_width`` of the longest."""
    return pad(rows, bucket_width(max(map(len, rows))))


def bucket_width(longest: int) -> int:
    """Return the next multiple of ``BUCKET``."""
    return BUCKET * -(-longest // BUCKET)


def step_width(longest: int) -> int:
    """Return the next of 1, 2, 3, 4, 6, 8, 12, 16, … times ``BUCKET``: few shapes for all lengths."""
    width = BUCKET
    while width < longest:
        power = 1 << (width // BUCKET).bit_length() - 1
        width += BUCKET * max(1, power // 2)
    return width
