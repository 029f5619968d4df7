"""bfloat16 arrays as raw 16-bit words, for slicing on a CPU.

XLA's CPU backend multiplies bfloat16 matrices natively but widens every other bfloat16 operation: a slice of
stacked weights, or one token written into a key-value cache, first converts the whole array to float32 (1,024
responses of SmolLM2 took 3.9 s a token that way). Words of the same size are sliced and written as they are.
Gradients do not pass through words; trained weights are float32 and stay so.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from cann_jax.runtime.mesh import platform
from cann_jax.runtime.sharding import constrain


def to_words(tree: Any) -> Any:
    """Return the tree with bfloat16 leaves as uint16 words on a CPU, and unchanged on other platforms."""
    if platform() != "cpu":
        return tree
    return jax.tree.map(lambda x: _bitcast(x, jnp.bfloat16, jnp.uint16), tree)


def from_words(tree: Any) -> Any:
    """Return the tree with uint16 words as bfloat16 again."""
    return jax.tree.map(lambda x: _bitcast(x, jnp.uint16, jnp.bfloat16), tree)


def lookup(table: Array, ids: Array) -> Array:
    """Return table (rows, hidden)[ids (batch, …)], in the table's dtype.

    On a mesh each device looks up its part of the hidden axis for the ids of all that share the axis, and the
    results are exchanged: gathered whole instead, the 70B model's table would take 2.1 GB of each device.
    """
    inner = ("any",) * (ids.ndim - 1)
    found = from_words(to_words(table)[constrain(ids, "replicas", *inner)])
    return constrain(constrain(found, "replicas", *inner, "hidden"), "batch", *inner, "any")


def _bitcast(x: Any, old: Any, new: Any) -> Any:
    if x.dtype != old:
        return x
    if isinstance(x, jax.ShapeDtypeStruct):
        return x.update(dtype=new)
    return jax.lax.bitcast_convert_type(x, new)
