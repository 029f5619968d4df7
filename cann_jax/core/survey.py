"""What the objective needs to know of a whole table, as sums over its prompts: spreads and constants."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cann_jax.core.scores import accurate_sum
from cann_jax.core.table import Spreads, Table, unit


class PromptMeans(NamedTuple):
    """Weighted sums over prompts of the table's ``prompt_*`` fields; means for the whole table."""

    constraints: jax.Array
    reward: jax.Array
    lowest: jax.Array
    log_count: jax.Array


class Survey(NamedTuple):
    """Weighted sums over a part's prompts, from which the spreads of all parts follow.

    Attributes:
        weight: Sum of the weights.
        means: Sums of the prompts' means.
        variances: Sums of squared deviations, in units of the part's (provisional) spreads squared.
        best: ``(m,)``, sums of max_k features_j: how far each constraint can rise above its mean.
    """

    weight: jax.Array
    means: PromptMeans
    variances: Spreads
    best: jax.Array


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
    margins: jax.Array
    beta: jax.Array
    baseline: jax.Array
    drift: jax.Array
    floor: jax.Array
    logit_scale: jax.Array
    mean_reward: jax.Array
    log_count: jax.Array

    @property
    def multiplier_unit(self) -> jax.Array:
        """``(m,)``: λ_j/θ_j = β/s_j."""
        return self.beta / self.spreads.constraints


def constants_of(
    means: PromptMeans,
    spreads: Spreads,
    margins: jax.Array,
    beta: jax.Array,
    baseline: jax.Array | None = None,
) -> Constants:
    """Return the constants of a table at margins b ``(m,)`` and β, from its means over prompts.

    Args:
        means: Means over the whole table.
        spreads: Units that its parts are standardised in.
        margins: b ``(m,)``.
        beta: β > 0.
        baseline: E_ref[g] ``(m,)`` where it was given, as in ``Scores``.
    """
    offset = jnp.zeros_like(means.constraints) if baseline is None else means.constraints - baseline
    return Constants(
        spreads=spreads,
        margins=margins,
        beta=beta,
        baseline=means.constraints if baseline is None else baseline,
        drift=(offset - margins) / spreads.constraints,
        floor=means.lowest / beta,
        logit_scale=spreads.reward / beta,
        mean_reward=means.reward,
        log_count=means.log_count,
    )


def survey(part: Table) -> Survey:
    """Return the sums over a part that the whole table's constants are made of."""
    present = jnp.isfinite(part.reward)
    count = jnp.sum(present, axis=-1)
    reward = jnp.where(present, part.reward, 0) / part.spreads.reward
    best = [jnp.max(jnp.where(present, feature, -jnp.inf), axis=-1) for feature in part.features]
    return Survey(
        weight=jnp.sum(part.weights),
        means=prompt_means(part),
        variances=Spreads(
            accurate_sum(part.weights * (jnp.sum(part.features**2, axis=-1) / count)),
            accurate_sum(part.weights * (jnp.sum(reward**2, axis=-1) / count)),
        ),
        best=accurate_sum(part.weights * jnp.stack(best)),
    )


def prompt_means(table: Table) -> PromptMeans:
    """Return the weighted sums over the table's prompts."""
    fields = table.prompt_means, table.prompt_rewards, table.prompt_lowest, table.prompt_log_counts
    return PromptMeans(*(accurate_sum(field * table.weights) for field in fields))


def refine_spreads(provisional: Spreads, seen: Survey) -> Spreads:
    """Return the spreads of all parts, which were surveyed in provisional ones of about the right size."""
    return Spreads(
        *(
            unit(spread * jnp.sqrt(variance / seen.weight))
            for spread, variance in zip(provisional, seen.variances, strict=True)
        )
    )
