"""The dual function as the solvers see it: value, gradient and Hessian in closed form, summed over parts.

The dual function is D(λ) = β·E_x[ln E_{y~π_ref} exp((r + ⟨λ, h⟩)/β)] with h_j = g_j − E_ref[g_j] − b_j
(paper, section 3). Solvers minimise it in standard units, with multipliers as tilts θ_j = λ_j·s_j/β, so that
one tolerance suits every table, and float32 spends its digits on differences between responses, the only
thing that the weights depend on:

    F(θ) = Σ_x p_x·logsumexp_k(reward/β + θ·features) + θ·drift

F, its derivatives and the statistics of π_θ are sums over prompts. Whether the prompts lie in one table, in
blocks of one or in chunks of a file, one function is summed over the parts (``Total``).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cann_jax.core.arrays import Array, accurate_sum
from cann_jax.core.compilation import jit
from cann_jax.core.survey import Constants, table_constants
from cann_jax.core.table import Table, best_mean, mix_features

EXACT = jax.lax.Precision.HIGHEST  # accelerators would round the products to bfloat16 or TF32
Total = Callable[..., Any]  # total(function, *arguments) sums function(part, *arguments) over the parts


class Evaluation(NamedTuple):
    """F, its gradient ``(m,)`` and its Hessian ``(m, m)`` at one tilt."""

    value: Array
    gradient: Array
    hessian: Array


class Statistics(NamedTuple):
    """What π_θ is predicted to do on the sample.

    Attributes:
        value: F.
        gradient: ``(m,)``, ∇F.
        reward: E r, centred.
        kl: KL(π_θ ‖ π_ref) in nats.
        effective_sample_size: Mean over prompts of 1/Σw².
        room: φ(w) − ⟨w, b⟩ in units of the spread, at w = ``direction(θ)``.
    """

    value: Array
    gradient: Array
    reward: Array
    kl: Array
    effective_sample_size: Array
    room: Array


@dataclasses.dataclass(frozen=True)
class Objective:
    """F on all parts of a table.

    Attributes:
        constants: The constants of the whole table.
        total: Sums over its parts.
        loop: ``jax.lax.while_loop``, or its like on the host where the parts do not fit into memory.
    """

    constants: Constants
    total: Total
    loop: Callable[..., Any] = jax.lax.while_loop

    def evaluate(self, tilt: Array) -> Evaluation:
        """Return value, gradient and Hessian at θ ``(m,)``, in one pass over the parts."""
        seen: Evaluation = self.total(evaluate, self.constants.beta, tilt)
        return seen._replace(**self._with_drift(seen, tilt))

    def describe(self, tilt: Array) -> Statistics:
        """Return the statistics of π_θ at θ ``(m,)``, in one pass over the parts."""
        seen: Statistics = self.total(describe, self.constants.beta, tilt)
        room = seen.room + jnp.dot(direction(tilt), self.constants.drift)
        return seen._replace(room=room, **self._with_drift(seen, tilt))

    def _with_drift(self, seen: Evaluation | Statistics, tilt: Array) -> dict[str, Array]:
        drift = self.constants.drift
        return {"value": seen.value + jnp.dot(tilt, drift), "gradient": seen.gradient + drift}


def table_objective(table: Table, margins: Array, beta: Array) -> Objective:
    """Return F on a table in memory, its only part."""
    constants = table_constants(table, margins, beta)
    return Objective(constants, lambda function, *arguments: function(table, *arguments))


def direction(tilt: Array) -> Array:
    """Return w = θ/Σθ ``(m,)``; for m = 1 it is 1, even at θ = 0."""
    if tilt.shape[0] == 1:
        return jnp.ones_like(tilt)
    total = jnp.sum(tilt)
    return jnp.where(total > 0, tilt / jnp.where(total > 0, total, 1), 0)


@jax.custom_jvp
def tilted_logits(table: Table, beta: Array, tilt: Array) -> Array:
    """Return (r + ⟨λ, g⟩)/β ``(prompts, responses)`` up to a constant in each prompt."""
    return _logits(table, beta, tilt)


def _logits(table: Table, beta: Array, tilt: Array) -> Array:
    # an unrolled sum fuses into one streaming pass, which a contraction over m does not; β divides last,
    # as in a solver's loop XLA would keep reward/β as an array of its own
    logits = table.reward
    for j in range(table.features.shape[0]):
        logits = logits + (tilt[j] * beta) * table.features[j]
    return logits / beta


@tilted_logits.defjvp
def _tilted_logits_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    """Leave missing responses out: their logits are −∞, whose derivatives would be 0·∞."""
    table, *others = primals
    present = jnp.isfinite(table.reward)
    finite = dataclasses.replace(table, reward=jnp.where(present, table.reward, 0))
    _, moved = jax.jvp(_logits, (finite, *others), tangents)
    return tilted_logits(*primals), jnp.where(present, moved, 0)


def evaluate(part: Table, beta: Array, tilt: Array) -> Evaluation:
    """Return a part's share of F without its drift, of ∇F and of ∇²F.

    They are computed together because they share the exponentials, which take most of the time.
    """
    _, mass, total, log_total = _tilted_mass(part, beta, tilt)
    means = feature_sums(part, mass) / total
    value, gradient = accurate_sum(log_total * part.weights), accurate_sum(means * part.weights)
    return Evaluation(value, gradient, _covariance(part, mass, total, means))


@jit()
def per_prompt(part: Table, beta: Array, tilt: Array) -> tuple[Array, Array, Array]:
    """Return each prompt's own ∇F ``(m, prompts)`` without drift, ∇²F ``(m, m, prompts)`` and room.

    The room is max_k ⟨w, features⟩ at w = ``direction(θ)``.
    """
    _, mass, total, _ = _tilted_mass(part, beta, tilt)
    means = feature_sums(part, mass) / total
    second = jnp.stack([feature_sums(part, mass * feature) for feature in part.features]) / total
    best = jnp.max(mix_features(part, direction(tilt)), axis=-1)
    return means, second - means[:, None] * means, best


def describe(part: Table, beta: Array, tilt: Array) -> Statistics:
    """Return a part's share of the statistics of π_θ, without drift."""
    logits, mass, total, log_total = _tilted_mass(part, beta, tilt)
    finite = jnp.maximum(logits, np.finfo(logits.dtype).min)  # no response: 0 · −inf must be 0
    *shifts, logit, square = _response_sums(mass, [*part.features, finite, mass])
    shift = accurate_sum(jnp.stack(shifts) / total * part.weights)
    expected = accurate_sum(logit / total * part.weights)
    return Statistics(
        value=accurate_sum(log_total * part.weights),
        gradient=shift,
        reward=beta * (expected - jnp.dot(tilt, shift)),
        kl=accurate_sum((logit / total - log_total + part.prompt_log_counts) * part.weights),
        effective_sample_size=accurate_sum(total**2 / square * part.weights),
        room=best_mean(part, direction(tilt)),
    )


def feature_sums(table: Table, mass: Array) -> Array:
    """Return Σ_k mass·features, ``(m, prompts)``."""
    return jnp.stack(_response_sums(mass, list(table.features)))


def _response_sums(mass: Array, factors: list[Array]) -> list[Array]:
    """Return Σ_k mass·factor ``(prompts,)`` for each factor.

    XLA on CPUs fuses two or three such sums into one quick pass, but drops to a scalar loop beyond, as it
    does for a sum over (m, prompts, responses): five to ten times slower. So they go in pairs, and adding
    zero times the last sum of a pair keeps the next pair out of its fusion.
    """
    sums: list[Array] = []
    for i, factor in enumerate(factors):
        if i and i % 2 == 0:
            mass = mass + 0 * sums[-1][:, None]
        sums.append(jnp.sum(mass * factor, axis=-1))
    return sums


def _tilted_mass(table: Table, beta: Array, tilt: Array) -> tuple[Array, Array, Array, Array]:
    """Return the logits, their exponentials over the prompt's peak, and the sum and log-sum of these."""
    logits = tilted_logits(table, beta, tilt)
    peak = jnp.max(logits, axis=-1)
    mass = jnp.exp(logits - peak[:, None])
    total = jnp.sum(mass, axis=-1)
    return logits, mass, total, peak + jnp.log(total)


def _covariance(table: Table, mass: Array, total: Array, means: Array) -> Array:
    """Return E_x Cov_{π_θ}(features), ``(m, m)``."""
    features, weights = table.features, table.weights
    if features.shape[0] == 1:
        # not mass · features², which XLA would keep as an array of its own
        second = jnp.sum(mass * features[0] * features[0], axis=-1) / total - means[0] ** 2
        return jnp.maximum(accurate_sum(second * weights), 0)[None, None]
    # one plain product of flat matrices: four times quicker than contracting two axes at once
    weighted = (features * (mass * (weights / total)[:, None])).reshape(features.shape[0], -1)
    second = jnp.matmul(weighted, features.reshape(features.shape[0], -1).T, precision=EXACT)
    return second - jnp.matmul(means * weights, means.T, precision=EXACT)


def natural_residual(tilt: Array, gradient: Array) -> Array:
    """Return max_j |min(θ_j, ∂_jF)|, zero exactly at a KKT point of min F over θ ≥ 0.

    Written as a minimum: in θ − [θ − ∇F]₊ a large θ swallows the gradient, and false convergence follows.
    """
    return jnp.max(jnp.abs(jnp.minimum(tilt, gradient)))
