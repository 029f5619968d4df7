"""Rotary tables and masks of the layers, computed once for each kind of layer and picked in the scan."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cann_jax.models.config import DecoderConfig
from cann_jax.models.families.family import LayerKind
from cann_jax.models.rope import Tables


@dataclass(frozen=True)
class SequenceMask:
    """The tokens that each token of a sequence sees: known before any data is, except for the padding.

    The splash kernel's tables of blocks are then made once, while tracing. For a mask that is data they are
    made again in every layer and hold every block, and the kernel takes one sequence after the other.

    Args:
        pattern: (S, P + S), True where the row may see the column; a row sees itself. P tokens stand before
            the rows' own: 0 but behind a prefix.
        valid: (B, P + S), False on padding; every row of ``pattern`` has a valid column.
    """

    pattern: np.ndarray
    valid: Array

    @property
    def dense(self) -> Array:
        """The mask (B, S, P + S), True where the row sees the column."""
        return jnp.asarray(self.pattern)[None] & self.valid[:, None, :]

    def lengths(self, positions: Array) -> Array:
        """Return the lengths (B, 1) of the sequences, whose columns are at ``positions (B, P + S)``."""
        return 1 + jnp.max(jnp.where(self.valid, positions, 0), axis=1, keepdims=True)

    def behind(self, prefix: Array) -> "SequenceMask":
        """Return the mask of the same rows behind a prefix, which is ``prefix`` (P,), False on padding."""
        pattern = np.pad(self.pattern, ((0, 0), (len(prefix), 0)), constant_values=True)
        seen = jnp.broadcast_to(prefix, (len(self.valid), len(prefix)))
        return SequenceMask(pattern, jnp.concatenate([seen, self.valid], axis=1))


class DenseMask(NamedTuple):
    """The tokens that each token of a row of several sequences sees, where that is data.

    Args:
        dense: (B, S, S), True where the row sees the column; a row sees itself.
        sizes: (B, S) length of the sequence that each token is of.
    """

    dense: Array
    sizes: Array

    def lengths(self, _: Array) -> Array:
        """Return the length (B, S) of each token's sequence."""
        return self.sizes


def causal_mask(valid: Array) -> SequenceMask:
    """Return the mask under which a row sees the valid columns up to itself; ``valid`` is (B, S)."""
    return SequenceMask(np.tri(valid.shape[1], dtype=bool), valid)


class AttentionInputs(NamedTuple):
    """What a layer's attention reads beside the residual stream.

    Args:
        tables: Cosines and sines, (B, S, size) each; S is 1 for a decoding step.
        mask: For whole sequences (B, S, P + S), True where the row sees the column, or a ``SequenceMask``.
            For a decoding step the pair of (B, P), where the token sees the prompt, and (B, T), where it
            sees its own response.
    """

    tables: Tables
    mask: Any


class InputsByKind:
    """Attention inputs of each distinct kind of a model's layers.

    Several kinds are stacked, so that a scan over the layers can pick by index; where there is one kind, as
    in Llama, all layers share its arrays and nothing is copied.
    """

    def __init__(self, config: DecoderConfig, inputs_of: Callable[[LayerKind], AttentionInputs]) -> None:
        kinds = list(dict.fromkeys(config.kinds))
        inputs = [inputs_of(kind) for kind in kinds]
        self.one = inputs[0] if len(kinds) == 1 else None
        self.stacked = None if self.one else jax.tree.map(lambda *each: jnp.stack(each), *inputs)
        self.indices = jnp.array([kinds.index(kind) for kind in config.kinds])

    def at(self, index: Array) -> AttentionInputs:
        """Return the inputs of a layer by its entry of ``indices``."""
        return self.one or AttentionInputs(*jax.tree.map(lambda each: each[index], self.stacked))


def sequence_inputs(
    config: DecoderConfig, positions: Array, mask: SequenceMask | DenseMask, keep_pattern: bool
) -> InputsByKind:
    """Return the inputs for whole sequences at ``positions (B, S)``; ``mask`` is without windows.

    With ``keep_pattern`` it stays a ``SequenceMask`` where all layers are alike and have no window.
    """
    batch, size = positions.shape
    prefix = mask.pattern.shape[1] - size if isinstance(mask, SequenceMask) else 0
    before = jnp.broadcast_to(jnp.arange(prefix), (batch, prefix))
    columns = jnp.concatenate([before, positions], axis=1)
    lengths = mask.lengths(columns)
    distance = positions[:, :, None] - columns[:, None, :]
    alike = len(set(config.kinds)) == 1

    def inputs_of(kind: LayerKind) -> AttentionInputs:
        tables = _tables(config, kind, positions, lengths)
        if kind.window is None:
            kept = keep_pattern and alike and isinstance(mask, SequenceMask)
            return AttentionInputs(tables, mask if kept else mask.dense)
        return AttentionInputs(tables, mask.dense & (distance < kind.window))

    return InputsByKind(config, inputs_of)


def step_inputs(
    config: DecoderConfig, positions: Array, prompt_mask: Array, past: Array, column: Array, size: int
) -> InputsByKind:
    """Return the inputs for tokens at ``positions (B,)`` that go to this column of a ring of ``size``.

    Each is behind ``past (B,)`` tokens of its own response.
    """
    prompt_positions = jnp.cumsum(prompt_mask, axis=1) - 1
    distance = positions[:, None] - prompt_positions
    own_distance = (column - jnp.arange(size)) % size
    own_mask = own_distance <= past[:, None]

    def inputs_of(kind: LayerKind) -> AttentionInputs:
        tables = _tables(config, kind, positions[:, None], positions[:, None] + 1)
        if kind.window is None:
            return AttentionInputs(tables, (prompt_mask, own_mask))
        near = own_mask & (own_distance < kind.window)
        return AttentionInputs(tables, (prompt_mask & (distance < kind.window), near))

    return InputsByKind(config, inputs_of)


def _tables(config: DecoderConfig, kind: LayerKind, positions: Array, lengths: Array) -> Tables:
    if kind.rope is not None:
        return kind.rope.tables(positions, lengths)
    shape = (*positions.shape, config.head_dim)
    return jnp.ones(shape), jnp.zeros(shape)
