"""One token from logits, exactly and cheaply: nucleus filter and two-level inverse-CDF draw."""

import jax
import jax.numpy as jnp

from cann_jax.models.attention import NEGATIVE

BLOCK = 256  # vocabulary entries a block; 49,152 / 256 = 192 block sums


def uniform(keys: jax.Array, position) -> jax.Array:
    """Two numbers in [0, 1) for each of ``keys (…)``, (…, 2), a function of (key, position) alone."""
    numbers = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, position), 2))
    return numbers(keys.reshape(-1)).reshape(*keys.shape, 2)


def response_keys(seed: jax.Array, prompts: jax.Array, responses: int) -> jax.Array:
    """Keys (B, K) derived from (seed, prompt, response).

    Args:
        seed: Key of the run's sampling.
        prompts: (B,) indices of the prompts in the whole data set.
        responses: K.
    """
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    by_prompt = jax.vmap(jax.random.fold_in, (None, 0))(seed, prompts)
    return fold(by_prompt, jnp.arange(responses))


def nucleus(logits: jax.Array, top_p: float) -> jax.Array:
    """Logits with everything outside the smallest set of mass ``top_p`` removed (Holtzman et al. 2020).

    The most likely token is always kept.
    """
    if top_p >= 1:
        return logits
    ordered = jnp.sort(logits, axis=-1, descending=True)
    mass_before = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1) - jax.nn.softmax(ordered, axis=-1)
    inside = mass_before < top_p
    threshold = jnp.min(jnp.where(inside, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= threshold, logits, NEGATIVE)


def draw(logits: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Token ids (…) drawn from softmax(logits (…, V)), and their log-probs, by inverting the CDF at u (…, 2).

    Two uniform numbers a token, where the Gumbel trick needs V of them (12.6 million a step for 256 responses
    of SmolLM2, a quarter of the step's time on a CPU). The first picks a block of the vocabulary, the second
    a token of the block: with one number for both, a block of small mass would be left only its last bits.
    A token of probability zero is never drawn.
    """
    largest = jnp.max(logits, axis=-1, keepdims=True)
    weights = jnp.exp(logits - largest)
    padding = -weights.shape[-1] % BLOCK
    blocks = jnp.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(0, padding)])
    blocks = blocks.reshape(*weights.shape[:-1], -1, BLOCK)
    sums = jnp.sum(blocks, axis=-1)
    block = _invert(sums, u[..., 0])
    inside = jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :]
    token = block * BLOCK + _invert(inside, u[..., 1])
    return token, take(logits, token) - largest[..., 0] - jnp.log(jnp.sum(sums, axis=-1))


def take(values: jax.Array, index: jax.Array) -> jax.Array:
    """values (…, V) at index (…)."""
    return jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0]


def _invert(weights: jax.Array, u: jax.Array) -> jax.Array:
    """First index of weight above zero whose cumulative weight exceeds the share ``u`` of the total."""
    possible = weights > 0
    cumulative = jnp.cumsum(weights, axis=-1)
    # Sums made in parallel may rise by rounding over an entry without weight: hence "possible" here too.
    beyond = possible & (cumulative > u[..., None] * cumulative[..., -1:])
    # Rounding can put the target at the total; the last entry with weight is then the answer.
    last = weights.shape[-1] - 1 - jnp.argmax(jnp.flip(possible, axis=-1), axis=-1)
    return jnp.where(jnp.any(beyond, axis=-1), jnp.argmax(beyond, axis=-1), last)
