"""Generate K responses to each prompt, which is computed once and shared by all K."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from cann_jax.models.attention_inputs import causal_mask
from cann_jax.models.bfloat16_words import to_words
from cann_jax.models.config import DecoderConfig
from cann_jax.models.decoder import Decoder
from cann_jax.models.layers import KeysValues, behind
from cann_jax.models.prefix import Prefix
from cann_jax.runtime.memory import checked
from cann_jax.runtime.sharding import constrain
from cann_jax.sampling.draw import draw, nucleus, response_keys, take, uniform
from cann_jax.sampling.features import Sums, adding, empty_sums, mean


class Samples(NamedTuple):
    """Responses to a batch of prompts.

    Args:
        tokens: (B, K, T) ids; 0 after the end.
        lengths: (B, K) token counts, end token included.
        logps: (B, K, T) float32 log-prob of each token under the model at temperature 1; 0 after the end.
        stopped: (B, K) True where the response ended with a stop token, False where it reached the limit.
        features: (B, K, layers · hidden) float32 mean over each response's tokens of the residual stream
            after the chosen layers, divided by its RMS at each token; None where no layer was chosen.
    """

    tokens: jax.Array
    lengths: jax.Array
    logps: jax.Array
    stopped: jax.Array
    features: jax.Array | None = None


class _Loop(NamedTuple):
    step: jax.Array
    tokens: jax.Array  # (B, K) drawn last, read next
    own: KeysValues
    samples: Samples
    sums: Sums  # of the features, over the tokens read


@checked
@partial(
    jax.jit,
    static_argnames=("graph", "responses", "max_new_tokens", "temperature", "top_p", "feature_layers"),
)
def generate(
    graph: Any, weights: Any, prompts: jax.Array, prompt_lengths: jax.Array, prompt_indices: jax.Array,
    seed: jax.Array, stop_tokens: jax.Array, *,
    responses: int, max_new_tokens: int, temperature: float = 1.0, top_p: float = 1.0,
    feature_layers: tuple[int, ...] = (), prefix: Prefix | None = None,
) -> Samples:  # fmt: skip
    """Sample K ``responses`` of up to T = ``max_new_tokens`` tokens to each prompt from a split ``Decoder``.

    The draw is a function of the seed and of the prompts' indices (B,) in the whole data set. Prompts are ids
    (B, P), padded on the right, with lengths (B,). One of ``stop_tokens`` (n,) ends a response.
    ``temperature`` divides the logits; ``top_p`` is the mass of the nucleus, where 1 keeps everything.
    ``feature_layers`` are the layers, n for after n of them, of which features are gathered on the way.
    ``prefix`` are tokens before all prompts, which then hold at least one each.
    """
    model = nnx.merge(graph, weights)
    keys = response_keys(seed, prompt_indices, responses)
    prompt, first = _prefill(model, prompts, prompt_lengths, prefix)
    prompt_mask = jnp.arange(prompts.shape[1]) < prompt_lengths[:, None]
    if prefix is not None:
        prompt = KeysValues(*map(jax.vmap(behind), prefix.keys_values, prompt))
        seen = jnp.broadcast_to(prefix.valid, (len(prompts), len(prefix.valid)))
        prompt_mask = jnp.concatenate([seen, prompt_mask], axis=1)
        prompt_lengths = prompt_lengths + prefix.length

    def going(loop: _Loop) -> jax.Array:
        if feature_layers:  # until the last token of every response has been read
            return jnp.any(loop.samples.lengths >= loop.step)
        return (loop.step < max_new_tokens) & ~jnp.all(loop.samples.stopped)

    def drawn(hidden: jax.Array, samples: Samples, step: jax.Array) -> tuple[jax.Array, Samples]:
        scores = model.logits(hidden)
        tokens, logps = draw(nucleus(scores / temperature, top_p), uniform(keys, step))
        if temperature != 1 or top_p < 1:
            logps = take(scores, tokens) - jax.nn.logsumexp(scores, axis=-1)
        return tokens, _append(samples, step, tokens, logps, stop_tokens)

    def body(loop: _Loop) -> _Loop:
        last = loop.step - 1
        add = adding(feature_layers, loop.samples.lengths > last)
        hidden, own, sums = model.decode(
            loop.tokens, prompt_lengths + last, prompt, prompt_mask, loop.own, last, loop.sums, add
        )
        tokens, samples = drawn(hidden, loop.samples, loop.step)
        return _Loop(loop.step + 1, tokens, own, samples, sums)

    shape = (prompts.shape[0], responses)
    hidden = jnp.broadcast_to(first[:, None], (*shape, first.shape[-1]))
    tokens, samples = drawn(hidden, _empty_samples(shape, max_new_tokens), jnp.int32(0))
    own = _empty_cache(model.config, shape, max_new_tokens, model.dtype)
    sums = empty_sums(feature_layers, shape, model.config.hidden)
    end = jax.lax.while_loop(going, body, _Loop(jnp.int32(1), tokens, own, samples, sums))
    if end.sums is None:
        return end.samples
    return end.samples._replace(features=mean(end.sums, end.samples.lengths))


def _prefill(
    model: Decoder, prompts: jax.Array, lengths: jax.Array, prefix: Prefix | None
) -> tuple[KeysValues, jax.Array]:
    """Return keys and values of the prompts, and the hidden state (B, hidden) of each prompt's last token."""
    positions = jnp.broadcast_to(jnp.arange(prompts.shape[1]), prompts.shape)
    hidden, prompt = model.prefill(prompts, positions, causal_mask(positions < lengths[:, None]), prefix)
    return prompt, jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]


def _append(
    samples: Samples, step: jax.Array, tokens: jax.Array, logps: jax.Array, stop_tokens: jax.Array
) -> Samples:
    # The step that only reads the last tokens, for their features, draws beyond the limit.
    alive = ~samples.stopped & (step < samples.tokens.shape[-1])
    return Samples(
        tokens=samples.tokens.at[:, :, step].set(jnp.where(alive, tokens, 0)),
        lengths=samples.lengths + alive,
        logps=samples.logps.at[:, :, step].set(jnp.where(alive, logps, 0)),
        stopped=samples.stopped | jnp.isin(tokens, stop_tokens),
    )


def _empty_samples(shape: tuple[int, int], length: int) -> Samples:
    zeros = partial(jnp.zeros, dtype=jnp.int32)
    return Samples(zeros((*shape, length)), zeros(shape), jnp.zeros((*shape, length)), jnp.zeros(shape, bool))


def _empty_cache(config: DecoderConfig, shape: tuple[int, int], length: int, dtype: Any) -> KeysValues:
    cache = to_words(jnp.zeros((config.layers, *shape, config.kv_heads, length, config.head_dim), dtype))
    cache = constrain(cache, "layers", "batch", "any", "kv_heads", "any", "any")
    return KeysValues(cache, cache)
