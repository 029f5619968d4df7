"""One preference-optimisation step, the same for every source of labels."""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from cann_jax.core.losses import dpo_loss, ipo_loss, regression_loss
from cann_jax.models.logprobs import response_logps
from cann_jax.training.step import TrainState, micro_batches, optimizer_step, whole


class PreferenceBatch(NamedTuple):
    """Groups of R responses to one prompt; every pair of a group is a preference.

    Args:
        prompts: (B, P) ids, padded on the right.
        prompt_lengths: (B,).
        responses: (B, R, T) ids, padded on the right, end token included.
        response_lengths: (B, R).
        reference_logps: (B, R) log π_ref(y|x), nats.
        labels: (B, R, R), P(i ≻ j) at [b, i, j]; read where i < j.
        rewards: (B, R) r_λ; read by the regression alone.
    """

    prompts: jax.Array
    prompt_lengths: jax.Array
    responses: jax.Array
    response_lengths: jax.Array
    reference_logps: jax.Array
    labels: jax.Array
    rewards: jax.Array


class Spec(NamedTuple):
    """What is fixed while training; static under jit.

    Args:
        graph: Graph of the split decoder.
        optimizer: From ``training.optimizer``.
        loss: ``dpo``, ``ipo`` or ``regression``.
        beta: β of the loss.
        chunks: Parts of the vocabulary.
        rematerialise: As ``Decoder.hidden_states``.
        accumulation: Micro-batches a step.
    """

    graph: Any
    optimizer: optax.GradientTransformation
    loss: Literal["dpo", "ipo", "regression"]
    beta: float
    chunks: int
    rematerialise: str | None
    accumulation: int


@partial(jax.jit, static_argnames="spec", donate_argnames="state")
def train_step(
    spec: Spec, state: TrainState, frozen, batch: PreferenceBatch, seed
) -> tuple[TrainState, dict]:
    """One optimizer step; see ``optimizer_step``.

    Args:
        spec: What is fixed.
        state: Donated.
        frozen: Weights that are not trained.
        batch: B divisible by ``spec.accumulation``.
        seed: Key of the run's training.

    Returns:
        The next state, and float32 scalars: loss, gradient norm, and those of ``_measures``.
    """

    def summed_loss(weights, part, key):
        return _summed_loss(spec, weights, frozen, part, key)

    state, metrics, logps = optimizer_step(
        summed_loss, spec.optimizer, state, batch, _pair_count(batch), spec.accumulation, seed
    )
    metrics |= _measures(batch, whole(logps), spec.beta)
    return state, metrics


@partial(jax.jit, static_argnames="spec")
def reference_step(spec: Spec, weights, frozen, batch: PreferenceBatch) -> jax.Array:
    """(B, R) log-probs of a batch as ``train_step`` computes them, but without dropout."""
    micro = micro_batches(batch, spec.accumulation)
    logps = jax.lax.map(lambda part: _logps(spec, weights, frozen, part, None), micro)
    return whole(logps)


def _logps(spec: Spec, weights, frozen, batch: PreferenceBatch, key):
    model = nnx.merge(spec.graph, weights, frozen)
    arrays = (batch.prompts, batch.prompt_lengths, batch.responses, batch.response_lengths)
    return response_logps(model, *arrays, chunks=spec.chunks, key=key, rematerialise=spec.rematerialise)


def _summed_loss(spec: Spec, weights, frozen, batch: PreferenceBatch, key):
    logps = _logps(spec, weights, frozen, batch, key)
    loss, target = _LOSSES[spec.loss]
    losses = loss(_margins(logps), _margins(batch.reference_logps), target(batch), spec.beta)
    return jnp.sum(jnp.where(_is_pair(batch), losses, 0)), logps


def _labels(batch: PreferenceBatch) -> jax.Array:
    return batch.labels


def _differences(batch: PreferenceBatch) -> jax.Array:
    return _margins(batch.rewards)


# Each loss with what it fits the margins to.
_LOSSES = {
    "dpo": (dpo_loss, _labels),
    "ipo": (ipo_loss, _labels),
    "regression": (regression_loss, _differences),
}


def _margins(logps: jax.Array) -> jax.Array:
    """(B, R, R): the value of the first less that of the second."""
    return logps[:, :, None] - logps[:, None, :]


def _is_pair(batch: PreferenceBatch) -> jax.Array:
    count = batch.labels.shape[-1]
    return jnp.arange(count)[:, None] < jnp.arange(count)


def _pair_count(batch: PreferenceBatch) -> int:
    size, count = batch.labels.shape[:2]
    return size * count * (count - 1) // 2


def _measures(batch: PreferenceBatch, logps: jax.Array, beta: float) -> dict[str, jax.Array]:
    """What tells whether a preference run works; see docs/metrics.md for what each should do."""
    ratio = logps - batch.reference_logps
    pair = jnp.broadcast_to(_is_pair(batch), batch.labels.shape)
    # Each pair in the order of its label, so that a margin above zero is a preference learnt.
    learnt = beta * _margins(ratio) * jnp.where(batch.labels >= 0.5, 1, -1)
    margins = jnp.where(pair, learnt, jnp.nan)
    better = jnp.sum(jnp.where(batch.labels > 0.5, 1.0, 0.0), axis=-1) > (batch.labels.shape[-1] - 1) / 2
    lengths = batch.response_lengths
    return {
        "accuracy": jnp.nanmean(jnp.where(pair, learnt > 0, jnp.nan)),
        "margin_mean": jnp.nanmean(margins),
        "margin_p10": jnp.nanquantile(margins, 0.1),
        "margin_p90": jnp.nanquantile(margins, 0.9),
        "saturated": jnp.nanmean(jnp.where(pair, jnp.abs(margins) > 4, jnp.nan)),
        "logp_better": jnp.mean(logps, where=better),
        "logp_worse": jnp.mean(logps, where=~better),
        "logp_better_per_token": jnp.mean(logps / lengths, where=better),
        "logp_worse_per_token": jnp.mean(logps / lengths, where=~better),
        "log_ratio": jnp.mean(ratio),
        "response_tokens": jnp.mean(lengths),
    }
