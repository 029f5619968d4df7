"""A decoder-only language model, driven by its configuration: layers stacked and scanned.

Three ways through it, all pure functions of arrays once the module is split:
``hidden_states`` (a whole sequence under any mask), ``prefill`` (the same, keeping keys and
values) and ``decode`` (one more token of K responses over one shared prompt).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cann_jax.config.schema import nearest
from cann_jax.config.training import LoraConfig
from cann_jax.files.errors import InputError
from cann_jax.models.attention import implementation, softcap
from cann_jax.models.attention_inputs import StepView, View, sequence_views, step_views
from cann_jax.models.bfloat16_words import pack, rows_of, unpack
from cann_jax.models.config import DecoderConfig
from cann_jax.models.families.family import NORMS
from cann_jax.models.layers import MATRIX_PRODUCT, MLP, Attention, RMSNorm, dense
from cann_jax.models.splash import Sight

HEAD_AXES = ("vocabulary", "hidden")
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class KeysValues(NamedTuple):
    """Keys and values of every layer, in the compute dtype, packed; leading axis ``layers``."""

    keys: jax.Array
    values: jax.Array


class Block(nnx.Module):
    """Attention and MLP, each added to the residual stream, with norms before them, after them or both."""

    def __init__(
        self, config: DecoderConfig, lora: dict[str, LoraConfig], dtype, implementation: str, rngs: nnx.Rngs
    ):
        self.attention = Attention(config, lora, dtype, implementation, rngs)
        self.mlp = MLP(config, lora, dtype, rngs)
        for name in NORMS[config.norms]:
            setattr(self, name, RMSNorm(config.hidden, config.norm_epsilon, config.norm_offset))

    def __call__(self, x, view: View, key):
        keys = [None] * 7 if key is None else jax.random.split(key, 7)
        attended, keys_values = self.attention(
            self._norm("pre_attention_norm", x), view.tables, view.mask, keys[:4]
        )
        return self._finish(x, attended, keys[4:]), keys_values

    def decode(self, x, view: StepView, prompt, caches, layer, step):
        """One token of each of K responses, x (B, K, hidden); ``caches`` are those of all layers."""
        normed = self._norm("pre_attention_norm", x)
        q, *new = self.attention.project(normed, view.tables, [None] * 4)
        caches = KeysValues(
            *(_write(cache, one, layer, step) for cache, one in zip(caches, new, strict=True))
        )
        own = [unpack(jax.lax.dynamic_index_in_dim(cache, layer, keepdims=False)) for cache in caches]
        attended = self.attention.shared(q, prompt, view.prompt, own, view.own)
        return self._finish(x, attended, [None] * 3), caches

    def _finish(self, x, attended, keys):
        x = x + self._norm("post_attention_norm", attended)
        return x + self._norm("post_mlp_norm", self.mlp(self._norm("pre_mlp_norm", x), keys))

    def _norm(self, name: str, x):
        """The norm of this name, where the family has it."""
        return getattr(self, name)(x) if hasattr(self, name) else x


class Decoder(nnx.Module):
    """Embedding, ``config.layers`` blocks, final norm, output head.

    Args:
        config: The architecture.
        dtype: Dtype of the factors of matrix products; the residual stream, norms and sums are float32.
        lora: Adapters to add, or None.
        attention: Kernel of whole sequences: ``auto``, ``xla`` or ``cudnn``.
        rngs: Source of initial weights.

    Raises:
        InputError: ``attention`` cannot serve here, or an adapter's target is no layer.
    """

    def __init__(
        self,
        config: DecoderConfig,
        dtype=jnp.float32,
        lora: LoraConfig | None = None,
        attention: str = "auto",
        *,
        rngs: nnx.Rngs,
    ):
        self.config, self.dtype = config, dtype
        init = nnx.initializers.normal(0.02)
        self.embedding = nnx.Param(init(rngs.params(), (config.vocabulary, config.hidden), jnp.float32))
        adapters = _adapters(lora)
        self.kernel = implementation(attention, dtype, config.head_dim, config.attention_softcap)

        @nnx.split_rngs(splits=config.layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stack(rngs):
            return Block(config, adapters, dtype, self.kernel, rngs)

        self.layers = stack(rngs)
        self.final_norm = RMSNorm(config.hidden, config.norm_epsilon, config.norm_offset)
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
        return softcap(dense(hidden, self.head, self.dtype, True, HEAD_AXES), self.config.final_softcap)

    def embed(self, tokens: jax.Array) -> jax.Array:
        x = rows_of(self.embedding[...], tokens).astype(jnp.float32)
        if not self.config.scaled_embedding:
            return x
        # Rounded like the other factors, as transformers does: in bfloat16 √3072 is 55.5.
        return x * jnp.sqrt(float(self.config.hidden)).astype(self.dtype).astype(jnp.float32)

    def hidden_states(self, tokens, positions, sight: Sight, *, key=None, rematerialise=None):
        """Final hidden states.

        Args:
            tokens: (B, S) ids.
            positions: (B, S) positions, for RoPE and sliding windows.
            sight: Which tokens see which.
            key: Dropout key of the adapters, or None for none.
            rematerialise: What the backward pass computes again: ``everything`` within a layer,
                ``elementwise`` (all but matrix products), or None for nothing.

        Returns:
            (B, S, hidden) after the final norm.
        """
        return self._forward(tokens, positions, sight, key, rematerialise)[0]

    def prefill(self, tokens, positions, sight: Sight) -> tuple[jax.Array, KeysValues]:
        """``hidden_states``, and every layer's keys and values, (layers, B, S, kv_heads, head_dim) each."""

        def keep(_, keys_values):
            return pack(jax.tree.map(lambda y: y.astype(self.dtype), KeysValues(*keys_values)))

        return self._forward(tokens, positions, sight, keep=keep)

    def layer_states(self, tokens, positions, sight: Sight) -> jax.Array:
        """The residual stream after each layer, (layers, B, S, hidden); as ``hidden_states``."""
        return self._forward(tokens, positions, sight, keep=lambda x, _: x)[1]

    def _forward(self, tokens, positions, sight, key=None, rematerialise=None, keep=lambda *_: None):
        """Final hidden states, and what ``keep`` makes of each layer's output and keys and values."""
        views = sequence_views(self.config, positions, sight, self.kernel == "splash")
        graph, weights = nnx.split(self.layers)
        keys = None if key is None else jax.random.split(key, self.config.layers)

        def body(x, layer):
            weights, key, kind = layer
            x, keys_values = nnx.merge(graph, unpack(weights))(x, views.at(kind), key)
            return x, keep(x, keys_values)

        body = _rematerialised(body, rematerialise)
        x, kept = jax.lax.scan(body, self.embed(tokens), (pack(weights), keys, views.indices))
        return self.final_norm(x), kept

    def decode(self, tokens, positions, prompt: KeysValues, prompt_mask, own: KeysValues, step):
        """One more token of each of K responses that share a prompt.

        Args:
            tokens: (B, K) ids.
            positions: (B,) of these tokens.
            prompt: (layers, B, P, kv_heads, head_dim), from ``prefill``.
            prompt_mask: (B, P), True where a prompt token stands.
            own: (layers, B, K, kv_heads, T, head_dim); positions before ``step`` are filled.
            step: Index of these tokens within their responses.

        Returns:
            Hidden states (B, K, hidden) after the final norm, and ``own`` with these tokens written.
        """
        size = own.keys.shape[-2]
        views = step_views(self.config, positions, prompt_mask, step, size)
        graph, weights = nnx.split(self.layers)

        def body(carry, inputs):
            x, caches = carry
            weights, prompt, layer, kind = inputs
            # The cache is carried and written in place; as scanned input and output it would be copied whole
            # at every token.
            block = nnx.merge(graph, unpack(weights))
            return block.decode(x, views.at(kind), unpack(prompt), caches, layer, step), None

        layers = (pack(weights), prompt, jnp.arange(self.config.layers), views.indices)
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


def causal_sight(valid: jax.Array) -> Sight:
    """Of ``valid (B, S)``: a row sees the valid columns up to itself."""
    return Sight(np.tri(valid.shape[1], dtype=bool), valid)


def _adapters(lora: LoraConfig | None) -> dict[str, LoraConfig]:
    if lora is None:
        return {}
    for target in lora.targets:
        if target not in LORA_TARGETS:
            raise InputError(
                f"align.lora.targets: {target!r} is no layer; did you mean {nearest(target, LORA_TARGETS)}? "
                f"There are {', '.join(LORA_TARGETS)}"
            )
    return dict.fromkeys(lora.targets, lora)
