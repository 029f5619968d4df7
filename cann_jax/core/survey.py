"""Constants of the objective, from one survey of all prompts."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cann_jax.core.arrays import Array, accurate_sum
from cann_jax.core.compilation import jit
from cann_jax.core.table import Spreads, Table, unit


class Survey(NamedTuple):
    """Weighted sums over the prompts of a part.

    Attributes:
        weight: Sum of the weights.
        mean: ``(m,)``, sums of the prompts' mean constraint scores.
        reward: Sum of the prompts' mean rewards.
        lowest: Sum of the prompts' lowest centred rewards.
        log_count: Sum of ln K_x.
        best: ``(m,)``, sums of max_k features_j: how far each constraint can rise above its mean.
        variances: Sums of the prompts' variances, in units of the part's spreads squared.
    """

    weight: Array
    mean: Array
    reward: Array
    lowest: Array
    log_count: Array
    best: Array
    variances: Spreads


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Constants:
    """What F depends on besides sums over responses; scalars unless said otherwise.

    Attributes:
        spreads: Units of the parts' tables.
        margins: b ``(m,)``.
        beta: β.
        baseline: ``(m,)``, E_ref[g].
        drift: ``(m,)``, the part of E[h_j]/s_j that no weighting of responses moves.
        floor: E_x[min_k reward]/β; F below it proves that the margins are out of reach.
        logit_scale: Root mean square of reward/β, the natural size of a tilt.
        mean_reward: E_ref r.
        log_count: E_x ln K_x.
    """

    spreads: Spreads
    margins: Array
    beta: Array
    baseline: Array
    drift: Array
    floor: Array
    logit_scale: Array
    mean_reward: Array
    log_count: Array

    @property
    def multiplier_unit(self) -> Array:
        """``(m,)``: λ_j/θ_j = β/s_j."""
        return self.beta / self.spreads.constraints


def survey(part: Table) -> Survey:
    """Return the sums from which the whole table's constants follow."""
    present, weights = jnp.isfinite(part.reward), part.weights
    count = jnp.sum(present, axis=-1)
    reward = jnp.where(present, part.reward, 0) / part.spreads.reward
    best = [jnp.max(jnp.where(present, feature, -jnp.inf), axis=-1) for feature in part.features]
    return Survey(
        weight=jnp.sum(weights),
        mean=accurate_sum(weights * part.prompt_means),
        reward=accurate_sum(weights * part.prompt_rewards),
        lowest=accurate_sum(weights * part.prompt_lowest),
        log_count=accurate_sum(weights * part.prompt_log_counts),
        best=accurate_sum(weights * jnp.stack(best)),
        variances=Spreads(
            accurate_sum(weights * (jnp.sum(part.features**2, axis=-1) / count)),
            accurate_sum(weights * (jnp.sum(reward**2, axis=-1) / count)),
        ),
    )


def constants_of(
    seen: Survey, spreads: Spreads, margins: Array, beta: Array, baseline: Array | None = None
) -> Constants:
    """Return the constants of a table at margins b ``(m,)`` and β from the sum of its parts' surveys."""
    mean = seen.mean / seen.weight
    baseline = mean if baseline is None else baseline
    return Constants(
        spreads=spreads,
        margins=margins,
        beta=beta,
        baseline=baseline,
        drift=(mean - baseline - margins) / spreads.constraints,
        floor=seen.lowest / seen.weight / beta,
        logit_scale=spreads.reward / beta,
        mean_reward=seen.reward / seen.weight,
        log_count=seen.log_count / seen.weight,
    )


@jit()
def table_constants(table: Table, margins: Array, beta: Array) -> Constants:
    """Return the constants of a whole table at margins b ``(m,)`` and β; cheap beside an evaluation."""
    return constants_of(survey(table), table.spreads, margins, beta, table.baseline)


def refine_spreads(provisional: Spreads, seen: Survey) -> Spreads:
    """Return the spreads of all parts, which were surveyed in provisional ones of about the right size."""
    constraints, reward = (jnp.sqrt(variance / seen.weight) for variance in seen.variances)
    return Spreads(unit(provisional.constraints * constraints), unit(provisional.reward * reward))
