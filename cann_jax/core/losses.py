"""Losses for preference optimisation and score models: pure functions, a number for each pair or group.

``margin = logp(first) − logp(second)`` in nats, of any shape, and ``label = P(first ≻ second)`` in [0, 1]
everywhere. A label in (0, 1) gives the expected loss of Bernoulli labels drawn from it, without their noise.
"""

import jax
import jax.numpy as jnp

from cann_jax.core.arguments import takes_lists


def bradley_terry_loss(difference: jax.Array, label: jax.Array) -> jax.Array:
    """Return the cross-entropy −label·ln σ(d) − (1 − label)·ln σ(−d) of a difference of scores d, in nats."""
    return label * jax.nn.softplus(-difference) + (1 - jnp.asarray(label)) * jax.nn.softplus(difference)


@takes_lists
def dpo_loss(
    policy_margin: jax.Array,
    reference_margin: jax.Array,
    label: jax.Array,
    beta: float | jax.Array,
    offset: float | jax.Array = 0.0,
) -> jax.Array:
    """Return the DPO loss (Rafailov et al. 2023, eq. 7) under soft labels, in nats.

    It is ``bradley_terry_loss`` at β·(policy_margin − reference_margin) − ``offset``, by which the first of
    two responses must win. SafeDPO (Kim et al. 2025) has Δ·(safe(first) − safe(second)) there.
    """
    return bradley_terry_loss(beta * (policy_margin - reference_margin) - offset, label)


@takes_lists
def ipo_loss(
    policy_margin: jax.Array, reference_margin: jax.Array, label: jax.Array, beta: float | jax.Array
) -> jax.Array:
    """Return the IPO loss (Azar et al. 2024, eq. 17) under soft labels, in nats².

    It is label·(h − 1/(2β))² + (1 − label)·(h + 1/(2β))² with h = policy_margin − reference_margin and β
    their τ; its minimum, a margin of (label − ½)/β, is finite even for a label of 1.
    """
    excess, target = policy_margin - reference_margin, 1 / (2 * beta)
    return label * (excess - target) ** 2 + (1 - jnp.asarray(label)) * (excess + target) ** 2


@takes_lists
def regression_loss(
    policy_margin: jax.Array, reference_margin: jax.Array, difference: jax.Array, beta: float | jax.Array
) -> jax.Array:
    """Return the squared distance, in nats², to the closed form of the optimal policy's margin.

    ln π_λ/π_ref of two responses differs by ``difference``/β, r_λ(first) − r_λ(second) over β: the normaliser
    of π_λ cancels in it (Gao et al. 2024 regress rewards so).
    """
    return (policy_margin - reference_margin - difference / beta) ** 2


@takes_lists
def listwise_loss(log_ratios: jax.Array, rewards: jax.Array, beta: float | jax.Array) -> jax.Array:
    """Return the cross-entropy (…), in nats, of a policy among R responses to one prompt.

    It is −Σ_k w_k ln softmax_k(ℓ) with the targets w = softmax(rewards/β): the policy that tilts π_ref by
    exp(reward/β) minimizes it, whatever its normalizer. Equal log-ratios give ln R.

    Args:
        log_ratios: (…, R) ℓ = log π_θ(y|x) − log π_ref(y|x) of responses drawn from π_ref.
        rewards: (…, R) what the policy is tilted by.
        beta: β of the tilt.
    """
    return -jnp.sum(jax.nn.softmax(rewards / beta) * jax.nn.log_softmax(log_ratios), axis=-1)


@takes_lists
def listwise_floor(rewards: jax.Array, beta: float | jax.Array) -> jax.Array:
    """Return the least ``listwise_loss`` (…) of any policy: the entropy of the targets, in nats."""
    return listwise_loss(rewards / beta, rewards, beta)


def smoothed(label: jax.Array, smoothing: float | jax.Array) -> jax.Array:
    """Return the label for pairs of which a share ``smoothing`` in [0, ½) was labelled the wrong way round.

    Under ``dpo_loss`` this is conservative DPO.
    """
    return label * (1 - 2 * smoothing) + smoothing


def cost_loss(costs: jax.Array, safer: jax.Array, safe: jax.Array) -> jax.Array:
    """Return the loss of Safe-RLHF's cost model (Dai et al. 2024, eq. 6), in nats.

    The pairwise term orders costs, larger is more harmful; the sign terms put zero between safe and unsafe.

    Args:
        costs: (…, 2) C of both responses.
        safer: (…) 0 or 1, the less harmful response.
        safe: (…, 2) 1 safe, 0 unsafe, or -1 unknown; such a response has no sign term.

    Returns:
        (…) −ln σ(C_harmful − C_safer) − Σ ln σ(s·C) with s = +1 for an unsafe response and −1 for a safe one.
    """
    pair = bradley_terry_loss(costs[..., 0] - costs[..., 1], jnp.asarray(safer))
    sign = jnp.where(safe == 1, -1.0, 1.0)
    return pair + jnp.sum(jnp.where(safe >= 0, jax.nn.softplus(-sign * costs), 0.0), axis=-1)
