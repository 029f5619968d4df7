"""The parts of a decoder: norm, attention, gated MLP, and the block that adds them to the residual stream."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from cann_jax.models.attention import AttentionRule, KeyValue, attend, attend_shared
from cann_jax.models.attention_inputs import AttentionInputs
from cann_jax.models.bfloat16_words import from_words, to_words
from cann_jax.models.config import ACTIVATIONS, NORMS, DecoderConfig
from cann_jax.models.linear import Linear, rounded
from cann_jax.models.rope import Tables, rotate
from cann_jax.runtime.sharding import constrain

LinearOf = Callable[[str, int, int], Linear]  # makes a linear layer of a name and two sizes
Keys = Sequence[Array | None]  # dropout keys of a block's linear layers, None without dropout


class KeysValues(NamedTuple):
    """Keys and values of every layer, in the compute dtype, as words; leading axis ``layers``."""

    keys: Array
    values: Array


class RMSNorm(nnx.Module):
    """x / rms(x) · (scale + offset) in float32 (Zhang and Sennrich 2019)."""

    def __init__(self, features: int, config: DecoderConfig) -> None:
        self.epsilon, self.offset = config.norm_epsilon, config.norm_offset
        self.scale = nnx.Param(jnp.full((features,), 1 - self.offset, jnp.float32))

    def __call__(self, x: Array) -> Array:
        """Return the normalized activations."""
        x, scale = x.astype(jnp.float32), self.scale[...] + self.offset
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon) * scale


class Attention(nnx.Module):
    """Grouped-query attention (Ainslie et al. 2023)."""

    def __init__(self, config: DecoderConfig, rule: AttentionRule, linear: LinearOf) -> None:
        self.head_dim, self.qk_norm, self.rule = config.head_dim, config.qk_norm, rule
        q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
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

    def __call__(
        self, x: Array, inputs: AttentionInputs, keys: Keys, prefix: KeyValue | None
    ) -> tuple[Array, KeyValue]:
        """Return the output for x (B, S, hidden), and its keys and values."""
        q, *own = self.project(x, inputs.tables, keys)
        k, v = own if prefix is None else map(behind, prefix, own)
        return self.o_proj(attend(self.rule, q, k, v, inputs.mask), keys[3]), (own[0], own[1])


def behind(prefix: Array, own: Array) -> Array:
    """Return the keys or values (B, P + S, …) of sequences (B, S, …) behind one prefix (1, P, …)."""
    shared = jnp.broadcast_to(prefix, (len(own), *prefix.shape[1:])).astype(own.dtype)
    return jnp.concatenate([shared, own], axis=1)


def _by_heads(x: Array, heads: str) -> Array:
    return constrain(x, "batch", "any", heads, "any")


class MLP(nnx.Module):
    """down(activation(gate(x)) · up(x)) (Shazeer 2020)."""

    def __init__(self, config: DecoderConfig, rule: AttentionRule, linear: LinearOf) -> None:
        self.gate_proj = linear("gate_proj", config.hidden, config.intermediate)
        self.up_proj = linear("up_proj", config.hidden, config.intermediate)
        self.down_proj = linear("down_proj", config.intermediate, config.hidden)
        self.activation, self.dtype = config.activation, rule.dtype

    def __call__(self, x: Array, keys: Keys) -> Array:
        """Return (B, S, hidden) of x (B, S, hidden)."""
        x = rounded(x, self.dtype)
        gate, up = (y.astype(jnp.float32) for y in (self.gate_proj(x, keys[0]), self.up_proj(x, keys[1])))
        gated = rounded(ACTIVATIONS[self.activation](gate) * up, self.dtype)
        gated = constrain(gated, "batch", "any", "intermediate")
        return constrain(self.down_proj(gated, keys[2]), "batch", "any", "any")


class Block(nnx.Module):
    """Attention and MLP, each added to the residual stream, with norms before them, after them or both."""

    def __init__(self, config: DecoderConfig, rule: AttentionRule, linear: LinearOf) -> None:
        self.attention, self.mlp = Attention(config, rule, linear), MLP(config, rule, linear)
        for name in NORMS[config.norms]:
            setattr(self, name, RMSNorm(config.hidden, config))

    def __call__(
        self, x: Array, inputs: AttentionInputs, key: Array | None, prefix: KeyValue | None = None
    ) -> tuple[Array, KeyValue]:
        """Return the residual stream (B, S, hidden) after this block, and the block's keys and values.

        ``prefix`` are this block's keys and values (1, P, kv_heads, head_dim) of tokens before all of x.
        """
        keys: Any = [None] * 7 if key is None else jax.random.split(key, 7)
        attended, kept = self.attention(self._norm("pre_attention_norm", x), inputs, keys[:4], prefix)
        return self._add(x, attended, keys[4:]), kept

    def decode(
        self,
        x: Array,
        inputs: AttentionInputs,
        prompt: KeyValue | None,
        caches: KeysValues,
        layer: Array,
        column: Array,
    ) -> tuple[Array, KeysValues]:
        """Return the residual stream (B, K, hidden) of one token of each response, and all layers' caches."""
        normed = self._norm("pre_attention_norm", x)
        q, *new = self.attention.project(normed, inputs.tables, [None] * 4)
        caches = KeysValues(*(_write(old, one, layer, column) for old, one in zip(caches, new, strict=True)))
        k, v = (from_words(jax.lax.dynamic_index_in_dim(cache, layer, keepdims=False)) for cache in caches)
        attended = attend_shared(self.attention.rule, q, prompt, (k, v), inputs.mask)
        return self._add(x, self.attention.o_proj(attended), [None] * 3), caches

    def _add(self, x: Array, attended: Array, keys: Keys) -> Array:
        x = x + self._norm("post_attention_norm", attended)
        return x + self._norm("post_mlp_norm", self.mlp(self._norm("pre_mlp_norm", x), keys))

    def _norm(self, name: str, x: Array) -> Array:
        """Apply the norm of this name, where the family has it."""
        return getattr(self, name)(x) if hasattr(self, name) else x


def _write(cache: Array, new: Array, layer: Array, column: Array) -> Array:
    """Put ``new (B, K, kv_heads, head_dim)`` at ``cache[layer, :, :, :, column]``."""
    words = to_words(new.astype(from_words(cache[:0]).dtype))
    return jax.lax.dynamic_update_slice(cache, words[None, :, :, :, None], (layer, 0, 0, 0, column, 0))
