"""Bootstrap over prompts: problems whose prompts are drawn anew, with replacement, from a table's own."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cann_jax.core.arguments import finite_multipliers, required_beta
from cann_jax.core.arrays import Array
from cann_jax.core.compilation import jit, on_host
from cann_jax.core.exploration.per_prompt import predict_per_prompt
from cann_jax.core.feasibility import Feasible
from cann_jax.core.objective import direction, natural_residual, per_prompt
from cann_jax.core.problem import Targets
from cann_jax.core.scores import Scores, check_is_scores
from cann_jax.core.solver.blocks import many_blocks, objective_of, over_prompts
from cann_jax.core.solver.lanes import lanes, solve_lanes
from cann_jax.core.solver.newton import box_step
from cann_jax.core.table import Table, reweigh, standardise
from cann_jax.files.errors import InputError

HELD = 1 << 22  # weights of so many prompts are held at once: 16 MB
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


@on_host
def bootstrap(
    scores: Scores,
    targets: Targets,
    beta: ArrayLike,
    multipliers: ArrayLike,
    resamples: int = 200,
    seed: int = 0,
) -> Bootstrap:
    """Resample prompts (as weights), solve each resample from λ*, and measure λ* itself on each.

    ``multipliers`` are the full sample's λ*, finite. Levels, group shares and E_ref[g] are estimated anew in
    each resample. Where prompts are many one Newton step from λ* solves a resample, on sums over the prompts'
    own gradients and Hessians, without a pass over responses.

    Runs on the host.

    Raises:
        InputError: Scores or β as in ``solve_dual``, targets of other constraints, λ that is not finite and
            at least 0, or no resample.
    """
    check_problem(scores, targets)
    check_resamples(resamples)
    multipliers, beta = finite_multipliers(multipliers, scores), required_beta(beta, scores.dtype)
    table = standardise(scores)
    reward, gains = (np.asarray(x) for x in predict_per_prompt(scores, multipliers, beta))
    steps = None
    if many_blocks(table.reward) and len(table.weights) >= MANY:
        steps = _Steps(table, beta, multipliers)
    rewards, improvements, found = [], [], []
    for weights, margins in _resamples(table, targets, resamples, seed):
        rewards.append(weights @ reward)
        improvements.append((weights @ gains.T) * targets.rescale(weights))
        if steps is None:
            found.append(_solved(table, margins, beta, weights, multipliers))
        else:
            found.append(steps.take(weights, margins))
    if steps is not None and not steps.suffice():
        every = _resamples(table, targets, resamples, seed)
        found = [_solved(table, margins, beta, weights, multipliers) for weights, margins in every]
    solutions, infeasible = (np.concatenate(own) for own in zip(*found, strict=True))
    return Bootstrap(solutions, np.concatenate(rewards), np.concatenate(improvements), np.mean(infeasible))


def check_problem(scores: Scores, targets: Targets) -> None:
    """Check that scores are in order, and targets are those of their constraints.

    Raises:
        InputError: They are not.
    """
    check_is_scores(scores)
    if not isinstance(targets, Targets):
        raise InputError(f"targets: a {type(targets).__name__}; give the targets of what prepare returns")
    count = scores.constraints.shape[-1]
    if len(targets.values) != count:
        raise InputError(
            f"targets: {len(targets.values)} for {count} constraints; give those of these scores"
        )


def check_resamples(resamples: int) -> None:
    """Raise InputError unless there is a resample."""
    if not resamples >= 1:
        raise InputError(f"resamples: {resamples}; give 1 at least")


def _solved(
    table: Table, margins: np.ndarray, beta: ArrayLike, weights: np.ndarray, multipliers: Array
) -> tuple[np.ndarray, np.ndarray]:
    """Return λ ``(n, m)`` of resamples, and which of them cannot reach the margins."""
    found = solve_lanes(table, lanes(table, margins, beta, weights), multipliers)
    return np.asarray(found.multipliers), np.equal(found.feasible, Feasible.NO)


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
        drawn_from = generator.integers(len(used), size=len(used), dtype=np.uint32)
        row[used] = np.bincount(drawn_from, minlength=len(used))
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


class _Steps:
    """Solutions of resamples to first order."""

    def __init__(self, table: Table, beta: ArrayLike, multipliers: Array) -> None:
        self.table, self.beta = table, jnp.asarray(beta, table.reward.dtype)
        self.spreads = np.asarray(table.spreads.constraints)
        self.unit = np.asarray(self.beta) / self.spreads
        self.start = np.asarray(multipliers) / self.unit
        moments = over_prompts(per_prompt, table, self.beta, self.start)
        self.gradients, self.hessians, self.best = (np.asarray(x) for x in moments)
        self.furthest: _Step | None = None

    def take(self, weights: np.ndarray, margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return λ ``(n, m)`` of resamples, and which of them cannot reach the margins."""
        count = len(self.start)
        means = weights @ np.asarray(self.table.prompt_means).T
        drift = (means - _baselines(weights, self.table) - margins) / self.spreads
        slopes = weights @ self.gradients.T + drift
        curvatures = (weights @ self.hessians.reshape(count * count, -1).T).reshape(-1, count, count)
        tilts = np.asarray(_box_steps(self.start, slopes, curvatures))
        infeasible = weights @ self.best + drift @ np.asarray(direction(jnp.asarray(self.start))) < 0
        residuals = np.where(infeasible, 0, np.max(np.abs(np.minimum(self.start, slopes)), axis=1))
        worst = int(np.argmax(residuals))
        if self.furthest is None or residuals[worst] > self.furthest.residual:
            step = weights[worst].copy(), margins[worst], tilts[worst], float(residuals[worst])
            self.furthest = _Step(*step)
        return np.where(infeasible[:, None], np.inf, tilts * self.unit), infeasible

    def suffice(self) -> bool:
        """Return whether the step that began at the largest residual has left little of it, by a pass."""
        assert self.furthest is not None, "there are resamples"
        weights, margins, tilt, residual = self.furthest
        return float(_residual_at(self.table, weights, margins, self.beta, tilt)) <= LEFT * residual


@jit()
def _box_steps(start: Array, gradients: Array, hessians: Array) -> Array:
    steps: Array = jax.vmap(box_step, (None, 0, 0))(start, gradients, hessians)
    return steps


@jit()
def _residual_at(table: Table, weights: Array, margins: Array, beta: Array, tilt: Array) -> Array:
    objective = objective_of(reweigh(table, weights), margins, beta, blocks=True)
    return natural_residual(tilt, objective.evaluate(tilt).gradient)
