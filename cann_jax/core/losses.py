"""The preference loss with soft labels."""

import jax
import jax.numpy as jnp


def dpo_loss(
    policy_margin: jax.Array, reference_margin: jax.Array, label: jax.Array, beta: float | jax.Array
) -> jax.Array:
    """DPO (Rafailov et al. 2023, eq. 7) under soft labels; one loss a pair, in nats.

    A label P(first ≻ second) has the expected loss of Bernoulli labels drawn from it, without their noise.

    Args:
        policy_margin: log π(first) − log π(second), any shape, in nats.
        reference_margin: the same of the reference policy.
        label: P(first ≻ second) in [0, 1].
        beta: β > 0.

    Returns:
        −label·ln σ(z) − (1 − label)·ln σ(−z) with z = β·(policy_margin − reference_margin).
    """
    z = beta * (policy_margin - reference_margin)
    return label * jax.nn.softplus(-z) + (1 - jnp.asarray(label)) * jax.nn.softplus(z)
