"""The scale of trained adapters: how far along a training step the policy goes."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from cann_jax.models.decoder import Decoder
from cann_jax.models.linear import LoraParam
from cann_jax.runtime.sharding import path_name

B = "lora/b"  # how the path of an adapter's second factor ends


def scaled(weights: Any, scale: float | Array) -> Any:
    """Return a tree of adapters' weights whose update is ``scale`` times as large; only B changes.

    Raises:
        ValueError: There is no adapter among the weights.
    """
    _second_factors(weights)

    def times(path: tuple[Any, ...], leaf: Array) -> Array:
        return (leaf * scale).astype(leaf.dtype) if path_name(path).endswith(B) else leaf

    return jax.tree_util.tree_map_with_path(times, weights)


def scaled_decoder(decoder: Decoder, scale: float | Array) -> Decoder:
    """Return the decoder with the update of its adapters ``scale`` times as large.

    Raises:
        ValueError: The decoder has no adapter.
    """
    graph, adapters, *rest = nnx.split(decoder, LoraParam, ...)
    merged: Decoder = nnx.merge(graph, scaled(adapters, scale), *rest)
    return merged


def is_zero(weights: Any) -> bool:
    """Return whether a tree of adapters' weights has no update at all: every B is zero, as at the start.

    Raises:
        ValueError: There is no adapter among the weights.
    """
    return not any(bool(jnp.any(b)) for b in _second_factors(weights))


def _second_factors(weights: Any) -> list[Array]:
    leaves = jax.tree_util.tree_leaves_with_path(weights)
    found = [leaf for path, leaf in leaves if path_name(path).endswith(B)]
    if not found:
        raise ValueError("no adapter among the weights; only adapters have a scale")
    return found
