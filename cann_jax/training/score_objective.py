"""One training step of a reward or cost model."""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from cann_jax.core.losses import bradley_terry_loss, cost_loss
from cann_jax.models.logprobs import response_ends
from cann_jax.training.step import TrainState, micro_batches, optimizer_step, whole


class ScoreBatch(NamedTuple):
    """Pairs of responses with what people said of them.

    Args:
        prompts: (B, P) ids, padded on the right.
        prompt_lengths: (B,).
        responses: (B, 2, T) ids, padded on the right, end token included.
        response_lengths: (B, 2).
        preferred: (B,) 0 or 1: the better response of a reward model, the safer one of a cost model.
        safe: (B, 2) 1, 0 or -1; read by the cost loss alone.
    """

    prompts: jax.Array
    prompt_lengths: jax.Array
    responses: jax.Array
    response_lengths: jax.Array
    preferred: jax.Array
    safe: jax.Array


class ScoreSpec(NamedTuple):
    """What is fixed while training; static under jit.

    Args:
        graph: Graph of the split decoder.
        optimizer: From ``training.optimizer``.
        objective: ``reward`` (larger is better) or ``cost`` (larger is more harmful).
        regularization: Weight of the mean squared score, which pins the free constant.
        rematerialise: As ``Decoder.hidden_states``.
        accumulation: Micro-batches a step.
    """

    graph: Any
    optimizer: optax.GradientTransformation
    objective: Literal["reward", "cost"]
    regularization: float
    rematerialise: str | None
    accumulation: int


class ScoreWeights(NamedTuple):
    """What is trained: weights of the decoder, and the head, score = state · head."""

    decoder: Any
    head: jax.Array


@partial(jax.jit, static_argnames="spec", donate_argnames="state")
def score_step(
    spec: ScoreSpec, state: TrainState, frozen, batch: ScoreBatch, seed
) -> tuple[TrainState, dict]:
    """One optimizer step; see ``optimizer_step``.

    Returns:
        The next state, and float32 scalars: loss, gradient norm, accuracy, mean difference of the scores in
        the direction of the label, mean and spread of the scores.
    """

    def summed_loss(weights, part, key):
        scores = _scores(spec, weights, frozen, part, key)
        return jnp.sum(_losses(spec, scores, part)), scores

    pairs = batch.preferred.shape[0]
    state, measured, scores = optimizer_step(
        summed_loss, spec.optimizer, state, batch, pairs, spec.accumulation, seed
    )
    scores = whole(scores)
    learnt = _learnt(spec, scores, batch.preferred)
    measured |= {
        "accuracy": jnp.mean(learnt > 0),
        "difference": jnp.mean(learnt),
        "score_mean": jnp.mean(scores),
        "score_spread": jnp.std(scores),
    }
    return state, measured


@partial(jax.jit, static_argnames="spec")
def scores_of(spec: ScoreSpec, weights: ScoreWeights, frozen, batch: ScoreBatch) -> jax.Array:
    """(B, 2) scores of a batch, without dropout."""
    micro = micro_batches(batch, spec.accumulation)
    scores = jax.lax.map(lambda part: _scores(spec, weights, frozen, part, None), micro)
    return whole(scores)


def _scores(spec: ScoreSpec, weights: ScoreWeights, frozen, batch: ScoreBatch, key) -> jax.Array:
    model = nnx.merge(spec.graph, weights.decoder, frozen)
    arrays = (batch.prompts, batch.prompt_lengths, batch.responses, batch.response_lengths)
    return response_ends(model, *arrays, key=key, rematerialise=spec.rematerialise) @ weights.head


def _losses(spec: ScoreSpec, scores: jax.Array, batch: ScoreBatch) -> jax.Array:
    if spec.objective == "cost":
        losses = cost_loss(scores, batch.preferred, batch.safe)
    else:
        losses = bradley_terry_loss(scores[:, 0] - scores[:, 1], 1 - batch.preferred)
    return losses + spec.regularization * jnp.mean(scores**2, axis=-1)


def _learnt(spec: ScoreSpec, scores: jax.Array, preferred: jax.Array) -> jax.Array:
    """(B,) difference of the scores in the direction of the label: above zero is a pair that was learnt."""
    toward_first = jnp.where(preferred == 0, 1, -1) * (-1 if spec.objective == "cost" else 1)
    return toward_first * (scores[:, 0] - scores[:, 1])
