"""A decoder-only language model, driven by its configuration: layers stacked and scanned.

It has two forward passes, pure functions of arrays once the module is split: ``forward`` (a whole sequence
under any mask; ``prefill`` keeps its keys and values) and ``decode`` (one more token of K responses over one
shared prompt).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from cann_jax.config.training import LoraConfig
from cann_jax.files.errors import InputError, hint
from cann_jax.models.attention import AttentionRule, KeyValue, choose_kernel, softcap
from cann_jax.models.attention_inputs import DenseMask, SequenceMask, sequence_inputs, step_inputs
from cann_jax.models.bfloat16_words import from_words, lookup, to_words
from cann_jax.models.config import DecoderConfig
from cann_jax.models.layers import Block, KeysValues, RMSNorm
from cann_jax.models.linear import MATRIX_PRODUCT, Linear, dense
from cann_jax.models.prefix import Prefix
from cann_jax.runtime.sharding import LINEARS

LORA_TARGETS = tuple(LINEARS)


class Decoder(nnx.Module):
    """Embedding, ``config.layers`` blocks, final norm, output head.

    Factors of matrix products have ``dtype``; the residual stream, norms and sums are float32. ``attention``
    is the kernel for whole sequences, as ``choose_kernel`` takes it.

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
        loras = {} if lora is None else _checked(lora)
        self.kernel = choose_kernel(attention, dtype, config.head_dim, config.attention_softcap)
        rule = AttentionRule(config.attention_scale, config.attention_softcap, self.kernel, dtype)

        @nnx.split_rngs(splits=config.layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stack(rngs: nnx.Rngs) -> Block:
            def linear(name: str, *sizes: int) -> Linear:
                return Linear(sizes, LINEARS[name], dtype, rngs, name in config.biases, loras.get(name))

            return Block(config, rule, linear)

        self.layers = stack(rngs)
        self.final_norm = RMSNorm(config.hidden, config)
        self.lm_head = nnx.data(None if config.tied else nnx.Param(init(rngs.params(), shape, jnp.float32)))

    @property
    def head(self) -> Array:
        """The output head (vocabulary, hidden)."""
        head: Array = from_words((self.embedding if self.lm_head is None else self.lm_head)[...])
        return head

    def logits(self, hidden: Array) -> Array:
        """Return float32 logits (…, vocabulary) of hidden states (…, hidden)."""
        logits = dense(hidden, self.head, self.dtype, True, ("vocabulary", "hidden"))
        return softcap(logits, self.config.final_softcap)

    def embed(self, tokens: Array) -> Array:
        """Return the float32 embeddings (…, hidden) of ids."""
        x = lookup(self.embedding[...], tokens).astype(jnp.float32)
        if not self.config.scaled_embedding:
            return x
        # Rounded like the other factors, as transformers does: in bfloat16 √3072 is 55.5.
        return x * jnp.sqrt(float(self.config.hidden)).astype(self.dtype).astype(jnp.float32)

    def forward(
        self,
        tokens: Array,
        positions: Array,
        mask: SequenceMask | DenseMask,
        key: Array | None = None,
        rematerialise: str | None = None,
        keep: Callable[[Array, KeyValue], Any] = lambda *_: None,
        prefix: Prefix | None = None,
    ) -> tuple[Array, Any]:
        """Return the hidden states (B, S, hidden) after the final norm, and what ``keep`` returns, stacked.

        Args:
            tokens: (B, S) ids.
            positions: (B, S) positions, for RoPE and sliding windows; behind a prefix, counted from its end.
            mask: Which of these tokens see which.
            key: Dropout key of the adapters, or None for no dropout.
            rematerialise: What the backward pass computes again: ``everything`` within a layer,
                ``elementwise`` (all but matrix products), or None for nothing.
            keep: Function of each layer's output, and its keys and values.
            prefix: Tokens before all sequences, which see all of it; None for none.
        """
        before = None
        if prefix is not None:
            assert isinstance(mask, SequenceMask), "rows of several groups have no prefix in common"
            before, mask, positions = prefix.keys_values, mask.behind(prefix.valid), positions + prefix.length
        inputs = sequence_inputs(self.config, positions, mask, self.kernel == "splash")
        graph, weights = nnx.split(self.layers)
        keys = None if key is None else jax.random.split(key, self.config.layers)

        def body(x: Array, layer: Any) -> tuple[Array, Any]:
            weights, key, kind, before = layer
            x, keys_values = nnx.merge(graph, from_words(weights))(
                x, inputs.at(kind), key, from_words(before)
            )
            return x, keep(x, keys_values)

        if rematerialise is not None:
            products = jax.checkpoint_policies.save_only_these_names(MATRIX_PRODUCT)
            body = jax.checkpoint(body, policy=products if rematerialise == "elementwise" else None)
        x, kept = jax.lax.scan(body, self.embed(tokens), (to_words(weights), keys, inputs.indices, before))
        return self.final_norm(x), kept

    def prefill(
        self, tokens: Array, positions: Array, mask: SequenceMask, prefix: Prefix | None = None
    ) -> tuple[Array, KeysValues]:
        """Return ``forward``'s states, and all keys and values (layers, B, S, kv_heads, head_dim)."""

        def keep(_: Array, keys_values: KeyValue) -> Any:
            return to_words(jax.tree.map(lambda y: y.astype(self.dtype), KeysValues(*keys_values)))

        return self.forward(tokens, positions, mask, keep=keep, prefix=prefix)

    def decode(
        self,
        tokens: Array,
        positions: Array,
        prompt: KeysValues | None,
        prompt_mask: Array,
        own: KeysValues,
        past: Array,
        column: Array,
        kept: Any = None,
        keep: Callable[[Any, Array, Array], Any] = lambda kept, *_: kept,
    ) -> tuple[Array, KeysValues, Any]:
        """Run one more token of each of K responses that share a prompt.

        Args:
            tokens: (B, K) ids.
            positions: (B,) of these tokens.
            prompt: (layers, B, P, kv_heads, head_dim), from ``prefill``; None where each response has its own
                copy in the first P columns of ``own``.
            prompt_mask: (B, P), False on padding.
            own: (layers, B, K, kv_heads, T, head_dim), a ring that ends with the token before.
            past: (B,), how many tokens of their own responses these tokens have before them.
            column: Where in the ring these tokens are written.
            kept: What ``keep`` takes at the first layer.
            keep: Function of what it returned at the layer before, the residual stream (B, K, hidden) after
                this layer, and this layer's index.

        Returns:
            Hidden states (B, K, hidden) after the final norm, ``own`` with these tokens written, and what
            ``keep`` returned last.
        """
        before = prompt_mask.shape[1] if prompt is None else 0
        size = own.keys.shape[-2] - before
        inputs = step_inputs(self.config, positions, prompt_mask, past, column, size)
        graph, weights = nnx.split(self.layers)

        # The cache is carried and written in place; as scanned input and output it would be copied whole at
        # every token.
        def body(carry: tuple[Array, KeysValues, Any], layer: Any) -> tuple[Any, None]:
            x, caches, kept = carry
            weights, prompt, index, kind = layer
            block = nnx.merge(graph, from_words(weights))
            x, caches = block.decode(x, inputs.at(kind), from_words(prompt), caches, index, before + column)
            return (x, caches, keep(kept, x, index)), None

        layers = (to_words(weights), prompt, jnp.arange(self.config.layers), inputs.indices)
        (x, own, kept), _ = jax.lax.scan(body, (self.embed(tokens), own, kept), layers)
        return self.final_norm(x), own, kept


def _checked(lora: LoraConfig) -> dict[str, LoraConfig]:
    """Return the adapter of each linear layer that has one."""
    for target in lora.targets:
        if target not in LORA_TARGETS:
            raise InputError(
                f"align.lora.targets: {target!r} is not a linear layer; "
                f"{hint(target, LORA_TARGETS, 'choices')}"
            )
    return dict.fromkeys(lora.targets, lora)
