"""The objectives of preference optimization, the same for every source of labels."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from cann_jax.config.training import Loss
from cann_jax.core.losses import dpo_loss, ipo_loss, listwise_loss, regression_loss
from cann_jax.models.logprobs import response_logps
from cann_jax.models.packing import Room
from cann_jax.training.step import Objective


class PreferenceBatch(NamedTuple):
    """Groups of R responses to one prompt.

    Args:
        prompts: (B, P) ids, padded on the right.
        prompt_lengths: (B,).
        responses: (B, R, T) ids, padded on the right, end token included.
        response_lengths: (B, R).
        reference_logps: (B, R) log π_ref(y|x), nats.
        labels: (B, R, R), P(i ≻ j) at [b, i, j]; read where i < j.
        rewards: (B, R) r_λ; read by the regression and the listwise loss.
        room: As ``response_logps``.
        safe: (B, R) 1 safe, 0 unsafe, where the safe one of two is preferred (SafeDPO).
    """

    prompts: jax.Array
    prompt_lengths: jax.Array
    responses: jax.Array
    response_lengths: jax.Array
    reference_logps: jax.Array
    labels: jax.Array
    rewards: jax.Array
    room: Room | None = None
    safe: jax.Array | None = None


@dataclass(frozen=True)
class PreferenceObjective(Objective[PreferenceBatch]):
    """A loss on the log-probs of groups of responses.

    Args:
        loss: ``dpo`` and ``ipo`` fit the margins of all pairs to their labels, ``regression`` to differences
            of r_λ; ``listwise`` fits the log-ratios of all responses of a group to r_λ.
        beta: β of the loss.
        chunks: Chunks of the vocabulary.
        safety_offset: Δ of SafeDPO, in batches that say what is safe.
    """

    loss: Loss
    beta: float
    chunks: int
    safety_offset: float = 0.0

    def outputs(self, weights: Any, frozen: Any, batch: PreferenceBatch, key: jax.Array | None) -> jax.Array:
        """Return the log-probs (B, R) of the responses."""
        model = nnx.merge(self.graph, weights, frozen)
        arrays = (batch.prompts, batch.prompt_lengths, batch.responses, batch.response_lengths)
        return response_logps(
            model, *arrays, chunks=self.chunks, key=key, rematerialise=self.rematerialise, room=batch.room
        )

    def losses(self, outputs: jax.Array, batch: PreferenceBatch) -> jax.Array:
        """Return the losses (B,) of the groups if listwise, else (B, R, R), zero where (i, j) is no pair."""
        if self.loss == "listwise":
            return listwise_loss(outputs - batch.reference_logps, batch.rewards, self.beta)
        margins, reference = _margins(outputs), _margins(batch.reference_logps)
        if self.loss == "regression":
            losses = regression_loss(margins, reference, _margins(batch.rewards), self.beta)
        elif self.loss == "ipo":
            losses = ipo_loss(margins, reference, batch.labels, self.beta)
        else:
            offset = 0.0 if batch.safe is None else self.safety_offset * _margins(batch.safe)
            losses = dpo_loss(margins, reference, batch.labels, self.beta, offset)
        return jnp.where(_is_pair(batch), losses, 0)

    def terms(self, batch: PreferenceBatch) -> int:
        """Return the number of groups B if listwise, else of pairs, B·R·(R − 1)/2."""
        size, count = batch.labels.shape[:2]
        return size if self.loss == "listwise" else size * count * (count - 1) // 2

    def measures(self, outputs: jax.Array, batch: PreferenceBatch) -> dict[str, jax.Array]:
        """Return accuracy, margins, log-probs and lengths; docs/metrics.md says what each should do."""
        ratio = outputs - batch.reference_logps
        pair = jnp.broadcast_to(_is_pair(batch), batch.labels.shape)
        # Each pair in the order of its label, so that a margin above zero is a preference learnt.
        learnt = self.beta * _margins(ratio) * jnp.where(batch.labels >= 0.5, 1, -1)
        margins = jnp.where(pair, learnt, jnp.nan)
        better = jnp.sum(jnp.where(batch.labels > 0.5, 1.0, 0.0), axis=-1) > (batch.labels.shape[-1] - 1) / 2
        lengths = batch.response_lengths
        return {
            "accuracy": jnp.nanmean(jnp.where(pair, learnt > 0, jnp.nan)),
            "margin_mean": jnp.nanmean(margins),
            "margin_p10": jnp.nanquantile(margins, 0.1),
            "margin_p90": jnp.nanquantile(margins, 0.9),
            "saturated": jnp.nanmean(jnp.where(pair, jnp.abs(margins) > 4, jnp.nan)),
            "logp_better": jnp.mean(outputs, where=better),
            "logp_worse": jnp.mean(outputs, where=~better),
            "logp_better_per_token": jnp.mean(outputs / lengths, where=better),
            "logp_worse_per_token": jnp.mean(outputs / lengths, where=~better),
            "log_ratio": jnp.mean(ratio),
            "response_tokens": jnp.mean(lengths),
            "tokens": jnp.sum(batch.prompt_lengths) + jnp.sum(lengths),
        }


def _margins(values: jax.Array) -> jax.Array:
    """Return (B, R, R) the value of the first less that of the second."""
    return values[:, :, None] - values[:, None, :]


def _is_pair(batch: PreferenceBatch) -> jax.Array:
    """Return which (i, j) are pairs: i before j, and not both unsafe."""
    count = batch.labels.shape[-1]
    before = jnp.arange(count)[:, None] < jnp.arange(count)
    if batch.safe is None:
        return before
    return before & ((batch.safe[:, :, None] > 0) | (batch.safe[:, None, :] > 0))
