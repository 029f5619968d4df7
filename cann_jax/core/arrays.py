"""Arrays as the core takes them, and sums and means that keep float32's digits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from cann_jax.files.errors import InputError, shown

Array = jax.Array | np.ndarray  # functions of this package take either; what they compute is JAX's
NO_NUMBERS = "cSUMm"  # kinds of NumPy's types: complex, texts, times


def is_traced(*values: Any) -> bool:
    """Return whether a part of the values is traced, as inside ``jit``, ``vmap`` and ``grad``."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))


def is_here(tree: Any) -> bool:
    """Return whether nothing of a tree is traced, or held by other processes."""
    leaves = jax.tree.leaves(tree)
    return not is_traced(tree) and all(getattr(leaf, "is_fully_addressable", True) for leaf in leaves)


def numbers(name: str, value: Any, dtype: DTypeLike | None = None) -> Array:
    """Return what a caller gave as an array, on the host unless it, or a part of it, is traced.

    Without ``dtype``, its own type stays.

    Raises:
        InputError: It holds no real numbers; ``name`` is what the caller knows it by.
    """
    # outside a trace each of JAX's operations is a program of its own to compile
    if is_traced(value):
        return jnp.asarray(value, dtype)
    try:
        found = np.asanyarray(value)
        found = found.astype(float) if found.dtype == object else found
    except (TypeError, ValueError):
        raise InputError(f"{name}: {shown(value)}; give an array or a list of real numbers") from None
    check_real(name, found)
    with np.errstate(over="ignore"):  # what the type cannot hold becomes infinite
        return np.asarray(found, dtype)


def check_real(name: str, values: Array) -> None:
    """Check that an array is of real numbers, and none of them masked.

    Raises:
        InputError: It is not.
    """
    if isinstance(values, np.ma.MaskedArray):
        raise InputError(f"{name}: a masked array; give its data, and say by Scores' mask what is missing")
    if values.dtype.kind in NO_NUMBERS:
        raise InputError(f"{name}: an array of {values.dtype}; give one of real numbers")


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
