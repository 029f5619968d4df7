"""What a policy can attain that tells responses apart only as far as their features do.

The dual problem's optimal policy tilts each sampled response by its own score. A trained model tilts by what
it can tell of a response to a new prompt, the predicted scores ŝ = (r̂, ĝ) of ``prediction``:
ŵ(λ) = softmax_k((r̂ + ⟨λ, ĝ⟩)/β). Measured by the true scores, its improvement A(λ) is what training can be
expected to reach.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cann_jax.core.arguments import required_beta, required_margins
from cann_jax.core.arrays import Array, accurate_sum
from cann_jax.core.ceiling import Ceiling, ceiling
from cann_jax.core.compilation import jit
from cann_jax.core.dual import tilted_weights
from cann_jax.core.features import FeatureTable
from cann_jax.core.objective import table_objective
from cann_jax.core.prediction import Predicted, predict_scores
from cann_jax.core.scores import Scores, normalised_prompt_weights, reference_mean, response_mask
from cann_jax.core.solver.complementarity import TiltedTable, precision, residual, solve_complementarity
from cann_jax.core.solver.solve import solve_objective
from cann_jax.core.table import centred, standardise
from cann_jax.files.errors import InputError


class Attained(NamedTuple):
    """What ŵ(λ) attains on each prompt by the true scores.

    Attributes:
        improvement: ``(prompts, m)``, E_ŵ[g_j] less the reference's; the weighted mean over prompts is A(λ).
        reward: ``(prompts,)``, E_ŵ[r] less the mean of the prompt's responses.
        kl: ``(prompts,)``, KL(ŵ ‖ uniform on the prompt's responses) in nats.
    """

    improvement: Array
    reward: Array
    kl: Array

    def mean(self, weights: Array) -> "Attained":
        """Return the means under prompt weights ``(prompts,)`` that sum to one."""
        return Attained(*(accurate_sum(jnp.moveaxis(values, 0, -1) * weights) for values in self))


@jit()
def attained(scores: Scores, predicted: Predicted, multipliers: Array, beta: float | Array) -> Attained:
    """Return what tilting by predicted scores at λ ``(m,)`` attains on each prompt."""
    policy = tilted_weights(multipliers, predicted_table(scores, predicted), beta)
    return attained_by(policy, scores)


def attained_by(policy: Array, scores: Scores) -> Attained:
    """Return what weights ``(prompts, responses)`` attain; they are 0 for missing responses."""
    mask, constraints = response_mask(scores), jnp.moveaxis(scores.constraints, -1, 0)
    improvement = jnp.sum(policy * centred(constraints, mask), axis=-1)
    if scores.baseline is not None:
        own = reference_mean(dataclasses.replace(scores, baseline=None))
        improvement = improvement + (own - scores.baseline)[:, None]
    reward = jnp.sum(policy * centred(scores.reward, mask), axis=-1)
    count = policy.shape[-1] if mask is None else jnp.sum(mask, axis=-1)
    kl = jnp.sum(jax.scipy.special.xlogy(policy, policy * jnp.expand_dims(count, -1)), axis=-1)
    return Attained(improvement.T, reward, kl)


def predicted_table(scores: Scores, predicted: Predicted) -> Scores:
    """Return the table with predicted scores for true ones; its baseline is its own mean."""
    if predicted.constraints.shape != scores.constraints.shape:
        shapes = f"{predicted.constraints.shape} for scores of shape {scores.constraints.shape}"
        raise InputError(f"predicted: constraints of shape {shapes}; give what predict_scores says of these")
    return dataclasses.replace(
        scores, reward=predicted.reward, constraints=predicted.constraints, baseline=None
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Attainable:
    """Multipliers at which training can be expected to meet the margins, and what it attains there; a pytree.

    Attributes:
        multipliers: λ_att ``(m,)``; +∞ for constraints short of margins that no λ was found to reach.
        improvement: A(λ_att) ``(m,)``, over the reference.
        reward: E_ŵ[r] less the reference's.
        kl: KL(ŵ ‖ π_ref) on the sample, in nats.
        ceiling: ``(m,)``, the largest improvement of each constraint alone, over all its multipliers ≥ 0.
        greedy: ``(m,)``, its improvement as its multiplier goes to infinity.
        predicted: The predicted scores.
        converged: Whether λ_att solves min(λ, A(λ) − b) = 0.

    Where it does not, everything but ``multipliers`` belongs to the last finite point.
    """

    multipliers: Array
    improvement: Array
    reward: Array
    kl: Array
    ceiling: Array
    greedy: Array
    predicted: Predicted
    converged: Array


def attainable(
    features: FeatureTable,
    scores: Scores,
    margins: ArrayLike | Mapping[str, float],
    beta: float | Array,
    folds: Array,
    *,
    strength: float | None = None,
    slopes: bool = True,
    members: Array | None = None,
) -> Attainable:
    """Predict scores from features, and solve for the multipliers that training needs.

    Features, scores and folds are read on the host; margins may be traced.

    Args:
        features: ``(prompts, responses, F)``, centred within each prompt (``standardise_features``).
        scores: The table of N prompts, K responses and m constraints.
        margins: As in ``solve_dual``.
        beta: β > 0.
        folds: ``(prompts,)`` integers, concrete (``folds_of``).
        strength: As in ``predict_scores``, like the rest.
        slopes: Whether predictions are multiplied by their slopes.
        members: ``(prompts, m)``, 1 in the constraint's group.

    Raises:
        InputError: As ``predict_scores`` and ``solve_attainable`` do.
    """
    predicted = predict_scores(features, scores, folds, strength=strength, slopes=slopes, members=members)
    return solve_attainable(scores, predicted, margins, beta)


def solve_attainable(
    scores: Scores, predicted: Predicted, margins: ArrayLike | Mapping[str, float], beta: float | Array
) -> Attainable:
    """Solve min(λ, A(λ) − b) = 0 for the multipliers of a policy that tilts by predicted scores.

    Args:
        scores: The table, by which improvements are measured.
        predicted: Predictions of its scores, cross-fitted.
        margins: As in ``solve_dual``.
        beta: β > 0.

    Raises:
        InputError: Margins that are not m finite numbers, scores that are NaN or infinite, or β ≤ 0, where
            they are concrete.
    """
    required = required_margins(margins, scores)
    return _solve(scores, predicted, required, required_beta(beta, required.dtype))


@jit()
def _solve(scores: Scores, predicted: Predicted, margins: Array, beta: Array) -> Attainable:
    table = tilted_table(scores, predicted, beta)
    drift = table.drift(margins)
    offset = -drift * table.true.spreads.constraints  # the margins, less what no tilt moves
    by_dual = solve_objective(table_objective(table.predicted, offset, beta), jnp.zeros_like(margins))
    start = jnp.where(jnp.isfinite(by_dual.multipliers), by_dual.multipliers / table.unit, 1)
    tilt, excess = solve_complementarity(table, drift, start)
    converged = residual(tilt, excess) <= precision(tilt.dtype)
    multipliers = tilt * table.unit
    seen = attained(scores, predicted, multipliers, beta).mean(normalised_prompt_weights(scores))
    short = ~converged & (excess < 0)
    reach: Ceiling = ceiling(table)
    return Attainable(
        multipliers=jnp.where(short, jnp.inf, multipliers),
        improvement=seen.improvement,
        reward=seen.reward,
        kl=seen.kl,
        ceiling=reach.highest,
        greedy=reach.greedy,
        predicted=predicted,
        converged=converged,
    )


@jit()
def tilted_table(scores: Scores, predicted: Predicted, beta: Array) -> TiltedTable:
    """Return both tables in standard form."""
    return TiltedTable(standardise(predicted_table(scores, predicted)), standardise(scores), beta)
