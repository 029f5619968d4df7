"""A decoder-only language model, driven by its configuration: layers stacked and scanned.

Three ways through it, all pure functions of arrays once the module is split:
``hidden_states`` (a whole sequence under any mask), ``prefill`` (the same, keeping keys and
values) and ``decode`` (one more token of K responses over one shared prompt).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from cann_jax.config import LoraConfig
from cann_jax.errors import InputError
from cann_jax.models.config import DecoderConfig
from cann_jax.models.layers import MATRIX_PRODUCT, MLP, Attention, RMSNorm, dense
from cann_jax.models.packing import pack, unpack

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class KeysValues(NamedTuple):
    """Keys and values of every layer, in the compute dtype, packed; leading axis ``layers``."""

    keys: jax.Array
    values: jax.Array


class Block(nnx.Module):
    """Pre-norm attention and MLP, each added to the residual stream."""

    def __init__(self, config: DecoderConfig, lora: dict[str, LoraConfig], dtype, rngs: nnx.Rngs):
        self.input_norm = RMSNorm(config.hidden, config.norm_epsilon)
        self.attention = Attention(config, lora, dtype, rngs)
        self.post_norm = RMSNorm(config.hidden, config.norm_epsilon)
        self.mlp = MLP(config, lora, dtype, rngs)

    def __call__(self, x, tables, mask, key):
        keys = [None] * 7 if key is None else jax.random.split(key, 7)
        attended, keys_values = self.attention(self.input_norm(x), tables, mask, keys[:4])
        x = x + attended
        return x + self.mlp(self.post_norm(x), keys[4:]), keys_values

    def decode(self, x, tables, prompt, prompt_mask, caches, layer, step):
        """One token of each of K responses, x (B, K, hidden); ``caches`` are those of all layers."""
        q, *new = self.attention.project(self.input_norm(x), tables, [None] * 4)
        caches = KeysValues(
            *(_write(cache, one, layer, step) for cache, one in zip(caches, new, strict=True))
        )
        own = [unpack(jax.lax.dynamic_index_in_dim(cache, layer, keepdims=False)) for cache in caches]
        own_mask = jnp.arange(own[0].shape[3]) <= step
        x = x + self.attention.attend_shared(q, prompt, prompt_mask, own, own_mask)
        return x + self.mlp(self.post_norm(x), [None] * 3), caches


class Decoder(nnx.Module):
    """Embedding, ``config.layers`` blocks, final norm, output head.

    Args:
        config: The architecture.
        dtype: Dtype of the factors of matrix products; the residual stream, norms and sums are float32.
        lora: Adapters to add, or None.
        rngs: Source of initial weights.
    """

    def __init__(
        self, config: DecoderConfig, dtype=jnp.float32, lora: LoraConfig | None = None, *, rngs: nnx.Rngs
    ):
        self.config, self.dtype = config, dtype
        init = nnx.initializers.normal(0.02)
        self.embedding = nnx.Param(init(rngs.params(), (config.vocabulary, config.hidden), jnp.float32))
        adapters = _adapters(lora)

        @nnx.split_rngs(splits=config.layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stack(rngs):
            return Block(config, adapters, dtype, rngs)

        self.layers = stack(rngs)
        self.final_norm = RMSNorm(config.hidden, config.norm_epsilon)
        head = (
            None
            if config.tied
            else nnx.Param(init(rngs.params(), (config.vocabulary, config.hidden), jnp.float32))
        )
        self.lm_head = nnx.data(head)

    @property
    def head(self) -> jax.Array:
        """The output head, (vocabulary, hidden), as stored."""
        return (self.embedding if self.lm_head is None else self.lm_head)[...]

    def logits(self, hidden: jax.Array) -> jax.Array:
        """float32 logits (…, vocabulary) of hidden states (…, hidden)."""
        return dense(hidden, self.head, self.dtype, True)

    def embed(self, tokens: jax.Array) -> jax.Array:
        return unpack(pack(self.embedding[...])[tokens]).astype(jnp.float32)

    def hidden_states(self, tokens, positions, mask, *, key=None, rematerialise=None):
        """Final hidden states.

        Args:
            tokens: (B, S) ids.
            positions: (B, S) positions for RoPE.
            mask: (B, S, S), True where the row may see the column.
            key: Dropout key of the adapters, or None for none.
            rematerialise: What the backward pass computes again: ``everything`` within a layer,
                ``elementwise`` (all but matrix products), or None for nothing.

        Returns:
            (B, S, hidden) after the final norm.
        """
        return self._forward(tokens, positions, mask, key, rematerialise, keep=False)[0]

    def prefill(self, tokens, positions, mask) -> tuple[jax.Array, KeysValues]:
        """``hidden_states``, and every layer's keys and values, (layers, B, S, kv_heads, head_dim) each."""
        return self._forward(tokens, positions, mask, None, None, keep=True)

    def _forward(self, tokens, positions, mask, key, rematerialise, keep):
        tables = self.config.rope.tables(positions)
        graph, weights = nnx.split(self.layers)
        keys = None if key is None else jax.random.split(key, self.config.layers)

        def body(x, layer):
            weights, key = layer
            x, keys_values = nnx.merge(graph, unpack(weights))(x, tables, mask, key)
            return x, pack(
                jax.tree.map(lambda y: y.astype(self.dtype), KeysValues(*keys_values))
            ) if keep else None

        body = _rematerialised(body, rematerialise)
        x, kept = jax.lax.scan(body, self.embed(tokens), (pack(weights), keys))
        return self.final_norm(x), kept

    def decode(self, tokens, positions, prompt: KeysValues, prompt_mask, own: KeysValues, step):
        """One more token of each of K responses that share a prompt.

        Args:
            tokens: (B, K) ids.
            positions: (B, K).
            prompt: (layers, B, P, kv_heads, head_dim), from ``prefill``.
            prompt_mask: (B, P), True where a prompt token stands.
            own: (layers, B, K, kv_heads, T, head_dim); positions before ``step`` are filled.
            step: Index of these tokens within their responses.

        Returns:
            Hidden states (B, K, hidden) after the final norm, and ``own`` with these tokens written.
        """
        tables = self.config.rope.tables(positions)
        graph, weights = nnx.split(self.layers)

        def body(carry, inputs):
            x, caches = carry
            weights, prompt, layer = inputs
            # The cache is carried and written in place; as scanned input and output it would be copied whole
            # at every token.
            block = nnx.merge(graph, unpack(weights))
            return block.decode(x, tables, unpack(prompt), prompt_mask, caches, layer, step), None

        layers = (pack(weights), prompt, jnp.arange(self.config.layers))
        (x, own), _ = jax.lax.scan(body, (self.embed(tokens), own), layers)
        return self.final_norm(x), own


def _rematerialised(body, what: str | None):
    if what is None:
        return body
    keep = jax.checkpoint_policies.save_only_these_names(MATRIX_PRODUCT)
    return jax.checkpoint(body, policy=keep if what == "elementwise" else None)


def _write(cache, new, layer, step):
    """Put ``new (B, K, kv_heads, head_dim)`` at ``cache[layer, :, :, :, step]``."""
    words = pack(new.astype(unpack(cache[:0]).dtype))
    return jax.lax.dynamic_update_slice(cache, words[None, :, :, :, None], (layer, 0, 0, 0, step, 0))


def causal_mask(valid: jax.Array) -> jax.Array:
    """(B, S, S) mask of ``valid (B, S)``: a row sees the valid columns up to itself."""
    size = valid.shape[1]
    return jnp.tril(jnp.ones((size, size), bool))[None] & valid[:, None, :]


def _adapters(lora: LoraConfig | None) -> dict[str, LoraConfig]:
    if lora is None:
        return {}
    for target in lora.targets:
        if target not in LORA_TARGETS:
            raise InputError(
                f"align.lora.targets: {target!r} is no layer; there are {', '.join(LORA_TARGETS)}"
            )
    return dict.fromkeys(lora.targets, lora)
