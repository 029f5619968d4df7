"""Tokens that many sequences begin with, computed once for all of them."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from cann_jax.models.layers import KeysValues

SHORTEST = 8  # tokens; computing fewer apart is not worth a program of its own


class Prefix(NamedTuple):
    """Keys and values of the tokens before all sequences of a batch.

    Args:
        keys_values: (layers, 1, P, kv_heads, head_dim), from ``Decoder.prefill``.
        length: (), how many of the P are tokens; the others are padding.
    """

    keys_values: KeysValues
    length: Array

    @property
    def valid(self) -> Array:
        """(P,), False on padding."""
        return jnp.arange(self.keys_values.keys.shape[2]) < self.length


def common_length(rows: Sequence[np.ndarray]) -> int:
    """Return how many tokens all rows of ids begin with, of which each row keeps at least one for itself."""
    shortest = min(map(len, rows)) - 1
    stacked = np.stack([row[:shortest] for row in rows])
    same = (stacked == stacked[0]).all(axis=0)
    return shortest if same.all() else int(same.argmin())
