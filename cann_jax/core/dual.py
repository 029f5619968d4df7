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
from cann_jax.core.table import Table, centred, table_baseline

EXACT = jax.lax.Precision.HIGHEST  # accelerators would round the products to bfloat16 or TF32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Standardised:
    """The dual in the solvers' units: F(θ) = Σ_x p_x·logsumexp_k(reward/β + θ·features) + θ·drift.

    Attributes:
        table: the table.
        margins: b ``(m,)``.
        beta: scalar β.
        baseline: ``(m,)``, E_ref[g].
        drift: ``(m,)``, the part of E[h_j]/s_j that no weighting of responses moves.
        floor: scalar, E_x[min_k reward]/β: F below it certifies that the margins are out of reach.
        reach: scalar, the root mean square of reward/β, the natural size of a tilt.
    """

    table: Table
    margins: jax.Array
    beta: jax.Array
    baseline: jax.Array
    drift: jax.Array
    floor: jax.Array
    reach: jax.Array


class Evaluation(NamedTuple):
    """F, its gradient ``(m,)`` and Hessian ``(m, m)`` at one tilt."""

    value: jax.Array
    gradient: jax.Array
    hessian: jax.Array


class PolicyStatistics(NamedTuple):
    """F, its gradient ``(m,)``, and E r (centred), KL and effective sample size of π_θ on the sample."""

    value: jax.Array
    gradient: jax.Array
    reward: jax.Array
    kl: jax.Array
    effective_sample_size: jax.Array


def pose(table: Table, margins: jax.Array, beta: jax.Array) -> Standardised:
    """The dual of a table at margins b ``(m,)`` and β; costs little beside an evaluation."""
    baseline, offset = table_baseline(table), 0
    if table.baseline is not None:
        offset = accurate_sum(table.prompt_means * table.weights) - baseline
    return Standardised(
        table=table,
        margins=margins,
        beta=beta,
        baseline=baseline,
        drift=(offset - margins) / table.spread,
        floor=accurate_sum(table.prompt_lowest * table.weights) / beta,
        reach=table.reward_spread / beta,
    )


def tilt_of(multipliers: jax.Array, problem: Standardised) -> jax.Array:
    """θ = λ·s/β, ``(m,)``."""
    return multipliers * problem.table.spread / problem.beta


def multipliers_of(tilt: jax.Array, problem: Standardised) -> jax.Array:
    """λ = θ·β/s, ``(m,)``."""
    return tilt * problem.beta / problem.table.spread


def tilted_logits(problem: Standardised, tilt: jax.Array) -> jax.Array:
    """``(prompts, responses)``: (r + ⟨λ, g⟩)/β up to a constant in each prompt."""
    # an unrolled sum fuses into one streaming pass, which a contraction over m does not; β divides last,
    # as in a solver's loop XLA would keep reward/β as an array of its own
    logits = problem.table.reward
    for j in range(problem.table.features.shape[0]):
        logits = logits + (tilt[j] * problem.beta) * problem.table.features[j]
    return logits / problem.beta


def evaluate(problem: Standardised, tilt: jax.Array) -> Evaluation:
    """Value, gradient and Hessian together, since they share the exponentials that cost the time."""
    table, (_, mass, total, log_total) = problem.table, _tilted_mass(problem, tilt)
    means = feature_sums(table, mass) / total
    value = accurate_sum(log_total * table.weights) + jnp.dot(tilt, problem.drift)
    gradient = accurate_sum(means * table.weights) + problem.drift
    return Evaluation(value, gradient, _covariance(table, mass, total, means))


def policy_statistics(problem: Standardised, tilt: jax.Array) -> PolicyStatistics:
    """What the tilted policy is predicted to do, in one pass of its own."""
    table, (logits, mass, total, log_total) = problem.table, _tilted_mass(problem, tilt)
    value = accurate_sum(log_total * table.weights) + jnp.dot(tilt, problem.drift)
    finite = jnp.maximum(logits, jnp.finfo(logits.dtype).min)  # no response: 0 · −inf must be 0
    *shifts, logit, square = _response_sums(mass, [*table.features, finite, mass])
    shift = accurate_sum(jnp.stack(shifts) / total * table.weights)
    expected = accurate_sum(logit / total * table.weights)
    surprise = accurate_sum((logit / total - log_total + table.prompt_log_counts) * table.weights)
    return PolicyStatistics(
        value=value,
        gradient=shift + problem.drift,
        reward=problem.beta * (expected - jnp.dot(tilt, shift)),
        kl=surprise,
        effective_sample_size=accurate_sum(total**2 / square * table.weights),
    )


def feature_sums(table: Table, mass: jax.Array) -> jax.Array:
    """Σ_k mass·features, ``(m, prompts)``."""
    return jnp.stack(_response_sums(mass, list(table.features)))


def _response_sums(mass: jax.Array, factors: list[jax.Array]) -> list[jax.Array]:
    """Σ_k mass·factor for each factor, ``(prompts,)``.

    XLA on CPUs fuses two or three such sums into one quick pass, but drops to a scalar loop beyond, as it
    does for a sum over (m, prompts, responses): five to ten times slower. So they go in pairs, and adding
    nothing that depends on the last pair keeps the next one out of its fusion.
    """
    sums = []
    for i, factor in enumerate(factors):
        if i and i % 2 == 0:
            mass = mass + 0 * sums[-1][:, None]
        sums.append(jnp.sum(mass * factor, axis=-1))
    return sums


def _tilted_mass(problem: Standardised, tilt: jax.Array):
    """Logits, their exponentials over the prompt's peak, and these' sum and log-sum per prompt."""
    logits = tilted_logits(problem, tilt)
    peak = jnp.max(logits, axis=-1)
    mass = jnp.exp(logits - peak[:, None])
    total = jnp.sum(mass, axis=-1)
    return logits, mass, total, peak + jnp.log(total)


def _covariance(table: Table, mass: jax.Array, total: jax.Array, means: jax.Array) -> jax.Array:
    """E_x Cov_{π_θ}(features), ``(m, m)``."""
    features, weights = table.features, table.weights
    if features.shape[0] == 1:
        # not mass · features², which XLA would keep as an array of its own
        second = jnp.sum(mass * features[0] * features[0], axis=-1) / total - means[0] ** 2
        return jnp.maximum(accurate_sum(second * weights), 0)[None, None]
    # one plain product of flat matrices: four times quicker than contracting two axes at once
    weighted = (features * (mass * (weights / total)[:, None])).reshape(features.shape[0], -1)
    second = jnp.matmul(weighted, features.reshape(features.shape[0], -1).T, precision=EXACT)
    return second - jnp.matmul(means * weights, means.T, precision=EXACT)


def natural_residual(tilt: jax.Array, gradient: jax.Array) -> jax.Array:
    """max_j |min(θ_j, ∂_jF)|, zero exactly at a KKT point of min F over θ ≥ 0.

    Written as a minimum: in θ − [θ − ∇F]₊ a large θ swallows the gradient, and false convergence follows.
    """
    return jnp.max(jnp.abs(jnp.minimum(tilt, gradient)))


@jax.jit
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
    logits = centred(scores.reward, mask) / beta
    constraints = centred(jnp.moveaxis(scores.constraints, -1, 0), mask)
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
    logits = centred(scores.reward, mask) / beta
    for j in range(scores.constraints.shape[-1]):
        logits = logits + (multipliers[j] / beta) * centred(scores.constraints[..., j], mask)
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
