"""Low-rank adapters of linear layers."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from cann_jax.config.training import LoraConfig
from cann_jax.models.dense import dense, without_hidden
from cann_jax.runtime.sharding import Axes, constrain


class LoraParam(nnx.Param[Array]):
    """A weight of an adapter, which its type tells from base weights."""


class Lora(nnx.Module):
    """x ↦ (alpha/rank) · B A dropout(x) (Hu et al. 2021); B starts at zero and changes nothing."""

    def __init__(
        self, features_in: int, features_out: int, config: LoraConfig, rngs: nnx.Rngs, axes: Axes
    ) -> None:
        self.axes = axes
        a = nnx.initializers.he_uniform()(rngs.params(), (features_in, config.rank), jnp.float32)
        self.a = LoraParam(a)
        self.b = LoraParam(jnp.zeros((config.rank, features_out), jnp.float32))
        self.scale = config.alpha / config.rank
        self.dropout = config.dropout

    def __call__(self, x: Array, key: Array | None, dtype: DTypeLike) -> Array:
        """Return the update (…, out) of x (…, in); ``key`` switches dropout on."""
        if key is not None and self.dropout > 0:
            keep = jax.random.bernoulli(key, 1 - self.dropout, x.shape)
            x = jnp.where(keep, x / (1 - self.dropout), 0)
        # Gathered before and after: where they are sharded, XLA takes the products apart into loops of sends,
        # 6,336 of them a step of a 7B model on 16 chips, for a thousandth of the bytes.
        inside, outside = without_hidden(self.axes)
        a, b = constrain(self.a[...], inside, "rank"), constrain(self.b[...], "rank", outside)
        return dense(dense(x, a, dtype), b, dtype) * self.scale
