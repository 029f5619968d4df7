"""Averages of adapters."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from cann_jax.models.adapters.scale import B
from cann_jax.runtime.sharding import path_name


def soup(adapters: Sequence[Any], shares: Sequence[float]) -> Any:
    """Return one tree of adapters' weights whose update is the average of theirs, weighted by the shares.

    The ranks add up, because Σ w·B A is exactly one product of factors that lie side by side; the average of
    the factors themselves would multiply one adapter's B with another's A.
    """

    def beside(path: tuple[Any, ...], *leaves: Array) -> Array:
        if not path_name(path).endswith(B):
            return jnp.concatenate(leaves, axis=-1)
        scaled = [(leaf * share).astype(leaf.dtype) for leaf, share in zip(leaves, shares, strict=True)]
        return jnp.concatenate(scaled, axis=-2)

    return jax.tree_util.tree_map_with_path(beside, *adapters)
