"""bfloat16 arrays as raw 16-bit words, for slicing on a CPU.

XLA's CPU backend multiplies bfloat16 matrices natively but widens every other bfloat16 operation: a slice of
stacked weights, or one token written into a key-value cache, first converts the whole array to float32 (1,024
responses of SmolLM2 took 3.9 s a token that way). Words of the same size are sliced and written as they are.
Gradients do not pass through words; trained weights are float32 and stay so.
"""

import jax
import jax.numpy as jnp


def pack(tree):
    """bfloat16 leaves as uint16 words on a CPU; everything else, and every other platform, unchanged."""
    if jax.default_backend() != "cpu":
        return tree
    return jax.tree.map(lambda x: _cast(x, jnp.bfloat16, jnp.uint16), tree)


def unpack(tree):
    """uint16 words back as bfloat16."""
    return jax.tree.map(lambda x: _cast(x, jnp.uint16, jnp.bfloat16), tree)


def _cast(x, old, new):
    return jax.lax.bitcast_convert_type(x, new) if x.dtype == old else x
