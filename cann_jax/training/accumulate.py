"""One optimizer step over a batch in micro-batches, whatever the loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class TrainState(NamedTuple):
    """What training changes: the step number, the trained weights and the optimizer's state."""

    step: jax.Array
    weights: Any
    optimizer: Any


def start(spec, weights) -> TrainState:
    """The state before the first step of a ``Spec`` or ``ScoreSpec``."""
    return TrainState(jnp.int32(0), weights, spec.optimizer.init(weights))


def micro_batches(batch, accumulation: int):
    """The batch with a leading axis of ``accumulation``."""
    return jax.tree.map(lambda x: x.reshape(accumulation, -1, *x.shape[1:]), batch)


def optimizer_step(
    summed_loss: Callable, optimizer, state: TrainState, batch, pairs: int, accumulation: int, seed
) -> tuple[TrainState, dict, Any]:
    """Losses and gradients are summed over pairs and divided once by their number, so that accumulation
    changes nothing but memory. The dropout key is a function of (seed, step, micro-batch).

    Args:
        summed_loss: (weights, micro-batch, key) → (loss summed over the micro-batch's pairs, whatever else).
        optimizer: From ``training.optimizer``.
        state: Before the step.
        batch: Its leading axis is divisible by ``accumulation``.
        pairs: In the whole batch.
        accumulation: Micro-batches.
        seed: Key of the run's training.

    Returns:
        The next state; loss and gradient norm, float32; whatever else, with a leading axis of micro-batches.
    """
    keys = jax.random.split(jax.random.fold_in(seed, state.step), accumulation)
    differentiate = jax.value_and_grad(summed_loss, has_aux=True)

    def body(total, inputs):
        (loss, other), gradient = differentiate(state.weights, *inputs)
        return jax.tree.map(jnp.add, total, (loss, gradient)), other

    zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, state.weights))
    total, other = jax.lax.scan(body, zero, (micro_batches(batch, accumulation), keys))
    loss, gradient = jax.tree.map(lambda x: x / pairs, total)
    updates, opt_state = optimizer.update(gradient, state.optimizer, state.weights)
    weights = optax.apply_updates(state.weights, updates)
    measured = {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}
    return TrainState(state.step + 1, weights, opt_state), measured, other
