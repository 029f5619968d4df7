"""The parts of a decoder block: linear layer with optional adapter, norm, attention, gated MLP."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from cann_jax.config.training import LoraConfig
from cann_jax.models.adapters.lora import Lora
from cann_jax.models.attention import AttentionRule, KeyValue, attend, attend_shared
from cann_jax.models.attention_inputs import AttentionInputs
from cann_jax.models.config import ACTIVATIONS, DecoderConfig
from cann_jax.models.dense import dense, rounded
from cann_jax.models.rope import Tables, rotate
from cann_jax.runtime.sharding import LINEARS, Axes, constrain

MATRIX_PRODUCT = "matrix_product"  # name under which rematerialisation may keep a linear layer's result
Loras = Mapping[str, LoraConfig]  # linear layer → its adapter
Keys = Sequence[Array | None]  # dropout keys of a block's linear layers, None without dropout


class Linear(nnx.Module):
    """x (…, in) ↦ x @ kernel (in, out), plus bias and adapter where the layer has them."""

    def __init__(
        self,
        sizes: tuple[int, int],
        lora: LoraConfig | None,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        axes: Axes,
        bias: bool = False,
    ) -> None:
        self.dtype, self.axes = dtype, axes
        init = nnx.initializers.normal(0.02)
        self.kernel = nnx.Param(init(rngs.params(), sizes, jnp.float32))
        self.bias = nnx.data(nnx.Param(jnp.zeros(sizes[1:], jnp.float32)) if bias else None)
        self.lora = nnx.data(None if lora is None else Lora(*sizes, lora, rngs, axes))

    def __call__(self, x: Array, key: Array | None = None) -> Array:
        """Return (…, out); ``key`` is the adapter's dropout key."""
        y = rounded(dense(x, self.kernel[...], self.dtype, False, self.axes), self.dtype)
        y = checkpoint_name(y, MATRIX_PRODUCT)
        y = y if self.bias is None else rounded(y + self.bias[...], self.dtype)
        return y if self.lora is None else rounded(y + self.lora(x, key, self.dtype), self.dtype)


def _linears(
    config: DecoderConfig, loras: Loras, dtype: DTypeLike, rngs: nnx.Rngs
) -> Callable[[str, int, int], Linear]:
    """Return a constructor of linear layers by name, with the adapter and bias that the name calls for."""
    return lambda name, *sizes: Linear(
        sizes, loras.get(name), dtype, rngs, LINEARS[name], name in config.biases
    )


class RMSNorm(nnx.Module):
    """x / rms(x) · (scale + offset) (Zhang and Sennrich 2019)."""

    def __init__(self, features: int, config: DecoderConfig) -> None:
        self.epsilon, self.offset = config.norm_epsilon, config.norm_offset
        self.scale = nnx.Param(jnp.full((features,), 1 - self.offset, jnp.float32))

    def __call__(self, x: Array) -> Array:
        """Return the normalized float32 activations."""
        x, scale = x.astype(jnp.float32), self.scale[...] + self.offset
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon) * scale


class Attention(nnx.Module):
    """Grouped-query attention (Ainslie et al. 2023)."""

    def __init__(
        self, config: DecoderConfig, loras: Loras, dtype: DTypeLike, kernel: str, rngs: nnx.Rngs
    ) -> None:
        self.head_dim, self.qk_norm = config.head_dim, config.qk_norm
        self.rule = AttentionRule(config.attention_scale, config.attention_softcap, kernel, dtype)
        q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
        linear = _linears(config, loras, dtype, rngs)
        self.q_proj, self.k_proj = linear("q_proj", config.hidden, q), linear("k_proj", config.hidden, kv)
        self.v_proj, self.o_proj = linear("v_proj", config.hidden, kv), linear("o_proj", q, config.hidden)
        widths = {None: (), "head": (self.head_dim, self.head_dim), "projection": (q, kv)}[config.qk_norm]
        norms = [RMSNorm(width, config) for width in widths]
        self.q_norm, self.k_norm = (nnx.data(norm) for norm in norms or (None, None))

    def project(self, x: Array, tables: Tables, keys: Keys) -> tuple[Array, Array, Array]:
        """Return rotated q (…, heads, head_dim), rotated k and plain v (…, kv_heads, head_dim)."""
        x = rounded(x, self.rule.dtype)
        q = self._heads(self.q_proj(x, keys[0]), self.q_norm)
        k = self._heads(self.k_proj(x, keys[1]), self.k_norm)
        v = self._heads(self.v_proj(x, keys[2]), None)
        # XLA would leave out the rounding before a product's result is rotated in float32, and store that.
        q, k = jax.lax.optimization_barrier((q, k))
        q, k = rotate(q, tables), rotate(k, tables)
        return _by_heads(q, "heads"), _by_heads(k, "kv_heads"), _by_heads(v, "kv_heads")

    def _heads(self, x: Array, norm: RMSNorm | None) -> Array:
        """Return (…, width) as (…, heads, head_dim), normalized in one shape or the other."""
        if self.qk_norm == "projection" and norm is not None:
            x, norm = norm(x), None
        x = x.reshape(*x.shape[:-1], -1, self.head_dim)
        return x if norm is None else norm(x)

    def __call__(self, x: Array, inputs: AttentionInputs, keys: Keys) -> tuple[Array, KeyValue]:
        """Return the output for x (B, S, hidden), and its keys and values."""
        q, k, v = self.project(x, inputs.tables, keys)
        return self.o_proj(attend(self.rule, q, k, v, inputs.mask), keys[3]), (k, v)

    def decode(self, q: Array, prompt: KeyValue, own: KeyValue, mask: Any) -> Array:
        """Return the output for one token of each of K responses; arguments as ``attend_shared``."""
        return self.o_proj(attend_shared(self.rule, q, prompt, own, mask))


def _by_heads(x: Array, heads: str) -> Array:
    return constrain(x, "batch", "any", heads, "any")


class MLP(nnx.Module):
    """down(activation(gate(x)) · up(x)) (Shazeer 2020)."""

    def __init__(self, config: DecoderConfig, loras: Loras, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        linear = _linears(config, loras, dtype, rngs)
        self.gate_proj = linear("gate_proj", config.hidden, config.intermediate)
        self.up_proj = linear("up_proj", config.hidden, config.intermediate)
        self.down_proj = linear("down_proj", config.intermediate, config.hidden)
        self.activation, self.dtype = config.activation, dtype

    def __call__(self, x: Array, keys: Keys) -> Array:
        """Return (B, S, hidden) of x (B, S, hidden)."""
        x = rounded(x, self.dtype)
        gate, up = (y.astype(jnp.float32) for y in (self.gate_proj(x, keys[0]), self.up_proj(x, keys[1])))
        gated = rounded(ACTIVATIONS[self.activation](gate) * up, self.dtype)
        gated = constrain(gated, "batch", "any", "intermediate")
        return constrain(self.down_proj(gated, keys[2]), "batch", "any", "any")
