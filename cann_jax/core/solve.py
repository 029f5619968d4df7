"""λ* = argmin over λ ≥ 0 of the dual, with what certifies it."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from cann_jax.core.dual import (
    Standardised,
    evaluate,
    multipliers_of,
    natural_residual,
    standardise,
    tilt_of,
    tilted_logits,
)
from cann_jax.core.feasibility import Feasible, verdict
from cann_jax.core.newton import newton
from cann_jax.core.scores import (
    Scores,
    accurate_sum,
    reference_mean,
    response_mean,
    valid_mask,
)
from cann_jax.errors import InputError

METHODS = ("lbfgsb", "newton")
TOLERANCE = 1e-5


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
        iterations: evaluations of the table that the solver spent.
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
    initial = jnp.zeros_like(margins) if initial is None else jnp.asarray(initial, margins.dtype)
    return _solve(scores, margins, jnp.asarray(beta, margins.dtype), initial, method, tolerance)


def check_settings(margins: jax.Array, beta: float | jax.Array) -> None:
    """Refuse a β ≤ 0 and margins that are no numbers; traced values pass.

    Raises:
        InputError: naming the setting.
    """
    for name, value, good in [("beta", beta, lambda v: v > 0), ("margins", margins, jnp.isfinite)]:
        if not isinstance(value, jax.core.Tracer) and not bool(jnp.all(good(jnp.asarray(value)))):
            wanted = "a positive number" if name == "beta" else "finite numbers"
            raise InputError(f"{name}: {value} is not {wanted}")


@partial(jax.jit, static_argnames=("method", "tolerance"))
def _solve(scores, margins, beta, initial, method, tolerance) -> DualSolution:
    problem = standardise(scores, margins, beta)
    start = tilt_of(initial, problem)
    # a tenth of the tolerance costs Newton nothing and leaves λ the digits that a flat dual would lose
    if method == "newton":
        tilt, evaluations = newton(problem, start, 0.1 * tolerance)
    else:
        from cann_jax.core.lbfgsb import lbfgsb

        tilt, evaluations = lbfgsb(problem, start, 0.1 * tolerance)
    return certify(scores, problem, margins, tilt, evaluations, tolerance)


def certify(
    scores: Scores,
    problem: Standardised,
    margins: jax.Array,
    tilt: jax.Array,
    evaluations: jax.Array,
    tolerance: float,
) -> DualSolution:
    """Recompute everything at the multipliers a solver returned; nothing of its own report is used."""
    multipliers = multipliers_of(tilt, problem)
    seen = evaluate(problem, tilt)
    residual = natural_residual(tilt, seen.gradient)
    feasible = verdict(problem, tilt, seen.value, residual, tolerance)
    mask = None if scores.mask is None else valid_mask(scores)
    count = scores.reward.shape[-1] if mask is None else jnp.maximum(jnp.sum(mask, axis=-1), 1)
    log_count = jnp.sum(jnp.log(count) * problem.weights)
    centre = accurate_sum(response_mean(scores.reward, mask) * problem.weights)
    tilted_reward, kl, effective = _policy_statistics(problem, tilt, log_count)
    value = problem.beta * (seen.value - log_count) + centre
    predicted_reward = problem.beta * tilted_reward + centre
    slack = seen.gradient * problem.spread
    baseline = reference_mean(scores)
    infinite = (feasible == Feasible.NO) & (tilt > 1e-3 * jnp.max(tilt))
    return DualSolution(
        multipliers=jnp.where(infinite, jnp.inf, multipliers),
        value=value,
        slack=slack,
        predicted_reward=predicted_reward,
        predicted_constraints=slack + baseline + margins,
        baseline=baseline,
        kl=kl,
        duality_gap=value - (predicted_reward - problem.beta * kl),
        kkt_residual=residual,
        converged=(residual <= tolerance) & (feasible == Feasible.YES),
        feasible=feasible,
        effective_sample_size=effective,
        iterations=evaluations,
        spread=problem.spread,
    )


def _policy_statistics(problem: Standardised, tilt: jax.Array, log_count: jax.Array):
    """E_{π_θ} of the standardised reward, KL to the reference and the mean effective sample size."""
    logits = tilted_logits(problem, tilt)
    log_policy = jax.nn.log_softmax(logits, axis=-1)
    policy = jnp.exp(log_policy)
    present = policy > 0
    reward = jnp.sum(policy * jnp.where(present, problem.logits, 0), axis=-1)
    entropy = -jnp.sum(policy * jnp.where(present, log_policy, 0), axis=-1)
    effective = accurate_sum(problem.weights / jnp.sum(policy * policy, axis=-1))
    return (
        accurate_sum(reward * problem.weights),
        log_count - accurate_sum(entropy * problem.weights),
        effective,
    )
