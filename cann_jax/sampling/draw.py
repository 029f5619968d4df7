"""Draw one token from logits, exactly and cheaply: nucleus filter and two-level inverse CDF."""

import jax
import jax.numpy as jnp

from cann_jax.models.attention import NEGATIVE

BLOCK = 256  # vocabulary entries per block; 49,152 / 256 = 192 block sums


def uniform(keys: jax.Array, positions: jax.Array | int) -> jax.Array:
    """Return two numbers in [0, 1) for each of ``keys (…)``, (…, 2), a function of (key, position) alone."""
    numbers = jax.vmap(lambda key, position: jax.random.uniform(jax.random.fold_in(key, position), (2,)))
    positions = jnp.broadcast_to(positions, keys.shape)
    return numbers(keys.reshape(-1), positions.reshape(-1)).reshape(*keys.shape, 2)


def response_keys(seed: jax.Array, prompts: jax.Array, responses: int) -> jax.Array:
    """Return keys (B, K), a function of (seed, index of the prompt (B,) in the whole data set, response)."""
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    by_prompt = jax.vmap(jax.random.fold_in, (None, 0))(seed, prompts)
    return fold(by_prompt, jnp.arange(responses))


def nucleus(logits: jax.Array, top_p: float) -> jax.Array:
    """Mask everything outside the smallest set of mass ``top_p`` (Holtzman et al. 2020).

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
    """Draw token ids (…) from softmax(logits (…, V)) by inverting the CDF at u (…, 2).

    Each token takes two uniform numbers, where the Gumbel trick needs V of them (12.6 million a step for 256
    responses of SmolLM2, a quarter of the step's time on a CPU). The first chooses a block of the vocabulary,
    the second a token in it: with one number for both, only its last bits would be left for a block of small
    mass. A token of probability zero is never drawn.

    Returns:
        The ids and their log-probs.
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
    """Return the values (…, V) at index (…)."""
    return jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0]


def _invert(weights: jax.Array, u: jax.Array) -> jax.Array:
    """Return the first index of positive weight whose cumulative share of the total exceeds ``u``."""
    possible = weights > 0
    cumulative = jnp.cumsum(weights, axis=-1)
    # By rounding, parallel sums may rise over an entry without weight: hence "possible" here too.
    beyond = possible & (cumulative > u[..., None] * cumulative[..., -1:])
    # Rounding can put the target at the total; the answer is then the last entry with weight.
    last = weights.shape[-1] - 1 - jnp.argmax(jnp.flip(possible, axis=-1), axis=-1)
    return jnp.where(jnp.any(beyond, axis=-1), jnp.argmax(beyond, axis=-1), last)
