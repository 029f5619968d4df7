"""λ* = argmin over λ ≥ 0 of the dual, with what certifies it."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from cann_jax.core.dual import (
    Standardised,
    multipliers_of,
    natural_residual,
    policy_statistics,
    pose,
    tilt_of,
)
from cann_jax.core.feasibility import Feasible, proves_infeasible, reach_along, verdict
from cann_jax.core.scores import Scores, accurate_sum
from cann_jax.core.solver.blocks import BLOCK, Description, in_blocks
from cann_jax.core.solver.lbfgsb import lbfgsb
from cann_jax.core.solver.newton import newton
from cann_jax.core.table import Table, standardise
from cann_jax.files.errors import InputError

METHODS = ("lbfgsb", "newton")
TOLERANCE = 1e-5
SOLVED = 0.1  # a tenth of the tolerance costs Newton nothing, and λ keeps digits that a flat dual would lose
ROUGH_PROMPTS = 1024
MANY_BLOCKS = 8  # from a megabyte a score on


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DualSolution:
    """The multipliers and what the sample predicts of the policy they define; a pytree.

    Attributes:
        multipliers: λ* ``(m,)``; +∞ along the directions that prove infeasible margins.
        value: D(λ*), in the reward's units.
        slack: ``(m,)``, ∇D: predicted improvement over the reference, less the margin.
        predicted_reward: E_{π_λ*}[r].
        predicted_constraints: ``(m,)``, E_{π_λ*}[g_j] (a level; less ``baseline`` it is the improvement).
        baseline: ``(m,)``, E_ref[g_j].
        kl: E_x KL(π_λ* ‖ π_ref) on the sample, in nats; at most ln K.
        duality_gap: D(λ*) − (E r − β·KL), 0 at the optimum (strong duality), in the reward's units.
        kkt_residual: max_j |min(θ_j, ∂_j)| recomputed at the answer, in units of the scores' spread.
        converged: the residual is within tolerance and the margins are within reach.
        feasible: a ``Feasible`` code: YES, NO or UNDETERMINED.
        effective_sample_size: mean over prompts of 1/Σw², between 1 and K.
        iterations: evaluations of the (whole) table that the solver spent.
        spread: ``(m,)``, root mean square deviation of g_j within a prompt.

    Where the margins are infeasible, everything but ``multipliers`` belongs to the last finite point.
    """

    multipliers: jax.Array
    value: jax.Array
    slack: jax.Array
    predicted_reward: jax.Array
    predicted_constraints: jax.Array
    baseline: jax.Array
    kl: jax.Array
    duality_gap: jax.Array
    kkt_residual: jax.Array
    converged: jax.Array
    feasible: jax.Array
    effective_sample_size: jax.Array
    iterations: jax.Array
    spread: jax.Array

    @property
    def predicted_improvement(self) -> jax.Array:
        """``(m,)``: E_{π_λ*}[g_j] − E_ref[g_j]."""
        return self.predicted_constraints - self.baseline


def solve_dual(
    scores: Scores,
    margins: jax.Array,
    beta: float | jax.Array,
    method: str = "lbfgsb",
    initial: jax.Array | None = None,
    tolerance: float = TOLERANCE,
) -> DualSolution:
    """Solve the one-shot dual on a table of the reference's samples (paper, algorithm 1, MoCAN's step 2).

    Runs under ``jit`` and ``vmap`` over margins, β, prompt weights or whole tables.

    Args:
        scores: the table of N prompts, K responses and m constraints.
        margins: b ``(m,)``, improvements over the reference to ask for; a scalar for m = 1.
        beta: β > 0, the KL penalty of the problem and of the DPO step after it.
        method: "lbfgsb" (jaxopt's L-BFGS-B, the reference) or "newton" (quick to compile, for many lanes).
        initial: λ ``(m,)`` to begin from; None: 0.
        tolerance: largest KKT residual called converged, in units of the scores' spread.

    Raises:
        InputError: unknown method, shapes that do not fit, β ≤ 0 or NaN margins where they are concrete.
    """
    if method not in METHODS:
        raise InputError(f"method: {method!r} is not known; choose one of {', '.join(METHODS)}")
    count = scores.constraints.shape[-1]
    margins = jnp.atleast_1d(jnp.asarray(margins, scores.reward.dtype))
    if margins.shape != (count,):
        raise InputError(f"margins have shape {margins.shape}; give one for each of the {count} constraints")
    check_settings(margins, beta)
    # L-BFGS-B stays as it is, the reference
    rough = method == "newton" and initial is None and scores.reward.shape[0] >= 8 * ROUGH_PROMPTS
    initial = jnp.zeros_like(margins) if initial is None else jnp.asarray(initial, margins.dtype)
    beta = jnp.asarray(beta, margins.dtype)
    if method == "newton" and _by_blocks(scores.reward):
        return _solve_by_blocks(scores, margins, beta, initial, tolerance, rough)
    return _solve(scores, margins, beta, initial, method, tolerance, rough)


def _by_blocks(reward: jax.Array) -> bool:
    """Whether a table is one of many blocks on one CPU; under a trace only the compiler knows the device."""
    if isinstance(reward, jax.core.Tracer) or reward.size < MANY_BLOCKS * BLOCK:
        return False
    devices = reward.devices() if isinstance(reward, jax.Array) else jax.local_devices()[:1]
    return [device.platform for device in devices] == ["cpu"]


def check_settings(margins: jax.Array, beta: float | jax.Array) -> None:
    """Refuse a β ≤ 0 and margins that are no numbers; traced values pass.

    Raises:
        InputError: naming the setting.
    """
    for name, value, good in [("beta", beta, lambda v: v > 0), ("margins", margins, jnp.isfinite)]:
        if not isinstance(value, jax.core.Tracer) and not bool(jnp.all(good(jnp.asarray(value)))):
            wanted = "a positive number" if name == "beta" else "finite numbers"
            raise InputError(f"{name}: {value} is not {wanted}")


@partial(jax.jit, static_argnames=("method", "tolerance", "rough"))
def _solve(scores, margins, beta, initial, method, tolerance, rough) -> DualSolution:
    if rough:
        initial = _rough_answer(standardise(_some_prompts(scores)), margins, beta, initial)
    return solve_table(standardise(scores), margins, beta, initial, method, tolerance)


@partial(jax.jit, static_argnames=("tolerance", "rough"))
def _solve_by_blocks(scores, margins, beta, initial, tolerance, rough) -> DualSolution:
    part = standardise(_some_prompts(scores))
    if rough:
        initial = _rough_answer(part, margins, beta, initial)
    table = in_blocks(scores, (part.spread, part.reward_spread), margins, beta)
    start = tilt_of(initial, table.whole)
    tilt, evaluations = newton(table.whole, start, SOLVED * tolerance, table.evaluate)
    return certified(table.whole, tilt, table.describe(tilt), evaluations, tolerance)


def _some_prompts(scores: Scores) -> Scores:
    """About a thousand prompts of many."""
    stride = max(1, scores.reward.shape[0] // ROUGH_PROMPTS)
    part = jax.tree.map(lambda leaf: leaf[::stride], dataclasses.replace(scores, baseline=None))
    weights = part.prompt_weights
    if weights is not None:
        # a stride over zero weights only would leave none; one over the sum of a few loses nothing else
        weights = jnp.where(jnp.any(weights > 0), weights, 1)
    return dataclasses.replace(part, prompt_weights=weights, baseline=scores.baseline)


def _rough_answer(part: Table, margins: jax.Array, beta: jax.Array, initial: jax.Array) -> jax.Array:
    """λ ``(m,)`` on some of the prompts, which saves the whole table half of its evaluations."""
    problem = pose(part, margins, beta)
    tilt, _ = newton(problem, tilt_of(initial, problem), 1e-3)
    seen = policy_statistics(problem, tilt)
    good = (natural_residual(tilt, seen.gradient) <= 1e-2) & ~proves_infeasible(problem, tilt, seen.value)
    return jnp.where(good, multipliers_of(tilt, problem), initial)


def solve_table(
    table: Table,
    margins: jax.Array,
    beta: jax.Array,
    initial: jax.Array,
    method: str = "newton",
    tolerance: float = TOLERANCE,
) -> DualSolution:
    """``solve_dual`` on a table made ready before, for many solves of it inside one compiled call."""
    problem = pose(table, margins, beta)
    solver = newton if method == "newton" else lbfgsb
    tilt, evaluations = solver(problem, tilt_of(initial, problem), SOLVED * tolerance)
    seen = Description(policy_statistics(problem, tilt), reach_along(problem, tilt))
    return certified(problem, tilt, seen, evaluations, tolerance)


def certified(
    problem: Standardised, tilt: jax.Array, described: Description, evaluations: jax.Array, tolerance: float
) -> DualSolution:
    """In the user's units, from statistics recomputed at the answer; no solver's own report is used."""
    table, beta, seen = problem.table, problem.beta, described.policy
    centre = accurate_sum(table.prompt_rewards * table.weights)
    log_count = accurate_sum(table.prompt_log_counts * table.weights)
    value, reward = beta * (seen.value - log_count) + centre, seen.reward + centre
    slack = seen.gradient * table.spread
    residual = natural_residual(tilt, seen.gradient)
    code = verdict(problem, described.reach, tilt, seen.value, residual, tolerance)
    infinite = (code == Feasible.NO) & (tilt > 1e-3 * jnp.max(tilt))
    return DualSolution(
        multipliers=jnp.where(infinite, jnp.inf, multipliers_of(tilt, problem)),
        value=value,
        slack=slack,
        predicted_reward=reward,
        predicted_constraints=slack + problem.baseline + problem.margins,
        baseline=problem.baseline,
        kl=seen.kl,
        duality_gap=value - (reward - beta * seen.kl),
        kkt_residual=residual,
        converged=(residual <= tolerance) & (code == Feasible.YES),
        feasible=code,
        effective_sample_size=seen.effective_sample_size,
        iterations=evaluations,
        spread=table.spread,
    )
