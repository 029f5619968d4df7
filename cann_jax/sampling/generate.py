"""Generate K responses to each prompt, which is computed once for all K."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cann_jax.models.attention_inputs import causal_mask
from cann_jax.models.decoder import Decoder
from cann_jax.models.layers import KeysValues, behind
from cann_jax.models.prefix import Prefix
from cann_jax.runtime.memory import checked
from cann_jax.sampling.draw import response_keys
from cann_jax.sampling.replacement import replaced
from cann_jax.sampling.slots import Prompts, Sampler, Samples, Slots

STATIC = ("graph", "responses", "max_new_tokens", "temperature", "top_p", "feature_layers", "slots")


@checked
@partial(jax.jit, static_argnames=STATIC)
def generate(
    graph: Any, weights: Any, prompts: jax.Array, prompt_lengths: jax.Array, prompt_indices: jax.Array,
    seed: jax.Array, stop_tokens: jax.Array, *,
    responses: int, max_new_tokens: int, temperature: float = 1.0, top_p: float = 1.0,
    feature_layers: tuple[int, ...] = (), prefix: Prefix | None = None, slots: int | None = None,
) -> Samples:  # fmt: skip
    """Sample K ``responses`` of up to T = ``max_new_tokens`` tokens to each prompt from a split ``Decoder``.

    The draw is a function of the seed and of the prompts' indices (B,) in the whole data set. Prompts are ids
    (B, P), padded on the right, with lengths (B,). One of ``stop_tokens`` (n,) ends a response.
    ``temperature`` divides the logits; ``top_p`` is the mass of the nucleus, where 1 keeps everything.
    ``feature_layers`` are the layers, n for after n of them, of which features are gathered on the way.
    ``prefix`` are tokens before all prompts, which then hold at least one each. With ``slots``, so many
    responses are in progress at once, each with its prompt, and one that ends makes room for the next; with
    None all are, until the longest ends.
    """
    sampler = Sampler(
        nnx.merge(graph, weights), stop_tokens, max_new_tokens, temperature, top_p, feature_layers
    )
    computed = _prefill(sampler.model, prompts, prompt_lengths, prefix)
    keys = response_keys(seed, prompt_indices, responses)
    if slots is None or slots >= keys.size:
        return _together(sampler, computed, keys)
    drawn = replaced(sampler, computed, keys, slots)
    samples: Samples = jax.tree.map(lambda x: x.reshape(*keys.shape, *x.shape[2:]), drawn)
    return samples


def _together(sampler: Sampler, prompts: Prompts, keys: jax.Array) -> Samples:
    """Sample all responses at once, (B, K) of them."""

    def going(slots: Slots) -> jax.Array:
        if sampler.feature_layers:  # until the last token of every response has been read
            return jnp.any(slots.samples.lengths >= slots.positions[:, None])
        return ~jnp.all(sampler.over(slots))

    def body(slots: Slots) -> Slots:
        return sampler.draw(*sampler.read(slots, prompts), keys)

    begun = sampler.start(prompts, keys, sampler.empty_cache(keys.shape))
    return sampler.results(jax.lax.while_loop(going, body, begun))


def _prefill(model: Decoder, tokens: jax.Array, lengths: jax.Array, prefix: Prefix | None) -> Prompts:
    """Compute prompts (B, P) of these lengths (B,)."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    valid = positions < lengths[:, None]
    states, keys_values = model.prefill(tokens, positions, causal_mask(valid), prefix)
    hidden = jnp.take_along_axis(states, (lengths - 1)[:, None, None], axis=1)[:, 0]
    if prefix is not None:
        keys_values = KeysValues(*map(jax.vmap(behind), prefix.keys_values, keys_values))
        seen = jnp.broadcast_to(prefix.valid, (len(tokens), len(prefix.valid)))
        valid = jnp.concatenate([seen, valid], axis=1)
        lengths = lengths + prefix.length
    return Prompts(keys_values, valid, lengths, hidden)
