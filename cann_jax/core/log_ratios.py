"""What a policy's log-ratios ℓ = ln π_θ/π_ref on responses of π_ref say of it.

On prompts that it was not trained on they show whether it moves as far as it knows, and, as importance
weights softmax_k(ℓ), what it would score, without a single sample of its own.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cann_jax.core.arguments import takes_lists
from cann_jax.core.arrays import Array, accurate_sum
from cann_jax.core.attainable import attained_by
from cann_jax.core.compilation import jit
from cann_jax.core.scores import Scores, check_is_scores, normalised_prompt_weights, response_mask
from cann_jax.core.table import centred


class Calibration(NamedTuple):
    """How log-ratios ℓ compare with their targets t, both centred within each prompt.

    Attributes:
        slope: Σ ℓt / Σ ℓ²; 1: of the right size, below 1: it moves further than it knows, above 1: less far.
        correlation: Σ ℓt / √(Σ ℓ² Σ t²).
        deviation: Root mean square of ℓ, in nats.

    Slope and correlation are 0 where ℓ or t never varies.
    """

    slope: Array
    correlation: Array
    deviation: Array


@takes_lists
@jit()
def calibration(log_ratios: Array, targets: Array, mask: Array | None = None) -> Calibration:
    """Compare log-ratios with targets, (r + ⟨λ, g⟩)/β, on responses ``(prompts, responses)`` of π_ref.

    ``mask (prompts, responses)`` is False for missing responses.
    """
    mask = None if mask is None else mask.astype(bool)
    given, wanted = centred(log_ratios, mask), centred(targets, mask)
    both, own, square = (jnp.sum(accurate_sum(x)) for x in (given * wanted, given**2, wanted**2))
    varies = (own > 0) & (square > 0)
    count = given.size if mask is None else jnp.maximum(jnp.sum(mask), 1)
    return Calibration(
        slope=jnp.where(varies, both / jnp.where(varies, own, 1), 0),
        correlation=jnp.where(varies, both / jnp.sqrt(jnp.where(varies, own * square, 1)), 0),
        deviation=jnp.sqrt(own / count),
    )


def calibration_slope(log_ratios: Array, targets: Array, mask: Array | None = None) -> Array:
    """Return Σ ℓt / Σ ℓ², by which log-ratios match their targets best; arguments as ``calibration``."""
    slope: Array = calibration(log_ratios, targets, mask).slope
    return slope


class Reweighted(NamedTuple):
    """What a policy would score, by importance weights.

    Attributes:
        improvement: ``(prompts, m)``, of the constraints over the reference.
        reward: ``(prompts,)``, gain over the reference.
        kl: ``(prompts,)``, KL of the weights to uniform ones, in nats.
        effective_sample_size: Weighted mean over prompts of 1/Σw², between 1 and K.
    """

    improvement: Array
    reward: Array
    kl: Array
    effective_sample_size: Array


@takes_lists
@jit()
def reweighted(log_ratios: Array, scores: Scores) -> Reweighted:
    """Return what the policy would score on a table, by its log-ratios ``(prompts, responses)`` in nats.

    The weights softmax_k(ℓ) know only the K responses, so they serve while the effective sample size stays
    well above 1. For an adapter at scale s, give s·ℓ, to first order its log-ratios.
    """
    check_is_scores(scores)
    mask = response_mask(scores)
    policy = jax.nn.softmax(centred(log_ratios, mask), axis=-1, where=mask)
    square = jnp.sum(policy**2, axis=-1)
    sizes = jnp.where(square > 0, 1 / jnp.where(square > 0, square, 1), 0)
    return Reweighted(*attained_by(policy, scores), accurate_sum(sizes * normalised_prompt_weights(scores)))
