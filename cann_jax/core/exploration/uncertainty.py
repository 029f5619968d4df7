"""Uncertainty over prompts: a conservative λ, cross-fitting.

All of it is about which prompts were drawn; the effect of too few responses a prompt is ``finite_sample``'s.
"""

import dataclasses

import jax
import numpy as np
from jax.typing import ArrayLike

from cann_jax.core.arguments import finite_multipliers, required_beta, tail_of
from cann_jax.core.arrays import Array
from cann_jax.core.compilation import on_host
from cann_jax.core.exploration.means import mean_and_error, student_width
from cann_jax.core.exploration.per_prompt import predict_per_prompt, reference_per_prompt
from cann_jax.core.exploration.resampling import check_problem, margins_under, shares_of
from cann_jax.core.problem import Targets, weights_and_baseline
from cann_jax.core.scores import TOO_FEW, Scores, effective_prompts
from cann_jax.core.solver.lanes import lanes, solve_lane, solve_lanes
from cann_jax.core.solver.solution import DualSolution
from cann_jax.core.table import standardise

ROUNDS = 3  # in which the error of a conservative λ is estimated


@on_host
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
    plain λ* where ``initial`` gives it. The bias of too few responses remains. Runs on the host.

    Returns:
        The solution at the raised margins, and these ``(m,)``; infeasible where the sample has no room. None
        where a constraint is about fewer than two effective prompts, which tell no error.

    Raises:
        InputError: As ``forecast``.
    """
    check_problem(scores, targets)
    beta = required_beta(beta, scores.dtype)
    table = standardise(scores)
    weights, baseline = jax.device_get(weights_and_baseline(scores))
    margins = np.asarray(targets.margins(weights, baseline), table.reward.dtype)
    tail = tail_of(confidence, len(margins))
    prompts = effective_prompts(weights, targets.members)
    if np.any(prompts < TOO_FEW):
        return None
    levels = np.where(np.asarray(targets.is_level)[:, None], np.asarray(reference_per_prompt(scores)), 0)
    if initial is None:
        found = solve_lane(table, margins, beta).multipliers
    else:
        found = finite_multipliers(initial, scores, "initial")
    for _ in range(ROUNDS):
        bounded = np.asarray(predict_per_prompt(scores, found, beta)[1]) + levels
        _, error = mean_and_error(bounded, weights, targets.members)
        raised = (margins + student_width(error, prompts, len(margins), tail)).astype(margins.dtype)
        solution = solve_lane(table, raised, beta, found)
        found = solution.multipliers
        if not np.all(np.isfinite(found)):
            break
    if not solution.converged:  # λ of no solution keeps no promise
        nothing = np.full_like(np.asarray(solution.multipliers), np.inf)
        solution = dataclasses.replace(solution, multipliers=nothing)
    return solution.named(scores.names), raised


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


@on_host
def cross_fit(scores: Scores, targets: Targets, beta: float | Array, seed: int = 0) -> CrossFit | None:
    """Fit λ on half of the prompts and measure its improvement on the other half, which it has not seen.

    None where a half has fewer than two effective prompts for some constraint, which tell no error. Runs on
    the host.

    Raises:
        InputError: Scores, targets or β as in ``bootstrap``.
    """
    check_problem(scores, targets)
    beta = required_beta(beta, scores.dtype)
    table = standardise(scores)
    prompts = scores.reward.shape[0]
    half = np.random.default_rng(seed).permutation(prompts) < prompts // 2
    weights = shares_of(np.stack([half, ~half]) * np.asarray(table.weights))
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
