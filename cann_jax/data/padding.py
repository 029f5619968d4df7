"""Rows of ids as padded arrays. Masks come from lengths; the value of the padding is never read."""

from collections.abc import Sequence

import numpy as np

BUCKET = 32  # widths of prompt batches are multiples of this, so that few shapes are compiled
GRAIN = 8  # widths of rows that were fitted to their lengths are multiples of this


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


def best_widths(needs: np.ndarray, count: int) -> np.ndarray:
    """Return at most ``count`` widths, ascending, that hold all ``needs`` with the least padding in sum.

    They are multiples of ``GRAIN``, found by dynamic programming over the distinct needs.
    """
    sizes, copies = np.unique(-(-needs // GRAIN) * GRAIN, return_counts=True)
    before = np.concatenate([[0], np.cumsum(copies)])
    least, chosen = np.where(np.arange(len(sizes) + 1), np.inf, 0.0), []
    for _ in range(min(count, len(sizes))):
        # [i, j]: the sizes from i up to j have the width of the last of them.
        cost = least[:-1, None] + sizes * (before[1:] - before[:-1, None])
        cost = np.where(np.tri(len(sizes), dtype=bool).T, cost, np.inf)
        chosen.append(cost.argmin(0))
        least = np.concatenate([[0.0], cost.min(0)])
    widths, end = [], len(sizes)
    for first in reversed(chosen):
        if end:
            widths.append(sizes[end - 1])
            end = first[end - 1]
    return np.array(widths[::-1])
