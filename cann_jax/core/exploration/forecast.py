"""How sure a forecast of a training is: intervals over prompts, at fixed predictions of the scores."""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import t as student

from cann_jax.core.arrays import Array, response_mean
from cann_jax.core.attainable import attained, tilted_table
from cann_jax.core.ceiling import Ceiling, ceiling, gains_along
from cann_jax.core.exploration.uncertainty import interval, margins_under, resampled_weights
from cann_jax.core.prediction import Predicted
from cann_jax.core.problem import Targets
from cann_jax.core.scores import Scores, normalised_prompt_weights, reference_mean
from cann_jax.core.solver.complementarity import (
    TiltedTable,
    precision,
    residual,
    solve_complementarity,
)
from cann_jax.core.table import reweigh


class Estimate(NamedTuple):
    """An estimate and the ends of its interval, all scalars or all ``(m,)``."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What training at λ can be expected to reach on prompts like the table's, with intervals.

    Attributes:
        improvement: ``(m,)``, over the reference, in the units of the prepared scores.
        level: ``(m,)``, the expected scores themselves.
        reward: Gain over the reference.
        kl: KL to the reference in nats.
        multipliers: ``(m,)``, λ; its interval is of the multipliers that meet the targets, +∞ where a
            resample cannot.
        ceiling: ``(m,)``, the largest improvement of each constraint alone.
        unreachable_share: Share of the resamples in which no λ was found to meet the targets.
    """

    improvement: Estimate
    level: Estimate
    reward: Estimate
    kl: Estimate
    multipliers: Estimate
    ceiling: Estimate
    unreachable_share: float


def forecast(
    scores: Scores,
    predicted: Predicted,
    targets: Targets,
    multipliers: Array,
    beta: float,
    resamples: int = 200,
    seed: int = 0,
    confidence: float = 0.95,
) -> Forecast:
    """Return what training at λ ``(m,)``, finite, can be expected to reach.

    Each prompt's contribution is a draw of its own, the predictions having been fitted on other prompts: so
    means have Student's t intervals, which a bootstrap's percentiles undercut at few prompts. Intervals of λ
    and of the ceiling are percentiles over resampled prompts, where levels, group shares and E_ref[g] are
    estimated anew.
    """
    table = tilted_table(scores, predicted, jnp.asarray(beta, scores.reward.dtype))
    seen = attained(scores, predicted, multipliers, beta)
    weights = np.asarray(normalised_prompt_weights(scores))
    everyone = np.ones_like(weights)
    members = np.ones(seen.improvement.shape) if targets.members is None else np.asarray(targets.members)
    per_prompt = np.asarray(response_mean(jnp.moveaxis(scores.constraints, -1, 0), scores.mask)).T
    offset = np.asarray(reference_mean(scores)) - weights @ per_prompt
    drawn = resampled_weights(table.true, resamples, seed)
    margins = margins_under(drawn, table.true, targets)
    found, solved = (np.asarray(x) for x in _solve_resamples(table, drawn, margins, multipliers))
    estimate = partial(_estimate, weights=weights, confidence=confidence)
    return Forecast(
        improvement=estimate(np.asarray(seen.improvement), members),
        level=estimate(np.asarray(seen.improvement) + per_prompt + offset, members),
        reward=estimate(np.asarray(seen.reward), everyone),
        kl=estimate(np.asarray(seen.kl), everyone),
        multipliers=Estimate(np.asarray(multipliers), *interval(found, confidence)),
        ceiling=Estimate(*_ceilings(table, targets, drawn, confidence)),
        unreachable_share=float(np.mean(~solved)),
    )


def _estimate(values: np.ndarray, members: np.ndarray, weights: np.ndarray, confidence: float) -> Estimate:
    """Return weighted means over prompts, with Student's t intervals.

    Prepared scores of a group carry the factor 1{x ∈ G}/p, and p is estimated too.
    """
    mean = weights @ values
    shares = weights @ members
    deviations = values - members / shares * mean
    own = weights[:, None] * members if values.ndim == 2 else weights * members
    count = own.sum(0) ** 2 / np.maximum((own**2).sum(0), 1e-30)
    spare = np.maximum(count - 1, 1e-3)
    error = np.sqrt(weights**2 @ deviations**2 * count / spare)
    reach = student.ppf((1 + confidence) / 2, spare) * error
    return Estimate(mean, mean - reach, mean + reach)


def _ceilings(
    table: TiltedTable, targets: Targets, drawn: np.ndarray, confidence: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the ceiling ``(m,)`` and its percentiles over resampled prompt weights."""
    drift, scale = np.asarray(table.drift(jnp.zeros_like(table.unit))), table.true.spreads.constraints
    paths = [np.asarray(gains_along(table, constraint)) for constraint in range(len(drift))]
    highest = np.stack([np.max(path @ drawn.T, axis=0) for path in paths], axis=-1)
    every = (highest + drift) * np.asarray(scale) * targets.rescale(drawn)
    found: Ceiling = ceiling(table)
    return np.asarray(found.highest), *interval(every, confidence)


@jax.jit
def _solve_resamples(
    table: TiltedTable, weights: Array, margins: Array, multipliers: Array
) -> tuple[Array, Array]:
    """Return λ ``(resamples, m)`` that meets the margins under each weights, and whether it was found."""

    def solve(setting: tuple[Array, Array]) -> tuple[Array, Array]:
        own, required = setting
        part = table._replace(predicted=reweigh(table.predicted, own), true=reweigh(table.true, own))
        tilt, excess = solve_complementarity(part, part.drift(required), multipliers / table.unit)
        found = residual(tilt, excess) <= precision(tilt.dtype)
        return jnp.where(~found & (excess < 0), jnp.inf, tilt * table.unit), found

    solved: tuple[Array, Array] = jax.lax.map(solve, (weights, margins), batch_size=8)
    return solved
