"""How far the sample can be trusted over prompts: bootstrap, a conservative λ, cross-fitting.

All of it is about which prompts were drawn; what too few responses a prompt do is ``finite_sample``'s.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from cann_jax.core.dual import ready, reweigh, table_baseline, tilted_weights
from cann_jax.core.feasibility import Feasible
from cann_jax.core.prepare import Targets
from cann_jax.core.scores import (
    Scores,
    accurate_sum,
    normalised_prompt_weights,
    reference_mean,
    response_mean,
)
from cann_jax.core.solve import DualSolution, solve_dual, solve_table


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """Solutions on resampled prompts, leading axis ``resamples``.

    Attributes:
        multipliers: ``(resamples, m)``, +∞ where a resample cannot reach the margins.
        predicted_reward: ``(resamples,)``.
        predicted_improvement: ``(resamples, m)``, what the full sample's λ* improves on the resample.
        infeasible_share: share of the resamples that cannot reach the margins.
    """

    multipliers: jax.Array
    predicted_reward: jax.Array
    predicted_improvement: jax.Array
    infeasible_share: jax.Array


@partial(jax.jit, static_argnames="resamples")
def bootstrap(
    key: jax.Array,
    scores: Scores,
    targets: Targets,
    beta: float | jax.Array,
    multipliers: jax.Array,
    resamples: int = 200,
) -> Bootstrap:
    """Resample prompts (as weights), solve each again from λ*, and judge λ* itself on each.

    Levels, group shares and E_ref[g] are estimated anew in each resample.

    Args:
        key: random key.
        scores, targets: the prepared problem.
        beta: β > 0.
        multipliers: λ* ``(m,)`` of the full sample, finite.
        resamples: how many.
    """
    prompts = scores.reward.shape[0]
    table = ready(scores)
    policy = tilted_weights(multipliers, scores, beta)
    at_answer = jnp.sum(policy * jnp.where(policy > 0, scores.reward, 0), axis=-1)
    gains = prompt_gains(scores, policy)

    def one(key):
        drawn = jax.random.randint(key, (prompts,), 0, prompts)
        resample = reweigh(table, table.weights * jnp.zeros_like(table.weights).at[drawn].add(1))
        margins = targets.margins(resample.weights, table_baseline(resample))
        solution = solve_table(resample, margins, beta, initial=multipliers)
        improvement = accurate_sum(gains * resample.weights) * targets.rescale(resample.weights)
        reward = accurate_sum(at_answer * resample.weights)
        return solution.multipliers, reward, improvement, solution.feasible == Feasible.NO

    found, reward, improvement, infeasible = jax.lax.map(one, jax.random.split(key, resamples))
    return Bootstrap(found, reward, improvement, jnp.mean(infeasible))


def prompt_gains(scores: Scores, policy: jax.Array) -> jax.Array:
    """``(m, prompts)``: E_policy[g_j] − E_ref[g_j] of each prompt; policy ``(prompts, responses)``."""
    constraints = jnp.moveaxis(scores.constraints, -1, 0)
    tilted = jnp.stack([jnp.sum(policy * jnp.where(policy > 0, g, 0), axis=-1) for g in constraints])
    gains = tilted - response_mean(constraints, scores.mask)
    if scores.baseline is None:
        return gains
    own = accurate_sum(response_mean(constraints, scores.mask) * normalised_prompt_weights(scores))
    return gains + (own - scores.baseline)[:, None]


def interval(samples: jax.Array, confidence: float = 0.95) -> tuple[jax.Array, jax.Array]:
    """Percentile interval over the leading axis; infeasible resamples count as +∞ and stay whole."""
    tail = (1 - confidence) / 2
    low = jnp.quantile(samples, tail, axis=0, method="lower")
    return low, jnp.quantile(samples, 1 - tail, axis=0, method="higher")


def conservative_solution(
    scores: Scores, margins: jax.Array, beta: float | jax.Array, confidence: float = 0.95, rounds: int = 3
) -> tuple[DualSolution, jax.Array]:
    """λ whose margins hold for the population of prompts with the chosen confidence, all of them at once.

    Each margin is raised by z standard errors of the predicted improvement at the answer, z the normal
    quantile with the tail shared among the m constraints (Bonferroni); the error moves with λ, so a few
    rounds are taken. Nothing here repairs the bias of too few responses.

    Returns:
        The solution at the raised margins, and these ``(m,)``; infeasible where the sample has no room.
    """
    margins = jnp.atleast_1d(jnp.asarray(margins, scores.reward.dtype))
    quantile = norm.ppf(1 - (1 - confidence) / margins.shape[0])
    solution, raised = solve_dual(scores, margins, beta, "newton"), margins
    for _ in range(rounds):
        if not bool(jnp.all(jnp.isfinite(solution.multipliers))):
            break
        error = improvement_error(scores, solution.multipliers, beta)
        raised = margins + quantile * error
        solution = solve_dual(scores, raised, beta, "newton", initial=solution.multipliers)
    return solution, raised


@jax.jit
def improvement_error(scores: Scores, multipliers: jax.Array, beta: float | jax.Array) -> jax.Array:
    """``(m,)``: standard error over prompts of the improvement that λ ``(m,)`` is predicted to bring."""
    weights = normalised_prompt_weights(scores)
    gains = prompt_gains(scores, tilted_weights(multipliers, scores, beta))
    deviations = gains - accurate_sum(gains * weights)[:, None]
    return jnp.sqrt(accurate_sum(deviations**2 * weights**2))


@dataclasses.dataclass(frozen=True)
class CrossFit:
    """λ from one half of the prompts, judged on the other, both ways round.

    Attributes:
        multipliers: ``(2, m)``, λ of each half.
        improvement: ``(2, m)``, each half's λ measured on the other half.
        error: ``(2, m)``, standard errors of ``improvement``.
    """

    multipliers: jax.Array
    improvement: jax.Array
    error: jax.Array


def cross_fit(key: jax.Array, scores: Scores, targets: Targets, beta: float | jax.Array) -> CrossFit:
    """Fit λ on half of the prompts and measure its improvement on the other half, which it has not seen.

    Args:
        key: random key for the split.
        scores, targets: the prepared problem.
        beta: β > 0.
    """
    prompts = scores.reward.shape[0]
    half = jax.random.permutation(key, prompts) < prompts // 2
    found = []
    for fitted in (half, ~half):
        fit = _reweighted(scores, fitted)
        margins = targets.margins(normalised_prompt_weights(fit), reference_mean(fit))
        solution = solve_dual(fit, margins, beta, "newton")
        found.append((solution.multipliers, *_judge(_reweighted(scores, ~fitted), targets, solution, beta)))
    return CrossFit(*(jnp.stack(parts) for parts in zip(*found, strict=True)))


def _reweighted(scores: Scores, chosen: jax.Array) -> Scores:
    weights = jnp.where(chosen, normalised_prompt_weights(scores), 0)
    return dataclasses.replace(scores, prompt_weights=weights)


def _judge(held_out: Scores, targets: Targets, solution: DualSolution, beta):
    """Improvement and its standard error ``(m,)``; infinite λ have neither."""
    finite = jnp.isfinite(solution.multipliers)
    multipliers = jnp.where(finite, solution.multipliers, 0)
    gains = prompt_gains(held_out, tilted_weights(multipliers, held_out, beta))
    weights = normalised_prompt_weights(held_out)
    scale = targets.rescale(weights)
    improvement = accurate_sum(gains * weights) * scale
    error = improvement_error(held_out, multipliers, beta) * scale
    known = jnp.all(finite)
    return jnp.where(known, improvement, jnp.inf), jnp.where(known, error, jnp.inf)
