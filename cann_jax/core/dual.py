"""The dual function D(λ) and the policy π_λ on a score table, in the user's units (paper, section 3)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cann_jax.core.arguments import multipliers_of, required_beta, required_margins
from cann_jax.core.arrays import Array, accurate_sum, response_mean
from cann_jax.core.scores import (
    Scores,
    check_each,
    normalised_prompt_weights,
    reference_mean,
    response_mask,
)
from cann_jax.core.table import centred


@jax.jit
def tilted_weights(multipliers: ArrayLike, scores: Scores, beta: float | Array) -> Array:
    """Return the optimal policy on the sample: softmax over a prompt's responses of (r + ⟨λ, g⟩)/β.

    Paper, eq. 4 on K samples: margins and baseline are constants of a prompt and drop out.

    Returns:
        ``(prompts, responses)``, each prompt's weights summing to one; 0 for missing responses.
    """
    check_each(scores)
    multipliers = multipliers_of(multipliers, scores)
    mask, logits = response_mask(scores), _centred_logits(multipliers, scores, beta)
    if mask is None:
        return jax.nn.softmax(logits, axis=-1)
    weights = jax.nn.softmax(jnp.where(mask, logits, np.finfo(logits.dtype).min), axis=-1)
    return jnp.where(mask, weights, 0)


def _centred_logits(multipliers: Array, scores: Scores, beta: float | Array) -> Array:
    """Return (r + ⟨λ, g⟩)/β, centred within each prompt; 0 for missing responses."""
    mask = response_mask(scores)
    logits = centred(scores.reward, mask) / beta
    for j in range(scores.constraints.shape[-1]):
        logits = logits + (multipliers[j] / beta) * centred(scores.constraints[..., j], mask)
    return logits


def dual_value(
    multipliers: ArrayLike, scores: Scores, margins: ArrayLike | Mapping[str, float], beta: float | Array
) -> Array:
    """Return D(λ), the dual function's plug-in estimate (paper, section 3), in the reward's units.

    Its derivatives in every argument are closed forms (∇D_j = E_x E_{π_λ}[h_j]), not traced through the
    logsumexp; prompt weights count as constants.
    """
    required, beta = required_margins(margins, scores), required_beta(beta, scores.dtype)
    value: Array = _dual_value(multipliers_of(multipliers, scores), scores, required, beta)
    return value


@jax.custom_jvp
def _dual_value(multipliers: Array, scores: Scores, margins: Array, beta: Array) -> Array:
    weights, mask = normalised_prompt_weights(scores), response_mask(scores)
    count = scores.reward.shape[-1] if mask is None else jnp.maximum(jnp.sum(mask, axis=-1), 1)
    logits = _centred_logits(multipliers, scores, beta)
    total = jax.nn.logsumexp(logits, axis=-1, where=mask) - jnp.log(count)
    total = total if mask is None else jnp.where(jnp.any(mask, axis=-1), total, 0)
    constraint_means = response_mean(jnp.moveaxis(scores.constraints, -1, 0), mask)
    offset = accurate_sum(constraint_means * weights) - reference_mean(scores) - margins
    per_prompt = beta * total + response_mean(scores.reward, mask)
    return accurate_sum(per_prompt * weights) + jnp.dot(multipliers, offset)


@_dual_value.defjvp
def _dual_value_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    multipliers, scores, margins, beta = primals
    d_multipliers, d_scores, d_margins, d_beta = tangents
    value = _dual_value(multipliers, scores, margins, beta)
    policy = tilted_weights(multipliers, scores, beta)
    weights = normalised_prompt_weights(scores)
    joint = policy * weights[:, None]
    expected = _expectation(joint, scores.constraints)
    gradient = expected - reference_mean(scores) - margins
    expected_reward = jnp.sum(accurate_sum(joint * jnp.where(joint > 0, scores.reward, 0)))
    tangent = jnp.dot(gradient, d_multipliers) - jnp.dot(multipliers, d_margins)
    tangent = tangent + (value - expected_reward - jnp.dot(multipliers, gradient)) / beta * d_beta
    tangent = tangent + jnp.sum(joint * d_scores.reward)
    tangent = tangent + jnp.dot(multipliers, _expectation(joint, d_scores.constraints))
    return value, tangent + _baseline_tangent(multipliers, scores, d_scores)


def _expectation(joint: Array, values: Array) -> Array:
    """Return ``(m,)``: the sum over prompts and responses of weights times values ``(..., m)``.

    Values without weight may be NaN, as those of missing responses are.
    """
    present = jnp.where(joint > 0, jnp.moveaxis(values, -1, 0), 0)
    return accurate_sum(jnp.sum(joint * present, axis=-1))


def _baseline_tangent(multipliers: Array, scores: Scores, d_scores: Scores) -> Array:
    """Return how D moves through E_ref[g], which is linear in the constraints' scores."""
    if scores.baseline is not None:
        assert d_scores.baseline is not None, "a tangent has its primal's structure"
        return -jnp.dot(multipliers, d_scores.baseline)
    moved = dataclasses.replace(scores, constraints=d_scores.constraints)
    return -jnp.dot(multipliers, reference_mean(moved))
