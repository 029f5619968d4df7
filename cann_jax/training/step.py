"""One sharded training step over a batch in micro-batches, whatever the objective."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from cann_jax.runtime.memory import checked
from cann_jax.runtime.placement import place
from cann_jax.runtime.sharding import constrain, constrain_parameters, partition

Batch = TypeVar("Batch")


class TrainState(NamedTuple):
    """What training changes: the number of finished steps, the trained weights and the optimizer's state."""

    step: jax.Array
    weights: Any
    optimizer: Any


@dataclass(frozen=True)
class Objective(ABC, Generic[Batch]):
    """What a training minimizes, and how; static under jit.

    Args:
        graph: Graph of the split decoder.
        optimizer: From ``training.optimizer``.
        rematerialise: As ``Decoder.forward``.
        accumulation: Micro-batches in a step.
    """

    graph: Any
    optimizer: optax.GradientTransformation
    rematerialise: str | None
    accumulation: int

    @abstractmethod
    def outputs(self, weights: Any, frozen: Any, batch: Batch, key: jax.Array | None) -> jax.Array:
        """Return what the model computes for each response (B, R): its log-prob or its score.

        ``key`` is that of the dropout; None for none.
        """

    @abstractmethod
    def losses(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Return the terms of the loss; the sum of the array is the summed loss of the batch."""

    @abstractmethod
    def terms(self, batch: Batch) -> int:
        """Return the number of terms that the loss of a batch is the mean of."""

    @abstractmethod
    def measures(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Return the scalars to log beside loss and gradient norm."""


def start(objective: Objective[Any], weights: Any) -> TrainState:
    """Return the state before the first step."""
    fresh = jax.jit(lambda weights: constrain_parameters(objective.optimizer.init(weights)))(weights)
    return TrainState(place(jnp.int32(0), partition(())), weights, fresh)


@checked
@partial(jax.jit, static_argnames="objective", donate_argnames="state")
def train_step(
    objective: Objective[Batch], state: TrainState, frozen: Any, batch: Batch, seed: jax.Array
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Take one optimizer step.

    Losses and gradients are summed over terms and divided once by their number, so that accumulation changes
    memory and nothing else. The dropout key is a function of (seed, step, micro-batch).

    The state is donated; ``batch`` has a leading axis divisible by ``objective.accumulation``.

    Returns:
        The next state, and float32 scalars: loss, gradient norm and ``objective.measures``.
    """

    def summed_loss(weights: Any, part: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs = objective.outputs(weights, frozen, part, key)
        return jnp.sum(objective.losses(outputs, part)), outputs

    differentiate = jax.value_and_grad(summed_loss, has_aux=True)

    def add(total: Any, inputs: tuple[Batch, jax.Array]) -> tuple[Any, jax.Array]:
        (loss, outputs), gradient = differentiate(state.weights, *inputs)
        return jax.tree.map(jnp.add, total, (loss, constrain_parameters(gradient))), outputs

    keys = jax.random.split(jax.random.fold_in(seed, state.step), objective.accumulation)
    zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, state.weights))
    total, outputs = jax.lax.scan(add, zero, (_micro_batches(batch, objective.accumulation), keys))
    loss, gradient = jax.tree.map(lambda x: x / objective.terms(batch), total)
    updates, optimizer = objective.optimizer.update(gradient, state.optimizer, state.weights)
    weights = optax.apply_updates(state.weights, updates)
    measured = {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}
    measured |= objective.measures(_whole(outputs), batch)
    return constrain_parameters(TrainState(state.step + 1, weights, optimizer)), measured


@checked
@partial(jax.jit, static_argnames="objective")
def forward(objective: Objective[Batch], weights: Any, frozen: Any, batch: Batch) -> jax.Array:
    """Return the outputs (B, R) of a batch as ``train_step`` computes them, but without dropout."""
    parts = _micro_batches(batch, objective.accumulation)
    return _whole(jax.lax.map(lambda part: objective.outputs(weights, frozen, part, None), parts))


def _micro_batches(batch: Batch, accumulation: int) -> Batch:
    """Split a batch into (accumulation, B / accumulation, …).

    Row i goes to micro-batch i mod ``accumulation``, so that the rows of each device stay where they are; in
    order, a micro-batch would lie on one device.
    """

    def split(x: jax.Array) -> jax.Array:
        parts = jnp.swapaxes(x.reshape(-1, accumulation, *x.shape[1:]), 0, 1)
        return constrain(parts, "any", "batch", *("any",) * (x.ndim - 1))

    parts: Batch = jax.tree.map(split, batch)
    return parts


def _whole(parts: jax.Array) -> jax.Array:
    """Return results by micro-batch in the order of the batch."""
    return jnp.swapaxes(parts, 0, 1).reshape(-1, *parts.shape[2:])
