"""The objective of a reward or cost model."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cann_jax.core.losses import bradley_terry_loss, cost_loss
from cann_jax.models.logprobs import response_ends
from cann_jax.models.packing import Room
from cann_jax.training.step import Objective

Array = TypeVar("Array", jax.Array, np.ndarray)


class ScoreBatch(NamedTuple):
    """Pairs of responses with human labels.

    Args:
        prompts: (B, P) ids, padded on the right.
        prompt_lengths: (B,).
        responses: (B, 2, T) ids, padded on the right, end token included.
        response_lengths: (B, 2).
        preferred: (B,) 0 or 1: the better response of a reward model, the safer one of a cost model.
        safe: (B, 2) 1, 0 or -1 where unknown; read by the cost loss alone.
        room: As ``response_ends``.
    """

    prompts: jax.Array
    prompt_lengths: jax.Array
    responses: jax.Array
    response_lengths: jax.Array
    preferred: jax.Array
    safe: jax.Array
    room: Room | None = None


class ScoreWeights(NamedTuple):
    """What is trained: weights of the decoder, and the head, score = state · head."""

    decoder: Any
    head: jax.Array


@dataclass(frozen=True)
class ScoreObjective(Objective[ScoreBatch]):
    """The loss of a score on pairs.

    Args:
        kind: ``reward`` (larger is better) or ``cost`` (larger is more harmful).
        regularization: Weight of the mean squared score, which fixes the free additive constant.
    """

    kind: Literal["reward", "cost"]
    regularization: float

    def outputs(
        self, weights: ScoreWeights, frozen: Any, batch: ScoreBatch, key: jax.Array | None
    ) -> jax.Array:
        """Return the scores (B, 2) of the responses."""
        model = nnx.merge(self.graph, weights.decoder, frozen)
        arrays = (batch.prompts, batch.prompt_lengths, batch.responses, batch.response_lengths)
        ends = response_ends(model, *arrays, key=key, rematerialise=self.rematerialise, room=batch.room)
        return ends @ weights.head

    def losses(self, outputs: jax.Array, batch: ScoreBatch) -> jax.Array:
        """Return the losses (B,), regularization included."""
        if self.kind == "cost":
            losses = cost_loss(outputs, batch.preferred, batch.safe)
        else:
            losses = bradley_terry_loss(outputs[:, 0] - outputs[:, 1], 1 - batch.preferred)
        return losses + self.regularization * jnp.mean(outputs**2, axis=-1)

    def terms(self, batch: ScoreBatch) -> int:
        """Return B: a term is the loss of a pair."""
        return batch.preferred.shape[0]

    def measures(self, outputs: jax.Array, batch: ScoreBatch) -> dict[str, jax.Array]:
        """Return accuracy, mean difference in the direction of the label, mean and spread of the scores."""
        learnt = learnt_differences(outputs, batch.preferred, self.kind)
        return {
            "accuracy": jnp.mean(learnt > 0),
            "difference": jnp.mean(learnt),
            "score_mean": jnp.mean(outputs),
            "score_spread": jnp.std(outputs),
            "tokens": jnp.sum(batch.prompt_lengths) + jnp.sum(batch.response_lengths),
        }


def learnt_differences(scores: Array, preferred: Array, kind: str) -> Array:
    """Return the differences of scores (n, 2) in the direction of the label; above zero, a pair is learnt.

    A ``reward`` is to be larger for the response ``preferred`` (n,), 0 or 1, and a ``cost`` smaller.
    """
    toward_first = (1 - 2 * preferred) * (-1 if kind == "cost" else 1)
    learnt: Array = toward_first * (scores[:, 0] - scores[:, 1])
    return learnt
