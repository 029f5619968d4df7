"""Masks of whole sequences, kept as the static pattern and the padding of which they consist."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array


@dataclass(frozen=True)
class SequenceMask:
    """The tokens that each token sees: known before any data is, except for the padding.

    The splash kernel's tables of blocks are then made once, while tracing. For a mask that is data they are
    made again in every layer and hold every block, and the kernel takes one sequence after the other.

    Args:
        pattern: (S, S), True where the row may see the column; a row sees itself.
        valid: (B, S), False on padding; every row of ``pattern`` has a valid column.
    """

    pattern: np.ndarray
    valid: Array

    @property
    def dense(self) -> Array:
        """The mask (B, S, S), True where the row sees the column."""
        return jnp.asarray(self.pattern)[None] & self.valid[:, None, :]


def causal_mask(valid: Array) -> SequenceMask:
    """Return the mask under which a row sees the valid columns up to itself; ``valid`` is (B, S)."""
    return SequenceMask(np.tri(valid.shape[1], dtype=bool), valid)
