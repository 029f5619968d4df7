"""The dual function in closed form: value, gradient and Hessian in one pass over the table.

D(λ) = β·E_x[ln E_{y~π_ref} exp((r + ⟨λ, h⟩)/β)] with h_j = g_j − E_ref[g_j] − b_j (paper, section 3).
Solvers see it standardised: rewards divided by β, every constraint centred within its prompt and divided
by its spread s_j, multipliers as tilts θ_j = λ_j·s_j/β. Then one tolerance suits every table, and float32
spends its digits on differences between responses, the only thing the weights depend on.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cann_jax.core.scores import (
    Scores,
    accurate_sum,
    normalised_prompt_weights,
    reference_mean,
    response_mean,
    valid_mask,
)

EXACT = jax.lax.Precision.HIGHEST  # accelerators would round the products to bfloat16 or TF32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Standardised:
    """The dual problem in the solvers' units; F(θ) = Σ_x p_x·logsumexp_k(logits + θ·features) + θ·drift.

    Attributes:
        logits: ``(prompts, responses)``, (r − mean_x r)/β; −inf where no response is.
        features: ``(m, prompts, responses)``, (g_j − mean_x g_j)/s_j; 0 where no response is.
        weights: ``(prompts,)``, summing to one.
        drift: ``(m,)``, the part of E[h_j]/s_j that no weighting of responses moves.
        spread: ``(m,)``, s_j: the root mean square deviation of g_j within a prompt.
        floor: scalar, E_x[min_k logits]: F below it certifies that the margins are out of reach.
        reach: scalar, the root mean square of the logits, the natural size of a tilt.
        beta: scalar β.
    """

    logits: jax.Array
    features: jax.Array
    weights: jax.Array
    drift: jax.Array
    spread: jax.Array
    floor: jax.Array
    reach: jax.Array
    beta: jax.Array


class Evaluation(NamedTuple):
    """F, its gradient ``(m,)`` and Hessian ``(m, m)`` at one tilt."""

    value: jax.Array
    gradient: jax.Array
    hessian: jax.Array


def standardise(scores: Scores, margins: jax.Array, beta: jax.Array) -> Standardised:
    """Centre and scale a table: margins ``(m,)``, β a positive scalar."""
    mask = None if scores.mask is None else valid_mask(scores)
    weights = normalised_prompt_weights(scores)
    reward = _centred(scores.reward, mask) / beta
    constraints = jnp.moveaxis(scores.constraints, -1, 0)
    features = _centred(constraints, mask)
    spread = _spread(features, weights, mask)
    drift = -margins / spread
    if scores.baseline is not None:
        own_mean = accurate_sum(response_mean(constraints, mask) * weights)
        drift = drift + (own_mean - scores.baseline) / spread
    lowest = jnp.min(reward, axis=-1)
    reach = jnp.sqrt(accurate_sum(response_mean(reward * reward, mask) * weights))
    if mask is not None:
        empty = ~jnp.any(mask, axis=-1, keepdims=True)
        lowest = jnp.min(jnp.where(mask | empty, reward, jnp.inf), axis=-1)
        reward = jnp.where(mask | empty, reward, -jnp.inf)
    return Standardised(
        logits=reward,
        features=features / spread[:, None, None],
        weights=weights,
        drift=drift,
        spread=spread,
        floor=accurate_sum(lowest * weights),
        reach=reach,
        beta=jnp.asarray(beta, reward.dtype),
    )


def _centred(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Deviations from the prompt's mean; 0 where no response is, whatever stood there."""
    deviations = values - response_mean(values, mask)[..., None]
    return deviations if mask is None else jnp.where(mask, deviations, 0)


def _spread(deviations: jax.Array, weights: jax.Array, mask: jax.Array | None) -> jax.Array:
    """``(m,)`` root mean square deviation within a prompt; 1 for a constraint that never varies."""
    # the largest deviation is divided out first: squares of 1e20 or 1e-30 leave float32's range
    size = jnp.max(jnp.abs(deviations), axis=(-2, -1))
    size = jnp.where(size > 0, size, 1)
    scaled = deviations / size[:, None, None]
    variance = accurate_sum(response_mean(scaled * scaled, mask) * weights)
    return jnp.where(variance > 0, size * jnp.sqrt(variance), 1)


def tilt_of(multipliers: jax.Array, problem: Standardised) -> jax.Array:
    """θ = λ·s/β, ``(m,)``."""
    return multipliers * problem.spread / problem.beta


def multipliers_of(tilt: jax.Array, problem: Standardised) -> jax.Array:
    """λ = θ·β/s, ``(m,)``."""
    return tilt * problem.beta / problem.spread


def tilted_logits(problem: Standardised, tilt: jax.Array) -> jax.Array:
    """``(prompts, responses)``: (r + ⟨λ, g⟩)/β up to a constant in each prompt."""
    # an unrolled sum fuses into one streaming pass, which a contraction over m does not
    logits = problem.logits
    for j in range(problem.features.shape[0]):
        logits = logits + tilt[j] * problem.features[j]
    return logits


def evaluate(problem: Standardised, tilt: jax.Array) -> Evaluation:
    """Value, gradient and Hessian together, since they share the exponentials that cost the time."""
    logits = tilted_logits(problem, tilt)
    peak = jnp.max(logits, axis=-1)
    mass = jnp.exp(logits - peak[:, None])
    total = jnp.sum(mass, axis=-1)
    means = jnp.sum(mass * problem.features, axis=-1) / total
    value = accurate_sum((peak + jnp.log(total)) * problem.weights) + jnp.dot(tilt, problem.drift)
    gradient = accurate_sum(means * problem.weights) + problem.drift
    return Evaluation(value, gradient, _covariance(problem, mass, total, means))


def _covariance(problem: Standardised, mass: jax.Array, total: jax.Array, means: jax.Array) -> jax.Array:
    """E_x Cov_{π_θ}(features), ``(m, m)``."""
    features, weights = problem.features, problem.weights
    if features.shape[0] == 1:
        second = jnp.sum(mass * features[0] ** 2, axis=-1) / total - means[0] ** 2
        return jnp.maximum(accurate_sum(second * weights), 0)[None, None]
    weighted = features * (mass * (weights / total)[:, None])
    second = jnp.einsum("ink,jnk->ij", weighted, features, precision=EXACT)
    return second - jnp.einsum("in,jn->ij", means * weights, means, precision=EXACT)


def natural_residual(tilt: jax.Array, gradient: jax.Array) -> jax.Array:
    """max_j |min(θ_j, ∂_jF)|, zero exactly at a KKT point of min F over θ ≥ 0.

    Written as a minimum: in θ − [θ − ∇F]₊ a large θ swallows the gradient, and false convergence follows.
    """
    return jnp.max(jnp.abs(jnp.minimum(tilt, gradient)))


def tilted_weights(multipliers: jax.Array, scores: Scores, beta: float | jax.Array) -> jax.Array:
    """The optimal policy on the sample: softmax over a prompt's responses of (r + ⟨λ, g⟩)/β.

    Paper, eq. 4 on K samples: margins and baseline are constants of a prompt and drop out.

    Args:
        multipliers: λ ``(m,)``.
        scores: the table.
        beta: β > 0.

    Returns:
        ``(prompts, responses)``, each prompt's weights summing to one, 0 where no response is.
    """
    mask = None if scores.mask is None else valid_mask(scores)
    logits = _centred(scores.reward, mask) / beta
    constraints = _centred(jnp.moveaxis(scores.constraints, -1, 0), mask)
    for j in range(constraints.shape[0]):
        logits = logits + (multipliers[j] / beta) * constraints[j]
    if mask is None:
        return jax.nn.softmax(logits, axis=-1)
    weights = jax.nn.softmax(jnp.where(mask, logits, jnp.finfo(logits.dtype).min), axis=-1)
    return jnp.where(mask, weights, 0)


@jax.custom_jvp
def dual_value(
    multipliers: jax.Array, scores: Scores, margins: jax.Array, beta: float | jax.Array
) -> jax.Array:
    """D(λ), the dual function's plug-in estimate (paper, section 3); in the reward's units.

    Its derivatives in every argument are closed forms (∇D_j = E_x E_{π_λ}[h_j]), not traced through the
    logsumexp; prompt weights count as constants.

    Args:
        multipliers: λ ``(m,)``.
        scores: the table.
        margins: b ``(m,)``.
        beta: β > 0.
    """
    weights = normalised_prompt_weights(scores)
    mask = None if scores.mask is None else valid_mask(scores)
    centre = response_mean(scores.reward, mask)
    constraint_centre = response_mean(jnp.moveaxis(scores.constraints, -1, 0), mask)
    logits = _centred(scores.reward, mask) / beta
    for j in range(scores.constraints.shape[-1]):
        logits = logits + (multipliers[j] / beta) * _centred(scores.constraints[..., j], mask)
    count = scores.reward.shape[-1] if mask is None else jnp.maximum(jnp.sum(mask, axis=-1), 1)
    total = jax.nn.logsumexp(logits, axis=-1, where=mask) - jnp.log(count)
    total = total if mask is None else jnp.where(jnp.any(mask, axis=-1), total, 0)
    offset = accurate_sum(constraint_centre * weights) - reference_mean(scores) - margins
    return accurate_sum((beta * total + centre) * weights) + jnp.dot(multipliers, offset)


@dual_value.defjvp
def _dual_value_jvp(primals, tangents):
    multipliers, scores, margins, beta = primals
    d_multipliers, d_scores, d_margins, d_beta = tangents
    value = dual_value(multipliers, scores, margins, beta)
    policy = tilted_weights(multipliers, scores, beta)
    weights = normalised_prompt_weights(scores)
    joint = policy * weights[:, None]
    expected = _expectation(joint, scores.constraints)
    gradient = expected - reference_mean(scores) - margins
    expected_reward = jnp.sum(accurate_sum(joint * scores.reward))
    tangent = jnp.dot(gradient, d_multipliers) - jnp.dot(multipliers, d_margins)
    tangent = tangent + (value - expected_reward - jnp.dot(multipliers, gradient)) / beta * d_beta
    tangent = tangent + jnp.sum(joint * d_scores.reward)
    tangent = tangent + jnp.dot(multipliers, _expectation(joint, d_scores.constraints))
    return value, tangent + _baseline_tangent(multipliers, scores, d_scores)


def _expectation(joint: jax.Array, values: jax.Array) -> jax.Array:
    """``(m,)``: Σ over prompts and responses of weights times ``(prompts, responses, m)`` values."""
    return accurate_sum(jnp.sum(joint * jnp.moveaxis(values, -1, 0), axis=-1))


def _baseline_tangent(multipliers: jax.Array, scores: Scores, d_scores: Scores) -> jax.Array:
    """How D moves through E_ref[g], which is linear in the constraints' scores."""
    if scores.baseline is not None:
        return -jnp.dot(multipliers, d_scores.baseline)
    moved = dataclasses.replace(scores, constraints=d_scores.constraints)
    return -jnp.dot(multipliers, reference_mean(moved))
