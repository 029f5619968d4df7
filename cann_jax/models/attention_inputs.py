"""What one kind of layer sees: rotary tables and masks, worked out once a kind and picked in the scan."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cann_jax.models.config import DecoderConfig
from cann_jax.models.families.family import LayerKind
from cann_jax.models.splash import Sight

Tables = tuple[jax.Array, jax.Array]


class View(NamedTuple):
    """Of whole sequences.

    Args:
        tables: Cosines and sines, (B, S, size) each.
        mask: (B, S, S), True where the row may see the column; or the ``Sight`` that says so.
    """

    tables: Tables
    mask: jax.Array | Sight


class StepView(NamedTuple):
    """Of one more token of each of K responses.

    Args:
        tables: Cosines and sines, (B, 1, size) each.
        prompt: (B, P), True where the token sees one of the prompt.
        own: (T,), the same of the response's own tokens.
    """

    tables: Tables
    prompt: jax.Array
    own: jax.Array


class Views:
    """One view for each distinct kind of a model's layers.

    Where there are several, they are stacked, so that a scan over the layers can pick by index; where there
    is one, as in Llama, it is the same array for all layers and nothing is copied.
    """

    def __init__(self, config: DecoderConfig, view):
        kinds = list(dict.fromkeys(config.kinds))
        views = [view(kind) for kind in kinds]
        self.single = views[0] if len(views) == 1 else None
        self.stacked = jax.tree.map(lambda *each: jnp.stack(each), *views) if len(views) > 1 else None
        self.indices = jnp.array([kinds.index(kind) for kind in config.kinds])

    def at(self, index):
        """The view of a layer whose entry of ``indices`` is ``index``."""
        if self.single is not None:
            return self.single
        return jax.tree.map(lambda each: each[index], self.stacked)


def sequence_views(config: DecoderConfig, positions, sight: Sight, by_order: bool) -> Views:
    """Views of whole sequences.

    Args:
        config: The model.
        positions: (B, S).
        sight: Of all layers, windows left out.
        by_order: Leave it a ``Sight`` where all layers are alike and have no window.
    """
    lengths = 1 + jnp.max(jnp.where(sight.valid, positions, 0), axis=1)
    back = positions[:, :, None] - positions[:, None, :]
    alike = len(set(config.kinds)) == 1

    def view(kind: LayerKind) -> View:
        tables = _tables(config, kind, positions, lengths)
        if kind.window is None:
            return View(tables, sight if by_order and alike else sight.mask)
        return View(tables, sight.mask & (back < kind.window))

    return Views(config, view)


def step_views(config: DecoderConfig, positions, prompt_mask, step, size: int) -> Views:
    """Views of the token at ``positions (B,)``, which is number ``step`` of ``size`` of its response."""
    prompt_positions = jnp.cumsum(prompt_mask, axis=1) - 1
    back = positions[:, None] - prompt_positions
    own_back = step - jnp.arange(size)

    def view(kind: LayerKind) -> StepView:
        tables = _tables(config, kind, positions[:, None], positions + 1)
        if kind.window is None:
            return StepView(tables, prompt_mask, own_back >= 0)
        near = (own_back >= 0) & (own_back < kind.window)
        return StepView(tables, prompt_mask & (back < kind.window), near)

    return Views(config, view)


def _tables(config: DecoderConfig, kind: LayerKind, positions, lengths) -> Tables:
    if kind.rope is not None:
        return kind.rope.tables(positions, lengths)
    shape = (*positions.shape, config.head_dim)
    return jnp.ones(shape), jnp.zeros(shape)
