"""Weighted sums of adapters, exact as one adapter."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from cann_jax.models.adapters.scale import B
from cann_jax.runtime.sharding import path_name


def soup(adapters: Sequence[Any], shares: Sequence[float]) -> Any:
    """Return one tree of adapters' weights whose update is the sum of theirs, weighted by the shares.

    The ranks add up, because Σ w·B A is exactly one product of factors that lie side by side; the sum of
    the factors themselves would multiply one adapter's B with another's A.
    """
    found: Any = _sum(tuple(adapters), jnp.asarray(shares, jnp.float32))
    return found


@jax.jit
def _sum(adapters: tuple[Any, ...], shares: Array) -> Any:
    def beside(path: tuple[Any, ...], *leaves: Array) -> Array:
        if not path_name(path).endswith(B):
            return jnp.concatenate(leaves, axis=-1)
        scaled = [(leaf * share).astype(leaf.dtype) for leaf, share in zip(leaves, shares, strict=True)]
        return jnp.concatenate(scaled, axis=-2)

    return jax.tree_util.tree_map_with_path(beside, *adapters)


def portion(weights: Any, rank: int) -> Any:
    """Return a tree of adapters' weights, cut to the first ``rank`` of the ranks that lie side by side."""

    def cut(path: tuple[Any, ...], leaf: Array) -> Array:
        return leaf[..., :rank, :] if path_name(path).endswith(B) else leaf[..., :rank]

    return jax.tree_util.tree_map_with_path(cut, weights)
