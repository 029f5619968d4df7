"""What a policy's log-ratios ℓ = ln π_θ/π_ref on responses of π_ref say of it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cann_jax.core.arrays import Array, accurate_sum
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


@jax.jit
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
