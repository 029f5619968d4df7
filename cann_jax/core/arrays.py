"""Arrays as the core takes them, and sums and means that keep float32's digits."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

Array = jax.Array | np.ndarray  # functions of this package take either; what they compute is JAX's


def given(value: ArrayLike | Sequence[ArrayLike], dtype: DTypeLike) -> Array:
    """Return what a caller gave as an array, on the host unless it, or a part of it, is traced."""
    # outside a trace each of JAX's operations is a program of its own to compile
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))
    return jnp.asarray(value, dtype) if traced else np.asarray(value, dtype)


def is_concrete(tree: Any) -> bool:
    """Return whether all leaves are arrays with numbers in them, as inside a transformation none is."""
    leaves = jax.tree.leaves(tree)
    return all(
        isinstance(leaf, Array | np.generic) and not isinstance(leaf, jax.core.Tracer) for leaf in leaves
    )


def slice_along(values: Array, first: int | Array, size: int, axis: int) -> Array:
    """Return ``values[first : first + size]`` along an axis; a view of host arrays."""
    if isinstance(values, np.ndarray) and not isinstance(first, jax.Array):
        return values[(slice(None),) * (axis % values.ndim) + (slice(first, first + size),)]
    return jax.lax.dynamic_slice_in_dim(values, first, size, axis)


def accurate_sum(values: Array, block: int = 128) -> Array:
    """Return the sum over the last axis, in two levels: float32 error grows with the root of its length."""
    length = values.shape[-1]
    if length <= block:
        return jnp.sum(values, axis=-1)
    padded = jnp.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, -length % block)])
    return jnp.sum(jnp.sum(padded.reshape(*values.shape[:-1], -1, block), axis=-1), axis=-1)


def response_mean(values: Array, mask: Array | None) -> Array:
    """Return the mean ``(..., prompts)`` over the responses that exist of ``(..., prompts, responses)``."""
    if mask is None:
        return jnp.mean(values, axis=-1)
    count = jnp.maximum(jnp.sum(mask, axis=-1), 1)
    return jnp.sum(jnp.where(mask, values, 0), axis=-1) / count
