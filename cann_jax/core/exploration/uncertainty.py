"""Uncertainty over prompts: bootstrap, a conservative λ, cross-fitting.

All of it is about which prompts were drawn; the effect of too few responses a prompt is ``finite_sample``'s.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cann_jax.core.arrays import Array, response_mean
from cann_jax.core.dual import tilted_weights
from cann_jax.core.exploration.means import mean_and_error, student_width
from cann_jax.core.feasibility import Feasible
from cann_jax.core.problem import Targets, weights_and_baseline
from cann_jax.core.scores import TOO_FEW, Scores, effective_prompts
from cann_jax.core.solver.lanes import lanes, solve_lane, solve_lanes
from cann_jax.core.solver.solution import DualSolution
from cann_jax.core.table import Table, standardise

ROUNDS = 3  # in which the error of a conservative λ is estimated


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """Solutions on resampled prompts, leading axis ``resamples``.

    Attributes:
        multipliers: ``(resamples, m)``, +∞ where a resample cannot reach the margins.
        predicted_reward: ``(resamples,)``, the reward of the full sample's λ* on the resample.
        predicted_improvement: ``(resamples, m)``, its improvements on the resample.
        infeasible_share: Share of the resamples that cannot reach the margins.
    """

    multipliers: np.ndarray
    predicted_reward: np.ndarray
    predicted_improvement: np.ndarray
    infeasible_share: np.floating


def bootstrap(
    scores: Scores,
    targets: Targets,
    beta: ArrayLike,
    multipliers: Array,
    resamples: int = 200,
    seed: int = 0,
) -> Bootstrap:
    """Resample prompts (as weights), solve each resample from λ*, and measure λ* itself on each.

    ``multipliers`` are the full sample's λ*, finite. Levels, group shares and E_ref[g] are estimated anew in
    each resample.
    """
    table = standardise(scores)
    weights = resampled_weights(table, resamples, seed)
    margins = margins_under(weights, table, targets)
    solutions = solve_lanes(table, lanes(table, margins, beta, weights), multipliers)
    reward, gains = predict_per_prompt(scores, multipliers, beta)
    return Bootstrap(
        multipliers=np.asarray(solutions.multipliers),
        predicted_reward=weights @ np.asarray(reward),
        predicted_improvement=(weights @ np.asarray(gains).T) * targets.rescale(weights),
        infeasible_share=np.mean(solutions.feasible == Feasible.NO),
    )


def resampled_weights(table: Table, resamples: int, seed: int) -> np.ndarray:
    """Return weights ``(resamples, prompts)`` of prompts drawn with replacement; they sum to one."""
    weights = np.asarray(table.weights)
    used = weights > 0  # a resample of prompts without weight would be empty
    count = used.sum()
    drawn = np.random.default_rng(seed).multinomial(count, used / count, size=resamples)
    return _shares(drawn * weights)


def _shares(weights: np.ndarray) -> np.ndarray:
    """Return weights ``(L, prompts)`` that sum to one in each row."""
    return np.asarray(weights / np.maximum(weights.sum(-1, keepdims=True), 1e-30), np.float32)


def margins_under(weights: np.ndarray, table: Table, targets: Targets) -> np.ndarray:
    """Return the margins ``(L, m)`` under each of the prompt weights ``(L, prompts)``."""
    given = table.baseline is not None
    baseline = np.asarray(table.baseline) if given else weights @ np.asarray(table.prompt_means).T
    return np.asarray(targets.margins(weights, baseline))


@jax.jit
def predict_per_prompt(scores: Scores, multipliers: Array, beta: float | Array) -> tuple[Array, Array]:
    """Return the reward ``(prompts,)`` and gains ``(m, prompts)`` of each prompt predicted under π_λ."""
    policy = tilted_weights(multipliers, scores, beta)
    reward = jnp.sum(policy * jnp.where(policy > 0, scores.reward, 0), axis=-1)
    constraints = jnp.moveaxis(scores.constraints, -1, 0)
    tilted = jnp.stack([jnp.sum(policy * jnp.where(policy > 0, g, 0), axis=-1) for g in constraints])
    return reward, tilted - reference_per_prompt(scores)


def reference_per_prompt(scores: Scores) -> Array:
    """Return E_ref[g] of each prompt ``(m, prompts)``, or where it was estimated elsewhere, that for all."""
    if scores.baseline is not None:
        return scores.baseline[:, None]
    return response_mean(jnp.moveaxis(scores.constraints, -1, 0), scores.mask)


def conservative_solution(
    scores: Scores,
    targets: Targets,
    beta: ArrayLike,
    confidence: float = 0.95,
    initial: ArrayLike | None = None,
) -> tuple[DualSolution, np.ndarray] | None:
    """Return λ whose targets hold for the population of prompts with the chosen confidence, all at once.

    Each margin is raised by t standard errors, at the answer, of what the target bounds: of the improvement,
    or of the level itself, to which the reference's own error belongs. t is Student's quantile with the tail
    shared among the m constraints (Bonferroni); the error moves with λ, so it takes a few rounds, from the
    plain λ* where ``initial`` gives it. The bias of too few responses remains.

    Returns:
        The solution at the raised margins, and these ``(m,)``; infeasible where the sample has no room. None
        where a constraint is about fewer than two effective prompts, which tell no error.
    """
    table = standardise(scores)
    weights, baseline = weights_and_baseline(scores)
    margins = np.asarray(targets.margins(weights, baseline), table.reward.dtype)
    tail = (1 - confidence) / len(margins)
    prompts = effective_prompts(weights, targets.members)
    if np.any(prompts < TOO_FEW):
        return None
    levels = jnp.where(jnp.asarray(targets.is_level)[:, None], reference_per_prompt(scores), 0)
    found = solve_lane(table, margins, beta).multipliers if initial is None else np.asarray(initial)
    for _ in range(ROUNDS):
        bounded = predict_per_prompt(scores, found, beta)[1] + levels
        _, error = mean_and_error(bounded, weights, targets.members)
        raised = (margins + student_width(error, prompts, len(margins), tail)).astype(margins.dtype)
        solution = solve_lane(table, raised, beta, found)
        found = solution.multipliers
        if not np.all(np.isfinite(found)):
            break
    if not solution.converged:  # λ of no solution keeps no promise
        nothing = np.full_like(np.asarray(solution.multipliers), np.inf)
        solution = dataclasses.replace(solution, multipliers=nothing)
    return solution, raised


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CrossFit:
    """λ from one half of the prompts, measured on the other, both ways round.

    Attributes:
        multipliers: ``(2, m)``, λ of each half.
        improvement: ``(2, m)``, each half's λ measured on the other half.
        error: ``(2, m)``, standard errors of ``improvement``.
    """

    multipliers: np.ndarray
    improvement: np.ndarray
    error: np.ndarray


def cross_fit(scores: Scores, targets: Targets, beta: float | Array, seed: int = 0) -> CrossFit | None:
    """Fit λ on half of the prompts and measure its improvement on the other half, which it has not seen.

    None where a half has fewer than two effective prompts for some constraint, which tell no error.
    """
    table = standardise(scores)
    prompts = scores.reward.shape[0]
    half = np.random.default_rng(seed).permutation(prompts) < prompts // 2
    weights = _shares(np.stack([half, ~half]) * np.asarray(table.weights))
    if any(np.any(effective_prompts(half, targets.members) < TOO_FEW) for half in weights):
        return None
    settings = lanes(table, margins_under(weights, table, targets), beta, weights)
    multipliers = np.asarray(solve_lanes(table, settings).multipliers)
    judged = []
    for found, held_out in zip(multipliers, weights[::-1], strict=True):
        known = np.all(np.isfinite(found))
        gains = predict_per_prompt(scores, np.where(known, found, 0).astype(weights.dtype), beta)[1]
        judged.append([np.where(known, x, np.inf) for x in mean_and_error(gains, held_out, targets.members)])
    improvement, error = (np.stack(parts) for parts in zip(*judged, strict=True))
    scale = targets.rescale(weights[::-1])
    return CrossFit(multipliers, improvement * scale, error * scale)
