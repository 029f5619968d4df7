"""Floating-point operations: counted in a program's jaxpr, and computed from the model's sizes."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from jax.interpreters.partial_eval import dce_jaxpr

from cann_jax.config.run import RunConfig
from cann_jax.models.config import DecoderConfig
from cann_jax.models.flops import Row, layer_parameters, training_flops


def program_flops(jaxpr: Any) -> float:
    """Return the operations of all matrix products that a jaxpr runs on all devices.

    Loops and recomputation are included. Unused results are left out, as in XLA, for example the gradient of
    frozen weights. A loop that may end early counts as often as its condition allows; the body of a kernel
    counts once for each point of its grid.
    """
    read, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)
    return _flops(read)


def _flops(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general":
            total += _product_flops(equation)
        total += _times(name, parameters) * sum(_flops(inner) for inner in _inside(parameters))
    return total


def _times(name: str, parameters: dict[str, Any]) -> int:
    """Return how often the jaxprs inside an equation run, on all devices."""
    if name == "pallas_call":
        return math.prod(map(int, parameters["grid_mapping"].grid))
    if name == "shard_map":
        return int(parameters["mesh"].size)
    if name == "while":
        return _limit(parameters["cond_jaxpr"].jaxpr)
    return int(parameters.get("length", 1))


def _limit(condition: Any) -> int:
    """Return the largest constant that a loop's condition compares with; 1 if there is none."""
    operands = [each for equation in condition.eqns for each in equation.invars]
    literals: list[Any] = [each for each in operands if isinstance(each, Literal)]
    return max((int(x.val) for x in literals if jnp.issubdtype(x.aval.dtype, jnp.integer)), default=1)


def _inside(parameters: dict[str, Any]) -> list[Any]:
    """Return the jaxprs among an equation's parameters, those of all branches included."""

    def is_jaxpr(value: Any) -> bool:
        return hasattr(value, "eqns") or hasattr(value, "jaxpr")

    leaves = jax.tree.leaves(list(parameters.values()), is_leaf=is_jaxpr)
    return [getattr(leaf, "jaxpr", leaf) for leaf in leaves if is_jaxpr(leaf)]


def _product_flops(equation: Any) -> float:
    (contracting, _), _ = equation.params["dimension_numbers"]
    left, result = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return 2.0 * math.prod(map(int, result)) * math.prod(int(left[axis]) for axis in contracting)


def model_flops(config: RunConfig, shape: DecoderConfig, width: int) -> float:
    """Return the model operations of a training step with prompts of ``width`` and the longest responses."""
    align, response = config.align, config.sample.max_new_tokens
    predicted = align.group_size * response
    size = Row(width + predicted, predicted)
    return align.prompts_per_step * training_flops(shape, size, all_weights=align.lora is None)


def step_flops(config: RunConfig, shape: DecoderConfig, width: int) -> float:
    """Return what a training step really computes, recomputation included; a check of ``program_flops``.

    The backward pass takes one product per matrix with adapters, two for all weights. The layers' forward
    pass runs again in it, except for its last product, whose result only the next layer reads; attention once
    more inside that (``attend`` has a checkpoint of its own), and the chunks of the head once more.
    """
    align, response = config.align, config.sample.max_new_tokens
    predicted = align.group_size * response
    length, sequences = width + predicted, align.prompts_per_step
    passes = 3 if align.lora is not None else 4
    matrices = 2 * length * (passes * layer_parameters(shape) - shape.hidden * shape.intermediate)
    attention = 5 * 4 * length**2 * shape.heads * shape.head_dim
    head = 2 * shape.vocabulary * shape.hidden * predicted * passes
    return sequences * (shape.layers * (matrices + attention) + head)
