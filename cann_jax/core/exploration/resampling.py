"""Bootstrap over prompts: problems whose prompts are drawn anew, with replacement, from a table's own."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cann_jax.core.arrays import Array
from cann_jax.core.exploration.per_prompt import predict_per_prompt
from cann_jax.core.feasibility import Feasible
from cann_jax.core.objective import direction, natural_residual, per_prompt
from cann_jax.core.problem import Targets
from cann_jax.core.scores import Scores
from cann_jax.core.solver.blocks import many_blocks, over_prompts, standard_block_objective
from cann_jax.core.solver.lanes import lanes, solve_lanes
from cann_jax.core.solver.newton import box_step
from cann_jax.core.table import Table, reweigh, standardise

HELD = 1 << 24  # weights of so many prompts are held at once: 64 MB
MANY = 4096  # prompts from which λ* of a resample is near enough for one step
LEFT = 0.1  # share of its residual that a step may leave in the resample that moves furthest


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
    each resample. Where prompts are many one Newton step from λ* solves a resample, on sums over the prompts'
    own gradients and Hessians, without a pass over responses.
    """
    table = standardise(scores)
    reward, gains = (np.asarray(x) for x in predict_per_prompt(scores, multipliers, beta))
    solved = None
    if many_blocks(table.reward) and len(table.weights) >= MANY:
        solved = _one_step(table, targets, beta, multipliers, resamples, seed)
    parts = []
    for weights, margins in _resamples(table, targets, resamples, seed):
        own = None if solved else solve_lanes(table, lanes(table, margins, beta, weights), multipliers)
        improvement = (weights @ gains.T) * targets.rescale(weights)
        parts.append((weights @ reward, improvement, own and own.multipliers, own and own.feasible))
    rewards, improvements, *found = ([*own] for own in zip(*parts, strict=True))
    if solved is None:
        solved = np.concatenate(found[0]), np.concatenate(found[1]) == Feasible.NO
    return Bootstrap(solved[0], np.concatenate(rewards), np.concatenate(improvements), np.mean(solved[1]))


def _resamples(
    table: Table, targets: Targets, resamples: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield prompt weights ``(n, prompts)`` and margins ``(n, m)`` of some resamples after the other."""
    generator, most = np.random.default_rng(seed), max(1, HELD // len(table.weights))
    for first in range(0, resamples, most):
        weights = draw_weights(table, min(most, resamples - first), generator)
        yield weights, margins_under(weights, table, targets)


def draw_weights(table: Table, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Return weights ``(resamples, prompts)`` of prompts drawn with replacement; they sum to one."""
    weights = np.asarray(table.weights)
    used = np.flatnonzero(weights)  # a resample of prompts without weight would be empty
    drawn = np.zeros((resamples, len(weights)), np.float32)
    for row in drawn:
        row[used] = np.bincount(generator.integers(len(used), size=len(used)), minlength=len(used))
    return shares_of(drawn * weights)


def shares_of(weights: np.ndarray) -> np.ndarray:
    """Return weights ``(L, prompts)`` that sum to one in each row."""
    return np.asarray(weights / np.maximum(weights.sum(-1, keepdims=True), 1e-30), np.float32)


def margins_under(weights: np.ndarray, table: Table, targets: Targets) -> np.ndarray:
    """Return the margins ``(L, m)`` under each of the prompt weights ``(L, prompts)``."""
    return np.asarray(targets.margins(weights, _baselines(weights, table)))


def _baselines(weights: np.ndarray, table: Table) -> np.ndarray:
    given = table.baseline is not None
    return np.asarray(table.baseline) if given else weights @ np.asarray(table.prompt_means).T


class _Step(NamedTuple):
    """A resample one step from θ*: its weights and margins, θ ``(m,)``, and the residual at θ*."""

    weights: np.ndarray
    margins: np.ndarray
    tilt: np.ndarray
    residual: float


def _one_step(
    table: Table, targets: Targets, beta: ArrayLike, multipliers: Array, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return λ ``(resamples, m)`` to first order, and which resamples cannot reach the margins.

    None where the resample that moves furthest is not solved by one step.
    """
    unit = np.asarray(beta / table.spreads.constraints)
    start = np.asarray(multipliers) / unit
    moments = over_prompts(per_prompt, table, jnp.asarray(beta, table.reward.dtype), start)
    gradients, hessians, best = (np.asarray(x, np.float64) for x in moments)
    count, way = len(start), np.asarray(direction(jnp.asarray(start)))
    found, infeasible, furthest = [], [], _Step(start, start, start, 0.0)
    for weights, margins in _resamples(table, targets, resamples, seed):
        means = weights @ np.asarray(table.prompt_means).T
        drift = (means - _baselines(weights, table) - margins) / np.asarray(table.spreads.constraints)
        slopes = weights @ gradients.T + drift
        curvatures = (weights @ hessians.reshape(count * count, -1).T).reshape(-1, count, count)
        tilts = np.asarray(_box_steps(jnp.asarray(start), slopes, curvatures))
        moved = np.max(np.abs(np.minimum(start, slopes)), axis=1)
        infeasible.append(weights @ best + drift @ way < 0)
        found.append(np.where(infeasible[-1][:, None], np.inf, tilts * unit))
        worst = int(np.argmax(np.where(infeasible[-1], 0, moved)))
        if moved[worst] > furthest.residual:
            furthest = _Step(weights[worst], margins[worst], tilts[worst], float(moved[worst]))
    if furthest.residual and _residual(table, furthest, beta) > LEFT * furthest.residual:
        return None
    return np.concatenate(found), np.concatenate(infeasible)


@jax.jit
def _box_steps(start: Array, gradients: Array, hessians: Array) -> Array:
    steps: Array = jax.vmap(box_step, (None, 0, 0))(start, gradients, hessians)
    return steps


def _residual(table: Table, step: _Step, beta: ArrayLike) -> float:
    """Return the residual that a step leaves, by a pass over the table."""
    return float(_residual_at(table, step.weights, step.margins, jnp.asarray(beta), jnp.asarray(step.tilt)))


@jax.jit
def _residual_at(table: Table, weights: Array, margins: Array, beta: Array, tilt: Array) -> Array:
    objective = standard_block_objective(reweigh(table, weights), lambda part: part, margins, beta)
    return natural_residual(tilt, objective.evaluate(tilt).gradient)
