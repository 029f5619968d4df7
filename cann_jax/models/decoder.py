"""A decoder-only language model, driven by its configuration: layers stacked and scanned.

It has three forward passes, all pure functions of arrays once the module is split: ``hidden_states`` (a whole
sequence under any mask), ``prefill`` (the same, keeping keys and values) and ``decode`` (one more token of K
responses over one shared prompt).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from cann_jax.config.training import LoraConfig
from cann_jax.files.errors import InputError, nearest
from cann_jax.models.attention import choose_kernel, softcap
from cann_jax.models.attention_inputs import AttentionInputs, sequence_inputs, step_inputs
from cann_jax.models.bfloat16_words import from_words, lookup, to_words
from cann_jax.models.config import NORMS, DecoderConfig
from cann_jax.models.dense import dense
from cann_jax.models.layers import MATRIX_PRODUCT, MLP, Attention, Keys, Loras, RMSNorm
from cann_jax.models.masks import SequenceMask
from cann_jax.runtime.sharding import LINEARS

HEAD_AXES = ("vocabulary", "hidden")
LORA_TARGETS = tuple(LINEARS)


class KeysValues(NamedTuple):
    """Keys and values of every layer, in the compute dtype, as words; leading axis ``layers``."""

    keys: Array
    values: Array


class Block(nnx.Module):
    """Attention and MLP, each added to the residual stream, with norms before them, after them or both."""

    def __init__(
        self, config: DecoderConfig, loras: Loras, dtype: DTypeLike, kernel: str, rngs: nnx.Rngs
    ) -> None:
        self.attention = Attention(config, loras, dtype, kernel, rngs)
        self.mlp = MLP(config, loras, dtype, rngs)
        for name in NORMS[config.norms]:
            setattr(self, name, RMSNorm(config.hidden, config))

    def __call__(
        self, x: Array, inputs: AttentionInputs, key: Array | None
    ) -> tuple[Array, tuple[Array, Array]]:
        """Return the residual stream (B, S, hidden) after this block, and the block's keys and values."""
        keys: Any = [None] * 7 if key is None else jax.random.split(key, 7)
        attended, kept = self.attention(self._norm("pre_attention_norm", x), inputs, keys[:4])
        return self._add(x, attended, keys[4:]), kept

    def decode(
        self,
        x: Array,
        inputs: AttentionInputs,
        prompt: KeysValues,
        caches: KeysValues,
        layer: Array,
        step: Array,
    ) -> tuple[Array, KeysValues]:
        """Return the residual stream (B, K, hidden) of one token of each response, and all layers' caches."""
        normed = self._norm("pre_attention_norm", x)
        q, *new = self.attention.project(normed, inputs.tables, [None] * 4)
        caches = KeysValues(*(_write(old, one, layer, step) for old, one in zip(caches, new, strict=True)))
        k, v = (from_words(jax.lax.dynamic_index_in_dim(cache, layer, keepdims=False)) for cache in caches)
        attended = self.attention.decode(q, prompt, (k, v), inputs.mask)
        return self._add(x, attended, [None] * 3), caches

    def _add(self, x: Array, attended: Array, keys: Keys) -> Array:
        x = x + self._norm("post_attention_norm", attended)
        return x + self._norm("post_mlp_norm", self.mlp(self._norm("pre_mlp_norm", x), keys))

    def _norm(self, name: str, x: Array) -> Array:
        """Apply the norm of this name, where the family has it."""
        return getattr(self, name)(x) if hasattr(self, name) else x


class Decoder(nnx.Module):
    """Embedding, ``config.layers`` blocks, final norm, output head.

    Args:
        config: The architecture.
        dtype: Dtype of the factors of matrix products; the residual stream, norms and sums are float32.
        lora: Adapters to add, or None.
        attention: Kernel for whole sequences, as ``choose_kernel`` takes it.
        rngs: Source of initial weights.

    Raises:
        InputError: ``attention`` cannot serve here, or an adapter's target is not a linear layer.
    """

    def __init__(
        self,
        config: DecoderConfig,
        dtype: DTypeLike = jnp.float32,
        lora: LoraConfig | None = None,
        attention: str = "auto",
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.config, self.dtype = config, dtype
        init, shape = nnx.initializers.normal(0.02), (config.vocabulary, config.hidden)
        self.embedding = nnx.Param(init(rngs.params(), shape, jnp.float32))
        loras = _loras(lora)
        self.kernel = choose_kernel(attention, dtype, config.head_dim, config.attention_softcap)

        @nnx.split_rngs(splits=config.layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stack(rngs: nnx.Rngs) -> Block:
            return Block(config, loras, dtype, self.kernel, rngs)

        self.layers = stack(rngs)
        self.final_norm = RMSNorm(config.hidden, config)
        head = None if config.tied else nnx.Param(init(rngs.params(), shape, jnp.float32))
        self.lm_head = nnx.data(head)

    @property
    def head(self) -> Array:
        """The output head (vocabulary, hidden), as stored."""
        return (self.embedding if self.lm_head is None else self.lm_head)[...]

    def logits(self, hidden: Array) -> Array:
        """Return float32 logits (…, vocabulary) of hidden states (…, hidden)."""
        return softcap(dense(hidden, self.head, self.dtype, True, HEAD_AXES), self.config.final_softcap)

    def embed(self, tokens: Array) -> Array:
        """Return the float32 embeddings (…, hidden) of ids."""
        x = lookup(self.embedding[...], tokens).astype(jnp.float32)
        if not self.config.scaled_embedding:
            return x
        # Rounded like the other factors, as transformers does: in bfloat16 √3072 is 55.5.
        return x * jnp.sqrt(float(self.config.hidden)).astype(self.dtype).astype(jnp.float32)

    def hidden_states(
        self,
        tokens: Array,
        positions: Array,
        mask: SequenceMask,
        *,
        key: Array | None = None,
        rematerialise: str | None = None,
    ) -> Array:
        """Return the final hidden states.

        Args:
            tokens: (B, S) ids.
            positions: (B, S) positions, for RoPE and sliding windows.
            mask: Which tokens see which.
            key: Dropout key of the adapters, or None for no dropout.
            rematerialise: What the backward pass computes again: ``everything`` within a layer,
                ``elementwise`` (all but matrix products), or None for nothing.

        Returns:
            (B, S, hidden) after the final norm.
        """
        return self.forward(tokens, positions, mask, key, rematerialise)[0]

    def prefill(self, tokens: Array, positions: Array, mask: SequenceMask) -> tuple[Array, KeysValues]:
        """Return ``hidden_states``, and all keys and values (layers, B, S, kv_heads, head_dim)."""

        def keep(_: Array, keys_values: tuple[Array, Array]) -> Any:
            return to_words(jax.tree.map(lambda y: y.astype(self.dtype), KeysValues(*keys_values)))

        return self.forward(tokens, positions, mask, keep=keep)

    def forward(
        self,
        tokens: Array,
        positions: Array,
        mask: SequenceMask,
        key: Array | None = None,
        rematerialise: str | None = None,
        keep: Callable[[Array, tuple[Array, Array]], Any] = lambda *_: None,
    ) -> tuple[Array, Any]:
        """Return the final hidden states, and what ``keep`` makes of each layer's output, keys and values."""
        inputs = sequence_inputs(self.config, positions, mask, self.kernel == "splash")
        graph, weights = nnx.split(self.layers)
        keys = None if key is None else jax.random.split(key, self.config.layers)

        def body(x: Array, layer: Any) -> tuple[Array, Any]:
            weights, key, kind = layer
            x, keys_values = nnx.merge(graph, from_words(weights))(x, inputs.at(kind), key)
            return x, keep(x, keys_values)

        body = _rematerialised(body, rematerialise)
        x, kept = jax.lax.scan(body, self.embed(tokens), (to_words(weights), keys, inputs.indices))
        return self.final_norm(x), kept

    def decode(
        self,
        tokens: Array,
        positions: Array,
        prompt: KeysValues,
        prompt_mask: Array,
        own: KeysValues,
        step: Array,
    ) -> tuple[Array, KeysValues]:
        """Run one more token of each of K responses that share a prompt.

        Args:
            tokens: (B, K) ids.
            positions: (B,) of these tokens.
            prompt: (layers, B, P, kv_heads, head_dim), from ``prefill``.
            prompt_mask: (B, P), False on padding.
            own: (layers, B, K, kv_heads, T, head_dim); positions before ``step`` are filled.
            step: Index of these tokens within their responses.

        Returns:
            Hidden states (B, K, hidden) after the final norm, and ``own`` with these tokens written.
        """
        inputs = step_inputs(self.config, positions, prompt_mask, step, own.keys.shape[-2])
        graph, weights = nnx.split(self.layers)

        def body(carry: tuple[Array, KeysValues], layer: Any) -> tuple[tuple[Array, KeysValues], None]:
            x, caches = carry
            weights, prompt, index, kind = layer
            # The cache is carried and written in place; as scanned input and output it would be copied whole
            # at every token.
            block = nnx.merge(graph, from_words(weights))
            return block.decode(x, inputs.at(kind), from_words(prompt), caches, index, step), None

        layers = (to_words(weights), prompt, jnp.arange(self.config.layers), inputs.indices)
        (x, own), _ = jax.lax.scan(body, (self.embed(tokens), own), layers)
        return self.final_norm(x), own


def _rematerialised(body: Callable[..., Any], what: str | None) -> Callable[..., Any]:
    if what is None:
        return body
    keep = jax.checkpoint_policies.save_only_these_names(MATRIX_PRODUCT)
    return jax.checkpoint(body, policy=keep if what == "elementwise" else None)


def _write(cache: Array, new: Array, layer: Array, step: Array) -> Array:
    """Put ``new (B, K, kv_heads, head_dim)`` at ``cache[layer, :, :, :, step]``."""
    words = to_words(new.astype(from_words(cache[:0]).dtype))
    return jax.lax.dynamic_update_slice(cache, words[None, :, :, :, None], (layer, 0, 0, 0, step, 0))


def _loras(lora: LoraConfig | None) -> Loras:
    if lora is None:
        return {}
    for target in lora.targets:
        if target not in LORA_TARGETS:
            raise InputError(
                f"align.lora.targets: {target!r} is not a linear layer; did you mean "
                f"{nearest(target, LORA_TARGETS)}? The choices are {', '.join(LORA_TARGETS)}"
            )
    return dict.fromkeys(lora.targets, lora)
