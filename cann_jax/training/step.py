"""One optimizer step over a batch in micro-batches, whatever the loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cann_jax.runtime.placement import place
from cann_jax.runtime.sharding import constrain, constrain_parameters, partition


class TrainState(NamedTuple):
    """What training changes: the step number, the trained weights and the optimizer's state."""

    step: jax.Array
    weights: Any
    optimizer: Any


def start(spec, weights) -> TrainState:
    """The state before the first step of a ``Spec`` or ``ScoreSpec``."""
    fresh = jax.jit(lambda weights: constrain_parameters(spec.optimizer.init(weights)))(weights)
    return TrainState(place(jnp.int32(0), partition(())), weights, fresh)


def micro_batches(batch, accumulation: int):
    """The batch as (accumulation, B / accumulation, …): row i goes to micro-batch i mod ``accumulation``, so
    that each device's rows stay where they are; in order, a micro-batch would lie on one device."""

    def split(x: jax.Array) -> jax.Array:
        parts = jnp.swapaxes(x.reshape(-1, accumulation, *x.shape[1:]), 0, 1)
        return constrain(parts, "any", "batch", *("any",) * (x.ndim - 1))

    return jax.tree.map(split, batch)


def whole(parts: jax.Array) -> jax.Array:
    """Rows in the order of the batch, from results by micro-batch."""
    return jnp.swapaxes(parts, 0, 1).reshape(-1, *parts.shape[2:])


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
        gradient = constrain_parameters(gradient)
        return jax.tree.map(jnp.add, total, (loss, gradient)), other

    zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, state.weights))
    total, other = jax.lax.scan(body, zero, (micro_batches(batch, accumulation), keys))
    loss, gradient = jax.tree.map(lambda x: x / pairs, total)
    updates, opt_state = optimizer.update(gradient, state.optimizer, state.weights)
    weights = optax.apply_updates(state.weights, updates)
    measured = {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}
    return constrain_parameters(TrainState(state.step + 1, weights, opt_state)), measured, other
