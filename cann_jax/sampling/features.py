"""Features of sampled responses: the residual stream at a few depths, averaged over each response's tokens.

They are gathered while the responses are generated, by the same pass that computes their log-probs.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from cann_jax.files.errors import InputError
from cann_jax.runtime.sharding import constrain

DEPTHS = 5  # layers by default

Sums = jax.Array | None  # (layers, B, K, hidden); None where there are no layers


def chosen_layers(asked: Sequence[int] | None, depth: int) -> tuple[int, ...]:
    """Return the layers of ``sample.feature_layers`` in a model of ``depth`` layers, n for after n of them.

    Raises:
        InputError: The model has no such layer.
    """
    if asked is None:
        return tuple(sorted({round(depth * n / DEPTHS) for n in range(1, DEPTHS + 1)} - {0}))
    for layer in asked:
        if layer > depth:
            raise InputError(
                f"sample.feature_layers: {layer} is no layer of the model, which has {depth}; "
                f"use numbers from 1 to {depth}, or null for {DEPTHS} at even depths"
            )
    return tuple(asked)


def empty_sums(layers: Sequence[int], shape: tuple[int, int], hidden: int) -> Sums:
    """Return zeros to add tokens to."""
    if not layers:
        return None
    return constrain(jnp.zeros((len(layers), *shape, hidden)), "any", "batch", "any", "any")


def adding(layers: Sequence[int], inside: jax.Array) -> Callable[[Sums, jax.Array, jax.Array], Sums]:
    """Return a function that adds a token's residual stream after a chosen layer, over its RMS, to the sums.

    It takes the sums, the stream (B, K, hidden) and the layer's index, and returns the sums as they are after
    any other layer. ``inside`` (B, K) is False where a token lies behind its response's end.
    """

    def add(sums: Sums, stream: jax.Array, index: jax.Array) -> Sums:
        if sums is None:
            return None
        here = jnp.array(layers) == index + 1
        place = jnp.argmax(here)
        added = jnp.where(inside[..., None] & jnp.any(here), stream / rms(stream), 0)
        one = jax.lax.dynamic_index_in_dim(sums, place, keepdims=False) + added
        summed: jax.Array = jax.lax.dynamic_update_index_in_dim(sums, one, place, 0)
        return summed

    return add


def rms(x: jax.Array) -> jax.Array:
    """Return the root mean square (…, 1) of x (…, n), which no zeros can make zero."""
    return jnp.sqrt(jnp.maximum(jnp.mean(x * x, axis=-1, keepdims=True), jnp.finfo(x.dtype).tiny))


def mean(sums: jax.Array, lengths: jax.Array) -> jax.Array:
    """Return the features (B, K, layers · hidden) of responses of ``lengths`` (B, K), layers in order."""
    return jnp.moveaxis(sums / lengths[..., None], 0, 2).reshape(*lengths.shape, -1)
